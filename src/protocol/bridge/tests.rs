use super::*;
use crate::protocol::bolt::{self, Head, Status, encode};
use crate::protocol::rpc::Frame;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::Scheme;
use http::{Method, StatusCode, Uri};

mod properties;

type Text = Option<Vec<u8>>;

fn uri() -> Uri {
    target(Scheme::HTTP, "10.0.0.1:2046").unwrap()
}

fn text(text: &str) -> Text {
    Some(text.as_bytes().to_vec())
}

fn frame(head: Head, class: &[u8], pairs: &[(Text, Text)], content: &[u8]) -> Frame {
    encode(head, class, pairs.iter().map(|(k, v)| (k.as_deref(), v.as_deref())), content).unwrap()
}

fn call(pairs: &[(&str, &str)]) -> Frame {
    let pairs: Vec<_> = pairs.iter().map(|(k, v)| (text(k), text(v))).collect();
    frame(Head { request_id: 7, ..Head::REQUEST }, b"Class", &pairs, b"body")
}

/// What the frame is as HTTP/2 headers.
fn out(frame: Frame) -> HeaderMap {
    if frame.head().is_response() {
        bolt_to_http2_response(frame).unwrap().0.into_parts().0.headers
    } else {
        bolt_to_http2_request(frame, uri()).unwrap().0.into_parts().0.headers
    }
}

fn back(headers: &HeaderMap) -> Frame {
    http2_request_to_bolt(headers, &b"body"[..], true).unwrap()
}

/// `key=value` of every pair, in order.
fn shown(frame: &Frame) -> String {
    let text = |t: Option<&[u8]>| t.map_or("null".into(), |t| String::from_utf8_lossy(t).into_owned());
    frame.headers().map(|(k, v)| text(k) + "=" + &text(v)).collect::<Vec<_>>().join(" ")
}

fn round_trip(frame: &Frame) -> Frame {
    let copy = encode(*frame.head(), frame.class(), frame.headers(), frame.content()).unwrap();
    if frame.head().is_response() {
        let (response, content) = bolt_to_http2_response(copy).unwrap();
        http2_response_to_bolt(response.status(), response.headers(), content, true).unwrap()
    } else {
        let (request, content) = bolt_to_http2_request(copy, uri()).unwrap();
        http2_request_to_bolt(request.headers(), content, true).unwrap()
    }
}

#[test]
fn a_call_becomes_the_request_old_sidecars_know() {
    let (request, content) =
        bolt_to_http2_request(call(&[("service", "echo"), ("Zone", "a,b")]), uri()).unwrap();
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri(), "http://10.0.0.1:2046/");
    assert_eq!(content, "body");
    let headers = request.headers();
    for (name, value) in [
        ("protocol", "1"),
        ("cmdtype", "1"),
        ("cmdcode", "1"),
        ("version", "1"),
        ("requestid", "7"),
        ("codec", "1"),
        ("timeout", "18446744073709551615"),
        ("classname", "Class"),
        ("contentlen", "4"),
        ("service", "echo"),
        ("zone", "a,b"),
    ] {
        assert_eq!(headers.get_all(name).iter().collect::<Vec<_>>(), [value], "{name}");
    }
    let empty = frame(Head::REQUEST, b"", &[], b"");
    assert_eq!(bolt_to_http2_request(empty, uri()).unwrap().0.method(), Method::GET);
}

#[test]
fn an_answer_becomes_status_200_with_its_own_status_beside() {
    let head = Head { request_id: 9, status: 4, ..Head::RESPONSE };
    let (response, content) = bolt_to_http2_response(frame(head, b"R", &[], b"busy")).unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["respstatus"], "4");
    assert_eq!(response.headers()["cmdcode"], "2");
    assert!(!response.headers().contains_key("timeout"));
    let again = http2_response_to_bolt(response.status(), response.headers(), content, true).unwrap();
    assert_eq!((again.status(), again.request_id(), again.content()), (4, 9, &b"busy"[..]));
}

#[test]
fn a_single_plain_header_needs_no_side_channel() {
    assert!(!out(call(&[("service", "echo")])).contains_key("x-mizzen-bolt"));
    assert!(!out(call(&[])).contains_key("x-mizzen-bolt"));
    assert!(out(call(&[("Service", "echo")])).contains_key("x-mizzen-bolt"));
}

