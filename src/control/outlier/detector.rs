//! The decisions of outlier detection, without clock and task.

use super::stats::OutlierStats;
use crate::cluster::{ClusterSpec, FAILED_OUTLIER, HostState, Streak, Suspicion};
use crate::model::{Address, Endpoints, OutlierDetection};
use crate::util::random::Random;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Why a host is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    FiveXx,
    Gateway,
    LocalOrigin,
    SuccessRate,
    LocalSuccessRate,
    FailurePercentage,
    LocalFailurePercentage,
}

impl From<Streak> for Kind {
    fn from(streak: Streak) -> Self {
        match streak {
            Streak::FiveXx => Kind::FiveXx,
            Streak::Gateway => Kind::Gateway,
            Streak::LocalOrigin => Kind::LocalOrigin,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::FiveXx => "CONSECUTIVE_5XX",
            Kind::Gateway => "CONSECUTIVE_GATEWAY_FAILURE",
            Kind::LocalOrigin => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
            Kind::SuccessRate => "SUCCESS_RATE",
            Kind::LocalSuccessRate => "SUCCESS_RATE_LOCAL_ORIGIN",
            Kind::FailurePercentage => "FAILURE_PERCENTAGE",
            Kind::LocalFailurePercentage => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
        })
    }
}

/// Something for the event log.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) address: Address,
    pub(super) kind: Kind,
    /// `false`: only noticed.
    pub(super) enforced: bool,
    /// `false`: it came back.
    pub(super) ejected: bool,
    /// Ejections of this host so far.
    pub(super) times: u32,
    /// When something was done about it before.
    pub(super) since: Option<Instant>,
}

/// One host.
struct Monitor {
    state: Arc<HostState>,
    /// While it is ejected: since when, why, and how long beyond its time.
    ejection: Option<(Instant, Kind, Duration)>,
    /// Factor of the base time for its next ejection.
    backoff: u32,
    times: u32,
    last: Option<Instant>,
}

/// See the module.
pub(super) struct Detector {
    config: Arc<OutlierDetection>,
    monitors: BTreeMap<Address, Monitor>,
    random: Random,
    events: Vec<Event>,
    changed: bool,
}

impl Detector {
    pub(super) fn new(config: Arc<OutlierDetection>) -> Self {
        let (monitors, random) = (BTreeMap::new(), Random::default());
        Detector { config, monitors, random, events: Vec::new(), changed: false }
    }

    pub(super) fn interval(&self) -> Duration {
        self.config.interval
    }

    /// Hosts ejected now.
    pub(super) fn ejected(&self) -> usize {
        self.monitors.values().filter(|monitor| monitor.ejection.is_some()).count()
    }

    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether the health of any host has changed.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Takes over a new version or new hosts. Hosts that stay keep what is known of them.
    pub(super) fn follow(&mut self, spec: &ClusterSpec, endpoints: &Endpoints) {
        if let Some(config) = &spec.model.outlier {
            self.config = config.clone();
        }
        let addresses: Vec<_> = endpoints.iter().map(|e| (&e.address, spec.first_flags(e))).collect();
        let states = spec.shared.hosts(&addresses);
        let mut old = std::mem::take(&mut self.monitors);
        for ((address, _), state) in addresses.into_iter().zip(states) {
            let held = old.remove(address).filter(|held| Arc::ptr_eq(&held.state, &state));
            let fresh = || Monitor { state, ejection: None, backoff: 0, times: 0, last: None };
            self.monitors.entry(address.clone()).or_insert_with(|| held.unwrap_or_else(fresh));
        }
    }

    /// A worker saw a streak.
    pub(super) fn on_suspicion(&mut self, now: Instant, suspicion: &Suspicion, stats: &OutlierStats) {
        let found = self.monitors.iter().find(|(_, monitor)| Arc::ptr_eq(&monitor.state, &suspicion.host));
        let Some((address, monitor)) = found else { return };
        if monitor.ejection.is_some() {
            return;
        }
        let address = address.clone();
        stats.detected(suspicion.kind.into());
        self.eject(now, &address, suspicion.kind.into(), stats);
        suspicion.host.reset(suspicion.kind);
    }

