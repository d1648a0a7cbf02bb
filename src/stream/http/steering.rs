//! The `x-envoy-…` fields of the router: what requests from inside ask for, and what their hosts and clients
//! are told.

use super::head::RequestHead;
use crate::message::{Failure, Head, Reason};
use crate::model::{Action, RetryOn, RouterOptions};
use crate::router::{Limits, RouteSpec};
use http::{HeaderMap, HeaderName, HeaderValue, request};
use std::time::Duration;
use tokio::time::Instant;

const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What is said to this router alone.
const ASKED: [&str; 10] = [
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-max-retries",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
];

/// Most that eight digits hold, as `grpc-timeout` has them.
const EIGHT_DIGITS: u128 = 99_999_999;

/// Checks what a request from inside asks for, and takes over the limit that a proxy before us works with.
///
/// # Errors
/// A field that `strict_check_headers` names cannot be read.
pub(super) fn read(headers: &mut HeaderMap, options: &RouterOptions) -> Result<(), Failure> {
    let readable = |name: &&String| {
        let Some(value) = headers.get(name.as_str()) else { return true };
        let Ok(value) = value.to_str() else { return false };
        match name.as_str() {
            "x-envoy-retry-on" => value.split(',').all(|word| RetryOn::default().add(word.trim())),
            "x-envoy-retry-grpc-on" => value.split(',').all(|word| RetryOn::default().add_grpc(word.trim())),
            _ => value.parse::<u64>().is_ok(),
        }
    };
    if !options.strict_headers.iter().all(|name| readable(&name)) {
        return Err(Failure::before(Reason::InvalidEnvoyHeader));
    }
    if options.respect_expected_timeout
        && let Some(expected) = headers.get(EXPECTED).cloned()
    {
        let _ = headers.try_insert(TIMEOUT, expected);
    }
    Ok(())
}

/// Removes what was for this router.
pub(super) fn take(headers: &mut HeaderMap) {
    if headers.keys().any(|name| name.as_str().starts_with("x-envoy-")) {
        for name in ASKED {
            headers.remove(name);
        }
    }
}

/// What each try tells its host.
pub(super) struct Notice {
    attempts: bool,
    expected: bool,
    /// `grpc-timeout` is set to what is left.
    grpc: bool,
    per_try: Option<Duration>,
    whole: Option<Duration>,
}

impl Notice {
    /// For a request that goes by `route`. `options`: those of a connection manager's router.
    pub(super) fn new(
        head: &request::Parts,
        route: &RouteSpec,
        limits: &Limits,
        options: Option<&RouterOptions>,
    ) -> Self {
        let grpc = match &route.model().action {
            Action::Route(action) => {
                let newer = action.options.as_ref().is_some_and(|options| options.max_stream.is_some());
                action.max_grpc_timeout.is_some() && !newer && RequestHead(head).is_grpc()
            }
            _ => false,
        };
        Notice {
            attempts: options.is_some() && route.host().attempt_count_in_request,
            expected: options.is_some_and(|options| {
                let kept = options.respect_expected_timeout && head.headers.contains_key(EXPECTED);
                !options.suppress_headers && !kept
            }),
            grpc,
            per_try: limits.per_try,
            whole: limits.timeout,
        }
    }

    /// Writes it into the head of try `number`; `ended`: when the request had come.
    pub(super) fn write(&self, headers: &mut HeaderMap, number: u32, ended: Option<Instant>) {
        // A map that is full keeps what it has.
        if self.attempts {
            let _ = headers.try_insert(ATTEMPTS, number.into());
        }
        if !self.expected && !self.grpc {
            return;
        }
        let spent = ended.filter(|_| number > 1).map(|at| at.elapsed()).unwrap_or_default();
        // Out of time is not without limit.
        let left = self.whole.map(|whole| whole.saturating_sub(spent).max(Duration::from_millis(1)));
        let Some(limit) = self.per_try.into_iter().chain(left).min() else { return };
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        if self.expected {
            let _ = headers.try_insert(EXPECTED, millis.into());
        }
        if self.grpc
            && let Ok(value) = HeaderValue::from_str(&grpc_timeout(limit))
        {
            let _ = headers.try_insert(GRPC_TIMEOUT, value);
        }
    }
}

