//! Where a body goes.

use super::sink_http2::Http2Sink;
use crate::cluster::pool::http1::{Closed, Sender};
use crate::stream::http1::Outgoing;
use bytes::Bytes;
use http::HeaderMap;
use std::task::{Context, Poll};

/// A body being sent.
pub enum Sink {
    /// On an HTTP/2 stream.
    Http2(Http2Sink),
    /// To an HTTP/1 server.
    Http1Request(Sender),
    /// To an HTTP/1 client.
    Http1Response(Outgoing),
}

/// The peer takes no more; how, its own side tells.
#[derive(Debug)]
pub struct Gone;

impl Sink {
    /// How many bytes it takes now, of `wanted`; at least one.
    ///
    /// # Errors
    /// The peer takes no more.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Gone>> {
        match self {
            Sink::Http2(sink) => sink.poll_room(cx, wanted).map(|room| room.ok_or(Gone)),
            Sink::Http1Request(sink) => sink.poll_room(cx).map_err(|Closed| Gone),
            Sink::Http1Response(sink) => sink.poll_room(cx),
        }
    }

    /// Sends `bytes`; `last`: and nothing after them.
    ///
    /// # Errors
    /// The peer takes no more, or the message cannot carry them.
    pub fn send(&mut self, bytes: Bytes, last: bool) -> Result<(), Gone> {
        match self {
            Sink::Http2(sink) => sink.send(bytes, last).map_err(|_| Gone),
            Sink::Http1Request(sink) => sink.send(bytes, last).map_err(|Closed| Gone),
            Sink::Http1Response(sink) => sink.send(bytes, last),
        }
    }

    /// Whether so much waits for the socket that nothing more is to be read for it.
    pub fn is_full(&self) -> bool {
        matches!(self, Sink::Http1Response(sink) if sink.is_full())
    }

    /// Whether trailers would be sent on.
    pub fn takes_trailers(&self) -> bool {
        match self {
            Sink::Http2(_) => true,
            Sink::Http1Request(sink) => sink.takes_trailers(),
            Sink::Http1Response(sink) => sink.takes_trailers(),
        }
    }

    /// Ends the body with trailers.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), Gone> {
        match self {
            Sink::Http2(sink) => sink.stream().send_trailers(trailers).map_err(|_| Gone),
            Sink::Http1Request(sink) => sink.send_trailers(&trailers).map_err(|Closed| Gone),
            Sink::Http1Response(sink) => sink.send_trailers(&trailers),
        }
    }

    /// Writes what was sent, where that is the stream's own business.
    ///
    /// # Errors
    /// The peer takes no more.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        match self {
            // The connection's task does.
            Sink::Http2(_) => Poll::Ready(Ok(())),
            Sink::Http1Request(sink) => sink.poll_flush(cx).map_err(|Closed| Gone),
            Sink::Http1Response(sink) => sink.poll_flush(cx),
        }
    }

    /// Breaks the message off, so that the peer does not take it for whole.
    pub fn reset(&mut self, reason: h2::Reason) {
        match self {
            Sink::Http2(sink) => sink.stream().send_reset(reason),
            // Dropped unfinished, it closes its connection.
            Sink::Http1Request(_) => {}
            Sink::Http1Response(sink) => sink.abort(),
        }
    }

    /// Whether the reader of the same stream hears of everything [`poll_reset`](Self::poll_reset) would tell.
    /// `reads`: there is one, and it waits.
    pub fn is_told(&self, reads: bool) -> bool {
        reads && matches!(self, Sink::Http2(_))
    }

    /// Ready when the peer wants no more.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Sink::Http2(sink) => sink.stream().poll_reset(cx).map(drop),
            // Its receiver tells.
            Sink::Http1Request(_) => Poll::Pending,
            Sink::Http1Response(sink) => sink.poll_gone(cx),
        }
    }
}
