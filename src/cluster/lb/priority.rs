//! Shares of the priorities: pure arithmetic, Envoy's own integers.

/// Hosts of one priority by health. `excluded` ones are in none of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) healthy: u64,
    pub(super) degraded: u64,
    /// All, those excluded left out.
    pub(super) total: u64,
    /// All of them.
    pub(super) hosts: u64,
}

/// Percent of the load each priority gets, by its healthy and by its degraded hosts; all add up to 100.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Loads {
    pub(super) healthy: Vec<u32>,
    pub(super) degraded: Vec<u32>,
    /// Priorities that ignore health.
    pub(super) panic: Vec<bool>,
}

/// `overprovisioning` and `panic_threshold` in percent.
pub(super) fn loads(levels: &[Counts], overprovisioning: u32, panic_threshold: u32) -> Loads {
    let share = |part: u64, level: &Counts| -> u32 {
        let share = u64::from(overprovisioning).saturating_mul(part).checked_div(level.total).unwrap_or(0);
        share.min(100) as u32
    };
    let health: Vec<u32> = levels.iter().map(|level| share(level.healthy, level)).collect();
    let degraded: Vec<u32> = levels.iter().map(|level| share(level.degraded, level)).collect();
    let available: u32 = health.iter().chain(&degraded).fold(0, |sum, part| sum.saturating_add(*part));
    let available = available.min(100);
    let mut loads = Loads {
        healthy: vec![0; levels.len()],
        degraded: vec![0; levels.len()],
        panic: vec![false; levels.len()],
    };
    if available == 0 {
        first(&mut loads.healthy, Some(0), 100);
    } else {
        let rest = distribute(&mut loads.healthy, &health, 100, available);
        let rest = distribute(&mut loads.degraded, &degraded, rest, available);
        // Rounding errors.
        match health.iter().position(|part| *part > 0) {
            Some(at) => first(&mut loads.healthy, Some(at), rest),
            None => first(&mut loads.degraded, degraded.iter().position(|part| *part > 0), rest),
        }
    }
    if panic_threshold == 0 || available == 100 {
        return loads;
    }
    loads.panic = levels.iter().map(|level| panics(level, panic_threshold)).collect();
    if loads.panic.iter().all(|panic| *panic) {
        by_size(&mut loads, levels);
    }
    loads
}

fn first(loads: &mut [u32], at: Option<usize>, more: u32) {
    if let Some(load) = at.and_then(|at| loads.get_mut(at)) {
        *load += more;
    }
}

/// Gives each priority what it can take, the first ones first; the rest that nobody took.
fn distribute(loads: &mut [u32], available: &[u32], mut total: u32, normalized: u32) -> u32 {
    for (load, part) in loads.iter_mut().zip(available) {
        *load = total.min(part * 100 / normalized.max(1));
        total -= *load;
    }
    total
}

fn panics(level: &Counts, threshold: u32) -> bool {
    let usable = (level.healthy + level.degraded) as f64;
    let percent = if level.total == 0 { 0.0 } else { 100.0 * usable / level.total as f64 };
    percent < f64::from(threshold)
}

/// Everything panics: the load follows the number of hosts.
fn by_size(loads: &mut Loads, levels: &[Counts]) {
    let all: u64 = levels.iter().map(|level| level.hosts).sum();
    loads.degraded.fill(0);
    loads.healthy.fill(0);
    if all == 0 {
        first(&mut loads.healthy, Some(0), 100);
        return;
    }
    let mut rest = 100;
    for (load, level) in loads.healthy.iter_mut().zip(levels) {
        *load = (100 * level.hosts / all) as u32;
        rest -= *load;
    }
    first(&mut loads.healthy, levels.iter().position(|level| level.hosts > 0), rest);
}

impl Loads {
    /// The priority of a number, and whether its degraded hosts are meant.
    pub(super) fn choose(&self, number: u64) -> (usize, bool) {
        let mut point = (number % 100) as u32;
        let parts = self.healthy.iter().enumerate().map(|(at, load)| (at, false, *load));
        let degraded = self.degraded.iter().enumerate().map(|(at, load)| (at, true, *load));
        for (at, degraded, load) in parts.chain(degraded) {
            if point < load {
                return (at, degraded);
            }
            point -= load;
        }
        (0, false)
    }

