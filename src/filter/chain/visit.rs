//! What each kind of filter does when a stream comes by.

use super::{Chain, Given, Outgoing, State, Stream, Verdict};
use crate::filter::context::{Context, World};
use crate::filter::{
    Pipeline, buffer, compressor, cors, decompressor, ext_authz, fault, grpc_stats, grpc_web,
    header_mutation, header_to_metadata, health_check, ip_access, jwt_authn, local_ratelimit, mesh, rbac,
    set_filter_state, set_metadata,
};
use crate::message::{Head, Request};
use crate::model::{FilterConfig, FilterRule, HttpFilter};
use std::rc::Rc;

/// One filter at work on one stream.
pub(in crate::filter) struct Visit<'a> {
    pub chain: &'a Chain,
    /// Which one it is.
    pub place: usize,
    pub(super) filter: &'a HttpFilter,
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

    pub(super) fn request(
        &mut self,
        request: &mut dyn Request,
        world: World<'_>,
        given: &mut Given,
    ) -> Verdict {
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

    pub(super) fn response(
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
