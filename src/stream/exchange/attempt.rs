//! One try at one host, counted while it lasts.

use super::Tries;
use crate::cluster::{ActiveGuard, Cluster, Host, Level, Permit, PickContext, Sign, State};
use crate::message::{Failure, Reason};
use crate::model::Priority;
use crate::stream::Local;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use tokio::time::Instant;

/// One try under way: counted in the cluster's limits and numbers until dropped. One that is dropped before
/// it was counted was given up, as its client was gone.
pub struct Attempt {
    /// Where it goes.
    pub host: Rc<Host>,
    /// The host's cluster.
    pub cluster: Rc<Cluster>,
    /// The cluster's settings this try works with.
    pub state: Rc<State>,
    /// Whose limits count.
    pub priority: Priority,
    counted: Cell<bool>,
    /// Outlier detection hears of it.
    judged: bool,
    _permit: Option<Permit>,
    _active: ActiveGuard,
}

impl Attempt {
    /// Picks a host and counts the try.
    ///
    /// # Errors
    /// The limit of requests is reached, the cluster refuses requests, or it has no host.
    pub fn begin(
        cluster: &Rc<Cluster>,
        context: PickContext<'_>,
        tries: &mut Tries<'_>,
    ) -> Result<Self, Failure> {
        let stats = &cluster.stats;
        let state = cluster.state();
        let refused = state.spec.model.maintenance;
        if refused > 0 && tries.made() == 0 && cluster.env().random.below(100) < refused {
            stats.upstream_rq_maintenance_mode.inc();
            return Err(Failure::before(Reason::Maintenance));
        }
        let permit = state.spec.acquire(Level::Requests, tries.priority());
        let permit = permit.map_err(|_full| {
            stats.upstream_rq_active_overflow.inc();
            Failure::before(Reason::OverflowRequests)
        })?;
        let host = tries.pick(cluster, context)?;
        let active = host.enter();
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        let (cluster, counted) = (cluster.clone(), Cell::new(false));
        let priority = tries.priority();
        Ok(Attempt {
            host,
            cluster,
            state,
            priority,
            counted,
            judged: true,
            _permit: permit,
            _active: active,
        })
    }

    /// How it ends says nothing about its host.
    pub fn unjudged(mut self) -> Self {
        self.judged = false;
        self
    }

    /// Its host answered with `status`, or what is like it.
    pub fn answered(&self, status: u16) {
        if self.judged {
            self.state.report(&self.host, Sign::Status(status));
        }
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
                if let Some(sign) = sign_of(failure.reason).filter(|_| self.judged) {
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
                    Reason::PerTryIdle => stats.upstream_rq_per_try_idle_timeout.inc(),
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
        Reason::Timeout | Reason::PerTryTimeout | Reason::PerTryIdle => Some(Sign::LocalTimeout),
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
