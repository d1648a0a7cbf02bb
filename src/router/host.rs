//! Compiled virtual hosts and their routes.

use super::matcher::Target;
use super::routes::Routes;
use super::{Choice, EditPlan, HostCriteria, WeightedPick};
use crate::message::Head;
use crate::model::{
    Action, ClusterId, DirectResponse, FilterRule, Fraction, Mirror, Priority, Redirect, RequireTls,
    RetryPolicy, Route, RouteFilter, RouteFilters, RouteMatch, RouteOptions, VirtualHost,
};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// A virtual host with its names resolved. Depends on its model and on what its table hands down (header
/// edits, mirrors, filter configuration), so a new table takes over the hosts that did not change.
pub struct CompiledHost {
    /// As configured.
    pub model: Arc<VirtualHost>,
    pub(super) routes: Routes,
    pub(super) clusters: Box<[ClusterId]>,
    /// Where requests without TLS go, if they must not come in.
    pub(super) to_tls: Option<Arc<RouteSpec>>,
}

impl CompiledHost {
    /// Every cluster its routes could pick or copy to, each once, ascending.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterId> {
        self.clusters.iter().copied()
    }

    /// Its routes in configured order.
    pub fn routes(&self) -> &[Arc<RouteSpec>] {
        self.routes.all()
    }

    pub(super) fn find<H: Head + ?Sized>(&self, head: &H, target: &Target<'_>) -> Option<&Arc<RouteSpec>> {
        match &self.to_tls {
            Some(redirect) if self.wants_tls(head) => Some(redirect),
            _ => self.routes.find(head, target),
        }
    }

    fn wants_tls<H: Head + ?Sized>(&self, head: &H) -> bool {
        // The header says how the client came, whatever the connection here is.
        let scheme = head.header("x-forwarded-proto").or_else(|| head.header(":scheme"));
        let external = || head.header("x-envoy-internal").is_none_or(|value| *value != *b"true");
        scheme.is_none_or(|scheme| *scheme != *b"https")
            && (self.model.require_tls == RequireTls::All || external())
    }
}

/// One compiled route. A stream keeps the `Arc` it was matched with.
pub struct RouteSpec {
    pub(super) model: Arc<Route>,
    pub(super) host: Arc<VirtualHost>,
    /// What happens.
    pub action: ActionSpec,
    /// Request header edits of route, virtual host and table. A weighted draw brings its own complete plan.
    pub request_edits: EditPlan,
    /// Response header edits, likewise.
    pub response_edits: EditPlan,
    /// Filter configuration of the table, if it has any.
    pub(super) table_filters: Option<Arc<RouteFilters>>,
}

/// What a matched request meets.
pub enum ActionSpec {
    /// Goes to a cluster.
    Route(ForwardSpec),
    /// A fixed answer.
    Direct(DirectResponse),
    /// A redirect; [`RouteSpec::location`] builds its target.
    Redirect(Box<Redirect>),
}

/// Forwarding with names resolved.
pub struct ForwardSpec {
    /// Where to.
    pub clusters: ClusterPick,
    /// Whole request, all tries; `None` off. [`RouteSpec::limits`] says what holds for one request.
    pub timeout: Option<Duration>,
    /// No progress this long ends the stream; `None` inherits the filter's.
    pub idle_timeout: Option<Duration>,
    /// The route's policy, else its virtual host's. [`RouteSpec::retry`] says what holds for one request.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Replaces the authority by the picked host's name; other rewrites are [`RouteSpec::rewrite_host`]'s.
    pub auto_host_rewrite: bool,
    /// Copies to make: the route's, else its virtual host's, else its table's.
    pub mirrors: Box<[MirrorSpec]>,
    /// What hosts must say; a weighted draw brings its own.
    pub criteria: HostCriteria,
    /// Which limits of the cluster count.
    pub priority: Priority,
}

/// A copy of requests for another cluster.
pub struct MirrorSpec {
    /// As configured.
    pub model: Mirror,
    /// Where to; `None` where a request header names it.
    pub cluster: Option<ClusterId>,
}

impl MirrorSpec {
    /// Whether the request with `random` (uniform over `u64`) is copied.
    pub fn wants(&self, random: u64) -> bool {
        self.model.fraction.as_ref().is_none_or(|fraction: &Fraction| fraction.holds(random))
    }
}

/// How the cluster is found.
pub enum ClusterPick {
    /// Always this one.
    Single(ClusterId),
    /// Drawn by weight.
    Weighted(Box<WeightedPick>),
    /// Named by this request header.
    Header(String),
}

