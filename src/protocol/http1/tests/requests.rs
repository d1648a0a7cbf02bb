//! Request heads.

use super::*;
use http::{Method, Version};

fn lenient() -> Limits {
    Limits { lenient: true, accept_http_10: true, ..Limits::default() }
}

#[test]
fn an_ordinary_request() {
    let head = accepted(
        b"\r\nPOST /a?b=c HTTP/1.1\r\nHost: Example.com:8080\r\nUser-Agent: x\r\ncontent-length: 5\r\n\
          X-A: 1\r\nx-a: 2\r\nX-a: 3\r\nConnection: close\r\n\r\nhello",
        &Limits::default(),
    );
    assert_eq!(head.parts.method, Method::POST);
    assert_eq!(head.parts.uri.to_string(), "http://Example.com:8080/a?b=c");
    assert_eq!(head.parts.version, Version::HTTP_11);
    assert_eq!(head.framing, Framing::Length(5));
    assert!(!head.keep_alive && !head.upgrade && !head.expect_continue);
    let names: Vec<_> = head.parts.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    let expected = [("user-agent", "x"), ("content-length", "5"), ("x-a", "1"), ("x-a", "2"), ("x-a", "3")];
    assert_eq!(names, expected);
    let case = head.case.unwrap();
    let written = |name: &'static str, nth| case.get(&http::HeaderName::from_static(name), nth);
    assert_eq!(written("host", 0), Some(&b"Host"[..]));
    assert_eq!(written("x-a", 0), Some(&b"X-A"[..]));
    assert_eq!(written("x-a", 1), None);
    assert_eq!(written("x-a", 2), Some(&b"X-a"[..]));
    assert_eq!(written("content-length", 0), None);
}

#[test]
fn what_belongs_to_the_connection_goes() {
    let head = accepted(
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, x-mine, TE, Upgrade, HTTP2-Settings\r\n\
          x-mine: 1\r\nte: gzip, trailers;q=1\r\nkeep-alive: timeout=5\r\nproxy-connection: close\r\n\
          upgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        &Limits::default(),
    );
    let names: Vec<_> = head.parts.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(names, [("te", "trailers")]);
    assert!(head.keep_alive && !head.upgrade && head.case.is_none());
}

#[test]
fn upgrades() {
    let asks = |fields: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let head = accepted(text.as_bytes(), &Limits::default());
        assert_eq!(head.upgrade, head.parts.headers.contains_key("upgrade"), "{fields}");
        head.upgrade
    };
    assert!(asks("Connection: Upgrade\r\nUpgrade: websocket\r\n"));
    assert!(asks("Connection: keep-alive, upgrade\r\nUpgrade: foo/2\r\nContent-Length: 0\r\n"));
    assert!(!asks("Upgrade: websocket\r\n"));
    assert!(!asks("Connection: upgrade\r\n"));
    assert!(!asks("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n"));
    assert!(!asks("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n"));
    assert!(!asks("Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n"));
}

