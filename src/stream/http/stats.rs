//! What an HTTP connection counts, by the kind of filter that serves it.

use crate::message::Reason;
use crate::protocol::bolt::Status;
use crate::snapshot::FilterSpec;
use crate::stream::Local;
use crate::telemetry::{HttpStats, Registration, RpcStats};
use http::{Response, StatusCode};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// See the module.
#[derive(Clone)]
pub enum Stats {
    /// A connection manager's.
    Http(Rc<Registration<HttpStats>>),
    /// An RPC proxy's.
    Rpc(Rc<Registration<RpcStats>>),
}

impl Version {
    /// The word in logs.
    pub fn word(self) -> &'static str {
        match self {
            Version::Http1 => "http1",
            Version::Http2 => "http2",
        }
    }
}

impl Stats {
    /// Those of `filter`; `None` for a filter that speaks no HTTP.
    pub fn of(filter: &FilterSpec, local: &Local) -> Option<Self> {
        match filter {
            FilterSpec::Http { config, .. } => Some(Stats::Http(local.http_stats(&config.stat_prefix))),
            FilterSpec::Rpc { config, .. } => Some(Stats::Rpc(local.rpc_stats(&config.stat_prefix))),
            FilterSpec::Tcp { .. } => None,
        }
    }

    /// A connection is served.
    pub fn opened(&self, version: Version) {
        self.enter(version);
        match self {
            Stats::Http(stats) => {
                stats.downstream_cx_total.inc();
                match version {
                    Version::Http1 => stats.downstream_cx_http1_total.inc(),
                    Version::Http2 => stats.downstream_cx_http2_total.inc(),
                }
            }
            Stats::Rpc(stats) => stats.downstream_cx_total.inc(),
        }
    }

    /// The connection is served by another filter from now on: `to` counts it among the open ones.
    pub fn hand_over(&self, to: &Stats, version: Version) {
        self.leave(version);
        to.enter(version);
    }

    fn enter(&self, version: Version) {
        match self {
            Stats::Http(stats) => {
                stats.downstream_cx_active.inc();
                match version {
                    Version::Http1 => stats.downstream_cx_http1_active.inc(),
                    Version::Http2 => stats.downstream_cx_http2_active.inc(),
                }
            }
            Stats::Rpc(stats) => stats.downstream_cx_active.inc(),
        }
    }

    fn leave(&self, version: Version) {
        match self {
            Stats::Http(stats) => {
                stats.downstream_cx_active.dec();
                match version {
                    Version::Http1 => stats.downstream_cx_http1_active.dec(),
                    Version::Http2 => stats.downstream_cx_http2_active.dec(),
                }
            }
            Stats::Rpc(stats) => stats.downstream_cx_active.dec(),
        }
    }

    /// It has ended. `by_peer`: the client ended it; `busy`: streams were open.
    pub fn closed(
        &self,
        version: Version,
        life: Duration,
        (received, sent): (u64, u64),
        by_peer: bool,
        busy: bool,
    ) {
        self.leave(version);
        match self {
            Stats::Http(stats) => {
                stats.closed(life, by_peer, busy);
                stats.downstream_cx_rx_bytes_total.add(received);
                stats.downstream_cx_tx_bytes_total.add(sent);
            }
            Stats::Rpc(stats) => {
                stats.closed(life, by_peer, busy);
                stats.downstream_cx_rx_bytes_total.add(received);
                stats.downstream_cx_tx_bytes_total.add(sent);
            }
        }
    }

    /// A request's body had to wait for its host this often, and went on this often.
    pub fn held_up(&self, (paused, resumed): (u32, u32)) {
        let (pauses, resumes) = match self {
            Stats::Http(stats) => (
                &stats.downstream_flow_control_paused_reading_total,
                &stats.downstream_flow_control_resumed_reading_total,
            ),
            Stats::Rpc(stats) => (
                &stats.downstream_flow_control_paused_reading_total,
                &stats.downstream_flow_control_resumed_reading_total,
            ),
        };
        pauses.add(paused.into());
        resumes.add(resumed.into());
    }

    /// A connection or stream was as old as it may become.
    pub fn max_duration(&self) {
        if let Stats::Http(stats) = self {
            stats.downstream_cx_max_duration_reached.inc();
        }
    }

