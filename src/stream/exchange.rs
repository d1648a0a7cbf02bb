//! What every request goes through, whatever its protocol: find the route, pick hosts, decide on retries.

mod attempt;
mod destination;
mod tries;

pub use attempt::{Attempt, sign_of, within};
pub use tries::{Outcome, Tries};

use super::{Handle, Local};
use crate::cluster::{Cluster, Host, PickContext};
use crate::message::{Failure, Head, Reason};
use crate::model::{ClusterChoice, DirectResponse, Mirror, Redirect, RouteId};
use crate::net::PeerAddress;
use crate::router::{ActionSpec, Choice, Draw, Drawn, EditPlan, ForwardSpec, NewCookie, RouteSpec};
use crate::snapshot::View;
use crate::telemetry::failure_log::FailureLine;
use crate::util::random::Random;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// Where a request goes, borrowed from the snapshot it was planned on.
pub enum Plan<'v> {
    /// To a cluster.
    Forward(Forward<'v>),
    /// A fixed answer.
    Direct(&'v RouteSpec, &'v DirectResponse),
    /// A redirect.
    Redirect(&'v RouteSpec, &'v Redirect),
}

/// A request on its way to a cluster.
pub struct Forward<'v> {
    /// The route.
    pub route: &'v RouteSpec,
    /// Its action.
    pub action: &'v ForwardSpec,
    /// Edits of the request's headers.
    pub request_edits: &'v EditPlan,
    /// Edits of the response's headers.
    pub response_edits: &'v EditPlan,
    /// The drawn share of a weighted choice.
    pub share: Option<&'v Choice>,
    /// The drawn cluster.
    pub cluster: Rc<Cluster>,
    /// What its load balancer is told. Boxed: mostly there is nothing to tell.
    pub wish: Option<Box<Wish<'v>>>,
}

/// What a request wants of a load balancer.
#[derive(Default)]
pub struct Wish<'v> {
    /// What every pick is told.
    pub context: PickContext<'v>,
    /// What the client is to send next time, so that it meets the same host.
    pub cookies: Vec<NewCookie>,
    /// Who gets a copy of it.
    pub mirrors: Vec<(&'v Mirror, Rc<Cluster>)>,
}

impl<'v> Plan<'v> {
    /// The route that matched.
    pub fn route(&self) -> &'v RouteSpec {
        match self {
            Plan::Forward(to) => to.route,
            Plan::Direct(route, _) | Plan::Redirect(route, _) => route,
        }
    }
}

impl<'v> Forward<'v> {
    /// The tries of the request with this head. `internal`: it comes from inside, so that it may ask for
    /// retries.
    pub fn tries(&self, head: &impl Head, internal: bool) -> Tries<'v> {
        Tries::new(self.route, head, internal)
    }

    /// Whether somebody gets a copy.
    pub fn is_mirrored(&self) -> bool {
        self.wish.as_ref().is_some_and(|wish| !wish.mirrors.is_empty())
    }

    /// What every pick is told of the request.
    pub fn context(&self) -> PickContext<'v> {
        self.wish.as_ref().map(|wish| wish.context).unwrap_or_default()
    }
}

/// Who sends a request, as far as its way depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// The client's address.
    pub ip: Option<IpAddr>,
    /// Where the client meant to go, if it was redirected here.
    pub destination: Option<SocketAddr>,
}

impl Caller {
    /// Whoever is at the other end of the connection.
    pub fn of(handle: &Handle) -> Self {
        let ip = match handle.peer {
            PeerAddress::Ip(address) => Some(address.ip().to_canonical()),
            PeerAddress::Unix => None,
        };
        Caller { ip, destination: handle.seen.restored }
    }
}

/// A request without a way, and its route if it has one.
pub struct Unplanned<'v> {
    /// Why.
    pub failure: Failure,
    /// The route that matched.
    pub route: Option<&'v RouteSpec>,
    /// What it does to responses, answers of our own included.
    pub response_edits: Option<&'v EditPlan>,
}

/// The random numbers a plan is made with: one for fractional matches, one for the draw by weight, which
/// must not repeat the first. Cookies that are made up get both.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    matching: u64,
    weight: u64,
}

impl Draws {
    /// The next two.
    pub fn new(random: &Random) -> Self {
        Draws { matching: random.next(), weight: random.next() }
    }

    fn cookie(self) -> u64 {
        self.matching.rotate_left(32) ^ self.weight
    }
}

/// Finds the route of `head` and resolves its cluster.
///
/// # Errors
/// No table or route, or a cluster that is missing or warming.
pub fn plan<'v>(
    local: &Local,
    view: &'v View,
    routes: RouteId,
    head: &impl Head,
    caller: Caller,
) -> Result<Plan<'v>, Unplanned<'v>> {
    plan_drawn(local, view, routes, head, caller, Draws::new(&local.env.random))
}

