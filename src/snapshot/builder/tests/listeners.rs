use super::*;

fn waiting(w: &World, name: &str) -> Vec<String> {
    let status = w.builder.status(w.now);
    status.listeners.iter().find(|l| *l.name == *name).unwrap().blocked_by.clone()
}

#[test]
fn opens_when_routes_and_clusters_are_there() {
    let mut w = World::new();
    w.push(vec![eds("a"), listener("l", 80, rds("r"))]);
    assert!(w.listener("l").is_none());
    assert_eq!(w.builder.interest().routes, ["r".into()]);
    w.wait(secs(100));
    assert_eq!(waiting(&w, "l"), ["route table r, 100 s"]);
    w.push(vec![routes("r", &[("v", "*", "a")])]);
    assert_eq!(waiting(&w, "l"), ["cluster a warming, 0 s"]);
    w.wait(secs(4));
    assert!(w.listener("l").is_none());
    w.push(vec![endpoints("a", 1)]);
    assert_eq!(w.targets("l", "x"), ["a"]);
    assert_eq!(w.builder.deadline(), None);
}

#[test]
fn waits_for_clusters_five_seconds_and_for_unknown_ones_two() {
    for (change, wait) in [(vec![eds("a")], 5), (vec![], 2)] {
        let mut w = World::new();
        w.push([change, vec![listener("l", 80, inline(&[("v", "*", "a")]))]].concat());
        w.wait(secs(wait) - Duration::from_millis(1));
        assert!(w.listener("l").is_none());
        w.wait(Duration::from_millis(1));
        assert_eq!(w.targets("l", "x"), ["a"]);
        let event = Event::ListenerCold { listener: "l".into(), clusters: vec!["a".into()] };
        assert_eq!(w.builder.take_events(), [event]);
    }
}

#[test]
fn opens_without_its_table_after_the_fetch_timeout() {
    let mut w = World::new();
    let source = RouteSource::Rds { name: "r".into(), initial_fetch_timeout: Some(secs(15)) };
    w.push(vec![listener("l", 80, rpc(source))]);
    w.wait(secs(15));
    assert_eq!(w.targets("l", "x"), ["no table"]);
    assert_eq!(w.builder.counts().routes_fetch_timeout, 1);
    w.push(vec![fixed("a", 1), routes("r", &[("v", "*", "a")])]);
    assert_eq!(w.targets("l", "x"), ["a"]);
}

#[test]
fn changed_listener_serves_by_its_old_version_until_the_new_one_is_warm() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), listener("l", 80, inline(&[("v", "*", "a")]))]);
    w.push(vec![listener("l", 80, rds("r"))]);
    w.wait(secs(60));
    assert_eq!(w.targets("l", "x"), ["a"]);
    assert_eq!(w.builder.status(w.now).listeners[0].state, State::Updating);
    w.push(vec![eds("b"), routes("r", &[("v", "*", "b")])]);
    w.wait(secs(10));
    assert_eq!(w.targets("l", "x"), ["a"]);
    w.push(vec![endpoints("b", 2)]);
    assert_eq!(w.targets("l", "x"), ["b"]);
}

#[test]
fn retargeted_tcp_chain_keeps_its_cluster_until_the_new_one_is_warm() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), listener("l", 80, tcp("a"))]);
    w.push(vec![eds("b"), listener("l", 80, tcp("a b"))]);
    w.wait(Duration::from_millis(14_999));
    assert_eq!(w.targets("l", ""), ["a"]);
    w.push(vec![endpoints("b", 2)]);
    assert_eq!(w.targets("l", ""), ["a", "b"]);
    w.push(vec![eds("c"), listener("l", 80, tcp("c"))]);
    w.wait(secs(15));
    assert_eq!(w.targets("l", ""), ["c"], "bounded");
}

#[test]
fn equal_models_keep_their_arcs() {
    let mut w = World::new();
    let two = |b: NetworkFilter| Change::Listener(Arc::new(listener_model("l", 80, vec![tcp("a"), b])));
    w.push(vec![fixed("a", 1), two(inline(&[("v", "*", "a")]))]);
    let old = w.listener("l").unwrap();
    w.push(vec![two(inline(&[("v", "*", "a")]))]);
    assert!(Arc::ptr_eq(&old, &w.listener("l").unwrap()));
    w.push(vec![two(inline(&[("w", "*", "a")]))]);
    let new = w.listener("l").unwrap();
    assert!(Arc::ptr_eq(&old.chains[0], &new.chains[0]));
    assert!(!Arc::ptr_eq(&old.chains[1], &new.chains[1]));
    assert_eq!(new.generation, w.snapshot.generation);
    let ids = |spec: &ListenerSpec| match &spec.chains[1].filter {
        FilterSpec::Rpc { routes, .. } => *routes,
        _ => panic!(),
    };
    assert_eq!(ids(&old), ids(&new), "the table of a chain keeps its id");
}

