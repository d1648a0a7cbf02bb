//! Copies of requests for other clusters, whose answers nobody sees.
//!
//! A copy leaves when its request has come whole, in a task of its own: it keeps nobody waiting, has the limits
//! of its own cluster, and tells outlier detection nothing.

use super::STREAM_IDLE;
use super::bodies::Held;
use super::flow::{Broken, Flow};
use super::head::with_authority;
use super::sink::Sink;
use super::source::Source;
use super::tap::Tap;
use crate::cluster::pool::http2::failure_of;
use crate::cluster::pool::{http1, http2};
use crate::cluster::{Cluster, PickContext};
use crate::message::{Failure, Reason};
use crate::model::{Mirror, UpstreamProtocol};
use crate::stream::Local;
use crate::stream::exchange::{Attempt, Forward, Tries, within};
use crate::stream::http1::length;
use http::header::EXPECT;
use http::uri::Authority;
use http::{Request, StatusCode, request};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// One copy on its way.
struct Copy {
    local: Rc<Local>,
    cluster: Rc<Cluster>,
    head: request::Parts,
    version: UpstreamProtocol,
    limit: Duration,
}

/// Has the request with this head copied as `to` says: its body is kept up to `room` bytes. `timeout`: that of
/// the request; `client`: what its client speaks.
pub(super) fn tap(
    local: &Rc<Local>,
    to: &Forward<'_>,
    head: &request::Parts,
    timeout: Option<Duration>,
    room: usize,
    client: UpstreamProtocol,
) -> Option<Tap> {
    let wish = to.wish.as_ref().filter(|wish| !wish.mirrors.is_empty())?;
    let copy = |(spec, cluster): &(&Mirror, Rc<Cluster>)| Copy {
        local: local.clone(),
        cluster: cluster.clone(),
        head: shadow(head, spec),
        version: match cluster.state().spec.model.protocol {
            UpstreamProtocol::Downstream => client,
            other => other,
        },
        limit: timeout.unwrap_or(STREAM_IDLE),
    };
    let copies: Vec<Copy> = wish.mirrors.iter().map(copy).collect();
    let cluster = to.cluster.clone();
    Some(Tap::new(room, move |whole| match whole {
        Some(whole) => copies.into_iter().for_each(|copy| {
            spawn_local(copy.run(whole.clone()));
        }),
        None => cluster.stats.retry_or_shadow_abandoned.inc(),
    }))
}

/// The head that the copy has.
fn shadow(head: &request::Parts, spec: &Mirror) -> request::Parts {
    let mut head = head.clone();
    head.headers.remove(EXPECT);
    let name = match (&spec.host_rewrite, head.uri.authority()) {
        (Some(name), _) => Some(name.clone()),
        (None, Some(authority)) if !spec.keep_host => Some(match authority.port() {
            Some(port) => format!("{}-shadow:{port}", authority.host()),
            None => format!("{}-shadow", authority.host()),
        }),
        _ => None,
    };
    let authority = name.and_then(|name| Authority::try_from(name).ok());
    if let Some(uri) = authority.and_then(|authority| with_authority(&head.uri, authority)) {
        head.uri = uri;
    }
    head
}

impl Copy {
    async fn run(self, whole: Held) {
        let mut tries = Tries::default();
        let attempt = Attempt::begin(&self.cluster, PickContext::default(), &mut tries);
        // Counted where it is refused; nobody is told.
        let Ok(attempt) = attempt.map(Attempt::unjudged) else { return };
        let deadline = Instant::now() + self.limit;
        let sending = self.send(&attempt, whole);
        let result = within(&self.local, Some(deadline), Reason::Timeout, sending).await;
        attempt.count(&result);
    }

    /// Sends it and reads the answer to its end.
    async fn send(&self, attempt: &Attempt, whole: Held) -> Result<(), Failure> {
        let Attempt { host, cluster, state, priority, .. } = attempt;
        let mut flow = Flow::new(Source::Held(whole), 0);
        let bare = flow.is_empty();
        let (status, body, _lease) = match self.version {
            UpstreamProtocol::Http2 => {
                let lease = match host.http2.ready() {
                    Some(lease) => lease,
                    None => http2::Pool::acquire(host, cluster, state, *priority).await?,
                };
                let mut request = Request::new(());
                *request.method_mut() = self.head.method.clone();
                request.headers_mut().clone_from(&self.head.headers);
                *request.uri_mut() = self.head.uri.clone();
                let (mut response, sink) = lease.send(request, bare)?;
                flow.start(Sink::Http2(sink), bare);
                let response = pouring(&mut flow, |cx| {
                    Pin::new(&mut response).poll(cx).map_err(|error| failure_of(&error))
                });
                let (head, body) = response.await?.into_parts();
                (head.status, Source::Http2(body), Some(lease))
            }
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => {
                let lease = match host.http1.ready() {
                    Some(lease) => lease,
                    None => http1::Pool::acquire(host, cluster, state, *priority).await?,
                };
                let size = length(&self.head.headers, bare);
                let (sender, mut receiver) = lease.send(&self.head, None, size, false);
                flow.start(Sink::Http1Request(sender), bare);
                let head = pouring(&mut flow, |cx| {
                    loop {
                        match receiver.poll_head(cx) {
                            Poll::Ready(Ok(head)) if head.is_interim() => {}
                            other => return other,
                        }
                    }
                });
                let head = head.await?;
                (head.parts.status, Source::Http1Response(receiver), None)
            }
        };
        self.finish(status, flow, body).await
    }

    /// Reads the answer's body and drops it.
    async fn finish(&self, status: StatusCode, mut flow: Flow, mut body: Source) -> Result<(), Failure> {
        self.cluster.stats.upstream_rq.record(status.as_u16());
        pouring(&mut flow, |cx| {
            loop {
                match ready!(body.poll_data(cx)) {
                    Some(Ok(part)) => body.release(part.len()),
                    Some(Err(fault)) => return Poll::Ready(Err(fault.failure())),
                    None => return Poll::Ready(Ok(())),
                }
            }
        })
        .await
    }
}

/// Sends what can be sent of the copy until `poll` is ready.
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
