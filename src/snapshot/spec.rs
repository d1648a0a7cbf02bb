//! Compiled listeners.

use super::Snapshot;
use crate::filter;
use crate::message::Head;
use crate::model::{FilterChain, HttpManager, Listener, Protocol, RouteId, RouteSource, RpcProxy, TcpProxy};
use crate::router::{Scopes, WeightedPick};
use crate::tls;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A listener ready to serve. Equal models keep the same `Arc` over generations.
pub struct ListenerSpec {
    /// As configured.
    pub model: Arc<Listener>,
    /// Compiled chains, in the order of `model.filter_chains`.
    pub chains: Vec<Arc<ChainSpec>>,
    /// The compiled default chain.
    pub default_chain: Option<Arc<ChainSpec>>,
    /// Snapshot generation that brought this spec; a connection compares it to learn that it must match again.
    pub generation: u64,
    /// Workers on which it is gone and still has connections.
    pub leftover: Leftover,
    /// Open connections where a limit makes them counted; one number over its versions and all workers.
    pub open: Arc<AtomicU32>,
}

/// A filter chain ready to serve; keeps its `Arc` while its model is equal.
pub struct ChainSpec {
    /// As configured.
    pub model: FilterChain,
    /// TLS towards its clients.
    pub tls: Option<Arc<tls::Server>>,
    /// What serves the connection.
    pub filter: FilterSpec,
    /// What its requests meet before the router; `None`: nothing.
    pub filters: Option<Arc<filter::Chain>>,
    /// Connections on it since it was replaced by one that cannot serve them.
    pub leftover: Leftover,
}

/// Who still uses what is no longer configured, over all workers.
#[derive(Debug, Default)]
pub struct Leftover(AtomicU32);

impl Leftover {
    /// One user more; whether it is the first.
    pub fn enter(&self) -> bool {
        self.0.fetch_add(1, Relaxed) == 0
    }

    /// One user less; whether it was the last.
    pub fn leave(&self) -> bool {
        self.0.fetch_sub(1, Relaxed) == 1
    }
}

/// A terminal filter with its names resolved.
#[expect(clippy::large_enum_variant, reason = "one per filter chain, behind an Arc")]
pub enum FilterSpec {
    /// Raw bytes; one draw per connection.
    Tcp { config: TcpProxy, clusters: WeightedPick },
    /// HTTP. `scopes`: those that are written in the filter.
    Http { config: HttpManager, routes: RouteId, scopes: Option<Arc<Scopes>> },
    /// RPC.
    Rpc { config: RpcProxy, routes: RouteId },
}

impl FilterSpec {
    /// The table that the route of the request with this head is looked up in; one that no snapshot has where
    /// there is none for it.
    pub fn table_of<H: Head + ?Sized>(&self, snapshot: &Snapshot, head: &H) -> RouteId {
        match self {
            FilterSpec::Http { config, routes, scopes } => match &config.routes {
                RouteSource::Scoped(scoped) => {
                    let scopes = scopes.as_ref().unwrap_or(&snapshot.scopes);
                    scopes.find(&scoped.key, head).unwrap_or(*routes)
                }
                RouteSource::Inline(_) | RouteSource::Rds { .. } => *routes,
            },
            FilterSpec::Rpc { routes, .. } => *routes,
            FilterSpec::Tcp { .. } => RouteId(u32::MAX),
        }
    }
}

impl ChainSpec {
    /// Whether an open connection served by `self` can go on under `next`: the parts bound to a connection
    /// (protocol, codec settings) are equal. The rest is taken per stream from whichever chain is current.
    pub fn same_connection(&self, next: &ChainSpec) -> bool {
        // Equal contexts are one.
        if self.tls.as_ref().map(Arc::as_ptr) != next.tls.as_ref().map(Arc::as_ptr) {
            return false;
        }
        match (&self.filter, &next.filter) {
            // A raw connection has made its choice; nothing of a new chain applies to it.
            (FilterSpec::Tcp { .. }, FilterSpec::Tcp { .. }) => true,
            (FilterSpec::Http { config: a, .. }, FilterSpec::Http { config: b, .. }) => {
                a.codec == b.codec
                    && a.http2 == b.http2
                    && a.http1 == b.http1
                    && a.edge.upgrades.is_empty() == b.edge.upgrades.is_empty()
                    && (a.limits.head_bytes, a.limits.max_headers)
                        == (b.limits.head_bytes, b.limits.max_headers)
                    && a.max_concurrent_streams == b.max_concurrent_streams
            }
            (FilterSpec::Rpc { config: a, .. }, FilterSpec::Rpc { config: b, .. }) => {
                a.downstream == b.downstream && a.max_frame == b.max_frame
            }
            // HCM and RpcProxy speak the same HTTP/2 to clients.
            (FilterSpec::Http { .. }, FilterSpec::Rpc { config, .. })
            | (FilterSpec::Rpc { config, .. }, FilterSpec::Http { .. }) => {
                config.downstream == Protocol::Http2
            }
            _ => false,
        }
    }
}
