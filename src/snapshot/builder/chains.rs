//! Filter chains: compiled when their listener switches, kept while a connection runs on them.

use super::Builder;
use super::listeners::{Active, Pending, all_chains, route_source};
use super::scopes::Held;
use super::tables::TableKey;
use crate::filter;
use crate::model::{
    ClusterId, Direction, FilterChain, NetworkFilter, Protocol, RouteId, RouteSource, ScopeSource, ScopeTable,
};
use crate::router::{Scopes, WeightedPick, scope_key};
use crate::snapshot::{ChainSpec, FilterSpec, Leftover, ListenerSpec};
use crate::telemetry::Scope;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// A compiled chain with what it holds. Shared by the versions of its listener that have an equal chain.
pub(super) struct Chain {
    pub(super) spec: Arc<ChainSpec>,
    /// Which chain of its listener: its name if only it has it, else `#` and its index; empty for the default.
    slot: Arc<str>,
    /// The tables it uses; those of SRDS belong to their scopes.
    pub(super) tables: Vec<Held>,
    /// Clusters of a TCP chain.
    pub(super) tcp: Vec<ClusterId>,
}

/// Old versions that snapshots or connections may still hold. The builder drops them last, so that no worker
/// ever frees a large one, and their ids and route tables stay meanwhile.
#[derive(Default)]
pub(super) struct Graveyard {
    specs: Vec<Arc<ListenerSpec>>,
    chains: Vec<Arc<Chain>>,
}

impl Graveyard {
    pub(super) fn len(&self) -> usize {
        self.specs.len() + self.chains.len()
    }
}

impl Builder {
    /// Compiles the waiting version and makes it the one that serves.
    pub(super) fn activate(&mut self, name: &Arc<str>, pending: &Pending, old: Option<Active>) {
        let model = &pending.model;
        self.counts.listener_applied += 1;
        let in_place = old.as_ref().is_some_and(|old| old.spec.model.addresses == model.addresses);
        self.counts.listener_in_place_updated += u64::from(in_place);
        let before: BTreeMap<Arc<str>, Arc<Chain>> =
            old.iter().flat_map(|old| &old.chains).map(|chain| (chain.slot.clone(), chain.clone())).collect();
        let mut seen = BTreeSet::new();
        let mut twice = BTreeSet::new();
        for chain in &model.filter_chains {
            if !seen.insert(chain.name.as_str()) {
                twice.insert(chain.name.as_str());
            }
        }
        let mut chains = Vec::with_capacity(model.filter_chains.len() + 1);
        for (at, chain) in all_chains(model).enumerate() {
            let slot: Arc<str> = if at == model.filter_chains.len() {
                "".into()
            } else if chain.name.is_empty() || twice.contains(chain.name.as_str()) {
                format!("#{at}").into()
            } else {
                chain.name.as_str().into()
            };
            let equal = before.get(&slot).filter(|old| old.spec.model == *chain);
            chains.push(match equal {
                Some(old) => old.clone(),
                None => {
                    let old = before.get(&slot);
                    let guards = old.map(|old| old.spec.model.guards.as_slice()).unwrap_or_default();
                    chain.guards.iter().for_each(|guard| guard.adopt(guards));
                    let old = old.and_then(|old| old.spec.filters.as_deref());
                    self.compile_chain(name, slot, chain, (pending.since, model.direction), old)
                }
            });
        }
        drop(before);
        let mut specs: Vec<_> = chains.iter().map(|chain| chain.spec.clone()).collect();
        let default_chain = if model.default_filter_chain.is_some() { specs.pop() } else { None };
        let generation = self.next.generation() + 1;
        let spec = Arc::new(ListenerSpec {
            model: model.clone(),
            chains: specs,
            default_chain,
            generation,
            leftover: Leftover::default(),
            open: old.as_ref().map(|old| old.spec.open.clone()).unwrap_or_default(),
        });
        self.next.set_listener(name, Some(spec.clone()));
        for claim in super::addresses::claims_of(model) {
            self.addresses.open.insert(claim, name.clone());
        }
        if let Some(state) = self.listeners.states.get_mut(name) {
            state.active = Some(Active { spec, chains });
        }
        self.retire(old);
    }

