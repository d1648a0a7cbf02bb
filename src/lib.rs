//! Mizzen: a mesh data plane for bolt, HTTP/2 and TCP, driven by xDS.
//!
//! ```text
//!  file ──► bootstrap ─┐                                             ┌► worker 0 (LocalRuntime)
//!                      ├► translate ─► model ─► snapshot::Builder    │    listener ─► stream ─► cluster
//!  ADS  ──► xds ───────┘   (reject → NACK)      │ compile, diff      ├► worker 1 …
//!                                               ▼                    │
//!                                        snapshot::Store (ArcSwap) ──┴► worker N
//! ```
//!
//! Modules lower in this table never use higher ones; `tests/structure.rs` holds the code to it:
//! `util model message telemetry` < `protocol router net` < `filter cluster` < `snapshot` < `stream` <
//! `listener` < `worker` < `app`; beside them `bootstrap xds → translate → model`, and `admin control`,
//! which read snapshots and metrics.
// A test fails by panicking; nothing else may.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(not(target_os = "linux"))]
compile_error!("Mizzen runs on Linux only: it relies on SO_REUSEPORT, TCP_USER_TIMEOUT and epoll");

pub mod admin;
pub mod app;
pub mod bootstrap;
pub mod cli;
pub mod cluster;
pub mod control;
pub mod demo;
pub mod filter;
pub mod listener;
pub mod message;
pub mod model;
pub mod net;
pub mod proto;
pub mod protocol;
pub mod router;
pub mod sample;
pub mod snapshot;
pub mod stream;
pub mod telemetry;
pub mod tls;
pub mod translate;
pub mod util;
pub mod worker;
pub mod xds;
