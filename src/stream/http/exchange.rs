//! One request: planned, sent to a cluster, and the response back.
//!
//! Until the response's head is forwarded the exchange works on one snapshot and may try several hosts; from
//! then on it is a [`Relay`] of two flows and holds no configuration.

use super::client::{Client, Follows};
use super::clock::Clock;
use super::edge::{self, Arrival};
use super::flow::Flow;
use super::head::{Change, RequestHead, edit, facts, protocol, set_path};
use super::relay::{End, Relay, send_whole};
use super::reply::{Style, own_words, rewrite};
use super::source::Source;
use super::steering::Told;
use super::trace::{self, REQUEST_ID};
use super::{Downstream, Settings};
use crate::message::{Failure, Reason};
use crate::model::{AlpnOverride, Block, LogKind, Protocol};
use crate::protocol::http1::NameCase;
use crate::router::{EditPlan, RouteSpec};
use crate::snapshot::View;
use crate::stream::Record;
use crate::stream::exchange::{Caller, Plan, Trail, Unplanned, plan};
use crate::stream::facts::StreamFacts;
use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderValue, Response, request};
use std::future::Future;
use std::rc::Rc;
use tokio::time::Instant;

/// One request of a client.
pub(super) struct Exchange {
    pub(super) down: Rc<Downstream>,
    pub(super) client: Client,
    pub(super) clock: Clock,
    /// Where it went.
    pub(super) trail: Trail,
    /// What is told of it when it is over.
    pub(super) record: Box<Record>,
    /// The other protocol it asks for.
    pub(super) change: Option<Change>,
    /// It comes from inside: what it says to the proxy counts.
    pub(super) internal: bool,
    /// Who sends it.
    pub(super) caller: Caller,
    /// It got it: both bodies are that protocol's.
    pub(super) switched: bool,
    /// Hosts are spoken to in HTTP/2 whatever their cluster says.
    pub(super) always_http2: bool,
    /// The upstream answers `Expect: 100-continue`.
    pub(super) passes_100: bool,
    /// The client was told to go on, by the upstream.
    pub(super) told_100: bool,
    /// The next try must not be on a connection that was used before.
    pub(super) fresh: bool,
    /// The last try failed as tries on connections do that their server is closing.
    pub(super) stale: bool,
    /// What the client is told of its way.
    pub(super) told: Told,
    /// How the names of the response were written.
    pub(super) case: Option<Rc<NameCase>>,
    /// What hosts are offered in TLS, if not what their cluster says.
    pub(super) alpn: Option<Rc<AlpnOverride>>,
    /// What it came to.
    answer: Option<Answer>,
}

/// What an exchange came to.
pub(super) struct Answer {
    pub(super) response: Response<()>,
    /// The body of an answer of our own.
    pub(super) whole: Bytes,
    /// Where the body of any other comes from.
    /// Boxed: an answer is handed on several times on its way to the client.
    relay: Option<Box<Relay>>,
    /// What its manager makes of answers of our own has been made of it.
    settled: bool,
}

impl Answer {
    /// An answer whose body `relay` brings.
    pub(super) fn relayed(response: Response<()>, relay: Relay) -> Self {
        Answer { response, whole: Bytes::new(), relay: Some(Box::new(relay)), settled: true }
    }

    /// The body of an answer that is not our own.
    pub(super) fn relayed_body(&mut self) -> Option<&mut Flow> {
        self.relay.as_mut().map(|relay| &mut relay.down)
    }

    /// An answer in one piece.
    pub(super) fn whole(response: Response<()>, whole: Bytes) -> Self {
        Answer { response, whole, relay: None, settled: false }
    }
}

