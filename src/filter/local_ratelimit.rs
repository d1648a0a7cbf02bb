//! Local rate limits: requests take tokens out of buckets that all workers share.

mod bucket;
mod descriptors;

pub use self::bucket::Bucket;
use super::chain::{Outgoing, State as Held, Verdict};
use super::context::{Context, Reply};
use super::header_mutation::{texts, write};
use super::stats::{Counters, counters};
use crate::message::Reason;
use crate::model::{Block, FilterRule, LocalRateLimit};
use crate::router::EditPlan;
use crate::telemetry::Scope;
use bytes::Bytes;
use std::time::Instant;

counters! {
    NAMES:
    "enabled" = ENABLED,
    "enforced" = ENFORCED,
    "ok" = OK,
    "rate_limited" = LIMITED,
}

/// What the response says: the bucket's size, what is left in it, and in how many seconds it is full.
pub(super) struct State([(&'static str, u64); 3]);

/// A rule's buckets.
struct Buckets {
    own: Bucket,
    /// As the rule's descriptors.
    more: Vec<Bucket>,
    request: EditPlan,
    response: EditPlan,
}

impl Buckets {
    fn of<'a>(limit: &LocalRateLimit, rule: &'a FilterRule) -> Option<&'a Buckets> {
        rule.compiled.get(|| {
            let now = Instant::now();
            Buckets {
                own: Bucket::full(limit.bucket, now),
                more: limit.descriptors.iter().map(|one| Bucket::full(one.bucket, now)).collect(),
                request: EditPlan::of_levels(&[&limit.request_headers]),
                response: EditPlan::of_levels(&[&limit.response_headers]),
            }
        })
    }

    /// Whether the request may pass, and the bucket that decided.
    fn take(&self, limit: &LocalRateLimit, found: &[usize], now: Instant) -> (bool, &Bucket) {
        let mut matched: Vec<&Bucket> = found.iter().filter_map(|at| self.more.get(*at)).collect();
        // The one that fills slowest is asked first.
        matched.sort_by(|a, b| a.fill_rate().total_cmp(&b.fill_rate()));
        for bucket in &matched {
            if !bucket.take(now) {
                return (false, bucket);
            }
        }
        if (matched.is_empty() || limit.always_default) && !self.own.take(now) {
            return (false, &self.own);
        }
        (true, matched.first().copied().unwrap_or(&self.own))
    }
}

pub(super) fn on_request(
    limit: &LocalRateLimit,
    rule: &FilterRule,
    held: &mut Held,
    ctx: &mut Context<'_>,
) -> Verdict {
    let random = ctx.world.random;
    if !limit.enabled.as_ref().is_some_and(|share| share.holds(random.next())) {
        return Verdict::Continue;
    }
    let Some(buckets) = Buckets::of(limit, rule) else { return Verdict::Continue };
    let group = ctx.world.stats.named(&limit.stat_prefix, false, |prefix| {
        (Some(Scope::local_rate_limit(prefix)), Counters::new("", NAMES))
    });
    group.inc(ENABLED);
    let found = descriptors::found(limit, ctx);
    let now = Instant::now();
    let (passes, bucket) = buckets.take(limit, &found, now);
    if limit.tell {
        *held = Held::Limit(State(bucket.told(now)));
    }
    if passes {
        group.inc(OK);
        return Verdict::Continue;
    }
    group.inc(LIMITED);
    let facts = ctx.facts();
    if !limit.enforced.as_ref().is_some_and(|share| share.holds(random.next())) {
        let plan = buckets.request.resolved(Block::Request, &facts);
        write(ctx.request, &plan);
        return Verdict::Continue;
    }
    group.inc(ENFORCED);
    let more = texts(&buckets.response.resolved(Block::Response, &facts));
    let reply = Reply {
        grpc: limit.resource_exhausted.then_some(8),
        more,
        body: Bytes::from_static(b"local_rate_limited"),
        ..Reply::text(Reason::RateLimited, limit.status, "", "local_rate_limited")
    };
    Verdict::Reply(Box::new(reply))
}

pub(super) fn on_response(held: &Held, response: &mut Outgoing<'_>) {
    let Held::Limit(State(told)) = held else { return };
    for (name, value) in told {
        response.headers.set(name, value.to_string().as_bytes());
    }
}
