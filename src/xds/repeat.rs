//! Recognises a rejected response that comes again, and says how long its answer waits.
//!
//! A server that answers a NACK with the same resources at once would otherwise be in a tight loop with us.
//! What counts is what is bad, by name and bytes: versions and nonces differ every time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::message::{Rejection, Update};
use crate::util::hash::xxh64;

/// First window of the delay, and the widest.
const BASE: Duration = Duration::from_secs(1);
const CAP: Duration = Duration::from_secs(30);

/// What is bad in one update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad {
    /// Hash over names and bytes.
    print: u64,
    /// Nothing else is in the update.
    alone: bool,
}

impl Bad {
    /// `None` when all of `update` is good.
    pub fn of(update: &Update, rejections: &[Rejection]) -> Option<Self> {
        if rejections.is_empty() && update.ticket.refused.is_empty() {
            return None;
        }
        let alone = update.changed.len() <= rejections.len()
            && update.removed.is_empty()
            && update.withdrawn.is_empty();
        Some(Self { print: fingerprint(update, rejections), alone })
    }
}

/// The memory of one type.
#[derive(Debug, Default)]
pub(super) struct Repeat(Option<(u64, u32)>);

impl Repeat {
    /// Takes note of a verdict; the delay of its answer when it repeats the last bad one. The delay is
    /// between half of a window and all of it, and the window doubles with every repetition.
    pub fn note(&mut self, bad: Option<Bad>, random: &mut u64) -> Option<Duration> {
        let Some(bad) = bad else {
            self.0 = None;
            return None;
        };
        let times = match self.0 {
            Some((last, times)) if last == bad.print && bad.alone => times + 1,
            _ => 0,
        };
        self.0 = Some((bad.print, times));
        let doublings = times.checked_sub(1)?.min(5);
        let window = BASE.saturating_mul(1 << doublings).min(CAP);
        *random = xxh64(&random.to_le_bytes(), u64::from(times));
        let share = (*random >> 40) as f64 / (1u64 << 24) as f64;
        Some(window.mul_f64(0.5 + share / 2.0))
    }
}

fn fingerprint(update: &Update, rejections: &[Rejection]) -> u64 {
    let bad: std::collections::HashSet<&str> = rejections.iter().map(|r| &*r.name).collect();
    let changed =
        update.changed.iter().filter(|raw| bad.contains(&*raw.name)).map(|raw| (&raw.name, &raw.bytes));
    let refused = update.ticket.refused.iter().map(|refused| (&refused.name, &refused.bytes));
    let sum = |(name, bytes): (&Arc<str>, &Bytes)| xxh64(bytes, xxh64(name.as_bytes(), 0));
    // Added up, so that the order in which a server lists its resources does not count.
    changed.chain(refused).map(sum).fold(0, u64::wrapping_add)
}
