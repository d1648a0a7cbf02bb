//! Time limits, retry policies and hashes a request is given.

use super::*;

fn limits(route: Route, internal: bool, headers: &[(&str, &str)]) -> Limits {
    let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let request = Request { headers, ..to("h", "/") };
    let table = table(vec![host("h", &["*"], vec![route])]);
    table.find(&request, 0).unwrap().limits(&request, internal)
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

#[test]
fn grpc_calls_may_bring_their_timeout() {
    let ms = Duration::from_millis;
    let with = |most: Option<u64>, offset: Option<u64>, asked: &str| {
        let made = changed(route("r", anything()), |action| {
            action.timeout = Some(ms(15_000));
            action.max_grpc_timeout = most.map(ms);
        });
        let made = options(made, |options| options.grpc_timeout_offset = offset.map(ms));
        limits(made, false, &[GRPC, ("grpc-timeout", asked)]).timeout
    };
    assert_eq!(with(None, None, "1S"), Some(ms(15_000)));
    assert_eq!(with(Some(0), None, "1S"), Some(ms(1000)));
    assert_eq!(with(Some(0), None, "bad"), None);
    assert_eq!(with(Some(500), None, "1S"), Some(ms(500)));
    assert_eq!(with(Some(500), None, ""), Some(ms(500)));
    assert_eq!(with(Some(0), Some(10), "1100u"), Some(ms(2)));
    assert_eq!(with(Some(0), Some(1), "10m"), Some(ms(9)));
    let plain = changed(route("r", anything()), |action| {
        (action.timeout, action.max_grpc_timeout) = (Some(ms(7)), Some(ms(0)));
    });
    assert_eq!(limits(plain, false, &[("grpc-timeout", "1S")]).timeout, Some(ms(7)), "no gRPC");
}

#[test]
fn a_limit_of_the_stream_replaces_the_timeout() {
    let ms = Duration::from_millis;
    let with = |max: MaxStream, headers: &[(&str, &str)]| {
        let made = changed(route("r", anything()), |action| action.timeout = Some(ms(15_000)));
        let limits = limits(options(made, |options| options.max_stream = Some(max)), false, headers);
        assert_eq!(limits.timeout, None);
        limits.max_stream
    };
    let max = |limit: Option<u64>, header: Option<u64>, offset: Option<u64>| MaxStream {
        limit: limit.map(ms),
        grpc_header_max: header.map(ms),
        grpc_header_offset: offset.map(ms),
    };
    assert_eq!(with(max(None, None, None), &[]), None);
    assert_eq!(with(max(Some(0), Some(0), None), &[]), Some(None));
    assert_eq!(with(max(Some(5), Some(0), None), &[]), Some(Some(ms(5))));
    let asks = [("grpc-timeout", "20m")];
    assert_eq!(with(max(Some(5), Some(0), None), &asks), Some(Some(ms(20))));
    assert_eq!(with(max(Some(5), Some(10), Some(3)), &asks), Some(Some(ms(7))));
    assert_eq!(with(max(Some(5), None, None), &asks), Some(Some(ms(5))));
}

#[test]
fn requests_from_inside_set_their_own_limits() {
    let ms = Duration::from_millis;
    let made = || {
        changed(route("r", anything()), |action| {
            action.timeout = Some(ms(100));
            action.retry =
                Some(Arc::new(RetryPolicy { per_try_timeout: Some(ms(40)), ..Default::default() }));
        })
    };
    let asks = [("x-envoy-upstream-rq-timeout-ms", "50"), ("x-envoy-upstream-rq-per-try-timeout-ms", "20")];
    let outside = limits(made(), false, &asks);
    assert_eq!((outside.timeout, outside.per_try), (Some(ms(100)), Some(ms(40))));
    let inside = limits(made(), true, &asks);
    assert_eq!((inside.timeout, inside.per_try), (Some(ms(50)), Some(ms(20))));
    let off = limits(made(), true, &[("x-envoy-upstream-rq-timeout-ms", "0")]);
    assert_eq!((off.timeout, off.per_try), (None, Some(ms(40))));
    let short = limits(made(), true, &[("x-envoy-upstream-rq-timeout-ms", "30")]);
    assert_eq!((short.timeout, short.per_try), (Some(ms(30)), None), "not longer than the whole");
}

#[test]
fn requests_from_inside_add_to_the_retry_policy() {
    let retry = |route: Route, internal: bool, headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let request = Request { headers, ..to("h", "/") };
        let table = table(vec![host("h", &["*"], vec![route])]);
        table.find(&request, 0).unwrap().retry(&request, internal).map(Cow::into_owned)
    };
    let asks = [
        ("x-envoy-retry-on", "5xx, retriable-status-codes"),
        ("x-envoy-retry-grpc-on", "cancelled"),
        ("x-envoy-max-retries", "4"),
        ("x-envoy-retriable-status-codes", "418,no,419"),
    ];
    assert_eq!(retry(route("r", anything()), false, &asks), None);
    let made = retry(route("r", anything()), true, &asks).unwrap();
    assert!(made.on.five_xx && made.on.retriable_status_codes && !made.on.reset);
    assert_eq!((made.on.grpc_codes, made.retries, made.status_codes), (2, 4, vec![418, 419]));
    assert_eq!(retry(route("r", anything()), true, &asks[2..]), None);
    let own = changed(route("r", anything()), |action| {
        let on = RetryOn { reset: true, ..RetryOn::default() };
        action.retry = Some(Arc::new(RetryPolicy { on, ..Default::default() }));
    });
    let both = retry(own, true, &asks[..1]).unwrap();
    assert!(both.on.reset && both.on.five_xx);
}

