//! Tables translated after their last version, against tables translated alone.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::proto::envoy::config::route::v3 as pb;
use crate::translate::Translated;
use std::sync::Arc;

/// An unknown field with a varint.
const FUTURE: &[u8] = &[0xc8, 0x9c, 0x01, 0x01];

/// One virtual host of a table in the test.
#[derive(Clone, Debug)]
struct Host {
    name: u8,
    domains: Vec<u8>,
    cluster: u8,
    /// 0 nothing; 1 an unknown field; 2 a known one without effect; 3 a fault; 4 bytes that are no message; 5 an
    /// answer whose length depends on the table.
    kind: u8,
}

impl Host {
    fn bytes(&self) -> Vec<u8> {
        let domains: Vec<_> = self.domains.iter().map(|domain| format!("d{domain}.test")).collect();
        let timeout = if self.kind == 3 { "-1s" } else { "1s" };
        let mut json = json!({"name": format!("v{}", self.name), "domains": domains, "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": format!("c{}", self.cluster), "timeout": timeout}}]});
        if self.kind == 2 {
            json["routes"][0]["route"]["priority"] = json!("HIGH");
        }
        if self.kind == 5 {
            json["routes"][0] = json!({"match": {"prefix": "/"},
                "direct_response": {"status": 200, "body": {"inline_string": "12345678"}}});
        }
        let mut bytes = bytes("route", "VirtualHost", &json);
        match self.kind {
            1 => bytes.extend_from_slice(FUTURE),
            4 => bytes.extend_from_slice(&[0x0a, 0x01, 0xff]),
            _ => {}
        }
        bytes
    }
}

fn table_of(hosts: &[Vec<u8>], max_body: u8) -> Bytes {
    let frame = json!({"name": "r", "max_direct_response_body_size_bytes": max_body, "ignore_port_in_host_matching": true});
    let mut out = bytes("route", "RouteConfiguration", &frame);
    for host in hosts {
        out.push(0x12);
        prost::encode_length_delimiter(host.len(), &mut out).unwrap();
        out.extend_from_slice(host);
    }
    out.into()
}

type Verdict = Result<(RouteConfig, Vec<Note>), Rejection>;

fn plain(verdict: Result<(Translated<Arc<RouteConfig>>, Known), Rejection>) -> (Verdict, Option<Known>) {
    match verdict {
        Ok((table, known)) => (Ok((RouteConfig::clone(&table.model), table.notes)), Some(known)),
        Err(rejection) => (Err(rejection), None),
    }
}

fn host() -> impl Strategy<Value = Host> {
    let kind =
        prop_oneof![8 => Just(0u8), 2 => Just(1), 2 => Just(2), 1 => Just(3), 1 => Just(4), 2 => Just(5)];
    (0..8u8, prop::collection::vec(0..40u8, 1..3), 0..2u8, kind)
        .prop_map(|(name, domains, cluster, kind)| Host { name, domains, cluster, kind })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_table_means_does_not_depend_on_its_last_version(
        versions in prop::collection::vec((prop::collection::vec(host(), 0..6), 7..9u8), 1..6),
    ) {
        let mut known: Option<Known> = None;
        for (hosts, max_body) in versions {
            let hosts: Vec<_> = hosts.iter().map(Host::bytes).collect();
            let bytes = table_of(&hosts, max_body);
            let (alone, _) = plain(route_after(&bytes, None));
            let (after, next) = plain(route_after(&bytes, known.as_ref()));
            prop_assert_eq!(&alone, &after);
            let whole = route(&bytes).map(|table| (table.model, table.notes));
            prop_assert_eq!(&whole, &after);
            known = next.or(known);
        }
    }
}

#[test]
fn unchanged_hosts_are_taken_over_wherever_they_stand() {
    let host = |name, cluster| Host { name, domains: vec![name], cluster, kind: 0 }.bytes();
    let (first, known) = route_after(&table_of(&[host(1, 0), host(2, 0), host(3, 0)], 9), None).unwrap();
    let again = table_of(&[host(3, 0), host(9, 0), host(1, 0), host(2, 1)], 9);
    let (second, _) = route_after(&again, Some(&known)).unwrap();
    let (old, new) = (&first.model.virtual_hosts, &second.model.virtual_hosts);
    assert!(Arc::ptr_eq(&new[0], &old[2]) && Arc::ptr_eq(&new[2], &old[0]));
    assert!(!Arc::ptr_eq(&new[3], &old[1]));
}

