//! Random sequences of sets against what must always hold.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;

const DOMAINS: [&str; 3] = ["a.com", "b.com", "*"];

#[derive(Clone, Debug)]
enum Op {
    /// One set.
    Push(Vec<Part>),
    Wait(u64),
    Reap,
    /// A slow stream pins the current snapshot.
    Pin,
    Unpin,
}

#[derive(Clone, Debug)]
enum Part {
    Fixed(u8, u16),
    Eds(u8, u8, Option<u64>),
    NoCluster(u8),
    Hosts(u8, u16),
    NoHosts(u8),
    Routes(u8, Vec<(u8, Vec<u8>)>),
    NoRoutes(u8),
    Listener(u8, u16, Filter),
    NoListener(u8),
}

#[derive(Clone, Debug)]
enum Filter {
    Tcp(Vec<u8>),
    Rds(u8, Option<u64>),
    Inline(Vec<(u8, Vec<u8>)>),
}

/// Per domain: the virtual host that has it, and the clusters of that virtual host.
fn hosts_strategy() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    prop::collection::vec((0..3u8, prop::collection::vec(0..4u8, 1..3)), 0..4)
}

fn part() -> impl Strategy<Value = Part> {
    let filter = prop_oneof![
        prop::collection::vec(0..4u8, 1..3).prop_map(Filter::Tcp),
        (0..2u8, prop::option::of(1..20u64)).prop_map(|(r, t)| Filter::Rds(r, t)),
        hosts_strategy().prop_map(Filter::Inline),
    ];
    prop_oneof![
        2 => (0..4u8, 1..4u16).prop_map(|(c, p)| Part::Fixed(c, p)),
        4 => (0..4u8, 0..2u8, prop::option::of(1..20u64)).prop_map(|(c, v, t)| Part::Eds(c, v, t)),
        2 => (0..4u8).prop_map(Part::NoCluster),
        4 => (0..4u8, 1..4u16).prop_map(|(c, p)| Part::Hosts(c, p)),
        1 => (0..4u8).prop_map(Part::NoHosts),
        4 => (0..2u8, hosts_strategy()).prop_map(|(r, h)| Part::Routes(r, h)),
        1 => (0..2u8).prop_map(Part::NoRoutes),
        4 => (0..3u8, 80..84u16, filter).prop_map(|(l, p, f)| Part::Listener(l, p, f)),
        2 => (0..3u8).prop_map(Part::NoListener),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => prop::collection::vec(part(), 1..6).prop_map(Op::Push),
        3 => prop_oneof![1..900u64, 1_000..17_000u64].prop_map(Op::Wait),
        1 => Just(Op::Reap),
        1 => Just(Op::Pin),
        1 => Just(Op::Unpin),
    ]
}

fn config(name: &str, hosts: &[(u8, Vec<u8>)]) -> Arc<RouteConfig> {
    let mut by_host: BTreeMap<u8, (Vec<&str>, &[u8])> = BTreeMap::new();
    for (domain, (host, clusters)) in DOMAINS.iter().zip(hosts) {
        let entry = by_host.entry(*host).or_insert((vec![], clusters));
        entry.0.push(domain);
    }
    let rows: Vec<(String, String, String)> = by_host
        .into_iter()
        .map(|(host, (domains, clusters))| {
            let clusters: Vec<_> = clusters.iter().map(|c| format!("c{c}")).collect();
            (format!("v{host}"), domains.join(" "), clusters.join(" "))
        })
        .collect();
    let rows: Vec<Vh<'_>> = rows.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
    table(name, &rows)
}

