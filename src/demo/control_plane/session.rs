//! One ADS stream as the server sees it, without sockets: requests and publications in, responses out.
//!
//! Owns what the client has subscribed and what it holds as far as is known. State of the world and delta
//! differ in how a request names its subscriptions and in what a response repeats, in nothing else. A NACK is
//! recorded and not answered: the next publication is the answer.

use crate::demo::resources::{Resources, Versioned};
use crate::xds::types::ResourceType;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A request of either variant.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks; on the first request of a stream at least.
    pub node: Option<String>,
    pub kind: ResourceType,
    /// Of the response this answers; empty for none.
    pub nonce: String,
    /// Text of a rejection.
    pub error: Option<String>,
    pub names: Names,
}

/// How a request names what it wants.
#[derive(Clone, Debug)]
pub enum Names {
    /// State of the world: all of them, every time.
    All(BTreeSet<String>),
    /// Delta: changes, and on a new stream the versions held.
    Changes { subscribe: Vec<String>, unsubscribe: Vec<String>, held: BTreeMap<String, String> },
}

/// A response of either variant.
#[derive(Clone, Debug)]
pub struct Response {
    pub kind: ResourceType,
    pub nonce: String,
    /// Of the whole publication.
    pub version: u64,
    pub resources: Vec<(String, Versioned)>,
    /// Delta only.
    pub removed: Vec<String>,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    /// Name → version, as the client holds it.
    held: BTreeMap<String, String>,
    last_nonce: String,
    /// Nonces without an answer yet.
    unanswered: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    delta: bool,
    resources: Arc<Resources>,
    version: u64,
    nonces: u64,
    types: BTreeMap<ResourceType, Subscription>,
}

impl Session {
    /// Nothing subscribed, nothing published.
    pub fn new(delta: bool) -> Self {
        Session { delta, resources: Arc::default(), version: 0, nonces: 0, types: BTreeMap::new() }
    }

