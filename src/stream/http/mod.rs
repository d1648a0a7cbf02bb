//! One HTTP request and its response, whatever the two sides speak.
//!
//! The connection drivers ([`super::http1`], [`super::http2`]) give a request's head, its body ([`Source`]) and
//! the way to answer ([`Client`]); [`exchange::run`] finds the route, tries hosts, and moves both bodies. What
//! differs between the protocols is inside the enums [`Source`], [`Sink`], [`Client`] and in `upstream`.

mod client;
mod clock;
mod convert;
pub mod exchange;
mod flow;
mod head;
mod relay;
mod reply;
mod sink;
mod source;
mod stats;
mod upstream;

pub use client::Client;
pub use clock::Clock;
pub use reply::Style;
pub use sink::Sink;
pub use source::{Fault, Incomplete, Source, collect};
pub use stats::{Stats, Version};

use super::{Handle, Local};
use crate::model::{Protocol, RouteId};
use crate::snapshot::FilterSpec;
use std::rc::Rc;
use std::time::Duration;

/// Default of `stream_idle_timeout`, also for a client that takes nothing.
pub const STREAM_IDLE: Duration = Duration::from_secs(300);

/// What the streams of a downstream connection share.
pub struct Downstream {
    /// The connection as its listener knows it.
    pub handle: Rc<Handle>,
    /// The worker.
    pub local: Rc<Local>,
    /// What it counts.
    pub stats: Stats,
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
    /// Largest bolt frame in bytes.
    max_frame: usize,
    server_name: &'a str,
}

impl<'a> Settings<'a> {
    fn of(filter: &'a FilterSpec) -> Option<Self> {
        match filter {
            FilterSpec::Http { config, routes } => Some(Settings {
                routes: *routes,
                upstream: None,
                rpc: false,
                stream_idle: config.stream_idle_timeout,
                max_stream: config.max_stream_duration,
                max_frame: 0,
                server_name: &config.server_name,
            }),
            FilterSpec::Rpc { config, routes } => Some(Settings {
                routes: *routes,
                upstream: Some(config.upstream.unwrap_or(Protocol::Http2)),
                rpc: true,
                stream_idle: Some(STREAM_IDLE),
                max_stream: None,
                max_frame: config.max_frame,
                server_name: "",
            }),
            FilterSpec::Tcp { .. } => None,
        }
    }
}
