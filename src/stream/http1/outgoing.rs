//! The body of a response being sent on an HTTP/1 connection.

use super::responder::Conduct;
use crate::protocol::http1::{BodyEncoder, WrongLength};
use crate::stream::http::Gone;
use bytes::Bytes;
use http::HeaderMap;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// No more than this many bytes wait for the socket, or one part of a body; what does not fit stays with its sender.
const HIGH: usize = 64 * 1024;

/// See the module.
pub struct Outgoing {
    conduct: Rc<Conduct>,
    encoder: BodyEncoder,
}

impl Outgoing {
    /// The body of a response whose head is written.
    pub(super) fn new(conduct: Rc<Conduct>, encoder: BodyEncoder) -> Self {
        Outgoing { conduct, encoder }
    }

    /// How many bytes it takes now; at least one.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Gone>> {
        let waiting = self.conduct.line.output().len();
        if waiting == 0 {
            // Where it waits makes no difference, and one write takes all that one read brought.
            return Poll::Ready(Ok(usize::MAX));
        }
        if waiting < HIGH {
            return Poll::Ready(Ok(HIGH - waiting));
        }
        ready!(self.poll_flush(cx))?;
        Poll::Ready(Ok(HIGH))
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.conduct.line.output().len() >= HIGH
    }

    /// Appends `bytes`; `last`: and the end.
    ///
    /// # Errors
    /// The head announced another length.
    pub fn send(&mut self, bytes: Bytes, last: bool) -> Result<(), Gone> {
        let sent = self.encoder.data(bytes, &mut *self.conduct.line.output());
        sent.map_err(|WrongLength| Gone)?;
        if last { self.end(None) } else { Ok(()) }
    }

    /// Whether trailers would be sent on.
    pub fn takes_trailers(&self) -> bool {
        self.encoder.takes_trailers()
    }

    /// Appends the end, with the trailers if the message can have any.
    ///
    /// # Errors
    /// The head announced another length.
    pub fn send_trailers(&mut self, trailers: &HeaderMap) -> Result<(), Gone> {
        self.end(Some(trailers))
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Gone> {
        let ended = self.encoder.end(trailers, &mut *self.conduct.line.output());
        ended.map_err(|WrongLength| Gone)?;
        self.conduct.answered.set(true);
        Ok(())
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        self.conduct.line.poll_flush(cx).map_err(|_| Gone)
    }

    /// The response stays unfinished; the connection ends with it.
    pub fn abort(&mut self) {
        self.conduct.answered.set(false);
        self.conduct.aborted.set(true);
        self.conduct.cut.set(self.encoder.needs_close());
    }

    /// Ready when the client wants no more.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.conduct.poll_gone(cx)
    }
}
