use super::*;

/// Clusters a and b, table r with hosts for a.com (→ a) and b.com (→ b), listener l.
fn base() -> World {
    let mut w = World::new();
    let table = routes("r", &[("va", "a.com", "a"), ("vb", "b.com", "b")]);
    w.push(vec![fixed("a", 1), fixed("b", 2), table, listener("l", 80, rds("r"))]);
    assert_eq!((w.targets("l", "a.com"), w.targets("l", "b.com")), (vec!["a".into()], vec!["b".into()]));
    w
}

#[test]
fn host_keeps_its_old_body_while_a_cluster_warms_and_its_neighbours_switch() {
    let mut w = base();
    w.push(vec![eds("c"), routes("r", &[("va", "a.com", "c"), ("vb", "b.com", "a")])]);
    assert_eq!(w.targets("l", "a.com"), ["a"]);
    assert_eq!(w.targets("l", "b.com"), ["a"]);
    let status = w.builder.status(w.now + secs(3));
    assert_eq!(status.tables[0].held[0].name, "va");
    assert_eq!(status.tables[0].held[0].blocked_by, ["cluster c warming, 3 s"]);
    let generation = w.snapshot.generation;
    w.push(vec![endpoints("c", 3)]);
    assert_eq!(w.snapshot.generation, generation + 1, "cluster and virtual host in one publication");
    assert_eq!(w.targets("l", "a.com"), ["c"]);
    assert!(w.ready("c"));
    assert_eq!(w.builder.counts().hold_expired, 0);
}

#[test]
fn hold_ends_after_route_hold_counted_and_named() {
    let mut w = base();
    w.push(vec![eds("c"), routes("r", &[("va", "a.com", "c")])]);
    w.wait(Duration::from_millis(14_999));
    assert_eq!(w.targets("l", "a.com"), ["a"]);
    w.wait(Duration::from_millis(1));
    assert_eq!(w.targets("l", "a.com"), ["c"]);
    let event =
        Event::HoldExpired { table: "r".into(), virtual_host: "va".into(), clusters: vec!["c".into()] };
    assert_eq!(w.builder.take_events(), [event]);
    assert_eq!(w.builder.counts().hold_expired, 1);
    // Applied as it is: a further version that names it again has nothing better to keep.
    w.push(vec![routes("r", &[("va", "a.com", "c b")])]);
    assert_eq!(w.targets("l", "a.com"), ["b", "c"]);
}

#[test]
fn later_pushes_do_not_prolong_a_hold() {
    let mut w = base();
    w.push(vec![eds("c")]);
    for n in 0..150 {
        w.push(vec![routes("r", &[("va", "a.com", if n % 2 == 0 { "c" } else { "c b" })])]);
        assert_eq!(w.targets("l", "a.com"), ["a"], "push {n}");
        w.wait(Duration::from_millis(100));
    }
    assert_eq!(w.targets("l", "a.com"), ["b", "c"]);
}

#[test]
fn unknown_cluster_is_held_two_seconds() {
    let mut w = base();
    w.push(vec![routes("r", &[("va", "a.com", "nobody")])]);
    w.wait(Duration::from_millis(1_999));
    assert_eq!(w.targets("l", "a.com"), ["a"]);
    w.wait(Duration::from_millis(1));
    assert_eq!(w.targets("l", "a.com"), ["nobody"]);
    assert!(!w.ready("nobody"));
}

#[test]
fn unknown_cluster_that_arrives_in_time_is_waited_for_as_warming() {
    let mut w = base();
    w.push(vec![routes("r", &[("va", "a.com", "c")])]);
    w.wait(secs(1));
    w.push(vec![eds("c")]);
    w.wait(secs(9));
    assert_eq!(w.targets("l", "a.com"), ["a"]);
    w.push(vec![endpoints("c", 3)]);
    assert_eq!(w.targets("l", "a.com"), ["c"]);
}

#[test]
fn new_hosts_match_what_they_matched_until_their_clusters_are_warm() {
    let mut w = base();
    let hosts = [
        ("va", "a.com", "a"),
        ("vn", "n.com", "c"),
        ("vm", "m.com", "d"),
        ("vb", "b.com", "a"),
        ("any", "*", "b"),
    ];
    w.push(vec![eds("c"), eds("d"), routes("r", &hosts)]);
    assert_eq!(w.targets("l", "b.com"), ["a"]);
    assert_eq!((w.targets("l", "n.com"), w.targets("l", "m.com")), (vec!["b".into()], vec!["b".into()]));
    assert_eq!(w.builder.counts().held_virtual_hosts, 2);
    w.push(vec![endpoints("d", 3)]);
    assert_eq!((w.targets("l", "n.com"), w.targets("l", "m.com")), (vec!["b".into()], vec!["d".into()]));
    w.wait(secs(14));
    assert_eq!(w.targets("l", "n.com"), ["b"]);
    w.wait(secs(1));
    assert_eq!(w.targets("l", "n.com"), ["c"]);
    assert_eq!(w.builder.counts().held_virtual_hosts, 0);
}