fn change(part: &Part) -> Change {
    match part {
        Part::Fixed(c, port) => fixed(&format!("c{c}"), *port),
        Part::Eds(c, variant, timeout) => {
            let mut model = eds_model(&format!("c{c}"), timeout.map(secs));
            if *variant == 1 {
                model.connect_timeout = secs(1);
            }
            Change::Cluster(Arc::new(model))
        }
        Part::NoCluster(c) => Change::ClusterRemoved(format!("c{c}")),
        Part::Hosts(c, port) => endpoints(&format!("c{c}"), *port),
        Part::NoHosts(c) => Change::EndpointsWithdrawn(format!("eds-c{c}")),
        Part::Routes(r, hosts) => Change::Routes(config(&format!("r{r}"), hosts)),
        Part::NoRoutes(r) => Change::RoutesWithdrawn(format!("r{r}")),
        Part::Listener(l, port, filter) => {
            let filter = match filter {
                Filter::Tcp(clusters) => {
                    let names: Vec<_> = clusters.iter().map(|c| format!("c{c}")).collect();
                    tcp(&names.join(" "))
                }
                Filter::Rds(r, timeout) => {
                    rpc(RouteSource::Rds { name: format!("r{r}"), initial_fetch_timeout: timeout.map(secs) })
                }
                Filter::Inline(hosts) => rpc(RouteSource::Inline(config("inline", hosts))),
            };
            listener(&format!("l{l}"), *port, filter)
        }
        Part::NoListener(l) => Change::ListenerRemoved(format!("l{l}")),
    }
}

/// A table by domain: the names its body names and the ids it was compiled to.
fn bodies(snapshot: &Snapshot, id: RouteId) -> BTreeMap<String, (BTreeSet<String>, Vec<ClusterId>)> {
    let hosts = snapshot.route_table(id).into_iter().flat_map(|table| table.hosts());
    hosts
        .flat_map(|host| {
            let names: BTreeSet<String> = host.model.clusters().map(Into::into).collect();
            let ids: Vec<_> = host.clusters().collect();
            host.model.domains.iter().map(move |domain| (domain.clone(), (names.clone(), ids.clone())))
        })
        .collect()
}

/// Per domain the cluster that requests go to: all routes here match everything, so the first one's.
fn first_targets(snapshot: &Snapshot, id: RouteId) -> BTreeMap<String, String> {
    let hosts = snapshot.route_table(id).into_iter().flat_map(|table| table.hosts());
    hosts
        .flat_map(|host| {
            let first = host.model.clusters().next().unwrap_or_default().to_owned();
            host.model.domains.iter().map(move |domain| (domain.clone(), first.clone()))
        })
        .collect()
}

fn is_ready(snapshot: &Snapshot, name: &str) -> bool {
    let id = snapshot.names.get(name);
    id.is_some_and(|id| matches!(snapshot.cluster(*id), ClusterSlot::Ready(_)))
}

fn table_of(spec: &ListenerSpec) -> Option<RouteId> {
    match &spec.chains[0].filter {
        FilterSpec::Rpc { routes, .. } => Some(*routes),
        _ => None,
    }
}

fn tcp_names(spec: &ListenerSpec) -> BTreeSet<String> {
    match &spec.chains[0].filter {
        FilterSpec::Tcp { config, .. } => config.clusters.iter().map(|c| c.name.clone()).collect(),
        _ => BTreeSet::new(),
    }
}

fn check_ids(builder: &Builder, new: &Snapshot) {
    for (name, id) in &new.names {
        match new.cluster(*id) {
            ClusterSlot::Absent => panic!("{name} is absent but has an id"),
            ClusterSlot::Warming => {}
            ClusterSlot::Ready(entry) => assert_eq!((entry.spec.id, &*entry.spec.model.name), (*id, &**name)),
        }
    }
    let present = new.clusters.iter().filter(|slot| !matches!(slot, ClusterSlot::Absent)).count();
    assert_eq!(present, new.names.len());
    let named = |names: &BTreeSet<String>, ids: &[ClusterId]| {
        let by_id: BTreeSet<String> = ids.iter().map(|id| builder.clusters.name(*id).to_string()).collect();
        assert_eq!(*names, by_id);
    };
    for at in 0..new.routes.len() {
        for (names, ids) in bodies(new, RouteId(at as u32)).values() {
            named(names, ids);
        }
    }
    for spec in new.listeners.values() {
        if let FilterSpec::Tcp { clusters, .. } = &spec.chains[0].filter {
            named(&tcp_names(spec), &clusters.clusters().collect::<Vec<_>>());
        }
    }
}

