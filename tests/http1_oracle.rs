//! The HTTP/1 codec against an independent reader: what it accepts, hyper accepts and understands the same way.

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mizzen::protocol::http1::{BodyDecoder, Limits, Piece, RequestDecoder};
use proptest::prelude::*;
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use tokio::io::AsyncWriteExt;

/// A request as a backend acts on it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    method: String,
    target: String,
    host: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// Fields both sides keep, in an order of their own.
fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let own = [CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING];
    let kept = headers.iter().filter(|(name, _)| !own.contains(name));
    let mut all: Vec<_> = kept.map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec())).collect();
    all.sort();
    all
}

/// Ours: whole requests up to the first fault or the last on the connection, and whether there was a fault.
fn ours(stream: &[u8]) -> (Vec<Seen>, bool) {
    let (mut heads, mut buf, mut all) = (RequestDecoder::default(), BytesMut::from(stream), Vec::new());
    let limits = Limits { accept_http_10: true, ..Limits::default() };
    loop {
        let head = match heads.decode(&mut buf, &limits) {
            Ok(Some(head)) => head,
            Ok(None) => return (all, !buf.is_empty()),
            Err(_) => return (all, true),
        };
        let (mut decoder, mut body) = (BodyDecoder::new(head.framing), Vec::new());
        while !decoder.is_done() {
            match decoder.decode(&mut buf, &limits) {
                Ok(Some(Piece::Data(bytes))) => body.extend_from_slice(&bytes),
                Ok(Some(Piece::Trailers(_))) => {}
                Ok(None) if decoder.is_done() => {}
                Ok(None) | Err(_) => return (all, true),
            }
        }
        all.push(Seen {
            method: head.parts.method.to_string(),
            target: head.parts.uri.path_and_query().unwrap().to_string(),
            host: head.parts.uri.authority().unwrap().to_string(),
            fields: fields(&head.parts.headers),
            body,
        });
        if !head.keep_alive {
            return (all, false);
        }
    }
}

/// What hyper's server makes of the same bytes.
async fn hypers(stream: &[u8]) -> Vec<Seen> {
    let all = Rc::new(RefCell::new(Vec::new()));
    let seen = all.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let host = head.headers.get(HOST).map(|host| host.to_str().unwrap().to_owned());
                seen.borrow_mut().push(Seen {
                    method: head.method.to_string(),
                    target: head.uri.path_and_query().unwrap().to_string(),
                    host: host.unwrap_or_default(),
                    fields: fields(&head.headers),
                    body: body.to_bytes().to_vec(),
                });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(stream).await.unwrap();
    client.shutdown().await.unwrap();
    let mut builder = hyper::server::conn::http1::Builder::new();
    let _ = builder.half_close(true).serve_connection(TokioIo::new(server), service).await;
    let all = all.borrow();
    all.clone()
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        10 => "(X|x)-[A-Za-z0-9]{1,8}:[ \t]{0,2}([!-~]([ -~\t]{0,12}[!-~])?)?[ \t]{0,2}\r\n"
            .prop_map(String::into_bytes),
        2 => Just(b"Cookie: a=b\r\n".to_vec()),
        1 => Just(b"X-High: \xc3\xa9\xff\r\n".to_vec()),
        1 => Just(b"Connection: keep-alive\r\n".to_vec()),
        1 => Just(b"Host: h\r\n".to_vec()),
        1 => Just(b"Content-Length: 3\r\n".to_vec()),
        1 => Just(b"folded: a\r\n b\r\n".to_vec()),
        1 => Just(b"bare: a\nb: c\r\n".to_vec()),
        1 => Just(b"sp : a\r\n".to_vec()),
    ];
    let body = prop_oneof![
        Just((String::new(), Vec::new())),
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|body| (format!("Content-Length: {}\r\n", body.len()), body)),
        (proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..4), any::<bool>())
            .prop_map(|(chunks, trailers)| {
                let mut body = Vec::new();
                for chunk in &chunks {
                    body.extend_from_slice(format!("{:X};x=y\r\n", chunk.len()).as_bytes());
                    body.extend_from_slice(chunk);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(if trailers { b"0\r\nX-T: 1\r\n\r\n" } else { b"0\r\n\r\n" });
                ("Transfer-Encoding: chunked\r\n".to_owned(), body)
            }),
    ];
    let line = "(GET|POST|PUT|get|M-SEARCH) /[a-zA-Z0-9/._~%-]{0,12}(\\?[a-z=&/?]{0,8})? HTTP/1\\.1\r\n";
    (line, proptest::collection::vec(field, 0..6), body).prop_map(|(line, fields, (framing, body))| {
        let mut all = line.into_bytes();
        all.extend_from_slice(b"Host: h\r\n");
        fields.iter().for_each(|field| all.extend_from_slice(field));
        all.extend_from_slice(framing.as_bytes());
        all.extend_from_slice(b"\r\n");
        all.extend_from_slice(&body);
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn requests_mean_the_same_to_hyper(messages in proptest::collection::vec(message(), 1..4)) {
        let stream = messages.concat();
        let (ours, fault) = ours(&stream);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let theirs = runtime.block_on(hypers(&stream));
        // What we refuse, others may take; what we pass on must be what they would have read.
        prop_assert!(theirs.len() >= ours.len(), "{ours:?} {theirs:?}");
        prop_assert_eq!(&theirs[..ours.len()], &ours[..]);
        prop_assert!(fault || theirs.len() == ours.len());
    }
}

#[test]
fn ordinary_messages_are_not_refused() {
    let stream =
        b"POST /a HTTP/1.1\r\nHost: h\r\nX-A:  b \r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\
                   GET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let (ours, fault) = ours(stream);
    assert!(!fault);
    assert_eq!(ours.len(), 2);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(hypers(stream)), ours);
}
