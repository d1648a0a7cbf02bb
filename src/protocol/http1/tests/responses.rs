//! Response heads.

use super::*;
use http::Method;
use std::time::Duration;

fn response(text: &[u8], asked: Asked, limits: &Limits) -> Result<Option<ResponseHead>, Fault> {
    ResponseDecoder::default().decode(&mut BytesMut::from(text), asked, limits)
}

fn read(text: &str) -> Result<ResponseHead, Fault> {
    response(text.as_bytes(), Asked::default(), &Limits::default()).map(Option::unwrap)
}

#[test]
fn an_ordinary_response() {
    let head = read(
        "HTTP/1.1 404 No such\x20\r\nContent-Type: text/plain\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
         Content-Length: 3\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5, max=100\r\n\r\nabc",
    );
    let head = head.unwrap();
    assert_eq!((head.parts.status.as_u16(), head.framing), (404, Framing::Length(3)));
    assert!(head.keep_alive && !head.tunnel && !head.is_interim());
    assert_eq!(head.keep_alive_timeout, Some(Duration::from_secs(5)));
    let names: Vec<_> = head.parts.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    let expected =
        [("content-type", "text/plain"), ("set-cookie", "a"), ("set-cookie", "b"), ("content-length", "3")];
    assert_eq!(names, expected);
}

#[test]
fn framing() {
    let framed = |status: &str, fields: &str, asked: Asked| {
        let text = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
        response(text.as_bytes(), asked, &Limits::default()).map(|head| head.unwrap().framing)
    };
    let none = Asked::default();
    let head = Asked::new(&Method::HEAD, false);
    assert_eq!(framed("200", "", none), Ok(Framing::UntilClose));
    assert_eq!(framed("200", "Content-Length: 4\r\n", none), Ok(Framing::Length(4)));
    assert_eq!(framed("200", "Transfer-Encoding: chunked\r\n", none), Ok(Framing::Chunked));
    assert_eq!(framed("200", "Content-Length: 4\r\n", head), Ok(Framing::Empty));
    assert_eq!(framed("200", "Transfer-Encoding: chunked\r\n", head), Ok(Framing::Empty));
    assert_eq!(framed("304", "Content-Length: 4\r\n", none), Ok(Framing::Empty));
    assert_eq!(framed("204", "", none), Ok(Framing::Empty));
    assert_eq!(framed("204", "Content-Length: 0\r\n", none), Ok(Framing::Empty));
    assert_eq!(framed("100", "", none), Ok(Framing::Empty));
    for status in ["204", "103"] {
        let refused = framed(status, "Content-Length: 4\r\n", none);
        assert_eq!(refused, Err(Fault::CONTENT_LENGTH_NOT_ALLOWED), "{status}");
        let refused = framed(status, "Transfer-Encoding: chunked\r\n", none);
        assert_eq!(refused, Err(Fault::TRANSFER_ENCODING_NOT_ALLOWED), "{status}");
    }
    for (fields, fault) in [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", Fault::CHUNKED_CONTENT_LENGTH),
        ("Content-Length: 4\r\nContent-Length: 4\r\n", Fault::CONTENT_LENGTH),
        ("Content-Length: 4, 4\r\n", Fault::CONTENT_LENGTH),
        ("Content-Length: -4\r\n", Fault::CONTENT_LENGTH),
        ("Transfer-Encoding: gzip\r\n", Fault::TRANSFER_ENCODING),
        ("Transfer-Encoding: gzip, chunked\r\n", Fault::UNKNOWN_CODING),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::TRANSFER_ENCODING),
    ] {
        assert_eq!(framed("200", fields, none), Err(fault), "{fields}");
        assert_eq!(framed("200", fields, head), Err(fault), "{fields}");
    }
    let old = read("HTTP/1.0 200 x\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old.unwrap_err(), Fault::TRANSFER_ENCODING_NOT_ALLOWED);
}

