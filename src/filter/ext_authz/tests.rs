//! Answers of authorization services, good and bad.

use super::answer::{How, of_grpc, of_http};
use super::*;
use crate::filter::ask::Told;
use crate::message::Failure;
use crate::util::protobuf::Message;
use std::time::Duration;

fn framed(message: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    body
}

fn told(body: Vec<u8>, status: &[u8]) -> Told {
    let trailers = vec![("grpc-status".to_owned(), status.to_vec())];
    Told { status: 200, trailers, body: body.into(), ..Told::default() }
}

fn header(name: &str, value: &str) -> Message {
    Message::new().message(1, Message::new().text(1, name.as_bytes()).text(2, value.as_bytes()))
}

#[test]
fn only_a_whole_answer_is_a_decision() {
    let consent = Message::new().message(3, Message::new()).into_bytes();
    assert_eq!(of_grpc(Ok(told(framed(&consent), b"0"))).kind, Kind::Allowed);
    assert_eq!(of_grpc(Ok(told(framed(&[]), b"0"))).kind, Kind::Allowed, "no status is status OK");
    let refusal = Message::new().message(1, Message::new().number(1, 7)).into_bytes();
    let refused = of_grpc(Ok(told(framed(&refusal), b"0")));
    assert_eq!((refused.kind, refused.status), (Kind::Denied, 403));
    let mut compressed = framed(&consent);
    compressed[0] = 1;
    for bad in [
        told(framed(&consent), b"13"),
        told(framed(&consent)[..4].to_vec(), b"0"),
        told([framed(&consent), framed(&consent)].concat(), b"0"),
        told(compressed, b"0"),
        told(framed(b"\x0a\x05x"), b"0"),
        told(Vec::new(), b"0"),
        Told { status: 503, ..told(framed(&consent), b"0") },
        Told { trailers: Vec::new(), ..told(framed(&consent), b"0") },
    ] {
        assert_eq!(of_grpc(Ok(bad.clone())).kind, Kind::Failed, "{bad:?}");
    }
    assert_eq!(of_grpc(Err(Failure::before(Reason::Timeout))).kind, Kind::Failed);
}

#[test]
fn headers_say_how_they_are_put_and_errors_have_words_of_their_own() {
    let flag = |value| Message::new().number(1, u64::from(value));
    let ok = Message::new()
        .message(2, header("X-Plain", "1"))
        .message(2, header("x-append", "2").message(2, flag(true)))
        .message(2, header("x-set", "3").message(2, flag(false)).number(3, 3))
        .message(2, header("x-absent", "4").number(3, 1))
        .message(2, header("x-present", "5").number(3, 3))
        .text(5, b"x-gone")
        .message(6, header("x-plain", "1"))
        .message(6, header("x-append", "2").message(2, flag(true)))
        .message(6, header("x-set", "3").message(2, flag(false)).number(3, 3))
        .message(6, header("x-absent", "4").number(3, 1))
        .message(6, header("x-present", "5").number(3, 3));
    let decision = of_grpc(Ok(told(framed(&Message::new().message(3, ok).into_bytes()), b"0")));
    let hows = |list: &[Change]| list.iter().map(|(how, ..)| *how).collect::<Vec<_>>();
    let of_request = [How::Replace, How::Extend, How::Replace, How::Replace, How::Replace];
    assert_eq!(hows(&decision.request), of_request);
    let of_response = [How::Append, How::Append, How::Replace, How::IfAbsent, How::IfPresent];
    assert_eq!(hows(&decision.response), of_response);
    assert_eq!(decision.request[0].1, "x-plain", "names are lower-cased");
    assert!(!decision.strange && changes::are_valid(&decision));
    let odd = Message::new().message(2, header("x y", "1").number(3, 9));
    let odd = of_grpc(Ok(told(framed(&Message::new().message(3, odd).into_bytes()), b"0")));
    assert!(odd.strange && !changes::are_valid(&odd));

    let failed = Message::new().message(1, Message::new().number(1, 503)).text(3, b"busy");
    let failed = Message::new().message(1, Message::new().number(1, 14)).message(5, failed).into_bytes();
    let failed = of_grpc(Ok(told(framed(&failed), b"0")));
    assert_eq!((failed.kind, failed.status, failed.body.as_slice()), (Kind::Failed, 503, &b"busy"[..]));
}

#[test]
fn values_nested_without_end_are_refused() {
    let mut value = Message::new().item(3, b"x");
    for _ in 0..10_000 {
        value = Message::new().message(6, Message::new().message(1, value));
    }
    let entry = Message::new().text(1, b"k").message(2, value);
    let answer = Message::new().message(4, Message::new().message(1, entry)).into_bytes();
    assert_eq!(of_grpc(Ok(told(framed(&answer), b"0"))).kind, Kind::Failed);
}

#[test]
fn an_http_service_decides_by_its_status() {
    let config = HttpAuthz {
        cluster: "c".into(),
        timeout: Some(Duration::from_secs(1)),
        path_prefix: String::new(),
        headers_to_add: Vec::new(),
        upstream: Vec::new(),
        upstream_append: Vec::new(),
        client: None,
        client_on_success: Vec::new(),
        metadata: Vec::new(),
        retries: (0, Duration::ZERO, Duration::ZERO),
    };
    let of = |status| of_http(&config, Ok(Told { status, ..Told::default() }));
    assert_eq!((of(200).kind, of(200).request.len()), (Kind::Allowed, 0));
    for status in [201, 204, 302, 401, 404] {
        assert_eq!((of(status).kind, of(status).status), (Kind::Denied, status));
    }
    assert_eq!(of(500).kind, Kind::Failed);
    assert_eq!(of_http(&config, Err(Failure::before(Reason::ConnectFailed))).kind, Kind::Failed);
}