#[test]
fn targets() {
    let uri = |target: &str, host: &str| {
        let text = format!("OPTIONS {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        request(text.as_bytes(), &Limits::default()).map(|head| head.unwrap().parts.uri.to_string())
    };
    assert_eq!(uri("*", "a").unwrap(), "http://a*");
    assert_eq!(uri("//b/c", "a").unwrap(), "http://a//b/c");
    assert_eq!(uri("/x?a=http://b/", "[::1]:80").unwrap(), "http://[::1]:80/x?a=http://b/");
    assert_eq!(uri("http://a/x", "a").unwrap(), "http://a/x");
    assert_eq!(uri("HTTP://A:80?x", "a:80").unwrap(), "http://A:80/?x");
    assert_eq!(uri("http://a", "a").unwrap(), "http://a*");
    for (target, host, fault) in [
        ("/", "", Fault::NO_HOST),
        ("/", "a b", Fault::HOST),
        ("/", "a/b", Fault::HOST),
        ("/", "u@a", Fault::HOST),
        ("/", "a:b", Fault::HOST),
        ("/", "a:99999", Fault::HOST),
        ("/", "a,b", Fault::HOST),
        ("/", "a#b", Fault::HOST),
        ("/", "a?b", Fault::HOST),
        ("/", ":80", Fault::HOST),
        ("http://b/", "a", Fault::HOST),
        ("http://a:80/", "a", Fault::HOST),
        ("http://u@a/", "a", Fault::URL),
        ("http:///", "a", Fault::NO_HOST),
        ("https://a/", "a", Fault::HTTPS_IN_PLAINTEXT),
        ("ftp://a/", "a", Fault::SCHEME),
        ("a", "a", Fault::URL),
        ("a:80", "a:80", Fault::URL),
        ("?x", "a", Fault::URL),
        ("**", "a", Fault::URL),
        ("/a#b", "a", Fault::FRAGMENT),
        ("http://a/#b", "a", Fault::FRAGMENT),
    ] {
        assert_eq!(uri(target, host), Err(fault), "{target} {host}");
    }
    let cut = Limits { reject_fragment: false, ..Limits::default() };
    assert_eq!(accepted(b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", &cut).parts.uri, "http://a/a?b");
    assert_eq!(accepted(b"GET http://a#c HTTP/1.1\r\nHost: a\r\n\r\n", &cut).parts.uri, "http://a/");
    assert_eq!(refused(b"GET # HTTP/1.1\r\nHost: a\r\n\r\n", &cut), Fault::URL);
    let tls = Limits { tls: true, ..Limits::default() };
    assert_eq!(accepted(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &tls).parts.uri, "https://a/");
    let origin = Limits { allow_absolute_url: false, ..Limits::default() };
    assert_eq!(refused(b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", &origin), Fault::ABSOLUTE_URL);
    assert_eq!(refused(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", &tls), Fault::URL);
}

#[test]
fn connect() {
    let head = accepted(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nTLS", &Limits::default());
    assert_eq!((head.parts.uri.to_string().as_str(), head.framing), ("a:443", Framing::Empty));
    for (text, fault) in [
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::URL),
        ("CONNECT a:x HTTP/1.1\r\nHost: a\r\n\r\n", Fault::URL),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::URL),
        ("CONNECT http://a:443/ HTTP/1.1\r\nHost: a:443\r\n\r\n", Fault::URL),
        ("CONNECT a:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", Fault::HOST),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 1\r\n\r\n", Fault::BODY_DISALLOWED),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fault::BODY_DISALLOWED,
        ),
    ] {
        assert_eq!(refused(text.as_bytes(), &Limits::default()), fault, "{text}");
    }
}

#[test]
fn lines_that_are_refused() {
    for (text, fault) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", Fault::CHARACTERS),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::CHARACTERS),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\0\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX y: b\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Fault::CHARACTERS),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::CODEC),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Fault::CODEC),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Fault::CHARACTERS),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::CODEC),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::CODEC),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::CODEC),
        ("G\u{e9}T / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::CODEC),
        ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::CODEC),
        ("GET /\r\n\r\n", Fault::CODEC),
        ("GET / FTP/1.1\r\nHost: a\r\n\r\n", Fault::CODEC),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Fault::CODEC),
        ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Fault::VERSION),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Fault::VERSION),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Fault::VERSION),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", Fault::LOW_VERSION),
        ("GET / HTTP/1.1\r\n\r\n", Fault::NO_HOST),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Fault::HOST),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-for\r\n\r\n", Fault::CONNECTION_HEADER),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", Fault::CONNECTION_HEADER),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n", Fault::CONNECTION_HEADER),
    ] {
        assert_eq!(refused(text.as_bytes(), &Limits::default()), fault, "{}", text.escape_debug());
    }
}

