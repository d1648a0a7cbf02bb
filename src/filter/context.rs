//! What a filter sees while it works, and what it can answer with.

use super::ask::Heard;
use super::chain::Part;
use super::facts::With;
use super::mesh::Mesh;
use super::rbac::Peer;
use super::stats::ChainStats;
use crate::message::{Facts, Metadata, Reason, Request};
use crate::model::{ClusterMesh, FilterRule};
use crate::router::{Choice, RouteSpec};
use crate::util::random::Random;
use bytes::Bytes;
use std::borrow::Cow;

/// What is around one request, apart from its head.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The worker's random numbers.
    pub random: &'a Random,
    /// Where the chain counts on this worker.
    pub stats: &'a ChainStats,
    /// The connection's ends.
    pub peer: &'a Peer<'a>,
    /// The route that was picked.
    pub route: Option<&'a RouteSpec>,
    /// The drawn share of a weighted route.
    pub share: Option<&'a Choice>,
    /// The cluster it goes to: its name, and that in its metrics.
    pub cluster: Option<(&'a str, &'a str)>,
    /// What that says of its mesh.
    pub cluster_mesh: Option<&'a ClusterMesh>,
    /// The mesh as this worker knows it.
    pub mesh: &'a Mesh,
    /// All but the heads.
    pub facts: &'a dyn Facts,
    /// Good hosts and all hosts of a cluster; `None`: there is no such cluster.
    pub hosts: &'a dyn Fn(&str) -> Option<(usize, usize)>,
    /// Whether this process was told to fail its health checks.
    pub failing: bool,
}

impl<'a> World<'a> {
    /// The most specific rule of the route for the filter `name`.
    pub fn route_rule(&self, name: &'a str) -> Option<&'a FilterRule> {
        self.route?.filter_rules(name, self.share).next()
    }

    /// Its rules at all levels, most specific first.
    pub fn route_rules(self, name: &'a str) -> impl Iterator<Item = &'a FilterRule> {
        self.route.into_iter().flat_map(move |route| route.filter_rules(name, self.share))
    }
}

/// A request on its way through one filter.
pub struct Context<'a> {
    /// Its head.
    pub request: &'a mut dyn Request,
    /// What is around it.
    pub world: World<'a>,
    /// What filters leave for each other.
    pub metadata: &'a mut Metadata,
    /// Neither body nor trailers follow.
    pub ends: bool,
    /// What is held of the body.
    pub held: Option<&'a Part>,
    /// The answer to what this filter asked.
    pub heard: Option<Heard>,
    /// It checks this process's health.
    pub health_check: &'a mut bool,
    /// To be set where routes are to be looked for again.
    pub reroute: &'a mut bool,
}

impl Context<'_> {
    /// What format strings can name: the request as it is now, and what filters have left.
    pub(super) fn facts(&self) -> With<'_> {
        let request = self.request.head();
        With { base: self.world.facts, request, response: None, status: None, metadata: self.metadata }
    }
}

/// An answer of a filter's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its cause, for counters, flags and logs.
    pub reason: Option<Reason>,
    /// HTTP status.
    pub status: u16,
    /// What gRPC clients are told; `None`: what the status means.
    pub grpc: Option<u32>,
    /// Its fields, beside those of every answer.
    pub headers: Vec<(&'static str, Vec<u8>)>,
    /// Fields configured for it, already resolved.
    pub more: Vec<(String, Vec<u8>)>,
    /// Its body.
    pub body: Bytes,
    /// Why, in Envoy's words.
    pub details: Cow<'static, str>,
    /// `more` replaces what every answer has.
    pub replaces: bool,
    /// As it is, to gRPC clients as well.
    pub plain: bool,
}

impl Reply {
    /// An answer with a text.
    pub fn text(reason: Reason, status: u16, body: &'static str, details: &'static str) -> Self {
        Reply {
            reason: Some(reason),
            status,
            grpc: None,
            headers: Vec::new(),
            more: Vec::new(),
            body: Bytes::from_static(body.as_bytes()),
            details: Cow::Borrowed(details),
            replaces: false,
            plain: false,
        }
    }

    /// A head and nothing else, no failure.
    pub fn bare(status: u16, details: &'static str) -> Self {
        Reply { reason: None, plain: true, ..Reply::text(Reason::LocalReset, status, "", details) }
    }
}
