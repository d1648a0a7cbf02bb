//! External authorization of connections, before anything of them is passed on.

use super::answer::{self, Kind};
use super::check::{self, Check};
use crate::filter::ask::{Ask, Heard};
use crate::filter::rbac::{Peer, metadata_holds};
use crate::message::{Facts, Metadata};
use crate::model::NetworkAuthz;
use std::collections::BTreeMap;

/// A connection and what is known of it.
pub struct ConnectionCheck<'a> {
    pub peer: &'a Peer<'a>,
    pub facts: &'a dyn Facts,
    /// What guards left.
    pub metadata: &'a Metadata,
}

/// What became of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    Allowed,
    Denied,
    /// Nobody has decided.
    Failed,
}

impl ConnectionCheck<'_> {
    /// What the service is to be asked; `None`: nothing, of this connection.
    pub fn ask(&self, guard: &NetworkAuthz) -> Option<Ask> {
        if guard.enabled_metadata.as_ref().is_some_and(|wanted| !metadata_holds(wanted, self.metadata)) {
            return None;
        }
        let check = Check {
            peer: self.peer,
            facts: self.facts,
            http: None,
            service: Vec::new(),
            certificate: guard.peer_certificate,
            tls_session: guard.tls_session,
            context: BTreeMap::new(),
            metadata: self.metadata,
            namespaces: &guard.namespaces,
        };
        Some(check::call(&guard.service, &check.encode()))
    }
}

impl Ruling {
    /// Of an answer.
    pub fn of(heard: Heard) -> Ruling {
        match answer::of_grpc(heard).kind {
            Kind::Allowed => Ruling::Allowed,
            Kind::Denied => Ruling::Denied,
            Kind::Failed => Ruling::Failed,
        }
    }
}
