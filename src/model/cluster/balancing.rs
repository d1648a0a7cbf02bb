//! How a cluster's hosts share the load.

use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Load balancing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum LbPolicy {
    /// In turn; in proportion where weights differ.
    RoundRobin,
    /// Uniform, whatever the weights (as in Envoy).
    Random,
    /// Fewest requests in flight, among `choices` random hosts or among all (`full_scan`). Where weights
    /// differ: in proportion to weight / (active + 1)^`bias`.
    LeastRequest { choices: u32, bias: f64, full_scan: bool },
    /// Ketama ring, between `min` and `max` points.
    RingHash { min: u32, max: u32, function: HashFunction },
    /// Maglev table of a prime number of slots.
    Maglev { table_size: u32 },
    /// The connection or request says where to go.
    ClusterProvided,
}

/// Hash of ring points. Requests are hashed with xxHash64 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum HashFunction {
    XxHash,
    MurmurHash2,
}

/// Ramp of new hosts: weight × max(`min_weight`, (age / window)^(1 / aggression)).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SlowStart {
    /// How long a host counts as new. Not zero.
    pub window: Duration,
    /// Above 0. Default 1: linear.
    pub aggression: f64,
    /// Share of its weight a host has at least, 0 to 1. Default 0.1.
    pub min_weight: f64,
}

/// Division of the hosts by metadata `envoy.lb`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subsets {
    /// What happens to requests that no subset serves.
    pub fallback: Fallback,
    /// The hosts of [`Fallback::DefaultSubset`].
    pub default_subset: BTreeMap<String, String>,
    /// Each set of keys hosts are divided by.
    pub selectors: Vec<Selector>,
    /// A default subset without hosts gives way to all hosts.
    pub panic_mode_any: bool,
}

/// One set of keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Selector {
    /// Sorted, each once.
    pub keys: Vec<String>,
    /// In place of the cluster's fallback.
    pub fallback: Option<Fallback>,
    /// Keys of [`Fallback::Keys`], sorted.
    pub fallback_keys: Vec<String>,
    /// Only the first host of a subset takes requests.
    pub single_host: bool,
}

/// Where requests without a subset go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Fallback {
    /// Nowhere: 503.
    None,
    /// To any host.
    Any,
    /// To the default subset.
    DefaultSubset,
    /// To the subset of fewer keys.
    Keys,
}

/// Where an original destination comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OriginalDst {
    /// Request header that names it; `None`: the address the client connected to.
    pub header: Option<String>,
    /// Port in place of the destination's.
    pub port_override: Option<u16>,
    /// Port of a destination that names none; `None`: it has to name one.
    pub default_port: Option<u16>,
    /// The destination's port on this machine, whatever its address.
    pub loopback: bool,
    /// How long an unused host is kept. Default 5 s.
    pub cleanup: Duration,
}
