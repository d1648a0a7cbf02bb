//! What filters count. Each worker has its own copy of every number, made when it is first needed.

use super::Chain;
use super::mesh::{Reporters, reporters};
use crate::model::AlpnOverride;
use crate::telemetry::{Counter, Gauge, Registration, Registry, Sample, Scope, StatGroup, Value};
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

/// Groups whose names clients choose, per chain and worker; further ones count as `overflow`.
const MAX_NAMED: usize = 1_000;

/// Declares the names of a group of [`Counters`] and the places of those that code counts at, so that no place can
/// drift from its name.
macro_rules! counters {
    ($vis:vis $names:ident: $($name:literal $(= $place:ident)?),+ $(,)?) => {
        $vis const $names: &[&str] = &[$($name),+];
        $crate::filter::counters!(@ 0; $($name $(= $place)?,)+);
    };
    (@ $at:expr;) => {};
    (@ $at:expr; $name:literal = $place:ident, $($rest:tt)*) => {
        const $place: usize = $at;
        $crate::filter::counters!(@ $at + 1; $($rest)*);
    };
    (@ $at:expr; $name:literal, $($rest:tt)*) => {
        $crate::filter::counters!(@ $at + 1; $($rest)*);
    };
}
pub(crate) use counters;

/// Counters with names that configuration may be part of.
#[derive(Debug)]
pub struct Counters {
    prefix: String,
    names: &'static [&'static str],
    counts: Box<[Counter]>,
    /// Shown as `active_faults`, by those that have it.
    pub active: Option<Gauge>,
}

impl Counters {
    /// Counters called `prefix` and then each of `names`.
    pub fn new(prefix: impl Into<String>, names: &'static [&'static str]) -> Self {
        let counts = names.iter().map(|_| Counter::default()).collect();
        Counters { prefix: prefix.into(), names, counts, active: None }
    }

    /// Counts one more at `names[at]`.
    pub fn inc(&self, at: usize) {
        self.add(at, 1);
    }

    /// Counts `n` more at `names[at]`.
    pub fn add(&self, at: usize, n: u64) {
        if let Some(counter) = self.counts.get(at) {
            counter.add(n);
        }
    }
}

impl StatGroup for Counters {
    fn visit(&self, out: &mut dyn FnMut(&str, Sample)) {
        for (name, counter) in self.names.iter().zip(&self.counts) {
            out(&format!("{}{name}", self.prefix), Value::Counter(counter.get()));
        }
        if let Some(active) = &self.active {
            out(&format!("{}active_faults", self.prefix), Value::Gauge(active.touched()));
        }
    }
}

/// One group, as its users hold it.
pub type Group = Rc<Registration<Counters>>;

/// What one chain counts on one worker.
pub struct ChainStats {
    registry: Registry,
    /// The manager's metrics, which those of most filters stand among.
    scope: Scope,
    own: Box<[OnceCell<Group>]>,
    named: RefCell<HashMap<String, Group>>,
    /// The worker's own copies of what streams hold on to.
    alpn: OnceCell<Rc<AlpnOverride>>,
    reporters: Reporters,
}

impl ChainStats {
    fn new(registry: &Registry, chain: &Chain) -> Self {
        ChainStats {
            registry: registry.clone(),
            scope: chain.scope().clone(),
            own: (0..chain.len()).map(|_| OnceCell::new()).collect(),
            named: RefCell::default(),
            alpn: OnceCell::new(),
            reporters: reporters(chain),
        }
    }

    /// The chain's rules of what hosts are offered.
    pub(super) fn alpn(&self, rules: &AlpnOverride) -> Rc<AlpnOverride> {
        self.alpn.get_or_init(|| Rc::new(rules.clone())).clone()
    }

    /// Who tells of streams when they are over.
    pub fn reporters(&self) -> Reporters {
        self.reporters.clone()
    }

    /// The group of the filter at `place`, within the manager's metrics.
    pub fn own(&self, place: usize, make: impl FnOnce() -> Counters) -> Group {
        let new = || Rc::new(self.registry.register(self.scope.clone(), make()));
        match self.own.get(place) {
            Some(cell) => cell.get_or_init(new).clone(),
            None => new(),
        }
    }

    /// The group called `key`, in a scope of its own or within the manager's metrics. What clients name is
    /// `open`: there is an end to it.
    pub fn named(&self, key: &str, open: bool, make: impl Fn(&str) -> (Option<Scope>, Counters)) -> Group {
        if let Some(group) = self.named.borrow().get(key) {
            return group.clone();
        }
        let full = open && self.named.borrow().len() >= MAX_NAMED;
        let key = if full { "overflow" } else { key };
        if let Some(group) = self.named.borrow().get(key) {
            return group.clone();
        }
        let (scope, counters) = make(key);
        let group = Rc::new(self.registry.register(scope.unwrap_or_else(|| self.scope.clone()), counters));
        self.named.borrow_mut().insert(key.to_owned(), group.clone());
        group
    }
}

/// The numbers of a chain, while it lives.
type Known = (Weak<Chain>, Rc<ChainStats>);

/// One worker's numbers of all chains in use.
pub struct Workers {
    registry: Registry,
    chains: RefCell<HashMap<u64, Known>>,
}

impl Workers {
    /// None yet.
    pub fn new(registry: Registry) -> Self {
        Workers { registry, chains: RefCell::default() }
    }

    /// Those of `chain`.
    pub fn of(&self, chain: &Arc<Chain>) -> Rc<ChainStats> {
        if let Some((_, stats)) = self.chains.borrow().get(&chain.id()) {
            return stats.clone();
        }
        let stats = Rc::new(ChainStats::new(&self.registry, chain));
        let mut chains = self.chains.borrow_mut();
        // Rarely done, so the moment to let go of those that are no more.
        chains.retain(|_, (chain, _)| chain.strong_count() > 0);
        chains.insert(chain.id(), (Arc::downgrade(chain), stats.clone()));
        stats
    }
}
