//! A compiled RouteConfiguration.

use super::domains::Domains;
use super::matcher::Target;
use super::{CompiledHost, RouteSpec};
use crate::message::Head;
use crate::model::RouteConfig;
use std::sync::Arc;

/// Virtual hosts by domain. Never changes once compiled.
#[derive(Default)]
pub struct RouteTable {
    hosts: Vec<Arc<CompiledHost>>,
    /// Shared with the version before when every host has the domains of the one that was in its place.
    domains: Arc<Domains>,
    ignore_parameters: bool,
    internal_only_headers: Box<[String]>,
}

impl RouteTable {
    /// Indexes `hosts`, the compiled virtual hosts of `config` in its order (or stand-ins for them: only
    /// their own domains count).
    pub fn compile(config: &RouteConfig, hosts: Vec<Arc<CompiledHost>>) -> RouteTable {
        Self::compile_after(config, hosts, None)
    }

    /// As [`RouteTable::compile`], with the index of `last` if that is the same.
    pub fn compile_after(
        config: &RouteConfig,
        hosts: Vec<Arc<CompiledHost>>,
        last: Option<&RouteTable>,
    ) -> RouteTable {
        let same = last.filter(|last| last.domains.ignores_port() == config.ignore_port);
        let same = same.filter(|last| same_domains(&last.hosts, &hosts));
        RouteTable {
            domains: match same {
                Some(last) => last.domains.clone(),
                None => Arc::new(Domains::new(&hosts, config.ignore_port)),
            },
            hosts,
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
        self.hosts.get(self.domains.find(authority, &self.hosts)? as usize)
    }

    /// Headers that only requests from inside may bring, lower case: others lose them before the look-up.
    pub fn internal_only_headers(&self) -> &[String] {
        &self.internal_only_headers
    }

    pub(super) fn target<'h, H: Head + ?Sized>(&self, head: &'h H, random: u64) -> Target<'h> {
        Target::new(head, random, self.ignore_parameters)
    }

    /// The first route of the request's virtual host that matches. `random` must be uniform over `u64`;
    /// it decides fractional matches, and the same number can then be given to [`RouteSpec::draw`].
    pub fn find<H: Head + ?Sized>(&self, head: &H, random: u64) -> Option<&Arc<RouteSpec>> {
        let host = self.host(head.authority())?;
        host.find(head, &self.target(head, random))
    }
}

fn same_domains(a: &[Arc<CompiledHost>], b: &[Arc<CompiledHost>]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b) || a.model.domains == b.model.domains)
}
