//! Injected faults.

use crate::model::{Fraction, HeaderMatch};
use serde::Serialize;
use std::time::Duration;

/// `HTTPFault`, and MOSN's `fault`. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Fault {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
    /// Only requests to this cluster; empty: all.
    pub upstream_cluster: String,
    pub headers: Vec<HeaderMatch>,
    /// Only of these nodes, as `x-envoy-downstream-service-node` tells; empty: all.
    pub downstream_nodes: Vec<String>,
    /// Faults at the same time; `None` no limit.
    pub max_active: Option<u32>,
    /// What runtime has for this key holds instead; empty: none.
    pub max_active_key: String,
    pub response_rate: Option<FaultRate>,
}

/// A delay before the request goes on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultDelay {
    /// `None`: `x-envoy-fault-delay-request` tells the milliseconds.
    pub fixed: Option<Duration>,
    pub share: Fraction,
    /// Milliseconds that runtime has for this key hold instead of `fixed`; empty: none.
    pub duration_key: String,
}

/// An answer instead of the upstream's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultAbort {
    pub with: AbortWith,
    pub share: Fraction,
    /// What runtime has for this key is the status instead; empty: none.
    pub with_key: String,
}

/// What the answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AbortWith {
    /// 200 to 599.
    Http(u16),
    Grpc(u32),
    /// By `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request`.
    Header,
}

/// A slow response.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultRate {
    /// Kibibytes a second; `None`: `x-envoy-fault-throughput-response` tells.
    pub kbps: Option<u64>,
    pub share: Fraction,
}