/// Serves one request to its end and gives the clock back. `clock`: as new, or restarted.
///
/// A plain function, the exchange and its opening in boxes of their own: what a task is started with is moved
/// whole several times, what opening needs is gone when it is done, and an idle connection holds neither. The
/// head and the body stay in one place during opening and are lent from there.
pub fn run(
    down: Rc<Downstream>,
    head: request::Parts,
    body: Source,
    client: Client,
    clock: Clock,
    begin: Instant,
) -> impl Future<Output = Clock> {
    down.stats.begin(client.version());
    let record = Record::begin(&down.local, LogKind::DownstreamEnd, protocol(head.version), begin);
    let exchange = Box::write(
        Box::new_uninit(),
        Exchange {
            caller: Caller::of(&down.handle),
            down,
            client,
            clock,
            trail: Trail::default(),
            record,
            change: None,
            internal: false,
            switched: false,
            always_http2: false,
            passes_100: false,
            told_100: false,
            fresh: false,
            stale: false,
            told: Told::default(),
            case: None,
            alpn: None,
            answer: None,
        },
    );
    // The place first: then it is filled there, and not made somewhere else and moved.
    let opening = Box::into_pin(Box::write(Box::new_uninit(), exchange.open(head, body, begin)));
    async move {
        let mut exchange = opening.await;
        exchange.forward_answer().await;
        let now = Instant::now();
        exchange.trail.took(exchange.down.stats.end(begin, now));
        let Exchange { down, clock, trail, mut record, .. } = *exchange;
        record.request_end = clock.ended_at();
        record.finish_at(now, &down.local, Some(&down.handle), trail.upstream());
        clock
    }
}

impl Exchange {
    /// Everything that needs configuration. No answer: nobody waits for one any more.
    #[expect(clippy::manual_async_fn, reason = "an async function keeps what it is given twice")]
    fn open(
        mut self: Box<Self>,
        mut head: request::Parts,
        mut body: Source,
        begin: Instant,
    ) -> impl Future<Output = Box<Self>> {
        async move {
            self.answer = self.opened(&mut head, &mut body, begin).await;
            self
        }
    }

