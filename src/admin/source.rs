//! What the admin reads, as plain data, and what it may ask for.

use crate::proto::envoy::config::core::v3::Node;
use crate::snapshot::Store;
use crate::telemetry::Registry;
use crate::tls::Secrets;
use bytes::Bytes;
use serde_json::Value as Json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};

/// Asks another thread: the closure hands the sender over and returns at once. A dropped sender is answered
/// with 503.
pub type Ask<T> = Box<dyn Fn(oneshot::Sender<T>) + Send + Sync>;

/// Changes runtime keys; what is sent is whether there is a layer for it.
pub type Modify = Box<dyn Fn(Vec<(String, String)>, oneshot::Sender<bool>) + Send + Sync>;

/// Everything the admin reads or may trigger; made once by `app`.
pub struct Source {
    /// What is served now.
    pub store: Arc<Store>,
    /// All metrics.
    pub registry: Registry,
    /// Whether the process is ready, and for what.
    pub lifecycle: Arc<dyn Lifecycle>,
    /// Certificates and trust bundles.
    pub secrets: Arc<Secrets>,
    /// What does not change while the process runs.
    pub process: ProcessInfo,
    /// Asks the build thread for the state of every resource.
    pub dump: Ask<DumpState>,
    /// Asks the workers for their listeners, draining generations included.
    pub listeners: Ask<Vec<ListenerStatus>>,
    /// Sets keys of the admin layer of runtime, or unsets those with an empty value.
    pub modify_runtime: Modify,
    /// Where wishes go; a few at a time are enough.
    pub commands: mpsc::Sender<Command>,
}

/// What an operator wants done. Each comes from one POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Listeners stop accepting and their connections drain; only inbound ones, spread over the drain time, or
    /// without ending the process afterwards, as asked.
    DrainListeners { inbound_only: bool, graceful: bool, skip_exit: bool },
    /// The process ends at once.
    Quit,
}

/// Envoy's states of the server; the numbers are those of the gauge `server.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ServerState {
    Live = 0,
    Draining = 1,
    PreInitializing = 2,
    Initializing = 3,
}

impl ServerState {
    /// Envoy's word.
    pub fn word(self) -> &'static str {
        match self {
            ServerState::Live => "LIVE",
            ServerState::Draining => "DRAINING",
            ServerState::PreInitializing => "PRE_INITIALIZING",
            ServerState::Initializing => "INITIALIZING",
        }
    }
}

/// Where the process stands, as `app` knows it.
pub trait Lifecycle: Send + Sync {
    /// Without regard to health checks: the gauge `server.state`.
    fn discovery(&self) -> ServerState;
    /// Whether `/healthcheck/fail` was asked for last.
    fn failed(&self) -> bool;
    /// Makes health checks fail, or pass again.
    fn set_failed(&self, failed: bool);
    /// What the process as a whole waits for before it is live.
    fn waits(&self) -> Vec<String>;

    /// What `/ready` says: a live server whose health checks are made to fail counts as draining.
    fn shown(&self) -> ServerState {
        match self.discovery() {
            ServerState::Live if self.failed() => ServerState::Draining,
            state => state,
        }
    }
}

/// Facts about the process.
#[derive(Clone, Debug)]
pub struct ProcessInfo {
    /// This program's version, `0.1.0`.
    pub version: String,
    pub started: SystemTime,
    /// `command_line_options` of `/server_info`.
    pub command_line: Json,
    /// `node` of `/server_info`, made JSON when someone asks.
    pub node: Arc<Node>,
    /// The MOSN configuration as read, if that is the dialect.
    pub mosn_config: Option<Arc<Json>>,
    /// The process log's destination as configured (`stdout`, a path); MOSN's log calls name it.
    pub log_path: String,
    /// MOSN's feature gates as set.
    pub features: Vec<(String, bool)>,
}

/// State of all resources at one moment. Cheap to make: bodies are shared, not copied.
#[derive(Clone, Debug, Default)]
pub struct DumpState {
    /// The bootstrap, or the whole static configuration.
    pub bootstrap: Option<Body>,
    pub bootstrap_updated: Option<SystemTime>,
    /// One entry per type.
    pub types: Vec<TypeState>,
}

/// Kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cluster,
    Endpoint,
    Listener,
    Route,
    Extension,
    ScopedRoute,
    Secret,
}

/// State of one type.
#[derive(Clone, Debug)]
pub struct TypeState {
    pub kind: Kind,
    /// Version of the last response accepted as a whole; may be empty.
    pub version: Arc<str>,
    pub resources: Vec<Resource>,
}

/// A resource's encoded form.
#[derive(Clone, Debug)]
pub enum Body {
    /// The message's bytes, as they came.
    Proto(Bytes),
    /// Written in another dialect (a MOSN file, a YAML bootstrap): as JSON.
    Json(Arc<Json>),
}

/// One accepted form of a resource.
#[derive(Clone, Debug)]
pub struct Version {
    /// May be empty.
    pub version: Arc<str>,
    pub updated: SystemTime,
    pub body: Body,
}

/// A resource that was refused.
#[derive(Clone, Debug)]
pub struct Failed {
    pub at: SystemTime,
    /// Version of the response that brought it.
    pub version: Arc<str>,
    /// Why, with the field's path.
    pub details: String,
    /// What was refused, if it is kept.
    pub body: Option<Bytes>,
    /// It was acknowledged all the same, and is ignored for another reason.
    pub acked: bool,
}

/// All that is known about one resource.
#[derive(Clone, Debug)]
pub struct Resource {
    pub name: Arc<str>,
    /// Not from the control plane.
    pub is_static: bool,
    /// What is served.
    pub active: Option<Version>,
    /// What will be served once `blocked_by` has come.
    pub warming: Option<Version>,
    /// Names what the warming form waits for, such as `EDS outbound|80||a`.
    pub blocked_by: Vec<String>,
    /// Its newest form was refused and has not been replaced.
    pub failed: Option<Failed>,
    /// Asked for, and the control plane said that it does not exist.
    pub missing: bool,
}

impl Resource {
    /// A served resource without history.
    pub fn active(name: &str, is_static: bool, active: Version) -> Self {
        Resource {
            name: name.into(),
            is_static,
            active: Some(active),
            warming: None,
            blocked_by: Vec::new(),
            failed: None,
            missing: false,
        }
    }

    /// `envoy.admin.v3.ClientResourceStatus`.
    pub fn client_status(&self) -> &'static str {
        if self.failed.as_ref().is_some_and(|failed| !failed.acked) {
            "NACKED"
        } else if self.active.is_some() || self.warming.is_some() || self.failed.is_some() {
            "ACKED"
        } else if self.missing {
            "DOES_NOT_EXIST"
        } else {
            "REQUESTED"
        }
    }
}

/// A listener as the workers see it, summed over them.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    pub name: String,
    /// Addresses really bound.
    pub addresses: Vec<SocketAddr>,
    /// Unix sockets really bound.
    pub paths: Vec<String>,
    /// Snapshot generation it came with.
    pub generation: u64,
    /// It takes no new connections.
    pub draining: bool,
    pub connections: u64,
    pub streams: u64,
    /// Since it was opened, or since it drains.
    pub age: Duration,
}
