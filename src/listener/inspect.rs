//! What the listener filters find in a connection's first bytes.

use super::Active;
use super::chain::{self, Inputs};
use crate::net::Conn;
use crate::snapshot::ListenerSpec;
use crate::telemetry::TlsInspectorStats;
use crate::tls::{Heard, Hello, client_hello};
use bytes::BytesMut;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

/// Bytes looked at before the search is given up.
const MOST: usize = 64 * 1024;
/// Bytes read at once.
const CHUNK: usize = 2048;
/// Longest request line that is waited for.
const LINE: usize = 16 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads as far as the chains that can still match depend on it, and notes in `inputs` what it finds. `None`: the
/// client left, took too long, or the listener goes.
pub(super) async fn look(
    io: &mut Conn,
    active: &Active,
    spec: &ListenerSpec,
    inputs: &mut Inputs,
) -> Option<BytesMut> {
    let mut early = BytesMut::new();
    let rules = &spec.model.inspectors;
    let waiting = active.wait();
    let found = {
        let mut task = pin!(read(io, active, spec, inputs, &mut early));
        let until = rules.timeout.map(|limit| Instant::now() + limit);
        let mut timer = pin!(until.map(|at| active.wheel().sleep_until(at)));
        poll_fn(|cx| {
            if let Poll::Ready(found) = task.as_mut().poll(cx) {
                return Poll::Ready(Some(found));
            }
            if waiting.must_end(cx) {
                return Poll::Ready(Some(Err(Stop::Ends)));
            }
            match timer.as_mut().as_pin_mut() {
                Some(timer) => timer.poll(cx).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await
    };
    match found {
        Some(Ok(())) => {}
        Some(Err(Stop::Left)) => {
            active.stats().downstream_listener_filter_remote_close.inc();
            return None;
        }
        Some(Err(Stop::TooLong)) => {
            active.inspected().tls.client_hello_too_large.inc();
            active.stats().downstream_listener_filter_error.inc();
            return None;
        }
        Some(Err(Stop::Ends)) => return None,
        None => {
            active.stats().downstream_pre_cx_timeout.inc();
            if !rules.continue_on_timeout {
                return None;
            }
        }
    }
    Some(early)
}

/// Why there is nothing to go on with.
enum Stop {
    /// The client left.
    Left,
    /// It goes on and on.
    TooLong,
    /// The process ends.
    Ends,
}

async fn read(
    io: &mut Conn,
    active: &Active,
    spec: &ListenerSpec,
    inputs: &mut Inputs,
    early: &mut BytesMut,
) -> Result<(), Stop> {
    if chain::wants_tls(spec, inputs) {
        let stats = &active.inspected().tls;
        loop {
            match client_hello(early) {
                Heard::Tls(hello) => {
                    stats.bytes_processed.record(early.len() as u64);
                    note_tls(stats, &hello);
                    inputs.seen.tls = true;
                    inputs.seen.server_name = hello.server_name.map(Into::into);
                    inputs.seen.protocols = hello.alpn.into();
                    return Ok(());
                }
                Heard::NotTls => break,
                // Larger than anybody needs.
                Heard::More if early.len() >= MOST => return Err(Stop::TooLong),
                Heard::More => more(io, early).await?,
            }
        }
        stats.bytes_processed.record(early.len() as u64);
        stats.tls_not_found.inc();
    }
    if chain::wants_http(spec, inputs) {
        let stats = &active.inspected().http;
        loop {
            match http(early) {
                Some(found) => {
                    let counter = match found {
                        Some("h2c") => &stats.http2_found,
                        Some("http/1.1") => &stats.http11_found,
                        Some(_) => &stats.http10_found,
                        None => &stats.http_not_found,
                    };
                    counter.inc();
                    inputs.seen.protocols = found.into_iter().map(str::to_owned).collect();
                    break;
                }
                None => more(io, early).await.inspect_err(|_| stats.read_error.inc())?,
            }
        }
    }
    Ok(())
}

fn note_tls(stats: &TlsInspectorStats, hello: &Hello) {
    stats.tls_found.inc();
    let name = if hello.server_name.is_some() { &stats.sni_found } else { &stats.sni_not_found };
    name.inc();
    let protocols = if hello.alpn.is_empty() { &stats.alpn_not_found } else { &stats.alpn_found };
    protocols.inc();
}

/// Reads once.
async fn more(io: &mut Conn, early: &mut BytesMut) -> Result<(), Stop> {
    let mut room = [0; CHUNK];
    let read = poll_fn(|cx| {
        let mut buffer = ReadBuf::new(&mut room);
        match ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer)) {
            Ok(()) => Poll::Ready(buffer.filled().len()),
            Err(_) => Poll::Ready(0),
        }
    })
    .await;
    if read == 0 {
        return Err(Stop::Left);
    }
    early.extend_from_slice(room.get(..read).unwrap_or_default());
    Ok(())
}

/// Which HTTP the first bytes are; `Some(None)`: none.
fn http(bytes: &[u8]) -> Option<Option<&'static str>> {
    let known = bytes.len().min(PREFACE.len());
    if bytes.get(..known) == PREFACE.get(..known) {
        return (known == PREFACE.len()).then_some(Some("h2c"));
    }
    // Some clients send an empty line first (RFC 9112 2.2).
    let text = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let method = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_method = text.get(..method).is_some_and(|word| word.iter().all(is_token));
    if text == b"\r" {
        return None;
    }
    if !is_method || (method == 0 && !text.is_empty()) || bytes.len() > LINE {
        return Some(None);
    }
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let line = text.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(match line.rsplit(|byte| *byte == b' ').next() {
        Some(b"HTTP/1.1") => Some("http/1.1"),
        Some(b"HTTP/1.0") => Some("http/1.0"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_by_its_first_line() {
        assert_eq!(http(b"GET / HTTP/1.1\r\n"), Some(Some("http/1.1")));
        assert_eq!(http(b"\r\nPOST /x y HTTP/1.0\n"), Some(Some("http/1.0")));
        assert_eq!(http(PREFACE), Some(Some("h2c")));
        for end in 0..PREFACE.len() {
            assert_eq!(http(&PREFACE[..end]), None, "{end}");
        }
        for end in 0..16 {
            assert_eq!(
                http(&b"GET / HTTP/1.1\r\n"[..end]),
                if end < 16 { None } else { Some(None) },
                "{end}"
            );
        }
        assert_eq!(http(b"GET / HTTP/2.7\r\n"), Some(None));
        assert_eq!(http(b"\x16\x03\x01"), Some(None));
        assert_eq!(http(b" GET"), Some(None));
        assert_eq!(http(b"SSH-2.0-x\r\n"), Some(None));
        assert_eq!(http(&vec![b'a'; LINE + 1]), Some(None));
    }
}