/// The outcome of [`RouteSpec::draw`].
pub enum Drawn<'a> {
    /// A cluster, and what goes with it.
    Cluster(ClusterId, Draw<'a>),
    /// Look the cluster up by the first value of this request header.
    Header(&'a str, Draw<'a>),
    /// The route does not forward.
    None,
}

/// What a draw brings beside the cluster.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    /// Edits of the request's headers, all levels.
    pub request_edits: &'a EditPlan,
    /// Edits of the response's headers, all levels.
    pub response_edits: &'a EditPlan,
    /// What hosts must say, all levels.
    pub criteria: &'a [(Box<str>, Box<str>)],
    /// The share that was drawn, if the clusters are weighted.
    pub share: Option<&'a Choice>,
}

impl RouteSpec {
    /// As configured.
    pub fn model(&self) -> &Route {
        &self.model
    }

    /// Its virtual host, as configured.
    pub fn host(&self) -> &VirtualHost {
        &self.host
    }

    /// Its name, may be empty.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// What names it in logs: its own name, else its virtual host's.
    pub fn label(&self) -> &str {
        if self.model.name.is_empty() { &self.host.name } else { &self.model.name }
    }

    /// The configured cluster names, joined with `,`, for logs of requests that reached none of them.
    pub fn cluster_names(&self) -> Cow<'_, str> {
        let Action::Route(action) = &self.model.action else { return "".into() };
        match action.cluster.names().as_slice() {
            [one] => Cow::Borrowed(*one),
            many => many.join(",").into(),
        }
    }

    /// What must hold for this route.
    pub fn matcher(&self) -> &RouteMatch {
        &self.model.matcher
    }

    /// What few forwarding routes have.
    pub fn options(&self) -> Option<&RouteOptions> {
        match &self.model.action {
            Action::Route(action) => action.options.as_deref(),
            _ => None,
        }
    }

    /// Bytes of a request that are kept for a retry or a mirror; `None` as the listener says.
    pub fn buffer_limit(&self) -> Option<u64> {
        self.model.buffer_limit.or(self.host.buffer_limit)
    }

    /// The most specific configuration of the filter `name`: the drawn share's, the route's, the virtual
    /// host's or the table's.
    pub fn filter<'s>(&'s self, name: &str, share: Option<&'s Choice>) -> Option<&'s RouteFilter> {
        self.filter_levels(share).find_map(|level| level.get(name))
    }

    /// The rules for the filter `name` at all levels, most specific first.
    pub fn filter_rules<'s>(
        &'s self,
        name: &'s str,
        share: Option<&'s Choice>,
    ) -> impl Iterator<Item = &'s FilterRule> {
        self.filter_levels(share).filter_map(move |level| match level.get(name) {
            Some(RouteFilter::Rule(rule)) => Some(&**rule),
            _ => None,
        })
    }

    /// Filter configuration at all levels that have any, most specific first.
    fn filter_levels<'s>(&'s self, share: Option<&'s Choice>) -> impl Iterator<Item = &'s RouteFilters> {
        let levels = [
            share.and_then(|share| share.filters.as_deref()),
            Some(&self.model.filters),
            Some(&self.host.filters),
            self.table_filters.as_deref(),
        ];
        levels.into_iter().flatten().filter(|level| !level.is_empty())
    }

    /// Draws the cluster of one request with `random` (uniform over `u64`). Where the route says so, the
    /// number comes from a header, or from `hash`, what [`RouteSpec::hash`] made.
    pub fn draw<H: Head + ?Sized>(&self, head: &H, random: u64, hash: Option<u64>) -> Drawn<'_> {
        let ActionSpec::Route(forward) = &self.action else { return Drawn::None };
        let plain = Draw {
            request_edits: &self.request_edits,
            response_edits: &self.response_edits,
            criteria: &forward.criteria,
            share: None,
        };
        match &forward.clusters {
            ClusterPick::Single(cluster) => Drawn::Cluster(*cluster, plain),
            ClusterPick::Header(name) => Drawn::Header(name, plain),
            ClusterPick::Weighted(pick) => {
                let number = self.number(head, hash).unwrap_or(random);
                let Some(share) = pick.draw(number) else { return Drawn::None };
                let draw = Draw {
                    request_edits: &share.request_edits,
                    response_edits: &share.response_edits,
                    criteria: &share.criteria,
                    share: Some(share),
                };
                match &share.header {
                    Some(name) => Drawn::Header(name, draw),
                    None => Drawn::Cluster(share.cluster, draw),
                }
            }
        }
    }
}
