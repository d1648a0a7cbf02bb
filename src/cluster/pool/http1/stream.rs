//! One exchange on a connection.
//!
//! [`Sender`] and [`Receiver`] are polled by one task; the socket is written and read in their polls. Dropping
//! both before the exchange is whole closes the connection.

use super::link::Link;
use super::state::{Stream, closed};
use crate::message::{Failure, Reason};
use crate::net::Filled;
use crate::protocol::http1::{
    Asked, BodyDecoder, BodyEncoder, BodyLength, NameCase, Out, Piece, ResponseHead, WrongLength,
    encode_request,
};
use crate::tls::Session;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, request};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Bytes that may wait for the socket; more are not taken.
const WATERMARK: usize = 64 * 1024;
impl Out for crate::net::Output {
    fn write<R>(&mut self, write: impl FnOnce(&mut BytesMut) -> R) -> R {
        crate::net::Output::write(self, write)
    }

    fn push(&mut self, bytes: Bytes) {
        crate::net::Output::push(self, bytes);
    }
}

/// A connection lent for one exchange. Unused, it goes back when dropped.
pub struct Lease {
    link: Option<Rc<Link>>,
    idle: Option<Duration>,
}

impl Lease {
    /// `idle`: how long nothing was sent on it.
    pub(super) fn new(link: Rc<Link>, idle: Duration) -> Self {
        let idle = link.served.get().then_some(idle);
        Lease { link: Some(link), idle }
    }

    /// Our own address of the connection; asks the system.
    pub fn local(&self) -> Option<SocketAddr> {
        self.link.as_ref()?.line.local()
    }

    /// What is known of the connection's encryption.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.link.as_ref()?.session.as_ref()
    }

    /// Whether the connection has carried a request before. If so, a request that fails with nothing sent
    /// ([`Failure::sent`]) was on a connection its server had closed, and belongs on a new one.
    pub fn is_reused(&self) -> bool {
        self.idle.is_some()
    }

    /// Begins the exchange; nothing is written before the first poll. `upgrade`: the head's `upgrade` field is
    /// sent on, and what follows the head waits for the server to agree.
    pub fn send(
        mut self,
        head: &request::Parts,
        case: Option<&NameCase>,
        body: BodyLength,
        upgrade: bool,
    ) -> (Sender, Receiver) {
        let link = self.link.take();
        if let Some(link) = &link {
            link.turn.set(link.turn.get().wrapping_add(1));
            link.served.set(true);
            let remaining = link.remaining.get();
            if remaining != u32::MAX {
                link.remaining.set(remaining.saturating_sub(1));
            }
            let last = remaining <= 1;
            if last {
                link.stats.upstream_cx_max_requests.inc();
            }
            let encoder = encode_request(head, case, body, upgrade, last, &mut *link.line.output());
            let asked = Asked::new(&head.method, upgrade);
            *link.stream.borrow_mut() = Stream {
                asked,
                gated: upgrade || asked.connect,
                given: matches!(encoder, BodyEncoder::Empty | BodyEncoder::Length(0)),
                encoder: Some(encoder),
                keep: !last,
                sent_before: link.line.bytes().1,
                idle: self.idle,
                ..Stream::default()
            };
        }
        let turn = link.as_ref().map_or(0, |link| link.turn.get());
        (Sender { link: link.clone(), turn }, Receiver { link, ended: false, trailers: None })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(link) = self.link.take()
            && let Some(host) = link.host.upgrade()
        {
            host.http1.put(link);
        }
    }
}

/// The server takes no more of the request; its response, or how it failed, tells why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// The request's body, going out.
pub struct Sender {
    link: Option<Rc<Link>>,
    turn: u32,
}

/// The response, coming in.
pub struct Receiver {
    link: Option<Rc<Link>>,
    ended: bool,
    trailers: Option<Box<HeaderMap>>,
}

impl Sender {
    /// The connection, while it is at this exchange.
    fn link(&self) -> Option<&Rc<Link>> {
        self.link.as_ref().filter(|link| link.turn.get() == self.turn)
    }

