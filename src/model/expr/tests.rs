use super::*;
use proptest::prelude::*;

struct Known;

impl Attributes for Known {
    fn attribute<'a>(&'a self, attribute: &'a Attribute) -> Option<Value<'a>> {
        Some(match attribute {
            Attribute::Named("response.code") => Value::Int(404),
            Attribute::Named("request.url_path") => Value::Text(b"/api/v1".as_slice().into()),
            Attribute::Named("connection.mtls") => Value::Bool(true),
            Attribute::RequestHeader(name) if name == "x-a" => Value::Text(b"one".as_slice().into()),
            Attribute::Peer(true, field) if field == "labels.role" => Value::Text(b"r".as_slice().into()),
            Attribute::Peer(false, field) => Value::Text(field.as_bytes().into()),
            _ => return None,
        })
    }
}

fn shown(text: &str) -> String {
    let expr = Expr::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
    match expr.value(&Known) {
        None => "none".to_owned(),
        Some(value) => {
            let mut out = Vec::new();
            value.write(&mut out);
            String::from_utf8(out).unwrap()
        }
    }
}

#[test]
fn values_are_those_of_cel() {
    for (text, wanted) in [
        ("'gateway'", "gateway"),
        ("\"it\\\"s\"", "it\"s"),
        ("response.code", "404"),
        ("response.code >= 400 && connection.mtls", "true"),
        ("response.code < 400 || request.url_path.contains('v1')", "true"),
        ("!has(request.headers['x-b'])", "true"),
        ("has(request.headers['X-A']) ? request.headers['x-a'] + '!' : 'no'", "one!"),
        ("request.headers['x-b']", "none"),
        ("request.headers['x-b'] == 'y' || true", "true"),
        ("request.headers['x-b'] == 'y' && false", "false"),
        ("request.headers['x-b'] == 'y' || false", "none"),
        ("'x-a' in request.headers", "true"),
        ("request.url_path.startsWith('/api') && !request.url_path.endsWith('v2')", "true"),
        ("request.url_path.matches('^/api/v[0-9]$')", "true"),
        ("response.code in [403, 404]", "true"),
        ("string(response.code) + 'x'", "404x"),
        ("size(request.url_path)", "7"),
        ("filter_state.upstream_peer.labels['role'].value", "r"),
        ("filter_state['downstream_peer'].cluster_id", "cluster"),
        ("downstream_peer.workload_name", "workload"),
        ("response.code == '404'", "false"),
        ("response.code < '5'", "none"),
        ("1 + 2 == 3", "true"),
        ("(false ? 'a' : true ? 'b' : 'c')", "b"),
    ] {
        assert_eq!(shown(text), wanted, "{text}");
    }
}

#[test]
fn what_is_not_known_is_refused() {
    for (text, why) in [
        ("request.nothing", "the attribute request.nothing is not known here"),
        ("a.b.c()", "the attribute a.b is not known here"),
        ("duration('1s')", "the function duration is not known here"),
        ("request.host.lower()", "was not expected"),
        ("request.host.split('x')", "the method split is not known here"),
        ("'open", "a text without end"),
        ("1 2", "2 was not expected"),
        ("upstream_peer.shoe", "peers have no shoe"),
        ("request.host ==", "the end was not expected"),
        ("9999999999999999999", "is too large"),
        ("a # b", "'#' is not understood"),
        ("request.host.matches('(')", "unclosed group"),
    ] {
        let error = Expr::parse(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    let deep = format!("{}1{}", "(".repeat(500), ")".repeat(500));
    assert!(Expr::parse(&deep).unwrap_err().to_string().contains("within each other"));
    assert!(Expr::parse(&format!("'{}'", "a".repeat(9_000))).is_err());
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "[a-z.'\"()\\[\\]!&|=<>?:+0-9 ]{0,60}") {
        if let Ok(expr) = Expr::parse(&text) {
            expr.value(&Known);
        }
    }
}
