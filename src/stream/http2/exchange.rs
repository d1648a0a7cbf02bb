//! One stream: its request to a cluster and the response back.
//!
//! Until the response's head is forwarded the exchange works on one snapshot and may try several hosts; from
//! then on it is a [`Relay`] of two flows and holds no configuration.

use super::clock::Clock;
use super::flow::{Broken, Flow};
use super::head::{RequestHead, admit, edit, rewrite, with_authority};
use super::reply::Style;
use super::{Downstream, Settings};
use crate::cluster::pool::http2::{Lease, Pool, failure_of};
use crate::message::{Failure, Reason};
use crate::model::Protocol;
use crate::router::RouteSpec;
use crate::snapshot::View;
use crate::stream::exchange::{Attempt, Forward, Outcome, Plan, Trail, Tries, plan};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::{LOCATION, SERVER};
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode, request};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Request bodies up to this many bytes are kept until the response comes, policy or not, for a GOAWAY may
/// meet them on their way.
const SMALL: usize = 16 * 1024;

/// One stream of a client.
pub(super) struct Exchange {
    pub(super) down: Rc<Downstream>,
    respond: SendResponse<Bytes>,
    clock: Clock,
    /// Where it went.
    pub(super) trail: Trail,
}

/// What an exchange came to.
pub(super) struct Answer {
    pub(super) response: Response<()>,
    /// The body of an answer of our own.
    pub(super) whole: Bytes,
    /// Where the body of any other comes from.
    relay: Option<Relay>,
}

impl Answer {
    /// An answer in one piece.
    pub(super) fn whole(response: Response<()>, whole: Bytes) -> Self {
        Answer { response, whole, relay: None }
    }
}

/// The bodies of an exchange whose response has begun.
struct Relay {
    up: Flow,
    down: Flow,
    attempt: Attempt,
    _lease: Lease,
}

/// How a relay ended.
enum End {
    Done,
    /// The client went away or gave up.
    Client,
    Upstream(h2::Error),
    Late(Reason),
}

/// Serves one stream to its end.
pub(super) async fn run(down: Rc<Downstream>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let _stream = down.handle.enter();
    let begin = Instant::now();
    down.stats.begin();
    let clock = Clock::new(&down.local.env.wheel, begin);
    let mut exchange = Exchange { down, respond, clock, trail: Trail::default() };
    let (head, body) = request.into_parts();
    // Boxed, as a task's future is moved whole several times, and what opening needs is gone when it is done.
    let mut opened = Box::pin(exchange.open(head, body, begin)).await;
    if let Some(answer) = &mut opened {
        exchange.forward_answer(answer).await;
    }
    exchange.down.stats.end(begin);
}

