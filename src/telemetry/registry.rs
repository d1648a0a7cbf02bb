//! All groups of the process by scope, and their sums.
//!
//! A worker registers its own copy of a group when it first needs one; [`Registration`] gives it back when
//! dropped. Counts of a copy that goes are kept for as long as the scope has any other registration, so that
//! totals do not go backwards; the control side holds one per configured thing. Registering and dropping take
//! a lock that is never held while groups are read; updates take none.

use super::mesh::ExchangeStats;
use super::metric::{StatGroup, Value};
use super::scope::Scope;
use super::stats_config::StatsConfig;
use super::why::WhyRing;
use crate::model::Node;
use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Readings of one scope by name within it.
pub type Readings = BTreeMap<String, Value>;

/// Scopes copied out per turn of the lock.
const BATCH: usize = 64;

/// The groups of the process. Clones share.
#[derive(Clone, Default)]
pub struct Registry(Arc<Shared>);

/// Gives groups that are made when asked for, with their scopes.
pub type Provider = Box<dyn Fn() -> Vec<(Scope, Box<dyn StatGroup>)> + Send + Sync>;

#[derive(Default)]
struct Shared {
    scopes: Mutex<BTreeMap<Arc<Scope>, Entry>>,
    providers: Mutex<Vec<Arc<Provider>>>,
    next_id: AtomicU64,
    why: WhyRing,
    config: OnceLock<StatsConfig>,
    /// Label sets that found their Prometheus family full, at the last reading.
    overflowed: AtomicU64,
    node: OnceLock<Arc<Node>>,
    exchange: ExchangeStats,
}

#[derive(Clone, Default)]
struct Entry {
    groups: Vec<(u64, Arc<dyn StatGroup>)>,
    /// Sums of the groups that are gone.
    base: Arc<Readings>,
    /// Counters as they stood at the last reset.
    zero: Arc<BTreeMap<String, u64>>,
}

/// A registered group: derefs to it, and takes it out of the registry when dropped.
pub struct Registration<T: StatGroup + 'static> {
    group: Arc<T>,
    registry: Registry,
    scope: Arc<Scope>,
    id: u64,
}

impl Registry {
    /// A registry without groups.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what is shown of the metrics; once, before anyone reads them.
    pub fn configure(&self, config: StatsConfig) {
        // The first one stands.
        let _ = self.0.config.set(config);
    }

    /// What was configured.
    pub fn config(&self) -> Option<&StatsConfig> {
        self.0.config.get()
    }

    /// Sets who this process is, for metrics that say so and for peers; once.
    pub fn introduce(&self, node: Arc<Node>) {
        // The first one stands.
        if self.0.node.set(node).is_ok() {
            super::mesh::provide(self);
        }
    }

    /// Exchanges with peers.
    pub fn exchange(&self) -> &ExchangeStats {
        &self.0.exchange
    }

