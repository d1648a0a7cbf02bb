use super::*;
use crate::message::Head;
use crate::model::*;
use proptest::prelude::*;
use std::borrow::Cow;
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
struct Request {
    authority: Option<String>,
    path: Option<String>,
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
        None
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
}

fn forward(cluster: ClusterChoice) -> Action {
    Action::Route(RouteAction {
        cluster,
        timeout: None,
        idle_timeout: None,
        retry: None,
        prefix_rewrite: None,
        regex_rewrite: None,
        host_rewrite: None,
        auto_host_rewrite: false,
    })
}

fn anything() -> RouteMatch {
    RouteMatch { path: PathMatch::Any, headers: vec![], query: vec![], grpc: false, fraction: None }
}

fn prefix(value: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Prefix { value: value.into(), ignore_case: false }, ..anything() }
}

fn exact_header(name: &str, value: &str) -> HeaderMatch {
    let kind = HeaderMatchKind::Text(StringMatch::Exact { value: value.into(), ignore_case: false });
    HeaderMatch { name: name.into(), kind, invert: false, treat_missing_as_empty: false }
}

fn route(name: &str, matcher: RouteMatch) -> Route {
    Route {
        name: name.into(),
        matcher,
        action: forward(ClusterChoice::Single(name.into())),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    }
}

fn host(name: &str, domains: &[&str], routes: Vec<Route>) -> Arc<VirtualHost> {
    Arc::new(VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|d| (*d).to_owned()).collect(),
        routes,
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
    table.find(request, 0).map(|route| route.name.as_str())
}

fn to(authority: &str, path: &str) -> Request {
    Request { authority: Some(authority.into()), path: Some(path.into()), headers: vec![] }
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
    for (full, bare) in
        [("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1"), ("a:", "a:"), ("a:x", "a:x")]
    {
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
    assert!(case(range(), false, false, Some("-1")) && case(range(), true, false, Some("5")));
    assert!(!case(range(), false, false, Some("1x")));
}

#[test]
fn query_and_fraction_narrow_a_match() {
    let mut wanted = prefix("/");
    let value = Some(StringMatch::Prefix { value: "1".into(), ignore_case: false });
    wanted.query.push(QueryMatch { name: "v".into(), value, present: true });
    wanted.query.push(QueryMatch { name: "no".into(), value: None, present: false });
    wanted.fraction = Some(500_000);
    let table = table(vec![host("h", &["*"], vec![route("r", wanted)])]);
    assert!(table.find(&to("h", "/?a&v=12&v=3"), 499_999 << 32).is_some());
    assert!(table.find(&to("h", "/?v=12"), 500_000 << 32).is_none());
    for miss in ["/?v=21&v=1", "/?v=1&no", "/", "/#?v=1"] {
        assert!(table.find(&to("h", miss), 0).is_none(), "{miss}");
    }
}

#[test]
fn a_weighted_draw_brings_every_level_of_edits() {
    let set = |name: &str| HeaderEdits {
        remove: vec![],
        edits: vec![HeaderEdit::Set { name: name.into(), value: "1".into() }],
    };
    let share = |name: &str, weight| WeightedCluster {
        name: name.into(),
        weight,
        request_headers: set(name),
        response_headers: HeaderEdits::default(),
    };
    let mut weighted = route("r", anything());
    weighted.action = forward(ClusterChoice::Weighted(vec![share("c0", 1), share("c1", 1)]));
    weighted.request_headers = set("route");
    let config = RouteConfig {
        virtual_hosts: vec![host("h", &["*"], vec![weighted])],
        request_headers: set("table"),
        ..RouteConfig::default()
    };
    let table = table_of(&config);
    let spec = table.find(&Request::default(), 0).unwrap();
    let Drawn::Cluster(cluster, request, response) = spec.draw(1) else { panic!("no cluster") };
    assert_eq!(cluster, ClusterId(1));
    let names: Vec<_> = request
        .iter()
        .map(|edit| match edit {
            Edit::Write(HeaderEdit::Set { name, .. }) => name.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["c1", "route", "table"]);
    assert!(response.is_empty());
    assert_eq!(table.hosts()[0].clusters().collect::<Vec<_>>(), [ClusterId(0), ClusterId(1)]);
}

fn rewritten(matcher: RouteMatch, change: impl FnOnce(&mut RouteAction), path: &str) -> Option<String> {
    let mut made = route("r", matcher);
    let Action::Route(action) = &mut made.action else { unreachable!() };
    change(action);
    let table = table(vec![host("h", &["*"], vec![made])]);
    let spec = table.find(&to("h", path), 0).unwrap();
    spec.rewrite_path(path.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn rewrites_replace_what_matched_and_keep_the_query() {
    let by_prefix = |with: &str| {
        let with = with.to_owned();
        move |action: &mut RouteAction| action.prefix_rewrite = Some(with)
    };
    assert_eq!(rewritten(prefix("/a"), by_prefix("/b"), "/a/c?q=/a").as_deref(), Some("/b/c?q=/a"));
    let exact = PathMatch::Exact { value: "/a".into(), ignore_case: false };
    assert_eq!(
        rewritten(RouteMatch { path: exact, ..anything() }, by_prefix("/z"), "/a").as_deref(),
        Some("/z")
    );
    let by_regex = |action: &mut RouteAction| {
        action.regex_rewrite = Some((Regex::full("/(v[0-9])/").unwrap(), r"/\1-\\\0".into()));
    };
    assert_eq!(
        rewritten(prefix("/"), by_regex, "/v1/x/v2/?/v3/").as_deref(),
        Some(r"/v1-\/v1/x/v2-\/v2/?/v3/")
    );
    assert_eq!(rewritten(prefix("/"), |_| (), "/x"), None);
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
}

// ---- the index gives what a plain scan gives ----

fn arb_matcher() -> impl Strategy<Value = RouteMatch> {
    let value = prop::sample::select(vec!["/", "/a", "/a/b", "/b", ""]).prop_map(str::to_owned);
    let path = (value, 0..5u8, any::<bool>()).prop_map(|(value, kind, ignore_case)| match kind {
        0 => PathMatch::Prefix { value, ignore_case },
        1 | 2 => PathMatch::Exact { value, ignore_case },
        3 => PathMatch::SeparatedPrefix { value, ignore_case },
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
    (path, prop::collection::vec(header, 0..3), prop::option::of(Just(500_000))).prop_map(
        |(path, headers, fraction)| RouteMatch { path, headers, query: vec![], grpc: false, fraction },
    )
}

fn arb_request() -> impl Strategy<Value = Request> {
    let authority = prop::option::of(arb_authority());
    let path = prop::option::of(prop::sample::select(vec!["/", "/a", "/A", "/a/b", "/ab", "/b?q", ""]));
    let headers = prop::collection::vec((0..3u8, prop::sample::select(vec!["", "x", "y"])), 0..3);
    (authority, path, headers).prop_map(|(authority, path, headers)| Request {
        authority,
        path: path.map(str::to_owned),
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
    #[test]
    fn route_index_equals_a_scan(
        matchers in prop::collection::vec(arb_matcher(), 0..24),
        requests in prop::collection::vec((arb_request(), any::<u64>()), 1..8),
    ) {
        let routes: Vec<_> =
            matchers.iter().enumerate().map(|(at, m)| route(&at.to_string(), m.clone())).collect();
        let table = table(vec![host("h", &["*"], routes)]);
        for (request, random) in requests {
            let target = matcher::Target::new(&request, random);
            let scan = matchers.iter().position(|m| matcher::matches(m, &request, &target));
            let index = table.find(&request, random).map(|route| route.name.parse::<usize>().unwrap());
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
