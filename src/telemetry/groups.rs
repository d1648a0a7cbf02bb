//! The groups the proxy keeps, with Envoy's names where Envoy has one.
//!
//! Each worker has its own instance per thing (listener, stat prefix, cluster); control-plane groups are
//! written by the build thread alone.

use super::histogram::Histogram;
use super::metric::{Counter, Gauge, Metric, Sample, SecondsSince, SharedCounter, StatGroup, Text, Value};
use crate::message::Reason;
use crate::stat_group;
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

stat_group! {
    /// `server.`; written by the main thread, except the shared ones.
    pub struct ServerStats {
        /// 0 live, 1 draining, 2 pre-initializing, 3 initializing.
        state: Gauge,
        /// 1 unless health checks are made to fail.
        live: Gauge,
        uptime: SecondsSince,
        concurrency: Gauge,
        initialization_time_ms: Histogram,
        dynamic_unknown_fields: SharedCounter,
        static_unknown_fields: SharedCounter,
        days_until_first_cert_expiring: Gauge,
        total_connections: Gauge,
        hot_restart_epoch: Gauge,
        /// Bytes of heap in use.
        memory_allocated: Gauge,
        /// Bytes resident.
        memory_physical_size: Gauge,
        /// Panics that ended a connection.
        panics: SharedCounter,
    }

    /// `listener.<address>.`
    pub struct ListenerStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_length_ms: Histogram,
        downstream_cx_overflow: Counter,
        downstream_cx_overload_reject: Counter,
        downstream_cx_transport_socket_connect_timeout: Counter,
        downstream_pre_cx_active: Gauge,
        downstream_pre_cx_timeout: Counter,
        downstream_global_cx_overflow: Counter,
        downstream_listener_filter_error: Counter,
        downstream_listener_filter_remote_close: Counter,
        no_filter_chain_match: Counter,
        connections_accepted_per_socket_event: Histogram,
        /// Pauses of accepting because the process ran out of file descriptors.
        accept_paused: Counter,
        /// HTTP/1 bytes on a listener that does not speak it.
        http1_unsupported: Counter,
        /// Connections handed to another worker.
        rebalanced: Counter,
        draining_generations: Gauge,
    }

    /// `http.<stat_prefix>.`
    pub struct HttpStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_http1_total: Counter,
        downstream_cx_http1_active: Gauge,
        downstream_cx_http2_total: Counter,
        downstream_cx_http2_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_destroy_local: Counter,
        downstream_cx_destroy_remote: Counter,
        downstream_cx_destroy_active_rq: Counter,
        downstream_cx_destroy_local_active_rq: Counter,
        downstream_cx_destroy_remote_active_rq: Counter,
        downstream_cx_drain_close: Counter,
        downstream_cx_idle_timeout: Counter,
        downstream_cx_max_duration_reached: Counter,
        downstream_cx_protocol_error: Counter,
        downstream_cx_length_ms: Histogram,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_rx_bytes_buffered: Gauge,
        downstream_cx_tx_bytes_total: Counter,
        downstream_cx_tx_bytes_buffered: Gauge,
        downstream_flow_control_paused_reading_total: Counter,
        downstream_flow_control_resumed_reading_total: Counter,
        downstream_rq_total: Counter,
        downstream_rq_http1_total: Counter,
        downstream_rq_http2_total: Counter,
        downstream_rq_active: Gauge,
        /// Responses by class and code.
        downstream_rq: StatusCodes,
        downstream_rq_completed: Counter,
        downstream_rq_rx_reset: Counter,
        downstream_rq_tx_reset: Counter,
        downstream_rq_timeout: Counter,
        downstream_rq_idle_timeout: Counter,
        downstream_rq_header_timeout: Counter,
        downstream_rq_max_duration_reached: Counter,
        downstream_rq_too_large: Counter,
        downstream_rq_non_relative_path: Counter,
        downstream_rq_ws_on_non_ws_route: Counter,
        downstream_rq_time: Histogram,
        no_route: Counter,
        no_cluster: Counter,
        rq_total: Counter,
        rq_direct_response: Counter,
        rq_redirect: Counter,
        /// Failures made here, by cause.
        failure: ByReason,
    }

    /// `rpc.<stat_prefix>.`
    pub struct RpcStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_destroy_local: Counter,
        downstream_cx_destroy_remote: Counter,
        downstream_cx_destroy_active_rq: Counter,
        downstream_cx_drain_close: Counter,
        downstream_cx_idle_timeout: Counter,
        downstream_cx_length_ms: Histogram,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_tx_bytes_total: Counter,
        downstream_flow_control_paused_reading_total: Counter,
        downstream_flow_control_resumed_reading_total: Counter,
        request_total: Counter,
        request_active: Gauge,
        request_reset: Counter,
        oneway_total: Counter,
        heartbeat_total: Counter,
        goaway_total: Counter,
        /// Milliseconds from the request's last byte to its answer's first.
        request_time: Histogram,
        response_success: Counter,
        response_error: Counter,
        response_server_exception: Counter,
        response_busy: Counter,
        response_no_processor: Counter,
        response_timeout: Counter,
        response_codec_error: Counter,
        response_connection_closed: Counter,
        response_other: Counter,
        /// Answers that came after their request had ended.
        response_late: Counter,
        /// Frames that could not be decoded.
        decode_error: Counter,
        /// Frames over the size limit.
        frame_too_large: Counter,
        /// Failures made here, by cause.
        failure: ByReason,
    }

    /// `tcp.<stat_prefix>.`
    pub struct TcpStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_no_route: Counter,
        downstream_cx_tx_bytes_total: Counter,
        downstream_cx_tx_bytes_buffered: Gauge,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_rx_bytes_buffered: Gauge,
        downstream_flow_control_paused_reading_total: Counter,
        downstream_flow_control_resumed_reading_total: Counter,
        downstream_cx_length_ms: Histogram,
        idle_timeout: Counter,
        max_downstream_connection_duration: Counter,
        upstream_flush_total: Counter,
        upstream_flush_active: Gauge,
        /// Failures made here, by cause.
        failure: ByReason,
    }

    /// `cluster.<name>.`: traffic, one instance per worker that uses the cluster.
    pub struct ClusterStats {
        upstream_cx_total: Counter,
        upstream_cx_active: Gauge,
        upstream_cx_http1_total: Counter,
        upstream_cx_http2_total: Counter,
        upstream_cx_connect_fail: Counter,
        upstream_cx_connect_timeout: Counter,
        upstream_cx_connect_attempts_exceeded: Counter,
        upstream_cx_connect_ms: Histogram,
        upstream_cx_length_ms: Histogram,
        upstream_cx_destroy: Counter,
        upstream_cx_destroy_local: Counter,
        upstream_cx_destroy_remote: Counter,
        upstream_cx_destroy_with_active_rq: Counter,
        upstream_cx_destroy_local_with_active_rq: Counter,
        upstream_cx_destroy_remote_with_active_rq: Counter,
        upstream_cx_close_notify: Counter,
        upstream_cx_idle_timeout: Counter,
        upstream_cx_max_requests: Counter,
        upstream_cx_max_duration_reached: Counter,
        upstream_cx_none_healthy: Counter,
        upstream_cx_overflow: Counter,
        upstream_cx_pool_overflow: Counter,
        upstream_cx_protocol_error: Counter,
        upstream_cx_rx_bytes_total: Counter,
        upstream_cx_rx_bytes_buffered: Gauge,
        upstream_cx_tx_bytes_total: Counter,
        upstream_cx_tx_bytes_buffered: Gauge,
        upstream_flow_control_paused_reading_total: Counter,
        upstream_flow_control_resumed_reading_total: Counter,
        upstream_flow_control_backed_up_total: Counter,
        upstream_flow_control_drained_total: Counter,
        upstream_rq_total: Counter,
        upstream_rq_active: Gauge,
        upstream_rq_completed: Counter,
        /// Responses by class and code.
        upstream_rq: StatusCodes,
        upstream_rq_time: Histogram,
        upstream_rq_pending_total: Counter,
        upstream_rq_pending_active: Gauge,
        upstream_rq_pending_overflow: Counter,
        upstream_rq_pending_failure_eject: Counter,
        upstream_rq_active_overflow: Counter,
        upstream_rq_cancelled: Counter,
        upstream_rq_maintenance_mode: Counter,
        upstream_rq_timeout: Counter,
        upstream_rq_per_try_timeout: Counter,
        upstream_rq_per_try_idle_timeout: Counter,
        upstream_rq_max_duration_reached: Counter,
        upstream_rq_rx_reset: Counter,
        upstream_rq_tx_reset: Counter,
        upstream_rq_retry: Counter,
        upstream_rq_retry_success: Counter,
        upstream_rq_retry_overflow: Counter,
        upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_retry_backoff_exponential: Counter,
        upstream_rq_retry_backoff_ratelimited: Counter,
        /// Connections found dead by heartbeat or PING.
        upstream_cx_keepalive_timeout: Counter = "http2.keepalive_timeout",
        lb_healthy_panic: Counter,
        bind_errors: Counter,
        /// Failures made here, by cause.
        failure: ByReason,
    }

    /// `cluster.<name>.`: changes of its hosts. How many there are, and the breakers' gauges, are read off the
    /// snapshot when asked for.
    pub struct MembershipStats {
        membership_change: Counter,
        version: Gauge,
    }

    /// One host, per worker; under [`super::Scope::host`].
    pub struct HostStats {
        cx_active: Gauge,
        cx_connect_fail: Counter,
        cx_total: Counter,
        rq_active: Gauge,
        rq_error: Counter,
        rq_pending_active: Gauge,
        rq_success: Counter,
        rq_timeout: Counter,
        rq_total: Counter,
    }

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

