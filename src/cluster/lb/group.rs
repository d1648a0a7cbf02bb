//! Hosts of equal standing and the policy among them.

use super::Settings;
use super::edf::Edf;
use super::table::{Member, Table};
use crate::cluster::Host;
use crate::model::{Endpoint, LbPolicy, SlowStart};
use crate::util::random::Random;
use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;

/// How often a host is picked anew before all are looked at.
const TURNS: usize = 16;

/// One host in a group.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) host: Rc<Host>,
    pub(super) weight: u32,
    /// Its locality and its place there.
    pub(super) at: (u32, u32),
}

/// See the module.
pub(super) struct Group {
    entries: Vec<Entry>,
    kind: Kind,
}

enum Kind {
    /// One after the other.
    InTurn(Cell<usize>),
    /// In proportion to weights, which may change from pick to pick. With a bias: the fewer requests in
    /// flight, the heavier.
    Proportion {
        queue: Edf,
        bias: Option<f64>,
    },
    Random,
    /// The least busy of some.
    Least {
        choices: u32,
    },
    /// The least busy of all.
    LeastOfAll,
    /// By hash.
    Table(OnceCell<Arc<Table>>),
}

impl Group {
    /// `entries` in configured order. Round robin starts at a random host, so that many small proxies do not
    /// all begin with the first.
    pub(super) fn new(entries: Vec<Entry>, settings: &Settings, random: &Random) -> Self {
        let model = &settings.spec.model;
        let weighted = model.slow_start.is_some()
            || entries.windows(2).any(|pair| matches!(pair, [a, b] if a.weight != b.weight));
        let proportion = |bias| Kind::Proportion { queue: Edf::default(), bias };
        let kind = match model.lb {
            LbPolicy::RoundRobin | LbPolicy::ClusterProvided if weighted => proportion(None),
            LbPolicy::RoundRobin | LbPolicy::ClusterProvided => {
                Kind::InTurn(Cell::new(random.below(entries.len() as u32) as usize))
            }
            LbPolicy::LeastRequest { bias, .. } if weighted => proportion(Some(bias)),
            LbPolicy::LeastRequest { full_scan: true, .. } => Kind::LeastOfAll,
            LbPolicy::LeastRequest { choices, .. } => Kind::Least { choices: choices.max(2) },
            LbPolicy::Random => Kind::Random,
            LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } => Kind::Table(OnceCell::new()),
        };
        Group { entries, kind }
    }

    /// The next host. Hosts `avoid` accepts are passed over as long as others are left.
    pub(super) fn pick(
        &self,
        settings: &Settings,
        random: &Random,
        hash: Option<u64>,
        avoid: &impl Fn(&Host) -> bool,
    ) -> Option<&Rc<Host>> {
        // What asks the clock or draws is done once for all turns.
        let hash = match &self.kind {
            Kind::Table(_) => hash.unwrap_or_else(|| random.next()),
            _ => 0,
        };
        let mut last = None;
        for turn in 0..self.entries.len().clamp(1, TURNS) {
            let Entry { host, .. } = self.entries.get(self.index(settings, random, hash, turn as u32))?;
            if !avoid(host) {
                return Some(host);
            }
            last = Some(host);
        }
        self.entries.iter().map(|entry| &entry.host).find(|host| !avoid(host)).or(last)
    }

    /// Whether there is no host.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn index(&self, settings: &Settings, random: &Random, hash: u64, turn: u32) -> usize {
        match &self.kind {
            Kind::InTurn(cursor) => {
                let next = cursor.get() + 1;
                cursor.set(if next >= self.entries.len() { 0 } else { next });
                cursor.get()
            }
            Kind::Proportion { queue, bias } => {
                let slow = settings.spec.model.slow_start.as_deref();
                let slow = slow.map(|slow| (slow, settings.spec.shared.now_ms()));
                let weight = |index| self.weight(index, slow, *bias);
                queue.next(self.entries.len(), weight, random)
            }
            Kind::Random => random.below(self.entries.len() as u32) as usize,
            Kind::Least { choices } => self.least(random, *choices),
            Kind::LeastOfAll => {
                // From a random start, so that ties are spread.
                let start = random.below(self.entries.len() as u32) as usize;
                let all = (0..self.entries.len()).map(|at| (at + start) % self.entries.len());
                all.min_by_key(|at| self.active(*at)).unwrap_or(0)
            }
            Kind::Table(table) => table.get_or_init(|| self.table(settings)).find(hash, turn),
        }
    }

    fn active(&self, index: usize) -> u32 {
        self.entries.get(index).map_or(u32::MAX, |entry| entry.host.active.get())
    }

    fn least(&self, random: &Random, choices: u32) -> usize {
        let draw = || random.below(self.entries.len() as u32) as usize;
        (1..choices).fold(draw(), |best, _| {
            let next = draw();
            if self.active(next) < self.active(best) { next } else { best }
        })
    }

    /// The weight of a host at this moment.
    fn weight(&self, index: usize, slow: Option<(&SlowStart, u64)>, bias: Option<f64>) -> f64 {
        let Some(Entry { host, weight, .. }) = self.entries.get(index) else { return 1.0 };
        let mut weight = f64::from((*weight).max(1));
        if let Some(bias) = bias.filter(|bias| *bias > 0.0) {
            let active = f64::from(host.active.get()) + 1.0;
            weight /= if bias == 1.0 { active } else { active.powf(bias) };
        }
        match slow {
            Some((slow, now)) => weight * ramp(slow, now.saturating_sub(host.health().since())),
            None => weight,
        }
    }

    /// The table over these hosts: another worker's if it has one.
    fn table(&self, settings: &Settings) -> Arc<Table> {
        let policy = settings.spec.model.lb;
        let members = self.members(settings);
        settings
            .spec
            .shared
            .table(|table| table.is_of(policy, &members), || Table::build(policy, members.clone()))
    }

    fn members(&self, settings: &Settings) -> Vec<Member> {
        let localities = &settings.endpoints.localities;
        let by_locality = settings.spec.model.locality_weighted && localities.iter().any(|l| l.weight > 0);
        // Sums over the hosts here, by locality or (at index 0) over all.
        let place = |entry: &Entry| if by_locality { entry.at.0 as usize } else { 0 };
        let mut sums = vec![0.0; localities.len().max(1)];
        for entry in &self.entries {
            if let Some(sum) = sums.get_mut(place(entry)) {
                *sum += f64::from(entry.weight.max(1));
            }
        }
        let locality_weight = |at: usize| localities.get(at).map_or(0.0, |l| f64::from(l.weight));
        let used = sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0);
        let whole: f64 = if by_locality { used.map(|(at, _)| locality_weight(at)).sum() } else { 1.0 };
        self.entries
            .iter()
            .map(|entry| {
                let sum = sums.get(place(entry)).copied().unwrap_or(1.0);
                let share = if by_locality { locality_weight(entry.at.0 as usize) / whole } else { 1.0 };
                Member {
                    key: self.key(entry, settings),
                    weight: share * f64::from(entry.weight.max(1)) / sum,
                }
            })
            .collect()
    }

    fn key(&self, entry: &Entry, settings: &Settings) -> Box<str> {
        let (locality, place) = entry.at;
        let locality = settings.endpoints.localities.get(locality as usize);
        let endpoint: Option<&Endpoint> = locality.and_then(|l| l.endpoints.get(place as usize));
        let named = |endpoint: &Endpoint| match endpoint.metadata.get("hash_key") {
            Some(key) if !key.is_empty() => Some(key.as_str().into()),
            _ if settings.spec.model.hash_by_hostname && !endpoint.hostname.is_empty() => {
                Some(endpoint.hostname.as_str().into())
            }
            _ => None,
        };
        endpoint.and_then(named).unwrap_or_else(|| entry.host.shown().into())
    }
}

/// Share of its weight a host of this age (in milliseconds) gets.
fn ramp(slow: &SlowStart, age: u64) -> f64 {
    let window = slow.window.as_millis() as f64;
    let age = age.max(1) as f64;
    if age >= window {
        return 1.0;
    }
    (age / window).powf(1.0 / slow.aggression.max(f64::MIN_POSITIVE)).max(slow.min_weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ramps_as_documented() {
        let mut slow = SlowStart { window: Duration::from_secs(100), aggression: 1.0, min_weight: 0.1 };
        assert_eq!(
            [0, 5_000, 50_000, 99_000, 100_000].map(|age| ramp(&slow, age)),
            [0.1, 0.1, 0.5, 0.99, 1.0]
        );
        slow.aggression = 2.0;
        assert!((ramp(&slow, 25_000) - 0.5).abs() < 1e-9);
    }
}
