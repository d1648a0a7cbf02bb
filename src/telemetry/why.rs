//! Why-records: what became of requests that this proxy answered itself, broke off, or was slow with.
//!
//! Owns a ring of the last [`RECORDS`]. Takes in records from the workers, each bounded in size, without a lock;
//! gives them out, newest first, to the admin.

use arc_swap::ArcSwapOption;
use serde::Serialize;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Records kept.
pub const RECORDS: usize = 1024;
/// Bytes of one text in a record.
const TEXT: usize = 256;
/// Default of `--why-slow-ms`.
const SLOW: Duration = Duration::from_secs(1);

/// What is recorded, and what clients are told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Requests that took as long are recorded.
    pub slow: Duration,
    /// Error replies carry `x-mizzen-reason`.
    pub error_reasons: bool,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// Once per process, before the first request.
pub fn configure(settings: Settings) {
    // The first one stands.
    let _ = SETTINGS.set(settings);
}

/// From which time on a request is slow.
pub fn slow() -> Duration {
    SETTINGS.get().map_or(SLOW, |settings| settings.slow)
}

/// Whether error replies carry `x-mizzen-reason`.
pub fn error_reasons() -> bool {
    SETTINGS.get().is_some_and(|settings| settings.error_reasons)
}

/// A text of at most 256 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Short(Box<str>);

impl Short {
    /// The beginning of `text`.
    pub fn new(text: &[u8]) -> Self {
        Short(String::from_utf8_lossy(text.get(..TEXT).unwrap_or(text)).into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A route that was looked at before the one that matched, and what did not fit.
#[derive(Clone, Debug, Serialize)]
pub struct Rejected {
    /// Place in its virtual host, from 0.
    pub index: usize,
    /// Its name.
    pub route: Short,
    /// Which of its conditions failed.
    pub why: Short,
}

/// One request.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WhyRecord {
    /// When it was over, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// `x-request-id`; the call's id in bolt.
    pub id: Short,
    pub protocol: &'static str,
    pub method: Short,
    pub authority: Short,
    pub path: Short,
    pub listener: Short,
    pub filter_chain: Short,
    pub virtual_host: Short,
    pub route: Short,
    /// The routes before it; at most the first eight.
    pub rejected: Vec<Rejected>,
    pub cluster: Short,
    pub host: Short,
    /// How the host was picked.
    pub picked_by: &'static str,
    /// Status sent; 0: none.
    pub status: u16,
    /// Envoy's flags, `UF,URX`.
    pub flags: Short,
    /// The word of the failure; empty: it was slow.
    pub reason: &'static str,
    /// Envoy's response code details.
    pub details: &'static str,
    /// `client`, `upstream`, `proxy`, or empty where nobody broke anything off.
    pub closed_by: &'static str,
    /// Tries made.
    pub attempts: u32,
    /// From the request's first byte to its last, in milliseconds.
    pub request_ms: Option<u64>,
    /// To the response's first byte from the upstream.
    pub response_ms: Option<u64>,
    /// To the end.
    pub total_ms: u64,
}

/// See the module.
pub struct WhyRing {
    slots: Box<[ArcSwapOption<WhyRecord>]>,
    next: AtomicUsize,
}

impl Default for WhyRing {
    fn default() -> Self {
        let slots = (0..RECORDS).map(|_| ArcSwapOption::empty()).collect();
        WhyRing { slots, next: AtomicUsize::new(0) }
    }
}

impl WhyRing {
    /// Keeps `record` in the place of the oldest.
    pub fn put(&self, record: WhyRecord) {
        let at = self.next.fetch_add(1, Relaxed) % RECORDS;
        if let Some(slot) = self.slots.get(at) {
            slot.store(Some(Arc::new(record)));
        }
    }

    /// All records, newest first.
    pub fn recent(&self) -> impl Iterator<Item = Arc<WhyRecord>> {
        let next = self.next.load(Relaxed);
        (1..=RECORDS).filter_map(move |back| self.slots.get(next.wrapping_sub(back) % RECORDS)?.load_full())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let ring = WhyRing::default();
        assert_eq!(ring.recent().count(), 0);
        for n in 0..RECORDS + 3 {
            let id = Short::new(n.to_string().as_bytes());
            ring.put(WhyRecord { id, ..WhyRecord::default() });
        }
        let ids: Vec<String> = ring.recent().map(|record| record.id.as_str().to_owned()).collect();
        assert_eq!((ids.len(), ids[0].as_str(), ids[RECORDS - 1].as_str()), (RECORDS, "1026", "3"));
        assert_eq!(Short::new(&[b'x'; 1000]).as_str().len(), TEXT);
    }
}
