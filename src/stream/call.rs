//! One RPC call to a cluster, whatever protocol its client spoke: timeout, tries, and either upstream protocol.

use super::exchange::{Attempt, Forward, Outcome, Trail, Tries, within};
use super::facts::StreamFacts;
use super::{Local, upstream_http2};
use crate::cluster::pool::{http2, rpc};
use crate::cluster::{Cluster, Host, PickContext};
use crate::message::{Failure, Reason};
use crate::model::{self, Block, Protocol};
use crate::net::Charge;
use crate::protocol::bolt::Status;
use crate::protocol::bridge;
use crate::protocol::rpc::{Frame, HeaderEdit, Kind};
use crate::router::{Edit, EditPlan, ForwardSpec};
use http::{Uri, uri::Scheme};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// Time limit of a copy whose call has none.
const COPY_LIMIT: Duration = Duration::from_secs(300);
/// Frames up to this many bytes are kept until they are answered.
const SMALL: usize = 16 * 1024;

/// A request frame on its way.
pub struct Call {
    /// The request; spent once it was sent for the last time.
    pub frame: Frame,
    kept: bool,
    /// Nobody waits for an answer.
    pub oneway: bool,
    /// Counts the frame against its client until it has left.
    charge: Option<Charge>,
    /// Where it went.
    pub trail: Trail,
    /// Errors that services tell of under success count as errors.
    pub application_errors: bool,
    first: Option<Box<First>>,
}

/// How far the first try came before the call was made.
pub enum First {
    /// A host was picked.
    Begun(Attempt),
    /// It ended, at this host if one was picked; `Ok(None)`: a one-way call was sent.
    Ended(Option<Rc<Host>>, Result<Option<Frame>, Failure>),
}

impl Call {
    /// A call with `frame`.
    pub fn new(frame: Frame, charge: Option<Charge>) -> Self {
        let oneway = frame.kind() == Kind::Oneway;
        Call {
            oneway,
            frame,
            kept: true,
            charge,
            trail: Trail::default(),
            application_errors: false,
            first: None,
        }
    }

    /// The call goes on from `first`.
    pub fn starting(self, first: Option<First>) -> Self {
        Call { first: first.map(Box::new), ..self }
    }