/// As [`plan`], with numbers drawn before: on the same view the same head gets the same plan.
///
/// # Errors
/// As [`plan`].
pub fn plan_drawn<'v>(
    local: &Local,
    view: &'v View,
    routes: RouteId,
    head: &impl Head,
    caller: Caller,
    draws: Draws,
) -> Result<Plan<'v>, Unplanned<'v>> {
    let route = view.route_table(routes).and_then(|table| table.find(head, draws.matching));
    let fail = |reason, route: Option<&'v RouteSpec>, edits: Option<&'v EditPlan>| {
        let response_edits = edits.or(route.map(|route| &route.response_edits));
        Unplanned { failure: Failure::before(reason), route, response_edits }
    };
    let route = &**route.ok_or(fail(Reason::NoRoute, None, None))?;
    let action = match &route.action {
        ActionSpec::Route(action) => action,
        ActionSpec::Direct(direct) => return Ok(Plan::Direct(route, direct)),
        ActionSpec::Redirect(redirect) => return Ok(Plan::Redirect(route, redirect)),
    };
    let mut hash = None;
    let hashed = || route.hash(head, caller.ip, draws.cookie());
    if route.draws_by_hash() {
        hash = Some(hashed());
    }
    let number = hash.as_ref().and_then(|hash| hash.value);
    let (id, draw) = match route.draw(head, draws.weight, number) {
        Drawn::Cluster(id, draw) => (id, draw),
        Drawn::Header(name, draw) => {
            let mut id = None;
            // Only the first value counts.
            head.each_value(name, &mut |value| id = id.or(Some(view.cluster_id(value))));
            (id.flatten().ok_or(fail(Reason::UnknownCluster, Some(route), Some(draw.response_edits)))?, draw)
        }
        Drawn::None => return Err(fail(Reason::NoRoute, Some(route), None)),
    };
    let cluster = local.cluster(id, view);
    let cluster = cluster.map_err(|reason| fail(reason, Some(route), Some(draw.response_edits)))?;
    if hash.is_none() && route.has_hash() && cluster.hashes() {
        hash = Some(hashed());
    }
    let Draw { request_edits, response_edits, criteria, share } = draw;
    let mirrors = mirrors(local, view, action, head, draws);
    let original_dst = match cluster.follows_clients() {
        true => destination::destination(view, &cluster, Some(head), caller),
        false => None,
    };
    let special = hash.is_some() || !criteria.is_empty() || original_dst.is_some();
    let wish = (special || !mirrors.is_empty()).then(|| {
        let hash = hash.unwrap_or_default();
        let context = PickContext { hash: hash.value, criteria, original_dst, ..PickContext::default() };
        Box::new(Wish { context, cookies: hash.cookies, mirrors })
    });
    Ok(Plan::Forward(Forward { route, action, request_edits, response_edits, share, cluster, wish }))
}

/// Where the client of a raw connection meant to go, if `cluster` follows it.
pub fn raw_destination(view: &View, cluster: &Cluster, caller: Caller) -> Option<SocketAddr> {
    if !cluster.follows_clients() {
        return None;
    }
    destination::destination(view, cluster, None, caller)
}

/// Who gets a copy of the request: clusters that are there and want this one.
fn mirrors<'v>(
    local: &Local,
    view: &'v View,
    action: &'v ForwardSpec,
    head: &impl Head,
    draws: Draws,
) -> Vec<(&'v Mirror, Rc<Cluster>)> {
    let each = (1..).zip(&action.mirrors).filter_map(|(turn, spec)| {
        if !spec.wants(draws.cookie().rotate_left(turn)) {
            return None;
        }
        let id = match (&spec.model.cluster, spec.cluster) {
            (_, Some(id)) => Some(id),
            (ClusterChoice::Header(name), None) => {
                let mut id = None;
                head.each_value(name, &mut |value| id = id.or(Some(view.cluster_id(value))));
                id.flatten()
            }
            _ => None,
        };
        Some((&spec.model, local.cluster(id?, view).ok()?))
    });
    each.collect()
}

/// Where a request went last, for the line about its failure.
#[derive(Clone, Default)]
pub struct Trail {
    cluster: Option<Rc<Cluster>>,
    host: Option<Rc<Host>>,
}

impl Trail {
    /// The cluster and the host it went to last.
    pub fn upstream(&self) -> (Option<&Cluster>, Option<&Host>) {
        (self.cluster.as_deref(), self.host.as_deref())
    }

    /// It goes to `attempt`'s host now.
    pub fn follow(&mut self, attempt: &Attempt) {
        self.cluster = Some(attempt.cluster.clone());
        self.host = Some(attempt.host.clone());
    }

    /// It is over, `millis` after it had come.
    pub fn took(&self, millis: u64) {
        if let Some(cluster) = &self.cluster {
            cluster.stats.upstream_rq_time.record(millis);
        }
    }

    /// It goes to `host` now.
    pub fn reach(&mut self, host: &Rc<Host>) {
        self.host = Some(host.clone());
    }

    /// It goes to `cluster` now.
    pub fn enter(&mut self, cluster: &Rc<Cluster>) {
        self.cluster = Some(cluster.clone());
    }

    /// One log line, unless there were too many like it.
    pub fn note(
        &self,
        local: &Local,
        failure: Failure,
        protocol: &str,
        listener: &str,
        route: Option<&RouteSpec>,
    ) {
        let host = std::cell::OnceCell::new();
        let configured = route.map(RouteSpec::cluster_names);
        let cluster = self.cluster.as_ref();
        let id = cluster.map(|cluster| cluster.state().spec.id);
        let address = || self.host.as_ref().map(|host| host.address.to_string()).unwrap_or_default();
        local.failures.log(failure, id, || FailureLine {
            protocol,
            listener,
            route: route.map(RouteSpec::label).unwrap_or_default(),
            cluster: cluster
                .map(|cluster| cluster.name.as_str())
                .or(configured.as_deref())
                .unwrap_or_default(),
            host: host.get_or_init(address),
            detail: "",
        });
    }
}