    /// The one priority that gets everything from its healthy hosts, if one does.
    pub(super) fn only(&self) -> Option<usize> {
        let at = self.healthy.iter().position(|load| *load == 100)?;
        (!self.panic.get(at).copied().unwrap_or(false)).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level(healthy: u64, degraded: u64, total: u64) -> Counts {
        Counts { healthy, degraded, total, hosts: total }
    }

    fn healthy(percents: &[u64]) -> Vec<u32> {
        let levels: Vec<_> = percents.iter().map(|p| level(*p, 0, 100)).collect();
        loads(&levels, 140, 0).healthy
    }

    #[test]
    fn the_documented_tables() {
        // Two priorities, P1 all healthy.
        for (p0, share) in [(100, 100), (72, 100), (71, 99), (50, 70), (25, 35), (0, 0)] {
            assert_eq!(healthy(&[p0, 100]), [share, 100 - share], "P0 {p0} % healthy");
        }
        // Both weak: normalised.
        assert_eq!(healthy(&[25, 25]), [50, 50]);
        // Three priorities.
        assert_eq!(healthy(&[100, 100, 100]), [100, 0, 0]);
        assert_eq!(healthy(&[72, 72, 100]), [100, 0, 0]);
        assert_eq!(healthy(&[71, 71, 100]), [99, 1, 0]);
        assert_eq!(healthy(&[50, 60, 100]), [70, 30, 0]);
        assert_eq!(healthy(&[50, 50, 50]), [70, 30, 0]);
        assert_eq!(healthy(&[25, 100, 100]), [35, 65, 0]);
        assert_eq!(healthy(&[25, 25, 100]), [35, 35, 30]);
        assert_eq!(healthy(&[25, 25, 20]), [37, 35, 28], "rounding goes to the first");
    }

    #[test]
    fn degraded_hosts_get_what_healthy_ones_cannot_take() {
        let all = loads(&[level(1, 1, 4), level(0, 4, 4)], 140, 0);
        assert_eq!((all.healthy, all.degraded), (vec![35, 0], vec![35, 30]));
        let only = loads(&[level(0, 4, 4)], 140, 50);
        assert_eq!((only.healthy, only.degraded, only.panic), (vec![0], vec![100], vec![false]));
    }

    #[test]
    fn panic_needs_a_threshold_and_a_shortage() {
        assert_eq!(loads(&[level(1, 0, 4)], 140, 50).panic, [true]);
        assert_eq!(loads(&[level(1, 0, 4)], 140, 0).panic, [false]);
        // P1 can take everything: no panic in P0 (documented).
        assert_eq!(loads(&[level(1, 0, 4), level(4, 0, 4)], 140, 50).panic, [false, false]);
        // Everything is short: by size.
        let all = loads(&[level(0, 0, 1), level(0, 0, 3)], 140, 50);
        assert_eq!((all.healthy, all.panic), (vec![25, 75], vec![true, true]));
        assert_eq!(loads(&[level(0, 0, 4)], 140, 0).healthy, [100], "to nobody: no host is healthy");
        assert_eq!(loads(&[level(0, 0, 0)], 140, 50).healthy, [100]);
    }

    proptest! {
        #[test]
        fn shares_add_up(parts in proptest::collection::vec((0u64..6, 0u64..6, 0u64..6), 1..5), factor in 1u32..400,
                         threshold in 0u32..=100, number in any::<u64>()) {
            let levels: Vec<_> = parts.iter().map(|(h, d, u)| level(*h, *d, h + d + u)).collect();
            let loads = loads(&levels, factor, threshold);
            let sum: u32 = loads.healthy.iter().chain(&loads.degraded).sum();
            prop_assert_eq!(sum, 100);
            let (at, degraded) = loads.choose(number);
            let chosen = if degraded { loads.degraded[at] } else { loads.healthy[at] };
            prop_assert!(chosen > 0);
        }
    }
}
