//! One HTTP request and its response, whatever the two sides speak.
//!
//! The connection drivers ([`super::http1`], [`super::http2`]) give a request's head, its body ([`Source`]) and
//! the way to answer ([`Client`]); [`exchange::run`] finds the route, tries hosts, and moves both bodies. What
//! differs between the protocols is inside the enums [`Source`], [`Sink`], [`Client`] and in `upstream`.

mod admission;
mod ask;
mod bodies;
mod client;
mod client_cert;
mod clock;
mod convert;
mod edge;
pub mod exchange;
mod fields;
mod filtered;
mod flow;
mod forward;
mod head;
mod mirror;
mod own;
mod path;
mod relay;
mod reply;
mod sink;
mod sink_http2;
mod source;
mod stats;
mod steering;
mod tap;
mod trace;
mod upstream;
mod upstream_http1;

pub use ask::{ask, keep};
pub use client::{Client, Follows};
pub use clock::Clock;
pub use reply::{Style, say_why};
pub use sink::{Gone, Sink};
#[cfg(test)]
pub(in crate::stream) use sink_http2::{FREE, MOST_SMALL};
pub use source::{Fault, Incomplete, Source, collect};
pub use stats::{Stats, Version};

use super::{Bound, Handle, Local};
use crate::filter::Chain;
use crate::model::{Edge, HttpManager, Protocol, RouteId, RouterOptions};
use crate::net::h2::MAX_HEADERS;
use crate::snapshot::{ChainSpec, FilterSpec};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// Default of `stream_idle_timeout`, also for a client that takes nothing.
pub const STREAM_IDLE: Duration = Duration::from_secs(300);

/// Default of `max_headers_count`.
const HTTP_HEADERS: usize = 100;

/// What the streams of a downstream connection share.
pub struct Downstream {
    /// The connection as its listener knows it.
    pub handle: Rc<Handle>,
    /// The worker.
    pub local: Rc<Local>,
    /// What it counts.
    pub stats: Stats,
    /// Whom `stats` are of.
    of: Weak<Bound>,
}

impl Downstream {
    /// A connection of an HTTP filter, counted as open; `None` for any other filter.
    pub fn open(handle: Rc<Handle>, local: Rc<Local>, version: Version) -> Option<Rc<Self>> {
        let bound = handle.bound();
        let stats = Stats::of(&bound.chain.filter, &local)?;
        stats.opened(version);
        let of = Rc::downgrade(&bound);
        Some(Rc::new(Downstream { handle, local, stats, of }))
    }

    /// How long the client may take to close its side after we closed ours.
    pub fn linger(&self) -> Duration {
        match &self.handle.bound().chain.filter {
            FilterSpec::Http { config, .. } => config.delayed_close,
            FilterSpec::Rpc { .. } | FilterSpec::Tcp { .. } => HttpManager::DELAYED_CLOSE,
        }
    }

    /// The same connection as its present filter counts it, if another one served its last stream.
    pub fn follow(&self, version: Version) -> Option<Rc<Self>> {
        let bound = self.handle.bound();
        if std::ptr::eq(self.of.as_ptr(), Rc::as_ptr(&bound)) {
            return None;
        }
        let stats = Stats::of(&bound.chain.filter, &self.local)?;
        self.stats.hand_over(&stats, version);
        let (handle, local, of) = (self.handle.clone(), self.local.clone(), Rc::downgrade(&bound));
        Some(Rc::new(Downstream { handle, local, stats, of }))
    }
}

/// What a filter says about its streams.
struct Settings<'a> {
    routes: RouteId,
    /// What hosts are spoken to in; `None`: as their cluster says.
    upstream: Option<Protocol>,
    /// An RPC proxy: converted bolt calls come here, side channel and all.
    rpc: bool,
    stream_idle: Option<Duration>,
    max_stream: Option<Duration>,
    /// From a request's first byte to its last.
    request_timeout: Option<Duration>,
    /// Most fields of a request.
    max_headers: usize,
    /// What a connection manager does with heads.
    edge: Option<&'a Edge>,
    /// Largest bolt frame in bytes.
    max_frame: usize,
    server_name: &'a str,
    /// The filters before the router, if there are any.
    chain: Option<&'a Arc<Chain>>,
    /// Those of a connection manager.
    router: Option<&'a RouterOptions>,
}

impl<'a> Settings<'a> {
    fn of(spec: &'a ChainSpec) -> Option<Self> {
        let chain = spec.filters.as_ref();
        match &spec.filter {
            FilterSpec::Http { config, routes, .. } => Some(Settings {
                routes: *routes,
                upstream: None,
                rpc: false,
                stream_idle: config.stream_idle_timeout,
                max_stream: config.max_stream_duration,
                request_timeout: config.limits.request_timeout,
                max_headers: config.limits.max_headers.unwrap_or(HTTP_HEADERS),
                edge: Some(&config.edge),
                max_frame: 0,
                server_name: &config.server_name,
                chain,
                router: Some(&config.router),
            }),
            FilterSpec::Rpc { config, routes } => Some(Settings {
                routes: *routes,
                upstream: Some(config.upstream.unwrap_or(Protocol::Http2)),
                rpc: true,
                stream_idle: Some(STREAM_IDLE),
                max_stream: None,
                request_timeout: None,
                max_headers: MAX_HEADERS,
                edge: None,
                max_frame: config.max_frame,
                server_name: "",
                chain,
                router: None,
            }),
            FilterSpec::Tcp { .. } => None,
        }
    }
}

/// The answer to what is no request, and its body.
pub fn refusal(status: StatusCode, down: &Downstream) -> (Response<()>, Bytes) {
    let body = Bytes::from_static(status.canonical_reason().unwrap_or_default().as_bytes());
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let FilterSpec::Http { config, .. } = &down.handle.bound().chain.filter {
        edge::depart(status, headers, &config.edge, &config.server_name, &edge::Arrival::default());
    }
    down.stats.refused(status);
    (response, body)
}
