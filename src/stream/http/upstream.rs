//! Sending a request to a picked host, in whatever it speaks.

use super::exchange::Exchange;
use super::flow::Flow;
use super::head::with_authority;
use super::sink::Sink;
use super::source::Source;
use crate::cluster::pool::http2::{self, failure_of};
use crate::message::Failure;
use crate::stream::exchange::{Attempt, Forward};
use http::uri::Authority;
use http::{Request, Response, Uri, request};
use std::future::Future;
use std::pin::Pin;

/// What is held of an upstream connection until the response is whole.
pub(super) enum Way {
    /// A stream's place.
    Http2(http2::Lease),
}

impl Way {
    /// Both messages are whole.
    pub(super) fn finish(self) {
        match self {
            Way::Http2(lease) => drop(lease),
        }
    }
}

/// Where `head` goes at the picked host.
fn target(to: &Forward<'_>, attempt: &Attempt, head: &request::Parts) -> Uri {
    if to.action.auto_host_rewrite
        && let Ok(authority) = Authority::try_from(attempt.host.hostname.as_str())
        && let Some(uri) = with_authority(&head.uri, authority)
    {
        return uri;
    }
    head.uri.clone()
}

impl Exchange {
    /// Sends the request until the response's head is there.
    pub(super) async fn send(
        &mut self,
        to: &Forward<'_>,
        attempt: &Attempt,
        head: &request::Parts,
        up: &mut Flow,
    ) -> Result<(Response<Source>, Way), Failure> {
        self.send_http2(target(to, attempt, head), attempt, head, up).await
    }

    async fn send_http2(
        &mut self,
        target: Uri,
        attempt: &Attempt,
        head: &request::Parts,
        up: &mut Flow,
    ) -> Result<(Response<Source>, Way), Failure> {
        let lease = match attempt.host.http2.ready() {
            Some(lease) => lease,
            None => {
                let acquired =
                    Box::pin(http2::Pool::acquire(&attempt.host, &attempt.cluster, &attempt.state));
                self.watched(acquired).await?
            }
        };
        let mut request = Request::new(());
        *request.method_mut() = head.method.clone();
        *request.headers_mut() = head.headers.clone();
        *request.uri_mut() = target;
        let bare = up.is_empty();
        let (mut response, sink) = lease.send(request, bare)?;
        up.start(Sink::Http2(sink), bare);
        let response = self
            .answered(up, |_, cx| Pin::new(&mut response).poll(cx).map_err(|error| failure_of(&error)))
            .await?;
        Ok((response.map(Source::Http2), Way::Http2(lease)))
    }
}
