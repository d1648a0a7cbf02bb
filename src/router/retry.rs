//! Which outcomes a retry policy wants to try again, and after what pause, by Envoy's rules.

use crate::message::{Failure, Reason};
use crate::model::{HeaderMatch, ResetFormat, RetryPolicy};
use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads a header of a request or response: every occurrence, joined with `,`.
pub type Headers<'a> = &'a dyn Fn(&str) -> Option<Cow<'a, [u8]>>;

/// Whether a request may be tried again at all: `retriable_request_headers` has none, or one of them holds.
pub fn wants_request(policy: &RetryPolicy, headers: Headers<'_>) -> bool {
    policy.request_headers.is_empty() || any(&policy.request_headers, headers)
}

/// Whether a response is to be tried again.
pub fn wants_response(policy: &RetryPolicy, status: u16, headers: Headers<'_>) -> bool {
    let on = &policy.on;
    if headers("x-envoy-overloaded").is_some() {
        return false;
    }
    if headers("x-envoy-ratelimited").is_some() {
        return on.envoy_ratelimited;
    }
    if wants_status(policy, status) {
        return true;
    }
    if on.retriable_headers && any(&policy.headers, headers) {
        return true;
    }
    let grpc = || std::str::from_utf8(&headers("grpc-status")?).ok()?.parse::<u32>().ok();
    on.grpc_codes != 0 && grpc().is_some_and(|code| wants_grpc(policy, code))
}

/// Whether a response with this HTTP status (or its like) is.
pub fn wants_status(policy: &RetryPolicy, status: u16) -> bool {
    let on = &policy.on;
    (on.five_xx && (500..600).contains(&status))
        || (on.gateway_error && matches!(status, 502..=504))
        || (on.retriable_4xx && status == 409)
        || (on.retriable_status_codes && policy.status_codes.contains(&status))
}

/// Whether a response with this gRPC status is.
pub fn wants_grpc(policy: &RetryPolicy, code: u32) -> bool {
    code < 32 && policy.on.grpc_codes & (1 << code) != 0
}

/// Whether a try that failed without an answer is.
pub fn wants_failure(policy: &RetryPolicy, failure: Failure) -> bool {
    let on = &policy.on;
    match failure.reason {
        Reason::ConnectFailed | Reason::ConnectTimeout => {
            on.connect_failure || on.five_xx || on.gateway_error || on.reset_before_request || on.reset
        }
        Reason::UpstreamRefused => {
            on.refused_stream || on.reset || on.five_xx || on.gateway_error || on.reset_before_request
        }
        Reason::UpstreamClosed | Reason::UpstreamReset | Reason::UpstreamProtocol => {
            on.reset || on.five_xx || on.gateway_error || (on.reset_before_request && !failure.sent)
        }
        Reason::PerTryTimeout | Reason::PerTryIdle => on.five_xx || on.gateway_error || on.reset,
        _ => false,
    }
}

/// The pause that the server asks for in the first header of `rate_limited_retry_back_off` that does and does
/// not ask for more than is allowed.
pub fn asked_pause(policy: &RetryPolicy, headers: Headers<'_>, now: SystemTime) -> Option<Duration> {
    let asked = policy.rate_limited.as_ref()?;
    asked.headers.iter().find_map(|(name, format)| {
        let value: u64 = std::str::from_utf8(&headers(name)?).ok()?.trim().parse().ok()?;
        let pause = match format {
            ResetFormat::Seconds => Duration::from_secs(value),
            ResetFormat::UnixTimestamp => {
                let now = now.duration_since(UNIX_EPOCH).ok()?;
                Duration::from_secs(value).checked_sub(Duration::from_secs(now.as_secs()))?
            }
        };
        (pause <= asked.max_interval).then_some(pause)
    })
}

