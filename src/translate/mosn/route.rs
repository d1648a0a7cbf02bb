//! Router configurations, virtual hosts and route matches.

use super::action;
use super::headers;
use super::read::{Context, Object};
use super::stream_filter::per_filter;
use crate::model::{
    Action, ClusterChoice, Fraction, HeaderMatch, Mirror, PathMatch, Regex, Route, RouteConfig, RouteMatch,
    VirtualHost,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Tables by `router_config_name`.
#[derive(Default)]
pub(super) struct Routers(BTreeMap<String, Arc<RouteConfig>>);

impl Routers {
    /// Reads one router configuration; a later one of the same name replaces the earlier, as in MOSN.
    pub fn add(&mut self, ctx: &mut Context<'_>, mut router: Object<'_>) {
        let name = router.text(ctx, "router_config_name").unwrap_or_default().to_owned();
        if name.is_empty() {
            let path = router.at("router_config_name");
            ctx.warn(&path, "", "missing: MOSN passes over this router configuration, and so is done here");
            return;
        }
        let table = table(ctx, &mut router, name.clone());
        router.finish(ctx);
        if self.0.insert(name.clone(), Arc::new(table)).is_some() {
            ctx.warn(&router_path("router_config_name"), &name, "given twice: the last one is used");
        }
    }

    pub fn get(&self, name: &str) -> Option<Arc<RouteConfig>> {
        self.0.get(name).cloned()
    }

    /// All names, for messages.
    pub fn names(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

fn router_path(key: &str) -> String {
    format!("servers[0].routers[].{key}")
}

/// `virtual_hosts` (or the folder `router_configs`) and the table's header edits.
pub(super) fn table(ctx: &mut Context<'_>, of: &mut Object<'_>, name: String) -> RouteConfig {
    let (request_headers, response_headers) = headers::edits(ctx, of);
    let mut hosts: Vec<(String, VirtualHost)> = Vec::new();
    for host in of.objects(ctx, "virtual_hosts") {
        let path = host.at("domains");
        hosts.push((path, virtual_host(ctx, host)));
    }
    if let Some(folder) = of.text(ctx, "router_configs").filter(|folder| !folder.is_empty()) {
        let path = of.at("router_configs");
        if !hosts.is_empty() {
            ctx.error(&path, folder, "give either virtual_hosts or router_configs");
        }
        for (file, document) in ctx.split(folder, &path) {
            ctx.file = file;
            if let Some(host) = Object::of(ctx, &document, String::new()) {
                hosts.push((host.at("domains"), virtual_host(ctx, host)));
            }
            ctx.file.clear();
        }
    }
    unique_domains(ctx, &hosts);
    RouteConfig {
        name,
        virtual_hosts: hosts.into_iter().map(|(_, host)| Arc::new(host)).collect(),
        request_headers,
        response_headers,
        ..RouteConfig::default()
    }
}

fn unique_domains(ctx: &mut Context<'_>, hosts: &[(String, VirtualHost)]) {
    let mut owners: HashMap<&str, &str> = HashMap::new();
    for (path, host) in hosts {
        for domain in &host.domains {
            if let Some(owner) = owners.insert(domain, &host.name) {
                ctx.error(path, domain, format!("virtual host {owner:?} has this domain already"));
            }
        }
    }
}

fn virtual_host(ctx: &mut Context<'_>, mut host: Object<'_>) -> VirtualHost {
    let name = host.text(ctx, "name").unwrap_or_default().to_owned();
    let mut domains = Vec::new();
    for (text, path) in host.texts(ctx, "domains") {
        domains.extend(domain(ctx, &path, text));
    }
    if domains.is_empty() {
        ctx.warn(&host.at("domains"), "", "none: no request meets this virtual host");
    }
    let (request_headers, response_headers) = headers::edits(ctx, &mut host);
    let routes = host.objects(ctx, "routers");
    let routes = routes.into_iter().filter_map(|route| one_route(ctx, route).map(Arc::new)).collect();
    let filters = per_filter(ctx, &mut host);
    match host.text(ctx, "require_tls") {
        None | Some("" | "NONE") => {}
        Some(other) => ctx.warn(&host.at("require_tls"), other, "has no effect, in MOSN neither"),
    }
    host.skip(ctx, &["virtual_clusters"]);
    host.finish(ctx);
    VirtualHost {
        name,
        domains,
        routes,
        request_headers,
        response_headers,
        filters,
        ..VirtualHost::default()
    }
}

/// MOSN's forms in Envoy's spelling: `host:*` and `*:8080` mean the same there.
fn domain(ctx: &mut Context<'_>, path: &str, text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    if lower == "*" || lower == "*:*" {
        return Some("*".to_owned());
    }
    let (front, any_port) = match lower.strip_suffix(":*") {
        Some(front) => (front, true),
        None => (lower.as_str(), false),
    };
    let fixed = front.strip_prefix('*').unwrap_or(front);
    if fixed.is_empty() || fixed.contains('*') {
        ctx.error(path, format!("{text:?}"), "expected host, host:port, host:*, *suffix, *suffix:port or *");
        return None;
    }
    if any_port && front.starts_with('*') {
        ctx.error(path, format!("{text:?}"), "a wildcard host with any port comes later; list its ports");
        return None;
    }
    Some(lower)
}

fn one_route(ctx: &mut Context<'_>, mut route: Object<'_>) -> Option<Route> {
    let matcher = match route.object(ctx, "match") {
        Some(of) => route_match(ctx, of),
        None => Some(RouteMatch::default()),
    };
    let name = route.text(ctx, "name").unwrap_or_default().to_owned();
    let mut action = action::action(ctx, &mut route);
    let filters = per_filter(ctx, &mut route);
    if let Some(mirror) = mirror(ctx, &mut route)
        && let Some(Action::Route(to)) = action.as_mut().map(|made| &mut made.action)
    {
        to.options.get_or_insert_default().mirrors.push(mirror);
    }
    route.skip(ctx, &["metadata", "decorator"]);
    let levels = action.as_ref().map(|made| (made.request_headers.clone(), made.response_headers.clone()));
    route.finish(ctx);
    let (request_headers, response_headers) = levels?;
    let route = Route::new(&name, matcher?, action?.action);
    Some(Route { request_headers, response_headers, filters, ..route })
}

/// `request_mirror_policies`, which is one. It counts where the listener has the stream filter `mirror`.
fn mirror(ctx: &mut Context<'_>, route: &mut Object<'_>) -> Option<Mirror> {
    let mut policy = route.object(ctx, "request_mirror_policies")?;
    let cluster = policy.text(ctx, "cluster").unwrap_or_default().to_owned();
    let percent = policy.number(ctx, "percent").unwrap_or(0);
    if percent > 100 {
        ctx.error(&policy.at("percent"), percent, "expected 0 to 100");
    }
    if cluster.is_empty() {
        ctx.error(&policy.at("cluster"), "", "missing");
    }
    policy.skip(ctx, &["trace_sampled"]);
    policy.finish(ctx);
    let numerator = percent.min(100);
    Some(Mirror {
        cluster: ClusterChoice::Single(cluster),
        fraction: Some(Fraction { numerator, denominator: 100, runtime_key: String::new() }),
        trace_sampled: None,
        keep_host: true,
        host_rewrite: None,
    })
}

/// `table` as a listener serves it: copies are made this often, or not at all without the stream filter `mirror`.
pub(super) fn with_mirrors(table: Arc<RouteConfig>, amplification: usize) -> Arc<RouteConfig> {
    let mirrors = |host: &Arc<VirtualHost>| host.routes.iter().any(|route| !mirrors_of(route).is_empty());
    if amplification == 1 || !table.virtual_hosts.iter().any(mirrors) {
        return table;
    }
    let hosts = table.virtual_hosts.iter().map(|host| {
        let routes = host.routes.iter().map(|route| {
            let mut route = Route::clone(route);
            if let Action::Route(to) = &mut route.action
                && let Some(options) = &mut to.options
            {
                let all = std::iter::repeat_n(&options.mirrors, amplification).flatten().cloned();
                options.mirrors = all.collect();
            }
            Arc::new(route)
        });
        Arc::new(VirtualHost { routes: routes.collect(), ..VirtualHost::clone(host) })
    });
    Arc::new(RouteConfig { virtual_hosts: hosts.collect(), ..RouteConfig::clone(&table) })
}

fn mirrors_of(route: &Route) -> &[Mirror] {
    match &route.action {
        Action::Route(to) => {
            to.options.as_ref().map(|options| options.mirrors.as_slice()).unwrap_or_default()
        }
        _ => &[],
    }
}

/// One kind of rule, by MOSN's precedence.
fn route_match(ctx: &mut Context<'_>, mut of: Object<'_>) -> Option<RouteMatch> {
    let text = |ctx: &mut Context<'_>, of: &mut Object<'_>, key: &str| {
        of.text(ctx, key).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let (prefix, path, regex) =
        (text(ctx, &mut of, "prefix"), text(ctx, &mut of, "path"), text(ctx, &mut of, "regex"));
    let given = [&prefix, &path, &regex].iter().filter(|rule| rule.is_some()).count();
    if given > 1 {
        ctx.warn(&of.path, given, "several of prefix, path and regex: the first in this order is used");
    }
    let path = match (prefix, path, regex) {
        (Some(value), _, _) => Some(PathMatch::Prefix { value, ignore_case: false }),
        (None, Some(value), _) => Some(PathMatch::Exact { value, ignore_case: true }),
        (None, None, Some(pattern)) => match Regex::search(&pattern) {
            Ok(regex) => Some(PathMatch::Regex(regex)),
            Err(why) => {
                ctx.error(&of.at("regex"), &pattern, format!("not a regular expression: {why}"));
                return None;
            }
        },
        (None, None, None) => None,
    };
    if path.is_none() {
        of.refuse(ctx, "variables", "matching on variables comes later");
        of.refuse(ctx, "dsl_expressions", "matching by expressions comes later");
    } else {
        of.no_effect(ctx, "variables", "ignored beside a path, in MOSN as well");
        of.no_effect(ctx, "dsl_expressions", "ignored beside a path, in MOSN as well");
    }
    let headers: Vec<HeaderMatch> = headers::matchers(ctx, &mut of, path.is_none());
    of.no_effect(ctx, "runtime", "MOSN has dropped it as well");
    of.no_effect(ctx, "case_sensitive", "MOSN has dropped it as well");
    of.finish(ctx);
    Some(RouteMatch { path: path.unwrap_or_default(), headers, ..RouteMatch::default() })
}