    /// Responses that have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.types.values().map(|subscription| subscription.unanswered.len()).sum()
    }

    /// The publication last taken in.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Resources have been published: what changed for this client, clusters first, routes last.
    pub fn on_publication(&mut self, version: u64, resources: Arc<Resources>) -> Vec<Response> {
        (self.version, self.resources) = (version, resources);
        ResourceType::ALL.into_iter().filter_map(|kind| self.respond(kind, false, Vec::new())).collect()
    }

    /// The client has answered, or changed what it wants.
    pub fn on_request(&mut self, request: Request) -> Option<Response> {
        let kind = request.kind;
        let first = !self.types.contains_key(&kind);
        let subscription = self.types.entry(kind).or_default();
        subscription.unanswered.retain(|nonce| *nonce != request.nonce);
        match request.names {
            Names::All(names) => {
                // A list that answers an older response is older than the client's next one.
                if !first && request.nonce != subscription.last_nonce {
                    return None;
                }
                subscription.wildcard = names.is_empty() && (first || subscription.wildcard);
                let news = names.difference(&subscription.names).next().is_some();
                subscription.names = names;
                let must = first || news;
                must.then(|| self.respond(kind, true, Vec::new())).flatten()
            }
            Names::Changes { subscribe, unsubscribe, held } => {
                subscription.wildcard |= first && subscribe.is_empty();
                for name in &unsubscribe {
                    subscription.names.remove(name);
                    subscription.held.remove(name);
                }
                subscription.held.extend(held);
                let asked = !subscribe.is_empty();
                for name in &subscribe {
                    // Asked for again: sent again, whatever it held.
                    if !first {
                        subscription.held.remove(name);
                    }
                    subscription.names.insert(name.clone());
                }
                (first || asked).then(|| self.respond(kind, first, subscribe)).flatten()
            }
        }
    }

    /// What the client lacks of a type; `None` if that is nothing, unless it `must` be told so. Names in
    /// `asked` that do not exist are reported as removed.
    fn respond(&mut self, kind: ResourceType, must: bool, asked: Vec<String>) -> Option<Response> {
        let (delta, resources) = (self.delta, self.resources.clone());
        let subscription = self.types.get_mut(&kind)?;
        let visible: BTreeMap<&String, &Versioned> = resources
            .of(kind)
            .filter(|(name, _)| subscription.wildcard || subscription.names.contains(*name))
            .collect();
        let is_new = |name: &String, of: &Versioned| subscription.held.get(name) != Some(&of.version);
        let gone = subscription.held.keys().chain(&asked).filter(|name| !visible.contains_key(name));
        let removed: BTreeSet<String> = gone.cloned().collect();
        let changed = visible.iter().any(|(name, of)| is_new(name, of));
        if !must && !changed && removed.is_empty() {
            return None;
        }
        let sent = visible.iter().filter(|(name, of)| !delta || is_new(name, of));
        let sent = sent.map(|(name, of)| ((*name).clone(), (*of).clone())).collect();
        subscription.held = visible.iter().map(|(name, of)| ((*name).clone(), of.version.clone())).collect();
        self.nonces += 1;
        let nonce = format!("{}-{}", kind.label(), self.nonces);
        subscription.last_nonce.clone_from(&nonce);
        subscription.unanswered.push(nonce.clone());
        let removed = if delta { removed.into_iter().collect() } else { Vec::new() };
        Some(Response { kind, nonce, version: self.version, resources: sent, removed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::resources::{cluster, endpoints};

    fn published(clusters: &[&str]) -> Arc<Resources> {
        let all: Vec<_> =
            clusters.iter().flat_map(|name| [cluster(name, false), endpoints(name, 1)]).collect();
        Arc::new(Resources::default().with(&all).unwrap())
    }

    fn delta(kind: ResourceType, subscribe: &[&str], held: &[(&str, &str)]) -> Request {
        let own = |text: &&str| (*text).to_owned();
        let held = held.iter().map(|(name, version)| (own(name), own(version))).collect();
        let names =
            Names::Changes { subscribe: subscribe.iter().map(own).collect(), unsubscribe: Vec::new(), held };
        Request { node: None, kind, nonce: String::new(), error: None, names }
    }

    fn names(response: &Response) -> Vec<&str> {
        response.resources.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn delta_sends_what_changed_and_what_is_gone() {
        let mut session = Session::new(true);
        session.on_publication(1, published(&["a", "b"]));
        let first = session.on_request(delta(ResourceType::Cluster, &[], &[])).unwrap();
        assert_eq!(names(&first), ["a", "b"]);
        let next = session.on_publication(2, published(&["b", "c"]));
        assert_eq!(next.len(), 1);
        assert_eq!((names(&next[0]), next[0].removed.as_slice()), (vec!["c"], &["a".to_owned()][..]));
        assert_eq!(session.unanswered(), 2);
    }

    #[test]
    fn delta_spares_what_a_returning_client_holds_and_answers_all_the_same() {
        let all = published(&["a"]);
        let version = all.of(ResourceType::Cluster).next().unwrap().1.version.clone();
        let mut session = Session::new(true);
        session.on_publication(1, all);
        let request = delta(ResourceType::Cluster, &[], &[("a", &version), ("old", "1")]);
        let answer = session.on_request(request).unwrap();
        assert!(answer.resources.is_empty());
        assert_eq!(answer.removed, ["old"]);
        let missing = session.on_request(delta(ResourceType::Endpoint, &["none"], &[])).unwrap();
        assert_eq!(missing.removed, ["none"]);
    }

    #[test]
    fn state_of_the_world_repeats_everything_and_ignores_an_old_nonce() {
        let mut session = Session::new(false);
        session.on_publication(1, published(&["a", "b"]));
        let ask = |nonce: &str, wanted: &[&str]| Request {
            node: None,
            kind: ResourceType::Endpoint,
            nonce: nonce.to_owned(),
            error: None,
            names: Names::All(wanted.iter().map(|name| (*name).to_owned()).collect()),
        };
        let first = session.on_request(ask("", &["a"])).unwrap();
        let second = session.on_request(ask(&first.nonce, &["a", "b"])).unwrap();
        assert_eq!(names(&second), ["a", "b"]);
        assert!(session.on_request(ask(&first.nonce, &["c"])).is_none());
        assert!(session.on_request(ask(&second.nonce, &["a", "b"])).is_none());
        assert_eq!(session.unanswered(), 0);
    }
}
