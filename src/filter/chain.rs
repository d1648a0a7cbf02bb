//! A compiled chain, and one request's way through it.

mod visit;

use super::ask::{Ask, Heard};
use super::context::{Reply, World};
use super::jwt_authn::Keeper;
use super::{
    Pipeline, cors, ext_authz, fault, grpc_stats, grpc_web, health_check, jwt_authn, local_ratelimit, mesh,
};
use crate::message::{Head, Headers, Metadata, Request};
use crate::model::{Algorithm, AlpnOverride, FilterConfig, FilterRule, HttpFilter, RouteFilter};
use crate::router::{Choice, RouteSpec};
use crate::telemetry::{Registry, Scope};
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub(super) use visit::Visit;

/// Filters of one chain at most: one bit each.
pub const MAX_FILTERS: usize = 64;

/// The filters of one listener's chain; made only where there are any.
pub struct Chain {
    id: u64,
    scope: Scope,
    filters: Box<[HttpFilter]>,
    compressors: Box<[(usize, Algorithm)]>,
    /// Some filter tells of streams when they are over.
    reports: bool,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// The request passes; it is the router's.
    Done,
    /// Come back after this time.
    Wait(Duration),
    /// Come back when the whole body is held; one that is longer than this many bytes ends the request.
    Hold(usize),
    /// Come back when so many bytes of the body are held, or all of it.
    Peek(usize),
    /// Come back with the answer to this.
    Ask(Box<Ask>),
    /// Come back when this is ready.
    Until(Until),
    /// What was changed may belong to another route: find it, tell with [`Chain::rerouted`], and come back.
    Reroute,
    /// Answer.
    Reply(Box<Reply>),
}

/// Something another request does.
pub struct Until(pub Pin<Box<dyn Future<Output = ()>>>);

impl fmt::Debug for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Until")
    }
}

/// What came of a request beside its head, when its filters are visited.
#[derive(Debug, Default)]
pub struct Given {
    /// Neither body nor trailers follow.
    pub ends: bool,
    /// What is held of the body, where that was asked for.
    pub held: Option<Part>,
    /// The answer to what was asked.
    pub heard: Option<Heard>,
}

/// The begin of a body.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub data: Bytes,
    /// All of it.
    pub whole: bool,
}

/// What one filter says of a request.
pub(super) enum Verdict {
    Continue,
    Wait(Duration),
    Hold(usize),
    Peek(usize),
    Ask(Box<Ask>),
    Until(Until),
    Reply(Box<Reply>),
}

/// What one filter remembers of one request.
#[derive(Default)]
pub(super) enum State {
    #[default]
    None,
    /// It has asked for something and is asked again.
    Again,
    Fault(fault::State),
    Cors(cors::State),
    Limit(local_ratelimit::State),
    Check(health_check::State),
    GrpcWeb(grpc_web::State),
    GrpcStats(grpc_stats::State),
    Jwt(Box<jwt_authn::State>),
    Authz(ext_authz::State),
}

/// One request and its response.
pub struct Stream {
    at: usize,
    active: u64,
    /// A filter changed what routes are chosen by.
    reroute: bool,
    states: Vec<State>,
    /// What the client takes, as compressors found it before anyone changed it.
    accepts: Option<Vec<u8>>,
    /// What filters left for each other, for logs and for load balancing.
    pub metadata: Metadata,
    /// The request checks this process's health.
    pub health_check: bool,
    /// Letters of Envoy's response flags that filters set.
    pub flags: Vec<&'static str>,
    /// What the request's body goes through.
    pub request_body: Pipeline,
    /// What hosts are offered in TLS, if not what their cluster says.
    pub alpn: Option<Rc<AlpnOverride>>,
    pub(super) peers: mesh::Peers,
    pub(super) is_grpc: bool,
    pub(super) messages: Option<Rc<mesh::Messages>>,
    pub(super) captured: mesh::Captured,
}

