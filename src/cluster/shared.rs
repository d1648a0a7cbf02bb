//! What all workers and the control thread know together about one cluster.
//!
//! Owns the health of hosts by address (kept over pushes for as long as anybody holds the host), the number
//! that tells workers to look at it again, and the hash tables built from it. Only atomics and swapped
//! pointers: nobody waits for anybody.

use super::lb::Table;
use crate::model::{Address, Health, OutlierDetection};
use arc_swap::ArcSwapOption;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use tokio::sync::mpsc;
use tokio::time::Instant;

type HostMap = HashMap<Address, Weak<HostState>, foldhash::fast::FixedState>;

/// An active check failed.
pub const FAILED_ACTIVE: u32 = 1;
/// Ejected as an outlier.
pub const FAILED_OUTLIER: u32 = 2;
/// The first active check has not ended.
pub const PENDING_ACTIVE: u32 = 4;
/// An active check called it degraded.
pub const DEGRADED_ACTIVE: u32 = 8;
/// The last active check got no answer in time.
pub const ACTIVE_TIMEOUT: u32 = 16;
/// A response told that checks would fail.
pub const EXCLUDED_IMMEDIATE: u32 = 32;

/// At least one active check has ended.
const CHECKED: u32 = 64;

/// Shared state of one cluster name.
pub struct Shared {
    /// Goes up whenever the health of a host changes.
    epoch: AtomicU64,
    /// A worker has used the cluster: checks go at their full pace from then on.
    used: AtomicBool,
    begin: Instant,
    hosts: ArcSwapOption<HostMap>,
    tables: ArcSwapOption<Vec<Weak<Table>>>,
    detector: ArcSwapOption<mpsc::Sender<Suspicion>>,
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            epoch: AtomicU64::new(0),
            used: AtomicBool::new(false),
            begin: Instant::now(),
            hosts: ArcSwapOption::empty(),
            tables: ArcSwapOption::empty(),
            detector: ArcSwapOption::empty(),
        }
    }
}

/// A worker's word that a host failed too often in a row.
#[derive(Clone, Debug)]
pub struct Suspicion {
    /// The host.
    pub host: Arc<HostState>,
    /// What it did.
    pub kind: Streak,
}

/// What was counted in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streak {
    /// Server errors.
    FiveXx,
    /// 502, 503, 504.
    Gateway,
    /// Failures of our own making.
    LocalOrigin,
}

/// How a request to a host ended, as outlier detection sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Answered with this HTTP status (or its like).
    Status(u16),
    /// Answered, but broken: counts as a server error.
    Failed,
    /// Connecting failed, or the connection broke.
    ConnectFailed,
    /// We gave up waiting.
    LocalTimeout,
    /// Connected, and nothing more is known (TCP).
    Connected,
}

impl Shared {
    /// Compared by workers with the one their balancer was built at.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// Makes every worker look at the hosts' health again.
    pub fn changed(&self) {
        self.epoch.fetch_add(1, Relaxed);
    }

    /// Whether any worker has used the cluster.
    pub fn is_used(&self) -> bool {
        self.used.load(Relaxed)
    }

    /// A worker uses it.
    pub fn set_used(&self) {
        self.used.store(true, Relaxed);
    }

    /// Milliseconds of this cluster's own clock, never 0.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// The states of `addresses`, in their order. New ones begin with the flags beside them.
    pub fn hosts(&self, addresses: &[(&Address, u32)]) -> Vec<Arc<HostState>> {
        let held = self.hosts.load();
        let find = |map: &Option<Arc<HostMap>>, address| map.as_ref()?.get(address)?.upgrade();
        let found: Vec<_> = addresses.iter().map(|(address, _)| find(&held, address)).collect();
        if found.iter().all(Option::is_some) {
            return found.into_iter().flatten().collect();
        }
        let now = self.now_ms();
        let mut made: Vec<Arc<HostState>> = Vec::new();
        self.hosts.rcu(|map| {
            // Another thread may have been first with some of them: its states count, or ejections would be
            // seen by half of the workers.
            let mut next: HostMap = HashMap::default();
            if let Some(map) = map {
                next.extend(
                    map.iter()
                        .filter(|(_, state)| state.strong_count() > 0)
                        .map(|(a, s)| (a.clone(), s.clone())),
                );
            }
            made.clear();
            for (address, flags) in addresses {
                let state = next.get(*address).and_then(Weak::upgrade).unwrap_or_else(|| {
                    let state = Arc::new(HostState::new(*flags, now));
                    next.insert((*address).clone(), Arc::downgrade(&state));
                    state
                });
                made.push(state);
            }
            Some(Arc::new(next))
        });
        made
    }