#[test]
fn the_layout_does_not_depend_on_values() {
    let one = out(call(&[("rpc.sofaTraceId", "1"), ("service", "a")]));
    let two = out(call(&[("rpc.sofaTraceId", "2"), ("service", "b")]));
    assert_eq!(one["x-mizzen-bolt"], "rpc.sofaTraceId,service,");
    assert_eq!(one["x-mizzen-bolt"], two["x-mizzen-bolt"]);
    assert_ne!(one["x-mizzen-bolt-sums"], two["x-mizzen-bolt-sums"]);
}

#[test]
fn the_losses_of_the_old_conversion_are_repaired() {
    let pairs = [
        (text("rpc_trace_context.sofaRpcId"), text("0.1")),
        (text("dup"), text("1")),
        (text("Dup"), text("2")),
        (text("other"), text("a, b,c")),
        (text("dup"), text("3")),
        (text("empty"), text("")),
        (text("gone"), None),
        (None, text("v")),
        (None, None),
        (text(""), text("no key")),
        (text("blank"), text(" x ")),
        (text("percent"), text("100%41")),
        (text("a%41"), text("%0a\n")),
        (text("sp ace\u{e9}\r\n:"), Some(vec![0, 127, 255])),
        (text(":path"), text("/x")),
        // Names the conversion or HTTP uses itself.
        (text("protocol"), text("bolt")),
        (text("Timeout"), text("5")),
        (text("content-length"), text("99")),
        (text("Host"), text("h")),
        (text("connection"), text("close")),
        (text("x-mizzen-bolt"), text("service,")),
        (text("x-mizzen-key-service"), text("s")),
        (text("date"), text("today")),
    ];
    for timeout_ms in [-1, 0, 1, i32::MAX, i32::MIN] {
        let frame = frame(Head { timeout_ms, ..Head::REQUEST }, b" \xffClass\0", &pairs, b"x");
        assert_eq!(round_trip(&frame).into_bytes(), frame.into_bytes());
    }
}

