//! Subscriptions, order, removal, reconnect, restore.

use super::*;

#[test]
fn first_message_alone_carries_the_node() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::new(variant);
        let first = rig.connect();
        assert_eq!(kinds(&first), [Cluster]);
        assert!(first[0].with_node && first[0].nonce.is_empty() && first[0].error.is_none());
        rig.accept(Cluster, "1", &[("a", "1")], &[]);
        assert!(rig.take().iter().all(|request| !request.with_node));
        let again = rig.reconnect();
        assert!(again[0].with_node && again[1..].iter().all(|request| !request.with_node));
    }
}

#[test]
fn with_a_stream_per_type_each_introduces_the_node() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::new(variant);
        rig.state.config.split = true;
        for _ in 0..2 {
            let mut seen = rig.reconnect();
            rig.accept(Cluster, "1", &[("a", "1")], &[]);
            rig.interest(Endpoint, &["a"]);
            rig.accept(Listener, "1", &[("l", "1")], &[]);
            rig.interest(Endpoint, &["a", "b"]);
            seen.extend(rig.take());
            for kind in [Cluster, Listener] {
                let mut of = seen.iter().filter(|request| request.kind == kind);
                assert!(of.next().is_none_or(|first| first.with_node), "{kind:?}");
                assert!(of.all(|request| !request.with_node), "{kind:?}");
            }
        }
    }
}

#[test]
fn order_at_start_is_cds_eds_lds_rds() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::connected(variant);
        let update = rig.respond(Cluster, "1", &[("a", "1")], &[]);
        assert_eq!(kinds(&rig.interest(Endpoint, &["a"])), [Endpoint], "before the CDS ACK");
        rig.state.on_verdicts(rig.now, update, Vec::new());
        let requests = rig.take();
        assert_eq!(kinds(&requests), [Cluster, Listener], "ACK, then LDS");
        assert_eq!(&*requests[0].nonce, "n1");
        let update = rig.respond(Listener, "1", &[("l", "1")], &[]);
        assert_eq!(kinds(&rig.interest(Route, &["r"])), [Route]);
        rig.state.on_verdicts(rig.now, update, Vec::new());
        assert_eq!(kinds(&rig.take()), [Listener]);
    }
}

#[test]
fn lds_is_asked_for_without_a_cds_answer_after_two_seconds() {
    let mut rig = Rig::connected(Delta);
    assert_eq!(rig.state.next_timeout(), Some(rig.now.instant + Duration::from_secs(2)));
    rig.pass(Duration::from_millis(1_999));
    assert!(rig.take().is_empty());
    rig.pass(Duration::from_millis(1));
    assert_eq!(kinds(&rig.take()), [Listener]);
    assert_eq!(rig.state.next_timeout(), None);
}

#[test]
fn reconnect_asks_for_all_in_order() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[("a", "1")]);
        rig.interest(Route, &["r"]);
        rig.interest(Endpoint, &["a"]);
        rig.interest(ResourceType::Runtime, &["far"]);
        rig.interest(ResourceType::Extension, &["e"]);
        rig.state.want_all(rig.now, ResourceType::ScopedRoute);
        assert_eq!(kinds(&rig.take()), [ResourceType::ScopedRoute], "not before somebody has use for them");
        assert_eq!(kinds(&rig.reconnect()), ResourceType::ALL);
    }
}

#[test]
fn named_types_are_not_asked_for_without_a_name() {
    // An empty first request would be the wildcard.
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[("a", "1")]);
        assert!(rig.interest(Endpoint, &[]).is_empty());
        assert_eq!(kinds(&rig.reconnect()), [Cluster, Listener]);
        rig.interest(Endpoint, &["a"]);
        rig.interest(Endpoint, &[]);
        assert_eq!(kinds(&rig.reconnect()), [Cluster, Listener]);
    }
}