#[test]
fn faults_name_the_virtual_host_among_those_taken_over() {
    let host = |name, kind| Host { name, domains: vec![name], cluster: 0, kind }.bytes();
    let (_, known) = route_after(&table_of(&[host(1, 0), host(2, 0)], 9), None).unwrap();
    let text = |hosts: &[Vec<u8>]| route_after(&table_of(hosts, 9), Some(&known)).unwrap_err().to_string();
    let bad = text(&[host(1, 0), host(2, 3)]);
    assert_eq!(
        bad,
        "RouteConfiguration r: virtual_hosts[1].routes[0].route.timeout: -1s: must not be negative (nearest valid 0s)"
    );
    assert!(text(&[host(1, 0), host(2, 4)]).starts_with("RouteConfiguration r: virtual_hosts[1]: "));
    let twice = text(&[host(1, 0), host(1, 0)]);
    assert!(twice.contains("virtual_hosts[1].name: v1: virtual_hosts[0] has this name too"), "{twice}");
    assert!(
        twice.contains("virtual_hosts[1].domains[0]: d1.test: virtual_hosts[0] has this domain too"),
        "{twice}"
    );
}

#[test]
fn notes_of_many_hosts_are_told_anew_with_each_version() {
    let hosts = |kinds: &dyn Fn(u8) -> u8| -> Vec<Vec<u8>> {
        (0..250).map(|n| Host { name: n, domains: vec![n], cluster: 0, kind: kinds(n) }.bytes()).collect()
    };
    let mut known = None;
    // More notes than are kept; then the first ones go, so that later ones come into sight.
    let versions: [&dyn Fn(u8) -> u8; 4] =
        [&|_| 1, &|n| 1 + n % 2, &|n| u8::from(n > 100), &|n| u8::from(n > 100) + u8::from(n == 0)];
    for kinds in versions {
        let bytes = table_of(&hosts(kinds), 9);
        let (alone, _) = plain(route_after(&bytes, None));
        let (after, next) = plain(route_after(&bytes, known.as_ref()));
        assert!(!alone.as_ref().unwrap().1.is_empty());
        assert_eq!(alone.as_ref().unwrap().1, after.unwrap().1);
        known = next;
    }
}

#[test]
fn answers_out_of_files_are_read_with_each_version() {
    let path = std::env::temp_dir().join(format!("mizzen-table-{}", std::process::id()));
    let table = |timeout: &str| {
        let body = json!({"filename": path});
        let file = json!({"name": "f", "domains": ["f"], "routes": [
            {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": body}}]});
        let other = json!({"name": "o", "domains": ["o"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "c", "timeout": timeout}}]});
        Bytes::from(bytes(
            "route",
            "RouteConfiguration",
            &json!({"name": "r", "virtual_hosts": [file, other]}),
        ))
    };
    let body = |table: &RouteConfig| match &table.virtual_hosts[0].routes[0].action {
        Action::Direct(direct) => direct.body.to_vec(),
        other => panic!("{other:?}"),
    };
    std::fs::write(&path, "one").unwrap();
    let (first, known) = route_after(&table("1s"), None).unwrap();
    std::fs::write(&path, "two").unwrap();
    let (second, known) = route_after(&table("2s"), Some(&known)).unwrap();
    std::fs::write(&path, "three").unwrap();
    let (third, _) = route_after(&table("3s"), Some(&known)).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        [body(&first.model), body(&second.model), body(&third.model)],
        [&b"one"[..], b"two", b"three"]
    );
}

#[test]
fn a_table_with_too_many_routes_is_refused_by_their_number() {
    let empty = pb::Route::default();
    let host = pb::VirtualHost {
        name: "v".into(),
        domains: vec!["*".into()],
        routes: vec![empty; 60_000],
        ..pb::VirtualHost::default()
    };
    let table = pb::RouteConfiguration {
        name: "r".into(),
        virtual_hosts: vec![host; 2],
        ..pb::RouteConfiguration::default()
    };
    let text = route(&table.encode_to_vec()).unwrap_err().to_string();
    assert!(text.contains("virtual_hosts: 120000 routes: a table holds 100000 at most"), "{text}");
}
