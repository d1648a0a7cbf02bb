//! Requests whose chain has filters: through them to the router, and back through them.

use super::Settings;
use super::bodies::{Filtered, Held, hold, through};
use super::exchange::{Answer, Exchange};
use super::fields::{Changing, Fields, NoHead};
use super::head::RequestHead;
use super::reply::Style;
use super::source::Source;
use crate::filter::{Chain, Outgoing, Peer, Reply, Step, Stream, World};
use crate::message::{Failure, Flags, Head, Reason};
use crate::model::ClusterId;
use crate::net::{PeerAddress, Unfinished};
use crate::router::{Choice, RouteSpec};
use crate::snapshot::View;
use crate::stream::exchange::{Plan, Unplanned};
use crate::stream::facts::StreamFacts;
use crate::stream::{Handle, Local};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, request};
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// What stays the same around one request.
struct Around<'a> {
    local: Rc<Local>,
    handle: Rc<Handle>,
    view: &'a View,
    route: Option<&'a RouteSpec>,
    share: Option<&'a Choice>,
    cluster: Option<(String, String)>,
    peer: Peer<'a>,
    begin: Instant,
    protocol: &'static str,
}

impl Exchange {
    /// As [`go`](Exchange::go), with the filters before and behind it.
    pub(super) async fn filtered(
        &mut self,
        chain: &Arc<Chain>,
        planned: Result<Plan<'_>, Unplanned<'_>>,
        view: &View,
        settings: &Settings<'_>,
        mut head: request::Parts,
        mut body: Source,
        begin: Instant,
    ) -> Result<Answer, Failure> {
        let handle = self.down.handle.clone();
        let principals = handle.principals();
        let around = self.around(&planned, view, &head, begin, (&handle, principals.as_deref()));
        let mut stream = chain.begin(around.route, around.share);
        let passed = self.pass(chain, &mut stream, &around, &mut head, &mut body).await;
        // Filters may have made it another kind of call.
        let style = Style::of(&head, settings.rpc);
        // Whoever writes responses may ask.
        let kept = chain.asks_for_request().then(|| Box::new(head.clone()));
        let ends = head.method == Method::HEAD;
        let answer = match passed {
            Ok(None) => {
                if !stream.metadata.is_empty() {
                    self.record.metadata = stream.metadata.clone();
                }
                self.go(planned, settings, style, head, body, begin).await
            }
            Ok(Some(reply)) => {
                around.route.into_iter().for_each(|route| self.record.route(route));
                Ok(self.reply(style, *reply))
            }
            Err(failure) => Err(failure),
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(failure) if failure.reason == Reason::DownstreamReset => return Err(failure),
            Err(failure) => {
                self.down.stats.failure(failure.reason);
                self.record.failed(failure.reason);
                let (response, whole) = style.failure(failure.reason);
                Answer::whole(response, whole)
            }
        };
        let seen = kept.as_deref().map(RequestHead);
        let seen: &dyn Head = match &seen {
            Some(head) => head,
            None => &NoHead,
        };
        self.back(chain, &mut stream, &around, seen, ends, &mut answer);
        for flag in stream.flags.iter().filter_map(|flag| Flags::named(flag)) {
            self.record.flags.add(flag);
        }
        self.record.health_check = stream.health_check;
        self.record.metadata = stream.metadata;
        Ok(answer)
    }

