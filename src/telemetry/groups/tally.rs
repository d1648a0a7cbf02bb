//! Families of counters: by cause of failure, by HTTP status.

use crate::message::Reason;
use crate::telemetry::metric::{Counter, Metric, Sample, Value};
use std::sync::OnceLock;

/// One counter per cause of failure, as `failure.<word>`.
#[derive(Debug)]
pub struct ByReason([Counter; Reason::ALL.len()]);

impl Default for ByReason {
    fn default() -> Self {
        ByReason(std::array::from_fn(|_| Counter::default()))
    }
}

impl ByReason {
    /// Counts one failure.
    #[inline]
    pub fn inc(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.inc();
        }
    }

    /// Failures with this cause so far.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).map_or(0, Counter::get)
    }
}

impl Metric for ByReason {
    fn sample(&self, name: &str, out: &mut dyn FnMut(&str, Sample)) {
        for (reason, counter) in Reason::ALL.iter().zip(&self.0) {
            out(&format!("{name}.{}", reason.word()), Value::Counter(counter.get()));
        }
    }
}

/// Codes 100–599 in blocks of 50.
const BLOCK: usize = 50;

/// Counters by HTTP status: `<name>_2xx` always, `<name>_200` for each code that was seen.
#[derive(Debug, Default)]
pub struct StatusCodes {
    classes: [Counter; 5],
    codes: [OnceLock<Box<[Counter; BLOCK]>>; 10],
}

impl StatusCodes {
    /// Counts one response; codes outside 100–599 are not counted.
    #[inline]
    pub fn record(&self, status: u16) {
        let Some(at) = usize::from(status).checked_sub(100) else { return };
        let (Some(class), Some(block)) = (self.classes.get(at / 100), self.codes.get(at / BLOCK)) else {
            return;
        };
        class.inc();
        let block = block.get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())));
        if let Some(counter) = block.get(at % BLOCK) {
            counter.inc();
        }
    }
}

impl Metric for StatusCodes {
    fn sample(&self, name: &str, out: &mut dyn FnMut(&str, Sample)) {
        for (class, counter) in self.classes.iter().enumerate() {
            out(&format!("{name}_{}xx", class + 1), Value::Counter(counter.get()));
        }
        for (block, counters) in self.codes.iter().enumerate() {
            for (index, counter) in counters.get().into_iter().flat_map(|c| c.iter()).enumerate() {
                if counter.get() != 0 {
                    out(&format!("{name}_{}", 100 + block * BLOCK + index), Value::Counter(counter.get()));
                }
            }
        }
    }
}
