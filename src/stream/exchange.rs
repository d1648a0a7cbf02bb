//! What every request goes through, whatever its protocol: find the route, pick hosts, decide on retries.

use super::Local;
use crate::cluster::{ActiveGuard, Cluster, Host, Level, Permit, PickContext, Sign, State};
use crate::message::{Failure, Head, Reason};
use crate::model::{DirectResponse, Redirect, RetryPolicy, RouteId};
use crate::router::{ActionSpec, Choice, Drawn, EditPlan, ForwardSpec, RouteSpec, retry};
use crate::snapshot::View;
use crate::telemetry::failure_log::FailureLine;
use crate::util::random::Random;
use std::borrow::Cow;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// Where a request goes, borrowed from the snapshot it was planned on.
pub enum Plan<'v> {
    /// To a cluster.
    Forward(Forward<'v>),
    /// A fixed answer.
    Direct(&'v RouteSpec, &'v DirectResponse),
    /// A redirect.
    Redirect(&'v RouteSpec, &'v Redirect),
}

/// A request on its way to a cluster.
pub struct Forward<'v> {
    /// The route.
    pub route: &'v RouteSpec,
    /// Its action.
    pub action: &'v ForwardSpec,
    /// Edits of the request's headers.
    pub request_edits: &'v EditPlan,
    /// Edits of the response's headers.
    pub response_edits: &'v EditPlan,
    /// The drawn share of a weighted choice.
    pub share: Option<&'v Choice>,
    /// The drawn cluster.
    pub cluster: Rc<Cluster>,
}

impl<'v> Forward<'v> {
    /// What the retries of `head` follow; `None`: it is not retried.
    pub fn retry(&self, head: &impl Head) -> Option<&'v RetryPolicy> {
        let policy = self.action.retry.as_deref()?;
        retry::wants_request(policy, &|name| head.header(name)).then_some(policy)
    }
}

/// A request without a way, and its route if it has one.
pub struct Unplanned<'v> {
    /// Why.
    pub failure: Failure,
    /// The route that matched.
    pub route: Option<&'v RouteSpec>,
    /// What it does to responses, answers of our own included.
    pub response_edits: Option<&'v EditPlan>,
}

/// The random numbers a plan is made with: one for fractional matches, one for the draw by weight, which
/// must not repeat the first.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    matching: u64,
    weight: u64,
}

impl Draws {
    /// The next two.
    pub fn new(random: &Random) -> Self {
        Draws { matching: random.next(), weight: random.next() }
    }
}

/// Finds the route of `head` and resolves its cluster.
///
/// # Errors
/// No table or route, or a cluster that is missing or warming.
pub fn plan<'v>(
    local: &Local,
    view: &'v View,
    routes: RouteId,
    head: &impl Head,
) -> Result<Plan<'v>, Unplanned<'v>> {
    plan_drawn(local, view, routes, head, Draws::new(&local.env.random))
}

/// As [`plan`], with numbers drawn before: on the same view the same head gets the same plan.
///
/// # Errors
/// As [`plan`].
pub fn plan_drawn<'v>(
    local: &Local,
    view: &'v View,
    routes: RouteId,
    head: &impl Head,
    draws: Draws,
) -> Result<Plan<'v>, Unplanned<'v>> {
    let route = view.route_table(routes).and_then(|table| table.find(head, draws.matching));
    let fail = |reason, route: Option<&'v RouteSpec>, edits: Option<&'v EditPlan>| {
        let response_edits = edits.or(route.map(|route| &route.response_edits));
        Unplanned { failure: Failure::before(reason), route, response_edits }
    };
    let route = &**route.ok_or(fail(Reason::NoRoute, None, None))?;
    let action = match &route.action {
        ActionSpec::Route(action) => action,
        ActionSpec::Direct(direct) => return Ok(Plan::Direct(route, direct)),
        ActionSpec::Redirect(redirect) => return Ok(Plan::Redirect(route, redirect)),
    };
    let (id, draw) = match route.draw(head, draws.weight, None) {
        Drawn::Cluster(id, draw) => (id, draw),
        Drawn::Header(name, draw) => {
            let mut id = None;
            // Only the first value counts.
            head.each_value(name, &mut |value| id = id.or(Some(view.cluster_id(value))));
            (id.flatten().ok_or(fail(Reason::UnknownCluster, Some(route), Some(draw.response_edits)))?, draw)
        }
        Drawn::None => return Err(fail(Reason::NoRoute, Some(route), None)),
    };
    let cluster = local.cluster(id, view);
    let cluster = cluster.map_err(|reason| fail(reason, Some(route), Some(draw.response_edits)))?;
    let (request_edits, response_edits, share) = (draw.request_edits, draw.response_edits, draw.share);
    Ok(Plan::Forward(Forward { route, action, request_edits, response_edits, share, cluster }))
}