#[test]
fn what_keeps_a_connection() {
    let keeps = |text: &str| read(text).unwrap().keep_alive;
    assert!(keeps("HTTP/1.1 204 x\r\n\r\n"));
    assert!(!keeps("HTTP/1.1 200 x\r\n\r\n"), "it ends with the connection");
    assert!(!keeps("HTTP/1.1 200 x\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n"));
    assert!(!keeps("HTTP/1.0 200 x\r\nContent-Length: 0\r\n\r\n"));
    assert!(keeps("HTTP/1.0 200 x\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"));
}

#[test]
fn tunnels() {
    let switch = b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let asked = Asked::new(&Method::GET, true);
    let head = response(switch, asked, &Limits::default()).unwrap().unwrap();
    assert!(head.tunnel && !head.is_interim() && !head.keep_alive);
    assert_eq!(head.framing, Framing::UntilClose);
    assert_eq!(head.parts.headers.get("upgrade").unwrap(), "websocket");
    assert_eq!(response(switch, Asked::default(), &Limits::default()).unwrap_err(), Fault::STATUS);
    for text in ["HTTP/1.1 101 x\r\n\r\n", "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n"] {
        assert_eq!(
            response(text.as_bytes(), asked, &Limits::default()).unwrap_err(),
            Fault::STATUS,
            "{text}"
        );
    }
    let asked = Asked::new(&Method::CONNECT, false);
    let agreed = response(b"HTTP/1.1 200 x\r\n\r\nTLS", asked, &Limits::default()).unwrap().unwrap();
    assert!(agreed.tunnel);
    let refused = b"HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n";
    assert!(!response(refused, asked, &Limits::default()).unwrap().unwrap().tunnel);
    let framed = b"HTTP/1.1 200 x\r\nContent-Length: 5\r\n\r\n";
    let fault = response(framed, asked, &Limits::default()).unwrap_err();
    assert_eq!(fault, Fault::CONTENT_LENGTH_NOT_ALLOWED);
    let offers = read("HTTP/1.1 426 x\r\nConnection: upgrade\r\nUpgrade: h3\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(offers.unwrap().parts.headers.get("upgrade").unwrap(), "h3");
}

#[test]
fn lines_that_are_refused() {
    for (text, fault) in [
        ("HTTP/1.1 200 OK\nA: b\r\n\r\n", Fault::CHARACTERS),
        ("HTTP/1.1 200 OK\r\nA: b\n\r\n", Fault::CHARACTERS),
        ("HTTP/1.1 200 OK\r\nA: b\r\n\n", Fault::CHARACTERS),
        ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", Fault::CHARACTERS),
        ("HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", Fault::CHARACTERS),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Fault::CHARACTERS),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Fault::CHARACTERS),
        ("HTTP/1.1 200 OK\r\n A: b\r\n\r\n", Fault::CHARACTERS),
        ("HTTP/1.1 200 OK\r\nA\r\n\r\n", Fault::CHARACTERS),
        ("HTTP/2.0 200 OK\r\n\r\n", Fault::VERSION),
        ("HTTP/1.1 099 OK\r\n\r\n", Fault::STATUS),
        ("HTTP/1.1 20 OK\r\n\r\n", Fault::STATUS),
        ("HTTP/1.1 2000 OK\r\n\r\n", Fault::STATUS),
        ("HTTP/1.1  200 OK\r\n\r\n", Fault::STATUS),
    ] {
        assert_eq!(read(text).unwrap_err(), fault, "{}", text.escape_debug());
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
    assert_eq!(read(&many).unwrap_err(), Fault::TOO_MANY_HEADERS);
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(61_440));
    assert_eq!(read(&large).unwrap_err(), Fault::HEADERS_TOO_LARGE);
    let limits = Limits { lenient: true, ..Limits::default() };
    let folded = b"HTTP/1.1 200 OK\nA: b\n c\nContent-Length: 1\nContent-Length: 1\n\n";
    let head = response(folded, Asked::default(), &limits).unwrap().unwrap();
    assert_eq!(
        (head.parts.headers.get("a").unwrap().as_bytes(), head.framing),
        (&b"b  c"[..], Framing::Length(1))
    );
}
