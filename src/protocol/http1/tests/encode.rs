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