    fn enforcing(&self, kind: Kind) -> u32 {
        let config = &self.config;
        match kind {
            Kind::FiveXx => config.enforcing_consecutive_5xx,
            Kind::Gateway => config.enforcing_consecutive_gateway_failure,
            Kind::LocalOrigin => config.enforcing_consecutive_local_origin_failure,
            Kind::SuccessRate => config.enforcing_success_rate,
            Kind::LocalSuccessRate => config.enforcing_local_origin_success_rate,
            Kind::FailurePercentage => config.enforcing_failure_percentage,
            Kind::LocalFailurePercentage => config.enforcing_failure_percentage_local_origin,
        }
    }

    fn eject(&mut self, now: Instant, address: &Address, kind: Kind, stats: &OutlierStats) {
        let (ejected, hosts) = (self.ejected() as u64, self.monitors.len() as u64);
        let allowed = 100 * (ejected + 1) <= u64::from(self.config.max_ejection_percent) * hosts;
        if !(allowed || self.config.always_eject_one && ejected == 0) {
            stats.overflow.inc();
            return;
        }
        let enforced = self.random.below(100) < self.enforcing(kind);
        let jitter =
            self.config.max_ejection_time_jitter.mul_f64(f64::from(self.random.below(1 << 16)) / 65_536.0);
        let (base, max) = (self.config.base_ejection_time, self.config.max_ejection_time);
        let Some(monitor) = self.monitors.get_mut(address) else { return };
        if matches!(kind, Kind::FiveXx | Kind::SuccessRate) {
            stats.total.inc();
        }
        if enforced {
            stats.enforced(kind);
            monitor.ejection = Some((now, kind, jitter));
            monitor.times += 1;
            if base.saturating_mul(monitor.backoff + 1) <= max.max(base) {
                monitor.backoff += 1;
            }
            monitor.state.update(FAILED_OUTLIER, 0);
            self.changed = true;
        }
        let (times, since) = (monitor.times, monitor.last);
        if enforced {
            monitor.last = Some(now);
        }
        self.events.push(Event { address: address.clone(), kind, enforced, ejected: true, times, since });
    }

    /// The end of an interval: ejections end, rates are looked at.
    pub(super) fn on_interval(&mut self, now: Instant, stats: &OutlierStats) {
        let max = self.config.max_ejection_time.max(self.config.base_ejection_time);
        for (address, monitor) in &mut self.monitors {
            let Some((since, kind, jitter)) = monitor.ejection else {
                monitor.backoff = monitor.backoff.saturating_sub(1);
                continue;
            };
            // A passed active check may have ended it already.
            let cleared = monitor.state.flags() & FAILED_OUTLIER == 0;
            let time = self.config.base_ejection_time.saturating_mul(monitor.backoff).min(max) + jitter;
            if !cleared && now.saturating_duration_since(since) < time {
                continue;
            }
            monitor.ejection = None;
            monitor.state.update(0, FAILED_OUTLIER);
            for streak in [Streak::FiveXx, Streak::Gateway, Streak::LocalOrigin] {
                monitor.state.reset(streak);
            }
            self.changed = true;
            let times = monitor.times;
            let (address, last) = (address.clone(), monitor.last.replace(now));
            self.events.push(Event { address, kind, enforced: true, ejected: false, times, since: last });
        }
        self.analyse(now, false, stats);
        if self.config.split_local_origin {
            self.analyse(now, true, stats);
        }
    }

