//! The kinds of numbers, and groups of them.
//!
//! [`Counter`] and [`Gauge`] have a single writer: an update is a relaxed load and a relaxed store, no
//! read-modify-write, so two writers would lose updates. Use [`SharedCounter`] where several threads count.

use super::histogram::HistogramData;
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Counts up. Single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`; wraps at 2^64.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count; any thread.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts up from any thread, at the price of a locked instruction: for rare events only.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// A counter at 0, for statics.
    pub const fn new() -> Self {
        SharedCounter(AtomicU64::new(0))
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Marks a gauge nobody has touched: `usedonly` hides it, and it reads as 0.
const UNTOUCHED: i64 = i64::MIN;

/// Goes up and down. Single writer.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

impl Default for Gauge {
    fn default() -> Self {
        Gauge(AtomicI64::new(UNTOUCHED))
    }
}

impl Gauge {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.set(self.get() + 1);
    }

    /// Takes one away.
    #[inline]
    pub fn dec(&self) {
        self.set(self.get() - 1);
    }

    /// Sets the value; `i64::MIN` is not a value.
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// The value, 0 if never touched; any thread.
    #[inline]
    pub fn get(&self) -> i64 {
        self.touched().unwrap_or(0)
    }

    /// The value, or `None` if never touched.
    #[inline]
    pub fn touched(&self) -> Option<i64> {
        let value = self.0.load(Relaxed);
        (value != UNTOUCHED).then_some(value)
    }
}

/// Whole seconds since an event of the wall clock; not shown before the first event.
#[derive(Debug, Default)]
pub struct SecondsSince(Gauge);

impl SecondsSince {
    /// The event happens now.
    pub fn now(&self) {
        self.at_unix(super::clock::unix_millis() / 1000);
    }

    /// The event happened at this Unix time in seconds.
    pub fn at_unix(&self, seconds: u64) {
        self.0.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Seconds since the event, never negative.
    pub fn get(&self) -> Option<i64> {
        let now = i64::try_from(super::clock::unix_millis() / 1000).unwrap_or(i64::MAX);
        Some((now - self.0.touched()?).max(0))
    }
}

/// A word instead of a number, such as a version. Any thread.
#[derive(Debug, Default)]
pub struct Text(ArcSwapOption<String>);

impl Text {
    /// Sets the text.
    pub fn set(&self, text: &str) {
        if self.0.load().as_deref().is_none_or(|old| old != text) {
            self.0.store(Some(Arc::new(text.to_owned())));
        }
    }

    /// The text, if it was ever set.
    pub fn get(&self) -> Option<Arc<String>> {
        self.0.load_full()
    }
}

/// One reading of one metric, or the sum of several readings.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Never goes down while its scope lives.
    Counter(u64),
    /// `None`: never touched.
    Gauge(Option<i64>),
    /// `None`: never set.
    Text(Option<Arc<String>>),
    /// Distribution.
    Histogram(Box<HistogramData>),
}

/// What a group hands to its visitor.
pub type Sample = Value;

impl Value {
    /// Whether anything ever happened to it (Envoy's `usedonly`).
    pub fn used(&self) -> bool {
        match self {
            Value::Counter(n) => *n != 0,
            Value::Gauge(v) => v.is_some(),
            Value::Text(t) => t.is_some(),
            Value::Histogram(h) => h.count() != 0,
        }
    }

    /// Adds another worker's reading of the same metric.
    pub fn add(&mut self, other: Value) {
        match (self, other) {
            (Value::Counter(a), Value::Counter(b)) => *a = a.wrapping_add(b),
            (Value::Gauge(a), Value::Gauge(b)) => {
                *a = match (*a, b) {
                    (Some(a), Some(b)) => Some(a.saturating_add(b)),
                    (a, b) => a.or(b),
                }
            }
            (Value::Text(a), Value::Text(b)) => *a = a.take().or(b),
            (Value::Histogram(a), Value::Histogram(b)) => a.merge(&b),
            // Two groups disagree about the kind of one name; the first one stands.
            _ => {}
        }
    }
}

/// A set of metrics that belong to one thing.
pub trait StatGroup: Send + Sync {
    /// Hands every metric's name within its scope and present reading to `out`.
    fn visit(&self, out: &mut dyn FnMut(&str, Sample));
}

/// A field of a group.
pub trait Metric {
    /// Hands this field's reading(s) to `out`; `name` is the field's.
    fn sample(&self, name: &str, out: &mut dyn FnMut(&str, Sample));
}

impl Metric for Counter {
    fn sample(&self, name: &str, out: &mut dyn FnMut(&str, Sample)) {
        out(name, Value::Counter(self.get()));
    }
}

impl Metric for SharedCounter {
    fn sample(&self, name: &str, out: &mut dyn FnMut(&str, Sample)) {
        out(name, Value::Counter(self.get()));
    }
}

impl Metric for Gauge {
    fn sample(&self, name: &str, out: &mut dyn FnMut(&str, Sample)) {
        out(name, Value::Gauge(self.touched()));
    }
}

impl Metric for SecondsSince {
    fn sample(&self, name: &str, out: &mut dyn FnMut(&str, Sample)) {
        out(name, Value::Gauge(self.get()));
    }
}

impl Metric for Text {
    fn sample(&self, name: &str, out: &mut dyn FnMut(&str, Sample)) {
        out(name, Value::Text(self.get()));
    }
}

impl Metric for super::Histogram {
    fn sample(&self, name: &str, out: &mut dyn FnMut(&str, Sample)) {
        out(name, Value::Histogram(Box::new(self.read())));
    }
}

/// Declares groups of metrics: a struct with `Default` whose [`StatGroup`] visits the fields under their own
/// names, or under the text after `=` where the name has dots.
#[macro_export]
macro_rules! stat_group {
    ($($(#[$meta:meta])* pub struct $group:ident {
        $($(#[$field_meta:meta])* $field:ident : $kind:ty $(= $name:literal)?),* $(,)?
    })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $group {
            $($(#[$field_meta])* pub $field: $kind,)*
        }

        impl $crate::telemetry::StatGroup for $group {
            fn visit(&self, out: &mut dyn FnMut(&str, $crate::telemetry::Sample)) {
                $($crate::telemetry::Metric::sample(
                    &self.$field, $crate::stat_group!(@name $field $($name)?), out);)*
            }
        }
    )*};
    (@name $field:ident $name:literal) => { $name };
    (@name $field:ident) => { stringify!($field) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untouched_gauge_reads_zero_and_is_unused() {
        let gauge = Gauge::default();
        assert_eq!((gauge.get(), gauge.touched()), (0, None));
        gauge.inc();
        gauge.dec();
        assert_eq!(gauge.touched(), Some(0));
    }

    #[test]
    fn sums_keep_the_kind_and_the_touch() {
        let mut sum = Value::Gauge(None);
        sum.add(Value::Gauge(Some(2)));
        sum.add(Value::Gauge(None));
        sum.add(Value::Gauge(Some(-5)));
        sum.add(Value::Counter(9));
        assert_eq!(sum, Value::Gauge(Some(-3)));
    }

    #[test]
    fn seconds_since_the_future_are_none() {
        let since = SecondsSince::default();
        assert_eq!(since.get(), None);
        since.at_unix(u64::MAX);
        assert_eq!(since.get(), Some(0));
        since.at_unix(crate::telemetry::clock::unix_millis() / 1000 - 7);
        assert!(since.get().unwrap() >= 7);
    }
}
