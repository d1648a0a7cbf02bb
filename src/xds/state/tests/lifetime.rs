//! Times to live, wrapper names over time, and what is counted by name.

use super::*;
use crate::xds::names::NameStats;

fn beat(name: &str, ttl: Option<u64>) -> Item {
    Item { name: name.into(), ttl: ttl.map(Duration::from_secs), ..Item::default() }
}

fn timed(rig: &Rig, kind: ResourceType, name: &str, ttl: Option<u64>) -> Item {
    let item = rig.items(kind, &[(name, "1")]).remove(0);
    Item { name: name.into(), ttl: ttl.map(Duration::from_secs), ..item }
}

fn give(rig: &mut Rig, kind: ResourceType, items: Vec<Item>) {
    let update = rig.raw_response(kind, "1", items, &[]).unwrap();
    rig.state.on_verdicts(rig.now, update, Vec::new());
    rig.take();
}

fn expired(rig: &mut Rig) -> Vec<(ResourceType, Vec<Arc<str>>)> {
    let now = rig.now;
    rig.state.take_expired(now)
}

#[test]
fn resource_goes_when_its_time_to_live_is_over() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::connected(variant);
        let items = [("a", Some(5)), ("b", None), ("c", Some(9))];
        let items = items.map(|(name, ttl)| timed(&rig, Cluster, name, ttl)).to_vec();
        give(&mut rig, Cluster, items);
        assert_eq!(
            rig.state.next_timeout().map(|at| at <= rig.now.instant + Duration::from_secs(5)),
            Some(true)
        );
        rig.pass(Duration::from_secs(4));
        assert!(expired(&mut rig).is_empty());
        rig.pass(Duration::from_secs(1));
        assert_eq!(expired(&mut rig), [(Cluster, arcs(&["a"]))]);
        assert_eq!(rig.held_names(Cluster), ["b", "c"]);
        rig.pass(Duration::from_secs(60));
        assert_eq!(expired(&mut rig), [(Cluster, arcs(&["c"]))]);
        rig.pass(Duration::from_secs(6000));
        assert!(expired(&mut rig).is_empty());
        assert_eq!(rig.held_names(Cluster), ["b"]);
    }
}

#[test]
fn heartbeat_prolongs_and_ends_a_time_to_live() {
    let mut rig = Rig::connected(Delta);
    let items = ["a", "b"].map(|name| timed(&rig, Cluster, name, Some(5))).to_vec();
    give(&mut rig, Cluster, items);
    rig.pass(Duration::from_secs(4));
    give(&mut rig, Cluster, vec![beat("a", Some(5)), beat("b", None), beat("never seen", Some(1))]);
    rig.pass(Duration::from_secs(4));
    assert!(expired(&mut rig).is_empty(), "4 s after the last sign");
    rig.pass(Duration::from_secs(2));
    assert_eq!(expired(&mut rig), [(Cluster, arcs(&["a"]))]);
    assert_eq!(rig.held_names(Cluster), ["b"], "without a time from now on");
}

#[test]
fn expired_endpoints_stay_held_and_count_as_taken_back() {
    let mut rig = Rig::started(Delta, &[]);
    rig.state.set_interest(rig.now, Endpoint, arcs(&["e"]));
    let items = vec![timed(&rig, Endpoint, "e", Some(5))];
    give(&mut rig, Endpoint, items);
    rig.pass(Duration::from_secs(5));
    assert_eq!(expired(&mut rig), [(Endpoint, arcs(&["e"]))]);
    assert_eq!(rig.held_names(Endpoint), ["e"]);
    // Given again with equal bytes it is news.
    let items = vec![timed(&rig, Endpoint, "e", None)];
    let update = rig.raw_response(Endpoint, "2", items, &[]).unwrap();
    assert_eq!(update.changed.len(), 1);
}

#[test]
fn refused_resource_does_not_set_a_time_to_live() {
    let mut rig = Rig::started(Delta, &[("a", "1")]);
    let mut item = rig.items(Cluster, &[("a", "bad")]).remove(0);
    item.ttl = Some(Duration::from_secs(5));
    let update = rig.raw_response(Cluster, "2", vec![item], &[]).unwrap();
    assert!(rig.judge_update(update).unwrap().error.is_some());
    rig.pass(Duration::from_secs(60));
    assert!(expired(&mut rig).is_empty());
}

