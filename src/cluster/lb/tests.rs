//! Picks over whole sets of hosts.

use super::*;
use crate::cluster::{BreakerState, FAILED_OUTLIER, Shared};
use crate::model::*;
use crate::telemetry::Registry;
use std::collections::BTreeMap;

struct World {
    balancer: Balancer,
    random: Random,
    hosts: Hosts,
    shared: Arc<Shared>,
}

fn addr(port: u16) -> Address {
    Address::Ip(([127, 0, 0, 1], port).into())
}

fn endpoint(port: u16) -> Endpoint {
    let mut all = Endpoints::of("c", [addr(port)]);
    all.localities.remove(0).endpoints.remove(0)
}

fn weighted(weights: &[u32]) -> Endpoints {
    let endpoints = (1..).zip(weights).map(|(port, weight)| Endpoint { weight: *weight, ..endpoint(port) });
    let mut all = Endpoints::of("c", []);
    all.localities[0].endpoints = endpoints.collect();
    all
}

/// Localities of `(priority, weight, ports)`.
fn places(places: &[(u32, u32, &[u16])]) -> Endpoints {
    let localities = places.iter().map(|(priority, weight, ports)| Locality {
        priority: *priority,
        weight: *weight,
        endpoints: ports.iter().map(|port| endpoint(*port)).collect(),
        ..Locality::default()
    });
    Endpoints { localities: localities.collect(), ..Endpoints::of("c", []) }
}

fn model(lb: LbPolicy) -> Cluster {
    let mut model = Cluster::new("c", Discovery::Static(Arc::default()));
    model.lb = lb;
    model
}

const LEAST: LbPolicy = LbPolicy::LeastRequest { choices: 2, bias: 1.0, full_scan: false };
const RING: LbPolicy = LbPolicy::RingHash { min: 1024, max: 8 << 20, function: HashFunction::XxHash };

impl World {
    fn new(model: Cluster, endpoints: Endpoints) -> World {
        Self::with(Arc::default(), Arc::new(model), Arc::new(endpoints), Hosts::default())
    }

    fn with(shared: Arc<Shared>, model: Arc<Cluster>, endpoints: Arc<Endpoints>, kept: Hosts) -> World {
        let (registry, random) = (Registry::new(), Random::seeded(7));
        let breakers = Arc::new(BreakerState::default());
        let spec = Arc::new(ClusterSpec {
            id: ClusterId(0),
            model,
            breakers,
            shared: shared.clone(),
            sockets: Default::default(),
        });
        let addresses: Vec<_> = endpoints.iter().map(|e| (&e.address, 0)).collect();
        let states = shared.hosts(&addresses);
        let host = |(e, state): (&Endpoint, _)| {
            let made = || Host::new("c", e.address.clone(), e.hostname.clone(), state, None, &registry);
            (e.address.clone(), kept.get(&e.address).cloned().unwrap_or_else(made))
        };
        let hosts: Hosts = endpoints.iter().zip(states).map(host).collect();
        let balancer = Balancer::new(spec, endpoints, &hosts, &random);
        World { balancer, random, hosts, shared }
    }

    /// The same with the hosts' health as it is now.
    fn again(self) -> World {
        let (spec, endpoints) = (&self.balancer.settings.spec, &self.balancer.settings.endpoints);
        World::with(self.shared.clone(), spec.model.clone(), endpoints.clone(), self.hosts.clone())
    }

    fn fail(&self, ports: &[u16]) {
        for port in ports {
            self.hosts[&addr(*port)].health().update(FAILED_OUTLIER, 0);
        }
    }

    fn pick(&self, ctx: &PickContext<'_>) -> Option<u16> {
        let picked = self.balancer.pick(ctx, &self.random, |_| false)?;
        picked.host.address.ip().map(|address| address.port())
    }

    fn counts(&self, picks: usize) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            *counts.entry(self.pick(&PickContext::default()).unwrap_or(0)).or_default() += 1;
        }
        counts
    }

    #[track_caller]
    fn expect(&self, picks: usize, wanted: &[(u16, usize)], tolerance: usize) {
        let counts = self.counts(picks);
        assert_eq!(counts.len(), wanted.len(), "{counts:?}");
        for (port, wanted) in wanted {
            assert!(counts[port].abs_diff(*wanted) <= tolerance, "{port} {counts:?}");
        }
    }
}

