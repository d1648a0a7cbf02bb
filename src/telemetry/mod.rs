//! Metrics and the process log.
//!
//! Owns counters, gauges and histograms ([`metric`]), the groups of them the proxy keeps ([`groups`]), the
//! [`Registry`] that sums the workers' copies, the text forms ([`text`], [`prometheus`], [`mosn`]), the
//! process log ([`logging`]), log files ([`files`]) and the rate-limited line per failure ([`failure_log`]).
//! Takes in numbers from the thread that owns them; gives out sums to whoever asks.
//!
//! The request path pays one relaxed load and one relaxed store per number: every instance has a single
//! writer, a reader adds the instances up.

pub mod clock;
pub mod failure_log;
pub mod files;
pub mod groups;
mod histogram;
pub mod logging;
mod mesh;
mod metric;
pub mod mosn;
pub mod panics;
pub mod prometheus;
mod registry;
mod scope;
pub mod stats_config;
pub mod text;
pub mod why;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether this process was told to fail its health checks.
static FAILING_CHECKS: AtomicBool = AtomicBool::new(false);

/// Makes this process fail its health checks, or pass them again.
pub fn fail_checks(failing: bool) {
    FAILING_CHECKS.store(failing, Relaxed);
}

/// Whether it fails them.
pub fn is_failing_checks() -> bool {
    FAILING_CHECKS.load(Relaxed)
}

pub use failure_log::{FailureLine, FailureLog};
pub use groups::{
    ByReason, ClusterStats, Computed, ConnectionLimitStats, ConnectionRateStats, DrainStats, HostStats,
    HttpInspectorStats, HttpStats, ListenerStats, RpcStats, SdsStats, ServerStats, SslStats, StatusCodes,
    TcpStats, TlsInspectorStats,
};
pub use histogram::{Histogram, HistogramData};
pub use mesh::{ExchangeStats, MeshMetrics};
pub use metric::{Counter, Gauge, Metric, Sample, SecondsSince, SharedCounter, StatGroup, Text, Value};
pub use registry::{Provider, Readings, Registration, Registry, collect};
pub use scope::Scope;
pub use stats_config::StatsConfig;
