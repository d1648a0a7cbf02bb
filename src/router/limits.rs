//! Time limits and retries of one request: the route's, and what the request itself asks for.

use super::{ActionSpec, RouteSpec};
use crate::message::Head;
use crate::model::{Action, DrawBy, HeaderMatch, HeaderMatchKind, RetryPolicy};
use std::borrow::Cow;
use std::time::Duration;

/// Time limits of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// From the end of the request, all tries and the response's body included; `None` off.
    pub timeout: Option<Duration>,
    /// One try, until its response's head.
    pub per_try: Option<Duration>,
    /// A try without progress.
    pub per_try_idle: Option<Duration>,
    /// No progress on the stream; `None` inherits the filter's.
    pub idle: Option<Duration>,
    /// The whole stream: `None` inherits the filter's, `Some(None)` is off.
    pub max_stream: Option<Option<Duration>>,
}

impl RouteSpec {
    /// The limits for `head`. `internal`: the request comes from inside, so that its `x-envoy-…` headers are
    /// obeyed; the exchange removes them from others, and these from all before it sends the request on.
    pub fn limits<H: Head + ?Sized>(&self, head: &H, internal: bool) -> Limits {
        let (ActionSpec::Route(forward), Action::Route(action)) = (&self.action, &self.model.action) else {
            return Limits::default();
        };
        let options = action.options.as_deref();
        let stream = options.and_then(|options| options.max_stream);
        let mut limits = Limits {
            timeout: forward.timeout,
            per_try: forward.retry.as_ref().and_then(|retry| retry.per_try_timeout),
            per_try_idle: forward.retry.as_ref().and_then(|retry| retry.per_try_idle_timeout),
            idle: forward.idle_timeout,
            max_stream: None,
        };
        // Read only where something depends on it.
        let uses_grpc = action.max_grpc_timeout.is_some()
            || stream.is_some_and(|stream| stream.grpc_header_max.is_some());
        let asked = if uses_grpc { grpc_timeout(head) } else { None };
        if let Some(stream) = stream {
            limits.timeout = None;
            limits.max_stream = match (asked, stream.grpc_header_max) {
                (Some(asked), Some(most)) => {
                    let capped = if most.is_zero() { asked } else { asked.min(most) };
                    Some(Some(capped.saturating_sub(stream.grpc_header_offset.unwrap_or_default())))
                }
                _ => stream.limit.map(|limit| Some(limit).filter(|limit| !limit.is_zero())),
            };
        } else if let Some(most) = action.max_grpc_timeout.filter(|_| head.is_grpc()) {
            let offset = options.and_then(|options| options.grpc_timeout_offset).unwrap_or_default();
            let asked = asked.unwrap_or_default();
            let asked = if offset < asked { asked - offset } else { asked };
            // Zero is no limit on either side.
            let capped = if most.is_zero() || (!asked.is_zero() && asked <= most) { asked } else { most };
            limits.timeout = Some(capped).filter(|limit| !limit.is_zero());
        }
        if internal {
            limits.ask(head);
        }
        if limits.per_try >= limits.timeout && limits.timeout.is_some() {
            limits.per_try = None;
        }
        limits
    }

    /// The retry policy for `head`; `internal` as for [`RouteSpec::limits`].
    pub fn retry<H: Head + ?Sized>(&self, head: &H, internal: bool) -> Option<Cow<'_, RetryPolicy>> {
        let ActionSpec::Route(forward) = &self.action else { return None };
        let own = forward.retry.as_deref();
        if !internal {
            return own.map(Cow::Borrowed);
        }
        let (on, grpc_on) = (head.header("x-envoy-retry-on"), head.header("x-envoy-retry-grpc-on"));
        let most = number(head, "x-envoy-max-retries");
        let codes = head.header("x-envoy-retriable-status-codes");
        let names = head.header("x-envoy-retriable-header-names");
        if own.is_none() && on.is_none() && grpc_on.is_none() {
            return None;
        }
        if on.is_none() && grpc_on.is_none() && most.is_none() && codes.is_none() && names.is_none() {
            return own.map(Cow::Borrowed);
        }
        let mut policy = own.cloned().unwrap_or_default();
        for word in words(on.as_deref()) {
            policy.on.add(word);
        }
        for word in words(grpc_on.as_deref()) {
            policy.on.add_grpc(word);
        }
        policy.status_codes.extend(words(codes.as_deref()).filter_map(|code| code.parse::<u16>().ok()));
        policy.headers.extend(words(names.as_deref()).filter(|name| !name.is_empty()).map(|name| {
            HeaderMatch {
                name: name.to_ascii_lowercase(),
                kind: HeaderMatchKind::Present(true),
                invert: false,
                treat_missing_as_empty: false,
            }
        }));
        if let Some(most) = most {
            policy.retries = u32::try_from(most).unwrap_or(u32::MAX);
        }
        Some(Cow::Owned(policy))
    }

    /// The number of a weighted draw where it is not to be random.
    pub(super) fn number<H: Head + ?Sized>(&self, head: &H, hash: Option<u64>) -> Option<u64> {
        match &self.options()?.draw {
            DrawBy::Random => None,
            DrawBy::Header(name) => number(head, name),
            DrawBy::Hash => hash,
        }
    }
}

impl Limits {
    fn ask<H: Head + ?Sized>(&mut self, head: &H) {
        let limit = |millis: u64| Some(Duration::from_millis(millis)).filter(|limit| !limit.is_zero());
        if let Some(millis) = number(head, "x-envoy-upstream-rq-timeout-ms") {
            self.timeout = limit(millis);
        }
        if let Some(millis) = number(head, "x-envoy-upstream-rq-per-try-timeout-ms") {
            self.per_try = limit(millis);
        }
    }
}

fn number<H: Head + ?Sized>(head: &H, name: &str) -> Option<u64> {
    std::str::from_utf8(&head.header(name)?).ok()?.trim().parse().ok()
}

fn words(text: Option<&[u8]>) -> impl Iterator<Item = &str> {
    let text = text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    text.split(',').map(str::trim)
}

/// The client's own limit: at most eight digits and a unit. Fractions of a millisecond are rounded up.
pub fn grpc_timeout<H: Head + ?Sized>(head: &H) -> Option<Duration> {
    let text = head.header("grpc-timeout")?;
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_millis(count.div_ceil(1000)),
        b'n' => Duration::from_millis(count.div_ceil(1_000_000)),
        _ => return None,
    })
}
