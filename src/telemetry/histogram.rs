//! Distributions in log-linear buckets.
//!
//! 16 buckets per power of two: values below 16 are exact, larger ones within 1/16. The memory of an octave
//! (128 bytes) is allocated by the first value that falls into it, so an unused histogram costs one pointer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets per octave.
const SUB: usize = 16;
const SUB_BITS: u32 = SUB.trailing_zeros();
/// Octave 0 holds 0..16, octave n holds 16·2^(n-1)..16·2^n; values from 2^43 on count in the last bucket.
const OCTAVES: usize = 40;

/// Upper bounds of the buckets in Prometheus output: Envoy's defaults, in tenths so that 0.5 is whole.
pub(super) const PROMETHEUS_TENTHS: [u64; 19] = [
    5, 10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 300_000, 600_000,
    3_000_000, 6_000_000, 18_000_000, 36_000_000,
];

/// Quantiles in the text form.
pub(super) const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

type Octave = [AtomicU64; SUB];

/// A distribution of whole numbers (milliseconds, bytes, …). Single writer.
#[derive(Default)]
pub struct Histogram(OnceLock<Box<Inner>>);

struct Inner {
    sum: AtomicU64,
    octaves: [OnceLock<Box<Octave>>; OCTAVES],
}

impl Default for Inner {
    fn default() -> Self {
        Inner { sum: AtomicU64::new(0), octaves: [const { OnceLock::new() }; OCTAVES] }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Histogram({} values)", self.read().count())
    }
}

/// Octave and bucket within it.
fn place(value: u64) -> (usize, usize) {
    if value < SUB as u64 {
        return (0, value as usize);
    }
    let octave = (64 - value.leading_zeros() - SUB_BITS) as usize;
    if octave >= OCTAVES { (OCTAVES - 1, SUB - 1) } else { (octave, (value >> (octave - 1)) as usize - SUB) }
}

/// The smallest and the largest value of a bucket.
fn bounds(bucket: u16) -> (u64, u64) {
    let (octave, index) = (usize::from(bucket) / SUB, u64::from(bucket) % SUB as u64);
    if octave == 0 {
        return (index, index);
    }
    let width = 1u64 << (octave - 1);
    let low = (SUB as u64 + index) * width;
    (low, low + width - 1)
}

impl Histogram {
    /// Records one value.
    #[inline]
    pub fn record(&self, value: u64) {
        let inner = self.0.get_or_init(Box::default);
        bump(&inner.sum, value);
        let (octave, index) = place(value);
        let Some(cell) = inner.octaves.get(octave) else { return };
        if let Some(bucket) = cell.get_or_init(Box::default).get(index) {
            bump(bucket, 1);
        }
    }

    /// A copy to read and merge; any thread.
    pub fn read(&self) -> HistogramData {
        let Some(inner) = self.0.get() else { return HistogramData::default() };
        let mut buckets = Vec::new();
        for (octave, cell) in inner.octaves.iter().enumerate() {
            for (index, count) in cell.get().into_iter().flat_map(|o| o.iter()).enumerate() {
                let count = count.load(Relaxed);
                if count != 0 {
                    buckets.push(((octave * SUB + index) as u16, count));
                }
            }
        }
        HistogramData { sum: inner.sum.load(Relaxed), buckets }
    }
}

fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
}

/// A distribution read from one or several histograms: the buckets that are not empty, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramData {
    sum: u64,
    buckets: Vec<(u16, u64)>,
}

impl HistogramData {
    /// Adds another distribution.
    pub fn merge(&mut self, other: &HistogramData) {
        self.sum = self.sum.wrapping_add(other.sum);
        for &(bucket, count) in &other.buckets {
            self.add(bucket, count);
        }
    }

    /// Adds `value`, `times` over.
    pub fn record(&mut self, value: u64, times: u64) {
        if times > 0 {
            self.sum = self.sum.wrapping_add(value.wrapping_mul(times));
            let (octave, index) = place(value);
            self.add((octave * SUB + index) as u16, times);
        }
    }