#[test]
fn bodies_are_kept_by_domain() {
    let mut w = base();
    // a.com and b.com change places, both to a cluster that warms; x.com is new to va.
    w.push(vec![eds("c"), routes("r", &[("va", "b.com x.com", "c"), ("vb", "a.com", "c")])]);
    assert_eq!(w.targets("l", "a.com"), ["a"]);
    assert_eq!(w.targets("l", "b.com"), ["b"]);
    assert_eq!(w.targets("l", "x.com"), ["no host"]);
    // Again, with an unrelated addition.
    w.push(vec![routes("r", &[("va", "b.com x.com", "c"), ("vb", "a.com", "c"), ("vz", "z.com", "b")])]);
    assert_eq!((w.targets("l", "a.com"), w.targets("l", "b.com")), (vec!["a".into()], vec!["b".into()]));
    w.push(vec![endpoints("c", 3)]);
    for host in ["a.com", "b.com", "x.com"] {
        assert_eq!(w.targets("l", host), ["c"]);
    }
    assert_eq!(w.builder.counts().held_virtual_hosts, 0);
}

#[test]
fn unchanged_hosts_and_tables_keep_their_arcs() {
    let mut w = base();
    let compiled = |w: &World, host: &str| {
        let FilterSpec::Rpc { routes, .. } = &w.listener("l").unwrap().chains[0].filter else { panic!() };
        let table = w.snapshot.route_table(*routes).unwrap().clone();
        (table.host(Some(host.as_bytes())).unwrap().clone(), table)
    };
    let (host, table) = compiled(&w, "b.com");
    w.push(vec![routes("r", &[("va", "a.com", "b"), ("vb", "b.com", "b")])]);
    assert!(Arc::ptr_eq(&host, &compiled(&w, "b.com").0));
    assert!(!Arc::ptr_eq(&table, &compiled(&w, "b.com").1));
    let (_, table) = compiled(&w, "b.com");
    let generation = w.snapshot.generation;
    w.push(vec![routes("r", &[("va", "a.com", "b"), ("vb", "b.com", "b")])]);
    assert!(Arc::ptr_eq(&table, &compiled(&w, "b.com").1));
    assert_eq!(generation, w.snapshot.generation);
}

#[test]
fn withdrawn_table_stays_while_a_listener_names_it() {
    let mut w = base();
    w.push(vec![Change::RoutesWithdrawn("r".into())]);
    assert_eq!(w.targets("l", "a.com"), ["a"]);
    assert!(w.builder.status(w.now).tables[0].withdrawn);
    w.push(vec![Change::ListenerRemoved("l".into())]);
    w.reap();
    assert!(w.builder.status(w.now).tables.is_empty());
    assert!(w.builder.interest().routes.is_empty());
    assert!(w.builder.tables.rds.is_empty());
}

#[test]
fn revert_of_a_held_host_is_no_change() {
    let mut w = base();
    w.push(vec![eds("c"), routes("r", &[("va", "a.com", "c"), ("vb", "b.com", "b")])]);
    let generation = w.snapshot.generation;
    w.push(vec![routes("r", &[("va", "a.com", "a"), ("vb", "b.com", "b")])]);
    assert_eq!(w.snapshot.generation, generation);
    assert_eq!(w.builder.counts().held_virtual_hosts, 0);
    assert_eq!(w.builder.deadline(), None);
}

#[test]
fn inline_tables_hold_like_rds() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), fixed("b", 2), listener("l", 80, inline(&[("v", "*", "a")]))]);
    w.push(vec![eds("c"), listener("l", 80, inline(&[("v", "*", "c")]))]);
    assert_eq!(w.targets("l", "x"), ["a"]);
    w.push(vec![endpoints("c", 3)]);
    assert_eq!(w.targets("l", "x"), ["c"]);
    w.push(vec![listener("l", 80, inline(&[("v", "*", "nobody")]))]);
    w.wait(Duration::from_millis(1_999));
    assert_eq!(w.targets("l", "x"), ["c"]);
    w.wait(Duration::from_millis(1));
    assert_eq!(w.targets("l", "x"), ["nobody"]);
}

