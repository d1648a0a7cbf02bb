//! What is told of one stream when it is over.

use super::{Peers, Which};
use crate::filter::{Chain, Stream};
use crate::message::{Head, Headers};
use crate::model::expr::Attribute;
use crate::model::{ClusterMesh, FilterConfig, MeshStats};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// Who counts, with the place in their chain.
pub type Reporters = Rc<[(usize, Arc<MeshStats>)]>;

/// Headers that labels are made of, as far as they were there: which, and its value.
pub(in crate::filter) type Captured = Vec<(Attribute, Vec<u8>)>;

/// Messages of a gRPC call so far.
#[derive(Debug, Default)]
pub struct Messages {
    pub requests: Cell<u64>,
    pub responses: Cell<u64>,
}

/// See the module.
pub struct Report {
    reporters: Reporters,
    active: u64,
    /// Who took part.
    pub peers: Peers,
    /// It is a gRPC call.
    pub grpc: bool,
    /// Its messages, where somebody counts them.
    pub messages: Option<Rc<Messages>>,
    captured: Captured,
    /// Where it would have gone.
    planned: Option<(Box<str>, Option<Rc<ClusterMesh>>)>,
}

impl Report {
    /// It was answered before it went to this cluster.
    pub fn planned(&mut self, name: &str, mesh: Option<&Rc<ClusterMesh>>) {
        self.planned = Some((name.into(), mesh.cloned()));
    }

    /// Where it would have gone; `nothing`: what a cluster without a mesh says.
    pub fn cluster<'a>(&'a self, nothing: &'a ClusterMesh) -> Option<(&'a str, &'a ClusterMesh)> {
        let (name, mesh) = self.planned.as_ref()?;
        Some((name, mesh.as_deref().unwrap_or(nothing)))
    }

    /// Those who count it.
    pub fn reporters(&self) -> impl Iterator<Item = &Arc<MeshStats>> {
        let active = |(place, _): &&(usize, Arc<MeshStats>)| self.active & (1 << place) != 0;
        self.reporters.iter().filter(active).map(|(_, stats)| stats)
    }

    /// A header as it was when the stream passed.
    pub fn captured(&self, attribute: &Attribute) -> Option<&[u8]> {
        self.captured.iter().find(|(one, _)| one == attribute).map(|(_, value)| value.as_slice())
    }

    /// What is counted of it: `messages` only where there are any.
    pub fn parts(&self) -> impl Iterator<Item = Which> {
        let messages = (self.grpc && self.messages.is_some()).then_some(Which::Messages);
        messages.into_iter().chain([Which::Requests])
    }
}

/// Those of a chain's filters that count.
pub(in crate::filter) fn reporters(chain: &Chain) -> Reporters {
    let rules = (0..chain.len()).filter_map(|place| Some((place, chain.rule(place)?)));
    let stats = rules.filter_map(|(place, rule)| match &rule.config {
        FilterConfig::MeshStats(stats) => Some((place, stats.clone())),
        _ => None,
    });
    stats.collect()
}

/// Keeps the request's headers that labels are made of.
pub(in crate::filter) fn capture(stats: &MeshStats, head: &dyn Head, captured: &mut Captured) {
    each(stats, &mut |attribute| {
        if let Attribute::RequestHeader(name) = attribute {
            let mut first = None;
            head.each_value(name, &mut |value| {
                first.get_or_insert_with(|| value.to_vec());
            });
            captured.extend(first.map(|value| (attribute.clone(), value)));
        }
    });
}

/// Keeps the response's.
pub(in crate::filter) fn capture_response(stats: &MeshStats, headers: &dyn Headers, captured: &mut Captured) {
    each(stats, &mut |attribute| {
        if let Attribute::ResponseHeader(name) = attribute {
            captured.extend(headers.value(name).map(|value| (attribute.clone(), value.into_owned())));
        }
    });
}

fn each(stats: &MeshStats, each: &mut dyn FnMut(&Attribute)) {
    for (_, expr) in stats.overrides.iter().flat_map(|change| &change.labels) {
        expr.each(each);
    }
}

impl Stream {
    /// What is to be told of it; `None`: nobody counts.
    pub fn report(&mut self, reporters: Reporters) -> Option<Box<Report>> {
        if reporters.is_empty() {
            return None;
        }
        Some(Box::new(Report {
            active: self.active_mask(),
            peers: std::mem::take(&mut self.peers),
            grpc: self.is_grpc,
            messages: self.messages.take(),
            captured: std::mem::take(&mut self.captured),
            planned: None,
            reporters,
        }))
    }
}
