use super::*;
use crate::message::{Fact, Facts, Head};
use crate::model::*;
use proptest::prelude::*;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug, Default)]
struct Request {
    authority: Option<String>,
    path: Option<String>,
    method: Option<String>,
    headers: Vec<(String, String)>,
}

impl Head for Request {
    fn authority(&self) -> Option<&[u8]> {
        self.authority.as_deref().map(str::as_bytes)
    }
    fn path_and_query(&self) -> Option<&[u8]> {
        self.path.as_deref().map(str::as_bytes)
    }
    fn method(&self) -> Option<&[u8]> {
        self.method.as_deref().map(str::as_bytes)
    }
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let first = values.next()?;
        let rest: Vec<&str> = values.collect();
        if rest.is_empty() {
            return Some(first.as_bytes().into());
        }
        Some([&[first], &rest[..]].concat().join(",").into_bytes().into())
    }
    fn each_value(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        self.headers.iter().filter(|(n, _)| n == name).for_each(|(_, v)| each(v.as_bytes()));
    }
}

fn forward(cluster: ClusterChoice) -> Action {
    Action::Route(RouteAction { cluster, ..RouteAction::default() })
}

fn anything() -> RouteMatch {
    RouteMatch::default()
}

fn prefix(value: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Prefix { value: value.into(), ignore_case: false }, ..anything() }
}

fn exact_header(name: &str, value: &str) -> HeaderMatch {
    let kind = HeaderMatchKind::Text(StringMatch::Exact { value: value.into(), ignore_case: false });
    HeaderMatch { name: name.into(), kind, invert: false, treat_missing_as_empty: false }
}

fn route(name: &str, matcher: RouteMatch) -> Route {
    Route::new(name, matcher, forward(ClusterChoice::Single("c".into())))
}

fn host(name: &str, domains: &[&str], routes: Vec<Route>) -> Arc<VirtualHost> {
    Arc::new(VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|d| (*d).to_owned()).collect(),
        routes: routes.into_iter().map(Arc::new).collect(),
        ..VirtualHost::default()
    })
}

fn table_of(config: &RouteConfig) -> RouteTable {
    let mut names: Vec<String> = Vec::new();
    let mut intern = |name: &str| {
        let at = names.iter().position(|n| n == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        ClusterId(at as u32)
    };
    let hosts = config.virtual_hosts.iter().map(|h| CompiledHost::compile(h, config, &mut intern)).collect();
    RouteTable::compile(config, hosts)
}

fn table(hosts: Vec<Arc<VirtualHost>>) -> RouteTable {
    table_of(&RouteConfig { virtual_hosts: hosts, ..RouteConfig::default() })
}

fn found<'a>(table: &'a RouteTable, request: &Request) -> Option<&'a str> {
    table.find(request, 0).map(|route| route.name())
}

fn to(authority: &str, path: &str) -> Request {
    Request { authority: Some(authority.into()), path: Some(path.into()), ..Request::default() }
}

#[test]
fn requests_without_authority_and_path_use_the_any_host_and_the_root_prefix() {
    let mut by_service = anything();
    by_service.headers.push(exact_header("service", "com.Foo:1.0"));
    let table = table(vec![
        host("web", &["a.com"], vec![route("web", prefix("/"))]),
        host(
            "rpc",
            &["*"],
            vec![route("deep", prefix("/deep")), route("service", by_service), route("rest", prefix("/"))],
        ),
    ]);
    let mut request = Request::default();
    assert_eq!(found(&table, &request), Some("rest"));
    request.headers.push(("service".into(), "com.Foo:1.0".into()));
    assert_eq!(found(&table, &request), Some("service"));
    assert_eq!(found(&table, &to("a.com", "/")), Some("web"));
    assert_eq!(found(&table, &to("b.com", "/deep/er")), Some("deep"));
}

