//! Priorities and localities over one set of hosts.

use super::edf::Edf;
use super::group::{Entry, Group};
use super::priority::{self, Counts, Loads};
use super::{Hosts, PickContext, Picked, Settings};
use crate::cluster::{Host, PENDING_ACTIVE};
use crate::model::{Health, LbPolicy};
use crate::util::random::Random;
use std::rc::Rc;

/// The order among a set of hosts.
pub(super) struct Levels {
    loads: Loads,
    levels: Vec<Level>,
    /// The level that takes everything, when health and localities play no part.
    only: Option<usize>,
}

/// One priority. What gets no load is empty.
struct Level {
    healthy: Source,
    degraded: Source,
}

enum Source {
    Hosts(Group),
    /// Groups and their weights.
    Localities(Edf, Vec<(f64, Group)>),
}

/// What a level is made from.
#[derive(Default)]
struct Material {
    priority: u32,
    counts: Counts,
    localities: Vec<Place>,
}

/// One locality of a level.
#[derive(Default)]
struct Place {
    weight: u32,
    /// All hosts but those that are excluded.
    total: usize,
    healthy: Vec<Entry>,
    degraded: Vec<Entry>,
    /// Neither of both.
    others: Vec<Entry>,
}

impl Levels {
    /// The hosts at the places `keep` accepts.
    pub(super) fn new(
        settings: &Settings,
        hosts: &Hosts,
        random: &Random,
        keep: impl Fn(usize, usize) -> bool,
    ) -> Self {
        Levels::with_threshold(settings.spec.model.panic_threshold, settings, hosts, random, keep)
    }

    /// With another panic threshold, in percent, than the cluster's.
    pub(super) fn with_threshold(
        threshold: u32,
        settings: &Settings,
        hosts: &Hosts,
        random: &Random,
        keep: impl Fn(usize, usize) -> bool,
    ) -> Self {
        let material = collect(settings, hosts, keep);
        let counts: Vec<Counts> = material.iter().map(|level| level.counts).collect();
        let loads = priority::loads(&counts, settings.endpoints.overprovisioning, threshold);
        let mut levels = Vec::with_capacity(material.len());
        for (at, level) in material.into_iter().enumerate() {
            let load = |of: &[u32]| of.get(at).copied().unwrap_or(0);
            let panic = loads.panic.get(at).copied().unwrap_or(false);
            let (healthy, degraded) = (load(&loads.healthy), load(&loads.degraded));
            levels.push(Level::new(level, healthy, degraded, panic, settings, random));
        }
        let only = loads
            .only()
            .filter(|at| matches!(levels.get(*at), Some(Level { healthy: Source::Hosts(_), .. })));
        Levels { loads, levels, only }
    }

    /// Whether any priority ignores health.
    pub(super) fn panics(&self) -> bool {
        self.loads.panic.contains(&true)
    }

    /// See [`super::Balancer::pick`].
    pub(super) fn pick(
        &self,
        settings: &Settings,
        ctx: &PickContext<'_>,
        random: &Random,
        avoid: &impl Fn(&Host) -> bool,
    ) -> Option<Picked<'_>> {
        if let Some(at) = self.only
            && let Some(Level { healthy: Source::Hosts(group), .. }) = self.levels.get(at)
        {
            let host = group.pick(settings, random, ctx.hash, avoid)?;
            return Some(Picked { host, panic: false });
        }
        let number = match ctx.hash {
            Some(hash) if is_hashing(settings.spec.model.lb) => hash,
            _ => random.next(),
        };
        let (at, degraded) = self.loads.choose(number);
        let level = self.levels.get(at)?;
        let panic = self.loads.panic.get(at).copied().unwrap_or(false);
        if panic && settings.spec.model.fail_on_panic {
            return None;
        }
        let source = if degraded && !panic { &level.degraded } else { &level.healthy };
        let host = source.pick(settings, ctx, random, avoid)?;
        Some(Picked { host, panic })
    }
}

impl Level {
    fn new(
        material: Material,
        healthy: u32,
        degraded: u32,
        panic: bool,
        settings: &Settings,
        random: &Random,
    ) -> Self {
        let group = |entries| Group::new(entries, settings, random);
        if panic {
            let all = in_order(material.localities, |place| {
                let Place { healthy, degraded, others, .. } = place;
                [healthy, degraded, others].into_iter().flatten()
            });
            return Level { healthy: Source::Hosts(group(all)), degraded: Source::Hosts(group(Vec::new())) };
        }
        let (mut well, mut worse) = (Vec::new(), Vec::new());
        for place in material.localities {
            well.push((place.weight, place.total, place.healthy));
            worse.push((place.weight, place.total, place.degraded));
        }
        let source = |parts: Vec<(u32, usize, Vec<Entry>)>, load: u32| {
            if load == 0 {
                return Source::Hosts(group(Vec::new()));
            }
            Source::new(parts, settings, random)
        };
        Level { healthy: source(well, healthy), degraded: source(worse, degraded) }
    }
}

