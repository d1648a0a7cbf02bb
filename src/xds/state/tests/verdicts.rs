//! ACK, NACK, what is remembered of bad resources, bounds.

use super::*;

#[test]
fn ack_echoes_nonce_and_version() {
    let mut rig = Rig::connected(Sotw);
    rig.accept(Cluster, "v7", &[("a", "1")], &[]);
    let ack = rig.take().remove(0);
    assert_eq!((sotw(&ack), &*ack.nonce, ack.error), (("v7".into(), NONE), "n1", None));
    let mut rig = Rig::connected(Delta);
    rig.accept(Cluster, "v7", &[("a", "1")], &[]);
    let ack = rig.take().remove(0);
    assert_eq!((delta(&ack), &*ack.nonce, ack.error), ((NONE, NONE, Vec::new()), "n1", None));
}

#[test]
fn nack_names_the_bad_applies_the_good_and_keeps_the_old() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[("a", "1"), ("b", "1")]);
        let nack = rig.judge(Cluster, "c2", &[("a", "2"), ("b", "bad"), ("c", "3"), ("d", "bad")]).unwrap();
        assert_eq!(nack.error.as_deref(), Some("Cluster b: field: bad: why\nCluster d: field: bad: why"));
        assert_eq!(&*nack.nonce, "n2");
        if variant == Sotw {
            assert_eq!(sotw(&nack).0, "c1", "the last version accepted as a whole");
        }
        assert_eq!(rig.held_names(Cluster), ["a", "b", "c"]);
        assert_eq!(rig.state.held(Cluster, "a").unwrap().bytes, body("a", "2"));
        assert_eq!(rig.state.held(Cluster, "b").unwrap().bytes, body("b", "1"));
    }
}

#[test]
fn bad_name_counts_as_present() {
    let mut rig = Rig::started(Sotw, &[("a", "1"), ("b", "1")]);
    let update = rig.respond(Cluster, "c2", &[("a", "bad")], &[]);
    assert_eq!(names(update.removed.iter()), ["b"]);
    rig.judge_update(update);
    assert_eq!(rig.held_names(Cluster), ["a"]);
}

#[test]
fn rejected_resources_are_remembered_until_good_or_gone() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[]);
        rig.judge(Cluster, "c2", &[("a", "bad"), ("b", "bad"), ("c", "bad")]);
        let rejected = rig.state.dump(Cluster).rejected;
        assert_eq!(rejected.len(), 3);
        let a = rejected.iter().find(|rejected| &*rejected.name == "a").unwrap();
        assert_eq!((&*a.text, a.unix_ms, &a.bytes), ("Cluster a: field: bad: why", 1_000, &body("a", "bad")));
        assert_eq!(&*a.version, if variant == Sotw { "c2" } else { "v-bad" });
        // A good version of `a`; `b` is gone; `c` stays bad.
        let update = if variant == Sotw {
            rig.respond(Cluster, "c3", &[("a", "1"), ("c", "bad")], &[])
        } else {
            rig.respond(Cluster, "c3", &[("a", "1")], &["b"])
        };
        rig.judge_update(update);
        assert_eq!(names(rig.state.dump(Cluster).rejected.iter().map(|rejected| &rejected.name)), ["c"]);
    }
}

#[test]
fn return_to_the_last_good_bytes_clears_the_rejection() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[("a", "1")]);
        rig.judge(Cluster, "c2", &[("a", "bad")]);
        assert_eq!(rig.state.stats().of(Cluster).rejected.get(), 1);
        let update = rig.respond(Cluster, "c3", &[("a", "1")], &[]);
        assert!(update.is_noop());
        assert!(rig.judge_update(update).unwrap().error.is_none());
        assert_eq!(rig.state.stats().of(Cluster).rejected.get(), 0);
    }
}

#[test]
fn second_copy_in_one_response_is_a_rejection_of_that_name() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[("old", "1")]);
        let update = rig.respond(
            Cluster,
            "c2",
            &[("a", "1"), ("a", "2"), ("old", "1"), ("old", "1"), ("good", "1")],
            &[],
        );
        assert_eq!(names(update.changed.iter().map(|raw| &raw.name)), ["a", "good"]);
        let nack = rig.judge_update(update).unwrap();
        let lines = "Cluster a: resources[1].name: a: given twice in one response (first as resources[0])\n\
             Cluster old: resources[3].name: old: given twice in one response (first as resources[2])";
        assert_eq!(nack.error.as_deref(), Some(lines));
        assert_eq!(rig.held_names(Cluster), ["a", "good", "old"]);
        assert_eq!(rig.state.held(Cluster, "a").unwrap().bytes, body("a", "1"));
    }
}

#[test]
fn nameless_delta_resource_goes_by_its_wrapper() {
    let mut rig = Rig::started(Delta, &[("a", "1")]);
    let item = Item {
        name: "a".into(),
        type_url: Cluster.type_url().into(),
        body: Some(body("", "x")),
        ..Item::default()
    };
    let update = rig.raw_response(Cluster, "2", vec![item], &[]).unwrap();
    assert_eq!(rig.judge_update(update).unwrap().error.as_deref(), Some("Cluster a: name: missing"));
    assert_eq!(rig.held_names(Cluster), ["a"]);
}

