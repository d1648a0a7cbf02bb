//! Scopes: from a request's headers to the table its route is looked up in.

use crate::message::Head;
use crate::model::{Extract, KeyFragment, RouteId, ScopedRoute};
use foldhash::fast::FixedState;
use smallvec::SmallVec;
use std::collections::HashMap;

/// Tables by key. Never changes once made.
#[derive(Default)]
pub struct Scopes {
    tables: HashMap<Box<[u8]>, RouteId, FixedState>,
}

/// A key in one piece: each part behind its length.
type Key = SmallVec<[u8; 64]>;

impl Scopes {
    /// The scopes of these keys.
    pub fn new(tables: impl Iterator<Item = (Box<[u8]>, RouteId)>) -> Self {
        Scopes { tables: tables.collect() }
    }

    /// The table of the request with this head; `None`: it has no scope.
    pub fn find<H: Head + ?Sized>(&self, fragments: &[KeyFragment], head: &H) -> Option<RouteId> {
        let mut key = Key::new();
        for fragment in fragments {
            let mut value: Option<SmallVec<[u8; 64]>> = None;
            head.each_value(&fragment.header, &mut |found| {
                value.get_or_insert_with(|| found.into());
            });
            add(&mut key, part(fragment, &value?)?);
        }
        self.tables.get(&*key).copied()
    }
}

/// The key that requests of `scope` have.
pub fn key_of(scope: &ScopedRoute) -> Box<[u8]> {
    let mut key = Key::new();
    for part in &scope.key {
        add(&mut key, part.as_bytes());
    }
    key.into_vec().into()
}

fn add(key: &mut Key, part: &[u8]) {
    key.extend_from_slice(&part.len().to_le_bytes());
    key.extend_from_slice(part);
}

/// What `value` says about one part.
fn part<'v>(fragment: &KeyFragment, value: &'v [u8]) -> Option<&'v [u8]> {
    let mut elements = Split { rest: Some(value), separator: fragment.separator.as_bytes() };
    match &fragment.extract {
        Extract::Index(index) => elements.nth(usize::try_from(*index).ok()?),
        Extract::Element { separator, key } => elements.find_map(|element| {
            let mut halves = Split { rest: Some(element), separator: separator.as_bytes() };
            let name = halves.next()?;
            // What has no separator has an empty part.
            (name == key.as_bytes()).then(|| halves.rest.unwrap_or_default())
        }),
    }
}

/// The pieces of a value; all of it where the separator is empty.
struct Split<'v, 's> {
    rest: Option<&'v [u8]>,
    separator: &'s [u8],
}

impl<'v> Iterator for Split<'v, '_> {
    type Item = &'v [u8];

    fn next(&mut self) -> Option<&'v [u8]> {
        let rest = self.rest.take()?;
        let len = self.separator.len();
        let at = (len > 0).then(|| rest.windows(len).position(|window| window == self.separator)).flatten();
        match at {
            Some(at) => {
                self.rest = rest.get(at + len..);
                rest.get(..at)
            }
            None => Some(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ScopeTable;

    fn fragment(separator: &str, extract: Extract) -> KeyFragment {
        KeyFragment { header: "x".into(), separator: separator.into(), extract }
    }

    fn element(separator: &str, key: &str) -> Extract {
        Extract::Element { separator: separator.into(), key: key.into() }
    }

    #[test]
    fn parts_are_taken_by_place_or_by_name() {
        let by = |separator: &str, extract: Extract, value: &'static str| {
            part(&fragment(separator, extract), value.as_bytes())
                .map(|part| String::from_utf8_lossy(part).into_owned())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(by("", Extract::Index(0), "a;b"), some("a;b"));
        assert_eq!(by("", Extract::Index(1), "a;b"), None);
        assert_eq!(by(";", Extract::Index(1), "a;b;c"), some("b"));
        assert_eq!(by(";", Extract::Index(1), "a;;c"), some(""));
        assert_eq!(by(";", Extract::Index(3), "a;b;c"), None);
        assert_eq!(by(";", element("=", "v"), "w=1;v=2=3;v=4"), some("2=3"));
        assert_eq!(by("--", element("=>", "v"), "w=>1--v=>"), some(""));
        assert_eq!(by(";", element("=", "v"), "w;v"), some(""));
        assert_eq!(by(";", element("=", "v"), "vv=1"), None);
    }

    #[test]
    fn keys_whose_parts_are_cut_elsewhere_are_others() {
        let scope = |key: &[&str]| ScopedRoute {
            name: "s".into(),
            key: key.iter().map(ToString::to_string).collect(),
            routes: ScopeTable::Rds("r".into()),
        };
        assert_ne!(key_of(&scope(&["a", "bc"])), key_of(&scope(&["ab", "c"])));
        assert_ne!(key_of(&scope(&["a"])), key_of(&scope(&["a", ""])));
    }
}
