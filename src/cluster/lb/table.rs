//! Consistent hashing: Ketama rings and Maglev tables over the keys of hosts.
//!
//! Built at the first pick that needs one and shared by all workers. Built from the sorted keys alone, so
//! that the order in which hosts are listed does not matter.

use crate::model::{HashFunction, LbPolicy};
use crate::util::hash::{murmur2, xxh64};

/// One host of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    /// What it is hashed by: `hash_key` of its metadata, its name, or its address.
    pub(super) key: Box<str>,
    /// Its share of 1.
    pub(super) weight: f64,
}

/// A table over members; gives indexes into them.
#[derive(Debug)]
pub struct Table {
    policy: LbPolicy,
    members: Vec<Member>,
    slots: Slots,
}

#[derive(Debug)]
enum Slots {
    /// Points in ascending order.
    Ring(Vec<(u64, u32)>),
    /// Owner of each slot.
    Maglev(Vec<u32>),
}

impl Table {
    /// The table of `policy` (ring hash or Maglev) over `members`, of which there is at least one.
    pub(super) fn build(policy: LbPolicy, members: Vec<Member>) -> Table {
        let mut order: Vec<u32> = (0..members.len() as u32).collect();
        let key = |index: u32| members.get(index as usize).map(|member| &member.key);
        order.sort_by(|a, b| key(*a).cmp(&key(*b)));
        let sorted = order.iter().filter_map(|index| Some((*index, members.get(*index as usize)?)));
        let sorted: Vec<(u32, &Member)> = sorted.collect();
        let slots = match policy {
            LbPolicy::Maglev { table_size } => Slots::Maglev(maglev(&sorted, table_size)),
            LbPolicy::RingHash { min, max, function } => Slots::Ring(ring(&sorted, min, max, function)),
            _ => Slots::Ring(ring(&sorted, 1024, 8 << 20, HashFunction::XxHash)),
        };
        Table { policy, members, slots }
    }

    /// Whether it is the table of `policy` over `members`.
    pub(super) fn is_of(&self, policy: LbPolicy, members: &[Member]) -> bool {
        self.policy == policy && self.members == members
    }

    /// The member that owns `hash`; each further `attempt` asks for another.
    pub(super) fn find(&self, hash: u64, attempt: u32) -> usize {
        let owner = match &self.slots {
            Slots::Ring(points) => {
                let at = points.partition_point(|(point, _)| *point < hash) + attempt as usize;
                points.get(at % points.len().max(1)).map_or(0, |(_, owner)| *owner)
            }
            Slots::Maglev(owners) => {
                let hash = if attempt > 0 { hash ^ (u64::MAX - u64::from(attempt) + 1) } else { hash };
                owners.get((hash % (owners.len() as u64).max(1)) as usize).copied().unwrap_or(0)
            }
        };
        owner as usize
    }

    /// Points or slots.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        match &self.slots {
            Slots::Ring(points) => points.len(),
            Slots::Maglev(owners) => owners.len(),
        }
    }
}

/// Points in proportion to the weights: the lightest member gets a whole number of them, all together at
/// least `min` and at most `max`. The point number `i` of a member is the hash of `key_i`.
fn ring(members: &[(u32, &Member)], min: u32, max: u32, function: HashFunction) -> Vec<(u64, u32)> {
    let lightest = members.iter().map(|(_, member)| member.weight).fold(1.0, f64::min).max(f64::MIN_POSITIVE);
    let scale = ((lightest * f64::from(min)).ceil() / lightest).min(f64::from(max));
    let mut points = Vec::with_capacity(scale.ceil() as usize);
    let (mut wanted, mut key) = (0.0, String::new());
    for (owner, member) in members {
        wanted += scale * member.weight;
        key.clear();
        key.push_str(&member.key);
        key.push('_');
        let stem = key.len();
        let mut number = 0u64;
        while (points.len() as f64) < wanted {
            use std::fmt::Write as _;
            key.truncate(stem);
            // Writing into a string cannot fail.
            let _ = write!(key, "{number}");
            let point = match function {
                HashFunction::XxHash => xxh64(key.as_bytes(), 0),
                HashFunction::MurmurHash2 => murmur2(key.as_bytes(), MURMUR_SEED),
            };
            points.push((point, *owner));
            number += 1;
        }
    }
    points.sort_unstable();
    points
}

/// The seed of libstdc++'s `std::hash`.
const MURMUR_SEED: u64 = 0xc70f_6907;

