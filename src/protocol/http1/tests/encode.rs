//! Heads and bodies that are written.

use super::*;
use bytes::Bytes;

#[test]
fn a_request_is_passed_on_as_it_was_spelled() {
    let head = accepted(
        b"POST /a?b HTTP/1.1\r\nhOsT: a:80\r\nX-One: 1\r\nCONTENT-length: 5\r\nx-two: 2\r\nTE: trailers\r\n\r\n",
        &Limits::default(),
    );
    let mut out = BytesMut::new();
    let mut body =
        encode_request(&head.parts, head.case.as_deref(), head.framing.into(), false, false, &mut out);
    body.data(Bytes::from_static(b"hello"), &mut out).unwrap();
    body.end(None, &mut out).unwrap();
    let expected = "POST /a?b HTTP/1.1\r\nhOsT: a:80\r\nX-One: 1\r\nCONTENT-length: 5\r\nx-two: 2\r\n\
                    TE: trailers\r\n\r\nhello";
    assert_eq!(text(&out), expected);
}

#[test]
fn lines_nobody_touched_go_on_as_they_came_between_those_that_are_written_anew() {
    let head = accepted(
        b"PUT / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nX-B:  2 \r\nX-C: 3\r\nX-D: 4\r\nX-C: 5\r\nx-f: 6\r\n\
          X-G:\r\nContent-Length: 3\r\nX-Gone: 7\r\n\r\n",
        &Limits::default(),
    );
    let mut parts = head.parts;
    parts.headers.insert("x-d", "new".parse().unwrap());
    let same = parts.headers["x-a"].clone();
    parts.headers.insert("x-e", same);
    parts.headers.remove("x-gone");
    let written = |parts: &_, length| {
        let mut out = BytesMut::new();
        encode_request(parts, head.case.as_deref(), BodyLength::Known(length), false, false, &mut out);
        text(&out).to_owned()
    };
    let expected = |length| {
        format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nX-C: 5\r\nX-D: new\r\nx-f: 6\r\nX-G: \r\n\
             Content-Length: {length}\r\nx-e: 1\r\n\r\n"
        )
    };
    assert_eq!(written(&parts, 3), expected("3"));
    assert_eq!(written(&parts, 30), expected("30"), "what is announced counts");
    parts.headers.insert("content-length", "030".parse().unwrap());
    assert_eq!(written(&parts, 30), expected("30"), "in one form");
}

