//! What is around one request while filters look at it.

use super::exchange::{Plan, Unplanned};
use super::facts::StreamFacts;
use super::{Handle, Local};
use crate::filter::{Chain, Peer, World};
use crate::message::{Datum, Head, Metadata};
use crate::model::{ClusterMesh, Health};
use crate::net::PeerAddress;
use crate::router::{Choice, RouteSpec};
use crate::snapshot::View;
use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// Where filters leave what hosts must say.
const LB: &str = "envoy.lb";

/// Where a request goes, as filters are told.
#[derive(Default)]
pub struct Picked<'a> {
    route: Option<&'a RouteSpec>,
    share: Option<&'a Choice>,
    /// Its cluster's name, and that in metrics.
    cluster: Option<(String, String)>,
    mesh: Option<Rc<ClusterMesh>>,
    criteria: &'a [(Box<str>, Box<str>)],
}

impl<'a> Picked<'a> {
    /// What was planned.
    pub fn of(planned: &Result<Plan<'a>, Unplanned<'a>>) -> Self {
        match planned {
            Ok(Plan::Forward(to)) => {
                let state = to.cluster.state();
                let stat = state.spec.model.alt_stat_name.clone();
                let name = to.cluster.name.to_string();
                let cluster = Some((name.clone(), stat.unwrap_or(name)));
                let (mesh, criteria) = (to.cluster.mesh(), to.context().criteria);
                Picked { route: Some(to.route), share: to.share, cluster, mesh, criteria }
            }
            Ok(Plan::Direct(route, _) | Plan::Redirect(route, _)) => {
                Picked { route: Some(*route), ..Picked::default() }
            }
            Err(unplanned) => Picked { route: unplanned.route, ..Picked::default() },
        }
    }
}

/// See the module.
pub struct Around<'a> {
    local: Rc<Local>,
    handle: Rc<Handle>,
    view: &'a View,
    picked: Picked<'a>,
    remote: Option<IpAddr>,
    begin: Instant,
    protocol: &'static str,
}

impl<'a> Around<'a> {
    /// `remote`: the client, as far as trusted headers tell.
    pub fn new(
        local: &Rc<Local>,
        handle: &Rc<Handle>,
        view: &'a View,
        picked: Picked<'a>,
        remote: Option<IpAddr>,
        begin: Instant,
        protocol: &'static str,
    ) -> Self {
        Around { local: local.clone(), handle: handle.clone(), view, picked, remote, begin, protocol }
    }

    /// The route that was picked.
    pub fn route(&self) -> Option<&'a RouteSpec> {
        self.picked.route
    }

    /// The name of the cluster it goes to, and what that says of its mesh.
    pub fn cluster(&self) -> Option<(&str, Option<&Rc<ClusterMesh>>)> {
        let (name, _) = self.picked.cluster.as_ref()?;
        Some((name, self.picked.mesh.as_ref()))
    }

    /// The snapshot it was planned on.
    pub fn view(&self) -> &'a View {
        self.view
    }

    /// The drawn share of a weighted route.
    pub fn share(&self) -> Option<&'a Choice> {
        self.picked.share
    }

    /// Does `work` with everything a filter may ask.
    pub fn with<T>(&self, chain: &Arc<Chain>, work: &mut dyn FnMut(World<'_>) -> T) -> T {
        let stats = self.local.filters.of(chain);
        let facts = StreamFacts {
            protocol: self.protocol,
            request: &NoHead,
            begin: self.begin,
            handle: Some(&self.handle),
            route: self.picked.route,
            attempt: None,
            response: None,
            metadata: None,
        };
        let direct = match self.handle.peer {
            PeerAddress::Ip(address) => Some(address),
            PeerAddress::Unix => None,
        };
        let principals = self.handle.principals();
        let peer = Peer {
            direct,
            remote: self.remote,
            local: self.handle.local,
            server_name: self.handle.server_name(),
            principals: principals.as_deref(),
        };
        let hosts = |name: &str| self.hosts(name);
        work(World {
            random: &self.local.env.random,
            stats: &stats,
            peer: &peer,
            route: self.picked.route,
            share: self.picked.share,
            cluster: self.picked.cluster.as_ref().map(|(name, stat)| (name.as_str(), stat.as_str())),
            cluster_mesh: self.picked.mesh.as_deref(),
            mesh: &self.local.mesh,
            facts: &facts,
            hosts: &hosts,
            failing: crate::telemetry::is_failing_checks(),
        })
    }

    /// Good hosts and all hosts of a cluster.
    fn hosts(&self, name: &str) -> Option<(usize, usize)> {
        let id = self.view.cluster_id(name.as_bytes())?;
        let state = self.local.cluster(id, self.view).ok()?.state();
        let good = |health| matches!(health, Health::Healthy | Health::Degraded);
        let healthy = state.hosts().filter(|host| good(host.health().health(Health::Healthy)));
        Some((healthy.count(), state.hosts().count()))
    }

    /// What hosts must say: the route's words, and those filters found, which have the last one. Nothing is
    /// appended where filters found none.
    pub fn criteria(&self, metadata: &Metadata, out: &mut Vec<(Box<str>, Box<str>)>) {
        let Some(found) = metadata.namespace(LB) else { return };
        out.extend(self.picked.criteria.iter().filter(|(key, _)| !found.contains_key(&**key)).cloned());
        for (key, value) in found {
            let value = match value {
                Datum::Text(text) => text.clone(),
                other => {
                    let mut json = Vec::new();
                    other.write_json(&mut json);
                    String::from_utf8_lossy(&json).into_owned()
                }
            };
            out.push((key.as_str().into(), value.into()));
        }
        out.sort();
    }
}

/// Where a request's head is not kept.
pub struct NoHead;

impl Head for NoHead {
    fn authority(&self) -> Option<&[u8]> {
        None
    }
    fn path_and_query(&self) -> Option<&[u8]> {
        None
    }
    fn method(&self) -> Option<&[u8]> {
        None
    }
    fn header(&self, _: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}