    fn add(&mut self, bucket: u16, count: u64) {
        match self.buckets.binary_search_by_key(&bucket, |b| b.0) {
            Ok(at) => {
                if let Some(mine) = self.buckets.get_mut(at) {
                    mine.1 += count;
                }
            }
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.1).sum()
    }

    /// Sum of the values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The smallest recorded value, to the bucket's precision.
    pub fn min(&self) -> Option<u64> {
        self.buckets.first().map(|b| bounds(b.0).0)
    }

    /// The largest recorded value, to the bucket's precision.
    pub fn max(&self) -> Option<u64> {
        self.buckets.last().map(|b| bounds(b.0).1)
    }

    /// The value below which the fraction `q` (0–1) of the values lies; `None` without values.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = q * total as f64;
        let mut before = 0u64;
        for &(bucket, count) in &self.buckets {
            if rank <= (before + count) as f64 {
                let (low, high) = bounds(bucket);
                let part = ((rank - before as f64) / count as f64).clamp(0.0, 1.0);
                return Some(low as f64 + part * (high - low) as f64);
            }
            before += count;
        }
        self.max().map(|max| max as f64)
    }

    /// How many values are at most `limit` tenths; a bucket that the limit cuts counts in proportion.
    pub(super) fn count_up_to_tenths(&self, limit: u64) -> u64 {
        let limit = limit / 10;
        let mut total = 0;
        for &(bucket, count) in &self.buckets {
            let (low, high) = bounds(bucket);
            if high <= limit {
                total += count;
            } else if low <= limit && limit > 0 {
                let part = (limit - low + 1) as f64 / (high - low + 1) as f64;
                total += (count as f64 * part) as u64;
            } else if low == 0 {
                // Zeros are below every limit, 0.5 included.
                total += count;
            } else {
                break;
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_lies_in_its_bucket(value in 0u64..(1 << 42)) {
            let (octave, index) = place(value);
            let (low, high) = bounds((octave * SUB + index) as u16);
            prop_assert!(low <= value && value <= high);
            prop_assert!(high - low <= value / 16);
        }

        #[test]
        fn merging_is_recording_together(a in prop::collection::vec(any::<u32>(), 0..50),
                                         b in prop::collection::vec(any::<u32>(), 0..50)) {
            let (one, two, both) = (Histogram::default(), Histogram::default(), Histogram::default());
            a.iter().for_each(|v| { one.record(u64::from(*v)); both.record(u64::from(*v)); });
            b.iter().for_each(|v| { two.record(u64::from(*v)); both.record(u64::from(*v)); });
            let mut sum = one.read();
            sum.merge(&two.read());
            prop_assert_eq!(&sum, &both.read());
            let mut plain = HistogramData::default();
            a.iter().chain(&b).for_each(|v| plain.record(u64::from(*v), 1));
            prop_assert_eq!(&sum, &plain);
        }
    }

    #[test]
    fn buckets_never_go_down_and_end_at_the_count() {
        let h = Histogram::default();
        (0..5000u64).for_each(|v| h.record(v * v));
        let data = h.read();
        let counts: Vec<_> = PROMETHEUS_TENTHS.iter().map(|t| data.count_up_to_tenths(*t)).collect();
        assert!(counts.is_sorted());
        assert_eq!(counts[0], 1);
        assert_eq!(counts[3], 4, "0 1 4 9 are at most 10");
        assert_eq!(data.count(), 5000);
    }

    #[test]
    fn quantiles_follow_the_values() {
        let h = Histogram::default();
        assert_eq!(h.read().quantile(0.5), None);
        (1..=1000).for_each(|v| h.record(v));
        let data = h.read();
        let median = data.quantile(0.5).unwrap();
        assert!((470.0..=530.0).contains(&median), "{median}");
        assert_eq!(data.quantile(0.0), Some(1.0));
        assert!(data.quantile(1.0).unwrap() >= 1000.0);
        h.record(u64::MAX);
        assert_eq!(h.read().count(), 1001);
    }
}