    /// The state of one host, if anybody holds it.
    pub fn host(&self, address: &Address) -> Option<Arc<HostState>> {
        self.hosts.load().as_ref()?.get(address)?.upgrade()
    }

    /// The table equal to the one `members` make: the one another worker has, or one that `build` makes.
    pub(super) fn table(&self, same: impl Fn(&Table) -> bool, build: impl FnOnce() -> Table) -> Arc<Table> {
        let find = |tables: &Option<Arc<Vec<Weak<Table>>>>| {
            tables.as_ref()?.iter().filter_map(Weak::upgrade).find(|table| same(table))
        };
        if let Some(table) = find(&self.tables.load()) {
            return table;
        }
        let made = Arc::new(build());
        let mut chosen = made.clone();
        self.tables.rcu(|tables| {
            if let Some(first) = find(tables) {
                chosen = first;
                return tables.clone();
            }
            chosen = made.clone();
            let held = tables.iter().flat_map(|t| t.iter()).filter(|t| t.strong_count() > 0).cloned();
            Some(Arc::new(held.chain([Arc::downgrade(&made)]).collect()))
        });
        chosen
    }

    /// Where suspicions go from now on.
    pub fn detect(&self, detector: Option<mpsc::Sender<Suspicion>>) {
        self.detector.store(detector.map(Arc::new));
    }

    /// Notes how a request to `host` ended.
    pub fn record(&self, config: &OutlierDetection, host: &Arc<HostState>, sign: Sign) {
        if let Some(kind) = host.record(config, sign)
            && let Some(detector) = &*self.detector.load()
        {
            // When the channel is full, the next failure of the streak says it again.
            let _ = detector.try_send(Suspicion { host: host.clone(), kind });
        }
    }
}

/// What is known about one host, whatever cluster version and worker asks.
#[derive(Debug, Default)]
pub struct HostState {
    flags: AtomicU32,
    /// When it was added, or last became healthy, in milliseconds of [`Shared::now_ms`].
    since: AtomicU64,
    streaks: [AtomicU32; 3],
    external: Tally,
    local: Tally,
    /// Success rate of the last interval in hundredths of a percent, plus one; 0: not enough requests.
    rate: AtomicU32,
    local_rate: AtomicU32,
}

/// Requests of one interval.
#[derive(Debug, Default)]
pub struct Tally {
    total: AtomicU32,
    good: AtomicU32,
}

impl Tally {
    fn add(&self, good: bool) {
        self.total.fetch_add(1, Relaxed);
        if good {
            self.good.fetch_add(1, Relaxed);
        }
    }

    /// Requests and successes since the last call.
    pub fn take(&self) -> (u32, u32) {
        let total = self.total.swap(0, Relaxed);
        // A request may be counted between the two: never more than all succeed.
        (total, self.good.swap(0, Relaxed).min(total))
    }
}

impl HostState {
    fn new(flags: u32, since: u64) -> Self {
        HostState { flags: flags.into(), since: since.into(), ..HostState::default() }
    }

    /// The flags above.
    pub fn flags(&self) -> u32 {
        self.flags.load(Relaxed)
    }

    /// Sets `set`, then clears `clear`; whether anything changed.
    pub fn update(&self, set: u32, clear: u32) -> bool {
        let before = self.flags.fetch_or(set, Relaxed);
        let between = before | set;
        if between & clear != 0 {
            self.flags.fetch_and(!clear, Relaxed);
        }
        before != between & !clear
    }