#[test]
fn sotw_interest_repeats_the_full_list_with_last_nonce_and_version() {
    let mut rig = Rig::started(Sotw, &[("a", "1")]);
    rig.interest(Endpoint, &["a"]);
    rig.accept(Endpoint, "e7", &[("a", "1")], &[]);
    let ack = rig.take().remove(0);
    assert_eq!((sotw(&ack), &*ack.nonce), (("e7".into(), vec!["a".into()]), "n2"));
    let more = rig.interest(Endpoint, &["a", "b"]).remove(0);
    assert_eq!((sotw(&more), &*more.nonce), (("e7".into(), vec!["a".into(), "b".into()]), "n2"));
    let none = rig.interest(Endpoint, &[]).remove(0);
    assert_eq!(sotw(&none), ("e7".into(), NONE));
    assert!(rig.held_names(Endpoint).is_empty());
    assert!(rig.interest(Endpoint, &[]).is_empty(), "no change, no request");
}

#[test]
fn sotw_interest_never_changes_on_an_ack() {
    let mut rig = Rig::started(Sotw, &[("a", "1")]);
    rig.interest(Endpoint, &["a"]);
    let update = rig.respond(Endpoint, "e1", &[("a", "1")], &[]);
    assert!(rig.interest(Endpoint, &["a", "b"]).is_empty(), "the nonce is still to be answered");
    rig.state.on_verdicts(rig.now, update, Vec::new());
    let requests = rig.take();
    assert_eq!(requests.iter().map(|r| sotw(r).1.len()).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn delta_interest_is_a_separate_request_with_an_empty_nonce() {
    let mut rig = Rig::started(Delta, &[("a", "1")]);
    let first = rig.interest(Endpoint, &["a", "b"]).remove(0);
    assert_eq!(delta(&first).0, ["a", "b"]);
    let update = rig.respond(Endpoint, "1", &[("a", "1")], &[]);
    let change = rig.interest(Endpoint, &["b", "c"]);
    assert_eq!((change.len(), &*change[0].nonce), (1, ""));
    assert_eq!(delta(&change[0]), (vec!["c".into()], vec!["a".into()], Vec::new()));
    rig.state.on_verdicts(rig.now, update, Vec::new());
    let ack = rig.take().remove(0);
    assert_eq!((&*ack.nonce, delta(&ack)), ("n2", (NONE, NONE, Vec::new())));
}

#[test]
fn resource_no_longer_wanted_when_its_verdict_comes_is_not_held() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[]);
        rig.interest(Endpoint, &["a", "b"]);
        let update = rig.respond(Endpoint, "1", &[("a", "1"), ("b", "1")], &[]);
        rig.interest(Endpoint, &["b"]);
        rig.state.on_verdicts(rig.now, update, Vec::new());
        assert_eq!(rig.held_names(Endpoint), ["b"]);
    }
}

#[test]
fn wildcard_types_take_no_interest() {
    let mut rig = Rig::started(Delta, &[("a", "1")]);
    assert!(rig.interest(Cluster, &["only"]).is_empty());
    assert_eq!(rig.held_names(Cluster), ["a"]);
}

#[test]
fn sotw_absence_removes_clusters_and_listeners_only() {
    let mut rig = Rig::started(Sotw, &[("a", "1"), ("b", "1")]);
    assert_eq!(rig.accept(Cluster, "2", &[("b", "1")], &[]), (NONE, vec!["a".into()]));
    assert_eq!(rig.held_names(Cluster), ["b"]);
    rig.interest(Endpoint, &["a", "b"]);
    rig.accept(Endpoint, "1", &[("a", "1"), ("b", "1")], &[]);
    assert_eq!(rig.accept(Endpoint, "2", &[("b", "2")], &[]), (vec!["b".into()], NONE));
    assert_eq!(rig.held_names(Endpoint), ["a", "b"]);
}