    /// Gives the registry as long as somebody else holds it.
    pub(super) fn downgrade(&self) -> impl Fn() -> Option<Registry> + Send + Sync + 'static {
        let held = Arc::downgrade(&self.0);
        move || held.upgrade().map(Registry)
    }

    /// Who this process is.
    pub fn node(&self) -> &Arc<Node> {
        self.0.node.get_or_init(Arc::default)
    }

    /// Whether the metric of this name is shown.
    pub fn shows(&self, name: &str) -> bool {
        self.config().is_none_or(|config| config.admits(name))
    }

    /// Label sets that found their Prometheus family full when it was last read.
    pub fn overflowed(&self) -> u64 {
        self.0.overflowed.load(Relaxed)
    }

    pub(super) fn set_overflowed(&self, count: u64) {
        self.0.overflowed.store(count, Relaxed);
    }

    /// What became of requests that went wrong.
    pub fn why(&self) -> &WhyRing {
        &self.0.why
    }

    /// Adds `group` under `scope`; several groups of one scope are summed name by name.
    pub fn register<T: StatGroup + 'static>(&self, scope: Scope, group: T) -> Registration<T> {
        let group = Arc::new(group);
        let id = self.0.next_id.fetch_add(1, Relaxed);
        let mut scopes = self.lock();
        let scope = match scopes.get_key_value(&scope) {
            Some((held, _)) => held.clone(),
            None => Arc::new(scope),
        };
        scopes.entry(scope.clone()).or_default().groups.push((id, group.clone()));
        drop(scopes);
        Registration { group, registry: self.clone(), scope, id }
    }

    /// Adds groups that are cheaper to make when asked for than to keep, such as a few gauges of each of ten
    /// thousand clusters. Their counters are not reset.
    pub fn provide(&self, provider: Provider) {
        self.0.providers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(provider));
    }

    /// Calls `each` with every scope in order and its summed readings, until it returns false.
    pub fn for_each(&self, each: &mut dyn FnMut(&Scope, Readings) -> bool) {
        let mut provided = self.provided().into_iter().peekable();
        let mut going = true;
        self.for_each_registered(&mut |scope, mut readings| {
            while let Some((earlier, group)) = provided.next_if(|(p, _)| p <= scope) {
                if earlier == *scope {
                    add(&mut readings, group.as_ref());
                    continue;
                }
                going = each(&earlier, readings_of(group.as_ref()));
                if !going {
                    return false;
                }
            }
            going = each(scope, readings);
            going
        });
        while going && let Some((scope, group)) = provided.next() {
            going = each(&scope, readings_of(group.as_ref()));
        }
    }

    fn provided(&self) -> Vec<(Scope, Box<dyn StatGroup>)> {
        let providers = self.0.providers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all: Vec<_> = providers.iter().flat_map(|provider| provider()).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    fn for_each_registered(&self, each: &mut dyn FnMut(&Scope, Readings) -> bool) {
        let mut after: Option<Arc<Scope>> = None;
        loop {
            let batch: Vec<(Arc<Scope>, Entry)> = {
                let scopes = self.lock();
                let start = match &after {
                    Some(scope) => Bound::Excluded(scope.clone()),
                    None => Bound::Unbounded,
                };
                let range = scopes.range((start, Bound::Unbounded)).take(BATCH);
                range.map(|(scope, entry)| (scope.clone(), entry.clone())).collect()
            };
            let Some((last, _)) = batch.last() else { return };
            after = Some(last.clone());
            for (scope, entry) in batch {
                if !each(&scope, entry.read()) {
                    return;
                }
            }
        }
    }

    /// The summed readings of one scope; empty if nothing is registered there.
    pub fn scope(&self, scope: &Scope) -> Readings {
        let entry = self.lock().get(scope).cloned();
        entry.map(|e| e.read()).unwrap_or_default()
    }

    /// One metric by its full name, `cluster.a.upstream_rq_total`. Looks at every scope: not for busy paths.
    pub fn value(&self, name: &str) -> Option<Value> {
        let mut found = None;
        self.for_each(&mut |scope, mut readings| {
            found = scope.rest_of(name).and_then(|rest| readings.remove(rest));
            found.is_none()
        });
        found
    }

    /// One counter or gauge by its full name; 0 if there is none.
    pub fn number(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Counter(n)) => i64::try_from(n).unwrap_or(i64::MAX),
            Some(Value::Gauge(n)) => n.unwrap_or(0),
            _ => 0,
        }
    }

    /// Counters read as 0 from here on and count on from there; gauges and histograms stay.
    pub fn reset_counters(&self) {
        let mut scopes = self.lock();
        for entry in scopes.values_mut() {
            let mut zero = BTreeMap::new();
            for (name, value) in entry.sum() {
                if let Value::Counter(count @ 1..) = value {
                    zero.insert(name, count);
                }
            }
            entry.zero = Arc::new(zero);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<Scope>, Entry>> {
        self.0.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn sum(&self) -> Readings {
        let mut sum = (*self.base).clone();
        for (_, group) in &self.groups {
            add(&mut sum, group.as_ref());
        }
        sum
    }

    fn read(&self) -> Readings {
        let mut sum = self.sum();
        for (name, zero) in self.zero.iter() {
            if let Some(Value::Counter(count)) = sum.get_mut(name) {
                *count = count.saturating_sub(*zero);
            }
        }
        sum
    }
}

fn readings_of(group: &dyn StatGroup) -> Readings {
    let mut readings = Readings::new();
    add(&mut readings, group);
    readings
}

fn add(sum: &mut Readings, group: &dyn StatGroup) {
    group.visit(&mut |name, value| match sum.get_mut(name) {
        Some(held) => held.add(value),
        None => {
            sum.insert(name.to_owned(), value);
        }
    });
}

impl<T: StatGroup> Deref for Registration<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.group
    }
}

