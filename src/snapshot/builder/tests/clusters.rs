use super::*;

#[test]
fn eds_cluster_is_warm_when_its_assignment_is_held() {
    let mut w = World::new();
    w.push(vec![eds("a")]);
    assert!(matches!(w.slot("a"), ClusterSlot::Warming));
    assert_eq!(w.builder.interest().endpoints, ["eds-a".into()]);
    assert_eq!(w.builder.status(w.now).clusters[0].blocked_by, ["endpoints eds-a, 0 s"]);
    w.push(vec![endpoints("a", 1)]);
    assert_eq!(w.ports("a"), [1]);
    // Modified: the assignment is held, so it is warm at once.
    let mut model = eds_model("a", None);
    model.connect_timeout = secs(1);
    w.push(vec![Change::Cluster(Arc::new(model))]);
    assert_eq!(w.spec("a").model.connect_timeout, secs(1));
    assert_eq!(w.ports("a"), [1]);
}

#[test]
fn an_assignment_may_come_first() {
    let mut w = World::new();
    w.push(vec![endpoints("a", 1)]);
    w.push(vec![eds("a")]);
    assert!(w.ready("a"));
}

#[test]
fn modified_cluster_serves_by_its_old_spec_until_the_new_one_is_warm() {
    let mut w = World::new();
    w.push(vec![eds("a"), endpoints("a", 1)]);
    let mut model = eds_model("a", None);
    model.discovery = Discovery::Eds { service_name: "other".into(), initial_fetch_timeout: None };
    w.push(vec![Change::Cluster(Arc::new(model))]);
    assert!(
        matches!(&w.spec("a").model.discovery, Discovery::Eds { service_name, .. } if service_name == "eds-a")
    );
    assert_eq!(w.builder.interest().endpoints, ["eds-a".into(), "other".into()]);
    // The old assignment still reaches the old version.
    w.push(vec![endpoints("a", 2)]);
    assert_eq!(w.ports("a"), [2]);
    w.push(vec![Change::Endpoints(Arc::new(hosts("other", 3)))]);
    assert_eq!(w.ports("a"), [3]);
    assert_eq!(w.builder.interest().endpoints, ["other".into()]);
}

#[test]
fn initial_fetch_timeout_lets_it_serve_without_hosts() {
    let mut w = World::new();
    w.push(vec![Change::Cluster(Arc::new(eds_model("a", Some(secs(15)))))]);
    w.wait(Duration::from_millis(14_999));
    assert!(!w.ready("a"));
    w.wait(Duration::from_millis(1));
    assert_eq!(w.ports("a"), [0u16; 0]);
    assert_eq!(w.builder.counts().endpoints_fetch_timeout, 1);
    w.push(vec![endpoints("a", 1)]);
    assert_eq!(w.ports("a"), [1]);
    // Zero waits for ever.
    w.push(vec![eds("b")]);
    w.wait(secs(100_000));
    assert!(!w.ready("b"));
}

#[test]
fn endpoint_change_shares_everything_else() {
    let mut w = World::new();
    w.push(vec![eds("a"), endpoints("a", 1), fixed("b", 5), listener("l", 80, tcp("a"))]);
    let (a, b, l) = (w.spec("a"), w.entry("b").unwrap(), w.listener("l").unwrap());
    w.push(vec![endpoints("a", 2)]);
    assert!(Arc::ptr_eq(&a, &w.spec("a")));
    assert!(Arc::ptr_eq(&b.endpoints, &w.entry("b").unwrap().endpoints));
    assert!(Arc::ptr_eq(&l, &w.listener("l").unwrap()));
    let generation = w.snapshot.generation;
    w.push(vec![endpoints("a", 2), fixed("b", 5)]);
    assert_eq!(w.snapshot.generation, generation, "equal models are no new generation");
}

#[test]
fn withdrawn_assignment_keeps_its_hosts_while_a_cluster_refers_to_it() {
    let mut w = World::new();
    w.push(vec![eds("a"), endpoints("a", 1)]);
    w.push(vec![Change::EndpointsWithdrawn("eds-a".into())]);
    assert_eq!(w.ports("a"), [1]);
    let mut model = eds_model("a", None);
    model.connect_timeout = secs(1);
    w.push(vec![Change::Cluster(Arc::new(model))]);
    assert_eq!(w.ports("a"), [1]);
    w.push(vec![Change::ClusterRemoved("a".into())]);
    w.push(vec![eds("a")]);
    assert!(!w.ready("a"), "the assignment went with its last user");
}

#[test]
fn removed_cluster_goes_at_once_when_nothing_names_it() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1)]);
    w.push(vec![Change::ClusterRemoved("a".into())]);
    assert!(matches!(w.slot("a"), ClusterSlot::Absent));
    assert!(w.builder.status(w.now).clusters.is_empty());
    let counts = w.builder.counts();
    assert_eq!((counts.cluster_added, counts.cluster_removed), (1, 1));
}

