//! The tries of one request: sends it to hosts of its cluster until a response's head is to be forwarded.

use super::Settings;
use super::client::Client;
use super::exchange::{Answer, Exchange};
use super::flow::{Broken, Flow};
use super::head::{RequestHead, edit, facts, joined, rewrite};
use super::mirror;
use super::relay::Relay;
use super::source::Source;
use super::steering::{self, Notice};
use super::upstream::Way;
use crate::message::{Failure, Flags, Reason};
use crate::model::{Block, UpstreamProtocol};
use crate::router::Limits;
use crate::stream::exchange::{Attempt, Forward, Outcome, Tries};
use crate::stream::facts::StreamFacts;
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, request};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Request bodies up to this many bytes are kept until the response comes, policy or not, for a GOAWAY may
/// meet them on their way.
const SMALL: usize = 16 * 1024;

impl Exchange {
    /// Sends the request to a cluster, as often as needed, until a response's head is to be forwarded.
    pub(super) async fn forward(
        &mut self,
        to: Forward<'_>,
        settings: &Settings<'_>,
        head: &mut request::Parts,
        body: &mut Source,
        begin: Instant,
    ) -> Result<Answer, Failure> {
        self.allow_change(&to, settings, head)?;
        rewrite(head, &to, &self.down.handle, begin, &self.record.metadata, settings.router)?;
        self.record.request(&RequestHead(head));
        if let Some(options) = settings.router.filter(|_| self.internal) {
            steering::read(&mut head.headers, options)?;
        }
        let mut tries = to.tries(&RequestHead(head), self.internal);
        self.trail.enter(&to.cluster);
        let limit = to.route.buffer_limit().map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let limit = limit.unwrap_or_else(|| to.cluster.state().spec.model.buffer_limit);
        let body = std::mem::take(body);
        let mut up = Flow::new(body, if tries.may_resend() { limit } else { SMALL.min(limit) });
        let mut limits = to.route.limits(&RequestHead(head), self.internal);
        if self.change.is_some() {
            limits.timeout = None;
        }
        if self.internal {
            steering::take(&mut head.headers);
        }
        if self.change.is_none() && to.is_mirrored() {
            let client = match self.client {
                Client::Http2(_) => UpstreamProtocol::Http2,
                Client::Http1(_) => UpstreamProtocol::Http1,
            };
            let tap =
                mirror::tap(&self.down.local, &to, head, limits.timeout, limit, (client, self.alpn.as_ref()));
            tap.into_iter().for_each(|tap| up.tap(tap));
        }
        let notice = Notice::new(head, to.route, &limits, settings.router);
        let idle = limits.idle.or(settings.stream_idle);
        let end = match limits.max_stream {
            None => self.clock.deadline(),
            Some(limit) => limit.map(|limit| begin + limit),
        };
        self.clock.limit(idle, limits.timeout, end);
        if up.has_ended() {
            self.clock.request_ended();
        }
        loop {
            notice.write(&mut head.headers, tries.made() + 1, self.clock.ended_at());
            self.told.attempts = to.route.host().attempt_count_in_response.then_some(tries.made() + 1);
            let result = self.attempt(&to, &mut tries, &limits, head, &mut up).await;
            self.told.overloaded = result.as_ref().is_err_and(|failure| failure.reason.is_overflow());
            // A copy that is given up is counted where it is.
            if up.is_outgrown() && tries.may_resend() && tries.made() == 1 && !to.is_mirrored() {
                to.cluster.stats.retry_or_shadow_abandoned.inc();
            }
            let outcome = match &result {
                Ok((response, ..)) => {
                    let headers = |name: &str| joined(response.headers(), name);
                    tries.judge(response.status().as_u16(), &headers)
                }
                Err(failure) if failure.reason == Reason::DownstreamReset => return Err(*failure),
                Err(failure) if self.can_restart(&up) && tries.again_unsent(*failure, &to.cluster) => {
                    self.fresh = true;
                    continue;
                }
                Err(_) if self.can_restart(&up) && self.again_stale(&to, &mut tries, head) => continue,
                Err(failure) => Outcome::Failed(*failure),
            };
            if self.can_restart(&up)
                && let Some(pause) = tries.again(outcome, &to.cluster, self.clock.deadline())
            {
                drop(result);
                // Its limits are not those of the pause.
                self.clock.begin_try(None, None);
                let local = self.down.local.clone();
                let wait = local.env.wheel.sleep(pause);
                self.watched(async {
                    wait.await;
                    Ok(())
                })
                .await?;
                continue;
            }
            if tries.exhausted() {
                self.record.flags.add(Flags::UpstreamRetryLimitExceeded);
            }
            let (response, attempt, way) = result?;
            let now = Instant::now();
            self.record.answered(now);
            up.forget();
            self.clock.end_try();
            if self.switched {
                self.clock.limit(idle, None, end);
            }
            let (mut parts, body) = response.into_parts();
            if let Some(options) = settings.router {
                steering::note_service_time(&mut parts.headers, options, self.clock.ended_at(), now);
            }
            set_cookies(&to, &mut parts.headers);
            let seen = RequestHead(head);
            let plan = to.response_edits.resolved(
                Block::Response,
                &StreamFacts {
                    metadata: Some(&self.record.metadata),
                    attempt: Some(&attempt),
                    response: Some((parts.status.as_u16(), &parts.headers)),
                    ..facts(&seen, &self.down.handle, begin, to.route)
                },
            );
            edit(&mut parts.headers, &plan);
            to.cluster.stats.upstream_rq.record(parts.status.as_u16());
            let relay = Relay::new(up, Flow::new(body, 0), attempt, way);
            let response = Response::from_parts(parts, ());
            return Ok(Answer::relayed(response, relay));
        }
    }