#[test]
fn round_robin_is_even_and_weighted_round_robin_exact() {
    World::new(model(LbPolicy::RoundRobin), weighted(&[1, 1, 1])).expect(
        300,
        &[(1, 100), (2, 100), (3, 100)],
        0,
    );
    World::new(model(LbPolicy::RoundRobin), weighted(&[1, 2, 5])).expect(
        800,
        &[(1, 100), (2, 200), (3, 500)],
        1,
    );
}

#[test]
fn random_knows_no_weights() {
    World::new(model(LbPolicy::Random), weighted(&[1, 3])).expect(4000, &[(1, 2000), (2, 2000)], 150);
}

#[test]
fn least_request_avoids_the_busy() {
    let world = World::new(model(LEAST), weighted(&[1, 1]));
    world.hosts[&addr(1)].active.set(5);
    // Only when both draws hit the busy one: a quarter.
    world.expect(1000, &[(1, 250), (2, 750)], 80);
    let scan = LbPolicy::LeastRequest { choices: 2, bias: 1.0, full_scan: true };
    let world = World::new(model(scan), weighted(&[1, 1, 1]));
    [(1, 5), (2, 1), (3, 2)].iter().for_each(|(port, n)| world.hosts[&addr(*port)].active.set(*n));
    world.expect(100, &[(2, 100)], 0);
}

#[test]
fn weighted_least_request_divides_weight_by_load() {
    let world = World::new(model(LEAST), weighted(&[2, 1]));
    world.hosts[&addr(1)].active.set(3);
    // 2/4 against 1/1.
    world.expect(900, &[(1, 300), (2, 600)], 2);
    let flat = LbPolicy::LeastRequest { choices: 2, bias: 0.0, full_scan: false };
    let world = World::new(model(flat), weighted(&[2, 1]));
    world.hosts[&addr(1)].active.set(3);
    world.expect(900, &[(1, 600), (2, 300)], 2);
}

#[test]
fn avoids_what_was_tried_while_others_are_left() {
    for lb in [LbPolicy::RoundRobin, RING, LbPolicy::Maglev { table_size: 65_537 }, LEAST, LbPolicy::Random] {
        let world = World::new(model(lb), weighted(&[1, 1]));
        let ctx = PickContext { hash: Some(1), ..PickContext::default() };
        for _ in 0..10 {
            let first = &world.hosts[&addr(1)];
            let picked =
                world.balancer.pick(&ctx, &world.random, |host| std::ptr::eq(host, &**first)).unwrap();
            assert_eq!(picked.host.address, addr(2), "{lb:?}");
        }
        assert!(world.balancer.pick(&ctx, &world.random, |_| true).is_some());
    }
}

#[test]
fn priorities_take_over_step_by_step() {
    let set = places(&[(0, 0, &[1, 2, 3, 4]), (1, 0, &[5, 6])]);
    let world = World::new(model(LbPolicy::RoundRobin), set);
    world.expect(400, &[(1, 100), (2, 100), (3, 100), (4, 100)], 0);
    world.fail(&[1, 2]);
    let world = world.again();
    // Half of four: 70 % stay.
    let counts = world.counts(10_000);
    let moved = counts[&5] + counts[&6];
    assert!(moved.abs_diff(3_000) < 250, "{counts:?}");
    assert!(!counts.contains_key(&1) && !counts.contains_key(&2));
    world.fail(&[3, 4]);
    world.again().expect(100, &[(5, 50), (6, 50)], 1);
}