#[test]
fn hashes_are_envoys() {
    use crate::util::hash::xxh64;
    let policy = |source: HashSource, terminal: bool| HashPolicy { source, terminal };
    let header = |name: &str| HashSource::Header { name: name.into(), rewrite: None };
    let hash = |policies: Vec<HashPolicy>| {
        let route = options(route("r", anything()), |options| options.hash = policies);
        let table = table(vec![host("h", &["*"], vec![route])]);
        let request = Request {
            headers: vec![
                ("a".into(), "1".into()),
                ("b".into(), "2".into()),
                ("cookie".into(), "x=; sid=\"s1\"; sid=s2".into()),
            ],
            ..to("h", "/?q=v&q=w")
        };
        let client = Some("10.0.0.1".parse().unwrap());
        table.find(&request, 0).unwrap().hash(&request, client, 7)
    };
    let one = |source| hash(vec![policy(source, false)]).value;
    let cookie = |name: &str, ttl| HashSource::Cookie {
        name: name.into(),
        ttl,
        path: "/p".into(),
        attributes: vec![("SameSite".into(), "Lax".into()), ("Secure".into(), String::new())],
    };
    assert_eq!(one(header("a")), Some(xxh64(b"1", 0)));
    assert_eq!(one(header("none")), None);
    let rewrite = Some((Regex::search("1").unwrap(), "9".to_owned()));
    assert_eq!(one(HashSource::Header { name: "a".into(), rewrite }), Some(xxh64(b"9", 0)));
    assert_eq!(one(HashSource::SourceIp), Some(xxh64(b"10.0.0.1", 0)));
    assert_eq!(one(HashSource::QueryParameter("q".into())), Some(xxh64(b"v", 0)));
    assert_eq!(one(cookie("sid", None)), Some(xxh64(b"s1", 0)));
    assert_eq!(one(cookie("x", None)), None);
    let made = hash(vec![policy(cookie("x", Some(Duration::from_secs(60))), false)]);
    assert_eq!(made.value, Some(xxh64(b"0000000000000007", 0)));
    assert_eq!(
        made.cookies[0].header,
        "x=\"0000000000000007\"; Max-Age=60; Path=/p; SameSite=Lax; Secure; HttpOnly"
    );
    let both = hash(vec![policy(header("a"), false), policy(header("b"), false)]).value;
    assert_eq!(both, Some(xxh64(b"1", 0).rotate_left(1) ^ xxh64(b"2", 0)));
    let first = hash(vec![policy(header("a"), true), policy(header("b"), false)]).value;
    assert_eq!(first, Some(xxh64(b"1", 0)));
}