#[test]
fn transport_headers_never_get_into_the_map() {
    let mut headers = out(call(&[("service", "echo"), ("Zone", "a")]));
    for name in [
        "content-length",
        "content-type",
        "user-agent",
        "date",
        "server",
        "via",
        "te",
        "accept",
        "accept-encoding",
        "host",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
        "x-envoy-attempt-count",
        "x-mosn-status",
        "x-mizzen-anything",
        "resptimemills",
        "headerlen",
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    assert_eq!(shown(&back(&headers)), "service=echo Zone=a");
    assert_eq!(shown(&http2_request_to_bolt(&headers, &b""[..], false).unwrap()), "service=echo zone=a");
}

#[test]
fn edits_on_the_way_survive() {
    let original = || out(call(&[("Zone", "a"), ("service", "echo"), ("User", "u"), ("Zone", "b")]));
    let set = |headers: &mut HeaderMap, name: &'static str, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    assert_eq!(shown(&back(&original())), "Zone=a service=echo User=u Zone=b");

    let mut changed = original();
    set(&mut changed, "service", "other");
    assert_eq!(shown(&back(&changed)), "Zone=a service=other User=u Zone=b");
    set(&mut changed, "user", "root");
    assert_eq!(shown(&back(&changed)), "Zone=a service=other user=root Zone=b", "its case is not restored");

    let mut removed = original();
    removed.remove("user");
    assert_eq!(shown(&back(&removed)), "Zone=a service=echo Zone=b");
    removed.remove("zone");
    assert_eq!(shown(&back(&removed)), "service=echo");

    let mut added = original();
    added.append("service", HeaderValue::from_static("more"));
    set(&mut added, "canary", "yes");
    assert_eq!(shown(&back(&added)), "Zone=a service=echo User=u Zone=b service=more canary=yes");

    let mut stripped = original();
    stripped.remove("x-mizzen-bolt");
    assert_eq!(shown(&back(&stripped)), "zone=a zone=b service=echo user=u");

    let mut fields = original();
    set(&mut fields, "timeout", "250");
    set(&mut fields, "classname", "Else");
    let fields = back(&fields);
    assert_eq!((fields.timeout_ms(), fields.class()), (250, &b"Else"[..]));
}

#[test]
fn edited_nulls_and_escapes_are_what_the_flat_header_says() {
    let pairs = [(text("k"), None), (text("v"), text(" x")), (None, text("n")), (text("codec"), text("c"))];
    let original = || out(frame(Head::REQUEST, b"", &pairs, b""));
    assert_eq!(original()["v"], "%20x");
    let mut edited = original();
    edited.insert("k", HeaderValue::from_static("set"));
    edited.insert("v", HeaderValue::from_static("%20y"));
    edited.insert("x-mizzen-null-key", HeaderValue::from_static("m"));
    edited.insert("x-mizzen-key-codec", HeaderValue::from_static("d"));
    assert_eq!(shown(&back(&edited)), "k=set v=%20y null=m codec=d");
    let refused = http2_request_to_bolt(&original(), &b""[..], false).unwrap();
    assert_eq!(shown(&refused), "k= v=%20x", "without a side channel its spellings mean nothing");
}

/// Headers of a peer that lies in its side channel, with the sums a liar would send.
fn liar(flat: &[(&'static str, &'static str)], layout: &'static str, summed: &[&str]) -> Frame {
    let mut headers = HeaderMap::new();
    for (name, value) in flat {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers.insert("x-mizzen-bolt", HeaderValue::from_static(layout));
    let sums: Vec<u8> = summed.iter().flat_map(|value| layout::sum(value.as_bytes())).collect();
    headers.insert("x-mizzen-bolt-sums", HeaderValue::from_bytes(&sums).unwrap());
    back(&headers)
}

#[test]
fn nothing_can_be_smuggled_through_the_side_channel() {
    // A pair without a flat header.
    assert_eq!(shown(&liar(&[("a", "1")], "service,a,", &[])), "a=1");
    // A second spelling of an ordinary key.
    assert_eq!(shown(&liar(&[("x-mizzen-key-service", "evil")], "service,", &[])), "");
    assert_eq!(shown(&liar(&[("x-mizzen-key-%73ervice", "evil")], "%73ervice,", &[])), "");
    assert_eq!(
        shown(&liar(&[("x-mizzen-key-service", "evil"), ("service", "good")], "Service,", &["evil"])),
        "service=good"
    );
    // An escaped value that need not be escaped is literal.
    assert_eq!(shown(&liar(&[("service", "%61dmin")], "/service,", &["%61dmin"])), "service=%61dmin");
    assert_eq!(shown(&liar(&[("service", "a%20b")], "/service,", &["a%20b"])), "service=a%20b");
    // A null that is not empty keeps its value; a header named twice is there once.
    assert_eq!(shown(&liar(&[("service", "a")], "?service,service,", &["a"])), "service=a");
    // The first of several stays the first, and none is lost.
    assert_eq!(
        shown(&liar(&[("service", "a"), ("service", "b")], "Service,service,", &["b"])),
        "service=a service=b"
    );
    assert_eq!(shown(&liar(&[("b", "1"), ("a", "2")], "nonsense,,@,?@,/,%zz,:,a", &[])), "b=1 a=2");
    // Fields and transport headers are no pairs, whatever the layout says.
    assert_eq!(shown(&liar(&[("timeout", "5"), ("host", "h")], "timeout,host,", &[])), "");
}

#[test]
fn messages_of_an_old_sidecar_are_understood() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("protocol", "1"),
        ("cmdtype", "2"),
        ("cmdcode", "1"),
        ("version", "1"),
        ("requestid", "12"),
        ("codec", "1"),
        ("timeout", "18446744073709551615"),
        ("classname", "com.alipay.sofa.rpc.core.request.SofaRequest"),
        ("contentlen", "4"),
        ("classlen", "44"),
        ("headerlen", "19"),
        ("service", "echo"),
        ("user-agent", "Go-http-client/2.0"),
        ("content-length", "4"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let frame = back(&headers);
    assert_eq!(frame.kind(), crate::protocol::rpc::Kind::Oneway);
    assert_eq!((frame.timeout_ms(), frame.request_id()), (-1, 12));
    assert_eq!(frame.class(), b"com.alipay.sofa.rpc.core.request.SofaRequest");
    assert_eq!((shown(&frame).as_str(), frame.content()), ("service=echo", &b"body"[..]));

    // 0.1.0 wrote −1 in 32 bits; a user's `protocol` entry overwrote the field in every release.
    headers.insert("timeout", HeaderValue::from_static("4294967295"));
    headers.insert("protocol", HeaderValue::from_static("bolt"));
    let frame = back(&headers);
    assert_eq!((frame.timeout_ms(), shown(&frame).as_str()), (-1, "protocol=bolt service=echo"));
}

#[test]
fn a_plain_http_request_is_an_ordinary_call() {
    let mut headers = HeaderMap::new();
    headers.insert("service", HeaderValue::from_static("echo"));
    let frame = back(&headers);
    assert_eq!(frame.head(), &Head { timeout_ms: 0, header_len: 19, content_len: 4, ..Head::REQUEST });
}

#[test]
fn fields_that_cannot_be_are_refused() {
    for (name, value) in [
        ("protocol", "2"),
        ("protocol", ""),
        ("cmdtype", "0"),
        ("cmdtype", "3"),
        ("cmdtype", "x"),
        ("codec", "256"),
        ("requestid", "+1"),
        ("timeout", "soon"),
        ("timeout", "9999999999999999999999"),
        ("timeout", "-"),
    ] {
        let mut headers = out(call(&[]));
        headers.insert(name, HeaderValue::from_static(value));
        let error = http2_request_to_bolt(&headers, &b""[..], true).unwrap_err();
        assert_eq!(error, BridgeError::Field(name), "{name}: {value}");
    }
    let mut twice = out(call(&[]));
    twice.append("classname", HeaderValue::from_static("Other"));
    assert_eq!(http2_request_to_bolt(&twice, &b""[..], true).unwrap_err(), BridgeError::Field("classname"));
    let response = frame(Head::RESPONSE, b"", &[], b"");
    assert_eq!(bolt_to_http2_request(response, uri()).unwrap_err(), BridgeError::Direction);
    assert_eq!(bolt_to_http2_response(call(&[])).unwrap_err(), BridgeError::Direction);
}

#[test]
fn headers_that_do_not_fit_a_frame_are_an_error() {
    let mut headers = HeaderMap::new();
    headers.insert("k", HeaderValue::from_bytes(&vec![b'v'; 65_535]).unwrap());
    assert!(matches!(http2_request_to_bolt(&headers, &b""[..], true), Err(BridgeError::Overflow(_))));
    let mut headers = HeaderMap::new();
    headers.insert("classname", HeaderValue::from_bytes(&vec![b'C'; 65_536]).unwrap());
    assert!(matches!(http2_request_to_bolt(&headers, &b""[..], true), Err(BridgeError::Overflow(_))));
    // The largest block there is, of one pair and of very many.
    let large = [(text("K"), Some(vec![b'v'; 65_535 - 9]))];
    let many = vec![(text("a"), text("")); 65_535 / 9];
    for pairs in [&large[..], &many[..]] {
        let frame = frame(Head::REQUEST, b"", pairs, b"");
        assert_eq!(round_trip(&frame).into_bytes(), frame.into_bytes());
    }
}

#[test]
fn http_failures_become_bolt_ones() {
    let answer = |status: u16, respstatus: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        if let Some(value) = respstatus {
            headers.insert("respstatus", HeaderValue::from_static(value));
        }
        http2_response_to_bolt(StatusCode::from_u16(status).unwrap(), &headers, &b""[..], true)
            .unwrap()
            .status()
    };
    assert_eq!(answer(200, None), 0);
    assert_eq!(answer(200, Some("16")), 16);
    assert_eq!(answer(404, None), Status::NoProcessor.code());
    assert_eq!(answer(504, None), Status::Timeout.code());
    assert_eq!(
        answer(503, Some("0")),
        Status::ServerThreadpoolBusy.code(),
        "success does not hide a failure"
    );
    assert_eq!(answer(503, Some("6")), Status::NoProcessor.code());
    assert_eq!(answer(500, None), Status::Unknown.code());

    let failure = failure_to_http2_response(5, Status::Timeout);
    let frame = http2_response_to_bolt(failure.status(), failure.headers(), Bytes::new(), true).unwrap();
    assert_eq!(frame.into_bytes(), bolt::reply(5, Status::Timeout));
}
