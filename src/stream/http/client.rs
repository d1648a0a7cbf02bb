//! Answering a request.

use super::sink::{Gone, Sink};
use super::stats::Version;
use bytes::Bytes;
use h2::server::SendResponse;
use http::Response;
use std::task::{Context, Poll};

/// Who waits for a response.
pub enum Client {
    /// An HTTP/2 stream.
    Http2(SendResponse<Bytes>),
}

impl Client {
    /// What it speaks.
    pub fn version(&self) -> Version {
        match self {
            Client::Http2(_) => Version::Http2,
        }
    }

    /// Ready when nobody waits any more.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Client::Http2(respond) => respond.poll_reset(cx).map(drop),
        }
    }

    /// Sends a 1xx response.
    pub fn send_informational(&mut self, response: Response<()>) {
        match self {
            // A client that is gone is noticed later.
            Client::Http2(respond) => drop(respond.send_informational(response)),
        }
    }

    /// Sends the response's head. `end`: and nothing follows.
    ///
    /// # Errors
    /// Nobody waits any more.
    pub fn send_response(&mut self, response: Response<()>, end: bool) -> Result<Sink, Gone> {
        match self {
            Client::Http2(respond) => respond.send_response(response, end).map(Sink::Http2).map_err(|_| Gone),
        }
    }
}