/// Members take turns choosing their next free slot in the order of their own permutation; lighter ones pass
/// in some rounds.
fn maglev(members: &[(u32, &Member)], size: u32) -> Vec<u32> {
    struct Turn {
        owner: u32,
        offset: u64,
        skip: u64,
        weight: f64,
        target: f64,
    }
    const FREE: u32 = u32::MAX;
    let size = u64::from(size.max(2));
    let heaviest = members.iter().map(|(_, member)| member.weight).fold(0.0, f64::max);
    let mut turns: Vec<Turn> = members
        .iter()
        .map(|(owner, member)| {
            let key = member.key.as_bytes();
            let (offset, skip) = (xxh64(key, 0) % size, xxh64(key, 1) % (size - 1) + 1);
            Turn { owner: *owner, offset, skip, weight: member.weight, target: 0.0 }
        })
        .collect();
    let mut slots = vec![FREE; size as usize];
    let mut left = slots.len();
    let mut round = 0.0;
    while left > 0 && heaviest > 0.0 {
        round += 1.0;
        for turn in &mut turns {
            if left == 0 {
                break;
            }
            if round * turn.weight < turn.target {
                continue;
            }
            turn.target += heaviest;
            // The size is prime: the permutation visits every slot.
            while slots.get(turn.offset as usize).is_some_and(|slot| *slot != FREE) {
                turn.offset = (turn.offset + turn.skip) % size;
            }
            if let Some(slot) = slots.get_mut(turn.offset as usize) {
                *slot = turn.owner;
                left -= 1;
            }
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::random::Random;

    const RING: LbPolicy = LbPolicy::RingHash { min: 1024, max: 8 << 20, function: HashFunction::XxHash };
    const MURMUR: LbPolicy =
        LbPolicy::RingHash { min: 1024, max: 8 << 20, function: HashFunction::MurmurHash2 };
    const MAGLEV: LbPolicy = LbPolicy::Maglev { table_size: 65_537 };

    fn members(numbers: impl IntoIterator<Item = u32>) -> Vec<Member> {
        let mut members: Vec<_> = numbers
            .into_iter()
            .map(|n| Member { key: format!("10.0.{}.{}:80", n / 256, n % 256).into(), weight: 1.0 })
            .collect();
        let weight = 1.0 / members.len() as f64;
        members.iter_mut().for_each(|member| member.weight = weight);
        members
    }

    fn owner(table: &Table, hash: u64) -> &str {
        &table.members[table.find(hash, 0)].key
    }

    fn moved(a: &Table, b: &Table) -> f64 {
        let random = Random::seeded(1);
        let tries = 100_000;
        let moved = (0..tries).map(|_| random.next()).filter(|hash| owner(a, *hash) != owner(b, *hash));
        moved.count() as f64 / f64::from(tries)
    }

    #[test]
    fn one_host_more_moves_little_and_the_order_nothing() {
        for policy in [RING, MURMUR, MAGLEV] {
            let hundred = Table::build(policy, members(0..100));
            let more = Table::build(policy, members(0..101));
            assert!(moved(&hundred, &more) <= 0.03, "{policy:?}: {}", moved(&hundred, &more));
            let back = Table::build(policy, members((0..100).rev()));
            assert_eq!(moved(&hundred, &back), 0.0, "{policy:?}");
            let fewer = Table::build(policy, members(1..100));
            assert!(moved(&hundred, &fewer) <= 0.03, "{policy:?}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        for policy in [RING, MAGLEV] {
            let mut three = members(0..3);
            [0.2, 0.3, 0.5].iter().zip(&mut three).for_each(|(weight, member)| member.weight = *weight);
            let table = Table::build(policy, three);
            let (random, mut counts) = (Random::seeded(2), [0u32; 3]);
            (0..100_000).for_each(|_| counts[table.find(random.next(), 0)] += 1);
            for (count, wanted) in counts.iter().zip([20_000.0, 30_000.0, 50_000.0]) {
                assert!((f64::from(*count) / wanted - 1.0).abs() < 0.15, "{policy:?} {counts:?}");
            }
        }
    }

    #[test]
    fn sizes_keep_to_their_bounds() {
        assert_eq!(Table::build(RING, members(0..100)).size(), 1_100, "11 points each");
        let small = LbPolicy::RingHash { min: 10, max: 50, function: HashFunction::XxHash };
        assert_eq!(Table::build(small, members(0..100)).size(), 50);
        assert_eq!(Table::build(small, members(0..1)).size(), 10);
        assert_eq!(Table::build(MAGLEV, members(0..7)).size(), 65_537);
    }

    #[test]
    fn maglev_slots_are_even() {
        let table = Table::build(MAGLEV, members(0..10));
        let Slots::Maglev(owners) = &table.slots else { panic!() };
        for member in 0..10 {
            let share = owners.iter().filter(|owner| **owner == member).count();
            assert!(share.abs_diff(6_553) <= 1, "{share}");
        }
    }

    #[test]
    fn a_point_belongs_to_the_next_one_up_and_wraps() {
        let table = Table::build(RING, members(0..3));
        let Slots::Ring(points) = &table.slots else { panic!() };
        let (first, last) = (points[0], points[points.len() - 1]);
        assert_eq!(table.find(first.0, 0), first.1 as usize);
        assert_eq!(table.find(last.0.wrapping_add(1), 0), first.1 as usize);
        assert_eq!(table.find(first.0, 1), points[1].1 as usize);
        // The first point of the first host, as anybody can compute it.
        assert!(points.contains(&(xxh64(b"10.0.0.0:80_0", 0), 0)));
    }
}
