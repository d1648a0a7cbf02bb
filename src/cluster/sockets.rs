//! Which transport socket a host's connections get.

use crate::model::{Endpoint, TransportSocket, TransportSockets};
use crate::tls::{Client, Secrets};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A socket, and the labels a host must have for it.
type Match = (BTreeMap<String, String>, Option<Arc<Client>>);

/// The compiled sockets of a cluster; `None` is plaintext.
#[derive(Clone, Default)]
pub struct Sockets {
    fallback: Option<Arc<Client>>,
    matches: Vec<Match>,
}

impl Sockets {
    /// Compiles `model`; contexts are shared with all clusters whose sockets are equal.
    pub fn new(model: &TransportSockets, secrets: &Secrets) -> Self {
        let compile = |socket: &TransportSocket| match socket {
            TransportSocket::Plain => None,
            TransportSocket::Tls(model) => Some(secrets.client(model)),
        };
        Sockets {
            fallback: compile(&model.fallback),
            matches: model.matches.iter().map(|m| (m.labels.clone(), compile(&m.socket))).collect(),
        }
    }

    /// The socket for `endpoint`: the first match whose labels are all among the host's.
    pub fn of(&self, endpoint: &Endpoint) -> Option<&Arc<Client>> {
        let labels = &endpoint.socket_match;
        let fits = |wanted: &BTreeMap<String, String>| {
            wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        match self.matches.iter().find(|(wanted, _)| fits(wanted)) {
            Some((_, socket)) => socket.as_ref(),
            None => self.fallback.as_ref(),
        }
    }
}
