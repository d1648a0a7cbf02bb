//! A mesh on one worker: peers it has heard of, what it tells them, and the label sets it counts in.
//!
//! Takes in what peers and endpoints say of themselves; gives out [`Peer`]s, each workload once, and [`Metrics`],
//! each label set once. Everything here is bounded: peers choose the texts.

mod exchange;
mod labels;
mod report;
#[cfg(test)]
mod tests;

pub use labels::{Seen, Which};
pub use report::{Messages, Report, Reporters};

pub(super) use exchange::{on_request, on_response};
pub(super) use report::{Captured, capture, capture_response, reporters};

use crate::model::Workload;
use crate::telemetry::{MeshMetrics, Registration, Registry};
use crate::util::base64;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

type Map<K, V> = RefCell<HashMap<K, V, foldhash::fast::RandomState>>;

/// Peers kept; all are forgotten when there are more.
const PEERS: usize = 500;
/// Endpoints' texts kept, likewise.
const ENDPOINTS: usize = 10_000;
/// Label sets of one worker; what comes after them counts under `overflow`.
const LABEL_SETS: usize = 10_000;
/// Ways to label sets kept; all are forgotten when there are more.
const WAYS: usize = 20_000;
/// Bytes of what a peer says of itself over HTTP, at most.
const LARGEST: usize = 16 * 1024;

/// A workload somebody told of.
pub struct Peer {
    /// What was told.
    pub workload: Workload,
    /// Tells it from others of this worker.
    id: u64,
}

/// The peers of one stream.
#[derive(Clone, Default)]
pub struct Peers {
    /// The client.
    pub client: Option<Rc<Peer>>,
    /// The server.
    pub server: Option<Rc<Peer>>,
    /// The client told its id, and who it is: it is told the same.
    asked: (bool, bool),
}

/// Where one label set counts: one group, or one for each metric where their labels differ.
pub type Metrics = Rc<[Registration<MeshMetrics>]>;

/// A peer, and what it said to be known as that one.
type Heard = (Box<[u8]>, Rc<Peer>);
/// What is told where these further labels are wanted.
type Saying = (Vec<String>, Rc<[u8]>);

/// See the module.
pub struct Mesh {
    registry: Registry,
    next: Cell<u64>,
    /// By id; with what was told, so that nobody speaks for another.
    peers: Map<Box<[u8]>, Heard>,
    endpoints: Map<Arc<str>, Option<Rc<Peer>>>,
    /// What is told over HTTP, by the further labels in it.
    told: RefCell<Vec<Saying>>,
    /// From what is known of a stream to its label set.
    ways: Map<Box<[u8]>, Metrics>,
    groups: Map<Box<str>, Metrics>,
    /// At most so many, `overflow` not counted.
    label_sets: usize,
}

impl Mesh {
    /// Nobody is known yet.
    pub fn new(registry: Registry) -> Self {
        Mesh {
            registry,
            next: Cell::new(0),
            peers: RefCell::default(),
            endpoints: RefCell::default(),
            told: RefCell::default(),
            ways: RefCell::default(),
            groups: RefCell::default(),
            label_sets: LABEL_SETS,
        }
    }

    fn peer(&self, workload: Workload) -> Rc<Peer> {
        let id = self.next.get() + 1;
        self.next.set(id);
        Rc::new(Peer { workload, id })
    }

    /// The peer that told this of itself in headers: base64 of a struct, padded or not.
    fn heard(&self, id: &[u8], value: &[u8]) -> Option<Rc<Peer>> {
        if value.len() > LARGEST || id.len() > LARGEST {
            return None;
        }
        if let Some((told, peer)) = self.peers.borrow().get(id)
            && **told == *value
        {
            return Some(peer.clone());
        }
        let mut padded = value.to_vec();
        while !padded.len().is_multiple_of(4) {
            padded.push(b'=');
        }
        let peer = self.peer(Workload::decode(&base64::decode(&padded)?)?);
        let mut peers = self.peers.borrow_mut();
        if peers.len() >= PEERS {
            peers.clear();
        }
        peers.insert(id.into(), (value.into(), peer.clone()));
        Some(peer)
    }

    /// The peer that told this of itself in front of a stream.
    pub fn heard_frame(&self, frame: &[u8]) -> Option<Rc<Peer>> {
        crate::model::Node::read_exchange(frame).map(|workload| self.peer(workload))
    }

    /// Who is at an endpoint, as it says.
    fn at_endpoint(&self, text: &Arc<str>) -> Option<Rc<Peer>> {
        if let Some(known) = self.endpoints.borrow().get(text) {
            return known.clone();
        }
        let peer = Workload::of_endpoint(text).map(|workload| self.peer(workload));
        let mut endpoints = self.endpoints.borrow_mut();
        if endpoints.len() >= ENDPOINTS {
            endpoints.clear();
        }
        endpoints.insert(text.clone(), peer.clone());
        peer
    }

    /// What peers are told over HTTP.
    fn told(&self, labels: &[String]) -> Rc<[u8]> {
        let mut told = self.told.borrow_mut();
        if let Some((_, value)) = told.iter().find(|(of, _)| of == labels) {
            return value.clone();
        }
        let mut value = Vec::new();
        base64::encode(&self.registry.node().workload.encode(labels), &mut value);
        let value: Rc<[u8]> = value.into();
        // Configurations differ in few ways; those of long ago need not stay.
        if told.len() >= 16 {
            told.clear();
        }
        told.push((labels.to_vec(), value.clone()));
        value
    }
}
