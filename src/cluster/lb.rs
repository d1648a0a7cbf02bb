//! Load balancing among the hosts that may take requests.

use super::Host;
use crate::model::LbPolicy;
use crate::util::random::Random;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

/// Hosts of equal standing with their weights, and the state of the policy.
pub struct Balancer {
    hosts: Vec<(Rc<Host>, u32)>,
    policy: LbPolicy,
    weighted: bool,
    cursor: Cell<usize>,
    /// Earliest-deadline-first queue: (deadline in units of 2⁻³² / weight, index). Built at first use.
    queue: RefCell<BinaryHeap<Reverse<(u64, usize)>>>,
}

impl Balancer {
    /// `hosts` in configured order. Round robin starts at a random host, so that many small proxies do not
    /// all begin with the first.
    pub fn new(hosts: Vec<(Rc<Host>, u32)>, policy: LbPolicy, random: &Random) -> Self {
        let weighted = hosts.windows(2).any(|pair| match pair {
            [a, b] => a.1 != b.1,
            _ => false,
        });
        let cursor = Cell::new(random.below(hosts.len() as u32) as usize);
        Balancer { hosts, policy, weighted, cursor, queue: RefCell::default() }
    }

    /// The next host. Hosts `avoid` accepts are passed over as long as others are left.
    pub fn pick(&self, random: &Random, avoid: impl Fn(&Host) -> bool) -> Option<&Rc<Host>> {
        let mut last = None;
        for _ in 0..self.hosts.len().clamp(1, 16) {
            let (host, _) = self.hosts.get(self.index(random))?;
            if !avoid(host) {
                return Some(host);
            }
            last = Some(host);
        }
        self.hosts.iter().map(|(host, _)| host).find(|host| !avoid(host)).or(last)
    }

    fn index(&self, random: &Random) -> usize {
        match self.policy {
            LbPolicy::RoundRobin if self.weighted => self.earliest(random),
            LbPolicy::RoundRobin => {
                let next = self.cursor.get() + 1;
                self.cursor.set(if next >= self.hosts.len() { 0 } else { next });
                self.cursor.get()
            }
            LbPolicy::Random if self.weighted => self.by_weight(random),
            LbPolicy::Random => random.below(self.hosts.len() as u32) as usize,
            LbPolicy::LeastRequest { choices } => self.least(random, choices.max(2)),
        }
    }

    fn least(&self, random: &Random, choices: u32) -> usize {
        let draw = || {
            if self.weighted {
                self.by_weight(random)
            } else {
                random.below(self.hosts.len() as u32) as usize
            }
        };
        let active = |index: usize| self.hosts.get(index).map_or(u32::MAX, |(host, _)| host.active.get());
        (1..choices).fold(draw(), |best, _| {
            let next = draw();
            if active(next) < active(best) { next } else { best }
        })
    }

    fn by_weight(&self, random: &Random) -> usize {
        let total: u64 = self.hosts.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut point = random.next() % total.max(1);
        self.hosts
            .iter()
            .position(|(_, weight)| {
                let weight = u64::from(*weight);
                let hit = point < weight;
                point = point.saturating_sub(weight);
                hit
            })
            .unwrap_or(0)
    }

    fn earliest(&self, random: &Random) -> usize {
        let step = |index: usize| (1u64 << 32) / u64::from(self.hosts.get(index).map_or(1, |h| h.1).max(1));
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            // Spread over the first period, else all workers would start with the heaviest host.
            queue.extend(
                (0..self.hosts.len()).map(|index| Reverse((random.next() % step(index).max(1), index))),
            );
        }
        let Some(Reverse((deadline, index))) = queue.pop() else { return 0 };
        queue.push(Reverse((deadline.wrapping_add(step(index)), index)));
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Address;

    fn hosts(weights: &[u32]) -> Vec<(Rc<Host>, u32)> {
        let address = |port| Address::Ip(([127, 0, 0, 1], port).into());
        let registry = crate::telemetry::Registry::new();
        let host = |port| Host::new("c", address(port), String::new(), &registry);
        (1..).zip(weights).map(|(port, weight)| (host(port), *weight)).collect()
    }

    fn counts(policy: LbPolicy, weights: &[u32], picks: usize) -> Vec<usize> {
        let random = Random::seeded(7);
        let hosts = hosts(weights);
        let balancer = Balancer::new(hosts.clone(), policy, &random);
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            let host = balancer.pick(&random, |_| false).unwrap();
            counts[hosts.iter().position(|(h, _)| Rc::ptr_eq(h, host)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_is_even_and_weighted_round_robin_exact() {
        assert_eq!(counts(LbPolicy::RoundRobin, &[1, 1, 1], 300), [100, 100, 100]);
        let weighted = counts(LbPolicy::RoundRobin, &[1, 2, 5], 800);
        for (count, wanted) in weighted.iter().zip([100, 200, 500]) {
            assert!(count.abs_diff(wanted) <= 1, "{weighted:?}");
        }
    }

    #[test]
    fn random_follows_weights_and_least_request_avoids_the_busy() {
        let random = counts(LbPolicy::Random, &[1, 3], 4000);
        assert!(random[0].abs_diff(1000) < 150, "{random:?}");
        let generator = Random::seeded(1);
        let hosts = hosts(&[1, 1]);
        hosts[0].0.active.set(5);
        let balancer = Balancer::new(hosts.clone(), LbPolicy::LeastRequest { choices: 2 }, &generator);
        let busy = (0..1000)
            .filter(|_| Rc::ptr_eq(balancer.pick(&generator, |_| false).unwrap(), &hosts[0].0))
            .count();
        // Only when both draws hit the busy one: a quarter.
        assert!((150..350).contains(&busy), "{busy}");
    }

    #[test]
    fn avoids_what_was_tried_while_others_are_left() {
        let random = Random::seeded(3);
        let hosts = hosts(&[1, 1]);
        let balancer = Balancer::new(hosts.clone(), LbPolicy::RoundRobin, &random);
        for _ in 0..10 {
            let pick = balancer.pick(&random, |host| std::ptr::eq(host, &*hosts[0].0)).unwrap();
            assert!(Rc::ptr_eq(pick, &hosts[1].0));
        }
        assert!(balancer.pick(&random, |_| true).is_some());
    }
}
