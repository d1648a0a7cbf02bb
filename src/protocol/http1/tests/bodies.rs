//! Bodies.

use super::*;
use http::HeaderMap;

/// All of a body, its trailers, and what is left of the input.
fn read(
    framing: Framing,
    text: &[u8],
    limits: &Limits,
) -> Result<(Vec<u8>, HeaderMap, Vec<u8>, bool), Fault> {
    let (mut decoder, mut buf) = (BodyDecoder::new(framing), BytesMut::from(text));
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(piece) = decoder.decode(&mut buf, limits)? {
        match piece {
            Piece::Data(bytes) => {
                assert!(!bytes.is_empty());
                data.extend_from_slice(&bytes);
            }
            Piece::Trailers(fields) => trailers = fields,
        }
    }
    Ok((data, trailers, buf.to_vec(), decoder.is_done()))
}

fn chunked(text: &str) -> Result<(Vec<u8>, HeaderMap, Vec<u8>, bool), Fault> {
    read(Framing::Chunked, text.as_bytes(), &Limits::default())
}

#[test]
fn lengths() {
    let limits = Limits::default();
    let (data, _, rest, done) = read(Framing::Length(5), b"helloGET", &limits).unwrap();
    assert_eq!((&data[..], &rest[..], done), (&b"hello"[..], &b"GET"[..], true));
    let (data, _, _, done) = read(Framing::Length(5), b"hell", &limits).unwrap();
    assert_eq!((&data[..], done), (&b"hell"[..], false));
    for framing in [Framing::Empty, Framing::Length(0)] {
        let (data, _, rest, done) = read(framing, b"GET", &limits).unwrap();
        assert_eq!((&data[..], &rest[..], done), (&b""[..], &b"GET"[..], true));
    }
    let (data, _, _, done) = read(Framing::UntilClose, b"hello", &limits).unwrap();
    assert_eq!((&data[..], done), (&b"hello"[..], false));
}

#[test]
fn chunks() {
    let (data, trailers, rest, done) =
        chunked("5\r\nhello\r\n00000000000A;a=\"b c\" ;d\r\n0123456789\r\n0\r\n\r\nGET").unwrap();
    assert_eq!((&data[..], &rest[..], done), (&b"hello0123456789"[..], &b"GET"[..], true));
    assert!(trailers.is_empty());
    let (_, trailers, rest, done) =
        chunked("0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: b\r\nx-sum: 2\r\n\r\nGET").unwrap();
    assert_eq!((&rest[..], done), (&b"GET"[..], true));
    let trailers: Vec<_> = trailers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(trailers, [("x-sum", "1"), ("x-sum", "2")]);
    let (_, trailers, _, done) = chunked("0\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert!(trailers.is_empty() && done);
}

#[test]
fn chunks_that_are_refused() {
    for (text, fault) in [
        ("-1\r\n", Fault::CHUNK),
        ("+1\r\nx\r\n", Fault::CHUNK),
        ("0x1\r\nx\r\n", Fault::CHUNK),
        ("\r\n", Fault::CHUNK),
        (" 1\r\nx\r\n", Fault::CHUNK),
        ("1 \r\nx\r\n", Fault::CHUNK),
        ("1_0\r\nx\r\n", Fault::CHUNK),
        ("g\r\n", Fault::CHUNK),
        (";a\r\n", Fault::CHUNK),
        ("1;\x01\r\nx\r\n", Fault::CHUNK),
        ("1;a\rb\r\nx\r\n", Fault::CHUNK),
        ("1;a\nb\r\nx\r\n", Fault::CHUNK),
        ("1\nx\r\n", Fault::CHUNK),
        ("1\r\r\nx\r\n", Fault::CHUNK),
        ("1\r\nx\n0\r\n\r\n", Fault::CHUNK),
        ("1\r\nxx\r\n0\r\n\r\n", Fault::CHUNK),
        ("1\r\nx0\r\n\r\n", Fault::CHUNK),
        ("10000000000000000\r\n", Fault::CHUNK),
        ("00000000000000001\r\n", Fault::CHUNK),
        ("0\r\n\n", Fault::CHARACTERS),
        ("0\r\nX: a\n\r\n", Fault::CHARACTERS),
        ("0\r\nX : a\r\n\r\n", Fault::CHARACTERS),
        ("0\r\n X: a\r\n\r\n", Fault::CHARACTERS),
        ("0\r\nX: a\r\n b\r\n\r\n", Fault::CHARACTERS),
        ("0\r\nX: \0\r\n\r\n", Fault::CHARACTERS),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", Fault::CHARACTERS),
    ] {
        assert_eq!(chunked(text).unwrap_err(), fault, "{}", text.escape_debug());
        let lenient = Limits { lenient: true, ..Limits::default() };
        assert_eq!(read(Framing::Chunked, text.as_bytes(), &lenient).unwrap_err(), fault, "{text}");
    }
    assert_eq!(chunked(&format!("1;{}", "a".repeat(1100))).unwrap_err(), Fault::CHUNK);
    let padded = format!("1;{}\r\nx\r\n", "a".repeat(1000)).repeat(20);
    assert_eq!(chunked(&padded).unwrap_err(), Fault::CHUNK, "extensions outweigh the data");
    let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
    assert_eq!(chunked(&many).unwrap_err(), Fault::TOO_MANY_HEADERS);
    let large = format!("0\r\na: {}", "b".repeat(70_000));
    assert_eq!(chunked(&large).unwrap_err(), Fault::HEADERS_TOO_LARGE);
}

#[test]
fn the_end_comes_with_the_last_data() {
    let (mut decoder, mut buf) = (BodyDecoder::new(Framing::Chunked), BytesMut::from("2\r\nok\r\n0\r\n\r\n"));
    assert!(matches!(decoder.decode(&mut buf, &Limits::default()), Ok(Some(Piece::Data(_)))));
    assert!(decoder.is_done() && buf.is_empty());
}

#[test]
fn a_body_cut_short_is_a_fault() {
    for framing in [Framing::Length(5), Framing::Chunked] {
        assert_eq!(BodyDecoder::new(framing).on_end_of_input(), Err(Fault::CUT_SHORT));
    }
    let mut until_close = BodyDecoder::new(Framing::UntilClose);
    assert_eq!(until_close.on_end_of_input(), Ok(()));
    assert!(until_close.is_done());
    let (mut decoder, mut buf) = (BodyDecoder::new(Framing::Chunked), BytesMut::from("0\r\nX: a\r\n"));
    assert_eq!(decoder.decode(&mut buf, &Limits::default()), Ok(None));
    assert_eq!(decoder.on_end_of_input(), Err(Fault::CUT_SHORT));
}

#[test]
fn data_is_not_copied() {
    let mut buf = BytesMut::from("5\r\nhello\r\n");
    let at = buf.as_ptr() as usize + 3;
    let piece = BodyDecoder::new(Framing::Chunked).decode(&mut buf, &Limits::default());
    let Ok(Some(Piece::Data(data))) = piece else { panic!("{piece:?}") };
    assert_eq!(data.as_ptr() as usize, at);
}