#[test]
fn sotw_response_with_an_unreadable_name_removes_nothing() {
    let mut rig = Rig::started(Sotw, &[("a", "1"), ("b", "1")]);
    let mut items = rig.items(Cluster, &[("a", "2")]);
    items.push(Item {
        type_url: Cluster.type_url().into(),
        body: Some(Bytes::from_static(b"\x0a\x7f")),
        ..Item::default()
    });
    let update = rig.raw_response(Cluster, "2", items, &[]).unwrap();
    assert!(update.removed.is_empty());
    let nack = rig.judge_update(update).unwrap();
    assert_eq!(nack.error.as_deref(), Some("Cluster #1: name: cannot be read: the message is damaged"));
    assert_eq!(rig.held(Cluster), pairs(&[("a", "2"), ("b", "c1")]));
    // The same holds for an Any of another type, whose name cannot be trusted.
    let other =
        Item { type_url: "type.googleapis.com/x.Y".into(), body: Some(body("b", "1")), ..Item::default() };
    let update = rig.raw_response(Cluster, "3", vec![other], &[]).unwrap();
    assert!(update.removed.is_empty());
    let nack = rig.judge_update(update).unwrap().error.unwrap();
    assert!(nack.starts_with("Cluster #0: type_url: type.googleapis.com/x.Y: expected "), "{nack}");
}

#[test]
fn delta_removal_takes_clusters_and_only_marks_endpoints() {
    let mut rig = Rig::started(Delta, &[("a", "1"), ("b", "1")]);
    assert_eq!(rig.accept(Cluster, "2", &[], &["a", "unheard-of"]), (NONE, vec!["a".into()]));
    assert_eq!(rig.held_names(Cluster), ["b"]);
    rig.interest(Endpoint, &["b"]);
    rig.accept(Endpoint, "1", &[("b", "1")], &[]);
    let update = rig.respond(Endpoint, "2", &[], &["b"]);
    assert!(update.removed.is_empty());
    assert_eq!(names(update.withdrawn.iter()), ["b"]);
    rig.state.on_verdicts(rig.now, update, Vec::new());
    assert_eq!(rig.held_names(Endpoint), ["b"]);
    assert!(rig.respond(Endpoint, "3", &[], &["b"]).is_noop(), "marked once");
    let again = rig.reconnect();
    assert_eq!(delta(&again[1]), (vec!["b".into()], NONE, Vec::new()), "no longer listed as held");
    assert_eq!(
        rig.accept(Endpoint, "4", &[("b", "1")], &[]).0,
        ["b"],
        "given again it is news, equal bytes or not"
    );
}

#[test]
fn name_both_removed_and_given_is_given() {
    let mut rig = Rig::started(Delta, &[("a", "1")]);
    assert_eq!(rig.accept(Cluster, "2", &[("a", "1"), ("n", "1")], &["a", "n"]), (vec!["n".into()], NONE));
    assert_eq!(rig.held_names(Cluster), ["a", "n"]);
}

#[test]
fn equal_bytes_are_a_no_op_whatever_the_version() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[("a", "1"), ("b", "1")]);
        let mut items = rig.items(Cluster, &[("a", "1"), ("b", "2")]);
        items[0].version = if variant == Delta { "other".into() } else { String::new() };
        let update = rig.raw_response(Cluster, "c2", items, &[]).unwrap();
        assert_eq!(names(update.changed.iter().map(|raw| &raw.name)), ["b"]);
        assert!(rig.judge_update(update).unwrap().error.is_none());
        let version = if variant == Delta { "other" } else { "c2" };
        assert_eq!(rig.held(Cluster)[0].1, version, "the newest version is the one held");
        assert_eq!(rig.state.stats().of(Cluster).unchanged.get(), 1);
    }
}

