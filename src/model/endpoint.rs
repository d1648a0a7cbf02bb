//! Endpoints: the hosts of a cluster.

use super::{Address, CheckTarget};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One ClusterLoadAssignment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Endpoints {
    /// EDS name; the cluster's own name when written inside it.
    pub name: String,
    pub localities: Vec<Locality>,
    /// Percent of all requests to drop per category, summed in millionths.
    pub drop_millionths: u32,
    /// Overprovisioning in percent. Default 140.
    pub overprovisioning: u32,
}

/// Hosts of one place and priority.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
    /// 0 is tried first.
    pub priority: u32,
    /// Share among localities of its priority; 0 when unset.
    pub weight: u32,
    pub endpoints: Vec<Endpoint>,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endpoint {
    pub address: Address,
    pub hostname: String,
    pub health: Health,
    /// 1 when unset.
    pub weight: u32,
    /// `filter_metadata["envoy.lb"]` (or MOSN's `mosn.lb`): texts as they are, other values as a NUL and
    /// their JSON.
    pub metadata: BTreeMap<String, String>,
    /// Texts of `filter_metadata["envoy.transport_socket_match"]`.
    pub socket_match: BTreeMap<String, String>,
    /// `filter_metadata["istio"].workload`: who is there.
    pub workload: Option<Arc<str>>,
    /// Where active checks go when not here.
    pub check: Option<Box<CheckTarget>>,
}

/// EDS health status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Health {
    /// Unknown or healthy: takes traffic.
    Healthy,
    /// Takes traffic when too few healthy ones are left.
    Degraded,
    /// Unhealthy or timed out.
    Unhealthy,
    /// Takes no new requests.
    Draining,
}

impl Endpoint {
    /// A healthy host of weight 1 of which nothing else is said.
    pub fn at(address: Address) -> Self {
        Endpoint {
            address,
            hostname: String::new(),
            health: Health::Healthy,
            weight: 1,
            metadata: BTreeMap::new(),
            socket_match: BTreeMap::new(),
            workload: None,
            check: None,
        }
    }
}

impl Endpoints {
    /// All hosts of all localities.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }

    /// Hosts written as plain addresses, one locality, equal weights.
    pub fn of(name: impl Into<String>, addresses: impl IntoIterator<Item = Address>) -> Self {
        let endpoints = addresses.into_iter().map(Endpoint::at).collect();
        Endpoints {
            name: name.into(),
            localities: vec![Locality { endpoints, ..Locality::default() }],
            drop_millionths: 0,
            overprovisioning: 140,
        }
    }
}
