//! Where an exchange stands, and what moves it.

use super::link::Link;
use super::stream::Closed;
use crate::message::{Failure, Reason};
use crate::net::Filled;
use crate::protocol::http1::{Asked, BodyDecoder, BodyEncoder, Piece, ResponseDecoder, ResponseHead};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// Interim responses to one request. A server that goes on sending them is broken.
const INTERIM: u32 = 100;
/// A close that answers a request this soon was on its way before.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Where the exchange on a connection stands.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) asked: Asked,
    pub(super) heads: ResponseDecoder,
    pub(super) interim: u32,
    pub(super) encoder: Option<BodyEncoder>,
    /// Upgrade or CONNECT: nothing is sent before the server has agreed.
    pub(super) gated: bool,
    /// The request was given to the connection as a whole.
    pub(super) given: bool,
    pub(super) body: Option<BodyDecoder>,
    /// The connection can be used again after this exchange.
    pub(super) keep: bool,
    pub(super) tunnel: bool,
    /// Bytes sent before this exchange.
    pub(super) sent_before: u64,
    /// It was looked whether the server has closed, before the first byte.
    pub(super) looked: bool,
    /// Nothing can be written any more.
    pub(super) broken: bool,
    /// The server had closed before the first byte of the request.
    pub(super) stale: bool,
    /// The body is not as long as its head says: the server would wait for ever, or take too much for it.
    pub(super) wrong: bool,
    /// How long the connection had been idle, if it has carried a request before.
    pub(super) idle: Option<Duration>,
}

impl Stream {
    /// Whether an exchange has begun and is not whole.
    pub(super) fn is_active(&self) -> bool {
        let answered = self.body.as_ref().is_some_and(BodyDecoder::is_done);
        self.encoder.is_some() && !(self.given && answered)
    }
}

pub(super) fn closed(sent: bool) -> Failure {
    Failure { reason: Reason::UpstreamClosed, sent }
}

impl Link {
    /// Writes what waits. Before the first byte on a used connection it looks once more for a close.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
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

    /// Whether an answer can come at all.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let (stale, wrong) = {
            let stream = self.stream.borrow();
            (stream.stale, stream.wrong)
        };
        if wrong {
            return Err(Failure::after(Reason::BadRequest));
        }
        // What a server sent before it was asked is no answer.
        if stale { Err(self.lost()) } else { Ok(()) }
    }

    /// The server closed instead of answering.
    pub(super) fn lost(&self) -> Failure {
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
    pub(super) fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<Option<Filled>> {
        match self.line.poll_fill(cx) {
            Poll::Ready(Ok(Filled::End) | Err(_)) => Poll::Ready(None),
            Poll::Ready(Ok(filled)) => Poll::Ready(Some(filled)),
            Poll::Pending => {
                self.line.settle();
                Poll::Pending
            }
        }
    }

    pub(super) fn decode_head(&self) -> Result<Option<ResponseHead>, Failure> {
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

    pub(super) fn protocol_error(&self) -> Failure {
        self.stats.upstream_cx_protocol_error.inc();
        Failure::after(Reason::UpstreamProtocol)
    }

    /// Takes in a final response's head.
    pub(super) fn begin_body(&self, head: &ResponseHead) {
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
    }

    pub(super) fn decode_body(&self) -> Result<Option<Piece>, Failure> {
        let stream = &mut *self.stream.borrow_mut();
        let Some(body) = &mut stream.body else { return Ok(None) };
        body.decode(&mut self.line.input(), &self.limits).map_err(|_| self.protocol_error())
    }

    pub(super) fn end_of_input(&self) -> Result<(), Failure> {
        let stream = &mut *self.stream.borrow_mut();
        match &mut stream.body {
            Some(body) => body.on_end_of_input().map_err(|_| closed(true)),
            None => Err(closed(true)),
        }
    }

    /// Gives the connection back once both messages are whole, if it can be used again.
    pub(super) fn finish(self: &Rc<Self>) {
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