impl<T: StatGroup + 'static> Drop for Registration<T> {
    fn drop(&mut self) {
        let mut scopes = self.registry.lock();
        let Some(entry) = scopes.get_mut(&self.scope) else { return };
        entry.groups.retain(|(id, _)| *id != self.id);
        if entry.groups.is_empty() {
            let last = scopes.remove(&self.scope);
            drop(scopes);
            drop(last);
            return;
        }
        let base = Arc::make_mut(&mut entry.base);
        self.group.visit(&mut |name, value| match (&value, base.get_mut(name)) {
            (Value::Gauge(_) | Value::Text(_), _) => {}
            (_, Some(held)) => held.add(value),
            (_, None) if value.used() => {
                base.insert(name.to_owned(), value);
            }
            _ => {}
        });
    }
}

/// All readings by full name, sorted.
pub fn collect(registry: &Registry) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    registry.for_each(&mut |scope, readings| {
        if !scope.hidden() {
            all.extend(readings.into_iter().map(|(name, value)| (scope.full(&name), value)));
        }
        true
    });
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::ClusterStats;

    #[test]
    fn sums_workers_and_keeps_totals_of_those_that_go() {
        let registry = Registry::new();
        let control = registry.register(Scope::cluster("a:80"), ClusterStats::default());
        let one = registry.register(Scope::cluster("a:80"), ClusterStats::default());
        let two = registry.register(Scope::cluster("a:80"), ClusterStats::default());
        one.upstream_rq_total.add(3);
        one.upstream_rq_active.inc();
        one.upstream_rq_time.record(12);
        two.upstream_rq_total.add(4);
        assert_eq!(registry.number("cluster.a_80.upstream_rq_total"), 7);
        assert_eq!(registry.number("cluster.a_80.upstream_rq_active"), 1);
        drop(one);
        assert_eq!(registry.number("cluster.a_80.upstream_rq_total"), 7, "totals stay");
        assert_eq!(registry.number("cluster.a_80.upstream_rq_active"), 0, "what was active is gone");
        let time = registry.value("cluster.a_80.upstream_rq_time").unwrap();
        assert!(matches!(&time, Value::Histogram(h) if h.count() == 1));
        drop((two, control));
        assert!(collect(&registry).is_empty(), "a scope ends with its last registration");
    }

    #[test]
    fn reset_counts_from_here() {
        let registry = Registry::new();
        let stats = registry.register(Scope::cluster("a"), ClusterStats::default());
        stats.upstream_rq_total.add(3);
        stats.upstream_rq_active.set(2);
        registry.reset_counters();
        stats.upstream_rq_total.inc();
        assert_eq!(registry.number("cluster.a.upstream_rq_total"), 1);
        assert_eq!(registry.number("cluster.a.upstream_rq_active"), 2);
    }

    #[test]
    fn provided_groups_join_their_scopes_in_order() {
        let registry = Registry::new();
        let _b = registry.register(Scope::cluster("b"), ClusterStats::default());
        registry.provide(Box::new(|| {
            let group = |n| -> Box<dyn StatGroup> {
                Box::new(crate::telemetry::Computed(move |out: &mut dyn FnMut(&str, Value)| {
                    out("membership_total", Value::Gauge(Some(n)));
                }))
            };
            ["c", "a", "b"]
                .into_iter()
                .zip([3, 1, 2])
                .map(|(name, n)| (Scope::cluster(name), group(n)))
                .collect()
        }));
        for (name, total) in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(registry.number(&format!("cluster.{name}.membership_total")), total);
        }
        assert!(registry.value("cluster.b.upstream_rq_total").is_some());
        assert!(collect(&registry).is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn many_scopes_come_in_order_across_batches() {
        let registry = Registry::new();
        let held: Vec<_> = (0..200)
            .rev()
            .map(|n| registry.register(Scope::http(&format!("{n:03}")), ClusterStats::default()))
            .collect();
        let mut names = Vec::new();
        registry.for_each(&mut |scope, _| {
            names.push(scope.name().to_owned());
            true
        });
        assert_eq!(names.len(), held.len());
        assert!(names.is_sorted());
    }
}