    /// Whether an active check of it has ended.
    pub fn is_checked(&self) -> bool {
        self.flags() & CHECKED != 0
    }

    /// See [`HostState::is_checked`].
    pub fn set_checked(&self) {
        self.flags.fetch_or(CHECKED, Relaxed);
    }

    /// Begins to count as new at `now`.
    pub fn begin(&self, now: u64) {
        self.since.store(now, Relaxed);
    }

    /// When it began to be healthy.
    pub fn since(&self) -> u64 {
        self.since.load(Relaxed)
    }

    /// What health it has where its endpoint says `eds`.
    pub fn health(&self, eds: Health) -> Health {
        let flags = self.flags();
        if flags == 0 {
            return eds;
        }
        if flags & (FAILED_ACTIVE | FAILED_OUTLIER) != 0 {
            return Health::Unhealthy;
        }
        match eds {
            Health::Healthy if flags & DEGRADED_ACTIVE != 0 => Health::Degraded,
            other => other,
        }
    }

    /// The counts of one interval: of upstream answers, and of connecting.
    pub fn tally(&self, local: bool) -> &Tally {
        if local { &self.local } else { &self.external }
    }

    /// Success rates of the last interval in percent, where there were enough requests.
    pub fn success_rate(&self, local: bool) -> Option<f64> {
        let cell = if local { &self.local_rate } else { &self.rate };
        cell.load(Relaxed).checked_sub(1).map(|rate| f64::from(rate) / 100.0)
    }

    /// The same, set at the end of an interval.
    pub fn set_success_rate(&self, local: bool, percent: Option<f64>) {
        let cell = if local { &self.local_rate } else { &self.rate };
        // Between 0 and 100: the cast keeps hundredths.
        cell.store(percent.map_or(0, |p| (p.clamp(0.0, 100.0) * 100.0) as u32 + 1), Relaxed);
    }

    /// Begins a streak anew.
    pub fn reset(&self, kind: Streak) {
        self.streak(kind).store(0, Relaxed);
    }

    fn streak(&self, kind: Streak) -> &AtomicU32 {
        let [five_xx, gateway, local] = &self.streaks;
        match kind {
            Streak::FiveXx => five_xx,
            Streak::Gateway => gateway,
            Streak::LocalOrigin => local,
        }
    }

    /// Counts one more of `kind`; whether that is a multiple of `limit`.
    fn grow(&self, kind: Streak, limit: u32) -> Option<Streak> {
        let now = self.streak(kind).fetch_add(1, Relaxed) + 1;
        (limit > 0 && now >= limit && now.is_multiple_of(limit)).then_some(kind)
    }

    fn end(&self, kind: Streak) {
        // A store would take the cache line from the other workers for nothing.
        if self.streak(kind).load(Relaxed) != 0 {
            self.reset(kind);
        }
    }

