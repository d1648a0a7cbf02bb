//! Where tokens are in a request.

use crate::message::Request;
use crate::model::JwtProvider;
use crate::router::query_of;

/// A token, and where it was.
pub(super) struct Found {
    pub text: String,
    pub place: Place,
    /// Whose place it is: providers by number.
    pub providers: Vec<usize>,
}

/// A place of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Header(String),
    Parameter(String),
    Cookie,
}

/// The tokens where `providers` have theirs, each place once.
pub(super) fn find(request: &dyn Request, all: &[JwtProvider], providers: &[usize]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut add = |text: String, place: Place, provider: usize| match found
        .iter_mut()
        .find(|known| known.place == place && known.text == text)
    {
        Some(known) => known.providers.push(provider),
        None => found.push(Found { text, place, providers: vec![provider] }),
    };
    for number in providers {
        let Some(provider) = all.get(*number) else { continue };
        for header in &provider.from_headers {
            request.each_value(&header.name, &mut |value| {
                if let Some(text) = behind(value, &header.prefix) {
                    add(text, Place::Header(header.name.clone()), *number);
                }
            });
        }
        for name in &provider.from_params {
            if let Some(text) = parameter(request, name) {
                add(text, Place::Parameter(name.clone()), *number);
            }
        }
        for name in &provider.from_cookies {
            if let Some(text) = cookie(request, name) {
                add(text, Place::Cookie, *number);
            }
        }
    }
    found
}

/// What is behind `prefix`, wherever in `value` that is; from the first byte on that can be of a token.
fn behind(value: &[u8], prefix: &str) -> Option<String> {
    let value = String::from_utf8_lossy(value);
    if prefix.is_empty() {
        return Some(value.into_owned());
    }
    let at = value.find(prefix)? + prefix.len();
    let rest = value.get(at..).unwrap_or_default();
    let begin = rest.find(|c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    Some(match begin {
        Some(begin) => rest.get(begin..).unwrap_or_default().to_owned(),
        None => value.into_owned(),
    })
}

fn parameter(request: &dyn Request, name: &str) -> Option<String> {
    let query = query_of(request.head());
    query.split(|byte| *byte == b'&').find_map(|part| {
        let (key, value) = halves(part);
        (decoded(key) == name.as_bytes()).then(|| String::from_utf8_lossy(&decoded(value)).into_owned())
    })
}

fn halves(part: &[u8]) -> (&[u8], &[u8]) {
    match part.iter().position(|byte| *byte == b'=') {
        Some(at) => (part.get(..at).unwrap_or(part), part.get(at + 1..).unwrap_or_default()),
        None => (part, &[]),
    }
}

/// Without `%XX`; what is none stays.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

fn cookie(request: &dyn Request, name: &str) -> Option<String> {
    let mut value = None;
    request.each_value("cookie", &mut |line| {
        let line = String::from_utf8_lossy(line);
        for pair in line.split(';') {
            if let Some((key, text)) = pair.split_once('=')
                && key.trim() == name
            {
                let text = text.trim().trim_matches('"');
                value.get_or_insert_with(|| text.to_owned());
            }
        }
    });
    value
}

/// Takes the token away from where it was, so that it does not go on.
pub(super) fn take_away(request: &mut dyn Request, place: &Place) {
    match place {
        Place::Header(name) => drop(request.remove(name)),
        Place::Parameter(name) => {
            let Some(target) = request.path_and_query().map(<[u8]>::to_vec) else { return };
            request.set(":path", &without(&target, name));
        }
        // Other cookies are in the same line.
        Place::Cookie => {}
    }
}

/// A request target without one parameter of its query.
fn without(target: &[u8], name: &str) -> Vec<u8> {
    let Some(at) = target.iter().position(|byte| *byte == b'?') else { return target.to_vec() };
    let (path, query) = (target.get(..at).unwrap_or(target), target.get(at + 1..).unwrap_or_default());
    let mut left = path.to_vec();
    let mut mark = b'?';
    for part in query.split(|byte| *byte == b'&') {
        if decoded(halves(part).0) != name.as_bytes() {
            left.push(std::mem::replace(&mut mark, b'&'));
            left.extend_from_slice(part);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_goes_without_the_others_being_written_anew() {
        let left = |target: &str| String::from_utf8(without(target.as_bytes(), "t")).unwrap();
        assert_eq!(left("/a?t=1"), "/a");
        assert_eq!(left("/a?x=%2F&t=1&t=2&y"), "/a?x=%2F&y");
        assert_eq!(left("/a"), "/a");
        assert_eq!(left("/a?%74=1&tt=2"), "/a?tt=2");
        assert_eq!(decoded(b"a%2fb%zz%"), b"a/b%zz%");
    }

    #[test]
    fn a_token_begins_where_its_first_byte_is() {
        assert_eq!(behind(b"Bearer abc.d", "Bearer ").unwrap(), "abc.d");
        assert_eq!(behind(b"Bearer   abc", "Bearer ").unwrap(), "abc");
        assert_eq!(behind(b"Basic abc", "Bearer "), None);
        assert_eq!(behind(b"abc", "").unwrap(), "abc");
        assert_eq!(behind(b"Bearer ", "Bearer ").unwrap(), "Bearer ");
    }
}
