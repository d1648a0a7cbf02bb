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
fn new_host_applies_at_once() {
    let mut w = base();
    let hosts = [("va", "a.com", "a"), ("vn", "n.com", "c"), ("vb", "b.com", "a")];
    w.push(vec![eds("c"), routes("r", &hosts)]);
    assert_eq!(w.targets("l", "n.com"), ["c"]);
    assert_eq!(w.targets("l", "b.com"), ["a"]);
}

#[test]
fn bodies_are_kept_by_domain() {
    let mut w = base();
    // a.com and b.com change places, both to a cluster that warms; x.com is new to va.
    w.push(vec![eds("c"), routes("r", &[("va", "b.com x.com", "c"), ("vb", "a.com", "c")])]);
    assert_eq!(w.targets("l", "a.com"), ["a"]);
    assert_eq!(w.targets("l", "b.com"), ["b"]);
    assert_eq!(w.targets("l", "x.com"), ["c"]);
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
