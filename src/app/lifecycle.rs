//! Where the process stands, in Envoy's words.

use crate::admin::{self, ServerState};
use crate::snapshot::builder::{Builder, Counts};
use crate::telemetry::{Histogram, SharedCounter};
use crate::tls::{SecretState, Secrets};
use crate::translate::envoy;
use crate::xds::message::RawResource;
use crate::xds::stats::XdsStats;
use crate::xds::types::ResourceType;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long discovery may keep the process from being live, per type; `None` is for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct FetchLimits {
    /// From the start of the process.
    pub clusters: Option<Duration>,
    /// From when the clusters were settled.
    pub listeners: Option<Duration>,
}

/// What became of listening sockets.
#[derive(Debug, Default)]
pub struct SocketStats {
    /// Addresses that could not be bound or listened on.
    pub failed: SharedCounter,
    /// Listeners that were told to take no more connections.
    pub stopped: SharedCounter,
}

/// Follows discovery and draining. Once live it does not go back to initialising.
pub struct Lifecycle {
    limits: FetchLimits,
    /// There is a control plane to wait for.
    discovers: bool,
    secrets: Arc<Secrets>,
    started: Instant,
    /// When the clusters were answered for, or given up.
    clusters_settled: OnceLock<Instant>,
    /// Listeners towards the workload's clients that were refused and that nothing serves in place of.
    lacking: Mutex<BTreeSet<Arc<str>>>,
    /// The last look of [`settle`](Self::settle), microseconds after the start.
    looked: AtomicU64,
    xds: Arc<XdsStats>,
    /// What became of listening sockets.
    pub sockets: SocketStats,
    /// From the start of the process to when it was live, in milliseconds.
    pub initialization: Histogram,
    noted: AtomicBool,
    live: AtomicBool,
    draining: AtomicBool,
    failed: AtomicBool,
}