    /// Success rates of the interval that ends.
    fn analyse(&mut self, now: Instant, local: bool, stats: &OutlierStats) {
        let config = self.config.clone();
        let (mut by_rate, mut by_percentage) = (Vec::new(), Vec::new());
        for (address, monitor) in &self.monitors {
            let (total, good) = monitor.state.tally(local).take();
            let counts = total > 0
                && total >= config.success_rate_request_volume.min(config.failure_percentage_request_volume)
                && monitor.ejection.is_none();
            let rate = 100.0 * f64::from(good) / f64::from(total.max(1));
            monitor.state.set_success_rate(local, counts.then_some(rate));
            if !counts {
                continue;
            }
            if total >= config.success_rate_request_volume {
                by_rate.push((address.clone(), rate));
            }
            if total >= config.failure_percentage_request_volume {
                by_percentage.push((address.clone(), rate));
            }
        }
        if !by_rate.is_empty() && by_rate.len() >= config.success_rate_minimum_hosts as usize {
            let count = by_rate.len() as f64;
            let mean = by_rate.iter().map(|(_, rate)| rate).sum::<f64>() / count;
            let variance = by_rate.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
            let limit = mean - variance.sqrt() * f64::from(config.success_rate_stdev_factor) / 1000.0;
            let kind = if local { Kind::LocalSuccessRate } else { Kind::SuccessRate };
            self.eject_all(now, by_rate.into_iter().filter(|(_, rate)| *rate < limit), kind, stats);
        }
        if !by_percentage.is_empty()
            && by_percentage.len() >= config.failure_percentage_minimum_hosts as usize
        {
            let limit = f64::from(config.failure_percentage_threshold);
            let kind = if local { Kind::LocalFailurePercentage } else { Kind::FailurePercentage };
            let failing = by_percentage.into_iter().filter(|(_, rate)| 100.0 - rate >= limit);
            self.eject_all(now, failing, kind, stats);
        }
    }

    fn eject_all(
        &mut self,
        now: Instant,
        hosts: impl Iterator<Item = (Address, f64)>,
        kind: Kind,
        stats: &OutlierStats,
    ) {
        for (address, _) in hosts {
            stats.detected(kind);
            if self.monitors.get(&address).is_some_and(|monitor| monitor.ejection.is_none()) {
                self.eject(now, &address, kind, stats);
            }
        }
    }
}