#[test]
fn a_route_that_moves_onto_a_cluster_its_neighbour_waits_for_is_held() {
    let mut w = World::new();
    let hosts = |first: &str, second: &str| {
        let path = |path: &str, cluster: &str| {
            let path = PathMatch::Prefix { value: path.into(), ignore_case: false };
            let action = Action::Route(RouteAction {
                cluster: ClusterChoice::Single(cluster.into()),
                ..RouteAction::default()
            });
            Arc::new(Route::new("", RouteMatch { path, ..RouteMatch::default() }, action))
        };
        let host = VirtualHost {
            name: "v".into(),
            domains: vec!["*".into()],
            routes: vec![path("/a", first), path("/b", second)],
            ..VirtualHost::default()
        };
        let virtual_hosts = vec![Arc::new(host)];
        Change::Routes(Arc::new(RouteConfig { name: "r".into(), virtual_hosts, ..RouteConfig::default() }))
    };
    w.push(vec![fixed("a", 1), fixed("b", 2), eds("c"), hosts("a", "c"), listener("l", 80, rds("r"))]);
    w.wait(secs(5));
    assert_eq!(w.targets("l", "x"), ["a", "c"]);
    // What went to c goes on to do so; /a would be new to it.
    w.push(vec![hosts("b", "c")]);
    assert_eq!(w.targets("l", "x"), ["b", "c"]);
    w.push(vec![hosts("c", "c")]);
    assert_eq!(w.targets("l", "x"), ["b", "c"]);
    w.push(vec![endpoints("c", 3)]);
    assert_eq!(w.targets("l", "x"), ["c"]);
}

#[test]
fn more_weight_on_a_cluster_that_does_not_serve_waits_and_less_does_not() {
    let mut w = World::new();
    let hosts = |a: u32, c: u32| {
        let share =
            |name: &str, weight| WeightedCluster { name: name.into(), weight, ..WeightedCluster::default() };
        let host = VirtualHost {
            name: "v".into(),
            domains: vec!["*".into()],
            routes: vec![route(ClusterChoice::Weighted(vec![share("a", a), share("c", c)]))],
            ..VirtualHost::default()
        };
        let virtual_hosts = vec![Arc::new(host)];
        Change::Routes(Arc::new(RouteConfig { name: "r".into(), virtual_hosts, ..RouteConfig::default() }))
    };
    w.push(vec![fixed("a", 1), eds("c"), hosts(9, 1), listener("l", 80, rds("r"))]);
    w.wait(secs(5));
    let held = |w: &World| w.builder.counts().held_virtual_hosts;
    w.push(vec![hosts(19, 1)]);
    assert_eq!(held(&w), 0);
    w.push(vec![hosts(9, 1)]);
    assert_eq!(held(&w), 1);
    w.push(vec![hosts(190, 10)]);
    assert_eq!(held(&w), 0);
}

#[test]
fn the_end_of_a_hold_leaves_the_other_virtual_hosts_as_they_are() {
    let mut w = World::new();
    let names: Vec<_> = (0..50).map(|n| (format!("v{n}"), format!("d{n}.com"))).collect();
    let table = |moved: &dyn Fn(usize) -> &'static str| {
        let rows: Vec<Vh<'_>> = names
            .iter()
            .enumerate()
            .map(|(n, (name, domain))| (name.as_str(), domain.as_str(), moved(n)))
            .collect();
        routes("r", &rows)
    };
    w.push(vec![fixed("a", 1), table(&|_| "a"), listener("l", 80, rds("r"))]);
    // Three are held, for two clusters.
    w.push(vec![
        eds("c"),
        eds("e"),
        table(&|n| {
            if n == 7 || n == 30 {
                "c"
            } else if n == 20 {
                "e"
            } else {
                "a"
            }
        }),
    ]);
    let compiled = |w: &World, n: usize| {
        let FilterSpec::Rpc { routes, .. } = &w.listener("l").unwrap().chains[0].filter else { panic!() };
        let table = w.snapshot.route_table(*routes).unwrap();
        table.host(Some(names[n].1.as_bytes())).unwrap().clone()
    };
    let before: Vec<_> = (0..50).map(|n| compiled(&w, n)).collect();
    w.push(vec![endpoints("c", 3)]);
    for (n, host) in before.iter().enumerate() {
        assert_eq!(Arc::ptr_eq(host, &compiled(&w, n)), n != 7 && n != 30, "{n}");
    }
    assert_eq!((w.targets("l", "d7.com"), w.targets("l", "d20.com")), (vec!["c".into()], vec!["a".into()]));
    w.push(vec![endpoints("e", 4)]);
    assert_eq!(w.targets("l", "d20.com"), ["e"]);
    assert_eq!(w.builder.counts().held_virtual_hosts, 0);
}