    /// Sends it as `forward` says; `begin` is when it had come. `None`: a one-way call was sent.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn forward(
        &mut self,
        local: &Rc<Local>,
        forward: Forward<'_>,
        upstream: Protocol,
        begin: Instant,
    ) -> Result<Option<Frame>, Failure> {
        if !forward.request_edits.is_empty() {
            self.frame = self.edited_request(begin, &forward)?;
        }
        for (_, cluster) in forward.wish.iter().flat_map(|wish| &wish.mirrors) {
            let limit = time_limit(&self.frame, forward.action).unwrap_or(COPY_LIMIT);
            spawn_local(mirror(local.clone(), cluster.clone(), self.frame.copy(), upstream, limit));
        }
        let deadline = time_limit(&self.frame, forward.action).map(|limit| begin + limit);
        let mut tries = forward.tries(&self.frame, false).rpc();
        self.trail.enter(&forward.cluster);
        loop {
            let result = self.attempt(local, &forward, &mut tries, upstream, (begin, deadline)).await;
            let outcome = match &result {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => Outcome::Status(status_of(frame, self.application_errors)),
                Err(failure) if self.kept && tries.again_unsent(*failure, &forward.cluster) => continue,
                Err(failure) => Outcome::Failed(*failure),
            };
            match tries.again(outcome, &forward.cluster, deadline) {
                Some(pause) => local.env.wheel.sleep(pause).await,
                None => {
                    return match result {
                        Ok(Some(frame)) if !forward.response_edits.is_empty() => {
                            self.edited_response(&frame, begin, &forward).map(Some)
                        }
                        result => result,
                    };
                }
            }
        }
    }

    /// The frame with the route's request edits.
    fn edited_request(&self, begin: Instant, to: &Forward<'_>) -> Result<Frame, Failure> {
        edited(&self.frame, &to.request_edits.resolved(Block::Request, &facts(&self.frame, begin, to)))
    }

    /// The answer with the route's response edits.
    fn edited_response(&self, frame: &Frame, begin: Instant, to: &Forward<'_>) -> Result<Frame, Failure> {
        edited(frame, &to.response_edits.resolved(Block::Response, &facts(&self.frame, begin, to)))
    }

    /// One try at one host.
    async fn attempt(
        &mut self,
        local: &Rc<Local>,
        forward: &Forward<'_>,
        tries: &mut Tries<'_>,
        upstream: Protocol,
        (begin, deadline): (Instant, Option<Instant>),
    ) -> Result<Option<Frame>, Failure> {
        let attempt = match self.first.take().map(|first| *first) {
            None => Attempt::begin(&forward.cluster, forward.context(), tries)?,
            Some(First::Begun(attempt)) => {
                tries.count(&attempt.host);
                attempt
            }
            Some(First::Ended(host, result)) => {
                host.iter().for_each(|host| tries.count(host));
                return result;
            }
        };
        self.trail.follow(&attempt);
        let limit = tries.per_try().into_iter().chain(tries.per_try_idle()).min();
        let (deadline, late) = match limit.map(|limit| Instant::now() + limit) {
            Some(own) if deadline.is_none_or(|whole| own < whole) => (Some(own), Reason::PerTryTimeout),
            _ => (deadline, Reason::Timeout),
        };
        let keep = tries.may_resend();
        let sending = async {
            match upstream {
                // Boxed, as is dialling below: what bolt rarely does must not make its futures large.
                Protocol::Http2 => Box::pin(self.send_http2(&attempt, forward, begin, keep)).await,
                Protocol::Bolt | Protocol::Auto => self.send(&attempt, keep).await,
            }
        };
        let result = within(local, deadline, late, sending).await;
        count(&attempt, &result, self.application_errors);
        result
    }

    /// Sends the frame over bolt.
    async fn send(&mut self, attempt: &Attempt, keep: bool) -> Result<Option<Frame>, Failure> {
        let host = &attempt.host;
        let mux = match host.rpc.ready() {
            Some(mux) => mux,
            None => {
                Box::pin(rpc::Pool::acquire(host, &attempt.cluster, &attempt.state, attempt.priority)).await?
            }
        };
        let frame = self.take(keep);
        let charge = self.charge.take();
        if self.oneway {
            return mux.send_oneway(frame, charge).map(|()| None);
        }
        mux.call(frame, charge)?.await.map(Some)
    }

    /// Sends the frame over HTTP/2.
    async fn send_http2(
        &mut self,
        attempt: &Attempt,
        forward: &Forward<'_>,
        begin: Instant,
        keep: bool,
    ) -> Result<Option<Frame>, Failure> {
        let target = self.target(&attempt.host, forward, begin).ok_or(Failure::before(Reason::Conversion))?;
        let lease =
            http2::Pool::acquire(&attempt.host, &attempt.cluster, &attempt.state, attempt.priority).await?;
        // A GOAWAY may meet it on its way; a copy of a small frame is cheaper than its loss.
        let frame = self.take(keep || self.frame.len() <= SMALL);
        let (reads, charge) = (attempt.cluster.env().reads.clone(), self.charge.take());
        let answer = upstream_http2::call(frame, target, &lease, reads, charge).await?;
        Ok(if self.oneway { None } else { Some(answer) })
    }

    /// Whom it is addressed to as an HTTP/2 request: the host, unless its route says another name.
    fn target(&self, host: &Host, to: &Forward<'_>, begin: Instant) -> Option<Uri> {
        let name = to.route.rewrite_host(&self.frame, &facts(&self.frame, begin, to));
        let name = match &name {
            Some(name) => std::str::from_utf8(name).ok()?,
            None if to.action.auto_host_rewrite && !host.hostname.is_empty() => &host.hostname,
            None => match to.share.and_then(|share| share.host_rewrite.as_deref()) {
                Some(name) => name,
                None => return host.http2.target(host),
            },
        };
        bridge::target(Scheme::HTTP, name).ok()
    }

    /// The frame to send now; `keep` leaves a copy for another try.
    fn take(&mut self, keep: bool) -> Frame {
        self.kept = keep;
        let copy = if keep { self.frame.copy() } else { Frame::spent() };
        std::mem::replace(&mut self.frame, copy)
    }
}

