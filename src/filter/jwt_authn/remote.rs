//! Keys that another service has: fetched when they are needed or before, one fetch at a time, and kept while
//! there are no newer ones.
//!
//! Shared by all workers. Readers take a pointer; who wants to fetch takes the one [`Turn`] there is, others wait
//! for its end.

use super::keys::Keys;
use crate::filter::ask::{Ask, Heard, Retries};
use crate::filter::chain::Until;
use crate::model::RemoteJwks;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Longest set that is read.
const MOST: usize = 1 << 20;
/// A token of an unknown key has the set fetched anew this long after the last fetch, at the earliest.
const UNKNOWN_KEY: Duration = Duration::from_secs(10);
/// After a failed fetch nobody tries again for this long; doubles with each failure up to the other.
const BACK_OFF: Duration = Duration::from_secs(1);
const MOST_BACK_OFF: Duration = Duration::from_secs(10);
/// Keys that are fetched before they are asked for are fetched anew this long before they are too old.
const EARLY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Remote {
    spec: RemoteJwks,
    begin: Instant,
    held: ArcSwapOption<Fetched>,
    turn: Arc<Semaphore>,
    /// Fetches that have ended, and those of them that failed in a row.
    ended: AtomicU64,
    failures: AtomicU32,
    /// When the last one ended, in milliseconds since `begin`.
    last: AtomicU64,
    kept: AtomicBool,
}

struct Fetched {
    keys: Keys,
    at: Instant,
}

/// What is known of the keys now.
pub(super) enum Known {
    /// These, and they are good.
    Fresh(Held),
    /// None, or they are too old.
    Wanted,
    /// None that are newer can be had now; these are the last.
    Last(Option<Held>),
}

/// A set as it was when it was looked at.
pub(super) struct Held(Arc<Fetched>);

impl Held {
    pub(super) fn keys(&self) -> &Keys {
        &self.0.keys
    }
}

/// The right to fetch. Dropped without an answer, it goes to the next who wants it.
pub(super) struct Turn {
    remote: Arc<Remote>,
    _permit: OwnedSemaphorePermit,
}

impl Remote {
    pub(super) fn new(spec: RemoteJwks) -> Arc<Self> {
        Arc::new(Remote {
            spec,
            begin: Instant::now(),
            held: ArcSwapOption::empty(),
            turn: Arc::new(Semaphore::new(1)),
            ended: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            last: AtomicU64::new(0),
            kept: AtomicBool::new(false),
        })
    }

    /// What is known. `waited`: how many fetches had ended when the caller began to wait for one.
    pub(super) fn known(&self, waited: Option<u64>) -> Known {
        let held = self.held.load_full();
        if let Some(held) = &held
            && held.at.elapsed() < self.spec.lifetime
        {
            return Known::Fresh(Held(held.clone()));
        }
        // One fetch is enough for a request: what it brought counts, however short its life; and one that failed is
        // enough for all who come soon after.
        let seen = waited.is_some_and(|before| self.ended.load(Relaxed) > before);
        match self.failures.load(Relaxed) {
            0 => match held.filter(|_| seen) {
                Some(held) => Known::Fresh(Held(held)),
                None => Known::Wanted,
            },
            failures if seen || self.since_last() < pause(failures) => Known::Last(held.map(Held)),
            _ => Known::Wanted,
        }
    }

    /// Whether a token whose key is not in the set is reason enough to fetch it anew.
    pub(super) fn may_refresh(&self) -> bool {
        self.since_last() >= UNKNOWN_KEY
    }

    /// Fetches that have ended.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Relaxed)
    }

    fn since_last(&self) -> Duration {
        self.begin.elapsed().saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }

    /// The right to fetch, or the end of the fetch that is under way.
    pub(super) fn turn(self: &Arc<Self>) -> Result<Turn, Until> {
        match self.turn.clone().try_acquire_owned() {
            Ok(permit) => Ok(Turn { remote: self.clone(), _permit: permit }),
            Err(_) => {
                let turn = self.turn.clone();
                Err(Until(Box::pin(async move {
                    drop(turn.acquire_owned().await);
                })))
            }
        }
    }

    /// Whether somebody is to keep the keys fresh who does not so yet: that is the caller from now on.
    pub(super) fn claim(&self) -> bool {
        self.spec.eager.is_some() && !self.kept.swap(true, Relaxed)
    }

    /// When who keeps the keys fresh fetches next.
    pub(super) fn next(&self) -> Duration {
        match (self.failures.load(Relaxed), self.spec.eager) {
            (0, _) => match self.spec.lifetime.checked_sub(EARLY) {
                Some(early) if !early.is_zero() => early,
                _ => self.spec.lifetime,
            },
            (_, again) => again.unwrap_or(BACK_OFF),
        }
    }
}

fn pause(failures: u32) -> Duration {
    BACK_OFF.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(MOST_BACK_OFF)
}

impl Turn {
    /// What is to be asked.
    pub(super) fn ask(&self) -> Ask {
        let RemoteJwks { cluster, authority, path, timeout, retries, .. } = &self.remote.spec;
        let (count, base, most) = *retries;
        Ask {
            cluster: cluster.clone(),
            http2: false,
            method: "GET".to_owned(),
            authority: authority.clone(),
            path: path.clone(),
            headers: Vec::new(),
            body: Bytes::new(),
            timeout: Some(*timeout),
            most: MOST,
            retries: Retries { count, base, most },
        }
    }

    /// Takes the answer in; whether it is a set of keys.
    pub(super) fn heard(self, heard: Heard) -> bool {
        let told = heard.ok().filter(|told| told.status == 200);
        let keys = told.and_then(|told| Keys::parse(&told.body));
        let remote = &self.remote;
        let fetched = keys.is_some();
        match keys {
            Some(keys) => {
                remote.held.store(Some(Arc::new(Fetched { keys, at: Instant::now() })));
                remote.failures.store(0, Relaxed);
            }
            None => {
                remote.failures.fetch_add(1, Relaxed);
                tracing::warn!("no keys from {}{}", remote.spec.authority, remote.spec.path);
            }
        }
        let now = u64::try_from(remote.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        remote.last.store(now, Relaxed);
        remote.ended.fetch_add(1, Relaxed);
        fetched
    }
}
