//! A compiled RouteConfiguration.

use super::domains::{Domains, normal};
use super::matcher::Target;
use super::{CompiledHost, RouteSpec};
use crate::message::Head;
use crate::model::RouteConfig;
use std::sync::Arc;

/// Virtual hosts by domain. Never changes once compiled.
#[derive(Default)]
pub struct RouteTable {
    hosts: Vec<Arc<CompiledHost>>,
    domains: Domains,
    ignore_parameters: bool,
    internal_only_headers: Box<[String]>,
}

impl RouteTable {
    /// Indexes `hosts`, the compiled virtual hosts of `config` in its order (or stand-ins for them: only
    /// their own domains count).
    pub fn compile(config: &RouteConfig, hosts: Vec<Arc<CompiledHost>>) -> RouteTable {
        let owned: Vec<_> = (0u32..)
            .zip(&hosts)
            .flat_map(|(at, host)| host.model.domains.iter().map(move |domain| (normal(domain), at)))
            .collect();
        let domains =
            Domains::new(owned.iter().map(|(domain, at)| (domain.as_ref(), *at)), config.ignore_port);
        RouteTable {
            hosts,
            domains,
            ignore_parameters: config.ignore_path_parameters,
            internal_only_headers: config.internal_only_headers.clone().into(),
        }
    }

    /// The virtual hosts, in configured order.
    pub fn hosts(&self) -> &[Arc<CompiledHost>] {
        &self.hosts
    }

    /// The virtual host for `authority`; `None` when no domain covers it.
    pub fn host(&self, authority: Option<&[u8]>) -> Option<&Arc<CompiledHost>> {
        self.hosts.get(self.domains.find(authority)? as usize)
    }

    /// Headers that only requests from inside may bring, lower case: others lose them before the look-up.
    pub fn internal_only_headers(&self) -> &[String] {
        &self.internal_only_headers
    }

    /// The first route of the request's virtual host that matches. `random` must be uniform over `u64`;
    /// it decides fractional matches, and the same number can then be given to [`RouteSpec::draw`].
    pub fn find<H: Head + ?Sized>(&self, head: &H, random: u64) -> Option<&Arc<RouteSpec>> {
        let host = self.host(head.authority())?;
        host.find(head, &Target::new(head, random, self.ignore_parameters))
    }
}