impl Exchange {
    /// Everything that needs configuration. `None`: nobody waits for an answer any more.
    async fn open(&mut self, mut head: request::Parts, body: RecvStream, begin: Instant) -> Option<Answer> {
        let bound = self.down.handle.bound();
        let view = bound.pinned.clone().unwrap_or_else(|| self.down.local.view());
        let settings = Settings::of(&bound.chain.filter)?;
        let style = Style::of(&head, settings.rpc);
        let end = settings.max_stream.map(|limit| begin + limit);
        self.clock.limit(settings.stream_idle, None, end);
        let answer = match admit(&mut head) {
            Ok(expects) => {
                if expects {
                    self.say_continue();
                }
                self.answer(&view, &settings, style, head, body).await
            }
            Err(failure) => Err(failure),
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                self.down.stats.failure(failure.reason);
                if failure.reason == Reason::DownstreamReset {
                    return None;
                }
                let (response, whole) = style.failure(failure.reason);
                Answer::whole(response, whole)
            }
        };
        if !settings.server_name.is_empty()
            && let Ok(name) = HeaderValue::from_str(settings.server_name)
        {
            answer.response.headers_mut().insert(SERVER, name);
        }
        Some(answer)
    }

    fn say_continue(&mut self) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::CONTINUE;
        // A client that is gone is noticed later.
        let _ = self.respond.send_informational(response);
    }

    async fn answer(
        &mut self,
        view: &View,
        settings: &Settings<'_>,
        style: Style,
        head: request::Parts,
        body: RecvStream,
    ) -> Result<Answer, Failure> {
        let local = self.down.local.clone();
        let planned = plan(&local, view, settings.routes, &RequestHead(&head));
        let planned = planned.map_err(|unplanned| {
            self.note(unplanned.failure, unplanned.route);
            unplanned.failure
        });
        match planned? {
            Plan::Forward(to) => {
                let route = to.route;
                let result = match settings.upstream {
                    // Boxed, like what is rare below, so that a stream that needs it not has no room for it.
                    Protocol::Bolt => Box::pin(self.convert(to, settings, head, body)).await,
                    Protocol::Http2 | Protocol::Auto => self.forward(to, settings, head, body).await,
                };
                result.inspect_err(|failure| self.note(*failure, Some(route)))
            }
            Plan::Direct(route, direct) => {
                self.down.stats.direct();
                let (mut response, whole) = style.fixed(direct.status, &direct.body);
                edit(response.headers_mut(), &route.response_edits);
                Ok(Answer::whole(response, whole))
            }
            Plan::Redirect(route, redirect) => {
                self.down.stats.redirect();
                let scheme = head.uri.scheme_str().unwrap_or("http");
                let location = route.location(&RequestHead(&head), scheme).unwrap_or_default();
                let (mut response, whole) = style.fixed(redirect.status, b"");
                let location = HeaderValue::from_maybe_shared(Bytes::from(location));
                let location = location.map_err(|_| Failure::before(Reason::LocalReset))?;
                response.headers_mut().insert(LOCATION, location);
                edit(response.headers_mut(), &route.response_edits);
                Ok(Answer::whole(response, whole))
            }
        }
    }

    fn note(&self, failure: Failure, route: Option<&RouteSpec>) {
        if failure.reason != Reason::DownstreamReset {
            self.trail.note(&self.down.local, failure, "http2", &self.down.handle.listener, route);
        }
    }

    /// Sends the request to a cluster, as often as needed, until a response's head is to be forwarded.
    async fn forward(
        &mut self,
        to: Forward<'_>,
        settings: &Settings<'_>,
        mut head: request::Parts,
        body: RecvStream,
    ) -> Result<Answer, Failure> {
        rewrite(&mut head, to.route, to.request_edits, to.action.host_rewrite.as_deref())?;
        let mut tries = Tries::new(to.action.retry.as_ref());
        self.trail.enter(&to.cluster);
        let limit = to.cluster.state().spec.model.buffer_limit;
        let mut up = Flow::new(body, if tries.may_resend() { limit } else { SMALL.min(limit) });
        let idle = to.action.idle_timeout.or(settings.stream_idle);
        self.clock.limit(idle, to.action.timeout, self.clock.deadline());
        if up.has_ended() {
            self.clock.request_ended();
        }
        loop {
            let result = self.attempt(&to, &mut tries, &head, &mut up).await;
            let outcome = match &result {
                Ok((response, ..)) => outcome_of(response),
                Err(failure) if failure.reason == Reason::DownstreamReset => return Err(*failure),
                Err(failure) if up.can_restart() && tries.again_unsent(*failure) => continue,
                Err(failure) => Outcome::Failed(*failure),
            };
            if up.can_restart()
                && let Some(pause) = tries.again(outcome, &to.cluster, self.clock.deadline())
            {
                drop(result);
                let local = self.down.local.clone();
                let wait = local.env.wheel.sleep(pause);
                self.watched(async {
                    wait.await;
                    Ok(())
                })
                .await?;
                continue;
            }
            let (response, attempt, lease) = result?;
            up.forget();
            self.clock.end_try();
            let (mut parts, body) = response.into_parts();
            edit(&mut parts.headers, to.response_edits);
            to.cluster.stats.upstream_rq.record(parts.status.as_u16());
            let relay = Relay { up, down: Flow::new(body, 0), attempt, _lease: lease };
            let response = Response::from_parts(parts, ());
            return Ok(Answer { response, whole: Bytes::new(), relay: Some(relay) });
        }
    }

    /// One try at one host, until its response's head.
    async fn attempt(
        &mut self,
        to: &Forward<'_>,
        tries: &mut Tries<'_>,
        head: &request::Parts,
        up: &mut Flow,
    ) -> Result<(Response<RecvStream>, Attempt, Lease), Failure> {
        let attempt = Attempt::begin(&to.cluster, tries)?;
        self.trail.follow(&attempt);
        self.clock.begin_try(tries.per_try());
        let result = self.send(to, &attempt, head, up).await;
        attempt.count(&result);
        result.map(|(response, lease)| (response, attempt, lease))
    }

    async fn send(
        &mut self,
        to: &Forward<'_>,
        attempt: &Attempt,
        head: &request::Parts,
        up: &mut Flow,
    ) -> Result<(Response<RecvStream>, Lease), Failure> {
        let lease = match attempt.host.http2.ready() {
            Some(lease) => lease,
            None => {
                let acquired = Box::pin(Pool::acquire(&attempt.host, &attempt.cluster, &attempt.state));
                self.watched(acquired).await?
            }
        };
        let mut request = Request::new(());
        *request.method_mut() = head.method.clone();
        *request.headers_mut() = head.headers.clone();
        *request.uri_mut() = head.uri.clone();
        if to.action.auto_host_rewrite
            && let Ok(authority) = Authority::try_from(attempt.host.hostname.as_str())
            && let Some(uri) = with_authority(&head.uri, authority)
        {
            *request.uri_mut() = uri;
        }
        let bare = up.is_empty();
        let (mut response, sink) = lease.send(request, bare)?;
        up.start(sink, bare);
        let mut broken = false;
        let response = poll_fn(|cx| {
            if !broken && !up.is_done() {
                match up.poll(cx) {
                    Poll::Ready(Err(Broken::Source(_))) => {
                        return Poll::Ready(Err(Failure::after(Reason::DownstreamReset)));
                    }
                    // The response tells why.
                    Poll::Ready(Err(Broken::Sink)) => broken = true,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                if up.has_ended() {
                    self.clock.request_ended();
                }
            }
            if let Poll::Ready(result) = Pin::new(&mut response).poll(cx) {
                return Poll::Ready(result.map_err(|error| failure_of(&error)));
            }
            self.poll_gone(cx, up.moved())
        })
        .await?;
        Ok((response, lease))
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
        if self.respond.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Failure::after(Reason::DownstreamReset)));
        }
        self.clock.poll(cx, moved).map(|reason| Err(Failure::after(reason)))
    }

    /// Sends the response; from here on no configuration is held.
    async fn forward_answer(&mut self, answer: &mut Answer) {
        let stats = self.down.stats.clone();
        let bare = match &answer.relay {
            Some(relay) => relay.down.is_empty(),
            None => answer.whole.is_empty(),
        };
        stats.response(&answer.response);
        let response = std::mem::take(&mut answer.response);
        let Ok(mut sink) = self.respond.send_response(response, bare) else {
            return stats.failure(Reason::DownstreamReset);
        };
        let end = match &mut answer.relay {
            Some(relay) => {
                relay.down.start(sink, bare);
                let end = relay.run(&mut self.clock).await;
                relay.finish(&end);
                end
            }
            None if bare => End::Done,
            None => {
                let whole = std::mem::take(&mut answer.whole);
                Box::pin(self.send_whole(&mut sink, whole)).await
            }
        };
        match end {
            End::Done => {}
            End::Client => stats.failure(Reason::DownstreamReset),
            End::Upstream(_) => stats.reset(),
            End::Late(reason) => {
                stats.failure(reason);
                stats.reset();
            }
        }
    }

    /// Sends a body of our own as the client takes it.
    async fn send_whole(&mut self, sink: &mut SendStream<Bytes>, mut body: Bytes) -> End {
        poll_fn(|cx| {
            loop {
                sink.reserve_capacity(body.len());
                let room = sink.capacity();
                if room == 0 {
                    return match sink.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => continue,
                        Poll::Ready(_) => Poll::Ready(End::Client),
                        Poll::Pending => match self.clock.poll(cx, body.len() as u64) {
                            Poll::Ready(reason) => {
                                sink.send_reset(h2::Reason::CANCEL);
                                Poll::Ready(End::Late(reason))
                            }
                            Poll::Pending => Poll::Pending,
                        },
                    };
                }
                let part = body.split_to(room.min(body.len()));
                if sink.send_data(part, body.is_empty()).is_err() {
                    return Poll::Ready(End::Client);
                }
                if body.is_empty() {
                    return Poll::Ready(End::Done);
                }
            }
        })
        .await
    }
}

