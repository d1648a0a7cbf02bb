//! What stands between an accepted connection and the last filter of its chain.
//!
//! Limits are taken when the connection is there, before TLS costs anything; whoever decides by what a
//! connection is, or says where it goes, is asked when TLS stands, and before a byte of either side is passed on.

use super::active::{Active, inputs};
use crate::filter::{self, Bucket, Peer};
use crate::message::state::key;
use crate::message::{FilterState, Metadata};
use crate::model::{ConnectionLimit, ConnectionRate, Guard, NetworkRbac};
use crate::stream::{self, Drain, Handle, Local};
use crate::telemetry::{ConnectionLimitStats, Registration};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

/// A connection's places within the limits of its chain; given back when dropped.
#[derive(Default)]
pub(super) struct Places(Vec<Place>);

struct Place {
    limit: Arc<ConnectionLimit>,
    stats: Rc<Registration<ConnectionLimitStats>>,
}

/// Connections there are under one limit.
#[derive(Default)]
struct Open(AtomicU64);

impl Place {
    fn open(limit: &ConnectionLimit) -> Option<&Open> {
        limit.compiled.get(Open::default)
    }

    /// A place, and whether it is within the limit. Those beyond it count as long as they are there.
    fn take(limit: &Arc<ConnectionLimit>, local: &Local) -> (Place, bool) {
        let stats = local.limit_stats(&limit.stat_prefix);
        stats.active_connections.inc();
        let before = Place::open(limit).map_or(0, |open| open.0.fetch_add(1, Relaxed));
        (Place { limit: limit.clone(), stats }, before < limit.max)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(open) = Place::open(&self.limit) {
            open.0.fetch_sub(1, Relaxed);
        }
        self.stats.active_connections.dec();
    }
}

impl Active {
    /// Takes the connection's places within the limits of its chain.
    ///
    /// # Errors
    /// There is none: why, in Envoy's words.
    pub(super) async fn enter_limits(&self, handle: &Handle) -> Result<Places, &'static str> {
        let bound = handle.bound();
        let mut places = Places::default();
        for guard in &bound.chain.model.guards {
            match guard {
                Guard::Limit(limit) if limit.enabled.is_on() => {
                    let (place, within) = Place::take(limit, self.local());
                    if !within {
                        place.stats.limited_connections.inc();
                        self.keep_waiting(handle, limit.delay).await;
                        return Err("over_connection_limit");
                    }
                    places.0.push(place);
                }
                Guard::Rate(rate) if rate.enabled.is_on() && !may_come(rate) => {
                    self.local().rate_stats(&rate.stat_prefix).rate_limited.inc();
                    return Err("local_ratelimit_close_over_limit");
                }
                _ => {}
            }
        }
        Ok(places)
    }

    /// Keeps a connection that is refused for so long, unless everybody has to leave.
    async fn keep_waiting(&self, handle: &Handle, time: Duration) {
        if time.is_zero() {
            return;
        }
        let mut timer = pin!(self.wheel().sleep(time));
        poll_fn(|cx| {
            handle.register(cx.waker());
            if handle.draining() >= Drain::Leaving { Poll::Ready(()) } else { timer.as_mut().poll(cx) }
        })
        .await;
    }

    /// Whether the chain's guards let a connection in; what they say of it is the connection's from then on.
    pub(super) async fn admits(&self, handle: &Handle) -> bool {
        let bound = handle.bound();
        let guards = &bound.chain.model.guards;
        if guards.is_empty() {
            return true;
        }
        let view = bound.pinned.clone().unwrap_or_else(|| self.local().view());
        let direct = inputs(handle).source;
        let principals = handle.principals();
        let peer = Peer {
            direct,
            remote: direct.map(|peer| peer.ip().to_canonical()),
            local: handle.local,
            server_name: handle.server_name(),
            principals: principals.as_deref(),
        };
        let mut metadata = Metadata::default();
        for guard in guards {
            let admitted = match guard {
                Guard::Rbac(guard) => self.judge(guard, &peer, &mut metadata),
                Guard::Authz(guard) => {
                    let about = (&peer, &metadata);
                    Box::pin(stream::authorize(self.local(), &view, handle, guard, about)).await
                }
                Guard::State(config) => {
                    stream::set_state(handle, config, &mut metadata);
                    true
                }
                Guard::SniCluster => {
                    let name = handle.server_name();
                    if !name.is_empty() {
                        metadata.state.set(key::TCP_CLUSTER, name.to_owned(), false);
                    }
                    true
                }
                Guard::Limit(_) | Guard::Rate(_) => true,
            };
            if !admitted {
                return false;
            }
        }
        handle.set_state(std::mem::take::<FilterState>(&mut metadata.state));
        true
    }

    fn judge(&self, guard: &NetworkRbac, peer: &Peer<'_>, metadata: &mut Metadata) -> bool {
        let (admitted, shadow) = filter::admits(guard, peer, metadata);
        if guard.rbac.rules.is_some() {
            self.local().guard_stats(guard, false).inc(usize::from(!admitted));
        }
        if let Some(admitted) = shadow {
            self.local().guard_stats(guard, true).inc(usize::from(!admitted));
        }
        admitted
    }
}

/// Whether there is a token left for one more connection.
fn may_come(rate: &ConnectionRate) -> bool {
    let now = Instant::now();
    rate.compiled.get(|| Bucket::full(rate.bucket, now)).is_none_or(|bucket| bucket.take(now))
}
