//! Compiled virtual hosts and their routes.

use super::matcher::Target;
use super::rewrite::PathRewrite;
use super::routes::Routes;
use super::{Choice, EditPlan, WeightedPick};
use crate::message::Head;
use crate::model::{ClusterId, DirectResponse, Redirect, RetryPolicy, RouteMatch, VirtualHost};
use std::sync::Arc;
use std::time::Duration;

/// A virtual host with its names resolved. Depends on its model and on its table's header edits only, so a
/// new table takes over the hosts that did not change.
pub struct CompiledHost {
    /// As configured.
    pub model: Arc<VirtualHost>,
    pub(super) routes: Routes,
    pub(super) clusters: Box<[ClusterId]>,
}

impl CompiledHost {
    /// Every cluster its routes could pick, each once, ascending.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterId> {
        self.clusters.iter().copied()
    }

    /// Its routes in configured order.
    pub fn routes(&self) -> &[Arc<RouteSpec>] {
        self.routes.all()
    }

    pub(super) fn find<H: Head + ?Sized>(&self, head: &H, random: u64) -> Option<&Arc<RouteSpec>> {
        self.routes.find(head, &Target::new(head, random))
    }
}

/// One compiled route. A stream keeps the `Arc` it was matched with.
pub struct RouteSpec {
    /// As configured, may be empty.
    pub name: String,
    /// Name of its virtual host.
    pub host_name: String,
    /// What happens.
    pub action: ActionSpec,
    /// Request header edits of route, virtual host and table. A weighted draw brings its own complete plan.
    pub request_edits: EditPlan,
    /// Response header edits, likewise.
    pub response_edits: EditPlan,
    pub(super) matcher: RouteMatch,
}

/// What a matched request meets.
pub enum ActionSpec {
    /// Goes to a cluster.
    Route(ForwardSpec),
    /// A fixed answer.
    Direct(DirectResponse),
    /// A redirect; [`RouteSpec::location`] builds its target.
    Redirect(Redirect),
}

/// Forwarding with names resolved.
pub struct ForwardSpec {
    /// Where to.
    pub clusters: ClusterPick,
    /// The configured names, joined with `,`, for logs of requests that reached none of them.
    pub cluster_names: String,
    /// Whole request, all tries; `None` off.
    pub timeout: Option<Duration>,
    /// No progress this long ends the stream; `None` inherits the filter's.
    pub idle_timeout: Option<Duration>,
    /// The route's policy, else its virtual host's.
    pub retry: Option<RetryPolicy>,
    /// Replaces the authority.
    pub host_rewrite: Option<String>,
    /// Replaces the authority by the picked host's name.
    pub auto_host_rewrite: bool,
    pub(super) path_rewrite: Option<PathRewrite>,
}

/// How the cluster is found.
pub enum ClusterPick {
    /// Always this one.
    Single(ClusterId),
    /// Drawn by weight.
    Weighted(WeightedPick),
    /// Named by this request header.
    Header(String),
}

/// The outcome of [`RouteSpec::draw`].
pub enum Drawn<'a> {
    /// A cluster, and the edits to apply.
    Cluster(ClusterId, &'a EditPlan, &'a EditPlan),
    /// Look the cluster up by the value of this request header.
    Header(&'a str),
    /// The route does not forward.
    None,
}

impl RouteSpec {
    /// What names it in logs: its own name, else its virtual host's.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { &self.host_name } else { &self.name }
    }

    /// Draws the cluster of one request with `random` (uniform over `u64`), with the request and response
    /// edits that go with it.
    pub fn draw(&self, random: u64) -> Drawn<'_> {
        let ActionSpec::Route(forward) = &self.action else { return Drawn::None };
        match &forward.clusters {
            ClusterPick::Single(cluster) => {
                Drawn::Cluster(*cluster, &self.request_edits, &self.response_edits)
            }
            ClusterPick::Weighted(pick) => match pick.draw(random) {
                Some(Choice { cluster, request_edits, response_edits }) => {
                    Drawn::Cluster(*cluster, request_edits, response_edits)
                }
                None => Drawn::None,
            },
            ClusterPick::Header(name) => Drawn::Header(name),
        }
    }

    /// What must hold for this route.
    pub fn matcher(&self) -> &RouteMatch {
        &self.matcher
    }
}