/// Where a request went last, for the line about its failure.
#[derive(Default)]
pub struct Trail {
    cluster: Option<Rc<Cluster>>,
    host: Option<Rc<Host>>,
}

impl Trail {
    /// It goes to `attempt`'s host now.
    pub fn follow(&mut self, attempt: &Attempt) {
        self.cluster = Some(attempt.cluster.clone());
        self.host = Some(attempt.host.clone());
    }

    /// It is over, `millis` after it had come.
    pub fn took(&self, millis: u64) {
        if let Some(cluster) = &self.cluster {
            cluster.stats.upstream_rq_time.record(millis);
        }
    }

    /// It goes to `cluster` now.
    pub fn enter(&mut self, cluster: &Rc<Cluster>) {
        self.cluster = Some(cluster.clone());
    }

    /// One log line, unless there were too many like it.
    pub fn note(
        &self,
        local: &Local,
        failure: Failure,
        protocol: &str,
        listener: &str,
        route: Option<&RouteSpec>,
    ) {
        let host = std::cell::OnceCell::new();
        let configured = route.map(RouteSpec::cluster_names);
        let cluster = self.cluster.as_ref();
        let id = cluster.map(|cluster| cluster.state().spec.id);
        let address = || self.host.as_ref().map(|host| host.address.to_string()).unwrap_or_default();
        local.failures.log(failure, id, || FailureLine {
            protocol,
            listener,
            route: route.map(RouteSpec::label).unwrap_or_default(),
            cluster: cluster
                .map(|cluster| cluster.name.as_str())
                .or(configured.as_deref())
                .unwrap_or_default(),
            host: host.get_or_init(address),
            detail: "",
        });
    }
}

/// One try under way: counted in the cluster's limits and numbers until dropped. One that is dropped before
/// it was counted was given up, as its client was gone.
pub struct Attempt {
    /// Where it goes.
    pub host: Rc<Host>,
    /// The host's cluster.
    pub cluster: Rc<Cluster>,
    /// The cluster's settings this try works with.
    pub state: Rc<State>,
    counted: Cell<bool>,
    _permit: Option<Permit>,
    _active: ActiveGuard,
}

impl Attempt {
    /// Picks a host and counts the try.
    ///
    /// # Errors
    /// The limit of requests is reached, or the cluster has no host.
    pub fn begin(cluster: &Rc<Cluster>, tries: &mut Tries<'_>) -> Result<Self, Failure> {
        let stats = &cluster.stats;
        let state = cluster.state();
        let permit = state.spec.breakers.acquire(Level::Requests, &state.spec.model.breakers.default);
        let permit = permit.map_err(|_full| {
            stats.upstream_rq_active_overflow.inc();
            Failure::before(Reason::OverflowRequests)
        })?;
        let host = tries.pick(cluster)?;
        let active = host.enter();
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        let (cluster, counted) = (cluster.clone(), Cell::new(false));
        Ok(Attempt { host, cluster, state, counted, _permit: permit, _active: active })
    }

    /// Its host answered with `status`, or what is like it.
    pub fn answered(&self, status: u16) {
        self.state.report(&self.host, Sign::Status(status));
    }