impl Relay {
    /// Moves both bodies until the response is whole. A request that goes on after it is given up: its client
    /// has all it will get.
    async fn run(&mut self, clock: &mut Clock) -> End {
        let mut broken = false;
        poll_fn(|cx| {
            match self.down.poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(End::Done),
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(End::Upstream(error)),
                Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(End::Client),
                Poll::Pending => {}
            }
            if !broken && !self.up.is_done() {
                match self.up.poll(cx) {
                    Poll::Ready(Err(Broken::Source(_))) => return Poll::Ready(End::Client),
                    // The server wants no more of the request; its response goes on.
                    Poll::Ready(Err(Broken::Sink)) => broken = true,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                if self.up.has_ended() {
                    clock.request_ended();
                }
            }
            if self.down.sink().is_none_or(|sink| sink.poll_reset(cx).is_ready()) {
                return Poll::Ready(End::Client);
            }
            clock.poll(cx, self.up.moved() + self.down.moved()).map(End::Late)
        })
        .await
    }

    /// Tells both sides how it ended. What is dropped unfinished is reset with CANCEL by h2.
    fn finish(&mut self, end: &End) {
        let cluster = &self.attempt.cluster.stats;
        let reason = match end {
            End::Done => return,
            End::Client => return cluster.upstream_rq_cancelled.inc(),
            End::Upstream(error) => {
                cluster.failure.inc(failure_of(error).reason);
                cluster.upstream_rq_rx_reset.inc();
                carried(error)
            }
            End::Late(reason) => {
                cluster.failure.inc(*reason);
                cluster.upstream_rq_tx_reset.inc();
                h2::Reason::INTERNAL_ERROR
            }
        };
        if let Some(sink) = self.down.sink() {
            sink.send_reset(reason);
        }
    }
}

/// The reset a client gets for one of its upstream. Only codes that say about the client's own stream what
/// they said about ours: a refusal after the response has begun would be a lie.
fn carried(error: &h2::Error) -> h2::Reason {
    match error.reason() {
        Some(reason @ (h2::Reason::CANCEL | h2::Reason::ENHANCE_YOUR_CALM)) if error.is_reset() => reason,
        _ => h2::Reason::INTERNAL_ERROR,
    }
}

/// A response as retry policies see it: by its gRPC status if it is nothing else.
fn outcome_of(response: &Response<RecvStream>) -> Outcome {
    let grpc = response.headers().get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
    match grpc {
        Some(code) if code != 0 && response.status() == StatusCode::OK => Outcome::Grpc(code),
        _ => Outcome::Status(response.status().as_u16()),
    }
}
