//! Health checks that are answered here.

use super::chain::{Outgoing, State as Held, Verdict};
use super::context::{Context, Reply, World};
use crate::model::{FilterRule, HealthCheckFilter};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// The request is a check; whether the upstream is asked.
pub(super) struct State {
    asked: bool,
}

/// The upstream's last answer: its status and when it ends to count, in milliseconds after `since`.
struct Cache {
    since: Instant,
    held: AtomicU64,
}

/// Bits of [`Cache::held`] that are the status.
const STATUS_BITS: u32 = 16;

impl Cache {
    fn of(rule: &FilterRule) -> Option<&Cache> {
        rule.compiled.get(|| Cache { since: Instant::now(), held: AtomicU64::new(0) })
    }

    fn get(&self) -> Option<u16> {
        let held = self.held.load(Relaxed);
        let fresh = u128::from(held >> STATUS_BITS) > self.since.elapsed().as_millis();
        fresh.then_some(held as u16)
    }

    fn set(&self, status: u16, time: std::time::Duration) {
        let end = (self.since.elapsed() + time).as_millis() as u64;
        self.held.store((end << STATUS_BITS) | u64::from(status), Relaxed);
    }
}

pub(super) fn on_request(
    check: &HealthCheckFilter,
    rule: &FilterRule,
    held: &mut Held,
    ctx: &mut Context<'_>,
) -> Verdict {
    if !check.headers.iter().all(|header| crate::router::header_holds(header, ctx.request.head())) {
        return Verdict::Continue;
    }
    *ctx.health_check = true;
    let cached = check.cache.and_then(|_| Cache::of(rule)?.get());
    let asked = check.pass_through && cached.is_none();
    *held = Held::Check(State { asked });
    if asked {
        return Verdict::Continue;
    }
    let (status, details) = if ctx.world.failing {
        (503, "health_check_failed")
    } else {
        match cached {
            Some(status) => (status, "health_check_cached"),
            None => by_clusters(check, &ctx.world),
        }
    };
    Verdict::Reply(Box::new(Reply::bare(status, details)))
}

fn by_clusters(check: &HealthCheckFilter, world: &World<'_>) -> (u16, &'static str) {
    for (name, least) in &check.clusters {
        let Some((good, all)) = (world.hosts)(name) else { return (503, "health_check_no_cluster_found") };
        let enough = if all == 0 { *least <= 0.0 } else { 100.0 * good as f64 >= all as f64 * least };
        if !enough {
            return (503, "health_check_cluster_unhealthy");
        }
    }
    (200, "health_check_ok")
}

pub(super) fn on_response(
    check: &HealthCheckFilter,
    rule: &FilterRule,
    held: &Held,
    response: &mut Outgoing<'_>,
    world: &World<'_>,
) {
    let Held::Check(state) = held else {
        if world.failing {
            response.headers.set("x-envoy-immediate-health-check-fail", b"true");
        }
        return;
    };
    if let (true, Some(time), Some(cache)) = (state.asked, check.cache, Cache::of(rule)) {
        cache.set(response.status, time);
    }
}