#[test]
fn equal_resource_under_another_wrapper_goes_by_the_new_name() {
    let mut rig = Rig::started(Delta, &[]);
    let wrapped = |rig: &Rig, outer: &str| {
        let item = rig.items(Cluster, &[("inner", "1")]).remove(0);
        Item { name: outer.into(), ..item }
    };
    let first = wrapped(&rig, "outer");
    give(&mut rig, Cluster, vec![first]);
    let second = wrapped(&rig, "elsewhere");
    give(&mut rig, Cluster, vec![second]);
    assert_eq!(rig.accept(Cluster, "3", &[], &["outer"]).1, [] as [&str; 0]);
    assert_eq!(rig.accept(Cluster, "4", &[], &["elsewhere"]).1, ["inner"]);
}

#[test]
fn late_acceptance_keeps_the_wrapper() {
    let mut rig = Rig::started(Delta, &[]);
    let item = rig.items(Cluster, &[("inner", "bad")]).remove(0);
    let update = rig.raw_response(Cluster, "2", vec![Item { name: "outer".into(), ..item }], &[]).unwrap();
    assert!(rig.judge_update(update).unwrap().error.is_some());
    assert!(rig.state.accept_late(rig.now, Cluster, "inner"));
    assert_eq!(rig.accept(Cluster, "3", &[], &["outer"]).1, ["inner"]);
}

fn stats_of(rig: &Rig, name: &str) -> Option<NameStats> {
    rig.state.stats().names(Endpoint).all().into_iter().find(|stats| *stats.name == *name)
}

#[test]
fn every_subscribed_name_has_its_own_numbers() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[]);
        rig.state.on_disconnected("before anybody asked");
        rig.connect();
        rig.state.set_interest(rig.now, Endpoint, arcs(&["a", "b"]));
        assert_eq!(stats_of(&rig, "a").unwrap().success, 0);
        rig.judge(Endpoint, "v1", &[("a", "1"), ("b", "bad")]);
        rig.judge(Endpoint, "v2", &[("a", "1")]);
        rig.judge(Endpoint, "v3", &[("a", "2"), ("b", "1")]);
        let (a, b) = (stats_of(&rig, "a").unwrap(), stats_of(&rig, "b").unwrap());
        assert_eq!((a.success, a.unchanged, a.rejected, a.emptied), (3, 1, 0, 0));
        assert_eq!((b.success, b.unchanged, b.rejected), (1, 0, 1));
        assert_eq!(u64::from(a.failures_before), rig.state.stats().of(Endpoint).update_failure.get());
        assert_eq!(&*a.version, if variant == Delta { "v-2" } else { "v3" });
        assert_eq!((a.updated_ms, a.changed_ms), (1_000, 1_000));
        rig.state.set_interest(rig.now, Endpoint, arcs(&["b"]));
        assert_eq!(stats_of(&rig, "a"), None);
        assert!(stats_of(&rig, "b").is_some());
    }
}

#[test]
fn a_restored_name_is_counted_from_the_first_answer_on() {
    let mut rig = Rig::new(Delta);
    rig.state.restore(Endpoint, vec![RawResource::new("e".into(), body("e", "1"), "old".into())]);
    rig.state.set_interest(rig.now, Endpoint, arcs(&["e"]));
    rig.connect();
    rig.accept(Cluster, "1", &[], &[]);
    rig.judge(Endpoint, "v1", &[("e", "1")]);
    let stats = stats_of(&rig, "e").unwrap();
    assert_eq!((stats.success, stats.unchanged), (1, 1));
}

#[test]
fn a_withdrawal_is_an_empty_update() {
    let mut rig = Rig::started(Delta, &[]);
    rig.state.set_interest(rig.now, Endpoint, arcs(&["e"]));
    rig.accept(Endpoint, "1", &[("e", "1")], &[]);
    rig.accept(Endpoint, "2", &[], &["e"]);
    let stats = stats_of(&rig, "e").unwrap();
    assert_eq!((stats.success, stats.emptied), (2, 1));
}