    /// Counts how it ended.
    pub fn count<T>(&self, result: &Result<T, Failure>) {
        self.counted.set(true);
        let stats = &self.cluster.stats;
        match result {
            Ok(_) => {
                stats.upstream_rq_completed.inc();
                self.host.stats.rq_success.inc();
            }
            Err(failure) => {
                if let Some(sign) = sign_of(failure.reason) {
                    self.state.report(&self.host, sign);
                }
                self.host.stats.rq_error.inc();
                stats.failure.inc(failure.reason);
                match failure.reason {
                    Reason::Timeout => {
                        stats.upstream_rq_timeout.inc();
                        self.host.stats.rq_timeout.inc();
                    }
                    Reason::PerTryTimeout => stats.upstream_rq_per_try_timeout.inc(),
                    Reason::UpstreamReset | Reason::UpstreamRefused => stats.upstream_rq_rx_reset.inc(),
                    Reason::DownstreamReset => stats.upstream_rq_cancelled.inc(),
                    _ => {}
                }
            }
        }
    }
}

/// What a failure says about the host; nothing where it is not the host's.
pub fn sign_of(reason: Reason) -> Option<Sign> {
    match reason {
        Reason::ConnectFailed
        | Reason::ConnectTimeout
        | Reason::UpstreamClosed
        | Reason::UpstreamReset
        | Reason::UpstreamRefused
        | Reason::UpstreamProtocol => Some(Sign::ConnectFailed),
        Reason::Timeout | Reason::PerTryTimeout => Some(Sign::LocalTimeout),
        _ => None,
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        stats.upstream_rq_active.dec();
        if !self.counted.get() {
            stats.upstream_rq_cancelled.inc();
            stats.failure.inc(Reason::DownstreamReset);
        }
    }
}

/// Bounds `work` by `deadline`; `late` is what passing it means.
pub async fn within<T>(
    local: &Local,
    deadline: Option<Instant>,
    late: Reason,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(deadline) = deadline else { return work.await };
    let mut work = pin!(work);
    let mut limit = pin!(local.env.wheel.sleep_until(deadline));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| Err(Failure::after(late))),
    })
    .await
}

/// Tries a request that provably reached nobody gets without a policy: a GOAWAY met it on its way.
const UNSENT_TRIES: u32 = 3;

/// The tries of one request.
pub struct Tries<'v> {
    policy: Option<&'v RetryPolicy>,
    made: u32,
    tried: Vec<Rc<Host>>,
    retry_permit: Option<Permit>,
    /// Boxed: most requests have none, and every request's task carries this.
    context: Option<Box<PickContext<'v>>>,
    is_rpc: bool,
}

/// What an attempt came to, as retry policies see it.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// It failed without an answer.
    Failed(Failure),
    /// It was answered with this HTTP status (or its like).
    Status(u16),
    /// It was answered, and this is what the policy makes of it ([`Tries::judge`]).
    Judged(bool),
}

impl<'v> Tries<'v> {
    /// No try made yet.
    pub fn new(policy: Option<&'v RetryPolicy>) -> Self {
        Tries { policy, made: 0, tried: Vec::new(), retry_permit: None, context: None, is_rpc: false }
    }

    /// Those of an RPC call.
    pub fn rpc(policy: Option<&'v RetryPolicy>) -> Self {
        Tries { is_rpc: true, ..Tries::new(policy) }
    }

    /// What every pick is told of the request.
    pub fn with_context(mut self, context: PickContext<'v>) -> Self {
        self.context = Some(Box::new(context));
        self
    }

    /// Whether an answer or a failure after sending could lead to another try, so that the request must be
    /// kept.
    pub fn may_resend(&self) -> bool {
        self.policy.is_some_and(|policy| {
            let on = &policy.on;
            policy.retries > 0
                && (on.reset
                    || on.five_xx
                    || on.gateway_error
                    || on.retriable_4xx
                    || on.retriable_status_codes
                    || on.reset_before_request
                    || on.refused_stream
                    || on.retriable_headers
                    || on.envoy_ratelimited
                    || on.grpc_codes != 0)
        })
    }

