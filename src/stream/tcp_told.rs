//! What is counted of a raw connection by who is at its ends, from time to time and when it is over.
//!
//! Nothing is counted before it is known who the peer is, or that it will not be known; the labels are those of
//! that moment.

use super::exchange::Trail;
use super::record::{Plain, uri_names};
use super::{Handle, Local};
use crate::cluster::Host;
use crate::filter::mesh::{Metrics, Peer, Seen, Which};
use crate::message::Flags;
use crate::model::{ClusterMesh, MeshReporter, MeshStats};
use crate::net::{self, Conn, Sleep};
use crate::tls::Session;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use tokio::time::Instant;

/// Places of the metrics of connections.
const OPENED: usize = 6;
const CLOSED: usize = 7;
const SENT: usize = 8;
const RECEIVED: usize = 9;

/// See the module.
pub(super) struct Told {
    local: Rc<Local>,
    stats: Vec<Arc<MeshStats>>,
    /// Where each of them counts, once that is known.
    metrics: Vec<Metrics>,
    downstream: Option<Arc<Session>>,
    upstream: Option<Arc<Session>>,
    host: Option<Arc<str>>,
    cluster: Option<(String, Option<Rc<ClusterMesh>>)>,
    /// Bytes counted: received, sent.
    counted: (u64, u64),
    timer: Option<Sleep>,
}

impl Told {
    /// For a connection whose chain counts; `None` for others.
    pub(super) fn of(handle: &Handle, local: &Rc<Local>) -> Option<Told> {
        let stats = handle.bound().chain.model.mesh.as_ref()?.stats.clone();
        let interval = stats.iter().filter_map(|stats| stats.interval).min();
        if stats.is_empty() {
            return None;
        }
        Some(Told {
            metrics: Vec::new(),
            downstream: handle.tls().cloned(),
            upstream: None,
            host: None,
            cluster: None,
            counted: (0, 0),
            timer: interval.map(|time| local.env.wheel.sleep(time)),
            local: local.clone(),
            stats,
        })
    }

    /// It goes on to a host.
    pub(super) fn connected(&mut self, trail: &Trail, upstream: &Conn) {
        self.upstream = upstream.session().cloned();
        self.place(trail);
    }

    fn place(&mut self, trail: &Trail) {
        let (cluster, host) = trail.upstream();
        self.host = host.and_then(Host::workload);
        self.cluster = cluster.map(|cluster| (cluster.name.clone(), cluster.mesh()));
    }

    /// Something moved, or time has passed.
    pub(super) fn poll(&mut self, ends: (&Conn, &Conn), moved: (u64, u64), cx: &mut Context<'_>) {
        if self.metrics.is_empty() && self.is_known(ends) {
            self.open((ends.0, Some(ends.1)), Flags::default());
        }
        let interval = self.stats.iter().filter_map(|stats| stats.interval).min();
        while let (Some(timer), Some(interval)) = (&mut self.timer, interval)
            && Pin::new(&mut *timer).poll(cx).is_ready()
        {
            timer.reset(Instant::now() + interval);
            self.count(moved);
        }
    }

    /// Whether nothing more will be known of the peers that matter.
    fn is_known(&self, (client, upstream): (&Conn, &Conn)) -> bool {
        self.stats.iter().all(|stats| {
            let conn = if stats.reporter == MeshReporter::Source { upstream } else { client };
            conn.told().is_none_or(|told| told.get().is_some())
        })
    }

    fn open(&mut self, (client, upstream): (&Conn, Option<&Conn>), flags: Flags) {
        let (client, server) = (self.peer(client), upstream.and_then(|upstream| self.peer(upstream)));
        let mut shown = Vec::new();
        for (short, _) in flags.names() {
            if !shown.is_empty() {
                shown.push(b',');
            }
            shown.extend_from_slice(short.as_bytes());
        }
        if shown.is_empty() {
            shown.push(b'-');
        }
        let nothing = ClusterMesh::default();
        let cluster = self.cluster.as_ref();
        let seen = Seen {
            client: client.as_ref(),
            server: server.as_ref(),
            endpoint: self.host.as_ref(),
            cluster: cluster.map(|(name, mesh)| (name.as_str(), mesh.as_deref().unwrap_or(&nothing))),
            downstream: uri_names(self.downstream.as_deref()),
            upstream: uri_names(self.upstream.as_deref()),
            protocol: "tcp",
            flags: &shown,
            ..Seen::default()
        };
        let over = Plain { node: self.local.env.registry.node(), seen: &seen };
        let metrics =
            self.stats.iter().map(|stats| self.local.mesh.metrics(stats, Which::Connections, &seen, &over));
        self.metrics = metrics.collect();
        self.note(OPENED, 1);
    }

    fn peer(&self, conn: &Conn) -> Option<Rc<Peer>> {
        let counts = self.local.env.registry.exchange();
        match conn.told()?.get() {
            Some(net::Told::Frame(frame)) => {
                let peer = self.local.mesh.heard_frame(frame);
                if peer.is_none() {
                    counts.header_not_found.inc();
                }
                peer
            }
            Some(net::Told::Nothing) => {
                counts.initial_header_not_found.inc();
                None
            }
            None => None,
        }
    }

    fn note(&self, at: usize, n: u64) {
        self.metrics.iter().flat_map(|metrics| metrics.iter()).for_each(|metrics| metrics.note(at, n));
    }

    fn count(&mut self, (received, sent): (u64, u64)) {
        if self.metrics.is_empty() {
            return;
        }
        self.note(RECEIVED, received.saturating_sub(self.counted.0));
        self.note(SENT, sent.saturating_sub(self.counted.1));
        self.counted = (received, sent);
    }

    /// It is over.
    pub(super) fn end(
        &mut self,
        ends: (&Conn, Option<&Conn>),
        moved: (u64, u64),
        flags: Flags,
        trail: &Trail,
    ) {
        if self.metrics.is_empty() {
            self.place(trail);
            self.open(ends, flags);
        }
        self.count(moved);
        self.note(CLOSED, 1);
    }
}