#[test]
fn delta_reconnect_lists_every_held_name_with_its_version() {
    let mut rig = Rig::started(Delta, &[("a", "1"), ("b", "1"), ("c", "1")]);
    // `b` is applied out of a response that is answered with a NACK; `c` keeps its last good version.
    assert!(rig.judge(Cluster, "2", &[("b", "2"), ("c", "bad"), ("d", "bad")]).unwrap().error.is_some());
    rig.accept(Cluster, "3", &[], &["a"]);
    let first = rig.reconnect().remove(0);
    assert_eq!(delta(&first), (NONE, NONE, pairs(&[("b", "v-2"), ("c", "v-1")])));
}

#[test]
fn sotw_reconnect_sends_the_last_accepted_version() {
    let mut rig = Rig::started(Sotw, &[("a", "1")]);
    rig.interest(Endpoint, &["a"]);
    rig.accept(Endpoint, "e1", &[("a", "1")], &[]);
    rig.judge(Cluster, "c2", &[("a", "bad")]);
    let again = rig.reconnect();
    assert_eq!(sotw(&again[0]), ("c1".into(), NONE));
    assert_eq!(sotw(&again[1]), ("e1".into(), vec!["a".into()]));
    assert!(again.iter().all(|request| request.nonce.is_empty()));
}

#[test]
fn sotw_reconnect_with_a_name_still_missing_sends_no_version() {
    let mut rig = Rig::started(Sotw, &[("a", "1")]);
    rig.interest(Endpoint, &["a", "b"]);
    rig.accept(Endpoint, "e1", &[("a", "1")], &[]);
    assert_eq!(sotw(&rig.reconnect()[1]).0, "");
}

#[test]
fn initial_versions_stop_below_the_message_limit_and_the_rest_must_be_confirmed() {
    let mut rig = Rig::connected(Delta);
    let long: Vec<String> = (0..40_000).map(|n| format!("{n:05}-{}", "x".repeat(110))).collect();
    let all: Vec<(&str, &str)> = long.iter().map(|name| (name.as_str(), "1")).collect();
    rig.accept(Cluster, "1", &all, &[]);
    let requests = rig.reconnect();
    let listed = delta(&requests[0]).2;
    let bytes: usize = listed.iter().map(|(name, version)| name.len() + version.len() + 8).sum();
    assert!(bytes < 4 * 1024 * 1024 && bytes > 3 * 1024 * 1024, "{bytes}");
    // The server re-sends what was not listed; of those, `gone` is no more.
    let mut unlisted = all[listed.len()..].to_vec();
    let gone = unlisted.pop().unwrap();
    assert_eq!(rig.accept(Cluster, "2", &unlisted, &[]), (NONE, vec![gone.0.to_owned()]));
}

#[test]
fn delta_subscriptions_are_split_below_the_message_limit() {
    let mut rig = Rig::started(Delta, &[]);
    let long: Vec<String> = (0..40_000).map(|n| format!("{n:05}-{}", "x".repeat(110))).collect();
    let list: Vec<&str> = long.iter().map(String::as_str).collect();
    let requests = rig.interest(Endpoint, &list);
    assert_eq!(requests.len(), 2);
    let counts: Vec<_> = requests.iter().map(|request| delta(request).0.len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 40_000);
    assert!(counts[0] * 116 < 4 * 1024 * 1024);
}

fn restored(variant: Variant) -> Rig {
    let mut rig = Rig::new(variant);
    for (kind, list) in [(Cluster, ["a", "b"]), (Endpoint, ["a", "b"])] {
        let raw = list.map(|name| RawResource::new(Arc::from(name), body(name, "1"), Arc::from("old")));
        rig.state.restore(kind, raw.to_vec());
    }
    rig.interest(Endpoint, &["a", "b"]);
    rig
}

#[test]
fn restored_names_are_listed_without_a_version() {
    let mut rig = restored(Delta);
    assert!(rig.state.is_stale());
    let requests = rig.connect();
    assert_eq!(kinds(&requests), [Cluster, Endpoint, Listener]);
    assert_eq!(delta(&requests[0]).2, pairs(&[("a", ""), ("b", "")]));
    assert_eq!(delta(&requests[1]).2, pairs(&[("a", ""), ("b", "")]));
    let mut rig = restored(Sotw);
    assert!(rig.connect().iter().all(|request| sotw(request).0.is_empty()));
}