/// In the finest unit whose number has eight digits at most.
fn grpc_timeout(limit: Duration) -> String {
    let millis = limit.as_millis();
    let units = [(1, 'm'), (1_000, 'S'), (60_000, 'M'), (3_600_000, 'H')];
    let fits = units.into_iter().find(|(size, _)| millis / size <= EIGHT_DIGITS);
    let (size, unit) = fits.unwrap_or((3_600_000, 'H'));
    format!("{}{unit}", (millis / size).min(EIGHT_DIGITS))
}

/// Tells the client how long its host took from the end of the request.
pub(super) fn note_service_time(
    headers: &mut HeaderMap,
    options: &RouterOptions,
    ended: Option<Instant>,
    now: Instant,
) {
    if let Some(ended) = ended.filter(|_| !options.suppress_headers) {
        let took = u64::try_from(now.saturating_duration_since(ended).as_millis()).unwrap_or(u64::MAX);
        let _ = headers.try_insert(SERVICE_TIME, digits(took));
    }
}

/// A number as a value. The small ones, which most answers carry, are not written anew.
fn digits(number: u64) -> HeaderValue {
    static SMALL: [HeaderValue; 10] = [
        HeaderValue::from_static("0"),
        HeaderValue::from_static("1"),
        HeaderValue::from_static("2"),
        HeaderValue::from_static("3"),
        HeaderValue::from_static("4"),
        HeaderValue::from_static("5"),
        HeaderValue::from_static("6"),
        HeaderValue::from_static("7"),
        HeaderValue::from_static("8"),
        HeaderValue::from_static("9"),
    ];
    let small = usize::try_from(number).ok().and_then(|at| SMALL.get(at));
    small.cloned().unwrap_or_else(|| {
        // What no HPACK table is to hold: it would fill with numbers, all of which are gone through for the next.
        let mut value = HeaderValue::from(number);
        value.set_sensitive(true);
        value
    })
}

/// What the client is told of its request's way, whoever answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// Tries made, where they are told.
    pub(super) attempts: Option<u32>,
    /// The last one met a limit.
    pub(super) overloaded: bool,
}

impl Told {
    /// Writes it into a response.
    pub(super) fn write(self, headers: &mut HeaderMap, options: Option<&RouterOptions>) {
        let Some(options) = options else { return };
        if let Some(attempts) = self.attempts {
            let _ = headers.try_insert(ATTEMPTS, attempts.into());
        }
        if self.overloaded && !options.suppress_headers {
            let _ = headers.try_insert(OVERLOADED, HeaderValue::from_static("true"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_have_eight_digits() {
        let text = |seconds: u64| grpc_timeout(Duration::from_secs(seconds));
        assert_eq!(text(2), "2000m");
        assert_eq!(text(99_999), "99999000m");
        assert_eq!(text(100_000), "100000S");
        assert_eq!(text(u64::MAX), "99999999H");
    }

    #[test]
    fn only_what_can_be_read_passes_a_strict_check() {
        let names = ["x-envoy-max-retries", "x-envoy-retry-on", "x-envoy-retry-grpc-on"];
        let options =
            RouterOptions { strict_headers: names.map(String::from).to_vec(), ..RouterOptions::default() };
        for (name, value, good) in [
            ("x-envoy-max-retries", "3", true),
            ("x-envoy-max-retries", "three", false),
            ("x-envoy-retry-on", "5xx, reset", true),
            ("x-envoy-retry-on", "sometimes", false),
            ("x-envoy-retry-grpc-on", "cancelled", true),
            ("x-envoy-retry-grpc-on", "5xx", false),
            ("x-envoy-upstream-rq-timeout-ms", "soon", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(read(&mut headers, &options).is_ok(), good, "{name}: {value}");
            take(&mut headers);
            assert!(headers.is_empty());
        }
    }
}