fn any(matchers: &[HeaderMatch], headers: Headers<'_>) -> bool {
    matchers.iter().any(|matcher| matcher.holds(headers(&matcher.name).as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HeaderMatchKind, RateLimitedBackOff, RetryOn};

    fn policy(words: &str) -> RetryPolicy {
        let mut on = RetryOn::default();
        words.split(',').for_each(|word| assert!(on.add(word), "{word}"));
        RetryPolicy { on, status_codes: vec![418], ..RetryPolicy::default() }
    }

    fn response(words: &str, status: u16, header: (&str, &'static str)) -> bool {
        let headers = |name: &str| (name == header.0).then(|| header.1.as_bytes().into());
        let mut policy = policy(words);
        policy.headers.push(HeaderMatch {
            name: "again".into(),
            kind: HeaderMatchKind::Present(true),
            invert: false,
            treat_missing_as_empty: false,
        });
        wants_response(&policy, status, &headers)
    }

    #[test]
    fn responses_by_word() {
        let none = ("", "");
        for (words, status, header, wanted) in [
            ("5xx", 500, none, true),
            ("5xx", 600, none, false),
            ("5xx", 499, none, false),
            ("gateway-error", 503, none, true),
            ("gateway-error", 500, none, false),
            ("retriable-4xx", 409, none, true),
            ("retriable-4xx", 404, none, false),
            ("retriable-status-codes", 418, none, true),
            ("5xx", 418, none, false),
            ("retriable-headers", 200, ("again", "1"), true),
            ("5xx", 200, ("again", "1"), false),
            ("unavailable", 200, ("grpc-status", "14"), true),
            ("cancelled,internal", 200, ("grpc-status", "14"), false),
            ("5xx", 500, ("x-envoy-overloaded", "true"), false),
            ("5xx", 500, ("x-envoy-ratelimited", "true"), false),
            ("envoy-ratelimited", 429, ("x-envoy-ratelimited", "true"), true),
        ] {
            assert_eq!(response(words, status, header), wanted, "{words} {status} {header:?}");
        }
    }

    #[test]
    fn failures_by_word() {
        let reset = Failure::after(Reason::UpstreamReset);
        for (words, failure, wanted) in [
            ("connect-failure", Failure::before(Reason::ConnectFailed), true),
            ("refused-stream", Failure::before(Reason::ConnectFailed), false),
            ("refused-stream", Failure::after(Reason::UpstreamRefused), true),
            ("reset", reset, true),
            ("reset-before-request", reset, false),
            ("reset-before-request", Failure::before(Reason::UpstreamClosed), true),
            ("5xx", Failure::after(Reason::PerTryTimeout), true),
            ("connect-failure", Failure::after(Reason::PerTryTimeout), false),
            ("gateway-error", Failure::after(Reason::PerTryIdle), true),
            ("5xx", Failure::before(Reason::OverflowRequests), false),
            ("5xx", Failure::after(Reason::Timeout), false),
        ] {
            assert_eq!(wants_failure(&policy(words), failure), wanted, "{words} {failure:?}");
        }
    }

    #[test]
    fn servers_may_ask_for_a_pause() {
        let mut policy = policy("5xx");
        policy.rate_limited = Some(RateLimitedBackOff {
            headers: vec![
                ("retry-after".into(), ResetFormat::Seconds),
                ("reset".into(), ResetFormat::UnixTimestamp),
            ],
            max_interval: Duration::from_secs(60),
        });
        let asked = |name: &'static str, value: &'static str| {
            let headers = move |asked: &str| (asked == name).then(|| value.as_bytes().into());
            asked_pause(&policy, &headers, UNIX_EPOCH + Duration::from_secs(1000))
        };
        assert_eq!(asked("retry-after", "5"), Some(Duration::from_secs(5)));
        assert_eq!(asked("reset", "1030"), Some(Duration::from_secs(30)));
        assert_eq!(asked("reset", "900"), None);
        assert_eq!(asked("retry-after", "61"), None);
        assert_eq!(asked("retry-after", "soon"), None);
        assert_eq!(asked("other", "5"), None);
    }

    #[test]
    fn requests_may_have_to_ask_for_retries() {
        let mut policy = policy("5xx");
        let none = |_: &str| None;
        assert!(wants_request(&policy, &none));
        policy.request_headers.push(HeaderMatch {
            name: "x".into(),
            kind: HeaderMatchKind::Present(true),
            invert: false,
            treat_missing_as_empty: false,
        });
        assert!(!wants_request(&policy, &none));
    }
}
