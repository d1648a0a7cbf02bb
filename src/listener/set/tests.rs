use super::*;
use crate::cluster::Env;
use crate::listener::chain::tests::{bare, chain, model};
use crate::model::{ChainMatch, Inspector, Inspectors, Listener, Runtime, RuntimeValue};
use crate::net::{ReadPool, Wheel};
use crate::snapshot::Snapshot;
use crate::telemetry::Registry;
use crate::util::random::Random;

fn ip(text: &str) -> Address {
    Address::Ip(text.parse().unwrap())
}

fn unbound(name: &str, address: &str) -> Listener {
    let addresses = if address.is_empty() { vec![] } else { vec![ip(address)] };
    Listener { name: name.into(), addresses, bind_to_port: false, ..Listener::clone(&model()) }
}

fn bound(name: &str, address: &str) -> Listener {
    Listener { bind_to_port: true, ..unbound(name, address) }
}

fn virtual_outbound() -> Listener {
    Listener { use_original_dst: true, ..bound("virtualOutbound", "0.0.0.0:15001") }
}

/// An `original_dst` listener filter, and nothing that hands on.
fn virtual_inbound() -> Listener {
    let original = Some(Inspector::default());
    let inspectors = Inspectors { original, ..Inspectors::default() };
    Listener { inspectors, direction: Direction::Inbound, ..bound("virtualInbound", "0.0.0.0:15006") }
}

struct World {
    listeners: Rc<Listeners>,
    registry: Registry,
}

/// The listeners of a worker. Runs no task: nobody accepts anything.
fn world(models: Vec<Listener>, runtime: Runtime, ceiling: Option<Ceiling>) -> World {
    let registry = Registry::default();
    let (wheel, random) = (Wheel::new(), Random::seeded(1));
    let env = Rc::new(Env { wheel, random, reads: ReadPool::new(1 << 20), registry: registry.clone() });
    let mut snapshot = Snapshot { generation: 1, runtime: Arc::new(runtime), ..Snapshot::default() };
    for model in models {
        let chains = vec![chain("c", ChainMatch::default())];
        let spec = ListenerSpec { model: Arc::new(model), chains, ..bare() };
        snapshot.listeners.insert(spec.model.name.as_str().into(), Arc::new(spec));
    }
    let (old, new) = (View::new(Default::default()), View::new(Arc::new(snapshot)));
    let local = Local::new(env, old.clone());
    local.set_view(new.clone());
    let listeners = Listeners::new(local, Duration::ZERO, ceiling);
    listeners.sync(&old, &new);
    World { listeners, registry }
}

impl World {
    /// Who serves a connection that came in at `at` and was meant for `meant`.
    fn heir(&self, at: &str, meant: &str) -> String {
        let active = self.listeners.at(&ip(at)).unwrap();
        let meant = meant.parse().ok();
        self.listeners.heir(active, meant).spec().model.name.clone()
    }
}

#[test]
fn connections_go_where_they_were_meant_once() {
    let handing = Listener { use_original_dst: true, ..unbound("nested", "10.0.0.2:80") };
    let world = world(
        vec![
            virtual_outbound(),
            unbound("exact", "10.0.0.1:80"),
            unbound("any", "0.0.0.0:80"),
            unbound("any6", "[::]:80"),
            unbound("v6", "[2001:db8::1]:80"),
            handing,
            bound("metrics", "0.0.0.0:15090"),
            bound("taken", "0.0.0.0:81"),
            unbound("known", "0.0.0.0:81"),
        ],
        Runtime::default(),
        None,
    );
    let from = |meant| world.heir("0.0.0.0:15001", meant);
    assert_eq!(from("10.0.0.1:80"), "exact");
    assert_eq!(from("10.0.0.9:80"), "any");
    assert_eq!(from("[2001:db8::1]:80"), "v6");
    assert_eq!(from("[2001:db8::2]:80"), "any6");
    assert_eq!(from("10.0.0.9:82"), "virtualOutbound", "nobody owns it: it stays");
    assert_eq!(from("nowhere"), "virtualOutbound", "it was not redirected");
    assert_eq!(from("10.0.0.9:15001"), "virtualOutbound", "to itself is to nobody");
    // A listener that hands on gets it, and keeps it.
    assert_eq!(from("10.0.0.2:80"), "nested");
    // With a socket of its own it is found too, after the one that has none.
    assert_eq!(from("10.0.0.9:15090"), "metrics");
    assert_eq!(from("10.0.0.9:81"), "known");
    assert_eq!(world.listeners.at(&ip("0.0.0.0:81")).unwrap().spec().model.name, "taken");
    assert!(world.listeners.at(&ip("0.0.0.0:80")).is_none(), "it has no socket to accept on");
}

#[test]
fn an_original_dst_listener_filter_alone_never_leaves_its_listener() {
    let outbound = unbound("0.0.0.0_80", "0.0.0.0:80");
    let exact = unbound("10.0.0.1_80", "10.0.0.1:80");
    let world = world(vec![virtual_inbound(), virtual_outbound(), outbound, exact], Runtime::default(), None);
    for meant in ["10.0.0.1:80", "10.0.0.9:80", "10.0.0.9:15001", "nowhere"] {
        assert_eq!(world.heir("0.0.0.0:15006", meant), "virtualInbound", "{meant}");
    }
    assert_eq!(world.heir("0.0.0.0:15001", "10.0.0.1:80"), "10.0.0.1_80");
}

#[tokio::test]
async fn limits_count_over_all_listeners_and_for_one() {
    let mut runtime = Runtime::default();
    let key = "envoy.resource_limits.listener.small.connection_limit";
    runtime.set(key, RuntimeValue::Number(1.0));
    let exempt = Listener { unlimited: true, ..bound("health", "127.0.0.1:3") };
    let all = vec![bound("small", "127.0.0.1:1"), bound("large", "127.0.0.1:2"), exempt];
    let world = world(all, runtime, Some(Ceiling::new(3, Arc::default())));
    let io = || Conn::Unix(tokio::net::UnixStream::pair().unwrap().0);
    let arrive = |at: &str| {
        let active = world.listeners.at(&ip(at)).unwrap();
        world.listeners.arrive(active, &io())
    };
    let first = arrive("127.0.0.1:1").unwrap();
    assert!(arrive("127.0.0.1:1").is_none());
    assert_eq!(world.registry.number("listener.127.0.0.1_1.downstream_cx_overflow"), 1);
    let (second, third) = (arrive("127.0.0.1:2"), arrive("127.0.0.1:2"));
    assert!(second.is_some() && third.is_some());
    assert!(arrive("127.0.0.1:2").is_none());
    assert_eq!(world.registry.number("listener.127.0.0.1_2.downstream_global_cx_overflow"), 1);
    assert!(arrive("127.0.0.1:3").is_some(), "what must always answer is exempt");
    drop(first);
    assert!(arrive("127.0.0.1:1").is_some());
    assert!(arrive("127.0.0.1:1").is_some(), "the one before is gone again");
}

#[test]
fn internal_listeners_are_shown_without_an_address() {
    let inner = Listener { internal: true, ..unbound("inner", "") };
    let world = world(vec![inner, virtual_outbound()], Runtime::default(), None);
    let report = world.listeners.report();
    let shown: Vec<_> = report.iter().map(|one| (one.name.as_str(), one.addresses.len())).collect();
    assert_eq!(shown, [("virtualOutbound", 1), ("inner", 0)]);
}
