//! One line per locally made failure, but never a flood of them.
//!
//! Owns, per worker, a token bucket for each cause and cluster: ten lines at once, one more per second; what
//! was left out is told by the next line. No lock, no formatting and no allocation while lines are left out.

use crate::message::{Failure, Reason};
use crate::model::ClusterId;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

/// Lines at once per cause and cluster.
const BURST: u32 = 10;
/// Time that earns one more line.
const REFILL: Duration = Duration::from_secs(1);
/// Buckets kept; beyond it the full ones go first.
const BUCKETS: usize = 4096;

/// The limiter of one worker.
#[derive(Default)]
pub struct FailureLog {
    buckets: RefCell<HashMap<(Reason, u32), Bucket, foldhash::fast::FixedState>>,
}

struct Bucket {
    tokens: u32,
    /// When `tokens` was last right.
    at: Instant,
    suppressed: u64,
}

/// What a failure line tells; empty texts show as `-`.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailureLine<'a> {
    /// `bolt`, `http2`, `tcp`, ….
    pub protocol: &'a str,
    pub listener: &'a str,
    /// The route's name, or its virtual host's.
    pub route: &'a str,
    pub cluster: &'a str,
    /// Address of the upstream host, if one was chosen.
    pub host: &'a str,
    /// The cause's own words, such as the operating system's error.
    pub detail: &'a str,
}

impl FailureLog {
    /// Logs `failure` unless too many like it were logged lately; `line` is only called if it is.
    #[inline]
    pub fn log<'a>(
        &self,
        failure: Failure,
        cluster: Option<ClusterId>,
        line: impl FnOnce() -> FailureLine<'a>,
    ) {
        if let Some(suppressed) = self.admit(failure.reason, cluster, Instant::now()) {
            emit(failure, &line(), suppressed);
        }
    }

    /// Whether a line may be written now; then also how many were left out since the last one.
    fn admit(&self, reason: Reason, cluster: Option<ClusterId>, now: Instant) -> Option<u64> {
        let mut buckets = self.buckets.borrow_mut();
        if buckets.len() >= BUCKETS {
            buckets.retain(|_, b| now.saturating_duration_since(b.at) < REFILL * BURST);
            if buckets.len() >= BUCKETS {
                buckets.clear();
            }
        }
        let key = (reason, cluster.map_or(u32::MAX, |c| c.0));
        let bucket = buckets.entry(key).or_insert(Bucket { tokens: BURST, at: now, suppressed: 0 });
        let earned = now.saturating_duration_since(bucket.at).as_secs().min(u64::from(BURST)) as u32;
        if earned > 0 {
            bucket.tokens = (bucket.tokens + earned).min(BURST);
            bucket.at = now;
        }
        if bucket.tokens == 0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

fn emit(failure: Failure, line: &FailureLine<'_>, suppressed: u64) {
    let reason = failure.reason;
    tracing::warn!(
        target: "failure",
        "request failed: reason={} flag={} protocol={} listener={} route={} cluster={} host={}{}{}",
        reason.word(),
        reason.flag(),
        Field(line.protocol),
        Field(line.listener),
        Field(line.route),
        Field(line.cluster),
        Field(line.host),
        Detail(line.detail),
        Suppressed(suppressed),
    );
}

struct Field<'a>(&'a str);

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "-" } else { self.0 })
    }
}

struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " detail={:?}", self.0) }
    }
}

struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " ({} suppressed)", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_at_once_then_one_a_second_per_cause_and_cluster() {
        let log = FailureLog::default();
        let start = Instant::now();
        let admit = |reason, cluster, ms| {
            log.admit(reason, Some(ClusterId(cluster)), start + Duration::from_millis(ms))
        };
        let written = (0..50).filter(|_| admit(Reason::Timeout, 1, 0).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(admit(Reason::Timeout, 2, 0), Some(0), "another cluster has its own bucket");
        assert_eq!(admit(Reason::NoRoute, 1, 0), Some(0), "another cause too");
        assert_eq!(admit(Reason::Timeout, 1, 999), None);
        assert_eq!(admit(Reason::Timeout, 1, 1000), Some(41));
        assert_eq!(admit(Reason::Timeout, 1, 1001), None);
        let later = (0..50).filter(|_| admit(Reason::Timeout, 1, 60_000).is_some()).count();
        assert_eq!(later, 10);
    }

    #[test]
    fn memory_is_bounded() {
        let log = FailureLog::default();
        let now = Instant::now();
        for n in 0..3 * BUCKETS as u32 {
            log.admit(Reason::Timeout, Some(ClusterId(n)), now);
        }
        assert!(log.buckets.borrow().len() <= BUCKETS);
    }

    #[test]
    fn a_left_out_line_is_not_built() {
        let log = FailureLog::default();
        let mut built = 0;
        for _ in 0..30 {
            log.log(Failure::before(Reason::NoRoute), None, || {
                built += 1;
                FailureLine::default()
            });
        }
        assert_eq!(built, 10);
    }
}