#[test]
fn rename_on_the_same_address_has_no_gap() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), listener("old", 80, tcp("a"))]);
    let rejected = w.push(vec![listener("new", 80, tcp("a")), Change::ListenerRemoved("old".into())]);
    assert!(rejected.is_empty());
    assert!(w.listener("old").is_none() && w.listener("new").is_some());
    // To one that must wait: the old one serves on.
    w.push(vec![eds("b"), Change::ListenerRemoved("new".into()), listener("newer", 80, tcp("b"))]);
    assert!(w.listener("new").is_some() && w.listener("newer").is_none());
    assert!(waiting(&w, "new")[0].contains("newer"));
    let sockets = w.builder.sockets();
    assert_eq!((sockets.len(), sockets[0].open), (1, true));
    w.push(vec![endpoints("b", 2)]);
    assert!(w.listener("new").is_none() && w.listener("newer").is_some());
    // The heir is given up: the old one goes.
    w.push(vec![eds("c"), Change::ListenerRemoved("newer".into()), listener("newest", 80, tcp("c"))]);
    assert!(w.listener("newer").is_some());
    w.push(vec![Change::ListenerRemoved("newest".into())]);
    assert!(w.snapshot.listeners.is_empty() && w.builder.sockets().is_empty());
    assert!(w.builder.listeners.states.is_empty());
}

#[test]
fn swapped_addresses_switch_together() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), listener("x", 80, tcp("a")), listener("y", 81, tcp("a"))]);
    let rejected = w.push(vec![eds("b"), listener("x", 81, tcp("a")), listener("y", 80, tcp("b"))]);
    assert!(rejected.is_empty());
    let ports = |w: &World| ["x", "y"].map(|n| w.listener(n).unwrap().model.addresses[0].clone());
    assert_eq!(ports(&w), [addr(80), addr(81)]);
    w.push(vec![endpoints("b", 1)]);
    assert_eq!(ports(&w), [addr(81), addr(80)]);
}

#[test]
fn second_listener_of_an_address_is_refused_and_tried_again() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), listener("first", 80, tcp("a"))]);
    let rejected = w.push(vec![listener("second", 80, tcp("a")), listener("third", 81, tcp("a"))]);
    assert_eq!(rejected.len(), 1);
    assert_eq!(
        rejected[0].to_string(),
        "listener second: address.socket_address.port_value: 80: 127.0.0.1:80 belongs to listener first"
    );
    assert!(w.listener("second").is_none() && w.listener("third").is_some());
    w.push(vec![Change::ListenerRemoved("first".into())]);
    assert!(w.listener("first").is_none() && w.listener("second").is_some());
    assert_eq!(w.builder.take_events(), [Event::ListenerRecovered { listener: "second".into() }]);
}

#[test]
fn refused_change_keeps_the_last_version_and_its_address() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), listener("x", 80, tcp("a")), listener("y", 81, tcp("a"))]);
    // x goes for an address that is taken; z for the one x does not leave after all.
    let rejected = w.push(vec![listener("z", 80, tcp("a")), listener("x", 81, tcp("a"))]);
    let names: Vec<_> = rejected.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["z", "x"]);
    assert_eq!(w.listener("x").unwrap().model.addresses, [addr(80)]);
    w.push(vec![Change::ListenerRemoved("y".into())]);
    assert_eq!(w.listener("x").unwrap().model.addresses, [addr(81)]);
}

#[test]
fn removed_listener_goes_and_old_connections_keep_their_table() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), listener("l", 80, inline(&[("v", "*", "a")]))]);
    let connection = w.listener("l").unwrap().chains[0].clone();
    let FilterSpec::Rpc { routes, .. } = &connection.filter else { panic!() };
    w.push(vec![Change::ListenerRemoved("l".into())]);
    assert!(w.listener("l").is_none());
    w.reap();
    assert!(w.snapshot.route_table(*routes).is_some());
    assert_eq!(w.builder.counts().kept_versions, 1);
    let routes = *routes;
    drop(connection);
    w.reap();
    assert!(w.snapshot.route_table(routes).is_none());
    assert_eq!(w.builder.counts().kept_versions, 0);
}