#[test]
fn restored_clusters_absent_from_the_first_answer_go_and_endpoints_stay() {
    for variant in [Sotw, Delta] {
        let mut rig = restored(variant);
        rig.connect();
        assert_eq!(rig.accept(Cluster, "1", &[("a", "1")], &[]), (NONE, vec!["b".into()]));
        assert_eq!(rig.accept(Endpoint, "1", &[("a", "1")], &[]), (NONE, NONE));
        assert_eq!(rig.held_names(Cluster), ["a"]);
        assert_eq!(rig.held_names(Endpoint), ["a", "b"]);
        // Only the first answer counts so.
        if variant == Delta {
            assert_eq!(rig.accept(Cluster, "2", &[("c", "1")], &[]), (vec!["c".into()], NONE));
        }
    }
}

#[test]
fn restored_cluster_that_comes_back_bad_stays() {
    for variant in [Sotw, Delta] {
        let mut rig = restored(variant);
        rig.connect();
        let update = rig.respond(Cluster, "1", &[("a", "1"), ("b", "bad")], &[]);
        assert!(update.removed.is_empty());
        assert!(rig.judge_update(update).unwrap().error.is_some());
        assert_eq!(rig.held_names(Cluster), ["a", "b"]);
        assert_eq!(rig.state.held(Cluster, "b").unwrap().bytes, body("b", "1"));
    }
}

#[test]
fn stale_ends_when_all_restored_types_are_answered() {
    let mut rig = restored(Delta);
    rig.connect();
    rig.accept(Cluster, "1", &[("a", "1"), ("b", "1")], &[]);
    assert!(!rig.state.stats().of(Cluster).stale.get() && rig.state.is_stale());
    rig.accept(Endpoint, "1", &[("a", "1"), ("b", "1")], &[]);
    assert!(!rig.state.is_stale());
    // Or when nothing restored is left.
    let mut rig = restored(Delta);
    rig.connect();
    rig.accept(Cluster, "1", &[("n", "1")], &[]);
    rig.interest(Endpoint, &["n"]);
    assert!(!rig.state.is_stale());
}

#[test]
fn restore_after_the_stream_opened_is_confirmed_the_same_way() {
    let mut rig = Rig::connected(Delta);
    rig.state.restore(Cluster, vec![RawResource::new(Arc::from("old"), body("old", "1"), Arc::from(""))]);
    assert_eq!(rig.accept(Cluster, "1", &[("new", "1")], &[]), (vec!["new".into()], vec!["old".into()]));
}

#[test]
fn unknown_and_unasked_types_get_no_answer() {
    let mut rig = Rig::connected(Delta);
    let unknown =
        Response { type_url: "type.googleapis.com/foo.Bar".into(), nonce: "x".into(), ..Response::default() };
    assert!(rig.state.on_response(rig.now, unknown).is_none());
    assert!(rig.raw_response(Endpoint, "1", Vec::new(), &[]).is_none());
    assert!(rig.take().is_empty());
    assert_eq!((rig.state.stats().unknown_type.get(), rig.state.stats().unsolicited.get()), (1, 1));
}

#[test]
fn endpoints_nobody_asked_for_are_acknowledged_and_ignored() {
    let mut rig = Rig::started(Delta, &[]);
    rig.interest(Endpoint, &["a"]);
    assert_eq!(rig.accept(Endpoint, "1", &[("stray", "1"), ("a", "1")], &[]).0, ["a"]);
    let ack = rig.take().pop().unwrap();
    assert!(ack.error.is_none() && !ack.nonce.is_empty());
    assert_eq!(rig.held_names(Endpoint), ["a"]);
}

