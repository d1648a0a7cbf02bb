use super::*;
use crate::message::{Fact, Facts, Head};
use crate::model::*;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

mod limits;
mod property;

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
    let half = Fraction { numerator: 50, denominator: 100, runtime_key: String::new() };
    wanted.fraction = Some(Box::new(half));
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
    HeaderEdits { remove: Box::default(), edits: Box::new([edit]) }
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

#[test]
fn redirect_targets_keep_what_is_not_replaced() {
    let location = |redirect: Redirect, authority: &str, path: &str| {
        let mut made = route("r", prefix("/old"));
        made.action = Action::Redirect(Box::new(redirect));
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
