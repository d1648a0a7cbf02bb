//! Sending requests of our own: copies, and what filters ask.

use super::bodies::Held;
use super::flow::{Broken, Flow};
use super::sink::Sink;
use super::source::Source;
use super::upstream::offering;
use crate::cluster::Variant;
use crate::cluster::pool::auto::{self, Lease};
use crate::cluster::pool::http2::failure_of;
use crate::cluster::pool::{http1, http2};
use crate::message::{Failure, Reason};
use crate::model::{AlpnOverride, UpstreamProtocol};
use crate::stream::exchange::Attempt;
use crate::stream::http1::length;
use bytes::Bytes;
use http::{HeaderMap, Request, request, response};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A request that is answered, as far as its answer's head. Dropped, it is given up.
pub(super) struct Sent {
    /// The answer's head.
    pub(super) head: response::Parts,
    body: Source,
    /// What is left to be sent.
    up: Flow,
    _lease: Option<http2::Lease>,
}

/// Sends a request to `attempt`'s host and waits for the head of the answer. `fresh`: not on a connection that was
/// used before; `alpn`: what the host is offered in TLS, if not what its cluster says.
///
/// # Errors
/// No connection, or the host broke off. One that was [not sent](Failure::sent) met a connection that its host
/// was closing.
pub(super) async fn send(
    attempt: &Attempt,
    (version, alpn): (UpstreamProtocol, Option<&AlpnOverride>),
    head: &request::Parts,
    whole: Held,
    fresh: bool,
) -> Result<Sent, Failure> {
    let Attempt { cluster, state, priority, .. } = attempt;
    let host = &offering(Variant::default(), alpn, attempt, version, head);
    let mut up = Flow::new(Source::Held(whole), 0);
    let bare = up.is_empty();
    let lease = match version {
        UpstreamProtocol::Auto => auto::acquire(host, cluster, state, *priority, fresh).await?,
        UpstreamProtocol::Http2 => Lease::Http2(match host.http2.ready() {
            Some(lease) => lease,
            None => http2::Pool::acquire(host, cluster, state, *priority).await?,
        }),
        UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => {
            Lease::Http1(match host.http1.ready().filter(|_| !fresh) {
                Some(lease) => lease,
                None if fresh => http1::Pool::acquire_new(host, cluster, state, *priority).await?,
                None => http1::Pool::acquire(host, cluster, state, *priority).await?,
            })
        }
    };
    match lease {
        Lease::Http2(lease) => {
            let mut request = Request::new(());
            *request.method_mut() = head.method.clone();
            request.headers_mut().clone_from(&head.headers);
            *request.uri_mut() = head.uri.clone();
            let (mut response, sink) = lease.send(request, bare)?;
            up.start(Sink::Http2(sink.into()), bare);
            let response =
                pouring(&mut up, |cx| Pin::new(&mut response).poll(cx).map_err(|error| failure_of(&error)));
            let (head, body) = response.await?.into_parts();
            Ok(Sent { head, body: Source::Http2(body), up, _lease: Some(lease) })
        }
        Lease::Http1(lease) => {
            let reused = lease.is_reused();
            let size = length(&head.headers, bare);
            let (sender, mut receiver) = lease.send(head, None, size, false);
            up.start(Sink::Http1Request(sender), bare);
            let head = pouring(&mut up, |cx| {
                loop {
                    match receiver.poll_head(cx) {
                        Poll::Ready(Ok(head)) if head.is_interim() => {}
                        other => return other,
                    }
                }
            });
            let head = head.await.map_err(|failure| match failure.reason {
                // A server that closes instead of answering did so, most likely, before it saw the request.
                Reason::UpstreamClosed if reused => Failure::before(Reason::UpstreamClosed),
                _ => failure,
            })?;
            Ok(Sent { head: head.parts, body: Source::Http1Response(receiver), up, _lease: None })
        }
    }
}

impl Sent {
    /// Reads the answer to its end: each part of its body goes to `take`. Gives its trailers.
    ///
    /// # Errors
    /// The host broke off, or `take` has enough.
    pub(super) async fn answer(
        &mut self,
        take: &mut dyn FnMut(Bytes) -> Result<(), Failure>,
    ) -> Result<Option<HeaderMap>, Failure> {
        let body = &mut self.body;
        pouring(&mut self.up, |cx| {
            loop {
                match ready!(body.poll_data(cx)) {
                    Some(Ok(part)) => {
                        body.release(part.len());
                        take(part)?;
                    }
                    Some(Err(fault)) => return Poll::Ready(Err(fault.failure())),
                    None => return body.poll_trailers(cx).map_err(|fault| fault.failure()),
                }
            }
        })
        .await
    }
}

/// Sends what can be sent of the request until `poll` is ready.
async fn pouring<T>(
    flow: &mut Flow,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut over = flow.is_done();
    poll_fn(|cx| {
        if !over {
            // A server that takes no more of it may still answer.
            over = matches!(flow.poll(cx), Poll::Ready(Ok(()) | Err(Broken::Sink | Broken::Source(_))));
        }
        poll(cx)
    })
    .await
}
