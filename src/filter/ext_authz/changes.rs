//! What an authorization service's consent changes of a request and its response.

use super::answer::{Change, Decision, How};
use crate::message::{Headers, Request};
use http::{HeaderName, HeaderValue};

/// Whether all that is to be written can be.
pub(super) fn are_valid(decision: &Decision) -> bool {
    let can = |(_, name, value): &Change| {
        HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_bytes(value).is_ok()
    };
    let plain = |text: &str| text.bytes().all(is_plain);
    decision.request.iter().chain(&decision.response).all(can)
        && decision.set_query.iter().all(|(key, value)| plain(key) && plain(value))
}

/// Bytes that may stand in a query as they are.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$'()*,;:@/?%+".contains(&byte)
}

/// Changes a request; whether anything was to be changed. What says where it goes is not for the service to
/// change: neither pseudo headers nor `host`.
pub(super) fn request(request: &mut dyn Request, decision: &Decision) -> bool {
    let fixed = |name: &str| name.starts_with(':') || name == "host";
    for (how, name, value) in decision.request.iter().filter(|(_, name, _)| !fixed(name)) {
        put(request, *how, name, value);
    }
    for name in decision.remove.iter().map(|name| name.to_ascii_lowercase()) {
        if !fixed(&name) {
            request.remove(&name);
        }
    }
    if !decision.set_query.is_empty() || !decision.remove_query.is_empty() {
        let target = request.path_and_query().unwrap_or_default().to_vec();
        request.set(":path", &with_query(&target, decision));
    }
    ![decision.request.len(), decision.remove.len(), decision.set_query.len(), decision.remove_query.len()]
        .iter()
        .all(|count| *count == 0)
}

/// Changes a response.
pub(super) fn response(headers: &mut dyn Headers, list: &[Change]) {
    for (how, name, value) in list.iter().filter(|(_, name, _)| !name.starts_with(':')) {
        put(headers, *how, name, value);
    }
}

fn put<H: Headers + ?Sized>(headers: &mut H, how: How, name: &str, value: &[u8]) {
    let there = headers.value(name).is_some();
    match how {
        How::Append => headers.append(name, value),
        How::Replace => headers.set(name, value),
        How::IfAbsent if !there => headers.set(name, value),
        How::IfPresent if there => headers.set(name, value),
        How::Extend => {
            let joined = headers.value(name).map(|held| [&held[..], b",", value].concat());
            joined.into_iter().for_each(|joined| headers.set(name, &joined));
        }
        How::IfAbsent | How::IfPresent => {}
    }
}

/// A target with other parameters. Those that are not named stay as they are written.
fn with_query(target: &[u8], decision: &Decision) -> Vec<u8> {
    let at = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = (target.get(..at).unwrap_or(target), target.get(at + 1..).unwrap_or_default());
    let key_of = |part: &[u8]| part.split(|byte| *byte == b'=').next().unwrap_or_default().to_vec();
    let mut parts: Vec<Vec<u8>> =
        query.split(|byte| *byte == b'&').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect();
    for (key, value) in &decision.set_query {
        let written = format!("{key}={value}").into_bytes();
        match parts.iter().position(|part| key_of(part) == key.as_bytes()) {
            Some(first) => {
                let mut place = 0;
                parts.retain(|part| {
                    place += 1;
                    place - 1 <= first || key_of(part) != key.as_bytes()
                });
                if let Some(part) = parts.get_mut(first) {
                    *part = written;
                }
            }
            None => parts.push(written),
        }
    }
    parts.retain(|part| !decision.remove_query.iter().any(|key| key_of(part) == key.as_bytes()));
    let mut out = path.to_vec();
    if !parts.is_empty() {
        out.push(b'?');
        out.extend(parts.join(&b'&'));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_set_once_and_taken_away() {
        let decision = Decision {
            set_query: vec![("a".into(), "9".into()), ("new".into(), "x".into())],
            remove_query: vec!["gone".into()],
            ..Decision::default()
        };
        let changed = |target: &str| String::from_utf8(with_query(target.as_bytes(), &decision)).unwrap();
        assert_eq!(changed("/p"), "/p?a=9&new=x");
        assert_eq!(changed("/p?b=%2F&a=1&gone=1&a=2&c"), "/p?b=%2F&a=9&c&new=x");
        let none = Decision { remove_query: vec!["q".into()], ..Decision::default() };
        assert_eq!(with_query(b"/p?q=1", &none), b"/p");
    }
}
