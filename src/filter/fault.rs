//! Injected faults: delays, aborts, slow responses.

use super::body::Pipeline;
use super::chain::{Outgoing, State as Held, Verdict};
use super::context::{Context, Reply};
use super::stats::{Counters, Group, counters};
use crate::message::Reason;
use crate::model::{AbortWith, Fault, FilterRule, Fraction, runtime};
use crate::telemetry::Gauge;
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

counters! {
    NAMES:
    "delays_injected" = DELAYS,
    "aborts_injected" = ABORTS,
    "response_rl_injected" = RATES,
    "faults_overflow" = OVERFLOW,
}

/// What one request has met.
#[derive(Default)]
pub(super) struct State {
    /// It was delayed, or is.
    pub delayed: bool,
    rate: Option<u64>,
    active: Vec<Active>,
}

/// A fault under way, counted until dropped.
struct Active {
    all: Arc<AtomicU32>,
    group: Group,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Relaxed);
        if let Some(gauge) = &self.group.active {
            gauge.dec();
        }
    }
}

pub(super) fn on_request(
    fault: &Fault,
    own: &FilterRule,
    place: usize,
    held: &mut Held,
    ctx: &mut Context<'_>,
) -> Verdict {
    let mut state = match std::mem::take(held) {
        Held::Fault(state) => state,
        _ => {
            if !concerns(fault, ctx) {
                return Verdict::Continue;
            }
            State::default()
        }
    };
    let group = group(place, ctx);
    let enter = |state: &mut State| {
        let Some(all) = own.compiled.get(|| Arc::new(AtomicU32::new(0))) else { return false };
        if limit(fault).is_some_and(|most| all.load(Relaxed) >= most) {
            group.inc(OVERFLOW);
            return false;
        }
        all.fetch_add(1, Relaxed);
        if let Some(gauge) = &group.active {
            gauge.inc();
        }
        state.active.push(Active { all: all.clone(), group: group.clone() });
        true
    };
    if !state.delayed {
        if let Some(rate) = rate(fault, ctx)
            && enter(&mut state)
        {
            group.inc(RATES);
            state.rate = Some(rate);
        }
        if let Some(delay) = delay(fault, ctx)
            && enter(&mut state)
        {
            group.inc(DELAYS);
            state.delayed = true;
            *held = Held::Fault(state);
            return Verdict::Wait(delay);
        }
    }
    let verdict = match abort(fault, ctx) {
        Some((status, grpc)) if enter(&mut state) => {
            group.inc(ABORTS);
            let reply = Reply {
                grpc,
                body: Bytes::from_static(b"fault filter abort"),
                details: Cow::Borrowed("fault_filter_abort"),
                ..Reply::text(Reason::Fault, status, "", "")
            };
            Verdict::Reply(Box::new(reply))
        }
        _ => Verdict::Continue,
    };
    if state.delayed || !state.active.is_empty() {
        *held = Held::Fault(state);
    }
    verdict
}

fn group(place: usize, ctx: &Context<'_>) -> Group {
    ctx.world.stats.own(place, || {
        let mut counters = Counters::new("fault.", NAMES);
        counters.active = Some(Gauge::default());
        counters
    })
}

/// Whether this request may meet a fault.
fn concerns(fault: &Fault, ctx: &Context<'_>) -> bool {
    let cluster = ctx.world.cluster.map(|(name, _)| name);
    let node = || ctx.request.header("x-envoy-downstream-service-node");
    (fault.upstream_cluster.is_empty() || cluster == Some(fault.upstream_cluster.as_str()))
        && (fault.downstream_nodes.is_empty()
            || node().is_some_and(|node| fault.downstream_nodes.iter().any(|name| name.as_bytes() == &*node)))
        && fault.headers.iter().all(|header| crate::router::header_holds(header, ctx.request.head()))
}

/// A whole number in a header.
fn told(ctx: &Context<'_>, name: &str) -> Option<u64> {
    std::str::from_utf8(&ctx.request.header(name)?).ok()?.trim().parse().ok()
}

/// A whole number that runtime has for `key`.
fn number(key: &str) -> Option<u64> {
    let number = runtime::number_now(key).filter(|_| !key.is_empty())?;
    (number >= 0.0).then_some(number as u64)
}

/// Faults at the same time.
fn limit(fault: &Fault) -> Option<u32> {
    let other = number(&fault.max_active_key).map(|most| u32::try_from(most).unwrap_or(u32::MAX));
    other.or(fault.max_active)
}

/// Whether this request is among `share`; a header may make the share smaller.
fn drawn(share: &Fraction, by_header: Option<&str>, ctx: &Context<'_>) -> bool {
    let asked = by_header.and_then(|name| told(ctx, name)).and_then(|asked| u32::try_from(asked).ok());
    let random = ctx.world.random.next();
    match asked {
        Some(asked) => {
            let numerator = asked.min(share.numerator);
            Fraction { numerator, denominator: share.denominator, runtime_key: String::new() }.holds(random)
        }
        None => share.holds(random),
    }
}

fn delay(fault: &Fault, ctx: &Context<'_>) -> Option<Duration> {
    let delay = fault.delay.as_ref()?;
    let percentage = delay.fixed.is_none().then_some("x-envoy-fault-delay-request-percentage");
    if !drawn(&delay.share, percentage, ctx) {
        return None;
    }
    let time = match delay.fixed {
        Some(fixed) => number(&delay.duration_key).map_or(fixed, Duration::from_millis),
        None => Duration::from_millis(told(ctx, "x-envoy-fault-delay-request")?),
    };
    (!time.is_zero()).then_some(time)
}

fn abort(fault: &Fault, ctx: &Context<'_>) -> Option<(u16, Option<u32>)> {
    let abort = fault.abort.as_ref()?;
    let percentage = (abort.with == AbortWith::Header).then_some("x-envoy-fault-abort-request-percentage");
    if !drawn(&abort.share, percentage, ctx) {
        return None;
    }
    match abort.with {
        AbortWith::Http(status) => {
            let other = number(&abort.with_key).and_then(|status| u16::try_from(status).ok());
            Some((other.filter(|status| (200..600).contains(status)).unwrap_or(status), None))
        }
        AbortWith::Grpc(code) => {
            let other = number(&abort.with_key).and_then(|code| u32::try_from(code).ok());
            Some((200, Some(other.unwrap_or(code))))
        }
        AbortWith::Header => {
            let status = told(ctx, "x-envoy-fault-abort-request").filter(|code| (200..600).contains(code));
            if let Some(status) = status.and_then(|status| u16::try_from(status).ok()) {
                return Some((status, None));
            }
            let code = told(ctx, "x-envoy-fault-abort-grpc-request")?;
            Some((200, Some(u32::try_from(code).ok()?)))
        }
    }
}

/// Bytes a second.
fn rate(fault: &Fault, ctx: &Context<'_>) -> Option<u64> {
    let rate = fault.response_rate.as_ref()?;
    let percentage = rate.kbps.is_none().then_some("x-envoy-fault-throughput-response-percentage");
    if !drawn(&rate.share, percentage, ctx) {
        return None;
    }
    let kbps = match rate.kbps {
        Some(fixed) => fixed,
        None => told(ctx, "x-envoy-fault-throughput-response")?,
    };
    (kbps > 0).then(|| kbps.saturating_mul(1024))
}

pub(super) fn on_response(held: &Held, response: &Outgoing<'_>, bodies: &mut Pipeline) {
    if let Held::Fault(State { rate: Some(rate), .. }) = held
        && !response.ends
    {
        bodies.rate = Some(*rate);
    }
}