#[test]
fn connections_of_a_protocol_the_chain_left_keep_its_table() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), fixed("b", 1), listener("l", 80, inline(&[("v", "*", "a")]))]);
    let connection = w.listener("l").unwrap().chains[0].clone();
    let NetworkFilter::Rpc(mut other) = inline(&[("v", "*", "b")]) else { panic!() };
    other.downstream = Protocol::Http2;
    w.push(vec![listener("l", 80, NetworkFilter::Rpc(other))]);
    let FilterSpec::Rpc { routes, .. } = &connection.filter else { panic!() };
    let host = w.snapshot.route_table(*routes).unwrap().host(None).unwrap().clone();
    assert_eq!(w.builder.clusters.name(host.clusters().next().unwrap()), "a".into());
    assert_eq!(w.targets("l", "x"), ["b"]);
}

#[test]
fn everything_changed_in_one_push_has_no_gap() {
    let mut w = World::new();
    let hosts = [("v", "*", "a")];
    w.push(vec![eds("a"), endpoints("a", 1), routes("r", &hosts), listener("l", 80, rds("r"))]);
    let hosts = [("w", "*", "b")];
    w.push(vec![
        Change::ListenerRemoved("l".into()),
        Change::ClusterRemoved("a".into()),
        Change::RoutesWithdrawn("r".into()),
        listener("m", 80, rds("s")),
        routes("s", &hosts),
        endpoints("b", 2),
        eds("b"),
    ]);
    assert!(w.listener("l").is_none());
    assert_eq!(w.targets("m", "x"), ["b"]);
    assert!(w.ready("b"));
}

#[test]
fn static_listener_serves_at_once_and_shadows() {
    let mut w = World::new();
    w.push_static(vec![eds("a"), listener("l", 80, inline(&[("v", "*", "a nobody")]))]);
    assert!(w.listener("l").is_some());
    assert!(w.push(vec![listener("l", 90, tcp("a"))]).is_empty());
    assert_eq!(w.listener("l").unwrap().model.addresses, [addr(80)]);
    assert!(w.builder.status(w.now).listeners[0].shadowed);
    assert_eq!(w.push(vec![listener("m", 80, tcp("a"))]).len(), 1);
}

#[test]
fn listeners_can_wait_for_sockets() {
    let mut w = World::with(Options { wait_for_sockets: true, ..Options::default() });
    let version = w.builder.sockets_version();
    w.push(vec![fixed("a", 1), listener("l", 80, tcp("a")), listener("m", 81, tcp("a"))]);
    assert_ne!(version, w.builder.sockets_version());
    assert!(w.snapshot.listeners.is_empty());
    assert!(w.builder.sockets().iter().all(|socket| !socket.open));
    w.builder.on_bound("l", &addr(80), w.now);
    let rejection = w.builder.on_bind_failed("m", &addr(81), "address already in use").unwrap();
    let text = "listener m: address.socket_address.port_value: 81: 127.0.0.1:81 cannot be bound: address already in use";
    assert_eq!(rejection.to_string(), text);
    w.publish();
    assert!(w.listener("l").is_some() && w.listener("m").is_none());
    assert_eq!(waiting(&w, "m"), ["address 127.0.0.1:81: address already in use"]);
    w.builder.on_bound("m", &addr(81), w.now);
    w.publish();
    assert!(w.listener("m").is_some());
    assert_eq!(w.builder.take_events(), [Event::ListenerRecovered { listener: "m".into() }]);
    // A rename needs no new socket.
    w.push(vec![Change::ListenerRemoved("l".into()), listener("n", 80, tcp("a"))]);
    assert!(w.listener("n").is_some() && w.listener("l").is_none());
    assert!(w.builder.sockets().iter().all(|socket| socket.open));
}

#[test]
fn old_snapshots_and_what_they_held_are_freed() {
    let mut w = World::new();
    w.push(vec![fixed("a", 1), listener("l", 80, inline(&[("v", "*", "a")]))]);
    let snapshot = Arc::downgrade(&w.snapshot);
    let spec = Arc::downgrade(&w.listener("l").unwrap());
    let chain = Arc::downgrade(&w.listener("l").unwrap().chains[0]);
    let cluster = Arc::downgrade(&w.spec("a"));
    w.push(vec![
        fixed("b", 1),
        Change::ClusterRemoved("a".into()),
        listener("l", 80, inline(&[("v", "*", "b")])),
    ]);
    assert_eq!(w.builder.counts().kept_snapshots, 1);
    w.reap();
    assert_eq!(snapshot.strong_count(), 0);
    assert_eq!(spec.strong_count(), 0);
    assert_eq!(chain.strong_count(), 0);
    assert_eq!(cluster.strong_count(), 0);
}

#[test]
fn the_builder_can_live_on_another_thread() {
    fn send<T: Send>(_: &T) {}
    send(&Builder::default());
}
