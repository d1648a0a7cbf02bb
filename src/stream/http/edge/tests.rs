use super::*;
use crate::model::{
    ChainMatch, Cidr, EscapedSlashes, FilterChain, NetworkFilter, Protocol, RouteId, RouteSource, RpcProxy,
};
use crate::snapshot::{ChainSpec, FilterSpec};
use std::rc::Rc;
use std::sync::Arc;

fn handle() -> Rc<Handle> {
    let config = RpcProxy {
        stat_prefix: "x".into(),
        downstream: Protocol::Http2,
        upstream: None,
        routes: RouteSource::Inline(Arc::default()),
        idle_timeout: None,
        drain_goaway: false,
        max_frame: 1,
        application_errors: false,
        access_log: Default::default(),
        filters: Vec::new(),
    };
    let model = FilterChain {
        name: "c".into(),
        matcher: ChainMatch::default(),
        guards: Vec::new(),
        mesh: None,
        tls: None,
        filter: NetworkFilter::Rpc(config.clone()),
    };
    let chain = ChainSpec {
        model,
        tls: None,
        filter: FilterSpec::Rpc { config, routes: RouteId(0) },
        filters: None,
        leftover: crate::snapshot::Leftover::default(),
    };
    let peer = PeerAddress::Ip("198.51.100.7:4000".parse().unwrap());
    Handle::new("l".into(), Arc::new(chain), peer, Some("192.0.2.1:8080".parse().unwrap()))
}

fn request(uri: &str, pairs: &[(&'static str, &'static str)]) -> request::Parts {
    let mut request = http::Request::builder().uri(uri).body(()).unwrap();
    for (name, value) in pairs {
        request.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    request.into_parts().0
}

fn arrived(edge: &Edge, uri: &str, pairs: &[(&'static str, &'static str)]) -> (request::Parts, Arrival) {
    let mut head = request(uri, pairs);
    let names = Names::of(&head.headers);
    let arrival = arrive(&mut head, names, edge, &handle(), &Random::seeded(3)).unwrap();
    (head, arrival)
}

#[test]
fn an_edge_appends_the_peer_and_believes_nobody() {
    let edge = Edge { use_remote_address: true, ..Edge::default() };
    let sent = [
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "theirs"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-internal", "true"),
    ];
    let (head, _) = arrived(&edge, "http://svc/", &sent);
    assert_eq!(head.headers["x-forwarded-for"], "10.0.0.1,198.51.100.7");
    assert_eq!(head.headers["x-forwarded-proto"], "http");
    assert_eq!(head.headers["x-envoy-external-address"], "198.51.100.7");
    let id = head.headers["x-request-id"].to_str().unwrap();
    assert_eq!((id.len(), &id[14..15], id == "theirs"), (36, "4", false));
    assert!(!head.headers.contains_key("x-envoy-retry-on") && !head.headers.contains_key("x-envoy-internal"));

    let edge = Edge { trusted_hops: 1, skip_xff_append: true, ..edge };
    let (head, _) = arrived(&edge, "http://svc/", &sent);
    assert_eq!(head.headers["x-forwarded-for"], "10.0.0.1");
    assert_eq!(head.headers["x-forwarded-proto"], "https");
    assert_eq!(head.headers["x-envoy-external-address"], "10.0.0.1");
}

#[test]
fn inside_a_mesh_the_request_keeps_what_it_says() {
    let edge = Edge { internal: vec![Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap()], ..Edge::default() };
    let sent = [("x-forwarded-for", "10.0.0.1"), ("x-request-id", "theirs"), ("x-envoy-max-retries", "3")];
    let (head, _) = arrived(&edge, "http://svc/", &sent);
    assert_eq!(head.headers["x-forwarded-for"], "10.0.0.1");
    assert_eq!(head.headers["x-request-id"], "theirs");
    assert_eq!(head.headers["x-envoy-internal"], "true");
    assert_eq!(head.headers["x-envoy-max-retries"], "3");
    let (head, _) = arrived(&edge, "http://svc/", &[("x-forwarded-for", "10.0.0.1, 10.0.0.2")]);
    assert!(!head.headers.contains_key("x-envoy-internal"), "more than one hop is not internal");
    assert_eq!(head.headers["x-forwarded-proto"], "http");
}

#[test]
fn names_authorities_and_paths_are_settled() {
    let edge = Edge {
        underscores: Underscores::Drop,
        strip_port: StripPort::Matching,
        strip_trailing_dot: true,
        normalize_path: true,
        via: "mesh".into(),
        ..Edge::default()
    };
    let (head, _) = arrived(&edge, "http://svc.:8080/a/../b?q=/../", &[("a_b", "1"), ("via", "1.1 x")]);
    assert_eq!((head.uri.authority().unwrap().as_str(), head.uri.path()), ("svc", "/b"));
    assert_eq!(head.uri.query(), Some("q=/../"));
    assert!(!head.headers.contains_key("a_b"));
    assert_eq!(head.headers["via"], "1.1 x,mesh");
    let (head, _) = arrived(&edge, "http://svc:81/", &[]);
    assert_eq!(head.uri.authority().unwrap().as_str(), "svc:81");

    let edge = Edge { underscores: Underscores::Reject, escaped_slashes: EscapedSlashes::Redirect, ..edge };
    let mut marked = request("http://svc/", &[("a_b", "1")]);
    let refused = arrive(&mut marked, Names::default(), &edge, &handle(), &Random::seeded(1));
    assert_eq!(refused.err().map(|failure| failure.reason), Some(Reason::BadRequest));
    let (_, arrival) = arrived(&edge, "http://svc/a%2Fb", &[]);
    assert_eq!(arrival.redirect.as_deref(), Some("/a/b"));
}

#[test]
fn responses_say_who_served_them() {
    let mut headers = HeaderMap::new();
    headers.insert(SERVER, HeaderValue::from_static("theirs"));
    let mut edge = Edge { server_header: ServerHeader::AppendIfAbsent, ..Edge::default() };
    let arrival = Arrival { request_id: Some(HeaderValue::from_static("id")), ..Arrival::default() };
    depart(StatusCode::OK, &mut headers, &edge, "istio-envoy", &arrival);
    assert_eq!(
        (&headers["server"], &headers["x-request-id"]),
        (&HeaderValue::from_static("theirs"), &HeaderValue::from_static("id"))
    );
    assert!(headers["date"].to_str().unwrap().ends_with(" GMT"));
    edge.server_header = ServerHeader::Overwrite;
    depart(StatusCode::OK, &mut headers, &edge, "istio-envoy", &Arrival::default());
    assert_eq!(headers["server"], "istio-envoy");
}