#[test]
fn framing() {
    let framed = |fields: &str| {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let limits = Limits::default();
        request(text.as_bytes(), &limits).map(|head| head.unwrap().framing)
    };
    assert_eq!(framed(""), Ok(Framing::Empty));
    assert_eq!(framed("Content-Length: 0\r\n"), Ok(Framing::Length(0)));
    assert_eq!(framed("Content-Length:\t 18446744073709551615 \r\n"), Ok(Framing::Length(u64::MAX)));
    assert_eq!(framed("Content-Length: 007\r\n"), Ok(Framing::Length(7)));
    assert_eq!(framed("Transfer-Encoding: Chunked\t\r\n"), Ok(Framing::Chunked));
    for (value, fault) in [
        ("18446744073709551616", Fault::CONTENT_LENGTH),
        ("100000000000000000000", Fault::CONTENT_LENGTH),
        ("", Fault::CONTENT_LENGTH),
        ("+1", Fault::CONTENT_LENGTH),
        ("-1", Fault::CONTENT_LENGTH),
        ("0x1", Fault::CONTENT_LENGTH),
        ("1, 1", Fault::CONTENT_LENGTH),
        ("1 1", Fault::CONTENT_LENGTH),
        ("1\r\nContent-Length: 1", Fault::CONTENT_LENGTH),
        ("1\r\nContent-Length: 2", Fault::CONTENT_LENGTH),
        ("1\r\nTransfer-Encoding: chunked", Fault::CHUNKED_CONTENT_LENGTH),
    ] {
        assert_eq!(framed(&format!("Content-Length: {value}\r\n")), Err(fault), "{value}");
    }
    for (value, fault) in [
        ("chunked\r\nContent-Length: 1", Fault::CHUNKED_CONTENT_LENGTH),
        ("chunked\r\nTransfer-Encoding: chunked", Fault::TRANSFER_ENCODING),
        ("gzip\r\nTransfer-Encoding: chunked", Fault::TRANSFER_ENCODING),
        ("chunked, chunked", Fault::TRANSFER_ENCODING),
        ("chunked, gzip", Fault::TRANSFER_ENCODING),
        ("gzip", Fault::TRANSFER_ENCODING),
        ("identity", Fault::TRANSFER_ENCODING),
        ("", Fault::TRANSFER_ENCODING),
        ("xchunked", Fault::TRANSFER_ENCODING),
        ("chunked;q=1", Fault::TRANSFER_ENCODING),
        ("\"chunked\"", Fault::TRANSFER_ENCODING),
        ("gzip, chunked", Fault::UNKNOWN_CODING),
    ] {
        assert_eq!(framed(&format!("Transfer-Encoding: {value}\r\n")), Err(fault), "{value}");
    }
    let old = Limits { accept_http_10: true, ..Limits::default() };
    let text = b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(text, &old), Fault::TRANSFER_ENCODING_NOT_ALLOWED);
}

#[test]
fn a_length_travels_in_one_form() {
    let head = accepted(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\n\r\n", &Limits::default());
    assert_eq!(head.parts.headers.get("content-length").unwrap(), "7");
}

#[test]
fn lenient_permits_exactly_this() {
    let limits = lenient();
    let head = accepted(
        b"\nPOST / HTTP/1.1\nHost: a\r\nX: b\r\n \tc\n d\r\nContent-Length: 5\nContent-Length: 5\n\nhello",
        &limits,
    );
    assert_eq!(head.framing, Framing::Length(5));
    assert_eq!(head.parts.headers.get("x").unwrap(), "b   \tc  d");
    assert_eq!(head.parts.headers.get_all("content-length").iter().count(), 1);
    let head = accepted(b"GET /x HTTP/1.0\r\n\r\n", &limits);
    assert_eq!((head.parts.uri.to_string().as_str(), head.keep_alive), ("/x", false));
    for (text, fault) in [
        ("GET / HTTP/1.1\r\n\r\n", Fault::NO_HOST),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", Fault::CHARACTERS),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", Fault::CHARACTERS),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            Fault::CONTENT_LENGTH,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fault::CHUNKED_CONTENT_LENGTH,
        ),
    ] {
        assert_eq!(refused(text.as_bytes(), &limits), fault, "{}", text.escape_debug());
    }
}