#[test]
fn chunks_are_written_with_and_without_copies() {
    let head =
        accepted(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", &Limits::default());
    let mut out = BytesMut::new();
    let mut body = encode_request(&head.parts, None, head.framing.into(), false, true, &mut out);
    let large = vec![b'x'; 0x12345];
    body.data(Bytes::from_static(b"small"), &mut out).unwrap();
    body.data(Bytes::from(large.clone()), &mut out).unwrap();
    body.data(Bytes::new(), &mut out).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    trailers.insert("content-length", "1".parse().unwrap());
    assert!(body.takes_trailers());
    body.end(Some(&trailers), &mut out).unwrap();
    let large = String::from_utf8(large).unwrap();
    let expected = format!(
        "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
         5\r\nsmall\r\n12345\r\n{large}\r\n0\r\nx-sum: 1\r\n\r\n"
    );
    assert_eq!(text(&out), expected);
}

fn response(
    status: u16,
    fields: &[(&'static str, &str)],
    body: BodyLength,
    to: ResponseTo,
) -> (String, BodyEncoder) {
    let mut parts = http::Response::builder().status(status);
    for (name, value) in fields {
        parts = parts.header(*name, *value);
    }
    let mut out = BytesMut::new();
    let encoder = encode_response(&parts.body(()).unwrap().into_parts().0, None, body, to, &mut out);
    (text(&out).to_owned(), encoder)
}

#[test]
fn responses() {
    let keep = ResponseTo { keep_alive: true, ..ResponseTo::default() };
    let head = ResponseTo { head: true, ..keep };
    let connect = ResponseTo { connect: true, ..keep };
    let old = ResponseTo { http_10: true, ..keep };
    let close = ResponseTo::default();
    use BodyLength::{Empty, Known, Unknown};
    for (status, fields, body, to, expected, encoder) in [
        (
            200,
            &[("a", "b")][..],
            Known(3),
            keep,
            "200 OK\r\na: b\r\ncontent-length: 3\r\n\r\n",
            BodyEncoder::Length(3),
        ),
        (
            200,
            &[("content-length", "9")],
            Known(3),
            keep,
            "200 OK\r\ncontent-length: 3\r\n\r\n",
            BodyEncoder::Length(3),
        ),
        (200, &[], Empty, keep, "200 OK\r\ncontent-length: 0\r\n\r\n", BodyEncoder::Length(0)),
        (
            200,
            &[("content-length", "9")],
            Unknown,
            keep,
            "200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            BodyEncoder::Chunked,
        ),
        (
            200,
            &[("connection", "x"), ("keep-alive", "x")],
            Empty,
            close,
            "200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            BodyEncoder::Length(0),
        ),
        (
            200,
            &[("content-length", "9")],
            Known(9),
            head,
            "200 OK\r\ncontent-length: 9\r\n\r\n",
            BodyEncoder::Empty,
        ),
        (
            200,
            &[("content-length", "9")],
            Empty,
            head,
            "200 OK\r\ncontent-length: 9\r\n\r\n",
            BodyEncoder::Empty,
        ),
        (200, &[], Unknown, head, "200 OK\r\n\r\n", BodyEncoder::Empty),
        (
            304,
            &[("content-length", "9")],
            Empty,
            keep,
            "304 Not Modified\r\ncontent-length: 9\r\n\r\n",
            BodyEncoder::Empty,
        ),
        (204, &[("content-length", "9")], Known(9), keep, "204 No Content\r\n\r\n", BodyEncoder::Empty),
        (100, &[], Empty, close, "100 Continue\r\n\r\n", BodyEncoder::Empty),
        (
            101,
            &[("upgrade", "x")],
            Empty,
            keep,
            "101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            BodyEncoder::UntilClose,
        ),
        (200, &[("upgrade", "x")], Unknown, connect, "200 OK\r\n\r\n", BodyEncoder::UntilClose),
        (403, &[], Empty, connect, "403 Forbidden\r\ncontent-length: 0\r\n\r\n", BodyEncoder::Length(0)),
    ] {
        let (text, got) = response(status, fields, body, to);
        assert_eq!(text, format!("HTTP/1.1 {expected}"));
        assert_eq!(got, encoder, "{expected}");
    }
    let (text, encoder) = response(200, &[], Unknown, old);
    assert_eq!(text, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n");
    assert!(encoder.needs_close());
    let (text, _) = response(200, &[], Known(1), old);
    assert_eq!(text, "HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n");
    assert_eq!(response(103, &[], Empty, old).0, "", "HTTP/1.0 knows no interim responses");
}

#[test]
fn a_request_never_says_two_lengths() {
    for (method, body, expected) in [
        ("GET", BodyLength::Empty, ""),
        ("POST", BodyLength::Empty, "content-length: 0\r\n"),
        ("POST", BodyLength::Known(5), "content-length: 5\r\n"),
        ("POST", BodyLength::Unknown, "transfer-encoding: chunked\r\n"),
    ] {
        let parts = http::Request::builder()
            .method(method)
            .uri("http://a/")
            .header("content-length", "7")
            .header("host", "other")
            .header("upgrade", "x")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let mut out = BytesMut::new();
        encode_request(&parts, None, body, false, false, &mut out);
        assert_eq!(text(&out), format!("{method} / HTTP/1.1\r\nhost: a\r\n{expected}\r\n"));
    }
}

#[test]
fn forms_of_targets() {
    let line = |method: &str, uri: &str| {
        let parts = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0;
        let mut out = BytesMut::new();
        encode_request(&parts, None, BodyLength::Empty, false, false, &mut out);
        text(&out).lines().next().unwrap().to_owned()
    };
    assert_eq!(line("CONNECT", "a:443"), "CONNECT a:443 HTTP/1.1");
    assert_eq!(line("OPTIONS", "*"), "OPTIONS * HTTP/1.1");
    assert_eq!(line("GET", "http://a?b"), "GET /?b HTTP/1.1");
    assert_eq!(line("GET", "http://a"), "GET / HTTP/1.1");
}

#[test]
fn a_body_is_as_long_as_announced() {
    let mut out = BytesMut::new();
    let mut body = BodyEncoder::Length(5);
    assert_eq!(body.data(Bytes::from_static(b"abc"), &mut out), Ok(()));
    assert_eq!(body.end(None, &mut out), Err(WrongLength));
    assert_eq!(body.data(Bytes::from_static(b"def"), &mut out), Err(WrongLength));
    assert_eq!(text(&out), "abc");
    let mut none = BodyEncoder::Empty;
    none.data(Bytes::from_static(b"abc"), &mut out).unwrap();
    none.end(None, &mut out).unwrap();
    assert_eq!(text(&out), "abc");
}