#[test]
fn domains_follow_envoys_precedence() {
    let one = |name: &str, domain: &str| host(name, &[domain], vec![route(name, anything())]);
    let table = table(vec![
        one("any", "*"),
        one("long-prefix", "a.b.*"),
        one("prefix", "a.*"),
        one("suffix", "*.com"),
        one("long-suffix", "*.b.com"),
        one("exact", "a.b.com"),
        one("any-port", "p.org:*"),
        one("port", "p.org:80"),
    ]);
    for (authority, wanted) in [
        ("a.b.com", "exact"),
        ("A.B.Com", "exact"),
        ("x.b.com", "long-suffix"),
        (".b.com", "suffix"),
        ("a.com", "suffix"),
        ("a.b.net", "long-prefix"),
        ("a.b.com:80", "long-prefix"),
        ("a.b.", "prefix"),
        ("a.", "any"),
        ("p.org", "any"),
        ("p.org:80", "port"),
        ("p.org:81", "any-port"),
        ("", "any"),
    ] {
        assert_eq!(found(&table, &to(authority, "/")), Some(wanted), "{authority}");
    }
}

#[test]
fn ports_are_ignored_only_when_asked() {
    let hosts = vec![host("h", &["a.com"], vec![route("r", anything())])];
    assert_eq!(found(&table(hosts.clone()), &to("a.com:80", "/")), None);
    let ignoring = table_of(&RouteConfig { virtual_hosts: hosts, ignore_port: true, ..Default::default() });
    assert_eq!(found(&ignoring, &to("a.com:80", "/")), Some("r"));
    for (full, bare) in [("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", ":"), ("a:", "a"), ("a:x", "a")] {
        assert_eq!(domains::without_port(full.as_bytes()), bare.as_bytes());
    }
}

#[test]
fn path_kinds_see_the_path_without_query() {
    let separated = PathMatch::SeparatedPrefix { value: "/api".into(), ignore_case: false };
    let exact = PathMatch::Exact { value: "/X".into(), ignore_case: true };
    let regex = PathMatch::Regex(Regex::full("/r[0-9]+").unwrap());
    let table = table(vec![host(
        "h",
        &["*"],
        vec![
            route("separated", RouteMatch { path: separated, ..anything() }),
            route("exact", RouteMatch { path: exact, ..anything() }),
            route("regex", RouteMatch { path: regex, ..anything() }),
        ],
    )]);
    for (path, wanted) in [
        ("/api?x=1", Some("separated")),
        ("/api/v1", Some("separated")),
        ("/apis", None),
        ("/x?y#z", Some("exact")),
        ("/r12#f?", Some("regex")),
        ("/r12x", None),
    ] {
        assert_eq!(found(&table, &to("h", path)), wanted, "{path}");
    }
}

#[test]
fn absent_headers_fail_unless_presence_or_emptiness_is_asked() {
    let text = |pattern: &str| HeaderMatchKind::Text(StringMatch::Regex(Regex::full(pattern).unwrap()));
    let case = |kind: HeaderMatchKind, invert, treat_missing_as_empty, value: Option<&str>| {
        let matcher = HeaderMatch { name: "h".into(), kind, invert, treat_missing_as_empty };
        let headers = value.map(|v| ("h".to_owned(), v.to_owned())).into_iter().collect();
        matcher::header_matches(&matcher, &Request { headers, ..Request::default() })
    };
    assert!(case(text(".*"), false, false, Some("")));
    assert!(!case(text(".*"), false, false, None));
    assert!(!case(text("x"), true, false, None), "inverted, yet absent");
    assert!(case(text("x"), true, true, None));
    assert!(case(HeaderMatchKind::Present(false), false, false, None));
    assert!(case(HeaderMatchKind::Present(true), true, false, None));
    let range = || HeaderMatchKind::Range { start: -1, end: 5 };
    assert!(case(HeaderMatchKind::Present(true), false, true, None), "counts as there");
    let any = |invert| {
        let matcher = HeaderMatch { invert, ..exact_header("h", "1") };
        let headers = vec![("h".into(), "0".into()), ("h".into(), "1".into())];
        matcher::header_matches(&matcher, &Request { headers, ..Request::default() })
    };
    assert!(any(false) && !any(true), "one of several values is enough");
    assert!(case(range(), false, false, Some("-1")) && case(range(), true, false, Some("5")));
    assert!(!case(range(), false, false, Some("1x")));
}

