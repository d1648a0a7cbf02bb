//! A compiled chain, and one request's way through it.

use super::ask::{Ask, Heard};
use super::context::{Context, Reply, World};
use super::jwt_authn::Keeper;
use super::{
    Pipeline, buffer, compressor, cors, decompressor, ext_authz, fault, grpc_stats, grpc_web,
    header_mutation, header_to_metadata, health_check, ip_access, jwt_authn, local_ratelimit, mesh, rbac,
    set_filter_state, set_metadata,
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

/// One filter at work on one stream.
pub(super) struct Visit<'a> {
    pub chain: &'a Chain,
    /// Which one it is.
    pub place: usize,
    filter: &'a HttpFilter,
    pub state: &'a mut State,
    pub stream: &'a mut Stream,
}

impl<'a> Visit<'a> {
    /// The rule that holds for this stream: the route's, if it is of this filter's kind, else the chain's.
    pub fn rule<'w>(&self, world: &World<'w>) -> &'w FilterRule
    where
        'a: 'w,
    {
        let own: &'a FilterRule = &self.filter.rule;
        let kind = std::mem::discriminant(&own.config);
        let of_route = world.route_rule(&self.filter.name);
        of_route.filter(|rule| std::mem::discriminant(&rule.config) == kind).unwrap_or(own)
    }

    fn request(&mut self, request: &mut dyn Request, world: World<'_>, given: &mut Given) -> Verdict {
        let ends = given.ends;
        let rule = self.rule(&world);
        match &rule.config {
            FilterConfig::Compressor(compressor) => {
                return compressor::on_request(self, compressor, request, ends);
            }
            FilterConfig::PeerMetadata(config) => {
                mesh::on_request(config, request, &world, &mut self.stream.peers);
                return Verdict::Continue;
            }
            FilterConfig::Alpn(rules) => {
                let kept = world.cluster_mesh.is_some_and(|mesh| mesh.keeps_alpn);
                self.stream.alpn = (!kept).then(|| world.stats.alpn(rules));
                return Verdict::Continue;
            }
            FilterConfig::MeshStats(stats) => {
                self.stream.is_grpc = request.is_grpc();
                mesh::capture(stats, request.head(), &mut self.stream.captured);
                return Verdict::Continue;
            }
            FilterConfig::GrpcStats(config) if config.for_filters && request.is_grpc() => {
                self.stream.messages = Some(Rc::default());
            }
            _ => {}
        }
        let messages = self.stream.messages.clone();
        let mut bodies = std::mem::take(&mut self.stream.request_body);
        let mut ctx = Context {
            request,
            world,
            metadata: &mut self.stream.metadata,
            ends,
            held: given.held.as_ref(),
            heard: given.heard.take(),
            health_check: &mut self.stream.health_check,
            reroute: &mut self.stream.reroute,
        };
        let (place, state) = (self.place, &mut *self.state);
        let verdict = match &rule.config {
            FilterConfig::Fault(fault) => fault::on_request(fault, &self.filter.rule, place, state, &mut ctx),
            FilterConfig::Cors(_) => cors::on_request(&self.filter.name, place, state, &mut ctx),
            FilterConfig::HeaderMutation(_) => {
                header_mutation::on_request(self.filter, &mut ctx, &mut bodies)
            }
            FilterConfig::Buffer(most) => buffer::on_request(*most, state, &mut ctx),
            FilterConfig::LocalRateLimit(limit) => local_ratelimit::on_request(limit, rule, state, &mut ctx),
            FilterConfig::HealthCheck(check) => health_check::on_request(check, rule, state, &mut ctx),
            FilterConfig::Rbac(rbac) => rbac::on_request(rbac, &mut ctx),
            FilterConfig::IpAccess(access) => ip_access::on_request(access, &mut ctx),
            FilterConfig::HeaderToMetadata(rules) => header_to_metadata::on_request(rules, &mut ctx),
            FilterConfig::SetMetadata(entries) => set_metadata::on_request(entries, place, &mut ctx),
            FilterConfig::SetFilterState(_) => set_filter_state::on_request(self.filter, &mut ctx),
            FilterConfig::GrpcWeb => grpc_web::on_request(state, &mut ctx, &mut bodies),
            FilterConfig::GrpcStats(config) => {
                grpc_stats::on_request(config, state, messages, &mut ctx, &mut bodies)
            }
            FilterConfig::Decompressor(config) => {
                decompressor::on_request(config, place, &mut ctx, &mut bodies)
            }
            FilterConfig::JwtAuthn(config) => {
                jwt_authn::on_request(config, rule, (&self.filter.name, place), state, &mut ctx)
            }
            FilterConfig::ExtAuthz(config) => {
                ext_authz::on_request(config, (&self.filter.name, place), state, &mut ctx)
            }
            FilterConfig::JwtRequirement(_)
            | FilterConfig::AuthzSettings(_)
            | FilterConfig::Compressor(_)
            | FilterConfig::PeerMetadata(_)
            | FilterConfig::Alpn(_)
            | FilterConfig::MeshStats(_)
            | FilterConfig::Idle(_) => Verdict::Continue,
        };
        self.stream.request_body = bodies;
        if matches!(self.state, State::Fault(state) if state.delayed) && !self.stream.flags.contains(&"DI") {
            self.stream.flags.push("DI");
        }
        verdict
    }

    fn response(
        &mut self,
        request: &dyn Head,
        response: &mut Outgoing<'_>,
        world: World<'_>,
        bodies: &mut Pipeline,
    ) {
        let rule = self.rule(&world);
        match &rule.config {
            FilterConfig::Fault(_) => fault::on_response(self.state, response, bodies),
            FilterConfig::Cors(_) => cors::on_response(&self.filter.name, self.state, response, &world),
            FilterConfig::HeaderMutation(_) => {
                let metadata = &self.stream.metadata;
                header_mutation::on_response(self.filter, (request, metadata), response, &world, bodies);
            }
            FilterConfig::LocalRateLimit(_) => local_ratelimit::on_response(self.state, response),
            FilterConfig::HealthCheck(check) => {
                health_check::on_response(check, rule, self.state, response, &world);
            }
            FilterConfig::HeaderToMetadata(rules) => {
                header_to_metadata::on_response(rules, response, &mut self.stream.metadata);
            }
            FilterConfig::ExtAuthz(_) => ext_authz::on_response(self.state, response),
            FilterConfig::GrpcWeb => grpc_web::on_response(self.state, response, bodies),
            FilterConfig::GrpcStats(_) => grpc_stats::on_response(self.state, response, bodies),
            FilterConfig::Compressor(config) => {
                compressor::on_response(self, config, response, &world, bodies)
            }
            FilterConfig::Decompressor(config) => {
                decompressor::on_response(config, self.place, response, &world, bodies);
            }
            FilterConfig::PeerMetadata(config) => {
                mesh::on_response(config, response.headers, &world, &mut self.stream.peers);
            }
            FilterConfig::MeshStats(stats) => {
                mesh::capture_response(stats, response.headers, &mut self.stream.captured);
            }
            FilterConfig::Alpn(_)
            | FilterConfig::Buffer(_)
            | FilterConfig::JwtAuthn(_)
            | FilterConfig::JwtRequirement(_)
            | FilterConfig::AuthzSettings(_)
            | FilterConfig::Rbac(_)
            | FilterConfig::IpAccess(_)
            | FilterConfig::SetMetadata(_)
            | FilterConfig::SetFilterState(_)
            | FilterConfig::Idle(_) => {}
        }
    }

    /// What the client takes, in its own words; noted when the first compressor sees the request.
    pub fn accepts(&mut self) -> &mut Option<Vec<u8>> {
        &mut self.stream.accepts
    }
}