    fn compile_chain(
        &mut self,
        listener: &Arc<str>,
        slot: Arc<str>,
        model: &FilterChain,
        (since, direction): (Instant, Direction),
        old: Option<&filter::Chain>,
    ) -> Arc<Chain> {
        let inbound = direction == Direction::Inbound;
        let tls = model.tls.as_ref().map(|tls| self.options.secrets.server(&tls.context, inbound));
        let mut tcp = Vec::new();
        let (tables, routes, scopes) = self.chain_tables(listener, &slot, model, since);
        let filter = match &model.filter {
            NetworkFilter::Tcp(config) => {
                let clusters =
                    WeightedPick::new(&config.clusters, &config.criteria, |name| self.clusters.intern(name));
                tcp = clusters.clusters().collect();
                FilterSpec::Tcp { config: config.clone(), clusters }
            }
            NetworkFilter::Http(config) => FilterSpec::Http { config: config.clone(), routes, scopes },
            NetworkFilter::Rpc(config) => FilterSpec::Rpc { config: config.clone(), routes },
        };
        for id in &tcp {
            self.clusters.add_ref(*id);
            self.clusters.pin(*id);
        }
        let filters = match &model.filter {
            NetworkFilter::Tcp(_) => None,
            NetworkFilter::Http(config) => {
                filter::Chain::compile(Scope::http(&config.stat_prefix), &config.filters, old)
            }
            NetworkFilter::Rpc(config) => {
                filter::Chain::compile(Scope::rpc(&config.stat_prefix), &config.filters, old)
            }
        };
        let leftover = Leftover::default();
        let spec = Arc::new(ChainSpec { model: model.clone(), tls, filter, filters, leftover });
        Arc::new(Chain { spec, slot, tables, tcp })
    }

    /// The tables of a chain, the one of all its requests, and its own scopes.
    fn chain_tables(
        &mut self,
        listener: &Arc<str>,
        slot: &Arc<str>,
        model: &FilterChain,
        since: Instant,
    ) -> (Vec<Held>, RouteId, Option<Arc<Scopes>>) {
        let none = RouteId(u32::MAX);
        let own =
            |slot: Arc<str>| TableKey::Inline { listener: listener.clone(), slot, speaks: speaks(model) };
        let routes = match route_source(model) {
            None => return (Vec::new(), none, None),
            Some(RouteSource::Rds { name, .. }) => ScopeTable::Rds(name.clone()),
            Some(RouteSource::Inline(config)) => ScopeTable::Inline(config.clone()),
            Some(RouteSource::Scoped(scoped)) => {
                let ScopeSource::Inline(list) = &scoped.scopes else { return (Vec::new(), none, None) };
                let mut tables = Vec::with_capacity(list.len());
                let mut by_key = Vec::with_capacity(list.len());
                for scope in list {
                    let slot = format!("{slot}/{}", scope.name).into();
                    let held = self.hold_table(&scope.routes, || own(slot));
                    self.waited_since(&held, since);
                    by_key.push((scope_key(scope), held.table));
                    tables.push(held);
                }
                return (tables, none, Some(Arc::new(Scopes::new(by_key.into_iter()))));
            }
        };
        let held = self.hold_table(&routes, || own(slot.clone()));
        self.waited_since(&held, since);
        let table = held.table;
        (vec![held], table, None)
    }

    /// A table that is written in a listener has waited for as long as the listener.
    fn waited_since(&mut self, held: &Held, since: Instant) {
        if held.rds.is_none()
            && let Some(table) = self.tables.get_mut(held.table)
        {
            table.since = Some(since);
        }
    }

    /// Lays an old version to rest.
    pub(super) fn retire(&mut self, old: Option<Active>) {
        let Some(Active { spec, chains }) = old else { return };
        self.graveyard.specs.push(spec);
        for chain in chains {
            // Still part of the new version?
            if Arc::strong_count(&chain) > 1 {
                continue;
            }
            // Its raw connections have made their choice: they keep the ids, not the clusters.
            for id in &chain.tcp {
                self.clusters.drop_ref(*id);
            }
            self.graveyard.chains.push(chain);
        }
    }

    /// Frees old versions that nobody else holds, with what they held.
    pub(super) fn clear_graveyard(&mut self) {
        self.graveyard.specs.retain(|spec| Arc::strong_count(spec) > 1);
        let held = |chain: &Arc<Chain>| Arc::strong_count(&chain.spec) > 1;
        let (kept, free) = std::mem::take(&mut self.graveyard.chains).into_iter().partition(held);
        self.graveyard.chains = kept;
        for chain in free as Vec<Arc<Chain>> {
            for id in &chain.tcp {
                self.clusters.unpin(*id);
            }
            for held in &chain.tables {
                self.drop_held(held.clone());
            }
        }
    }
}

/// What connections of this chain speak: chains that can serve each other's connections (see
/// [`ChainSpec::same_connection`]) agree in it.
fn speaks(chain: &FilterChain) -> &'static str {
    match &chain.filter {
        NetworkFilter::Tcp(_) => "tcp",
        NetworkFilter::Http(_) => "http2",
        NetworkFilter::Rpc(rpc) => match rpc.downstream {
            Protocol::Auto => "auto",
            Protocol::Bolt => "bolt",
            Protocol::Http2 => "http2",
        },
    }
}
