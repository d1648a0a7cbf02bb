//! Groups about configuration and the control plane, written by the threads beside the request path.

use crate::stat_group;
use crate::telemetry::histogram::Histogram;
use crate::telemetry::metric::{Counter, Gauge, Sample, SecondsSince, StatGroup, Text};

stat_group! {
    /// Subscription counters of one xDS type: `cluster_manager.cds.`, `listener_manager.lds.`,
    /// `http.<prefix>.rds.<route>.`.
    pub struct XdsTypeStats {
        init_fetch_timeout: Counter,
        update_attempt: Counter,
        update_success: Counter,
        update_failure: Counter,
        update_rejected: Counter,
        update_empty: Counter,
        /// Milliseconds since the Unix epoch of the last update that changed something.
        update_time: Gauge,
        update_duration: Histogram,
        /// Hash of `version_text`.
        version: Gauge,
        version_text: Text,
        config_reload: Counter,
        config_reload_time_ms: Gauge,
        /// Resources not applied because a static one has the name.
        shadowed_by_static: Counter,
    }

    /// Endpoint subscription of one cluster, in `cluster.<name>.`.
    pub struct EdsStats {
        init_fetch_timeout: Counter,
        update_attempt: Counter,
        update_success: Counter,
        update_failure: Counter,
        update_rejected: Counter,
        update_empty: Counter,
        update_no_rebuild: Counter,
        update_time: Gauge,
        version: Gauge,
        version_text: Text,
        assignment_stale: Counter,
        assignment_timeout_received: Counter,
        assignment_use_cached: Counter,
        /// 1 while the cluster waits for its endpoints.
        warming_state: Gauge,
    }

    /// `cluster_manager.`
    pub struct ClusterManagerStats {
        active_clusters: Gauge,
        warming_clusters: Gauge,
        cluster_added: Counter,
        cluster_modified: Counter,
        cluster_removed: Counter,
        cluster_updated: Counter,
        cluster_updated_via_merge: Counter,
        update_merge_cancelled: Counter,
        update_out_of_merge_window: Counter,
    }

    /// `listener_manager.`
    pub struct ListenerManagerStats {
        listener_added: Counter,
        listener_modified: Counter,
        listener_removed: Counter,
        listener_stopped: Counter,
        listener_in_place_updated: Counter,
        /// Counted once per worker.
        listener_create_success: Counter,
        listener_create_failure: Counter,
        total_listeners_active: Gauge,
        total_listeners_warming: Gauge,
        total_listeners_draining: Gauge,
        total_filter_chains_draining: Gauge,
        workers_started: Gauge,
    }

    /// `control_plane.`
    pub struct ControlPlaneStats {
        /// 1 while the stream is up.
        connected_state: Gauge,
        identifier: Text,
        pending_requests: Gauge,
        rate_limit_enforced: Counter,
        /// Responses with a type URL nobody subscribed to.
        unknown_type_url: Counter,
        /// Connection attempts that failed.
        connect_fail: Counter,
    }

    /// `mizzen.`: how old what is served is.
    pub struct SnapshotStats {
        /// 1 while a snapshot restored from disk is served and the control plane has not answered.
        snapshot_stale: Gauge,
        /// Seconds since the served configuration last changed.
        snapshot_age_seconds: SecondsSince,
        /// Generation published.
        snapshot_generation: Gauge,
        /// Snapshots not yet freed because a worker still serves from them.
        snapshots_held: Gauge,
        /// Virtual hosts applied though a cluster they name was still warming.
        route_hold_expired: Counter,
    }

    /// `mizzen.xds.<kind>.`
    pub struct XdsContactStats {
        /// Seconds since the control plane last answered for the type.
        seconds_since_contact: SecondsSince,
    }
}

/// A group whose readings are computed when asked for.
pub struct Computed<F>(pub F);

impl<F: Fn(&mut dyn FnMut(&str, Sample)) + Send + Sync> StatGroup for Computed<F> {
    fn visit(&self, out: &mut dyn FnMut(&str, Sample)) {
        (self.0)(out);
    }
}