fn check_shared(old: &Snapshot, new: &Snapshot) {
    for (name, spec) in &new.listeners {
        if let Some(before) = old.listeners.get(name).filter(|before| before.model == spec.model) {
            assert!(Arc::ptr_eq(before, spec), "listener {name} was made anew");
        }
    }
    for (name, id) in &new.names {
        let (ClusterSlot::Ready(a), ClusterSlot::Ready(b)) = (old.cluster(*id), new.cluster(*id)) else {
            continue;
        };
        if a.spec.model == b.spec.model {
            assert!(Arc::ptr_eq(&a.spec, &b.spec), "cluster {name} was made anew");
        }
        if a.endpoints == b.endpoints {
            assert!(Arc::ptr_eq(&a.endpoints, &b.endpoints), "hosts of {name} were made anew");
        }
    }
    for (a, b) in old.routes.iter().zip(&new.routes) {
        let (Some(a), Some(b)) = (a, b) else { continue };
        for host in b.hosts() {
            let mut equal = a.hosts().iter().filter(|before| before.model == host.model).peekable();
            assert!(equal.peek().is_none() || equal.any(|before| Arc::ptr_eq(before, host)));
        }
    }
}

/// What served goes on serving while it is configured, and every address with it.
fn check_no_gap(builder: &Builder, old: &Snapshot, new: &Snapshot) {
    for name in old.names.keys().filter(|name| is_ready(old, name)) {
        let state = builder.clusters.find(name).and_then(|id| builder.clusters.get(id));
        if state.is_some_and(|state| state.model.current().is_some()) {
            assert!(is_ready(new, name), "{name} stopped");
        }
    }
    for name in old.listeners.keys() {
        assert!(
            builder.listeners.accepted(name).is_none() || new.listeners.contains_key(name),
            "{name} gone"
        );
    }
    let addresses = |snapshot: &Snapshot| -> Vec<Address> {
        snapshot.listeners.values().flat_map(|spec| spec.model.addresses.clone()).collect()
    };
    let open = addresses(new);
    assert_eq!(open.iter().collect::<BTreeSet<_>>().len(), open.len(), "an address is open twice");
    for address in addresses(old) {
        let claimed = builder.addresses.claims.keys().any(|claim| claim.address == address);
        assert!(!claimed || open.contains(&address), "{address} has no server");
    }
    for (_, table) in builder.tables.iter().filter(|(_, table)| table.applied.is_some()) {
        let wanted: BTreeSet<&String> =
            table.wanted.iter().flat_map(|t| &t.virtual_hosts).flat_map(|h| &h.domains).collect();
        let applied: BTreeSet<&String> =
            table.applied.iter().flat_map(|a| &a.bodies).flat_map(|b| &b.0.model.domains).collect();
        assert!(applied.is_subset(&wanted), "domains are those of the newest version");
        let held: BTreeSet<&String> = table.holds.values().flat_map(|hold| &hold.model.domains).collect();
        assert!(wanted.difference(&applied).all(|domain| held.contains(domain)), "a domain is lost");
    }
}

/// Nothing that worked is turned to a cluster that does not serve, unless its time was over and it was said.
fn check_holds(builder: &Builder, events: &[Event], old: &Snapshot, new: &Snapshot) {
    let said = |cluster: &str| {
        events.iter().any(|event| match event {
            Event::HoldExpired { clusters, .. } | Event::ListenerCold { clusters, .. } => {
                clusters.iter().any(|name| **name == *cluster)
            }
            _ => false,
        })
    };
    let broken = |before: &BTreeSet<String>, after: &BTreeSet<String>, what: &str| {
        for name in after.difference(before) {
            let excused = is_ready(new, name) || is_ready(old, name) || said(name);
            assert!(excused, "{what} was turned to {name}, which does not serve: {events:?}");
        }
    };
    for (id, table) in builder.tables.iter() {
        let (first_before, first_after) = (first_targets(old, id), first_targets(new, id));
        // Requests for what a table does not list yet met something else so far.
        for (domain, after) in first_after.iter().filter(|_| old.route_table(id).is_some()) {
            // Other routes of the old body may have named it: those that are met did not.
            let before = first_before.get(domain).cloned().into_iter().collect();
            broken(&before, &[after.clone()].into(), &format!("{domain} of {}", table.key));
        }
        let before = bodies(old, id);
        for (domain, (names, _)) in bodies(new, id) {
            if let Some((old_names, _)) = before.get(&domain) {
                broken(old_names, &names, &format!("{domain} of {}", table.key));
            }
        }
    }
    for (name, spec) in &new.listeners {
        // What connections to its address, or to it elsewhere, met before.
        let same = |other: &&Arc<ListenerSpec>| {
            other.model.name == spec.model.name || other.model.addresses == spec.model.addresses
        };
        let before: Vec<_> = old.listeners.values().filter(same).collect();
        if before.is_empty() || before.iter().any(|other| table_of(other).is_some()) {
            continue;
        }
        let named = before.iter().flat_map(|other| tcp_names(other)).collect();
        broken(&named, &tcp_names(spec), name);
    }
}