    async fn opened(
        &mut self,
        head: &mut request::Parts,
        body: &mut Source,
        begin: Instant,
    ) -> Option<Answer> {
        let bound = self.down.handle.bound();
        let view = bound.pinned.clone().unwrap_or_else(|| self.down.local.view());
        let mut settings = Settings::of(&bound.chain)?;
        let style = Style::of(head, settings.rpc);
        self.limit(&settings, begin);
        self.record.follow(&bound);
        self.record.measured = settings.chain.is_some_and(|chain| chain.reports());
        self.always_http2 = settings.upstream.is_some();
        let mut arrival = Arrival::default();
        let arrived = self.arrive(&settings, head, &mut arrival);
        if let (Some(edge), Ok(())) = (settings.edge, &arrived)
            && edge.add_user_agent
        {
            edge::introduce(&mut head.headers, &view.node_name);
        }
        settings.routes = bound.chain.filter.table_of(&view, &RequestHead(head));
        self.record.client = arrival.client;
        // Nothing is awaited before the request is forwarded as it is then, or answered here.
        let later = settings.chain.is_none() && settings.upstream.is_none() && !self.record.moments().start;
        let id = head.headers.get(REQUEST_ID).map(HeaderValue::as_bytes);
        self.record.arrived(&RequestHead(head), id, later);
        self.record.request_size(&head.headers);
        if self.record.moments().start {
            let at = (&self.down.local, &*self.down.handle);
            self.record.note(LogKind::DownstreamStart, at, (None, None));
        }
        let answer = match arrived {
            Ok(()) => match arrival.redirect.take() {
                Some(path) => self.send_back(style, path),
                None => self.answer(&view, &settings, style, head, body, begin).await,
            },
            Err(failure) => Err(failure),
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                self.down.stats.failure(failure.reason);
                self.record.failed(failure.reason);
                if failure.reason == Reason::DownstreamReset {
                    return None;
                }
                let (response, whole) = style.failure(failure.reason);
                Answer::whole(response, whole)
            }
        };
        if !self.record.has_fields() {
            self.record.request(&RequestHead(head));
        }
        self.settle(&mut answer);
        if self.record.has_failed() {
            self.record.explain(view.route_table(settings.routes).map(|table| &**table));
        }
        self.told.write(answer.response.headers_mut(), settings.router);
        if let Some(edge) = settings.edge {
            if edge.request_id.in_response {
                arrival.request_id = head.headers.get(REQUEST_ID).cloned();
            }
            let status = answer.response.status();
            edge::depart(status, answer.response.headers_mut(), edge, settings.server_name, &arrival);
        }
        Some(answer)
    }

    async fn answer(
        &mut self,
        view: &View,
        settings: &Settings<'_>,
        style: Style,
        head: &mut request::Parts,
        body: &mut Source,
        begin: Instant,
    ) -> Result<Answer, Failure> {
        self.hide_internal(view, settings, head);
        let planned = plan(&self.down.local, view, settings.routes, &RequestHead(head), self.caller);
        if let Some(id) = settings.edge.map(|edge| &edge.request_id)
            && let Some(sampling) = &id.sampling
        {
            let route = planned.as_ref().map_or_else(|unplanned| unplanned.route, |plan| Some(plan.route()));
            let sampling = route.and_then(|route| route.model().tracing.as_deref()).unwrap_or(sampling);
            if trace::sample(&mut head.headers, sampling, id.carries_reason, &self.down.local.env.random) {
                self.record.identify(head.headers.get(REQUEST_ID).map(HeaderValue::as_bytes));
            }
        }
        match settings.chain {
            None => self.go(planned, settings, style, head, body, begin).await,
            // Boxed, so that a stream without filters has no room for what they need.
            Some(chain) => Box::pin(self.filtered(chain, planned, view, settings, head, body, begin)).await,
        }
    }

    /// Where its plan leads.
    pub(super) async fn go(
        &mut self,
        planned: Result<Plan<'_>, Unplanned<'_>>,
        settings: &Settings<'_>,
        style: Style,
        head: &mut request::Parts,
        body: &mut Source,
        begin: Instant,
    ) -> Result<Answer, Failure> {
        let planned = match planned {
            Ok(planned) => planned,
            Err(unplanned) => {
                self.note(unplanned.failure, unplanned.route);
                unplanned.route.into_iter().for_each(|route| self.record.route(route));
                let (Some(route), Some(edits)) = (unplanned.route, unplanned.response_edits) else {
                    return Err(unplanned.failure);
                };
                return self.failed(unplanned.failure, style, route, edits, head, begin);
            }
        };
        self.record.route(planned.route());
        match planned {
            Plan::Forward(to) => {
                let (route, edits) = (to.route, to.response_edits);
                // Kept for what the edits of a failure may ask.
                let kept = (!edits.is_empty()).then(|| Box::new(head.clone()));
                let result = match settings.upstream {
                    // Boxed, like what is rare below, so that a stream that needs it not has no room for it.
                    Some(Protocol::Bolt) => Box::pin(self.convert(to, settings, head, body)).await,
                    Some(Protocol::Http2 | Protocol::Auto) | None => {
                        self.forward(to, settings, head, body, begin).await
                    }
                };
                match (result, kept) {
                    (Err(failure), Some(head)) if failure.reason != Reason::DownstreamReset => {
                        self.note(failure, Some(route));
                        self.failed(failure, style, route, edits, &head, begin)
                    }
                    (result, _) => result.inspect_err(|failure| self.note(*failure, Some(route))),
                }
            }
            Plan::Direct(route, direct) => {
                self.down.stats.direct();
                self.record.details = "direct_response";
                let (mut response, whole) = style.fixed(direct.status, &direct.body);
                set_location(&mut response, route, head)?;
                self.edit_own(head, begin, route, &route.response_edits, &mut response);
                Ok(Answer::whole(response, whole))
            }
            Plan::Redirect(route, redirect) => {
                self.down.stats.redirect();
                self.record.details = "direct_response";
                let (mut response, whole) = style.fixed(redirect.status, b"");
                set_location(&mut response, route, head)?;
                self.edit_own(head, begin, route, &route.response_edits, &mut response);
                Ok(Answer::whole(response, whole))
            }
        }
    }

    /// An answer of our own becomes what the manager's configuration makes of it, before filters see it.
    pub(super) fn settle(&mut self, answer: &mut Answer) {
        if std::mem::replace(&mut answer.settled, true) || !self.record.rewrites() {
            return;
        }
        let (status, text) = own_words(&answer.response, &answer.whole);
        let at = (&*self.down.local, &*self.down.handle);
        if let Some(new) = self.record.rewrite(at, self.trail.upstream(), status, &text) {
            rewrite(&mut answer.response, &mut answer.whole, status, new);
        }
    }

    /// The answer for a failure, with the response edits of the route it met.
    fn failed(
        &mut self,
        failure: Failure,
        style: Style,
        route: &RouteSpec,
        edits: &EditPlan,
        head: &request::Parts,
        begin: Instant,
    ) -> Result<Answer, Failure> {
        if edits.is_empty() {
            return Err(failure);
        }
        self.down.stats.failure(failure.reason);
        self.record.failed(failure.reason);
        let (mut response, whole) = style.failure(failure.reason);
        self.edit_own(head, begin, route, edits, &mut response);
        Ok(Answer::whole(response, whole))
    }

    /// Response edits on an answer of our own.
    fn edit_own(
        &self,
        head: &request::Parts,
        begin: Instant,
        route: &RouteSpec,
        edits: &EditPlan,
        response: &mut Response<()>,
    ) {
        let seen = RequestHead(head);
        let plan = edits.resolved(
            Block::Response,
            &StreamFacts {
                metadata: Some(&self.record.metadata),
                // Nobody has answered.
                response: Some((0, response.headers())),
                ..facts(&seen, &self.down.handle, begin, route)
            },
        );
        edit(response.headers_mut(), &plan);
    }

    fn note(&self, failure: Failure, route: Option<&RouteSpec>) {
        if failure.reason != Reason::DownstreamReset {
            self.trail.note(
                &self.down.local,
                failure,
                self.client.version().word(),
                &self.down.handle.listener,
                route,
            );
        }
    }

    /// Sends the response; from here on no configuration is held.
    async fn forward_answer(&mut self) {
        let Some(answer) = &mut self.answer else { return };
        let follows = match &answer.relay {
            Some(relay) if relay.down.is_empty() && !self.switched => Follows::Nothing,
            Some(_) => Follows::Body,
            None if answer.whole.is_empty() => Follows::Nothing,
            None => Follows::Whole,
        };
        let case = self.case.take();
        let stats = self.down.stats.clone();
        let response = std::mem::take(&mut answer.response);
        stats.response(&response);
        self.record.response(response.status().as_u16(), response.headers());
        let Ok(mut sink) = self.client.send_response(response, case.as_deref(), follows) else {
            self.record.failed(Reason::DownstreamReset);
            self.record.status = 0;
            return stats.failure(Reason::DownstreamReset);
        };
        let end = match &mut answer.relay {
            Some(relay) => {
                if self.record.wants_trailers() {
                    relay.down.note_trailers();
                }
                relay.down.start(sink, follows == Follows::Nothing);
                let moments = self.record.moments();
                let at = (&self.down.local, &*self.down.handle);
                if moments.tunnel && self.switched {
                    let kind = LogKind::DownstreamTunnelSuccessfullyEstablished;
                    self.record.note(kind, at, self.trail.upstream());
                }
                let end = match moments.every {
                    None => relay.run(&mut self.clock).await,
                    // Boxed, so that a stream whose logs wait for its end has no room for it.
                    Some(every) => {
                        let note = |relay: &Relay| {
                            relay.tell(&mut self.record);
                            self.record.note(LogKind::DownstreamPeriodic, at, self.trail.upstream());
                        };
                        Box::pin(relay.run_noted(&mut self.clock, every, &self.down.local, note)).await
                    }
                };
                relay.count(&stats);
                relay.tell(&mut self.record);
                relay.finish(&end);
                end
            }
            None => {
                let whole = std::mem::take(&mut answer.whole);
                self.record.sent = whole.len() as u64;
                Box::pin(send_whole(&mut sink, whole, &mut self.clock)).await
            }
        };
        match end {
            End::Done => {}
            End::Client => {
                self.record.broke(Reason::DownstreamReset);
                stats.failure(Reason::DownstreamReset);
            }
            End::Upstream(fault) => {
                self.record.broke(fault.failure().reason);
                stats.reset();
            }
            End::Late(reason) => {
                self.record.broke(reason);
                stats.failure(reason);
                stats.reset();
            }
        }
    }
}

/// `location` for an answer of the route's own, where it has one. The path in `head` becomes what a redirect
/// makes of it.
fn set_location(
    response: &mut Response<()>,
    route: &RouteSpec,
    head: &mut request::Parts,
) -> Result<(), Failure> {
    let scheme = head.uri.scheme_str().unwrap_or("http");
    if let Some(location) = route.location(&RequestHead(head), scheme) {
        let location = HeaderValue::from_maybe_shared(Bytes::from(location));
        response.headers_mut().insert(LOCATION, location.map_err(|_| Failure::before(Reason::LocalReset))?);
    }
    // The response's edits see the path as it was rewritten.
    let path = head.uri.path_and_query().and_then(|path| route.redirected_path(path.as_str().as_bytes()));
    path.map_or(Ok(()), |path| set_path(head, path, true))
}