    /// What the policy makes of a response with headers.
    pub fn judge<'h>(&self, status: u16, headers: &'h dyn Fn(&str) -> Option<Cow<'h, [u8]>>) -> Outcome {
        Outcome::Judged(self.policy.is_some_and(|policy| retry::wants_response(policy, status, headers)))
    }

    /// Time limit of one try.
    pub fn per_try(&self) -> Option<Duration> {
        self.policy.and_then(|policy| policy.per_try_timeout)
    }

    /// Tries made so far.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// The host of the next try.
    ///
    /// # Errors
    /// The cluster has none.
    pub fn pick(&mut self, cluster: &Cluster) -> Result<Rc<Host>, Failure> {
        let avoid = self.policy.is_some_and(|policy| policy.previous_hosts_attempts > 0);
        let tried = &self.tried;
        let context = self.context.as_deref().copied().unwrap_or_default();
        let context = PickContext { is_rpc: self.is_rpc, ..context };
        let host = cluster
            .pick(&context, |host| avoid && tried.iter().any(|other| std::ptr::eq(&**other, host)))
            .map_err(Failure::before)?;
        self.count(&host);
        Ok(host)
    }

    /// Counts a try at `host`.
    pub fn count(&mut self, host: &Rc<Host>) {
        self.made += 1;
        if self.policy.is_some() {
            self.tried.push(host.clone());
        }
    }

    /// Whether to try again at once, policy or not, as nobody has looked at the request.
    pub fn again_unsent(&self, failure: Failure) -> bool {
        let met_an_end = matches!(failure.reason, Reason::UpstreamRefused | Reason::UpstreamClosed);
        !failure.sent && met_an_end && self.made < UNSENT_TRIES
    }

    /// Counts a try after one on a connection that its server was closing; `false`: there are too many retries.
    pub fn again_stale(&mut self, cluster: &Cluster) -> bool {
        let state = cluster.state();
        // The retry before this one is over.
        self.retry_permit = None;
        match state.spec.breakers.acquire(Level::Retries, &state.spec.model.breakers.default) {
            Ok(permit) => self.retry_permit = permit,
            Err(_full) => {
                cluster.stats.upstream_rq_retry_overflow.inc();
                return false;
            }
        }
        cluster.stats.upstream_rq_retry.inc();
        true
    }

    /// Whether to try again after `outcome`, and how long to wait first.
    pub fn again(
        &mut self,
        outcome: Outcome,
        cluster: &Cluster,
        deadline: Option<Instant>,
    ) -> Option<Duration> {
        let policy = self.policy?;
        if !wanted(policy, outcome) {
            if self.made > 1 && !matches!(outcome, Outcome::Failed(_)) {
                cluster.stats.upstream_rq_retry_success.inc();
            }
            return None;
        }
        if self.made > policy.retries {
            if policy.retries > 0 {
                cluster.stats.upstream_rq_retry_limit_exceeded.inc();
            }
            return None;
        }
        if !self.again_stale(cluster) {
            return None;
        }
        cluster.stats.upstream_rq_retry_backoff_exponential.inc();
        let ceiling = policy
            .base_interval
            .saturating_mul(1 << self.made.saturating_sub(1).min(16))
            .min(policy.max_interval)
            .max(Duration::from_millis(1));
        let pause = ceiling.mul_f64(f64::from(cluster.env().random.below(1 << 20)) / f64::from(1u32 << 20));
        let in_time = deadline.is_none_or(|deadline| Instant::now() + pause < deadline);
        in_time.then_some(pause)
    }
}

fn wanted(policy: &RetryPolicy, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Status(status) => retry::wants_status(policy, status),
        Outcome::Judged(wanted) => wanted,
        Outcome::Failed(failure) => retry::wants_failure(policy, failure),
    }
}
