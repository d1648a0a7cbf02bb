//! Policies of every kind against requests and connections.

use super::*;
use crate::model::{HeaderMatchKind, RbacSet};

struct Request(&'static [u8], &'static [(&'static str, &'static str)]);

impl Head for Request {
    fn authority(&self) -> Option<&[u8]> {
        Some(b"host")
    }
    fn path_and_query(&self) -> Option<&[u8]> {
        Some(self.0)
    }
    fn method(&self) -> Option<&[u8]> {
        Some(b"GET")
    }
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let (_, value) = self.1.iter().find(|(key, _)| *key == name)?;
        Some(value.as_bytes().into())
    }
}

fn exact(value: &str) -> StringMatch {
    StringMatch::Exact { value: value.into(), ignore_case: false }
}

fn range(text: &str, bits: u8) -> Cidr {
    Cidr::new(text.parse().unwrap(), bits).unwrap()
}

#[test]
fn permissions_and_principals() {
    let names = ["spiffe://a/b".to_owned()];
    let peer = Peer {
        direct: Some("10.1.1.1:99".parse().unwrap()),
        remote: Some("::ffff:192.168.0.9".parse().unwrap()),
        local: Some("127.0.0.1:8080".parse().unwrap()),
        server_name: "sni",
        principals: Some(&names),
    };
    let mut metadata = Metadata::default();
    metadata.set("n", "list", Datum::List(vec![Datum::Text("x".into()), Datum::Text("y".into())]));
    let head = Request(b"/a/b?c=d", &[("x-h", "v")]);
    let subject = Subject { peer: &peer, head: Some(&head), metadata: &metadata };
    let bare = Subject { peer: &Peer::default(), head: None, metadata: &Metadata::default() };
    let header = HeaderMatch {
        name: "x-h".into(),
        kind: HeaderMatchKind::Text(exact("v")),
        invert: false,
        treat_missing_as_empty: false,
    };
    let one_of = |value: &str| MetadataMatch {
        namespace: "n".into(),
        path: vec!["list".into()],
        value: ValueMatch::OneOf(Box::new(ValueMatch::Text(exact(value)))),
        invert: false,
    };
    for (permission, with, without) in [
        (Permission::Always, true, true),
        (Permission::Path(exact("/a/b")), true, false),
        (Permission::Path(exact("/a/b?c=d")), false, false),
        (Permission::Not(Box::new(Permission::Path(exact("/a")))), true, true),
        (Permission::Header(header.clone()), true, false),
        (Permission::DestinationIp(range("127.0.0.0", 8)), true, false),
        (Permission::DestinationPorts(8080, 8081), true, false),
        (Permission::DestinationPorts(8079, 8080), false, false),
        (Permission::ServerName(exact("sni")), true, false),
        (Permission::Metadata(one_of("y")), true, false),
        (Permission::Metadata(one_of("z")), false, false),
        (Permission::All(vec![Permission::Always, Permission::DestinationPorts(1, 2)]), false, false),
        (Permission::Any(vec![Permission::Always, Permission::DestinationPorts(1, 2)]), true, true),
    ] {
        assert_eq!((subject.does(&permission), bare.does(&permission)), (with, without), "{permission:?}");
    }
    for (principal, with, without) in [
        (Principal::Authenticated(None), true, false),
        (Principal::Authenticated(Some(exact("spiffe://a/b"))), true, false),
        (Principal::Authenticated(Some(exact("spiffe://a/c"))), false, false),
        (Principal::DirectIp(range("10.0.0.0", 8)), true, false),
        (Principal::RemoteIp(range("192.168.0.0", 16)), true, false),
        (Principal::RemoteIp(range("10.0.0.0", 8)), false, false),
        (Principal::Not(Box::new(Principal::Authenticated(None))), false, true),
        (Principal::Header(header), true, false),
    ] {
        assert_eq!((subject.is(&principal), bare.is(&principal)), (with, without), "{principal:?}");
    }
}

#[test]
fn actions_and_the_policy_that_decided() {
    let peer = Peer::default();
    let metadata = Metadata::default();
    let subject = Subject { peer: &peer, head: None, metadata: &metadata };
    let policy = |permission| Policy { permissions: vec![permission], principals: vec![Principal::Always] };
    let never = Permission::DestinationPorts(0, 0);
    let policies =
        vec![("a".to_owned(), policy(never.clone())), ("b".to_owned(), policy(Permission::Always))];
    let judged = |action, policies: &crate::model::Policies| {
        let set = RbacSet { action, policies: policies.clone() };
        let judged = judge(&set, &subject);
        (judged.allowed, judged.policy.map(str::to_owned))
    };
    let hit = Some("b".to_owned());
    assert_eq!(judged(RbacAction::Allow, &policies), (true, hit.clone()));
    assert_eq!(judged(RbacAction::Deny, &policies), (false, hit.clone()));
    assert_eq!(judged(RbacAction::Log, &policies), (true, hit));
    let none = vec![("a".to_owned(), policy(never))];
    assert_eq!(judged(RbacAction::Allow, &none), (false, None));
    assert_eq!(judged(RbacAction::Deny, &none), (true, None));
    // Rules without policies admit nobody, or everybody.
    assert_eq!(judged(RbacAction::Allow, &Vec::new()), (false, None));
    assert_eq!(judged(RbacAction::Deny, &Vec::new()), (true, None));
    assert_eq!(details(Some("ns[a b]-rule[0]")), "rbac_access_denied_matched_policy[ns[a_b]-rule[0]]");
    assert_eq!(details(None), "rbac_access_denied_matched_policy[none]");
}
