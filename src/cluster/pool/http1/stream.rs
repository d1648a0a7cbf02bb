//! One exchange on a connection.
//!
//! [`Sender`] and [`Receiver`] are polled by one task; the socket is written and read in their polls. Dropping
//! both before the exchange is whole closes the connection.

use super::link::Link;
use crate::message::{Failure, Reason};
use crate::net::Filled;
use crate::protocol::http1::{
    Asked, BodyDecoder, BodyEncoder, BodyLength, Framing, NameCase, Out, Piece, ResponseDecoder,
    ResponseHead, encode_request,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, request};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes that may wait for the socket; more are not taken.
const WATERMARK: usize = 64 * 1024;
/// Interim responses to one request. A server that goes on sending them is broken.
const INTERIM: u32 = 16;
/// A close that answers a request this soon was on its way before.
const AT_ONCE: Duration = Duration::from_secs(1);

impl Out for crate::net::Output {
    fn write<R>(&mut self, write: impl FnOnce(&mut BytesMut) -> R) -> R {
        crate::net::Output::write(self, write)
    }

    fn push(&mut self, bytes: Bytes) {
        crate::net::Output::push(self, bytes);
    }
}

/// Where the exchange on a connection stands.
#[derive(Default)]
pub(super) struct Stream {
    asked: Asked,
    heads: ResponseDecoder,
    interim: u32,
    encoder: Option<BodyEncoder>,
    /// Upgrade or CONNECT: nothing is sent before the server has agreed.
    gated: bool,
    /// The request was given to the connection as a whole.
    given: bool,
    body: Option<BodyDecoder>,
    /// The connection can be used again after this exchange.
    keep: bool,
    tunnel: bool,
    /// Bytes sent before this exchange.
    sent_before: u64,
    /// It was looked whether the server has closed, before the first byte.
    looked: bool,
    /// Nothing can be written any more.
    broken: bool,
    /// The server had closed before the first byte of the request.
    stale: bool,
    /// How long the connection had been idle, if it has carried a request before.
    idle: Option<Duration>,
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
        if let Some(link) = self.link.take() {
            link.release();
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
    trailers: Option<HeaderMap>,
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
        done.map_err(|_| {
            stream.broken = true;
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
        if link.stream.borrow().stale {
            // What it may have sent is no answer to this request.
            return Poll::Ready(Err(link.lost()));
        }
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
        loop {
            match link.decode_body() {
                Err(failure) => return Poll::Ready(Some(Err(failure))),
                Ok(Some(Piece::Data(bytes))) => {
                    self.after_piece(&link);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Ok(Some(Piece::Trailers(trailers))) => self.trailers = Some(trailers),
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
        self.trailers.take()
    }

    /// Whether everything was given, trailers included.
    pub fn is_end_stream(&self) -> bool {
        self.ended && self.trailers.is_none()
    }
}

fn closed(sent: bool) -> Failure {
    Failure { reason: Reason::UpstreamClosed, sent }
}

impl Link {
    /// Writes what waits. Before the first byte on a used connection it looks once more for a close.
    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let mut stream = self.stream.borrow_mut();
        if stream.broken {
            return Poll::Ready(Err(Closed));
        }
        if !stream.looked {
            stream.looked = true;
            if stream.idle.is_some() && self.line.is_stale() {
                (stream.broken, stream.stale) = (true, true);
                return Poll::Ready(Err(Closed));
            }
        }
        let ends = stream.tunnel && stream.given;
        let written = if ends { self.line.poll_shutdown(cx) } else { self.line.poll_flush(cx) };
        written.map_err(|_| {
            stream.broken = true;
            Closed
        })
    }

    /// The server closed instead of answering.
    fn lost(&self) -> Failure {
        self.note_remote_close();
        let stream = self.stream.borrow();
        let now = Instant::now();
        if let Some(idle) = stream.idle
            && self.idle(now).saturating_sub(idle) < AT_ONCE
            && let Some(host) = self.host.upgrade()
        {
            host.http1.learned.observe(idle, now);
        }
        closed(self.line.bytes().1 > stream.sent_before)
    }

    /// Reads once; `None`: there is nothing more to come.
    fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<Option<Filled>> {
        match self.line.poll_fill(cx) {
            Poll::Ready(Ok(Filled::End) | Err(_)) => Poll::Ready(None),
            Poll::Ready(Ok(filled)) => Poll::Ready(Some(filled)),
            Poll::Pending => {
                self.line.settle();
                Poll::Pending
            }
        }
    }

    fn decode_head(&self) -> Result<Option<ResponseHead>, Failure> {
        let stream = &mut *self.stream.borrow_mut();
        let head = stream.heads.decode(&mut self.line.input(), stream.asked, &self.limits);
        let head = head.map_err(|_| self.protocol_error())?;
        if let Some(head) = &head
            && head.is_interim()
        {
            stream.interim += 1;
            if stream.interim > INTERIM {
                return Err(self.protocol_error());
            }
        }
        Ok(head)
    }

    fn protocol_error(&self) -> Failure {
        self.stats.upstream_cx_protocol_error.inc();
        Failure::after(Reason::UpstreamProtocol)
    }

    /// Takes in a final response's head.
    fn begin_body(&self, head: &ResponseHead) {
        let stream = &mut *self.stream.borrow_mut();
        stream.keep &= head.keep_alive;
        stream.tunnel = head.tunnel;
        stream.body = Some(BodyDecoder::new(head.framing));
        if head.keep_alive_timeout.is_some() {
            self.announced.set(head.keep_alive_timeout);
        }
        if stream.gated {
            stream.gated = false;
            // What the client sends after a refused upgrade is another request.
            stream.given = !head.tunnel;
        }
        debug_assert!(!head.tunnel || head.framing == Framing::UntilClose);
    }

    fn decode_body(&self) -> Result<Option<Piece>, Failure> {
        let stream = &mut *self.stream.borrow_mut();
        let Some(body) = &mut stream.body else { return Ok(None) };
        body.decode(&mut self.line.input(), &self.limits).map_err(|_| self.protocol_error())
    }

    fn end_of_input(&self) -> Result<(), Failure> {
        let stream = &mut *self.stream.borrow_mut();
        match &mut stream.body {
            Some(body) => body.on_end_of_input().map_err(|_| closed(true)),
            None => Err(closed(true)),
        }
    }

    /// Gives the connection back once both messages are whole, if it can be used again.
    fn finish(self: &Rc<Self>) {
        let whole = {
            let stream = self.stream.borrow();
            stream.given
                && stream.keep
                && !stream.broken
                && !stream.tunnel
                && stream.body.as_ref().is_some_and(BodyDecoder::is_done)
        };
        if whole && self.line.output().is_empty() && self.line.input().is_empty() {
            // Whatever still holds the exchange has no say from now on.
            self.stream.take();
            self.turn.set(self.turn.get().wrapping_add(1));
            self.clone().release();
        }
    }
}