    fn around<'a>(
        &self,
        planned: &Result<Plan<'a>, Unplanned<'a>>,
        view: &'a View,
        head: &request::Parts,
        begin: Instant,
        (connection, principals): (&'a Handle, Option<&'a [String]>),
    ) -> Around<'a> {
        let (route, share, cluster) = match planned {
            Ok(Plan::Forward(to)) => {
                let model = to.cluster.state();
                let stat = model.spec.model.alt_stat_name.clone();
                let name = to.cluster.name.to_string();
                (Some(to.route), to.share, Some((name.clone(), stat.unwrap_or(name))))
            }
            Ok(Plan::Direct(route, _) | Plan::Redirect(route, _)) => (Some(*route), None, None),
            Err(unplanned) => (unplanned.route, None, None),
        };
        let handle = self.down.handle.clone();
        let direct = match handle.peer {
            PeerAddress::Ip(address) => Some(address),
            PeerAddress::Unix => None,
        };
        let server_name = connection.server_name();
        let peer = Peer { direct, remote: self.caller.ip, local: handle.local, server_name, principals };
        let protocol = super::head::protocol(head.version);
        Around { local: self.down.local.clone(), handle, view, route, share, cluster, peer, begin, protocol }
    }

    /// Through all filters; an answer if one of them has it.
    async fn pass(
        &mut self,
        chain: &Arc<Chain>,
        stream: &mut Stream,
        around: &Around<'_>,
        head: &mut request::Parts,
        body: &mut Source,
    ) -> Result<Option<Box<Reply>>, Failure> {
        let mut buffered = None;
        loop {
            let ends = buffered.is_none() && body.is_end_stream();
            let step = around
                .with(chain, &mut |world| chain.request(stream, &mut Changing(head), world, ends, buffered));
            match step {
                Step::Done => break,
                Step::Reply(reply) => return Ok(Some(reply)),
                Step::Wait(time) => {
                    let wait = around.local.env.wheel.sleep(time);
                    self.watched(async {
                        wait.await;
                        Ok(())
                    })
                    .await?;
                }
                Step::Hold(most) => {
                    let held = self.held(body, head, most, &around.local).await?;
                    buffered = Some(held.len());
                    *body = Source::Held(held);
                }
            }
        }
        let pipeline = std::mem::take(&mut stream.request_body);
        if !pipeline.is_empty() && self.change.is_none() && !body.is_end_stream() {
            let inner = std::mem::replace(body, Source::Held(Held::default()));
            *body = Source::Filtered(Box::new(Filtered::new(inner, pipeline, &around.local.env.wheel)));
        }
        Ok(None)
    }

    /// The whole body. A client that waits for the upstream's word to send it is told to.
    async fn held(
        &mut self,
        body: &mut Source,
        head: &mut request::Parts,
        most: usize,
        local: &Rc<Local>,
    ) -> Result<Held, Failure> {
        if std::mem::take(&mut self.passes_100) {
            head.headers.remove(EXPECT);
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::CONTINUE;
            self.client.send_informational(response);
        }
        let count = Unfinished::new(local.env.reads.clone());
        let held = self.watched(hold(body, most, count)).await?;
        self.clock.request_ended();
        Ok(held)
    }

    /// A filter's own answer.
    fn reply(&mut self, style: Style, reply: Reply) -> Answer {
        if let Some(reason) = reply.reason {
            self.down.stats.failure(reason);
            self.record.failed(reason);
        }
        match reply.details {
            Cow::Borrowed(details) => self.record.details = details,
            Cow::Owned(details) => self.record.named_details = Some(details.into()),
        }
        let style = if reply.plain { Style::Http } else { style };
        let (mut response, whole) = style.with_code(reply.status, reply.grpc, &reply.body);
        let fixed = reply.headers.iter().map(|(name, value)| (*name, value));
        for (name, value) in fixed.chain(reply.more.iter().map(|(name, value)| (name.as_str(), value))) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
                // A map that is full keeps what it has.
                let _ = response.headers_mut().try_append(name, value);
            }
        }
        Answer::whole(response, whole)
    }

    /// The response, back through the filters.
    fn back(
        &mut self,
        chain: &Arc<Chain>,
        stream: &mut Stream,
        around: &Around<'_>,
        request: &dyn Head,
        no_body: bool,
        answer: &mut Answer,
    ) {
        let status = answer.response.status();
        let nothing = answer.whole.is_empty() && answer.relayed_body().is_none_or(|flow| flow.is_empty());
        let ends = no_body || nothing || matches!(status.as_u16(), 101 | 204 | 304);
        let own = answer.relayed_body().is_none();
        let mut outgoing = Outgoing {
            status: status.as_u16(),
            headers: &mut Fields(answer.response.headers_mut()),
            own,
            ends,
        };
        let mut pipeline =
            around.with(chain, &mut |world| chain.response(stream, request, &mut outgoing, world));
        if pipeline.is_empty() || self.switched || ends {
            return;
        }
        let wheel = &around.local.env.wheel;
        if let Some(flow) = answer.relayed_body() {
            return flow.filter(pipeline, wheel);
        }
        match through(&mut pipeline, std::mem::take(&mut answer.whole)) {
            Ok(whole) => {
                answer.response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
                answer.whole = whole;
            }
            Err(failure) => {
                let (response, whole) = Style::Http.failure(failure.reason);
                *answer = Answer::whole(response, whole);
            }
        }
    }
}

impl Around<'_> {
    /// Does `work` with everything a filter may ask.
    fn with<T>(&self, chain: &Arc<Chain>, work: &mut dyn FnMut(World<'_>) -> T) -> T {
        let stats = self.local.filters.of(chain);
        let facts = StreamFacts {
            protocol: self.protocol,
            request: &NoHead,
            begin: self.begin,
            handle: Some(&self.handle),
            route: self.route,
            attempt: None,
            response: None,
            metadata: None,
        };
        let hosts = |name: &str| self.hosts(name);
        work(World {
            random: &self.local.env.random,
            stats: &stats,
            peer: &self.peer,
            route: self.route,
            share: self.share,
            cluster: self.cluster.as_ref().map(|(name, stat)| (name.as_str(), stat.as_str())),
            facts: &facts,
            hosts: &hosts,
            failing: crate::telemetry::is_failing_checks(),
        })
    }

    fn hosts(&self, name: &str) -> Option<(usize, usize)> {
        let id: ClusterId = self.view.cluster_id(name.as_bytes())?;
        let state = self.local.cluster(id, self.view).ok()?.state();
        let good = |health| matches!(health, crate::model::Health::Healthy | crate::model::Health::Degraded);
        let healthy = state.hosts().filter(|host| good(host.health().health(crate::model::Health::Healthy)));
        Some((healthy.count(), state.hosts().count()))
    }
}