    pub fn ping_lost(&self) {
        if let Stats::Http(stats) = self {
            stats.downstream_cx_keepalive_timeout.inc();
        }
    }

    /// It was closed because it was idle.
    pub fn idle_timeout(&self) {
        match self {
            Stats::Http(stats) => stats.downstream_cx_idle_timeout.inc(),
            Stats::Rpc(stats) => stats.downstream_cx_idle_timeout.inc(),
        }
    }

    pub fn drain_close(&self) {
        match self {
            Stats::Http(stats) => stats.downstream_cx_drain_close.inc(),
            Stats::Rpc(stats) => stats.downstream_cx_drain_close.inc(),
        }
    }

    pub fn protocol_error(&self) {
        match self {
            Stats::Http(stats) => stats.downstream_cx_protocol_error.inc(),
            Stats::Rpc(stats) => stats.decode_error.inc(),
        }
    }

    /// A request has come.
    pub fn begin(&self, version: Version) {
        match self {
            Stats::Http(stats) => {
                stats.rq_total.inc();
                stats.downstream_rq_total.inc();
                match version {
                    Version::Http1 => stats.downstream_rq_http1_total.inc(),
                    Version::Http2 => stats.downstream_rq_http2_total.inc(),
                }
                stats.downstream_rq_active.inc();
            }
            Stats::Rpc(stats) => {
                stats.request_total.inc();
                stats.request_active.inc();
            }
        }
    }

    /// A request is over; gives its time in milliseconds.
    pub fn end(&self, begin: Instant, now: Instant) -> u64 {
        let took = now.saturating_duration_since(begin).as_millis() as u64;
        match self {
            Stats::Http(stats) => {
                stats.downstream_rq_active.dec();
                stats.downstream_rq_time.record(took);
            }
            Stats::Rpc(stats) => {
                stats.request_active.dec();
                stats.request_time.record(took);
            }
        }
        took
    }

    /// A response's head is sent.
    pub fn response(&self, response: &Response<()>) {
        let status = response.status().as_u16();
        match self {
            Stats::Http(stats) => {
                stats.downstream_rq.record(status);
                stats.downstream_rq_completed.inc();
            }
            Stats::Rpc(stats) => {
                let own = response.headers().get("respstatus");
                let own = own.and_then(|value| value.to_str().ok()?.parse().ok());
                stats.response(own.unwrap_or(Status::from_http(status).code()));
            }
        }
    }

    /// What came was no request, and was answered with `status`.
    pub fn refused(&self, status: StatusCode) {
        if let Stats::Http(stats) = self {
            stats.downstream_rq.record(status.as_u16());
            stats.downstream_rq_completed.inc();
        }
    }

    /// A fixed answer of the configuration.
    pub fn direct(&self) {
        if let Stats::Http(stats) = self {
            stats.rq_direct_response.inc();
        }
    }

    /// A redirect of the configuration.
    pub fn redirect(&self) {
        if let Stats::Http(stats) = self {
            stats.rq_redirect.inc();
        }
    }

    /// A failure made here.
    pub fn failure(&self, reason: Reason) {
        match self {
            Stats::Http(stats) => {
                stats.failure.inc(reason);
                match reason {
                    Reason::NoRoute => stats.no_route.inc(),
                    Reason::UnknownCluster => stats.no_cluster.inc(),
                    Reason::Timeout | Reason::PerTryTimeout | Reason::PerTryIdle => {
                        stats.downstream_rq_timeout.inc();
                    }
                    Reason::StreamIdle => stats.downstream_rq_idle_timeout.inc(),
                    Reason::TooLarge => stats.downstream_rq_too_large.inc(),
                    Reason::DownstreamReset => stats.downstream_rq_rx_reset.inc(),
                    _ => {}
                }
            }
            Stats::Rpc(stats) => stats.failure.inc(reason),
        }
    }

    /// A response had trailers that its client's message could not have.
    pub fn dropped_trailers(&self) {
        if let Stats::Http(stats) = self {
            stats.downstream_rq_dropped_trailers.inc();
        }
    }

    /// A stream was reset after its response had begun.
    pub fn reset(&self) {
        match self {
            Stats::Http(stats) => stats.downstream_rq_tx_reset.inc(),
            Stats::Rpc(stats) => stats.request_reset.inc(),
        }
    }
}
