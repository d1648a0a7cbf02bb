//! Model → compiled virtual host.

use super::host::{ActionSpec, ClusterPick, CompiledHost, ForwardSpec, RouteSpec};
use super::rewrite::PathRewrite;
use super::routes::Routes;
use super::{EditPlan, WeightedPick};
use crate::model::{
    Action, ClusterChoice, ClusterId, HeaderEdits, Route, RouteAction, RouteConfig, VirtualHost,
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
        let routes = host
            .routes
            .iter()
            .map(|route| {
                let mut note = |name: &str| {
                    let id = intern(name);
                    clusters.push(id);
                    id
                };
                Arc::new(compile_route(&Levels { route, host, table }, &mut note))
            })
            .collect();
        clusters.sort_unstable();
        clusters.dedup();
        Arc::new(CompiledHost {
            model: Arc::clone(host),
            routes: Routes::new(routes),
            clusters: clusters.into(),
        })
    }
}

/// A route and the two levels above it.
struct Levels<'a> {
    route: &'a Route,
    host: &'a VirtualHost,
    table: &'a RouteConfig,
}

impl Levels<'_> {
    fn request(&self, share: &HeaderEdits) -> EditPlan {
        let levels =
            [share, &self.route.request_headers, &self.host.request_headers, &self.table.request_headers];
        EditPlan::of_levels(&levels, self.table.most_specific_header_mutations_wins)
    }

    fn response(&self, share: &HeaderEdits) -> EditPlan {
        let levels =
            [share, &self.route.response_headers, &self.host.response_headers, &self.table.response_headers];
        EditPlan::of_levels(&levels, self.table.most_specific_header_mutations_wins)
    }
}

fn compile_route(levels: &Levels<'_>, intern: &mut dyn FnMut(&str) -> ClusterId) -> RouteSpec {
    let none = HeaderEdits::default();
    RouteSpec {
        name: levels.route.name.clone(),
        host_name: levels.host.name.clone(),
        action: match &levels.route.action {
            Action::Route(action) => ActionSpec::Route(compile_forward(levels, action, intern)),
            Action::Direct(direct) => ActionSpec::Direct(direct.clone()),
            Action::Redirect(redirect) => ActionSpec::Redirect(redirect.clone()),
        },
        request_edits: levels.request(&none),
        response_edits: levels.response(&none),
        matcher: levels.route.matcher.clone(),
    }
}

fn compile_forward(
    levels: &Levels<'_>,
    action: &RouteAction,
    intern: &mut dyn FnMut(&str) -> ClusterId,
) -> ForwardSpec {
    let clusters = match &action.cluster {
        ClusterChoice::Single(name) => ClusterPick::Single(intern(name)),
        ClusterChoice::Weighted(shares) => {
            ClusterPick::Weighted(WeightedPick::with_edits(shares, intern, |share| {
                (levels.request(&share.request_headers), levels.response(&share.response_headers))
            }))
        }
        ClusterChoice::Header(name) => ClusterPick::Header(name.clone()),
    };
    ForwardSpec {
        clusters,
        cluster_names: action.cluster.names().join(","),
        timeout: action.timeout,
        idle_timeout: action.idle_timeout,
        retry: action.retry.clone().or_else(|| levels.host.retry.clone()),
        host_rewrite: action.host_rewrite.clone(),
        auto_host_rewrite: action.auto_host_rewrite,
        path_rewrite: PathRewrite::of(action),
    }
}