#[test]
fn query_and_fraction_narrow_a_match() {
    let mut wanted = prefix("/");
    let value = Some(StringMatch::Prefix { value: "1".into(), ignore_case: false });
    wanted.query.push(QueryMatch { name: "v".into(), value, present: true });
    wanted.query.push(QueryMatch { name: "no".into(), value: None, present: false });
    wanted.fraction = Some(Fraction { numerator: 50, denominator: 100, runtime_key: String::new() });
    let table = table(vec![host("h", &["*"], vec![route("r", wanted)])]);
    assert!(table.find(&to("h", "/?a&v=12&v=3"), 149 << 32).is_some());
    assert!(table.find(&to("h", "/?v=12"), 150 << 32).is_none());
    for miss in ["/?v=21&v=1", "/?v=1&no", "/", "/#?v=1"] {
        assert!(table.find(&to("h", miss), 0).is_none(), "{miss}");
    }
}

/// Facts about a request alone.
struct Known<'a>(&'a Request);

impl Facts for Known<'_> {
    fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.0.header(name)
    }
    fn fact(&self, _: Fact, _: &mut Vec<u8>) -> bool {
        false
    }
}

fn set(name: &str) -> HeaderEdits {
    let edit = HeaderEdit::Set { name: name.into(), value: "1".into() };
    HeaderEdits { remove: vec![], edits: vec![edit] }
}

fn weighted(names: &[&str]) -> Route {
    let share = |name: &&str| WeightedCluster {
        name: (*name).into(),
        weight: 1,
        request_headers: set(name),
        ..WeightedCluster::default()
    };
    let mut route = route("r", anything());
    route.action = forward(ClusterChoice::Weighted(names.iter().map(share).collect()));
    route
}

fn changed(mut route: Route, change: impl FnOnce(&mut RouteAction)) -> Route {
    let Action::Route(action) = &mut route.action else { unreachable!() };
    change(action);
    route
}

fn options(route: Route, change: impl FnOnce(&mut RouteOptions)) -> Route {
    changed(route, |action| change(action.options.get_or_insert_default()))
}