#[test]
fn inner_name_counts_and_the_wrapper_name_is_what_the_server_knows() {
    let mut rig = Rig::started(Delta, &[]);
    let mut items = rig.items(Cluster, &[("inner", "1")]);
    items[0].name = "outer".into();
    let update = rig.raw_response(Cluster, "1", items, &[]).unwrap();
    assert_eq!(&*update.changed[0].name, "inner");
    rig.state.on_verdicts(rig.now, update, Vec::new());
    assert_eq!(delta(&rig.reconnect()[0]).2, pairs(&[("outer", "v-1")]));
    assert_eq!(rig.accept(Cluster, "2", &[], &["outer"]).1, ["inner"]);
    assert!(rig.held_names(Cluster).is_empty());
}

#[test]
fn heartbeat_without_a_body_keeps_what_is_held() {
    let mut rig = Rig::started(Delta, &[("a", "1")]);
    let beat = Item { name: "a".into(), version: "v-1".into(), ..Item::default() };
    let update = rig.raw_response(Cluster, "2", vec![beat], &[]).unwrap();
    assert!(update.is_noop());
    assert!(rig.judge_update(update).unwrap().error.is_none());
    assert_eq!(rig.held(Cluster), pairs(&[("a", "v-1")]));
}

#[test]
fn verdicts_after_the_stream_is_gone_are_kept_but_not_sent() {
    let mut rig = Rig::started(Delta, &[]);
    let update = rig.respond(Cluster, "2", &[("a", "1")], &[]);
    let first = rig.reconnect();
    assert_eq!(delta(&first[0]).2, Vec::new());
    rig.state.on_verdicts(rig.now, update, Vec::new());
    assert!(rig.take().is_empty());
    assert_eq!(rig.held_names(Cluster), ["a"]);
}

#[test]
fn good_parts_of_a_refused_response_are_a_success_unless_readiness_hangs_on_the_rest() {
    let mut rig = Rig::connected(Delta);
    let counts = |rig: &Rig| {
        let cds = rig.state.stats().of(Cluster);
        (cds.update_success.get(), cds.update_rejected.get())
    };
    rig.judge(Cluster, "v1", &[("a", "bad")]);
    assert_eq!(counts(&rig), (0, 1), "nothing of it is good");
    rig.judge(Cluster, "v2", &[("a", "bad"), ("b", "1")]);
    assert_eq!(counts(&rig), (1, 2));
    let mut update = rig.respond(Cluster, "3", &[("a", "bad"), ("c", "1")], &[]);
    update.keep_unready();
    let refused = Rejection { name: "a".into(), text: "no".into() };
    rig.state.on_verdicts(rig.now, update, vec![refused]);
    assert_eq!(counts(&rig), (1, 3));
    rig.state.count_success(Cluster);
    assert_eq!(counts(&rig), (2, 3));
}

#[test]
fn counters_follow_the_verdicts() {
    let mut rig = Rig::connected(Sotw);
    rig.accept(Cluster, "v1", &[("a", "1")], &[]);
    rig.pass(Duration::from_secs(5));
    rig.judge(Cluster, "v2", &[("a", "1"), ("b", "bad")]);
    rig.state.on_disconnected("reset by peer");
    let stats = rig.state.stats();
    let cds = stats.of(Cluster);
    let counts = [
        &cds.update_attempt,
        &cds.update_success,
        &cds.update_rejected,
        &cds.update_failure,
        &cds.held,
        &cds.rejected,
    ];
    assert_eq!(counts.map(|counter| counter.get()), [3, 2, 1, 1, 1, 1]);
    assert_eq!(
        (&*cds.version.get(), cds.last_update_ms.get(), cds.last_contact_ms.get()),
        ("v1", 1_000, 6_000)
    );
    assert_eq!(
        (stats.connected.get(), &*stats.last_error.get(), &*stats.identifier.get()),
        (false, "reset by peer", "cp")
    );
    assert_eq!(stats.of(Endpoint).update_failure.get(), 0, "not wanted");
}