/// The entries of all places in the order of the assignment.
fn in_order<I: Iterator<Item = Entry>>(places: Vec<Place>, of: impl Fn(Place) -> I) -> Vec<Entry> {
    let mut all: Vec<Entry> = places.into_iter().flat_map(of).collect();
    all.sort_by_key(|entry| entry.at);
    all
}

impl Source {
    /// From localities: weight, hosts in all, and the hosts that count.
    fn new(parts: Vec<(u32, usize, Vec<Entry>)>, settings: &Settings, random: &Random) -> Self {
        let model = &settings.spec.model;
        // Tables carry the weights of localities in themselves.
        let by_weight =
            model.locality_weighted && !is_hashing(model.lb) && parts.iter().any(|(w, ..)| *w > 0);
        if !by_weight {
            let all = parts.into_iter().flat_map(|(_, _, entries)| entries).collect();
            return Source::Hosts(Group::new(all, settings, random));
        }
        let factor = f64::from(settings.endpoints.overprovisioning) / 100.0;
        let weighted = parts.into_iter().filter(|(weight, _, entries)| *weight > 0 && !entries.is_empty());
        let groups = weighted.map(|(weight, total, entries)| {
            let available = (factor * entries.len() as f64 / total.max(1) as f64).min(1.0);
            (f64::from(weight) * available, Group::new(entries, settings, random))
        });
        Source::Localities(Edf::default(), groups.collect())
    }

    fn pick(
        &self,
        settings: &Settings,
        ctx: &PickContext<'_>,
        random: &Random,
        avoid: &impl Fn(&Host) -> bool,
    ) -> Option<&Rc<Host>> {
        let group = match self {
            Source::Hosts(group) => group,
            Source::Localities(order, groups) => {
                let weight = |at: usize| groups.get(at).map_or(1.0, |(weight, _)| *weight);
                let host = groups.get(order.next(groups.len(), weight, random))?;
                let host = host.1.pick(settings, random, ctx.hash, avoid)?;
                // One to avoid is taken only when every locality has no other.
                if !avoid(host) {
                    return Some(host);
                }
                let other =
                    groups.iter().filter_map(|(_, group)| group.pick(settings, random, ctx.hash, avoid));
                return Some(other.into_iter().find(|other| !avoid(other)).unwrap_or(host));
            }
        };
        if group.is_empty() { None } else { group.pick(settings, random, ctx.hash, avoid) }
    }
}

pub(in crate::cluster) fn is_hashing(policy: LbPolicy) -> bool {
    matches!(policy, LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. })
}

/// Sorts hosts by priority, locality and health.
fn collect(settings: &Settings, hosts: &Hosts, keep: impl Fn(usize, usize) -> bool) -> Vec<Material> {
    let exclude = settings.spec.model.ignore_unchecked;
    let mut levels: Vec<Material> = Vec::new();
    for (outer, locality) in settings.endpoints.localities.iter().enumerate() {
        let mut place = Place { weight: locality.weight, ..Place::default() };
        let mut counts = Counts::default();
        for (inner, endpoint) in locality.endpoints.iter().enumerate() {
            let Some(host) = hosts.get(&endpoint.address).filter(|_| keep(outer, inner)) else { continue };
            let entry = Entry {
                host: host.clone(),
                weight: endpoint.weight.max(1),
                at: (outer as u32, inner as u32),
            };
            counts.hosts += 1;
            if exclude && host.health().flags() & PENDING_ACTIVE != 0 {
                place.others.push(entry);
                continue;
            }
            counts.total += 1;
            place.total += 1;
            match host.health().health(endpoint.health) {
                Health::Healthy => {
                    counts.healthy += 1;
                    place.healthy.push(entry);
                }
                Health::Degraded => {
                    counts.degraded += 1;
                    place.degraded.push(entry);
                }
                Health::Unhealthy | Health::Draining => place.others.push(entry),
            }
        }
        let level = match levels.iter_mut().position(|level| level.priority == locality.priority) {
            Some(at) => levels.get_mut(at),
            None => {
                levels.push(Material { priority: locality.priority, ..Material::default() });
                levels.last_mut()
            }
        };
        let Some(level) = level else { continue };
        level.counts.healthy += counts.healthy;
        level.counts.degraded += counts.degraded;
        level.counts.total += counts.total;
        level.counts.hosts += counts.hosts;
        level.localities.push(place);
    }
    levels.sort_by_key(|level| level.priority);
    levels
}
