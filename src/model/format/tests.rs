use super::*;
use std::time::{Duration, SystemTime};

struct Known;

impl Facts for Known {
    fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name {
            ":path" => Some(b"/a/b?x=1&y&x=2".as_slice().into()),
            "content-type" => Some(b"application/grpc".as_slice().into()),
            "there" => Some(b"value".as_slice().into()),
            _ => None,
        }
    }
    fn response_trailer(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        (name == "grpc-status").then(|| b"14".as_slice().into())
    }
    fn fact(&self, fact: Fact, out: &mut Vec<u8>) -> bool {
        let known = fact == Fact::Protocol;
        if known {
            out.extend_from_slice(b"HTTP/2");
        }
        known
    }
    fn time(&self, _: Moment) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::new(1_709_164_800 + 3_661, 7_008_009))
    }
}

fn shown(format: &str) -> String {
    let mut out = Vec::new();
    Format::parse(format).unwrap().write(&Known, b"-", &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn operators_are_replaced_and_text_stays() {
    for (format, wanted) in [
        ("", ""),
        ("50%% of %PROTOCOL%", "50% of HTTP/2"),
        ("%REQ(THERE)%|%REQ(no?There)%|%REQ(no)%", "value|value|-"),
        ("%REQ(there):3%.%UPSTREAM_HOST%", "val.-"),
        ("%REQ_WITHOUT_QUERY(:path)%", "/a/b"),
        ("%PATH(NQ)% %PATH(OQ:PATH)% %PATH(WQ:ORIG)%", "/a/b x=1&y&x=2 -"),
        ("%QUERY_PARAM(x)%%QUERY_PARAM(y)%%QUERY_PARAM(z)%", "1-"),
        ("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%", "Unavailable UNAVAILABLE 14"),
        ("%DYNAMIC_METADATA(a:b)%", "-"),
    ] {
        assert_eq!(shown(format), wanted, "{format}");
    }
}

#[test]
fn times_are_utc() {
    assert_eq!(shown("%START_TIME%"), "2024-02-29T01:01:01.007Z");
    assert_eq!(shown("%START_TIME(%s.%6f)%"), "1709168461.007008");
    assert_eq!(shown("%EMIT_TIME(%d/%b/%y %F %T %z %Z %a %j %e %%)%"), {
        "29/Feb/24 2024-02-29 01:01:01 +0000 UTC Thu 060 29 %"
    });
    let mut out = Vec::new();
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_799);
    TimeFormat::parse("%FT%T").unwrap().write(end, &mut out);
    assert_eq!(out, b"2099-12-31T23:59:59");
}

#[test]
fn what_cannot_be_written_is_refused() {
    for (format, why) in [
        ("a%", "no operator begins at \"%\""),
        ("%REQ(x", "no operator"),
        ("%REQ%", "%REQ%: expected an argument"),
        ("%NONSENSE%", "%NONSENSE%: no such operator"),
        ("%PROTOCOL(x)%", "takes no argument"),
        ("%START_TIME(%Q)%", "%Q: no such time conversion"),
        ("%PATH(x)%", "expected WQ"),
        ("%REQ(x):y%", "no operator"),
    ] {
        let error = Format::parse(format).unwrap_err().to_string();
        assert!(error.contains(why), "{format}: {error}");
    }
}

#[test]
fn a_text_without_operators_is_a_literal() {
    assert_eq!(Format::parse("5%%").unwrap().as_literal(), Some(&b"5%"[..]));
    assert_eq!(Format::parse("").unwrap().as_literal(), Some(&b""[..]));
    assert_eq!(Format::parse("%PROTOCOL%").unwrap().as_literal(), None);
}