impl Chain {
    /// The chain of `filters` whose metrics stand in `scope`; `None` where there are none. Buckets and the
    /// like of `old` are taken over by filters whose configuration is the same.
    pub fn compile(scope: Scope, filters: &[HttpFilter], old: Option<&Chain>) -> Option<Arc<Chain>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if filters.is_empty() {
            return None;
        }
        for filter in filters {
            let before = old.into_iter().flat_map(|old| &old.filters).find(|before| *before == filter);
            if let Some(before) = before {
                filter.rule.compiled.adopt(&before.rule.compiled);
            }
        }
        let compressor = |(at, filter): (usize, &HttpFilter)| match &filter.rule.config {
            FilterConfig::Compressor(compressor) if compressor.response.is_some() => {
                Some((at, compressor.algorithm))
            }
            _ => None,
        };
        Some(Arc::new(Chain {
            id: NEXT.fetch_add(1, Relaxed),
            scope,
            reports: filters.iter().any(|filter| matches!(filter.rule.config, FilterConfig::MeshStats(_))),
            compressors: filters.iter().enumerate().filter_map(compressor).collect(),
            filters: filters.iter().take(MAX_FILTERS).cloned().collect(),
        }))
    }

    /// A number no other chain of this process has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How many filters it has.
    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// Keys of its filters that are to be kept fresh and that nobody keeps: the caller does from now on.
    pub fn keepers(&self, registry: &Registry) -> Vec<Keeper> {
        let filters = self.filters.iter();
        filters.flat_map(|filter| jwt_authn::keepers(&filter.rule, registry, &self.scope)).collect()
    }

    /// Never: see [`Chain::compile`].
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether responses are written with what their request's head says.
    pub fn asks_for_request(&self) -> bool {
        self.filters.iter().any(|filter| matches!(filter.rule.config, FilterConfig::HeaderMutation(_)))
    }

    /// Whether some filter tells of streams when they are over.
    pub fn reports(&self) -> bool {
        self.reports
    }

    /// The filter at `place`.
    pub(super) fn rule(&self, place: usize) -> Option<&FilterRule> {
        Some(&self.filters.get(place)?.rule)
    }

    /// Places and codings of its compressors of responses.
    pub(super) fn compressors(&self) -> &[(usize, Algorithm)] {
        &self.compressors
    }

    /// Begins a request whose route was picked, or has none.
    pub fn begin(&self, route: Option<&RouteSpec>, share: Option<&Choice>) -> Stream {
        Stream {
            at: 0,
            active: self.active(route, share),
            reroute: false,
            states: Vec::new(),
            accepts: None,
            metadata: Metadata::default(),
            health_check: false,
            flags: Vec::new(),
            request_body: Pipeline::default(),
            alpn: None,
            peers: mesh::Peers::default(),
            is_grpc: false,
            messages: None,
            captured: Vec::new(),
        }
    }

    /// Which filters concern requests of this route, a bit each.
    fn active(&self, route: Option<&RouteSpec>, share: Option<&Choice>) -> u64 {
        let mut active = 0;
        for (at, filter) in self.filters.iter().enumerate() {
            let on = match route.and_then(|route| route.filter(&filter.name, share)) {
                Some(RouteFilter::Disabled) => false,
                Some(RouteFilter::Enabled | RouteFilter::Rule(_)) => true,
                None => !filter.disabled,
            };
            active |= u64::from(on) << at;
        }
        active
    }

    /// The request has another route now.
    pub fn rerouted(&self, stream: &mut Stream, route: Option<&RouteSpec>, share: Option<&Choice>) {
        // Filters that were passed stay as they were: they see the response.
        let at = u32::try_from(stream.at).unwrap_or(u32::MAX);
        let passed = 1u64.checked_shl(at).map_or(u64::MAX, |bit| bit - 1);
        stream.active = (stream.active & passed) | (self.active(route, share) & !passed);
    }

    /// Takes the request on from where it was.
    pub fn request(
        &self,
        stream: &mut Stream,
        request: &mut dyn Request,
        world: World<'_>,
        mut given: Given,
    ) -> Step {
        while let Some(filter) = self.filters.get(stream.at) {
            let place = stream.at;
            if !stream.is_active(place) {
                stream.at += 1;
                continue;
            }
            let mut state = stream.take(place);
            let mut visit = Visit { chain: self, place, filter, state: &mut state, stream };
            let verdict = visit.request(request, world, &mut given);
            stream.put(place, state);
            // An answer is for who asked.
            given.heard = None;
            match verdict {
                Verdict::Continue => {
                    stream.at += 1;
                    if std::mem::take(&mut stream.reroute) {
                        return Step::Reroute;
                    }
                }
                Verdict::Wait(time) => return Step::Wait(time),
                Verdict::Hold(most) => return Step::Hold(most),
                Verdict::Peek(most) => return Step::Peek(most),
                Verdict::Ask(ask) => return Step::Ask(ask),
                Verdict::Until(until) => return Step::Until(until),
                Verdict::Reply(reply) => {
                    stream.flags.extend(reply.reason.map(|reason| reason.flag()).filter(|flag| *flag != "-"));
                    return Step::Reply(reply);
                }
            }
        }
        Step::Done
    }

    /// The response passes, last filter first. `own`: the proxy made it; `ends`: no body follows. Gives what
    /// its body goes through.
    pub fn response(
        &self,
        stream: &mut Stream,
        request: &dyn Head,
        response: &mut Outgoing<'_>,
        world: World<'_>,
    ) -> Pipeline {
        let mut bodies = Pipeline::default();
        for place in (0..self.filters.len()).rev() {
            let Some(filter) = self.filters.get(place) else { continue };
            if !stream.is_active(place) {
                continue;
            }
            let mut state = stream.take(place);
            let mut visit = Visit { chain: self, place, filter, state: &mut state, stream };
            visit.response(request, response, world, &mut bodies);
            stream.put(place, state);
        }
        bodies
    }
}

/// A response's head on its way out.
pub struct Outgoing<'a> {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub headers: &'a mut dyn Headers,
    /// The proxy made it.
    pub own: bool,
    /// No body follows, and no trailers.
    pub ends: bool,
}

impl Stream {
    pub(super) fn is_active(&self, place: usize) -> bool {
        self.active & (1 << place) != 0
    }

    pub(super) fn active_mask(&self) -> u64 {
        self.active
    }

    fn take(&mut self, place: usize) -> State {
        self.states.get_mut(place).map(std::mem::take).unwrap_or_default()
    }

    fn put(&mut self, place: usize, state: State) {
        if matches!(state, State::None) {
            return;
        }
        if self.states.len() <= place {
            self.states.resize_with(place + 1, State::default);
        }
        if let Some(held) = self.states.get_mut(place) {
            *held = state;
        }
    }
}
