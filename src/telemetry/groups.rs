//! The groups the proxy keeps, with Envoy's names where Envoy has one.
//!
//! Each worker has its own instance per thing (listener, stat prefix, cluster); control-plane groups are
//! written by the build thread alone.

mod control;
mod inspect;
mod ssl;
mod tally;

pub use control::{Computed, DrainStats};
pub use inspect::{ConnectionLimitStats, ConnectionRateStats, HttpInspectorStats, TlsInspectorStats};
pub use ssl::{SdsStats, SslStats, Words};
pub use tally::{ByReason, StatusCodes};

use super::histogram::Histogram;
use super::metric::{Counter, Gauge, SecondsSince, SharedCounter};
use crate::stat_group;
use std::time::Duration;

stat_group! {
    /// `server.`; written by the main thread, except the shared ones.
    pub struct ServerStats {
        uptime: SecondsSince,
        concurrency: Gauge,
        dynamic_unknown_fields: SharedCounter,
        static_unknown_fields: SharedCounter,
        /// Ciphers and groups of accepted resources that the TLS library does not speak.
        tls_names_left_out: SharedCounter,
    }

    /// `listener.<address>.`
    pub struct ListenerStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_length_ms: Histogram,
        /// Refused because the listener, or all listeners together, had as many as they may.
        downstream_cx_overflow: Counter,
        downstream_global_cx_overflow: Counter,
        downstream_listener_filter_error: Counter,
        /// Clients that left before their first bytes were enough.
        downstream_listener_filter_remote_close: Counter,
        /// Connections whose first bytes are waited for.
        downstream_pre_cx_active: Gauge,
        downstream_pre_cx_timeout: Counter,
        no_filter_chain_match: Counter,
        /// Pauses of accepting because the process ran out of file descriptors.
        accept_paused: Counter,
        /// HTTP/1 bytes on a listener that does not speak it.
        http1_unsupported: Counter,
        /// Connections handed to another worker.
        rebalanced: Counter,
        /// Connections past network filters that are passed over, each counted once per filter.
        network_filters_passed: Counter,
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
        downstream_cx_keepalive_timeout: Counter,
        downstream_cx_max_duration_reached: Counter,
        downstream_cx_protocol_error: Counter,
        downstream_cx_length_ms: Histogram,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_tx_bytes_total: Counter,
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
        downstream_rq_too_large: Counter,
        downstream_rq_dropped_trailers: Counter = "http1.dropped_trailers",
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
        /// Errors of services under the status of success (`sofa_head_response_error`).
        response_application_error: Counter,
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
        /// Failures made here, by cause.
        failure: ByReason,
    }

    /// `cluster.<name>.`: traffic, one instance per worker that uses the cluster.
    pub struct ClusterStats {
        upstream_cx_total: Counter,
        upstream_cx_active: Gauge,
        upstream_cx_http1_total: Counter,
        upstream_rq_maintenance_mode: Counter,
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
        upstream_cx_none_healthy: Counter,
        upstream_cx_overflow: Counter,
        upstream_cx_protocol_error: Counter,
        upstream_cx_rx_bytes_total: Counter,
        upstream_cx_tx_bytes_total: Counter,
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
        upstream_rq_timeout: Counter,
        upstream_rq_per_try_timeout: Counter,
        upstream_rq_per_try_idle_timeout: Counter,
        upstream_rq_rx_reset: Counter,
        upstream_rq_tx_reset: Counter,
        upstream_rq_retry: Counter,
        upstream_rq_retry_success: Counter,
        upstream_rq_retry_overflow: Counter,
        /// Bodies too large to be kept for another try or a copy.
        retry_or_shadow_abandoned: Counter,
        upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_retry_backoff_exponential: Counter,
        upstream_rq_retry_backoff_ratelimited: Counter,
        /// Answers that came after their request had been given up (bolt).
        upstream_rq_late_answer: Counter,
        /// Errors of services under the status of success (bolt's `sofa_head_response_error`).
        upstream_rq_application_error: Counter,
        /// Connections found dead by heartbeat or PING.
        upstream_cx_keepalive_timeout: Counter = "http2.keepalive_timeout",
        upstream_rq_dropped_trailers: Counter = "http1.dropped_trailers",
        lb_healthy_panic: Counter,
        /// Headers that should name a destination and do not.
        original_dst_host_invalid: Counter,
        /// Destinations this proxy listens on itself.
        original_dst_own_address: Counter,
        bind_errors: Counter,
        /// Failures made here, by cause.
        failure: ByReason,
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
}

impl RpcStats {
    /// Counts a connection's end: how long it lived, whether the peer ended it, whether calls were open.
    pub fn closed(&self, life: Duration, by_peer: bool, busy: bool) {
        self.downstream_cx_destroy.inc();
        self.downstream_cx_length_ms.record(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        let side =
            if by_peer { &self.downstream_cx_destroy_remote } else { &self.downstream_cx_destroy_local };
        side.inc();
        if busy {
            self.downstream_cx_destroy_active_rq.inc();
        }
    }

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

impl HttpStats {
    /// Counts a connection's end: how long it lived, whether the peer ended it, whether streams were open.
    pub fn closed(&self, life: Duration, by_peer: bool, busy: bool) {
        self.downstream_cx_destroy.inc();
        self.downstream_cx_length_ms.record(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        let (side, side_busy) = if by_peer {
            (&self.downstream_cx_destroy_remote, &self.downstream_cx_destroy_remote_active_rq)
        } else {
            (&self.downstream_cx_destroy_local, &self.downstream_cx_destroy_local_active_rq)
        };
        side.inc();
        if busy {
            self.downstream_cx_destroy_active_rq.inc();
            side_busy.inc();
        }
    }
}

impl ClusterStats {
    /// Counts a connection's end: how long it lived, whether the peer ended it, whether requests were open.
    pub fn closed(&self, life: Duration, by_peer: bool, busy: bool) {
        self.upstream_cx_active.dec();
        self.upstream_cx_destroy.inc();
        self.upstream_cx_length_ms.record(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        let (side, side_busy) = if by_peer {
            (&self.upstream_cx_destroy_remote, &self.upstream_cx_destroy_remote_with_active_rq)
        } else {
            (&self.upstream_cx_destroy_local, &self.upstream_cx_destroy_local_with_active_rq)
        };
        side.inc();
        if busy {
            self.upstream_cx_destroy_with_active_rq.inc();
            side_busy.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Reason;
    use crate::telemetry::StatGroup;

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
