//! Requests whose chain has filters: through them to the router, and back through them.

use super::Settings;
use super::ask::ask;
use super::bodies::{Filtered, Held, hold, peek, through};
use super::exchange::{Answer, Exchange};
use super::fields::{Changing, Fields};
use super::head::RequestHead;
use super::reply::Style;
use super::source::Source;
use crate::filter::{Chain, Given, Outgoing, Part, Reply, Step, Stream};
use crate::message::{Failure, Flags, Head, Reason};
use crate::net::Unfinished;
use crate::snapshot::View;
use crate::stream::Local;
use crate::stream::around::{Around, NoHead, Picked};
use crate::stream::exchange::{Plan, Unplanned, plan};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, request};
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// How far a request came.
enum Passed {
    /// Through all filters.
    On,
    /// To one whose changes may have given it another route.
    Rerouted,
    /// To one that answers.
    Reply(Box<Reply>),
}

fn too_large() -> Passed {
    let reason = Reason::TooLarge;
    Passed::Reply(Box::new(Reply::text(reason, 413, "Payload Too Large", reason.details())))
}

impl Exchange {
    /// As [`go`](Exchange::go), with the filters before and behind it.
    #[expect(clippy::too_many_arguments, reason = "what `go` takes, and the chain")]
    pub(super) async fn filtered<'v>(
        &mut self,
        chain: &Arc<Chain>,
        planned: Result<Plan<'v>, Unplanned<'v>>,
        view: &'v View,
        settings: &Settings<'_>,
        head: &mut request::Parts,
        body: &mut Source,
        begin: Instant,
    ) -> Result<Answer, Failure> {
        let (local, handle) = (self.down.local.clone(), self.down.handle.clone());
        let protocol = super::head::protocol(head.version);
        let mut planned = planned;
        let caller = self.caller;
        let around = |planned: &Result<Plan<'v>, Unplanned<'v>>| {
            Around::new(&local, &handle, view, Picked::of(planned), caller.ip, begin, protocol)
        };
        let mut now = around(&planned);
        let mut stream = chain.begin(now.route(), now.share());
        if let Some(state) = handle.state() {
            stream.metadata.state = state.clone();
        }
        let mut held = None;
        let passed = loop {
            match self.pass(chain, &mut stream, &now, head, body, &mut held).await {
                Ok(Passed::Rerouted) => {
                    planned = plan(&local, view, settings.routes, &RequestHead(head), caller);
                    now = around(&planned);
                    chain.rerouted(&mut stream, now.route(), now.share());
                }
                passed => break passed,
            }
        };
        let around = now;
        // Filters may have made it another kind of call.
        let style = Style::of(head, settings.rpc);
        // Whoever writes responses may ask.
        let kept = chain.asks_for_request().then(|| Box::new(head.clone()));
        let ends = head.method == Method::HEAD;
        let answer = match passed {
            Ok(Passed::On | Passed::Rerouted) => {
                self.alpn = stream.alpn.take();
                if !stream.metadata.is_empty() {
                    self.record.metadata = stream.metadata.clone();
                }
                // Shorter-lived from here on: it may borrow the criteria.
                let mut planned = planned;
                let mut criteria = Vec::new();
                around.criteria(&stream.metadata, &mut criteria);
                if let (Ok(Plan::Forward(to)), false) = (&mut planned, criteria.is_empty()) {
                    to.wish.get_or_insert_default().context.criteria = &criteria;
                }
                self.go(planned, settings, style, head, body, begin).await
            }
            Ok(Passed::Reply(reply)) => {
                around.route().into_iter().for_each(|route| self.record.route(route));
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
        self.settle(&mut answer);
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
        if chain.reports() {
            self.record.report = stream.report(self.down.local.filters.of(chain).reporters());
            if let (Some(report), (None, _), Some((name, mesh))) =
                (&mut self.record.report, self.trail.upstream(), around.cluster())
            {
                report.planned(name, mesh);
            }
        }
        self.record.metadata = stream.metadata;
        Ok(answer)
    }

    /// Through all filters; an answer if one of them has it. `held`: what is held of the body.
    async fn pass(
        &mut self,
        chain: &Arc<Chain>,
        stream: &mut Stream,
        around: &Around<'_>,
        head: &mut request::Parts,
        body: &mut Source,
        held: &mut Option<Part>,
    ) -> Result<Passed, Failure> {
        let mut heard = None;
        loop {
            let step = around.with(chain, &mut |world| {
                let ends = held.is_none() && body.is_end_stream();
                let given = Given { ends, held: held.clone(), heard: heard.take() };
                chain.request(stream, &mut Changing(head), world, given)
            });
            match step {
                Step::Done => break,
                Step::Reply(reply) => return Ok(Passed::Reply(reply)),
                Step::Reroute => return Ok(Passed::Rerouted),
                Step::Ask(question) => {
                    let local = self.down.local.clone();
                    let asked = Box::pin(async { Ok(ask(&local, around.view(), &question).await) });
                    heard = Some(self.watched(asked).await?);
                }
                Step::Until(until) => {
                    self.watched(async {
                        until.0.await;
                        Ok(())
                    })
                    .await?;
                }
                Step::Peek(most) => {
                    self.go_on(head);
                    let count = Unfinished::new(self.down.local.env.reads.clone());
                    let (data, whole) = match self.watched(peek(body, most, count)).await {
                        Err(failure) if failure.reason == Reason::TooLarge => return Ok(too_large()),
                        part => part?,
                    };
                    if whole {
                        self.clock.request_ended();
                    }
                    *held = Some(Part { data, whole });
                }
                Step::Wait(time) => {
                    let wait = self.down.local.env.wheel.sleep(time);
                    self.watched(async {
                        wait.await;
                        Ok(())
                    })
                    .await?;
                }
                Step::Hold(most) => {
                    let whole = match self.held(body, head, most, &self.down.local.clone()).await {
                        Err(failure) if failure.reason == Reason::TooLarge => return Ok(too_large()),
                        whole => whole?,
                    };
                    *held = Some(Part { data: whole.data().clone(), whole: true });
                    *body = Source::Held(whole);
                }
            }
        }
        let pipeline = std::mem::take(&mut stream.request_body);
        if !pipeline.is_empty() && self.change.is_none() && !body.is_end_stream() {
            let inner = std::mem::take(body);
            *body = Source::Filtered(Box::new(Filtered::new(inner, pipeline, &self.down.local.env.wheel)));
        }
        Ok(Passed::On)
    }

    /// Has a client send the body that waits for the upstream's word to do so.
    fn go_on(&mut self, head: &mut request::Parts) {
        if std::mem::take(&mut self.passes_100) {
            head.headers.remove(EXPECT);
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::CONTINUE;
            self.client.send_informational(response);
        }
    }

    /// The whole body.
    async fn held(
        &mut self,
        body: &mut Source,
        head: &mut request::Parts,
        most: usize,
        local: &Rc<Local>,
    ) -> Result<Held, Failure> {
        self.go_on(head);
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
        if reply.replaces {
            for (name, _) in &reply.more {
                response.headers_mut().remove(name.as_str());
            }
        }
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
        let wheel = &self.down.local.env.wheel;
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