#[test]
fn a_weighted_draw_brings_every_level_of_edits() {
    let mut route = weighted(&["c0", "c1"]);
    route.request_headers = set("route");
    let mut config = RouteConfig {
        virtual_hosts: vec![host("h", &["*"], vec![route])],
        request_headers: set("table"),
        ..RouteConfig::default()
    };
    for (most_specific_wins, wanted) in [(false, ["c1", "route", "table"]), (true, ["c1", "table", "route"])]
    {
        config.most_specific_header_mutations_wins = most_specific_wins;
        let table = table_of(&config);
        let spec = table.find(&Request::default(), 0).unwrap();
        let Drawn::Cluster(cluster, draw) = spec.draw(&Request::default(), 1, None) else {
            panic!("no cluster")
        };
        assert_eq!(cluster, ClusterId(1));
        let names: Vec<_> = draw
            .request_edits
            .iter()
            .map(|edit| match edit {
                Edit::Write(edit) => edit.name(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, wanted);
        assert!(draw.response_edits.is_empty());
        assert_eq!(table.hosts()[0].clusters().collect::<Vec<_>>(), [ClusterId(0), ClusterId(1)]);
    }
}

#[test]
fn a_draw_may_follow_a_header_or_the_hash() {
    let drawn = |draw: DrawBy, number: Option<&str>, hash: Option<u64>| {
        let route = options(weighted(&["c0", "c1", "c2"]), |options| options.draw = draw);
        let table = table(vec![host("h", &["*"], vec![route])]);
        let headers = number.map(|n| ("n".to_owned(), n.to_owned())).into_iter().collect();
        let request = Request { headers, ..Request::default() };
        match table.find(&request, 0).unwrap().draw(&request, 0, hash) {
            Drawn::Cluster(cluster, _) => cluster.0,
            _ => panic!("no cluster"),
        }
    };
    let by_header = || DrawBy::Header("n".into());
    assert_eq!(drawn(by_header(), Some("5"), None), 2);
    assert_eq!(drawn(by_header(), Some("x"), None), 0);
    assert_eq!(drawn(by_header(), None, Some(1)), 0);
    assert_eq!(drawn(DrawBy::Hash, None, Some(4)), 1);
    assert_eq!(drawn(DrawBy::Random, Some("5"), Some(4)), 0);
}

#[test]
fn shares_may_be_named_by_a_header_and_rewrite_the_host() {
    let share = WeightedCluster {
        weight: 1,
        header: Some("to".into()),
        host_rewrite: Some("share".into()),
        filters: [("f".to_owned(), RouteFilter::Disabled)].into(),
        ..WeightedCluster::default()
    };
    let mut made = route("r", anything());
    made.action = forward(ClusterChoice::Weighted(vec![share]));
    let request = Request { headers: vec![("to".into(), "c".into())], ..to("a", "/") };
    let table = table(vec![host("h", &["*"], vec![made])]);
    let spec = table.find(&request, 0).unwrap();
    let Drawn::Header(name, draw) = spec.draw(&request, 0, None) else { panic!("no header") };
    assert_eq!(name, "to");
    assert_eq!(draw.share.unwrap().host_rewrite.as_deref(), Some("share"));
    assert_eq!(spec.filter("f", draw.share), Some(&RouteFilter::Disabled));
    assert_eq!(spec.filter("f", None), None);
    assert_eq!(table.hosts()[0].clusters().count(), 0);
}

#[test]
fn hosts_are_made_of_paths_and_formats() {
    let host_of = |rewrite: HostRewrite, path: &str| {
        let made = changed(route("r", anything()), |action| action.host_rewrite = Some(Box::new(rewrite)));
        let table = table(vec![host("h", &["*"], vec![made])]);
        let mut request = to("a", path);
        request.headers.push(("who".into(), "me".into()));
        let spec = table.find(&request, 0).unwrap();
        spec.rewrite_host(&request, &Known(&request)).map(|host| String::from_utf8(host).unwrap())
    };
    let regex = || HostRewrite::PathRegex(Regex::search("^/([^/]+)/.*$").unwrap(), r"\1.test".into());
    assert_eq!(host_of(regex(), "/eu/x?y").as_deref(), Some("eu.test"));
    assert_eq!(host_of(HostRewrite::Literal("l".into()), "/").as_deref(), Some("l"));
    let format = Format::parse("%REQ(who)%.test").unwrap();
    assert_eq!(host_of(HostRewrite::Format(format), "/").as_deref(), Some("me.test"));
    assert_eq!(host_of(HostRewrite::Header("who".into()), "/").as_deref(), Some("me"));
    assert_eq!(host_of(HostRewrite::Header("none".into()), "/"), None);
    assert_eq!(host_of(HostRewrite::Auto, "/"), None);
}

fn rewritten(matcher: RouteMatch, rewrite: Option<PathRewrite>, path: &str) -> Option<String> {
    let made = changed(route("r", matcher), |action| action.path_rewrite = rewrite.map(Box::new));
    let table = table(vec![host("h", &["*"], vec![made])]);
    let request = to("h", path);
    let spec = table.find(&request, 0).unwrap();
    spec.rewrite_path(path.as_bytes(), &Known(&request)).map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn rewrites_replace_what_matched_and_keep_the_query() {
    let by_prefix = |with: &str| Some(PathRewrite::Prefix(with.to_owned()));
    assert_eq!(rewritten(prefix("/a"), by_prefix("/b"), "/a/c?q=/a").as_deref(), Some("/b/c?q=/a"));
    let exact = PathMatch::Exact { value: "/a".into(), ignore_case: false };
    assert_eq!(
        rewritten(RouteMatch { path: exact, ..anything() }, by_prefix("/z"), "/a").as_deref(),
        Some("/z")
    );
    let by_regex = PathRewrite::Regex(Regex::search("/(v[0-9])/").unwrap(), r"/\1-\\\0".into());
    assert_eq!(
        rewritten(prefix("/"), Some(by_regex), "/v1/x/v2/?/v3/").as_deref(),
        Some(r"/v1-\/v1/x/v2-\/v2/?/v3/")
    );
    assert_eq!(rewritten(prefix("/"), None, "/x"), None);
    assert_eq!(
        rewritten(prefix("/a"), by_prefix("x"), "/ab?q").as_deref(),
        Some("/xb?q"),
        "never without a slash"
    );
    let away = PathRewrite::Regex(Regex::search("^.*$").unwrap(), String::new());
    assert_eq!(rewritten(prefix("/"), Some(away), "/x"), None, "nothing is no path");
    let template = UriTemplate::parse("/u/{id}/{rest=**}").unwrap();
    let parts = PathRewrite::Template(template.rewrite("/{rest}/{id}").unwrap());
    let matcher = RouteMatch { path: PathMatch::Template(template), ..anything() };
    assert_eq!(rewritten(matcher, Some(parts), "/u/7/a/b?q").as_deref(), Some("/a/b/7?q"));
    let format = PathRewrite::Format(Format::parse("/to%REQ(none)%x").unwrap());
    assert_eq!(rewritten(prefix("/"), Some(format), "/x?q").as_deref(), Some("/tox?q"));
}

#[test]
fn connect_meets_its_own_routes() {
    let connect = RouteMatch { path: PathMatch::Connect, ..anything() };
    let routes = || vec![route("connect", connect.clone()), route("root", prefix("/"))];
    let table = table(vec![host("h", &["*"], routes())]);
    let mut request = Request { method: Some("CONNECT".into()), ..to("a:80", "/") };
    assert_eq!(found(&table, &request), Some("connect"));
    request.path = None;
    assert_eq!(found(&table, &request), Some("connect"));
    request.method = None;
    assert_eq!(found(&table, &request), Some("root"));
}

#[test]
fn path_parameters_count_unless_they_are_ignored() {
    let exact = |value: &str| PathMatch::Exact { value: value.into(), ignore_case: false };
    let routes = vec![
        route("plain", RouteMatch { path: exact("/a"), ..anything() }),
        route("full", RouteMatch { path: exact("/a;b=1"), ..anything() }),
    ];
    let mut config = RouteConfig { virtual_hosts: vec![host("h", &["*"], routes)], ..RouteConfig::default() };
    assert_eq!(found(&table_of(&config), &to("h", "/a;b=1?c")), Some("full"));
    config.ignore_path_parameters = true;
    assert_eq!(found(&table_of(&config), &to("h", "/a;b=1?c")), Some("plain"));
}

#[test]
fn requests_without_tls_are_sent_for_it() {
    let mut virtual_host = VirtualHost::clone(&host("h", &["*"], vec![route("r", prefix("/"))]));
    virtual_host.require_tls = RequireTls::External;
    let table = table(vec![Arc::new(virtual_host)]);
    let came_by = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let request = Request { headers, ..to("a:80", "/x?q") };
        let spec = table.find(&request, 0).unwrap();
        spec.location(&request, "http").map(|to| String::from_utf8(to).unwrap())
    };
    assert_eq!(came_by(&[]).as_deref(), Some("https://a:80/x?q"));
    assert_eq!(came_by(&[("x-forwarded-proto", "http")]).as_deref(), Some("https://a:80/x?q"));
    assert_eq!(came_by(&[("x-forwarded-proto", "https")]), None);
    assert_eq!(came_by(&[("x-envoy-internal", "true")]), None);
}

#[test]
fn mirrors_and_filters_are_handed_down() {
    let mirror = |name: &str| Mirror {
        cluster: ClusterChoice::Single(name.into()),
        fraction: Some(Fraction { numerator: 1, denominator: 100, runtime_key: String::new() }),
        trace_sampled: None,
        keep_host: false,
        host_rewrite: None,
    };
    let own = options(route("own", prefix("/own")), |options| options.mirrors.push(mirror("m-route")));
    let mut virtual_host = VirtualHost::clone(&host("h", &["*"], vec![own, route("other", prefix("/"))]));
    virtual_host.filters.insert("f".into(), RouteFilter::Disabled);
    let config = RouteConfig {
        virtual_hosts: vec![Arc::new(virtual_host)],
        mirrors: vec![mirror("m-table")],
        ..RouteConfig::default()
    };
    let table = table_of(&config);
    for (path, name) in [("/own", "m-route"), ("/", "m-table")] {
        let spec = table.find(&to("h", path), 0).unwrap();
        let ActionSpec::Route(forward) = &spec.action else { panic!() };
        assert_eq!(forward.mirrors[0].model.cluster.names(), [name]);
        assert!(forward.mirrors[0].cluster.is_some());
        assert!(forward.mirrors[0].wants(100) && !forward.mirrors[0].wants(1));
        assert_eq!(spec.filter("f", None), Some(&RouteFilter::Disabled));
    }
    // What is copied to counts as used, but no route waits for it.
    assert_eq!(table.hosts()[0].clusters().count(), 3);
    assert_eq!(config.virtual_hosts[0].clusters().collect::<Vec<_>>(), ["c", "c"]);
}

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

#[test]
fn redirect_targets_keep_what_is_not_replaced() {
    let location = |redirect: Redirect, authority: &str, path: &str| {
        let mut made = route("r", prefix("/old"));
        made.action = Action::Redirect(redirect);
        let table = table(vec![host("h", &["*"], vec![made])]);
        let request = to(authority, path);
        let spec = table.find(&request, 0).unwrap();
        String::from_utf8(spec.location(&request, "http").unwrap()).unwrap()
    };
    let https = || Redirect { scheme: Some("https".into()), ..Redirect::default() };
    assert_eq!(location(https(), "a.com:80", "/old?q"), "https://a.com/old?q");
    assert_eq!(location(https(), "a.com:81", "/old"), "https://a.com:81/old");
    let port = Redirect { port: Some(8443), prefix_rewrite: Some("/new".into()), ..https() };
    assert_eq!(location(port, "a.com:80", "/old/x"), "https://a.com:8443/new/x");
    let fixed = Redirect { host: Some("b".into()), path: Some("/p?k".into()), ..Redirect::default() };
    assert_eq!(location(fixed, "a", "/old?q"), "http://b/p?k");
    let strip = Redirect { strip_query: true, ..Redirect::default() };
    assert_eq!(location(strip, "a", "/old?q"), "http://a/old");
    let regex = Some((Regex::search("^/old/(.*)$").unwrap(), r"/\1/new".to_owned()));
    let by_regex = Redirect { regex_rewrite: regex, ..Redirect::default() };
    assert_eq!(location(by_regex, "a", "/old/x?q"), "http://a/x/new?q");
    let fixed = || Redirect { path: Some("/p".into()), ..Redirect::default() };
    assert_eq!(location(fixed(), "a", "/old?q"), "http://a/p?q");
    assert_eq!(location(Redirect { strip_query: true, ..fixed() }, "a", "/old?q"), "http://a/p");
    assert_eq!(location(https(), "[::1]:80", "/old"), "https://[::1]/old");
    let bare = Redirect { path: Some("p".into()), ..Redirect::default() };
    assert_eq!(location(bare, "a", "/old?q"), "http://a/p?q");
    let regex = Some((Regex::search("b*").unwrap(), "-".to_owned()));
    let everywhere = Redirect { regex_rewrite: regex, ..Redirect::default() };
    assert_eq!(location(everywhere, "a", "/oldb?q"), "http://a/-/-o-l-d-?q");
    let mut created = route("r", anything());
    created.action = Action::Direct(DirectResponse { status: 201, body: [].into() });
    let table = table(vec![host("h", &["*"], vec![created])]);
    let request = to("a:80", "/x?q");
    let here = table.find(&request, 0).unwrap().location(&request, "http").unwrap();
    assert_eq!(here, b"http://a:80/x?q");
}

// ---- the index gives what a plain scan gives ----

fn half() -> Fraction {
    Fraction { numerator: 50, denominator: 100, runtime_key: String::new() }
}

fn arb_matcher() -> impl Strategy<Value = RouteMatch> {
    let path = (arb_path(), 0..9u8, any::<bool>()).prop_map(|(value, kind, ignore_case)| match kind {
        0..3 => PathMatch::Prefix { value, ignore_case },
        3..5 => PathMatch::Exact { value, ignore_case },
        5 => PathMatch::SeparatedPrefix { value, ignore_case },
        6 => PathMatch::Regex(Regex::full(&format!("{value}.*")).unwrap()),
        7 => PathMatch::Connect,
        _ => PathMatch::Any,
    });
    let header = (0..3u8, 0..3u8, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(name, value, invert, treat_missing_as_empty, present)| {
            let mut made = exact_header(&format!("h{name}"), ["", "x", "y"][usize::from(value)]);
            (made.invert, made.treat_missing_as_empty) =
                (invert && present, treat_missing_as_empty && !present);
            made
        },
    );
    (path, prop::collection::vec(header, 0..3), prop::option::of(Just(half()))).prop_map(
        |(path, headers, fraction)| RouteMatch { path, headers, query: vec![], grpc: false, fraction },
    )
}

/// Few letters, so that many begin with others.
fn arb_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["/", "/", "a", "b", "A", "ab"]), 0..6)
        .prop_map(|v| v.concat())
}