#[test]
fn http_10() {
    let limits = Limits { accept_http_10: true, ..Limits::default() };
    assert!(!accepted(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", &limits).keep_alive);
    assert!(accepted(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n", &limits).keep_alive);
    assert_eq!(refused(b"GET / HTTP/1.0\r\n\r\n", &limits), Fault::NO_HOST);
    let limits = Limits { default_host_10: Some("b".parse().unwrap()), ..limits };
    assert_eq!(accepted(b"GET / HTTP/1.0\r\n\r\n", &limits).parts.uri, "http://b/");
}

#[test]
fn sizes() {
    let limits = Limits { head_bytes: 100, max_headers: 3, ..Limits::default() };
    let long = "x".repeat(100);
    let too_long = format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(refused(too_long.as_bytes(), &limits), Fault::URI_TOO_LONG);
    let too_large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n");
    assert_eq!(refused(too_large.as_bytes(), &limits), Fault::HEADERS_TOO_LARGE);
    let rest = 100 - "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
    let exact = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(rest));
    accepted(format!("{exact}{long}").as_bytes(), &limits);
    let three = b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\n\r\n";
    accepted(three, &limits);
    let four = b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n";
    assert_eq!(refused(four, &limits), Fault::TOO_MANY_HEADERS);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(2000));
    assert_eq!(refused(many.as_bytes(), &Limits::default()), Fault::TOO_MANY_HEADERS);
    // More than a map can hold, whatever the limit says.
    let limits = Limits { head_bytes: 1 << 20, max_headers: 1 << 20, ..Limits::default() };
    let names: String = (0..40_000).map(|n| format!("x{n}: b\r\n")).collect();
    let more = format!("GET / HTTP/1.1\r\nHost: a\r\n{names}\r\n");
    assert_eq!(refused(more.as_bytes(), &limits), Fault::TOO_MANY_HEADERS);
}

#[test]
fn cookies_count_once() {
    let limits = Limits { max_headers: 2, ..Limits::default() };
    let crumbs: String = (0..200).map(|n| format!("Cookie: c{n}=1\r\n")).collect();
    let head = accepted(format!("GET / HTTP/1.1\r\nHost: a\r\n{crumbs}\r\n").as_bytes(), &limits);
    let joined: Vec<_> = (0..200).map(|n| format!("c{n}=1")).collect();
    assert_eq!(head.parts.headers.get("cookie").unwrap(), &joined.join("; "));
    let some =
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie:\r\nCookie: a\r\nCookie:\r\nCookie: b\r\nCookie:\r\n\r\n";
    assert_eq!(accepted(some, &limits).parts.headers.get("cookie").unwrap(), "a; b");
}

#[test]
fn values_keep_their_bytes() {
    let head =
        accepted(b"GET / HTTP/1.1\r\nHost: a\r\nX:\t a\tb \xff\xc3\xa9\t \r\nY:\r\n\r\n", &Limits::default());
    assert_eq!(head.parts.headers.get("x").unwrap().as_bytes(), b"a\tb \xff\xc3\xa9");
    assert_eq!(head.parts.headers.get("y").unwrap(), "");
}

#[test]
fn any_token_is_a_method() {
    for method in ["get", "M-SEARCH", "PROPPATCH", "!#$%&'*+-.^_`|~"] {
        let head = accepted(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), &Limits::default());
        assert_eq!(head.parts.method.as_str(), method);
        let known = Limits { custom_methods: false, ..Limits::default() };
        let mut buf = BytesMut::from(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let outcome = RequestDecoder::default().decode(&mut buf, &known).map(drop);
        let registered = ["M-SEARCH", "PROPPATCH"].contains(&method);
        assert_eq!(outcome, if registered { Ok(()) } else { Err(Fault::METHOD) }, "{method}");
    }
}

#[test]
fn foreign_lines_are_known() {
    for line in [&b"INVALID CONNECTION PREFACE\r\n\r\n"[..], b"HELO me\r\n", b"a b c d\n"] {
        assert!(is_foreign(line), "{}", line.escape_ascii());
    }
    for line in
        [&b"GET /\r\n"[..], b"FOO / HTTP/1.1\r\n", b"get / http/1.1\n", b"INVALID CONNECTION", b"x\r\n"]
    {
        assert!(!is_foreign(line), "{}", line.escape_ascii());
    }
}

#[test]
fn expectations() {
    let expects = |version: &str, value: &str| {
        let limits = Limits { accept_http_10: true, ..Limits::default() };
        accepted(format!("GET / {version}\r\nHost: a\r\nExpect: {value}\r\n\r\n").as_bytes(), &limits)
            .expect_continue
    };
    assert!(expects("HTTP/1.1", "100-Continue"));
    assert!(!expects("HTTP/1.1", "x"));
    assert!(!expects("HTTP/1.0", "100-continue"));
}

#[test]
fn pipelined_requests_follow_each_other() {
    let mut buf =
        BytesMut::from("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3");
    let (mut decoder, limits) = (RequestDecoder::default(), Limits::default());
    for path in ["/1", "/2"] {
        assert_eq!(decoder.decode(&mut buf, &limits).unwrap().unwrap().parts.uri.path(), path);
        assert!(!decoder.has_begun());
    }
    assert!(decoder.decode(&mut buf, &limits).unwrap().is_none());
    assert!(decoder.has_begun());
}
