//! Where the process stands, in Envoy's words.

use super::build::SharedCounts;
use crate::admin::{self, ServerState};
use crate::xds::stats::XdsStats;
use crate::xds::types::ResourceType;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};

/// Follows discovery and draining. Once live it does not go back to initialising.
pub struct Lifecycle {
    has_ads: bool,
    xds: Arc<XdsStats>,
    counts: SharedCounts,
    live: AtomicBool,
    draining: AtomicBool,
    failed: AtomicBool,
}

impl Lifecycle {
    /// At start. Without a control plane there is nothing to wait for.
    pub fn new(has_ads: bool, xds: Arc<XdsStats>, counts: SharedCounts) -> Self {
        Lifecycle {
            has_ads,
            xds,
            counts,
            live: AtomicBool::new(!has_ads),
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
        if !self.answered(ResourceType::Cluster) {
            return ServerState::PreInitializing;
        }
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let warm = counts.total_listeners_warming == 0 && counts.total_clusters_warming == 0;
        if self.has_ads && !(self.answered(ResourceType::Listener) && warm) {
            return ServerState::Initializing;
        }
        self.live.store(true, Relaxed);
        ServerState::Live
    }

    /// Whether the type has been answered once, or restored from disk.
    fn answered(&self, kind: ResourceType) -> bool {
        let stats = self.xds.of(kind);
        stats.update_success.get() + stats.update_rejected.get() > 0 || stats.stale.get()
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

    fn set_failed(&self, failed: bool) {
        self.failed.store(failed, Relaxed);
    }
}
