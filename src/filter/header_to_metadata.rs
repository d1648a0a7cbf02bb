//! Headers as a stream's metadata.

use super::chain::{Outgoing, Verdict};
use super::context::Context;
use crate::message::{Datum, Headers, Metadata};
use crate::model::{HeaderRule, HeaderToMetadata, MetadataValue, RuleSource};
use std::borrow::Cow;

/// Longest value that is taken.
const MAX_VALUE: usize = 8 * 1024;

pub(super) fn on_request(config: &HeaderToMetadata, ctx: &mut Context<'_>) -> Verdict {
    for rule in &config.request {
        let found = match &rule.source {
            RuleSource::Header(name) => ctx.request.header(name).map(Cow::into_owned),
            RuleSource::Cookie(name) => {
                let cookies = Headers::value(ctx.request, "cookie").map(Cow::into_owned);
                cookies.and_then(|cookies| cookie(&cookies, name))
            }
        };
        take(rule, found, ctx.metadata);
        if let (true, RuleSource::Header(name)) = (rule.remove, &rule.source) {
            ctx.request.remove(name);
        }
    }
    Verdict::Continue
}

pub(super) fn on_response(config: &HeaderToMetadata, response: &mut Outgoing<'_>, metadata: &mut Metadata) {
    for rule in &config.response {
        let RuleSource::Header(name) = &rule.source else { continue };
        let found = if name == ":status" {
            Some(response.status.to_string().into_bytes())
        } else {
            response.headers.value(name).map(Cow::into_owned)
        };
        take(rule, found, metadata);
        if rule.remove {
            response.headers.remove(name);
        }
    }
}

fn cookie(cookies: &[u8], name: &str) -> Option<Vec<u8>> {
    cookies.split(|byte| *byte == b';').find_map(|part| {
        let value = part.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value).to_vec())
    })
}

fn take(rule: &HeaderRule, found: Option<Vec<u8>>, metadata: &mut Metadata) {
    let (to, value) = match (found.filter(|value| !value.is_empty()), &rule.present, &rule.missing) {
        (Some(value), Some(to), _) => (to, if to.value.is_empty() { value } else { to.value.clone().into() }),
        (None, _, Some(to)) => (to, to.value.clone().into_bytes()),
        _ => return,
    };
    if let Some(value) = made(to, value) {
        metadata.set(&to.namespace, &to.key, value);
    }
}

fn made(to: &MetadataValue, value: Vec<u8>) -> Option<Datum> {
    let value = match &to.rewrite {
        Some((regex, text)) => regex.replace_all(&value, text),
        None => value,
    };
    if value.is_empty() || value.len() > MAX_VALUE {
        return None;
    }
    let value = if to.base64 { crate::util::base64::decode(&value)? } else { value };
    let text = String::from_utf8_lossy(&value).into_owned();
    if to.number { text.trim().parse().ok().map(Datum::Number) } else { Some(Datum::Text(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_cookies_and_what_is_missing_become_values() {
        assert_eq!(cookie(b"a=1; b=\"x y\"; bb=2", "b").unwrap(), b"x y");
        assert_eq!(cookie(b"ab=1", "b"), None);
        let to = |key: &str| MetadataValue {
            namespace: "n".into(),
            key: key.into(),
            value: String::new(),
            rewrite: None,
            number: false,
            base64: false,
        };
        let rule = HeaderRule {
            source: RuleSource::Header("x".into()),
            present: Some(MetadataValue { number: true, ..to("number") }),
            missing: Some(MetadataValue { value: "none".into(), ..to("default") }),
            remove: false,
        };
        let mut metadata = Metadata::default();
        take(&rule, Some(b"7".to_vec()), &mut metadata);
        take(&rule, Some(b"seven".to_vec()), &mut metadata);
        take(&rule, None, &mut metadata);
        assert_eq!(metadata.find("n", &["number"]), Some(&Datum::Number(7.0)));
        assert_eq!(metadata.find("n", &["default"]), Some(&Datum::Text("none".into())));
        let coded = MetadataValue { base64: true, ..to("text") };
        assert_eq!(made(&coded, b"aGk=".to_vec()), Some(Datum::Text("hi".into())));
        assert_eq!(made(&coded, b"a!".to_vec()), None);
    }
}