impl Lifecycle {
    /// At start. Without a control plane there is nothing to wait for but secrets.
    pub fn new(ads: Option<FetchLimits>, xds: Arc<XdsStats>, secrets: Arc<Secrets>) -> Self {
        Lifecycle {
            limits: ads.unwrap_or_default(),
            discovers: ads.is_some(),
            secrets,
            started: Instant::now(),
            clusters_settled: OnceLock::new(),
            lacking: Mutex::default(),
            looked: AtomicU64::new(0),
            xds,
            sockets: SocketStats::default(),
            initialization: Histogram::default(),
            noted: AtomicBool::new(false),
            live: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    /// The state as `server.state` tells it: a failed health check does not show.
    pub fn state(&self) -> ServerState {
        if self.draining.load(Relaxed) {
            return ServerState::Draining;
        }
        if self.live.load(Relaxed) {
            return ServerState::Live;
        }
        if self.clusters_settled.get().is_some() {
            ServerState::Initializing
        } else {
            ServerState::PreInitializing
        }
    }

    /// Called by the writer of configuration whenever something was applied or came due: only there do the
    /// answers of the control plane and the counts of what still warms belong together.
    pub fn settle(&self, now: Instant, counts: &Counts) {
        let micros = now.saturating_duration_since(self.started).as_micros();
        if self.live.load(Relaxed) {
            self.initialized(micros);
            return;
        }
        // Listeners towards the workload's clients do not serve before their secrets have come.
        let secrets = self.secrets.missing_inbound() == 0 && self.lacking().is_empty();
        if !self.discovers {
            self.clusters_settled.get_or_init(|| now);
            if secrets {
                self.live.store(true, Relaxed);
                self.initialized(micros);
            }
            return;
        }
        self.looked.store(u64::try_from(micros).unwrap_or(u64::MAX), Relaxed);
        let over = |since: Instant, limit: Option<Duration>| limit.is_some_and(|limit| now >= since + limit);
        if !self.answered(ResourceType::Cluster) && !over(self.started, self.limits.clusters) {
            return;
        }
        let settled = *self.clusters_settled.get_or_init(|| now);
        let listeners = self.answered(ResourceType::Listener) || over(settled, self.limits.listeners);
        if listeners && secrets && counts.total_listeners_warming == 0 && counts.total_clusters_warming == 0 {
            self.live.store(true, Relaxed);
            self.initialized(micros);
        }
    }

    /// See [`Secrets::trust_version`].
    pub fn trust_version(&self) -> u64 {
        self.secrets.trust_version()
    }

    fn lacking(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listeners came, of which some were `refused`. Returns whether one of those is towards the workload's
    /// clients and has no version that serves: the process is not ready until it has.
    pub fn note_listeners(
        &self,
        changed: &[RawResource],
        removed: &[Arc<str>],
        refused: &[&str],
        builder: &Builder,
    ) -> bool {
        let mut lacking = self.lacking();
        for name in removed {
            lacking.remove(name);
        }
        let mut lacks = false;
        for raw in changed {
            let needed = refused.contains(&&*raw.name)
                && builder.lacks_listener(&raw.name)
                && envoy::is_inbound(&raw.bytes);
            lacks |= needed;
            if needed {
                lacking.insert(raw.name.clone());
            } else {
                lacking.remove(&raw.name);
            }
        }
        lacks
    }

    /// Forgets those that nobody asks for any more.
    pub fn keep_lacking(&self, is_refused: impl Fn(&str) -> bool) {
        self.lacking().retain(|name| is_refused(name));
    }

    /// A listener that had been refused serves after all. Whether it was the last one that was lacking.
    pub fn listener_recovered(&self, name: &str) -> bool {
        let mut lacking = self.lacking();
        lacking.remove(name) && lacking.is_empty()
    }

    /// Notes how long it took, once.
    fn initialized(&self, micros: u128) {
        if !self.noted.swap(true, Relaxed) {
            self.initialization.record(u64::try_from(micros / 1000).unwrap_or(u64::MAX));
        }
    }

    /// When a fetch limit ends and [`settle`](Self::settle) has something to decide.
    pub fn deadline(&self) -> Option<Instant> {
        if self.live.load(Relaxed) {
            return None;
        }
        let due = match self.clusters_settled.get() {
            Some(settled) => self.limits.listeners.map(|limit| *settled + limit),
            None => self.limits.clusters.map(|limit| self.started + limit),
        };
        // One that is over and was seen to be over has had its effect.
        let looked = self.started + Duration::from_micros(self.looked.load(Relaxed));
        due.filter(|due| *due > looked)
    }

    /// Whether the type has been answered once, or restored from disk.
    fn answered(&self, kind: ResourceType) -> bool {
        let stats = self.xds.of(kind);
        stats.update_success.get() + stats.update_rejected.get() > 0 || stats.stale.get()
    }

    /// Whether the first answer for a type was given up.
    pub fn gave_up(&self, kind: ResourceType) -> bool {
        let settled = self.clusters_settled.get();
        let late =
            |since: Instant, limit: Option<Duration>| limit.is_some_and(|limit| since.elapsed() >= limit);
        !self.answered(kind)
            && match kind {
                ResourceType::Cluster => settled.is_some(),
                ResourceType::Listener => settled.is_some_and(|since| late(*since, self.limits.listeners)),
                ResourceType::Endpoint
                | ResourceType::Route
                | ResourceType::Extension
                | ResourceType::ScopedRoute
                | ResourceType::Runtime => false,
            }
    }

    /// The process is leaving.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }
}

impl admin::Lifecycle for Lifecycle {
    fn discovery(&self) -> ServerState {
        self.state()
    }

    fn failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    fn waits(&self) -> Vec<String> {
        if self.live.load(Relaxed) {
            return Vec::new();
        }
        let asked = [(ResourceType::Cluster, "CDS"), (ResourceType::Listener, "LDS")];
        let unanswered = asked.into_iter().filter(|(kind, _)| self.discovers && !self.answered(*kind));
        let mut waits: Vec<String> = unanswered.map(|(_, word)| word.to_owned()).collect();
        waits.extend(self.lacking().iter().map(|name| format!("Listener {name}: refused, see /config_dump")));
        let secrets = self.secrets.status();
        let missing =
            secrets.iter().filter(|secret| secret.inbound && matches!(secret.state, SecretState::Missing));
        waits.extend(missing.map(|secret| match &secret.error {
            Some(error) => format!("SDS {}: {error}", secret.name),
            None => format!("SDS {}", secret.name),
        }));
        waits
    }

    fn set_failed(&self, failed: bool) {
        self.failed.store(failed, Relaxed);
        crate::telemetry::fail_checks(failed);
    }
}