#[test]
fn removed_cluster_serves_until_no_table_names_it() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), fixed("b", 2), routes("r", &[("v", "*", "a")]), listener("l", 80, rds("r"))]);
    w.push(vec![Change::ClusterRemoved("a".into())]);
    assert!(w.ready("a"));
    assert_eq!(w.builder.status(w.now).clusters[0].state, State::Leaving);
    w.wait(secs(10));
    w.push(vec![routes("r", &[("v", "*", "b")])]);
    assert!(!w.ready("a"));
    assert_eq!(w.builder.counts().linger_expired, 0);
}

#[test]
fn removed_cluster_serves_at_most_its_linger() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), listener("l", 80, tcp("a"))]);
    w.push(vec![Change::ClusterRemoved("a".into())]);
    w.wait(Duration::from_millis(14_999));
    assert!(w.ready("a"));
    w.wait(Duration::from_millis(1));
    assert!(!w.ready("a"));
    assert_eq!(w.builder.take_events(), [Event::LingerExpired { cluster: "a".into() }]);
    let mut w = World::with(Options { removed_cluster_linger: Duration::ZERO, ..Options::default() });
    w.push(vec![fixed("a", 1), listener("l", 80, tcp("a"))]);
    w.push(vec![Change::ClusterRemoved("a".into())]);
    assert!(!w.ready("a"));
}

#[test]
fn removed_cluster_that_returns_in_time_never_stops() {
    let mut w = World::new();
    w.push(vec![eds("a"), endpoints("a", 1), listener("l", 80, tcp("a"))]);
    let breakers = w.spec("a").breakers.clone();
    w.push(vec![Change::ClusterRemoved("a".into())]);
    w.wait(secs(3));
    w.push(vec![eds("a")]);
    w.wait(secs(60));
    assert!(w.ready("a"));
    assert!(Arc::ptr_eq(&breakers, &w.spec("a").breakers));
}

#[test]
fn static_name_shadows_ads() {
    let mut w = World::new();
    w.push_static(vec![fixed("a", 1)]);
    assert!(w.push(vec![fixed("a", 2)]).is_empty());
    assert_eq!(w.ports("a"), [1]);
    assert_eq!(w.builder.counts().shadowed_by_static, 1);
    assert!(w.builder.status(w.now).clusters[0].shadowed);
    w.push(vec![Change::ClusterRemoved("a".into())]);
    assert_eq!(w.ports("a"), [1]);
}

#[test]
fn ids_are_given_again_once_no_kept_snapshot_names_them() {
    let mut w = World::new();
    for n in 0..1000 {
        let name = format!("c{n}");
        w.push(vec![fixed(&name, 1)]);
        w.push(vec![Change::ClusterRemoved(name)]);
        w.reap();
    }
    assert!(w.builder.clusters.ids.len() < 8, "{}", w.builder.clusters.ids.len());
    // A pinned generation keeps its own ids, and only them.
    w.push(vec![fixed("x", 1)]);
    let pinned = w.snapshot.clone();
    let id = pinned.names["x"];
    w.push(vec![Change::ClusterRemoved("x".into())]);
    for n in 0..100 {
        let name = format!("d{n}");
        w.push(vec![fixed(&name, 1)]);
        assert_ne!(w.snapshot.names[name.as_str()], id);
        w.push(vec![Change::ClusterRemoved(name)]);
        w.reap();
    }
    assert!(w.builder.clusters.ids.len() < 10);
    drop(pinned);
    w.reap();
    w.push((0..10).map(|n| fixed(&format!("e{n}"), 1)).collect());
    assert!(w.snapshot.names.values().any(|other| *other == id));
}

#[test]
fn more_resources_than_the_limit_are_refused_by_name() {
    let mut w = World::with(Options { max_resources: 2, ..Options::default() });
    let refused = w.push(vec![fixed("a", 1), fixed("b", 1), fixed("c", 1)]);
    assert_eq!(refused.len(), 1);
    assert_eq!(
        refused[0].to_string(),
        "cluster c: name: c: more than 2 resources of this type (nearest valid 2)"
    );
    assert!(w.push(vec![fixed("a", 2)]).is_empty());
    assert!(w.push(vec![Change::ClusterRemoved("a".into()), fixed("c", 1)]).is_empty());
}

#[test]
fn ten_thousand_clusters_then_one_endpoint() {
    let mut w = World::new();
    let clusters = (0..10_000).map(|n| eds(&format!("outbound|80||service-{n}.ns.svc"))).collect();
    let all =
        |port| (0..10_000).map(|n| endpoints(&format!("outbound|80||service-{n}.ns.svc"), port)).collect();
    let (first, second) = (all(1), all(2));
    w.push(clusters);
    assert_eq!(w.builder.counts().total_clusters_warming, 10_000);
    w.push(first);
    let (before, name) = (w.snapshot.clone(), "outbound|80||service-77.ns.svc");
    w.push(vec![endpoints(name, 9)]);
    assert_eq!((w.ports(name), before.generation + 1), (vec![9], w.snapshot.generation));
    w.push(second);
    assert_eq!(w.builder.counts().total_clusters_active, 10_000);
    assert_eq!(w.ports("outbound|80||service-77.ns.svc"), [2]);
}