/// Sends a copy of a call to another cluster. It has that cluster's limits, tells outlier detection nothing, and
/// nobody sees its answer.
async fn mirror(local: Rc<Local>, cluster: Rc<Cluster>, frame: Frame, upstream: Protocol, limit: Duration) {
    let mut tries = Tries::default().rpc();
    let attempt = Attempt::begin(&cluster, PickContext::default(), &mut tries);
    // Counted where it is refused.
    let Ok(attempt) = attempt.map(Attempt::unjudged) else { return };
    let sending = async {
        let (host, state, priority) = (&attempt.host, &attempt.state, attempt.priority);
        if upstream == Protocol::Http2 {
            let target = host.http2.target(host).ok_or(Failure::before(Reason::Conversion))?;
            let lease = http2::Pool::acquire(host, &cluster, state, priority).await?;
            let reads = cluster.env().reads.clone();
            return upstream_http2::call(frame, target, &lease, reads, None).await.map(Some);
        }
        let mux = rpc::Pool::acquire(host, &cluster, state, priority).await?;
        match frame.kind() {
            Kind::Oneway => mux.send_oneway(frame, None).map(|()| None),
            _ => mux.call(frame, None)?.await.map(Some),
        }
    };
    let result = within(&local, Some(Instant::now() + limit), Reason::Timeout, sending).await;
    count(&attempt, &result, false);
}

fn facts<'a>(frame: &'a Frame, begin: Instant, forward: &Forward<'a>) -> StreamFacts<'a> {
    StreamFacts {
        protocol: "bolt",
        request: frame,
        begin,
        handle: None,
        route: Some(forward.route),
        attempt: None,
        response: None,
        metadata: None,
    }
}

/// Counts what `attempt` came to.
pub fn count(attempt: &Attempt, result: &Result<Option<Frame>, Failure>, application_errors: bool) {
    attempt.count(result);
    if let Ok(Some(frame)) = result {
        if frame.is_application_error() {
            attempt.cluster.stats.upstream_rq_application_error.inc();
        }
        attempt.answered(status_of(frame, application_errors));
    }
}

/// The HTTP status an answer is like. `application_errors`: an error that the service tells of under success
/// is one.
pub fn status_of(frame: &Frame, application_errors: bool) -> u16 {
    if application_errors && frame.is_application_error() {
        return 500;
    }
    Status::from_code(frame.status()).map_or(500, Status::http_status)
}

/// How long `frame` may take: what it says itself, else what its route does.
pub fn time_limit(frame: &Frame, action: &ForwardSpec) -> Option<Duration> {
    match frame.timeout_ms() {
        given if given > 0 => Some(Duration::from_millis(given as u64)),
        _ => action.timeout,
    }
}

fn edited(frame: &Frame, plan: &EditPlan) -> Result<Frame, Failure> {
    let edits = plan.iter().map(|edit| match edit {
        Edit::Remove(name) => HeaderEdit::Remove(name.as_bytes()),
        Edit::Write(model::HeaderEdit::Append { name, value }) => {
            HeaderEdit::Append(name.as_bytes(), value.as_bytes())
        }
        Edit::Write(model::HeaderEdit::AddIfAbsent { name, value }) => {
            HeaderEdit::AddIfAbsent(name.as_bytes(), value.as_bytes())
        }
        Edit::Write(model::HeaderEdit::Set { name, value }) => {
            HeaderEdit::Set(name.as_bytes(), value.as_bytes())
        }
        Edit::Write(model::HeaderEdit::ReplaceIfPresent { name, value }) => {
            HeaderEdit::ReplaceIfPresent(name.as_bytes(), value.as_bytes())
        }
    });
    frame.edit_headers(edits).map_err(|_| Failure::before(Reason::HeaderOverflow))
}