impl Drop for Detector {
    /// Without anybody to end it, no ejection may last.
    fn drop(&mut self) {
        for monitor in self.monitors.values() {
            monitor.state.update(0, FAILED_OUTLIER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{BreakerState, Shared, Sign};
    use crate::model::{Cluster, ClusterId, Discovery};

    struct World {
        detector: Detector,
        spec: ClusterSpec,
        stats: OutlierStats,
        states: Vec<Arc<HostState>>,
        now: Instant,
    }

    fn address(port: u16) -> Address {
        Address::Ip(([127, 0, 0, 1], port).into())
    }

    impl World {
        fn new(config: OutlierDetection, hosts: u16) -> World {
            let endpoints = Endpoints::of("c", (0..hosts).map(address));
            let mut model = Cluster::new("c", Discovery::Static(Arc::default()));
            model.outlier = Some(Arc::new(config));
            let (breakers, shared) = (Arc::new(BreakerState::default()), Arc::new(Shared::default()));
            let spec = ClusterSpec {
                id: ClusterId(0),
                model: Arc::new(model),
                breakers,
                shared,
                sockets: Default::default(),
            };
            let mut detector = Detector::new(spec.model.outlier.clone().unwrap());
            detector.follow(&spec, &endpoints);
            let states = (0..hosts).map(|port| spec.shared.host(&address(port)).unwrap()).collect();
            World { detector, spec, stats: OutlierStats::default(), states, now: Instant::now() }
        }

        fn suspect(&mut self, host: usize, kind: Streak) {
            let suspicion = Suspicion { host: self.states[host].clone(), kind };
            self.detector.on_suspicion(self.now, &suspicion, &self.stats);
        }

        fn wait(&mut self, seconds: u64) {
            for _ in 0..seconds / 10 {
                self.now += Duration::from_secs(10);
                self.detector.on_interval(self.now, &self.stats);
            }
        }

        fn out(&self) -> Vec<usize> {
            (0..self.states.len()).filter(|at| self.states[*at].flags() & FAILED_OUTLIER != 0).collect()
        }

        fn requests(&self, host: usize, good: u32, bad: u32) {
            let config = self.spec.model.outlier.as_ref().unwrap();
            for status in (0..good).map(|_| 200).chain((0..bad).map(|_| 500)) {
                self.spec.shared.record(config, &self.states[host], Sign::Status(status));
            }
        }
    }

    #[test]
    fn ejection_times_grow_and_shrink_again() {
        let mut w = World::new(OutlierDetection::default(), 1);
        for wanted in [30, 60, 90] {
            w.suspect(0, Streak::FiveXx);
            assert_eq!(w.out(), [0usize; 1]);
            w.wait(wanted - 10);
            assert_eq!(w.out(), [0usize; 1], "{wanted}");
            w.wait(10);
            assert!(w.out().is_empty(), "{wanted}");
        }
        assert_eq!(w.stats.enforced_5xx.get(), 3);
        // Every healthy interval takes one step back.
        w.wait(30);
        w.suspect(0, Streak::FiveXx);
        w.wait(30);
        assert!(w.out().is_empty());
    }

    #[test]
    fn share_of_ejected_hosts_is_bounded_but_one_may_always_go() {
        let mut w =
            World::new(OutlierDetection { max_ejection_percent: 50, ..OutlierDetection::default() }, 4);
        (0..4).for_each(|host| w.suspect(host, Streak::FiveXx));
        assert_eq!((w.out(), w.stats.overflow.get()), (vec![0, 1], 2));
        let mut w =
            World::new(OutlierDetection { max_ejection_percent: 0, ..OutlierDetection::default() }, 4);
        (0..4).for_each(|host| w.suspect(host, Streak::FiveXx));
        assert_eq!(w.out(), [0usize; 1]);
        let strict = OutlierDetection {
            max_ejection_percent: 0,
            always_eject_one: false,
            ..OutlierDetection::default()
        };
        let mut w = World::new(strict, 4);
        w.suspect(0, Streak::FiveXx);
        assert!(w.out().is_empty());
    }

    #[test]
    fn what_is_not_enforced_is_only_counted() {
        let mut w = World::new(OutlierDetection::default(), 2);
        w.suspect(0, Streak::Gateway);
        assert!(w.out().is_empty());
        assert_eq!((w.stats.detected_gateway.get(), w.stats.enforced_total.get()), (1, 0));
        assert!(!w.detector.take_events()[0].enforced);
    }

    #[test]
    fn hosts_far_below_the_others_are_ejected() {
        let mut w = World::new(OutlierDetection::default(), 5);
        (0..4).for_each(|host| w.requests(host, 100, 0));
        w.requests(4, 50, 50);
        w.detector.on_interval(w.now, &w.stats);
        assert_eq!((w.out(), w.stats.enforced_rate.get()), (vec![4], 1));
        assert_eq!(w.states[4].success_rate(false), Some(50.0));
        // Too few requests: no verdict.
        let mut w = World::new(OutlierDetection::default(), 5);
        (0..5).for_each(|host| w.requests(host, 0, 40 * (host as u32 / 4)));
        w.detector.on_interval(w.now, &w.stats);
        assert!(w.out().is_empty());
    }

    #[test]
    fn failure_percentage_knows_no_neighbours() {
        let config = OutlierDetection {
            enforcing_failure_percentage: 100,
            enforcing_success_rate: 0,
            failure_percentage_minimum_hosts: 1,
            max_ejection_percent: 100,
            ..OutlierDetection::default()
        };
        let mut w = World::new(config, 2);
        w.requests(0, 7, 43);
        w.requests(1, 8, 42);
        w.detector.on_interval(w.now, &w.stats);
        assert_eq!(w.out(), [0usize; 1], "86 % and 84 % of 85 %");
    }

    #[test]
    fn pushes_keep_ejections_and_removed_hosts_are_forgotten() {
        let mut w = World::new(OutlierDetection::default(), 2);
        w.suspect(0, Streak::FiveXx);
        w.detector.follow(&w.spec, &Endpoints::of("c", (0..3).map(address)));
        assert_eq!((w.out(), w.detector.ejected()), (vec![0], 1));
        w.detector.follow(&w.spec, &Endpoints::of("c", (1..3).map(address)));
        assert_eq!(w.detector.ejected(), 0);
    }
}