impl RpcStats {
    /// Counts a response by its bolt status.
    #[inline]
    pub fn response(&self, status: u16) {
        let counter = match status {
            0 => &self.response_success,
            1 => &self.response_error,
            2 => &self.response_server_exception,
            4 => &self.response_busy,
            6 => &self.response_no_processor,
            7 => &self.response_timeout,
            9 | 17 | 18 => &self.response_codec_error,
            16 => &self.response_connection_closed,
            _ => &self.response_other,
        };
        counter.inc();
    }
}

/// A group whose readings are computed when asked for.
pub struct Computed<F>(pub F);

impl<F: Fn(&mut dyn FnMut(&str, Sample)) + Send + Sync> StatGroup for Computed<F> {
    fn visit(&self, out: &mut dyn FnMut(&str, Sample)) {
        (self.0)(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_codes_are_counted_under_their_names() {
        let stats = HttpStats::default();
        stats.failure.inc(Reason::Timeout);
        stats.downstream_rq.record(204);
        stats.downstream_rq.record(599);
        stats.downstream_rq.record(600);
        stats.downstream_rq.record(7);
        let mut used = Vec::new();
        stats.visit(&mut |name, value| {
            if value.used() {
                used.push(name.to_owned());
            }
        });
        assert_eq!(
            used,
            [
                "downstream_rq_2xx",
                "downstream_rq_5xx",
                "downstream_rq_204",
                "downstream_rq_599",
                "failure.timeout"
            ]
        );
    }

    #[test]
    fn bolt_statuses_fall_into_classes() {
        let stats = RpcStats::default();
        [0, 0, 6, 18, 3].into_iter().for_each(|s| stats.response(s));
        assert_eq!(stats.response_success.get(), 2);
        assert_eq!(stats.response_codec_error.get(), 1);
        assert_eq!(stats.response_other.get(), 1);
    }
}
