//! Answering the request that is being served on an HTTP/1 connection.

use super::incoming::Incoming;
use super::outgoing::Outgoing;
use crate::net::{Filled, Line};
use crate::protocol::http1::{BodyLength, NameCase, ResponseTo, encode_response};
use crate::stream::http::Follows;
use crate::stream::{Drain, Handle};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A client's connection as the request that is being served sees it.
pub(super) struct Conduct {
    pub(super) line: Rc<Line>,
    pub(super) handle: Rc<Handle>,
    pub(super) incoming: Rc<Incoming>,
    /// For whom the response is.
    pub(super) to: Cell<ResponseTo>,
    /// The client waits for a 100 before it sends the body.
    pub(super) expects: Cell<bool>,
    /// The whole response was written, or waits to be.
    pub(super) answered: Cell<bool>,
    /// The connection ends with this response.
    pub(super) last: Cell<bool>,
    /// The response will never be whole; what of it was written still goes to the client.
    pub(super) aborted: Cell<bool>,
    /// What was sent would look whole if the connection ended in order.
    pub(super) cut: Cell<bool>,
    /// It is another protocol's from here on.
    pub(super) tunnel: Cell<bool>,
}

impl Conduct {
    /// Ready when nobody waits for the response any more.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.handle.register(cx.waker());
        if self.handle.draining() == Drain::Now {
            return Poll::Ready(());
        }
        // The body's reader sees the end; beyond the next request nothing is read ahead.
        if self.tunnel.get() || !self.incoming.is_ended() || !self.line.input().is_empty() {
            return Poll::Pending;
        }
        match self.line.poll_fill(cx) {
            Poll::Ready(Ok(Filled::Bytes(_))) => {
                self.line.settle();
                Poll::Pending
            }
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether the connection can carry another request after the response. `ours`: nothing reads the request's
    /// body any more.
    fn lasts(&self, ours: bool) -> bool {
        let leaving = self.handle.draining() >= Drain::Told && self.line.input().is_empty();
        let unread = ours && !self.incoming.skim();
        // Nobody knows whether a client that was not told to go on sends its body.
        self.to.get().keep_alive && !self.last.get() && !leaving && !unread && !self.expects.get()
    }
}

/// See the module.
pub struct Responder(Rc<Conduct>);

impl Responder {
    pub(super) fn new(conduct: Rc<Conduct>) -> Self {
        Responder(conduct)
    }

    /// Ready when nobody waits any more.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_gone(cx)
    }

    /// Sends a 1xx response now.
    pub fn send_informational(&mut self, response: Response<()>) {
        let parts = response.into_parts().0;
        if parts.status == StatusCode::CONTINUE {
            self.0.expects.set(false);
        }
        let (body, to) = (BodyLength::Empty, self.0.to.get());
        encode_response(&parts, None, body, to, &mut *self.0.line.output());
        // What the socket does not take now leaves with the response.
        let _ = self.0.line.poll_flush(&mut Context::from_waker(Waker::noop()));
    }

    /// Sends the response's head, with its names written as `case` says.
    pub fn send_response(
        &mut self,
        response: Response<()>,
        case: Option<&NameCase>,
        follows: Follows,
    ) -> Outgoing {
        let conduct = &self.0;
        let parts = response.into_parts().0;
        let tunnel = parts.status == StatusCode::SWITCHING_PROTOCOLS
            || (conduct.to.get().connect && parts.status.is_success());
        if tunnel {
            conduct.incoming.switch();
            conduct.tunnel.set(true);
        }
        let to =
            ResponseTo { keep_alive: tunnel || conduct.lasts(follows != Follows::Body), ..conduct.to.get() };
        conduct.to.set(to);
        let body = length(&parts.headers, follows == Follows::Nothing);
        let encoder = encode_response(&parts, case, body, to, &mut *conduct.line.output());
        conduct.last.set(!to.keep_alive || encoder.needs_close());
        let outgoing = Outgoing::new(conduct.clone(), encoder);
        if follows == Follows::Nothing {
            // A head alone is whole whatever length it tells of.
            conduct.answered.set(true);
        }
        outgoing
    }
}

/// What is known of a body from the message's head.
pub(in crate::stream) fn length(headers: &HeaderMap, end: bool) -> BodyLength {
    let told = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    match (end, told) {
        (true, _) => BodyLength::Empty,
        (false, Some(length)) => BodyLength::Known(length),
        (false, None) => BodyLength::Unknown,
    }
}