#[test]
fn repeated_rejection_is_answered_later_and_later_for_that_type_only() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[]);
        assert!(
            rig.judge(Cluster, "c2", &[("a", "bad"), ("b", "1")]).unwrap().error.is_some(),
            "the first at once"
        );
        let mut windows = Vec::new();
        for times in 0..7 {
            // A new version and nonce do not make it news.
            assert!(rig.judge(Cluster, &format!("c{times}x"), &[("a", "bad"), ("b", "1")]).is_none());
            let wait = rig.state.next_timeout().unwrap() - rig.now.instant;
            windows.push(wait);
            rig.accept(Listener, "l", &[], &[]);
            assert_eq!(kinds(&rig.take()), [Listener], "other types are not held up");
            rig.pass(wait - Duration::from_millis(1));
            assert!(rig.take().is_empty());
            rig.pass(Duration::from_millis(1));
            let nack = rig.take().pop().unwrap();
            assert!(nack.error.is_some() && nack.kind == Cluster);
        }
        for (times, wait) in windows.iter().enumerate() {
            let window = Duration::from_secs(1 << times).min(Duration::from_secs(30));
            assert!(*wait >= window / 2 && *wait <= window, "{times}: {wait:?}");
        }
        assert_eq!(rig.state.stats().of(Cluster).delayed_answers.get(), 7);
    }
}

#[test]
fn rejection_with_any_news_is_answered_at_once() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::started(variant, &[]);
        rig.judge(Cluster, "2", &[("a", "bad"), ("b", "1")]);
        assert!(rig.judge(Cluster, "3", &[("a", "bad"), ("b", "2")]).is_some(), "a neighbour changed");
        assert!(rig.judge(Cluster, "4", &[("a", "bad2"), ("b", "2")]).is_some(), "bad in another way");
        assert!(rig.judge(Cluster, "5", &[("a", "1"), ("b", "2")]).is_some());
        assert!(rig.judge(Cluster, "6", &[("a", "bad2"), ("b", "2")]).is_some(), "good in between");
    }
}

#[test]
fn answers_of_a_type_keep_their_order() {
    let mut rig = Rig::started(Delta, &[]);
    rig.judge(Cluster, "2", &[("a", "bad")]);
    assert!(rig.judge(Cluster, "3", &[("a", "bad")]).is_none());
    rig.accept(Cluster, "4", &[("a", "1")], &[]);
    let nonces: Vec<_> = rig.take().iter().map(|request| request.nonce.to_string()).collect();
    assert_eq!(nonces, ["n3", "n4"], "the held-back answer goes first");
    assert_eq!(rig.state.next_timeout(), None);
}

#[test]
fn held_back_answer_dies_with_its_stream() {
    let mut rig = Rig::started(Delta, &[]);
    rig.judge(Cluster, "2", &[("a", "bad")]);
    rig.judge(Cluster, "3", &[("a", "bad")]);
    rig.reconnect();
    rig.pass(Duration::from_secs(60));
    assert!(rig.take().is_empty());
}

#[test]
fn resources_past_the_count_limit_are_rejected_one_by_one() {
    for variant in [Sotw, Delta] {
        let mut config = StateConfig::new(variant);
        config.limits.resources = 3;
        let mut rig = Rig::with(config);
        rig.connect();
        rig.accept(Cluster, "1", &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")], &[]);
        let nack = rig.take().remove(0);
        assert_eq!(
            nack.error.as_deref(),
            Some("Cluster d: name: d: more than 3 resources of this type (nearest valid 3)")
        );
        assert_eq!(rig.held_names(Cluster), ["a", "b", "c"]);
        let again = rig.judge(Cluster, "2", &[("a", "2"), ("b", "2"), ("c", "2")]).unwrap();
        assert!(again.error.is_none(), "held names may change");
    }
}

#[test]
fn resource_past_the_size_limit_is_rejected_and_its_bytes_are_not_kept() {
    let mut config = StateConfig::new(Delta);
    config.limits.resource_bytes = 20;
    let mut rig = Rig::with(config);
    rig.connect();
    rig.accept(Cluster, "1", &[("a", "1")], &[]);
    rig.take();
    let nack = rig.judge(Cluster, "2", &[("a", "a payload that is too long"), ("b", "1")]).unwrap();
    assert_eq!(
        nack.error.as_deref(),
        Some("Cluster a: resources[0]: 31 bytes: larger than a resource may be (nearest valid 20 bytes)")
    );
    assert_eq!(rig.held_names(Cluster), ["a", "b"]);
    assert!(rig.state.dump(Cluster).rejected[0].bytes.is_empty());
}

#[test]
fn late_acceptance_turns_the_refused_bytes_into_the_held_ones() {
    let mut rig = Rig::started(Delta, &[("a", "1")]);
    rig.judge(Cluster, "2", &[("a", "bad")]);
    assert!(!rig.state.accept_late(rig.now, Cluster, "unheard-of"));
    assert!(rig.state.accept_late(rig.now, Cluster, "a"));
    assert_eq!(rig.state.held(Cluster, "a").unwrap().bytes, body("a", "bad"));
    assert!(rig.state.dump(Cluster).rejected.is_empty());
    assert_eq!(delta(&rig.reconnect()[0]).2, pairs(&[("a", "v-bad")]));
}

#[test]
fn response_without_resources_is_acknowledged() {
    for variant in [Sotw, Delta] {
        let mut rig = Rig::connected(variant);
        rig.accept(Cluster, "1", &[], &[]);
        let requests = rig.take();
        assert_eq!(kinds(&requests), [Cluster, Listener]);
        assert!(requests[0].error.is_none());
    }
}