#[test]
fn panic_serves_all_and_zero_serves_nobody() {
    let world = World::new(model(LbPolicy::RoundRobin), weighted(&[1, 1, 1, 1]));
    world.fail(&[1, 2, 3]);
    let world = world.again();
    world.expect(400, &[(1, 100), (2, 100), (3, 100), (4, 100)], 0);
    assert!(world.balancer.pick(&PickContext::default(), &world.random, |_| false).unwrap().panic);
    let rpc = PickContext { is_rpc: true, ..PickContext::default() };
    let picked = world.balancer.pick(&rpc, &world.random, |_| false);
    assert!(picked.is_none_or(|picked| !picked.panic), "RPC calls do not panic by default");
    let mut off = model(LbPolicy::RoundRobin);
    off.panic_threshold = 0;
    let world = World::new(off.clone(), weighted(&[1, 1]));
    world.fail(&[1]);
    let world = world.again();
    world.expect(10, &[(2, 10)], 0);
    world.fail(&[2]);
    assert!(world.again().pick(&PickContext::default()).is_none(), "503 UH");
    let mut refuse = model(LbPolicy::RoundRobin);
    refuse.fail_on_panic = true;
    let world = World::new(refuse, weighted(&[1, 1]));
    world.fail(&[1, 2]);
    assert!(world.again().pick(&PickContext::default()).is_none());
}

#[test]
fn localities_share_by_weight_and_health() {
    let mut by_locality = model(LbPolicy::RoundRobin);
    by_locality.locality_weighted = true;
    let set = places(&[(0, 1, &[1, 2]), (0, 3, &[3, 4, 5, 6])]);
    let world = World::new(by_locality.clone(), set);
    let counts = world.counts(800);
    assert_eq!((counts[&1] + counts[&2], counts[&3] + counts[&6]), (200, 300), "{counts:?}");
    // The heavy one at 1/4 of its hosts keeps 35 % of its weight: 1.05 to 1.
    world.fail(&[3, 4, 5]);
    let counts = world.again().counts(2_050);
    assert!(counts[&6].abs_diff(1_050) < 5, "{counts:?}");
    // Unweighted ones get nothing while others have weights.
    let world = World::new(by_locality, places(&[(0, 0, &[1]), (0, 2, &[2])]));
    world.expect(10, &[(2, 10)], 0);
}

#[test]
fn degraded_hosts_serve_when_healthy_ones_are_too_few() {
    let mut set = weighted(&[1, 1, 1, 1]);
    for endpoint in &mut set.localities[0].endpoints[1..] {
        endpoint.health = Health::Degraded;
    }
    let counts = World::new(model(LbPolicy::RoundRobin), set).counts(10_000);
    // 1 of 4 healthy takes 35 %.
    assert!(counts[&1].abs_diff(3_500) < 250, "{counts:?}");
}

#[test]
fn hashing_policies_stick_and_share_their_table() {
    for lb in [RING, LbPolicy::Maglev { table_size: 65_537 }] {
        let world = World::new(model(lb), weighted(&[1; 50]));
        let ctx = |hash| PickContext { hash: Some(hash), ..PickContext::default() };
        let owner = world.pick(&ctx(0x1234_5678_9abc_def0)).unwrap();
        assert!((0..20).all(|_| world.pick(&ctx(0x1234_5678_9abc_def0)) == Some(owner)));
        assert!(world.counts(1_000).len() > 40, "without a hash it is drawn");
        let (shared, spec) = (world.shared.clone(), &world.balancer.settings.spec);
        // Another worker, with hosts of its own.
        let other = World::with(
            shared,
            spec.model.clone(),
            world.balancer.settings.endpoints.clone(),
            Hosts::default(),
        );
        assert_eq!(other.pick(&ctx(0x1234_5678_9abc_def0)), Some(owner));
        let held = std::cell::Cell::new(0);
        let count = |_: &Table| {
            held.set(held.get() + 1);
            false
        };
        world.shared.table(count, || Table::build(lb, Vec::new()));
        assert_eq!(held.get(), 2, "one table, looked at before and after the building");
    }
}

#[test]
fn hash_keys_come_from_metadata_or_names() {
    let mut set = weighted(&[1, 1, 1]);
    for (endpoint, name) in set.localities[0].endpoints.iter_mut().zip(["a", "b", "c"]) {
        endpoint.hostname = name.into();
    }
    let mut renamed = set.clone();
    for (endpoint, name) in renamed.localities[0].endpoints.iter_mut().zip(["b", "c", "a"]) {
        endpoint.hostname.clear();
        endpoint.metadata.insert("hash_key".into(), name.into());
    }
    let mut by_name = model(RING);
    by_name.hash_by_hostname = true;
    let (named, keyed) = (World::new(by_name, set), World::new(model(RING), renamed));
    for hash in 0..100u64 {
        let ctx = PickContext { hash: Some(hash << 57), ..PickContext::default() };
        let (named, keyed) = (named.pick(&ctx).unwrap(), keyed.pick(&ctx).unwrap());
        assert_eq!([3, 1, 2][usize::from(named) - 1], keyed);
    }
}

