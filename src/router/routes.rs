//! The routes of one virtual host, indexed.
//!
//! Routes are told apart by a path, a prefix, or one header (`service` in bolt). Those with such a condition
//! are found by it; the others are scanned. Candidates are tried in configured order, so the result is that
//! of a plain scan.

use super::RouteSpec;
use super::matcher::{Target, matches};
use super::paths::{Builder, Candidates, Paths};
use crate::message::Head;
use crate::model::{HeaderMatchKind, PathMatch, RouteMatch, StringMatch};
use foldhash::fast::FixedState;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

type Lists = HashMap<Box<[u8]>, Vec<u32>, FixedState>;

/// Fewer routes than this are scanned: a scan costs less than the index.
const INDEX_FROM: usize = 8;
/// More routes than this for one path are told apart by a header, where they name one.
const CROWD: usize = 8;

#[derive(Default)]
pub(super) struct Routes {
    all: Box<[Arc<RouteSpec>]>,
    index: Option<Box<Index>>,
}

struct Index {
    /// Routes by case-sensitive path.
    paths: Paths,
    /// Routes by path, whatever its case: the keys are lower case.
    folded: Paths,
    /// The header most of the other routes name with an exact value, and the routes by that value.
    header: String,
    values: Lists,
    /// Every other route.
    rest: Box<[u32]>,
}

impl Routes {
    pub(super) fn new(all: Vec<Arc<RouteSpec>>) -> Self {
        let index = (all.len() >= INDEX_FROM).then(|| Box::new(Index::new(&all)));
        Routes { all: all.into(), index }
    }

    pub(super) fn all(&self) -> &[Arc<RouteSpec>] {
        &self.all
    }

    /// The first route that matches.
    pub(super) fn find<H: Head + ?Sized>(&self, head: &H, target: &Target<'_>) -> Option<&Arc<RouteSpec>> {
        let Some(index) = &self.index else {
            return self.all.iter().find(|route| matches(route.matcher(), head, target));
        };
        let mut lists = Candidates::new();
        index.candidates(head, target, &mut lists);
        loop {
            // The smallest head of these ascending lists is the next route in configured order.
            let next = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first())?;
            let (number, rest) = next.split_first()?;
            *next = rest;
            let route = self.all.get(*number as usize)?;
            if matches(route.matcher(), head, target) {
                return Some(route);
            }
        }
    }
}

impl Index {
    fn new(all: &[Arc<RouteSpec>]) -> Self {
        let mut crowds: HashMap<(&str, bool), usize, FixedState> = HashMap::default();
        for key in all.iter().filter_map(|route| path_key(route.matcher())) {
            *crowds.entry((key.text, key.is_prefix)).or_default() += 1;
        }
        // Only a path that tells few routes from many is worth a look-up.
        let path_of = |matcher| {
            path_key(matcher)
                .filter(|key| crowds.get(&(key.text, key.is_prefix)).is_none_or(|crowd| *crowd <= CROWD))
        };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for route in all.iter().filter(|route| path_of(route.matcher()).is_none()) {
            for (name, _) in exact_headers(route.matcher()) {
                *counts.entry(name).or_default() += 1;
            }
        }
        let header = counts.iter().max_by_key(|(_, count)| **count).map_or("", |(name, _)| *name).to_owned();
        let (mut paths, mut folded, mut rest) = (Builder::default(), Builder::default(), Vec::new());
        let mut values = Lists::default();
        for (number, route) in (0u32..).zip(all) {
            let matcher = route.matcher();
            let value = || exact_headers(matcher).find(|(name, _)| *name == header);
            if let Some(key) = path_of(matcher) {
                key.add(&mut paths, &mut folded, number);
            } else if let Some((_, value)) = value() {
                values.entry(value.into()).or_default().push(number);
            } else if let Some(key) = path_key(matcher) {
                key.add(&mut paths, &mut folded, number);
            } else {
                rest.push(number);
            }
        }
        Index { paths: paths.build(), folded: folded.build(), header, values, rest: rest.into() }
    }

    fn candidates<'a, H: Head + ?Sized>(&'a self, head: &H, target: &Target<'_>, out: &mut Candidates<'a>) {
        // What has no path belongs to the root.
        let path = target.path.unwrap_or(b"/");
        self.paths.find(path, out);
        if !self.folded.is_empty() {
            let lower: SmallVec<[u8; 128]> = path.iter().map(u8::to_ascii_lowercase).collect();
            self.folded.find(&lower, out);
        }
        if !self.values.is_empty() {
            head.each_value(&self.header, &mut |value| {
                // A value that comes twice would have its routes tried twice, which harms nobody.
                out.extend(self.values.get(value).map(Vec::as_slice));
            });
        }
        if !self.rest.is_empty() {
            out.push(&self.rest);
        }
    }
}

/// The path a route is for.
struct PathKey<'a> {
    text: &'a str,
    is_prefix: bool,
    ignore_case: bool,
}

impl PathKey<'_> {
    fn add(&self, paths: &mut Builder, folded: &mut Builder, number: u32) {
        if self.ignore_case {
            folded.add(self.text.to_ascii_lowercase().into_bytes(), self.is_prefix, number);
        } else {
            paths.add(self.text.as_bytes().to_vec(), self.is_prefix, number);
        }
    }
}

fn path_key(matcher: &RouteMatch) -> Option<PathKey<'_>> {
    let (text, is_prefix, ignore_case) = match &matcher.path {
        PathMatch::Exact { value, ignore_case } => (value, false, ignore_case),
        PathMatch::Prefix { value, ignore_case } | PathMatch::SeparatedPrefix { value, ignore_case } => {
            (value, true, ignore_case)
        }
        PathMatch::Any | PathMatch::Regex(_) | PathMatch::Template(_) | PathMatch::Connect => return None,
    };
    Some(PathKey { text, is_prefix, ignore_case: *ignore_case })
}

/// Headers that must be present with exactly one value. One that counts as empty when absent is no such
/// condition: its route can match a request the header's value would not lead to.
fn exact_headers(matcher: &RouteMatch) -> impl Iterator<Item = (&str, &[u8])> {
    matcher.headers.iter().filter(|header| !header.invert && !header.treat_missing_as_empty).filter_map(
        |header| match &header.kind {
            HeaderMatchKind::Text(StringMatch::Exact { value, ignore_case: false }) => {
                Some((header.name.as_str(), value.as_bytes()))
            }
            _ => None,
        },
    )
}
