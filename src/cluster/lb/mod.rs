//! Load balancing: which host takes a request.
//!
//! Owns, per worker and cluster, the order among hosts: subsets, then priorities, then localities, then the
//! policy. Takes in the newest endpoints and the shared health of hosts; gives out a host. Rebuilt when
//! either changes; hash tables are shared over workers.

mod edf;
mod group;
mod levels;
mod priority;
mod subset;
mod table;
#[cfg(test)]
mod tests;

pub(super) use levels::is_hashing;
pub use table::Table;

use super::{ClusterSpec, Host};
use crate::model::{Address, Endpoints};
use crate::util::random::Random;
use levels::Levels;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use subset::SubsetTable;

/// What a request says about its host.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickContext<'a> {
    /// By the route's hash policies; without one, hashing policies draw.
    pub hash: Option<u64>,
    /// What its host's metadata must say, sorted by key; values as in [`crate::model::Endpoint::metadata`].
    pub criteria: &'a [(Box<str>, Box<str>)],
    /// Where the client meant to go, for clusters of original destinations.
    pub original_dst: Option<SocketAddr>,
    /// An RPC call: unhealthy hosts are taken only if the cluster says so, never by default.
    pub is_rpc: bool,
}

/// Hosts by address.
pub(super) type Hosts = HashMap<Address, Rc<Host>, foldhash::fast::FixedState>;

/// What all parts of a balancer work with.
pub(super) struct Settings {
    pub(super) spec: Arc<ClusterSpec>,
    pub(super) endpoints: Arc<Endpoints>,
}

/// A host and how it was found.
pub(super) struct Picked<'b> {
    pub(super) host: &'b Rc<Host>,
    /// Health was ignored, too few being healthy.
    pub(super) panic: bool,
}

/// The order among a cluster's hosts.
pub(super) struct Balancer {
    settings: Settings,
    order: Order,
}

#[expect(clippy::large_enum_variant, reason = "one per cluster and worker, and most are the large one")]
enum Order {
    All(Ranks),
    Subsets(Box<SubsetTable>),
}

/// The order among a set of hosts, as each kind of request follows it.
struct Ranks {
    levels: Levels,
    /// What RPC calls follow instead while the other panics by default.
    calm: Option<Levels>,
}

impl Ranks {
    /// The hosts at the places `keep` accepts.
    fn new(
        settings: &Settings,
        hosts: &Hosts,
        random: &Random,
        keep: impl Fn(usize, usize) -> bool + Copy,
    ) -> Self {
        let levels = Levels::new(settings, hosts, random, keep);
        let panics = levels.panics() && settings.spec.model.panic_by_default;
        let calm = panics.then(|| Levels::with_threshold(0, settings, hosts, random, keep));
        Ranks { levels, calm }
    }

    /// See [`Balancer::pick`].
    fn pick(
        &self,
        settings: &Settings,
        ctx: &PickContext<'_>,
        random: &Random,
        avoid: &impl Fn(&Host) -> bool,
    ) -> Option<Picked<'_>> {
        let levels = self.calm.as_ref().filter(|_| ctx.is_rpc).unwrap_or(&self.levels);
        levels.pick(settings, ctx, random, avoid)
    }
}

impl Balancer {
    /// `hosts` has one for each address of `endpoints`.
    pub(super) fn new(
        spec: Arc<ClusterSpec>,
        endpoints: Arc<Endpoints>,
        hosts: &Hosts,
        random: &Random,
    ) -> Self {
        let settings = Settings { spec, endpoints };
        let order = match &settings.spec.model.subsets {
            Some(subsets) if !subsets.selectors.is_empty() => {
                Order::Subsets(Box::new(SubsetTable::new(subsets.clone(), &settings, hosts)))
            }
            _ => Order::All(Ranks::new(&settings, hosts, random, |_, _| true)),
        };
        Balancer { settings, order }
    }

    /// The next host. Hosts `avoid` accepts are passed over as long as others are left.
    pub(super) fn pick(
        &self,
        ctx: &PickContext<'_>,
        random: &Random,
        avoid: impl Fn(&Host) -> bool,
    ) -> Option<Picked<'_>> {
        match &self.order {
            Order::All(ranks) => ranks.pick(&self.settings, ctx, random, &avoid),
            Order::Subsets(subsets) => subsets.pick(&self.settings, ctx, random, &avoid),
        }
    }
}
