//! Which protocol a connection speaks, told by configuration or its first bytes.

use super::{Drain, Handle, Local, http1, http2, rpc};
use crate::model::{Codec, Protocol};
use crate::net::Conn;
use crate::snapshot::FilterSpec;
use bytes::BytesMut;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

/// How HTTP/2 with prior knowledge begins; no other protocol does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a bolt v1 frame.
const BOLT_V1: u8 = 1;
/// Time for the bytes that decide once the first one has come.
const DECIDE: Duration = Duration::from_secs(10);

/// How long a client may take to close its side after we closed ours.
const LINGER: Duration = Duration::from_secs(1);

/// How serving a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// By the protocol's rules.
    Yes,
    /// It speaks HTTP/1, which this listener does not.
    Http1,
    /// Its first bytes are none of a protocol this listener speaks.
    Unknown,
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Bolt,
    Http1,
    Http2,
    Unknown,
    /// They could still become the preface.
    Unclear,
}

/// Serves a connection of an HTTP or RPC filter to its end. `early`: what was read of it already.
pub async fn serve_sniffed(mut io: Conn, early: BytesMut, handle: Rc<Handle>, local: Rc<Local>) -> Served {
    let (known, allowed, idle) = {
        let bound = handle.bound();
        let agreed = io.session().is_some_and(|session| session.is_http2()).then_some(Verdict::Http2);
        match &bound.chain.filter {
            FilterSpec::Rpc { config, .. } if config.downstream == Protocol::Bolt => {
                (Some(Verdict::Bolt), (Protocol::Bolt, false), None)
            }
            FilterSpec::Rpc { config, .. } => (agreed, (config.downstream, false), config.idle_timeout),
            FilterSpec::Http { config, .. } => {
                let known = if config.codec == Codec::Http1 { Some(Verdict::Http1) } else { agreed };
                (known, (Protocol::Http2, config.codec == Codec::Auto), config.idle_timeout)
            }
            FilterSpec::Tcp { .. } => return Served::Yes,
        }
    };
    // Each driver stands here once: a connection's task has room for the largest of them, not for all.
    let told = match known {
        Some(verdict) => Some((verdict, early)),
        None => first_bytes(&mut io, early, allowed, idle, &handle, &local).await,
    };
    let Some((verdict, early)) = told else { return Served::Yes };
    match verdict {
        Verdict::Bolt => rpc::serve(io, early, handle, local).await,
        Verdict::Http1 => http1::serve(io, early, handle, local).await,
        // Boxed: a task has room for the largest of these, and this one is several times the others.
        Verdict::Http2 => Box::pin(http2::serve(io, early.freeze(), handle, local)).await,
        Verdict::Unknown | Verdict::Unclear => {
            io.close_gently(LINGER).await;
            // Methods are upper-case letters.
            let http1 = early.first().is_some_and(u8::is_ascii_uppercase);
            return if http1 { Served::Http1 } else { Served::Unknown };
        }
    }
    Served::Yes
}

const fn size<F: Future>(_: fn(Conn, BytesMut, Rc<Handle>, Rc<Local>) -> F) -> usize {
    size_of::<F>()
}

/// One per open connection, and most of them are idle: what one rarely needs is boxed apart.
const _: () = assert!(size(serve_sniffed) <= 1792);

/// Reads until the protocol is clear. `None`: the client said nothing and left, or has to leave.
async fn first_bytes(
    io: &mut Conn,
    mut early: BytesMut,
    allowed: (Protocol, bool),
    idle: Option<Duration>,
    handle: &Handle,
    local: &Local,
) -> Option<(Verdict, BytesMut)> {
    loop {
        match verdict(&early, allowed) {
            Verdict::Unclear => {}
            verdict => return Some((verdict, early)),
        }
        let limit = if early.is_empty() { idle } else { Some(DECIDE) };
        let until = limit.map(|limit| Instant::now() + limit);
        let mut timer = pin!(until.map(|at| local.env.wheel.sleep_until(at)));
        let mut room = [0; PREFACE.len()];
        let read = poll_fn(|cx| {
            handle.register(cx.waker());
            let late = timer.as_mut().as_pin_mut().is_some_and(|timer| timer.poll(cx).is_ready());
            // Nothing is under way here, so a process that ends need not wait for it.
            if late || handle.draining() >= Drain::Leaving {
                return Poll::Ready(None);
            }
            let mut buffer = ReadBuf::new(&mut room);
            match ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => Poll::Ready(Some(buffer.filled().len())),
                _ => Poll::Ready(None),
            }
        })
        .await?;
        early.extend_from_slice(room.get(..read).unwrap_or_default());
    }
}

/// `http1`: what is not HTTP/2 is HTTP/1's to judge.
fn verdict(bytes: &[u8], (allowed, http1): (Protocol, bool)) -> Verdict {
    let known = bytes.len().min(PREFACE.len());
    match bytes.first() {
        None => Verdict::Unclear,
        Some(&BOLT_V1) if allowed != Protocol::Http2 => Verdict::Bolt,
        _ if bytes.get(..known) != PREFACE.get(..known) && http1 => Verdict::Http1,
        _ if bytes.get(..known) != PREFACE.get(..known) => Verdict::Unknown,
        // Three bytes tell it from every known HTTP/1 method; the rest is h2's to check.
        _ if bytes.len() >= 3 => Verdict::Http2,
        _ => Verdict::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bytes_decide() {
        let auto = |bytes: &[u8]| verdict(bytes, (Protocol::Auto, false));
        assert_eq!(auto(b"P"), Verdict::Unclear);
        assert_eq!(auto(b"PO"), Verdict::Unknown);
        assert_eq!(auto(b"PR"), Verdict::Unclear);
        assert_eq!(auto(b"PRI"), Verdict::Http2);
        assert_eq!(auto(PREFACE), Verdict::Http2);
        assert_eq!(auto(b"PRI * HTTP/1.1"), Verdict::Unknown);
        assert_eq!(auto(b"GET / HTTP/1.1"), Verdict::Unknown);
        assert_eq!(auto(&[1, 1, 0]), Verdict::Bolt);
        assert_eq!(auto(&[2]), Verdict::Unknown);
        assert_eq!(verdict(&[1, 1, 0], (Protocol::Http2, false)), Verdict::Unknown);
        let http = |bytes: &[u8]| verdict(bytes, (Protocol::Http2, true));
        assert_eq!(http(b"PR"), Verdict::Unclear);
        assert_eq!(http(b"PRI * H"), Verdict::Http2);
        assert_eq!(
            (http(b"PO"), http(b"G"), http(b"\x16\x03")),
            (Verdict::Http1, Verdict::Http1, Verdict::Http1)
        );
    }
}
