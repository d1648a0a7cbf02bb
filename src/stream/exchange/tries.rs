//! The tries of one request: which host is next, and whether there is a next one.

use crate::cluster::{Cluster, Host, Level, Permit, PickContext};
use crate::message::{Failure, Head, Reason};
use crate::model::runtime::number_now;
use crate::model::{Priority, RetryPolicy};
use crate::router::{ActionSpec, RouteSpec, retry};
use std::borrow::Cow;
use std::ops::Deref;
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Tries a request that provably reached nobody gets without a policy: a GOAWAY met it on its way.
const UNSENT_TRIES: u32 = 3;

/// What retries follow: the route's policy, or one that the request asked for.
enum Policy<'v> {
    Route(&'v RetryPolicy),
    Asked(Box<RetryPolicy>),
}

impl Deref for Policy<'_> {
    type Target = RetryPolicy;
    fn deref(&self) -> &RetryPolicy {
        match self {
            Policy::Route(policy) => policy,
            Policy::Asked(policy) => policy,
        }
    }
}

/// The tries of one request.
#[derive(Default)]
pub struct Tries<'v> {
    policy: Option<Policy<'v>>,
    made: u32,
    tried: Vec<Rc<Host>>,
    retry_permit: Option<Permit>,
    is_rpc: bool,
    exhausted: bool,
    priority: Priority,
}

/// What an attempt came to, as retry policies see it.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// It failed without an answer.
    Failed(Failure),
    /// It was answered with this HTTP status (or its like).
    Status(u16),
    /// It was answered, and this is what the policy makes of it ([`Tries::judge`]).
    Judged {
        /// Another try is wanted.
        wanted: bool,
        /// The server said when to come again.
        asked: Option<Duration>,
    },
}

impl<'v> Tries<'v> {
    /// Those of a request with this head on `route`, none made yet. `internal`: it comes from inside, so that
    /// it may ask for retries.
    pub fn new(route: &'v RouteSpec, head: &impl Head, internal: bool) -> Self {
        let policy =
            route.retry(head, internal).filter(|p| retry::wants_request(p, &|name| head.header(name)));
        let policy = policy.map(|policy| match policy {
            Cow::Borrowed(policy) => Policy::Route(policy),
            Cow::Owned(policy) => Policy::Asked(Box::new(policy)),
        });
        let priority = match &route.action {
            ActionSpec::Route(action) => action.priority,
            _ => Priority::Default,
        };
        Tries { policy, priority, ..Tries::default() }
    }

    /// Whose limits count.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// They are an RPC call's.
    pub fn rpc(self) -> Self {
        Tries { is_rpc: true, ..self }
    }

    /// Whether an answer or a failure after sending could lead to another try, so that the request must be
    /// kept.
    pub fn may_resend(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| {
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
        let Some(policy) = &self.policy else { return Outcome::Judged { wanted: false, asked: None } };
        let wanted = retry::wants_response(policy, status, headers);
        let asked = if wanted { retry::asked_pause(policy, headers, SystemTime::now()) } else { None };
        Outcome::Judged { wanted, asked }
    }

    /// Time limit of one try.
    pub fn per_try(&self) -> Option<Duration> {
        self.policy.as_ref().and_then(|policy| policy.per_try_timeout)
    }

    /// How long one try may be without progress.
    pub fn per_try_idle(&self) -> Option<Duration> {
        self.policy.as_ref().and_then(|policy| policy.per_try_idle_timeout)
    }

    /// Whether another try was wanted, and there had been too many.
    pub fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// Tries made so far.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// The host of the next try; `context` says what the request wants.
    ///
    /// # Errors
    /// The cluster has none.
    pub fn pick(&mut self, cluster: &Cluster, context: PickContext<'_>) -> Result<Rc<Host>, Failure> {
        let avoid = self.policy.as_ref().is_some_and(|policy| policy.previous_hosts_attempts > 0);
        let tried = &self.tried;
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
    pub fn again_unsent(&mut self, failure: Failure, cluster: &Cluster) -> bool {
        let met_an_end = matches!(failure.reason, Reason::UpstreamRefused | Reason::UpstreamClosed);
        if failure.sent || !met_an_end || self.made >= UNSENT_TRIES {
            return false;
        }
        // A server that leaves turns away everything on its way there at once, and has done nothing for any of it:
        // a limit of retries is not meant for that.
        if failure.reason == Reason::UpstreamRefused {
            cluster.stats.upstream_rq_retry.inc();
            return true;
        }
        self.retry(cluster)
    }

    /// Whether to try again after a try on a connection that its server was closing.
    pub fn again_stale(&mut self, cluster: &Cluster) -> bool {
        self.retry(cluster)
    }

    /// Counts a retry; `false`: there are too many in the cluster.
    fn retry(&mut self, cluster: &Cluster) -> bool {
        let state = cluster.state();
        // The retry before this one is over.
        self.retry_permit = None;
        match state.spec.acquire(Level::Retries, self.priority) {
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
        let policy = self.policy.as_ref()?;
        if !wanted(policy, outcome) {
            if self.made > 1 && !matches!(outcome, Outcome::Failed(_)) {
                cluster.stats.upstream_rq_retry_success.inc();
            }
            return None;
        }
        if self.made > policy.retries {
            if policy.retries > 0 {
                self.exhausted = true;
                cluster.stats.upstream_rq_retry_limit_exceeded.inc();
            }
            return None;
        }
        let random = &cluster.env().random;
        if number_now("upstream.use_retry").is_some_and(|percent| f64::from(random.below(100)) >= percent) {
            return None;
        }
        let share = f64::from(random.below(1 << 20)) / f64::from(1u32 << 20);
        let asked = match outcome {
            Outcome::Judged { asked, .. } => asked.filter(|pause| *pause > Duration::from_millis(1)),
            Outcome::Failed(_) | Outcome::Status(_) => None,
        };
        let pause = match asked {
            // Not sooner than the server asked, and not all at once.
            Some(pause) => pause.mul_f64(1.0 + share / 2.0),
            None => ceiling(policy, self.made).mul_f64(share),
        };
        if deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) || !self.retry(cluster) {
            return None;
        }
        let stats = &cluster.stats;
        match asked {
            Some(_) => stats.upstream_rq_retry_backoff_ratelimited.inc(),
            None => stats.upstream_rq_retry_backoff_exponential.inc(),
        }
        Some(pause)
    }
}

/// The longest pause after the try with this number.
fn ceiling(policy: &RetryPolicy, made: u32) -> Duration {
    let said = if policy.default_back_off { number_now("upstream.base_retry_backoff_ms") } else { None };
    let (base, most) = match said.filter(|base| (0.0..=3_600_000.0).contains(base)) {
        Some(base) => {
            let base = Duration::from_millis(base as u64);
            (base, base * 10)
        }
        None => (policy.base_interval, policy.max_interval),
    };
    base.saturating_mul(1 << made.saturating_sub(1).min(16)).min(most).max(Duration::from_millis(1))
}

fn wanted(policy: &RetryPolicy, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Status(status) => retry::wants_status(policy, status),
        Outcome::Judged { wanted, .. } => wanted,
        Outcome::Failed(failure) => retry::wants_failure(policy, failure),
    }
}