struct Run {
    world: World,
    pins: Vec<Arc<Snapshot>>,
    all: Vec<Weak<Snapshot>>,
}

impl Run {
    fn step(&mut self, act: impl FnOnce(&mut World)) {
        let w = &mut self.world;
        let before = w.snapshot.clone();
        act(w);
        let events = w.builder.take_events();
        check_gauges(&w.builder);
        if w.snapshot.generation != before.generation {
            self.all.push(Arc::downgrade(&w.snapshot));
            check_ids(&w.builder, &w.snapshot);
            check_no_gap(&w.builder, &before, &w.snapshot);
            check_holds(&w.builder, &events, &before, &w.snapshot);
            check_shared(&before, &w.snapshot);
        }
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.world.now + duration;
        // One deadline at a time, so that each publication is checked against the one before.
        while let Some(at) = self.world.builder.deadline().filter(|at| *at <= end) {
            let step = at - self.world.now;
            self.step(|w| w.wait(step));
        }
        self.world.now = end;
    }

    fn run(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Push(parts) => self.step(|w| drop(w.push(parts.iter().map(change).collect()))),
                Op::Wait(ms) => self.wait(Duration::from_millis(*ms)),
                Op::Reap => self.step(World::reap),
                Op::Pin => self.pins.push(self.world.snapshot.clone()),
                Op::Unpin => drop(self.pins.pop()),
            }
        }
    }
}

/// A snapshot without ids and generations.
fn picture(w: &World) -> Vec<String> {
    let snapshot = &w.snapshot;
    let mut lines = Vec::new();
    for (name, id) in &snapshot.names {
        match snapshot.cluster(*id) {
            ClusterSlot::Ready(entry) => {
                lines.push(format!("{name} {:?} {:?}", entry.spec.model, entry.endpoints))
            }
            _ => lines.push(format!("{name} warming")),
        }
    }
    for (name, spec) in &snapshot.listeners {
        lines.push(format!("{name} {:?}", spec.model));
        if let Some(id) = table_of(spec) {
            let plain = |(domain, (names, _)): (String, (BTreeSet<String>, Vec<ClusterId>))| (domain, names);
            lines.push(format!("  {:?}", bodies(snapshot, id).into_iter().map(plain).collect::<Vec<_>>()));
        }
    }
    lines
}

/// The kept gauges are what counting gives.
fn check_gauges(builder: &Builder) {
    let counts = builder.counts();
    let clusters: Vec<_> = builder.clusters.iter().map(|(_, state)| state).collect();
    let active = clusters.iter().filter(|state| state.active.is_some()).count() as u64;
    let warming = clusters.iter().filter(|state| state.pending.is_some()).count() as u64;
    assert_eq!((counts.total_clusters_active, counts.total_clusters_warming), (active, warming));
    let tables: Vec<_> = builder.tables.iter().map(|(_, table)| table).collect();
    let applied = tables.iter().filter(|table| table.applied.is_some()).count() as u64;
    let held = tables.iter().map(|table| table.holds.len() as u64).sum::<u64>();
    assert_eq!((counts.total_routes, counts.held_virtual_hosts), (applied, held));
    for (id, table) in builder.tables.iter() {
        assert!(table.watches.watched().map(|(hold, _)| hold).eq(table.holds.keys()));
        for (_, cluster) in table.watches.watched() {
            let state = builder.clusters.get(cluster).unwrap();
            assert!(state.waiters.contains(&super::super::clusters::Waiter::Table(id)));
        }
    }
    for table in tables.iter().filter(|table| !table.holds.is_empty()) {
        let (applied, wanted) = (table.applied.as_ref().unwrap(), table.wanted.as_ref().unwrap());
        for hold in table.holds.values() {
            assert_eq!(wanted.virtual_hosts[hold.at], hold.model);
            let domains = applied.bodies[hold.bodies.clone()].iter().flat_map(|body| &body.0.model.domains);
            assert!(domains.collect::<BTreeSet<_>>().is_subset(&hold.model.domains.iter().collect()));
        }
    }
    let waiting = builder.listeners.states.values().filter(|state| state.pending.is_some());
    assert_eq!(counts.total_listeners_warming, waiting.count() as u64);
}