fn arb_request() -> impl Strategy<Value = Request> {
    let authority = prop::option::of(arb_authority());
    let path = prop::option::of((arb_path(), any::<bool>()).prop_map(|(p, q)| if q { p + "?q" } else { p }));
    let method = prop::option::of(Just("CONNECT".to_owned()));
    let headers = prop::collection::vec((0..3u8, prop::sample::select(vec!["", "x", "y"])), 0..3);
    (authority, path, method, headers).prop_map(|(authority, path, method, headers)| Request {
        authority,
        path,
        method,
        headers: headers.into_iter().map(|(n, v)| (format!("h{n}"), v.to_owned())).collect(),
    })
}

fn arb_authority() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "B", "b", ".", ":80"]), 0..4)
        .prop_map(|v| v.concat())
}

fn arb_domain() -> impl Strategy<Value = String> {
    (arb_authority(), 0..4u8).prop_map(|(text, kind)| {
        let text = text.to_ascii_lowercase();
        match kind {
            0 => format!("*{text}"),
            1 => format!("{text}*"),
            _ => text,
        }
    })
}

/// The virtual host by Envoy's rule, read off the list of domains.
fn scan_host<'a>(hosts: &'a [Arc<VirtualHost>], authority: Option<&str>) -> Option<&'a Arc<VirtualHost>> {
    let authority = authority.map(str::to_ascii_lowercase);
    let rank = |domain: &str| -> Option<(u8, usize)> {
        if domain == "*" {
            return Some((0, 0));
        }
        let text = authority.as_deref()?;
        if let Some(fixed) = domain.strip_prefix('*') {
            return (text.len() > fixed.len() && text.ends_with(fixed)).then_some((2, fixed.len()));
        }
        if let Some(fixed) = domain.strip_suffix('*') {
            return (text.len() > fixed.len() && text.starts_with(fixed)).then_some((1, fixed.len()));
        }
        (domain == text).then_some((3, 0))
    };
    let mut best: Option<((u8, usize), &Arc<VirtualHost>)> = None;
    for host in hosts {
        for score in host.domains.iter().filter_map(|domain| rank(domain)) {
            if best.is_none_or(|(held, _)| score > held) {
                best = Some((score, host));
            }
        }
    }
    best.map(|(_, host)| host)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn route_index_equals_a_scan(
        matchers in prop::collection::vec(arb_matcher(), 0..60),
        requests in prop::collection::vec((arb_request(), any::<u64>()), 1..8),
    ) {
        let routes: Vec<_> =
            matchers.iter().enumerate().map(|(at, m)| route(&at.to_string(), m.clone())).collect();
        let table = table(vec![host("h", &["*"], routes)]);
        for (request, random) in requests {
            let target = matcher::Target::new(&request, random, false);
            let scan = matchers.iter().position(|m| matcher::matches(m, &request, &target));
            let index = table.find(&request, random).map(|route| route.name().parse::<usize>().unwrap());
            prop_assert_eq!(index, scan, "{:?}", request);
        }
    }

    #[test]
    fn host_index_equals_a_scan(
        domains in prop::collection::vec(prop::collection::vec(arb_domain(), 1..3), 0..8),
        authorities in prop::collection::vec(prop::option::of(arb_authority()), 1..8),
    ) {
        let hosts: Vec<_> = domains
            .iter()
            .enumerate()
            .map(|(at, list)| {
                let list: Vec<&str> = list.iter().map(String::as_str).collect();
                host(&at.to_string(), &list, vec![])
            })
            .collect();
        let table = table(hosts.clone());
        for authority in authorities {
            let wanted = scan_host(&hosts, authority.as_deref()).map(|host| host.name.clone());
            let index = table.host(authority.as_deref().map(str::as_bytes)).map(|host| host.model.name.clone());
            prop_assert_eq!(index, wanted, "{:?}", authority);
        }
    }
}