    /// Notes how a request ended; gives the streak that is long enough by it.
    fn record(&self, config: &OutlierDetection, sign: Sign) -> Option<Streak> {
        let status = match sign {
            Sign::Status(status) => status,
            Sign::Failed => 500,
            Sign::Connected if config.split_local_origin => {
                self.local.add(true);
                self.end(Streak::LocalOrigin);
                return None;
            }
            Sign::ConnectFailed | Sign::LocalTimeout if config.split_local_origin => {
                self.local.add(false);
                return self.grow(Streak::LocalOrigin, config.consecutive_local_origin_failure);
            }
            Sign::Connected => 200,
            Sign::ConnectFailed => 503,
            Sign::LocalTimeout => 504,
        };
        if config.split_local_origin {
            // An answer means that we had reached it.
            self.local.add(true);
            self.end(Streak::LocalOrigin);
        }
        self.external.add(status < 500);
        if status < 500 {
            self.end(Streak::FiveXx);
            self.end(Streak::Gateway);
            return None;
        }
        let five_xx = self.grow(Streak::FiveXx, config.consecutive_5xx);
        if !(502..=504).contains(&status) {
            self.end(Streak::Gateway);
            return five_xx;
        }
        let gateway = self.grow(Streak::Gateway, config.consecutive_gateway_failure);
        // The one that is enforced speaks when both are due.
        match (five_xx, gateway) {
            (Some(_), Some(_)) if config.enforcing_consecutive_5xx == 0 => gateway,
            (Some(kind), _) | (None, Some(kind)) => Some(kind),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address::Ip(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn states_live_as_long_as_somebody_holds_them() {
        let shared = Shared::default();
        let both = [address(1), address(2)];
        let with = |flags| both.iter().map(|address| (address, flags)).collect::<Vec<_>>();
        let held = shared.hosts(&with(0));
        held[0].update(FAILED_OUTLIER, 0);
        let again = shared.hosts(&with(FAILED_ACTIVE));
        assert!(Arc::ptr_eq(&held[0], &again[0]) && Arc::ptr_eq(&held[1], &again[1]));
        assert_eq!(again[0].flags(), FAILED_OUTLIER);
        drop((held, again));
        assert!(shared.host(&both[0]).is_none());
        assert_eq!(shared.hosts(&with(FAILED_ACTIVE))[0].flags(), FAILED_ACTIVE);
    }

    #[test]
    fn threads_that_meet_share_one_state() {
        let shared = Arc::new(Shared::default());
        let all: Vec<Address> = (1..200).map(address).collect();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (shared, all) = (shared.clone(), all.clone());
                std::thread::spawn(move || {
                    shared.hosts(&all.iter().map(|address| (address, 0)).collect::<Vec<_>>())
                })
            })
            .collect();
        let lists: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        for list in &lists {
            assert!(list.iter().zip(&lists[0]).all(|(a, b)| Arc::ptr_eq(a, b)));
        }
    }

    #[test]
    fn worst_of_the_three_bits_counts() {
        let host = HostState::default();
        assert_eq!(host.health(Health::Healthy), Health::Healthy);
        assert_eq!(host.health(Health::Draining), Health::Draining);
        assert!(host.update(DEGRADED_ACTIVE, 0));
        assert_eq!(host.health(Health::Healthy), Health::Degraded);
        assert!(host.update(FAILED_ACTIVE, DEGRADED_ACTIVE));
        assert!(!host.update(FAILED_ACTIVE, 0));
        assert_eq!(host.health(Health::Degraded), Health::Unhealthy);
        host.update(FAILED_OUTLIER, FAILED_ACTIVE);
        assert_eq!(host.health(Health::Healthy), Health::Unhealthy, "ejected although the check passes");
        host.update(0, FAILED_OUTLIER);
        assert_eq!(host.health(Health::Unhealthy), Health::Unhealthy, "back, but EDS says no");
    }

    #[test]
    fn streaks_end_with_a_success_and_repeat_themselves() {
        let config = OutlierDetection { consecutive_5xx: 3, ..OutlierDetection::default() };
        let host = HostState::default();
        let send = |sign| host.record(&config, sign);
        assert_eq!([500, 500, 200, 500, 500].map(|s| send(Sign::Status(s))), [None; 5]);
        assert_eq!(send(Sign::ConnectFailed), Some(Streak::FiveXx), "local failures count as 5xx");
        assert_eq!([send(Sign::Failed), send(Sign::LocalTimeout)], [None; 2]);
        assert_eq!(send(Sign::Status(500)), Some(Streak::FiveXx), "the word may have been lost");
        assert_eq!(host.tally(false).take(), (9, 1));
    }

    #[test]
    fn split_failures_count_apart() {
        let config =
            OutlierDetection { split_local_origin: true, consecutive_5xx: 2, ..OutlierDetection::default() };
        let host = HostState::default();
        let local: Vec<_> = (0..5).filter_map(|_| host.record(&config, Sign::ConnectFailed)).collect();
        assert_eq!(local, [Streak::LocalOrigin]);
        assert_eq!(host.tally(false).take(), (0, 0));
        assert_eq!(host.record(&config, Sign::Status(503)), None);
        assert_eq!(host.record(&config, Sign::Status(503)), Some(Streak::FiveXx));
    }
}