/// Everything that the builder accepted, as one set.
fn accepted(builder: &Builder) -> Vec<Change> {
    let clusters = builder.clusters.iter().filter_map(|(_, state)| state.model.current().cloned());
    let endpoints = builder.clusters.assignments.values().filter_map(|entry| entry.hosts.clone());
    let routes = builder.tables.rds.values().filter_map(|rds| rds.model.current().cloned());
    let listeners = builder.listeners.states.values().filter_map(|state| state.model.current().cloned());
    let mut all: Vec<_> = clusters.map(Change::Cluster).collect();
    all.extend(endpoints.map(Change::Endpoints));
    all.extend(routes.map(Change::Routes));
    all.extend(listeners.map(Change::Listener));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_sets_keeps_the_promises(ops in prop::collection::vec(op(), 1..40)) {
        let mut run = Run { world: World::new(), pins: Vec::new(), all: Vec::new() };
        run.run(&ops);

        // History does not matter once all is there and all holds are over.
        let missing = (0..4).map(|c| endpoints(&format!("c{c}"), 7));
        let tables = (0..2).map(|r| routes(&format!("r{r}"), &[("v", "*", "c0")]));
        run.step(|w| drop(w.push(missing.chain(tables).collect())));
        run.wait(secs(60));
        prop_assert_eq!(run.world.builder.deadline(), None);
        let mut fresh = World::new();
        let refused = fresh.push(accepted(&run.world.builder));
        prop_assert!(refused.is_empty());
        fresh.wait(secs(60));
        prop_assert_eq!(picture(&run.world), picture(&fresh));
        prop_assert_eq!(run.world.builder.counts().held_virtual_hosts, 0);

        // Everything goes, and nothing is left of it.
        let mut end: Vec<_> = (0..4).map(|c| Change::ClusterRemoved(format!("c{c}"))).collect();
        end.extend((0..4).map(|c| Change::EndpointsWithdrawn(format!("eds-c{c}"))));
        end.extend((0..2).map(|r| Change::RoutesWithdrawn(format!("r{r}"))));
        end.extend((0..3).map(|l| Change::ListenerRemoved(format!("l{l}"))));
        run.step(|w| drop(w.push(end)));
        run.pins.clear();
        run.wait(secs(20));
        for _ in 0..4 {
            run.step(World::reap);
            run.wait(secs(20));
        }
        let builder = &run.world.builder;
        prop_assert!(run.world.snapshot.names.is_empty() && run.world.snapshot.listeners.is_empty());
        prop_assert_eq!(builder.clusters.iter().count(), 0);
        prop_assert_eq!(builder.tables.iter().count(), 0);
        prop_assert!(builder.clusters.assignments.is_empty() && builder.tables.rds.is_empty());
        prop_assert!(builder.listeners.states.is_empty() && builder.addresses.claims.is_empty());
        prop_assert!(builder.addresses.open.is_empty() && builder.sockets().is_empty());
        prop_assert_eq!(builder.counts().kept_versions, 0);
        prop_assert_eq!(builder.interest(), Interest::default());
        let alive = run.all.iter().filter(|snapshot| snapshot.strong_count() > 0).count();
        prop_assert!(alive <= 1, "{} old snapshots are alive", alive);
        prop_assert!(builder.clusters.ids.len() <= 4 * (run.all.len() + 1));
    }
}