#[test]
fn slow_start_gives_new_hosts_little() {
    let mut slow = model(LbPolicy::RoundRobin);
    let window = std::time::Duration::from_secs(3600);
    slow.slow_start = Some(SlowStart { window, aggression: 1.0, min_weight: 0.1 }.into());
    let world = World::new(slow, weighted(&[1, 1]));
    // One has been there for long, as its clock began late.
    world.expect(100, &[(1, 50), (2, 50)], 1);
    let mut fast = model(LbPolicy::RoundRobin);
    let window = std::time::Duration::from_nanos(1);
    fast.slow_start = Some(SlowStart { window, aggression: 1.0, min_weight: 0.1 }.into());
    World::new(fast, weighted(&[1, 3])).expect(400, &[(1, 100), (2, 300)], 2);
}

fn labelled(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn subset_world(fallback: Fallback, selectors: Vec<Selector>) -> World {
    let mut set = weighted(&[1, 1, 1, 1]);
    let labels: [&[(&str, &str)]; 4] = [
        &[("stage", "prod"), ("version", "1")],
        &[("stage", "prod"), ("version", "2")],
        &[("stage", "dev"), ("version", "2")],
        &[("stage", "dev")],
    ];
    for (endpoint, labels) in set.localities[0].endpoints.iter_mut().zip(labels) {
        endpoint.metadata = labelled(labels);
    }
    let mut model = model(LbPolicy::RoundRobin);
    let default_subset = labelled(&[("stage", "dev")]);
    model.subsets = Some(Arc::new(Subsets { fallback, default_subset, selectors, panic_mode_any: false }));
    World::new(model, set)
}

fn selector(keys: &[&str], fallback: Option<Fallback>, fallback_keys: &[&str]) -> Selector {
    let texts = |keys: &[&str]| keys.iter().map(|key| key.to_string()).collect();
    Selector { keys: texts(keys), fallback, fallback_keys: texts(fallback_keys), single_host: false }
}

#[test]
fn subsets_are_chosen_by_metadata_and_fall_back() {
    let selectors = vec![
        selector(&["stage", "version"], Some(Fallback::Keys), &["stage"]),
        selector(&["stage"], None, &[]),
        selector(&["version"], Some(Fallback::Any), &[]),
    ];
    let ask = |world: &World, criteria: &[(&str, &str)]| {
        let criteria: Vec<(Box<str>, Box<str>)> =
            criteria.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let ctx = PickContext { criteria: &criteria, ..PickContext::default() };
        let found: std::collections::BTreeSet<_> = (0..50).filter_map(|_| world.pick(&ctx)).collect();
        found.into_iter().collect::<Vec<_>>()
    };
    let world = subset_world(Fallback::None, selectors.clone());
    assert_eq!(ask(&world, &[("stage", "prod")]), [1, 2]);
    assert_eq!(ask(&world, &[("stage", "dev"), ("version", "2")]), [3]);
    assert_eq!(ask(&world, &[("stage", "dev"), ("version", "9")]), [3, 4], "fewer keys");
    assert_eq!(ask(&world, &[("version", "9")]), [1, 2, 3, 4], "its own fallback");
    assert_eq!(ask(&world, &[("stage", "test")]), [0u16; 0]);
    assert_eq!(ask(&world, &[("other", "x")]), [0u16; 0]);
    assert_eq!(ask(&world, &[]), [0u16; 0]);
    let world = subset_world(Fallback::DefaultSubset, selectors.clone());
    assert_eq!(ask(&world, &[]), [3, 4]);
    assert_eq!(ask(&world, &[("stage", "test")]), [3, 4]);
    let world = subset_world(Fallback::Any, selectors);
    assert_eq!(ask(&world, &[("stage", "test")]), [1, 2, 3, 4]);
}
