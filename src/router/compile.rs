//! Model → compiled virtual host.

use super::host::{ActionSpec, ClusterPick, CompiledHost, ForwardSpec, MirrorSpec, RouteSpec};
use super::routes::Routes;
use super::weighted::criteria;
use super::{EditPlan, WeightedPick};
use crate::model::{
    Action, ClusterChoice, ClusterId, Criteria, HeaderEdits, HostRewrite, Mirror, PathMatch, Redirect,
    RequireTls, Route, RouteAction, RouteConfig, RouteFilters, RouteMatch, RouteOptions, VirtualHost,
};
use std::sync::Arc;

impl CompiledHost {
    /// Compiles `host` as part of `table` (whose header edits it takes in), resolving cluster names by
    /// `intern`.
    pub fn compile(
        host: &Arc<VirtualHost>,
        table: &RouteConfig,
        intern: &mut dyn FnMut(&str) -> ClusterId,
    ) -> Arc<CompiledHost> {
        let mut clusters = Vec::new();
        let filters = (!table.filters.is_empty()).then(|| Arc::new(table.filters.clone()));
        let routes = host
            .routes
            .iter()
            .map(|route| {
                let mut note = |name: &str| {
                    let id = intern(name);
                    clusters.push(id);
                    id
                };
                Arc::new(compile_route(&Levels { route, host, table, filters: filters.as_ref() }, &mut note))
            })
            .collect();
        clusters.sort_unstable();
        clusters.dedup();
        let to_tls = (host.require_tls != RequireTls::No).then(|| Arc::new(to_tls(host, table)));
        Arc::new(CompiledHost {
            model: Arc::clone(host),
            routes: Routes::new(routes),
            clusters: clusters.into(),
            to_tls,
        })
    }
}

/// The redirect to the same address over TLS. It is no route of anyone's: no header edits apply to it.
fn to_tls(host: &Arc<VirtualHost>, table: &RouteConfig) -> RouteSpec {
    let redirect = Redirect { status: 301, scheme: Some("https".to_owned()), ..Redirect::default() };
    let matcher = RouteMatch { path: PathMatch::Any, ..RouteMatch::default() };
    let route = Arc::new(Route::new("", matcher, Action::Redirect(Box::new(redirect))));
    let bare = Arc::new(VirtualHost {
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        routes: Vec::new(),
        ..VirtualHost::clone(host)
    });
    let table = RouteConfig { name: table.name.clone(), ..RouteConfig::default() };
    compile_route(&Levels { route: &route, host: &bare, table: &table, filters: None }, &mut |_| ClusterId(0))
}

/// A route and the two levels above it.
struct Levels<'a> {
    route: &'a Arc<Route>,
    host: &'a Arc<VirtualHost>,
    table: &'a RouteConfig,
    filters: Option<&'a Arc<RouteFilters>>,
}

impl Levels<'_> {
    /// Joined, a drawn share's first. Most specific first, so that the table has the last word, or in the
    /// reverse where the table says so.
    fn join(&self, share: &HeaderEdits, of: [&HeaderEdits; 3]) -> EditPlan {
        let [route, host, table] = of;
        if self.table.most_specific_header_mutations_wins {
            EditPlan::of_levels(&[share, table, host, route])
        } else {
            EditPlan::of_levels(&[share, route, host, table])
        }
    }

    fn request(&self, share: &HeaderEdits) -> EditPlan {
        let of = [&self.route.request_headers, &self.host.request_headers, &self.table.request_headers];
        self.join(share, of)
    }

    fn response(&self, share: &HeaderEdits) -> EditPlan {
        let of = [&self.route.response_headers, &self.host.response_headers, &self.table.response_headers];
        self.join(share, of)
    }

    fn mirrors<'s>(&'s self, action: &'s RouteAction) -> &'s [Mirror] {
        let own = action.options.as_ref().map(|options| options.mirrors.as_slice());
        match own {
            Some(own) if !own.is_empty() => own,
            _ if !self.host.mirrors.is_empty() => &self.host.mirrors,
            _ => &self.table.mirrors,
        }
    }
}

fn compile_route(levels: &Levels<'_>, intern: &mut dyn FnMut(&str) -> ClusterId) -> RouteSpec {
    let none = HeaderEdits::default();
    RouteSpec {
        model: Arc::clone(levels.route),
        host: Arc::clone(levels.host),
        action: match &levels.route.action {
            Action::Route(action) => ActionSpec::Route(compile_forward(levels, action, intern)),
            Action::Direct(direct) => ActionSpec::Direct(direct.clone()),
            Action::Redirect(redirect) => ActionSpec::Redirect(redirect.clone()),
        },
        request_edits: levels.request(&none),
        response_edits: levels.response(&none),
        table_filters: levels.filters.cloned(),
    }
}

fn compile_forward(
    levels: &Levels<'_>,
    action: &RouteAction,
    intern: &mut dyn FnMut(&str) -> ClusterId,
) -> ForwardSpec {
    let none = RouteOptions::default();
    let options = action.options.as_deref().unwrap_or(&none);
    let clusters = match &action.cluster {
        ClusterChoice::Single(name) => ClusterPick::Single(intern(name)),
        ClusterChoice::Weighted(shares) => ClusterPick::Weighted(Box::new(WeightedPick::with_edits(
            shares,
            &options.criteria,
            intern,
            |share| (levels.request(&share.request_headers), levels.response(&share.response_headers)),
        ))),
        ClusterChoice::Header(name) => ClusterPick::Header(name.clone()),
    };
    let mirrors = levels.mirrors(action).iter().map(|mirror| MirrorSpec {
        cluster: match &mirror.cluster {
            ClusterChoice::Single(name) => Some(intern(name)),
            _ => None,
        },
        model: mirror.clone(),
    });
    ForwardSpec {
        clusters,
        timeout: action.timeout,
        idle_timeout: action.idle_timeout,
        retry: action.retry.clone().or_else(|| levels.host.retry.clone()),
        auto_host_rewrite: matches!(action.host_rewrite.as_deref(), Some(HostRewrite::Auto)),
        mirrors: mirrors.collect(),
        criteria: criteria(&options.criteria, &Criteria::new()),
        priority: options.priority,
    }
}
