//! Where a body comes from.

use super::bodies::{Filtered, Held, Resumed};
use crate::cluster::pool::http1::Receiver;
use crate::cluster::pool::http2::failure_of;
use crate::message::{Failure, Reason};
use crate::net::Unfinished;
use crate::stream::http1::Incoming;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// A body being received.
pub enum Source {
    /// Of an HTTP/2 stream.
    Http2(RecvStream),
    /// Of an HTTP/1 client's request.
    Http1Request(Rc<Incoming>),
    /// Of an HTTP/1 server's response.
    Http1Response(Receiver),
    /// Any of them, through filters.
    Filtered(Box<Filtered>),
    /// What was held until it was whole.
    Held(Held),
    /// One of whose begin a filter wanted to see.
    Resumed(Box<Resumed>),
}

impl Default for Source {
    /// Nothing.
    fn default() -> Self {
        Source::Held(Held::default())
    }
}

/// How a peer broke a message off.
#[derive(Debug)]
pub enum Fault {
    /// HTTP/2 says.
    Http2(h2::Error),
    /// HTTP/1 ended early, or what came is none.
    Http1(Failure),
}

impl Fault {
    /// What it means for the request when it came from its upstream.
    pub fn failure(&self) -> Failure {
        match self {
            Fault::Http2(error) => failure_of(error),
            Fault::Http1(failure) => *failure,
        }
    }

    /// What it means for the request when it came from its client.
    pub fn of_client(&self) -> Failure {
        match self {
            Fault::Http1(failure) => *failure,
            Fault::Http2(_) => Failure::after(Reason::DownstreamReset),
        }
    }

    /// The reset a client gets for one of its upstream. Only codes that say about the client's own stream what
    /// they said about ours: a refusal after the response has begun would be a lie.
    pub fn carried(&self) -> h2::Reason {
        match self {
            Fault::Http2(error) if error.is_reset() => match error.reason() {
                Some(reason @ (h2::Reason::CANCEL | h2::Reason::ENHANCE_YOUR_CALM)) => reason,
                _ => h2::Reason::INTERNAL_ERROR,
            },
            _ => h2::Reason::INTERNAL_ERROR,
        }
    }
}

impl Source {
    /// Whether everything has been given, as far as is known.
    pub fn is_end_stream(&self) -> bool {
        match self {
            Source::Http2(body) => body.is_end_stream(),
            Source::Http1Request(body) => body.is_ended(),
            Source::Http1Response(body) => body.is_end_stream(),
            Source::Filtered(body) => body.is_end_stream(),
            Source::Held(body) => body.is_end_stream(),
            Source::Resumed(body) => body.is_end_stream(),
        }
    }

    /// The next bytes; `None` before the trailers or the end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        match self {
            Source::Http2(body) => body.poll_data(cx).map(|part| Some(part?.map_err(Fault::Http2))),
            Source::Http1Request(body) => body.poll_data(cx).map(|part| Some(part?.map_err(Fault::Http1))),
            Source::Http1Response(body) => body.poll_data(cx).map(|part| Some(part?.map_err(Fault::Http1))),
            Source::Filtered(body) => body.poll_data(cx),
            Source::Held(body) => Poll::Ready(body.take_data().map(Ok)),
            Source::Resumed(body) => body.poll_data(cx),
        }
    }

    /// The trailers, once there is no more data.
    pub fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Fault>> {
        match self {
            Source::Http2(body) => body.poll_trailers(cx).map_err(Fault::Http2),
            Source::Http1Request(body) => Poll::Ready(Ok(body.take_trailers())),
            Source::Http1Response(body) => Poll::Ready(Ok(body.take_trailers())),
            Source::Filtered(body) => body.poll_trailers(),
            Source::Held(body) => Poll::Ready(Ok(body.take_trailers())),
            Source::Resumed(body) => body.poll_trailers(cx),
        }
    }

    /// `bytes` of what was given have been passed on.
    pub fn release(&mut self, bytes: usize) {
        match self {
            // Fails only when the stream is gone, which the next poll tells.
            Source::Http2(body) => drop(body.flow_control().release_capacity(bytes)),
            Source::Resumed(body) => body.release(bytes),
            Source::Http1Request(_) | Source::Http1Response(_) | Source::Filtered(_) | Source::Held(_) => {}
        }
    }

    /// Whether parts waiting inside cost more than their bytes, so that they are better taken out early.
    pub fn hoards(&self) -> bool {
        match self {
            Source::Http2(_) => true,
            Source::Resumed(body) => body.inner().hoards(),
            _ => false,
        }
    }
}

/// Why a body could not be collected.
pub enum Incomplete {
    /// It is longer than allowed, or too many are being collected.
    TooLarge,
    /// The stream broke.
    Broken(Fault),
}

/// The whole body, at most `limit` bytes and counted by `count`; trailers are dropped. One that came in one
/// piece is not copied.
///
/// # Errors
/// See [`Incomplete`].
pub async fn collect(body: &mut Source, limit: usize, mut count: Unfinished) -> Result<Bytes, Incomplete> {
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    poll_fn(|cx| {
        loop {
            match ready!(body.poll_data(cx)) {
                Some(Ok(part)) => {
                    if first.len().max(whole.len()) + part.len() > limit || !count.add(part.len()) {
                        return Poll::Ready(Err(Incomplete::TooLarge));
                    }
                    body.release(part.len());
                    if first.is_empty() && whole.is_empty() {
                        first = part;
                    } else {
                        if whole.is_empty() {
                            whole.extend_from_slice(&first);
                        }
                        whole.extend_from_slice(&part);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(Incomplete::Broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
    })
    .await?;
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}
