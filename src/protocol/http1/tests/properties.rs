//! What holds for any input.

use super::*;
use http::HeaderMap;
use proptest::prelude::*;

/// Pieces requests are made of, sound ones and others.
const LINES: [&str; 26] = [
    "GET / HTTP/1.1\r\n",
    "POST /a?b=c HTTP/1.1\r\n",
    "GET http://a/ HTTP/1.1\r\n",
    "GET / HTTP/1.0\r\n",
    "Host: a\r\n",
    "Host: b\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "content-length: 005\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, x\r\n",
    "Connection: upgrade\r\nUpgrade: websocket\r\n",
    "Cookie: a=b\r\n",
    "x: \ty\u{e9}\t \r\n",
    "X: folded\r\n  value\r\n",
    "bare: lf\n",
    "bare: c\rr\r\n",
    "nul: \0\r\n",
    "sp ace: 1\r\n",
    "\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "hello",
    "\n",
    "\r",
];

const SOUND: [&str; 3] = [
    "GET / HTTP/1.1\r\nHost: a\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
];

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => proptest::sample::select(LINES.as_slice()).prop_map(|line| line.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ];
    let sound = proptest::sample::select(SOUND.as_slice());
    (sound, proptest::collection::vec(line, 0..12)).prop_map(|(first, lines)| {
        let mut all = first.as_bytes().to_vec();
        lines.iter().for_each(|line| all.extend_from_slice(line));
        all
    })
}

/// Everything a connection's input comes to.
#[derive(Debug, PartialEq)]
enum Seen {
    Head(String),
    Data(Vec<u8>),
    Trailers(HeaderMap),
    End,
    Fault(Fault),
}

/// Reads requests and their bodies from the pieces.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> Vec<Seen> {
    let (mut seen, mut buf) = (Vec::new(), BytesMut::new());
    let (mut heads, mut body) = (RequestDecoder::default(), None::<BodyDecoder>);
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let step = match &mut body {
                None => heads.decode(&mut buf, limits).map(|head| {
                    let head = head?;
                    body = Some(BodyDecoder::new(head.framing));
                    Some(Seen::Head(format!("{:?} {:?} {}", head.parts, head.framing, head.keep_alive)))
                }),
                Some(decoder) if decoder.is_done() => {
                    body = None;
                    Ok(Some(Seen::End))
                }
                Some(decoder) => decoder.decode(&mut buf, limits).map(|piece| match piece {
                    Some(Piece::Data(bytes)) => Some(Seen::Data(bytes.to_vec())),
                    Some(Piece::Trailers(fields)) => Some(Seen::Trailers(fields)),
                    None if decoder.is_done() => Some(Seen::Data(Vec::new())),
                    None => None,
                }),
            };
            match step {
                Ok(None) => break,
                Ok(Some(Seen::Data(more))) => match seen.last_mut() {
                    Some(Seen::Data(data)) => data.extend_from_slice(&more),
                    _ if more.is_empty() => {}
                    _ => seen.push(Seen::Data(more)),
                },
                Ok(Some(step)) => seen.push(step),
                Err(fault) => {
                    seen.push(Seen::Fault(fault));
                    return seen;
                }
            }
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn however_the_bytes_are_cut(stream in stream(), size in 1usize..9, lenient: bool, small: bool) {
        let limits = Limits {
            lenient,
            accept_http_10: true,
            head_bytes: if small { 60 } else { 61_440 },
            ..Limits::default()
        };
        let whole = read(std::iter::once(&stream[..]), &limits);
        prop_assert_eq!(read(stream.chunks(size), &limits), whole);
    }

    #[test]
    fn lenient_accepts_what_strict_accepts(stream in stream()) {
        let strict = Limits { accept_http_10: true, ..Limits::default() };
        let lenient = Limits { lenient: true, ..strict.clone() };
        let (strict, lenient) =
            (read(std::iter::once(&stream[..]), &strict), read(std::iter::once(&stream[..]), &lenient));
        let sound = strict.iter().take_while(|seen| !matches!(seen, Seen::Fault(_))).count();
        prop_assert_eq!(&strict[..sound], &lenient[..sound]);
    }

    #[test]
    fn what_is_written_reads_the_same(
        names in proptest::collection::vec("[A-Za-z][A-Za-z0-9-]{0,12}", 0..12),
        value in "[!-~\u{a1}-\u{ff}]([ -~\t]{0,20}[!-~])?",
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..5),
        chunked: bool,
    ) {
        let fields: String = names.iter().map(|name| format!("X-{name}: {value}\r\n")).collect();
        let size: usize = parts.iter().map(Vec::len).sum();
        let framing = match chunked {
            true => "Transfer-Encoding: chunked\r\n".to_owned(),
            false => format!("Content-Length: {size}\r\n"),
        };
        let text = format!("POST /p?q HTTP/1.1\r\nHost: h:1\r\n{framing}{fields}\r\n");
        let limits = Limits::default();
        let first = accepted(text.as_bytes(), &limits);
        let mut out = BytesMut::new();
        let mut body = encode_request(
            &first.parts, first.case.as_deref(), first.framing.into(), false, false, &mut out,
        );
        for part in &parts {
            body.data(part.clone().into(), &mut out).unwrap();
        }
        body.end(None, &mut out).unwrap();
        let mut decoder = RequestDecoder::default();
        let second = decoder.decode(&mut out, &limits).unwrap().unwrap();
        prop_assert_eq!(format!("{:?}", second.parts), format!("{:?}", first.parts));
        prop_assert_eq!(second.framing, first.framing);
        for name in first.parts.headers.keys() {
            for nth in 0..first.parts.headers.get_all(name).iter().count() {
                let written = |head: &RequestHead| {
                    head.case.as_ref().and_then(|case| case.get(name, nth).map(<[u8]>::to_vec))
                };
                prop_assert_eq!(written(&first), written(&second), "{} {}", name, nth);
            }
        }
        let mut data = Vec::new();
        let mut body = BodyDecoder::new(second.framing);
        while let Some(Piece::Data(bytes)) = body.decode(&mut out, &limits).unwrap() {
            data.extend_from_slice(&bytes);
        }
        prop_assert!(body.is_done() && out.is_empty());
        prop_assert_eq!(data, parts.concat());
    }
}
