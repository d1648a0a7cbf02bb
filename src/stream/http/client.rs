//! Answering a request.

use super::sink::{Gone, Sink};
use super::stats::Version;
use crate::protocol::http1::NameCase;
use crate::stream::http1::Responder;
use bytes::Bytes;
use h2::server::SendResponse;
use http::header::UPGRADE;
use http::{Response, StatusCode};
use std::task::{Context, Poll};

/// What follows a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Nothing.
    Nothing,
    /// A body of our own, whether the request has ended or not.
    Whole,
    /// What the upstream sends.
    Body,
}

/// Who waits for a response.
pub enum Client {
    /// An HTTP/2 stream.
    Http2(SendResponse<Bytes>),
    /// An HTTP/1 connection.
    Http1(Responder),
}

impl Client {
    /// What it speaks.
    pub fn version(&self) -> Version {
        match self {
            Client::Http2(_) => Version::Http2,
            Client::Http1(_) => Version::Http1,
        }
    }

    /// Ready when nobody waits any more.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Client::Http2(respond) => respond.poll_reset(cx).map(drop),
            Client::Http1(respond) => respond.poll_gone(cx),
        }
    }

    /// Sends a 1xx response.
    pub fn send_informational(&mut self, response: Response<()>) {
        match self {
            // A client that is gone is noticed later.
            Client::Http2(respond) => drop(respond.send_informational(response)),
            Client::Http1(respond) => respond.send_informational(response),
        }
    }

    /// Sends the response's head; its names as `case` says where they can be.
    ///
    /// # Errors
    /// Nobody waits any more.
    pub fn send_response(
        &mut self,
        mut response: Response<()>,
        case: Option<&NameCase>,
        follows: Follows,
    ) -> Result<Sink, Gone> {
        match self {
            Client::Http2(respond) => {
                response.headers_mut().remove(UPGRADE);
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    // RFC 8441, 5: what 101 is to HTTP/1, any success is here.
                    *response.status_mut() = StatusCode::OK;
                }
                let end = follows == Follows::Nothing;
                let sink = respond.send_response(response, end).map_err(|_| Gone)?;
                Ok(Sink::Http2(sink.into()))
            }
            Client::Http1(respond) => Ok(Sink::Http1Response(respond.send_response(response, case, follows))),
        }
    }
}