    /// Whether another try would send what this one did, and nobody has seen anything of this one.
    fn can_restart(&self, up: &Flow) -> bool {
        up.can_restart() && !self.told_100 && self.change.is_none()
    }

    /// Whether to try once more on a new connection after one that its server was closing. A request that was
    /// written may have been served: only one that can be served twice, and only if its route says that it may.
    fn again_stale(&mut self, to: &Forward<'_>, tries: &mut Tries<'_>, head: &request::Parts) -> bool {
        if !std::mem::take(&mut self.stale) || self.fresh || to.action.retry.is_none() {
            return false;
        }
        self.fresh = true;
        head.method.is_idempotent() && tries.again_stale(&to.cluster)
    }

    /// One try at one host, until its response's head.
    async fn attempt(
        &mut self,
        to: &Forward<'_>,
        tries: &mut Tries<'_>,
        limits: &Limits,
        head: &request::Parts,
        up: &mut Flow,
    ) -> Result<(Response<Source>, Attempt, Way), Failure> {
        let attempt = Attempt::begin(&to.cluster, to.context(), tries)?;
        self.trail.follow(&attempt);
        self.record.attempts = tries.made();
        self.clock.begin_try(limits.per_try, limits.per_try_idle);
        let result = self.send(to, &attempt, head, up).await;
        self.record.received = up.bytes();
        attempt.count(&result);
        if let Ok((response, _)) = &result {
            attempt.answered(judged_status(response));
        }
        result.map(|(response, way)| (response, attempt, way))
    }

    /// Sends what can be sent of the request until `poll` has the response. `parked`: nothing is.
    pub(super) async fn answered<R>(
        &mut self,
        up: &mut Flow,
        parked: bool,
        mut poll: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<Result<R, Failure>>,
    ) -> Result<R, Failure> {
        let mut broken = parked;
        poll_fn(|cx| {
            if !broken && !up.is_done() {
                match up.poll(cx) {
                    Poll::Ready(Err(Broken::Source(fault))) => return Poll::Ready(Err(fault.of_client())),
                    // The response tells why.
                    Poll::Ready(Err(Broken::Sink)) => broken = true,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                if up.has_ended() {
                    self.clock.request_ended();
                }
            }
            match poll(self, cx) {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => self.poll_gone(cx, up.moved()),
            }
        })
        .await
    }

    /// Does `work` unless the client gives up or a time limit passes.
    pub(super) async fn watched<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.poll_gone(cx, 0),
        })
        .await
    }

    /// Ready when there is no use in waiting for a response any longer.
    fn poll_gone<T>(&mut self, cx: &mut Context<'_>, moved: u64) -> Poll<Result<T, Failure>> {
        if self.client.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Failure::after(Reason::DownstreamReset)));
        }
        self.clock.poll(cx, moved).map(|reason| Err(Failure::after(reason)))
    }
}

/// Gives the client the cookies that its later requests are to be hashed by.
fn set_cookies(to: &Forward<'_>, headers: &mut HeaderMap) {
    for cookie in to.wish.iter().flat_map(|wish| &wish.cookies) {
        if let Ok(value) = HeaderValue::from_str(&cookie.header) {
            // A map that is full keeps what it has.
            let _ = headers.try_append(SET_COOKIE, value);
        }
    }
}

/// The status outlier detection sees: that of gRPC where the response is nothing but one.
fn judged_status<B>(response: &Response<B>) -> u16 {
    const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
    let grpc = response.headers().get(GRPC_STATUS).and_then(|value| value.to_str().ok()?.parse().ok());
    match grpc {
        None => response.status().as_u16(),
        Some(2u32 | 13 | 15) => 500,
        Some(4) => 504,
        Some(12) => 501,
        Some(14) => 503,
        Some(_) => 200,
    }
}