    /// How many bytes are taken now; at least one. Pending before an upgrade is agreed to.
    ///
    /// # Errors
    /// No more of the request is wanted.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Closed>> {
        let Some(link) = self.link() else { return Poll::Ready(Err(Closed)) };
        {
            let stream = link.stream.borrow();
            if stream.broken || stream.given {
                return Poll::Ready(Err(Closed));
            }
            if stream.gated {
                return Poll::Pending;
            }
        }
        if link.line.output().len() >= WATERMARK {
            ready!(link.poll_flush(cx))?;
        }
        let waits = link.line.output().len();
        Poll::Ready(Ok(WATERMARK.saturating_sub(waits).max(1)))
    }

    /// Takes `bytes`; `last`: and nothing after them. Written at the next [`poll_flush`](Self::poll_flush).
    ///
    /// # Errors
    /// No more is wanted, or it is not as long as its head says: then the connection will be closed.
    pub fn send(&mut self, bytes: Bytes, last: bool) -> Result<(), Closed> {
        self.encode(bytes, last, None)
    }

    /// Ends the request with trailers; without them where the message cannot have any.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_trailers(&mut self, trailers: &HeaderMap) -> Result<(), Closed> {
        self.encode(Bytes::new(), true, Some(trailers))
    }

    /// Whether trailers would be sent on.
    pub fn takes_trailers(&self) -> bool {
        let takes =
            |link: &Rc<Link>| link.stream.borrow().encoder.as_ref().is_some_and(|e| e.takes_trailers());
        self.link().is_some_and(takes)
    }

    fn encode(&mut self, bytes: Bytes, last: bool, trailers: Option<&HeaderMap>) -> Result<(), Closed> {
        let link = self.link().ok_or(Closed)?;
        let stream = &mut *link.stream.borrow_mut();
        if stream.given && bytes.is_empty() {
            return Ok(());
        }
        let Some(encoder) = stream.encoder.as_mut().filter(|_| !stream.broken && !stream.given) else {
            return Err(Closed);
        };
        let output = &mut *link.line.output();
        let mut done = encoder.data(bytes, output);
        if last {
            done = done.and_then(|()| encoder.end(trailers, output));
            stream.given = done.is_ok();
        }
        done.map_err(|WrongLength| {
            (stream.broken, stream.wrong) = (true, true);
            Closed
        })
    }

    /// Writes what was taken. Ready when all of it is with the kernel.
    ///
    /// # Errors
    /// No more of the request is wanted.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let Some(link) = self.link().cloned() else { return Poll::Ready(Ok(())) };
        ready!(link.poll_flush(cx))?;
        link.finish();
        Poll::Ready(Ok(()))
    }
}

impl Receiver {
    /// The response's head; interim ones ([`ResponseHead::is_interim`]) before it. Writes the request too.
    ///
    /// # Errors
    /// The connection broke ([`Failure::sent`] tells whether the server can have seen anything), or this is no
    /// response.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Failure>> {
        let Some(link) = self.link.clone() else { return Poll::Ready(Err(closed(true))) };
        // A failed write is told by what is read: the server may have answered before it closed.
        let _ = link.poll_flush(cx);
        link.check()?;
        loop {
            if let Some(head) = link.decode_head()? {
                self.begin(&link, &head);
                return Poll::Ready(Ok(head));
            }
            let Some(filled) = ready!(link.poll_fill(cx)) else {
                return Poll::Ready(Err(link.lost()));
            };
            if filled == Filled::OverLimit {
                return Poll::Ready(Err(Failure::after(Reason::LocalReset)));
            }
        }
    }

    fn begin(&mut self, link: &Rc<Link>, head: &ResponseHead) {
        if head.is_interim() {
            return;
        }
        link.begin_body(head);
        self.after_piece(link);
    }

    /// The next bytes of the body; `None` before the trailers or the end. Writes the request too.
    ///
    /// # Errors
    /// The body is cut short or cannot be read.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(link) = self.link.clone() else { return Poll::Ready(None) };
        let _ = link.poll_flush(cx);
        if let Err(failure) = link.check() {
            return Poll::Ready(Some(Err(failure)));
        }
        loop {
            match link.decode_body() {
                Err(failure) => return Poll::Ready(Some(Err(failure))),
                Ok(Some(Piece::Data(bytes))) => {
                    self.after_piece(&link);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Ok(Some(Piece::Trailers(trailers))) => self.trailers = Some(Box::new(trailers)),
                Ok(None) => {}
            }
            self.after_piece(&link);
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(link.poll_fill(cx)) {
                Some(Filled::Bytes(_)) => {}
                Some(_) => return Poll::Ready(Some(Err(Failure::after(Reason::LocalReset)))),
                None => {
                    link.note_remote_close();
                    if link.end_of_input().is_err() {
                        return Poll::Ready(Some(Err(closed(true))));
                    }
                }
            }
        }
    }

    /// Follows the body to its end.
    fn after_piece(&mut self, link: &Rc<Link>) {
        if link.stream.borrow().body.as_ref().is_some_and(BodyDecoder::is_done) {
            self.ended = true;
            self.link = None;
            link.finish();
        }
    }

    /// The trailers, once there is no more data.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().map(|trailers| *trailers)
    }

    /// Whether everything was given, trailers included.
    pub fn is_end_stream(&self) -> bool {
        self.ended && self.trailers.is_none()
    }
}
