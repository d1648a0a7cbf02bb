//! A scriptable ADS server: tonic on a thread of its own, state of the world and delta.
//!
//! Tests set resources per type and [`Ads::push`]; the server answers subscriptions as istiod does (a NACK is
//! recorded, not answered; a stale nonce is ignored; the first request of a type always gets an answer) and
//! records every request. It can withhold a type, send raw responses, be killed and come back on the same
//! address. All waits end in a panic that says what was waited for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mizzen::proto::envoy::config::cluster::v3::Cluster;
use mizzen::proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use mizzen::proto::envoy::config::listener::v3::Listener;
use mizzen::proto::envoy::config::route::v3::RouteConfiguration;
use mizzen::proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
pub use mizzen::xds::types::ResourceType as Type;
use prost::Message;
use prost_types::Any;
use serving::{Outgoing, Place, Service, Shared, State, serve};
use tokio::sync::{oneshot, watch};
use tonic::Status;

mod serving;

/// How long a wait may take before it fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// The types that every proxy with a route table asks for, in this order.
pub const ASKED: [Type; 4] = [Type::Cluster, Type::Endpoint, Type::Listener, Type::Route];

/// One request as it arrived, either variant.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Which stream, counted from 1 over the server's whole life.
    pub stream: u64,
    pub delta: bool,
    pub type_url: String,
    pub with_node: bool,
    pub node_id: String,
    pub nonce: String,
    /// The text of `error_detail`.
    pub error: Option<String>,
    pub error_code: i32,
    /// State of the world: `version_info`.
    pub version: String,
    /// State of the world: `resource_names`; delta: names subscribed.
    pub names: Vec<String>,
    pub unsubscribe: Vec<String>,
    pub initial_versions: BTreeMap<String, String>,
}

impl Seen {
    pub fn is(&self, kind: Type) -> bool {
        self.type_url == kind.type_url()
    }
    pub fn is_ack(&self) -> bool {
        !self.nonce.is_empty() && self.error.is_none()
    }
}

/// The server. Dropping it kills it.
pub struct Ads {
    shared: Shared,
    place: Place,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Ads {
    /// On a free loopback port.
    pub fn start() -> Self {
        Self::start_at(Place::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))))
    }

    /// On a Unix socket.
    pub fn start_unix(path: &Path) -> Self {
        Self::start_at(Place::Unix(path.to_owned()))
    }

    fn start_at(place: Place) -> Self {
        let shared = Shared { state: Arc::default(), changed: Arc::new(watch::channel(0).0) };
        let mut ads = Self { shared, place, running: None };
        ads.restart();
        ads
    }

    /// The TCP address; stays the same over [`Ads::restart`].
    pub fn address(&self) -> SocketAddr {
        match &self.place {
            Place::Tcp(address) => *address,
            Place::Unix(path) => panic!("listens on {}", path.display()),
        }
    }

    /// Closes the port and cuts every connection. Returns when both have happened.
    pub fn kill(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            thread.join().expect("server thread");
        }
        self.shared.lock().peers.clear();
    }

    /// Comes (back) up on the same address, with what was published and a clean memory of clients.
    pub fn restart(&mut self) {
        self.kill();
        let (stop, stopped) = oneshot::channel();
        let (up, ready) = std::sync::mpsc::channel();
        let (place, service) = (self.place.clone(), Service(self.shared.clone()));
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(place, service, up) => {}
                    _ = stopped => {}
                }
            });
            // Dropping the runtime drops every connection task, and with it its socket.
        });
        self.place = ready.recv().expect("the server came up");
        self.running = Some((stop, thread));
    }

    // ---- what is served ----

    /// Replaces all resources of a type, as of the next push.
    pub fn set(&self, kind: Type, resources: impl IntoIterator<Item = (String, Any)>) {
        self.shared.lock().staged.insert(kind.type_url(), resources.into_iter().collect());
    }

    /// Adds or replaces one resource, as of the next push.
    pub fn upsert(&self, kind: Type, name: &str, resource: Any) {
        self.shared.lock().staged.entry(kind.type_url()).or_default().insert(name.to_owned(), resource);
    }

    /// Drops one resource, as of the next push.
    pub fn remove(&self, kind: Type, name: &str) {
        self.shared.lock().staged.entry(kind.type_url()).or_default().remove(name);
    }

    pub fn set_clusters(&self, clusters: Vec<Cluster>) {
        self.set(Type::Cluster, clusters.iter().map(|c| (c.name.clone(), any(Type::Cluster, c))));
    }

    pub fn set_endpoints(&self, endpoints: Vec<ClusterLoadAssignment>) {
        self.set(Type::Endpoint, endpoints.iter().map(|e| (e.cluster_name.clone(), any(Type::Endpoint, e))));
    }

    pub fn set_listeners(&self, listeners: Vec<Listener>) {
        self.set(Type::Listener, listeners.iter().map(|l| (l.name.clone(), any(Type::Listener, l))));
    }

    pub fn set_routes(&self, routes: Vec<RouteConfiguration>) {
        self.set(Type::Route, routes.iter().map(|r| (r.name.clone(), any(Type::Route, r))));
    }

    /// Publishes what was set and sends every stream what changed for it, in the order CDS, EDS, LDS, RDS.
    pub async fn push(&self) {
        self.push_now();
    }

    /// As [`Ads::push`].
    pub fn push_now(&self) {
        self.publish(false);
    }

    /// As [`Ads::push`], but sends everything subscribed whether it changed or not.
    pub async fn push_everything(&self) {
        self.publish(true);
    }

    fn publish(&self, everything: bool) {
        let mut state = self.shared.lock();
        state.version += 1;
        let version = state.version;
        for kind in Type::ALL {
            let url = kind.type_url();
            let staged = state.staged.get(url).cloned().unwrap_or_default();
            if state.published.get(url) != Some(&staged) {
                state.published.insert(url, staged);
                state.changed_at.insert(url, version);
            }
        }
        let streams: Vec<u64> = state.peers.keys().copied().collect();
        for kind in Type::ALL {
            for stream in &streams {
                state.push_to(*stream, kind, everything);
            }
        }
        drop(state);
        self.shared.notify();
    }

    /// Holds back (or lets go) all answers and pushes of a type. What was held back goes out at the next
    /// push after letting go.
    pub fn withhold(&self, kind: Type, hold: bool) {
        let mut state = self.shared.lock();
        if hold {
            state.withheld.insert(kind.type_url())
        } else {
            state.withheld.remove(kind.type_url())
        };
    }

    /// Leaves every resource's version empty, as istiod does, and re-sends everything on a new stream.
    pub fn empty_versions(&self) {
        self.shared.lock().empty_versions = true;
    }

    /// Answers every NACK with the same resources at once, as some servers do.
    pub fn resend_on_nack(&self) {
        self.shared.lock().resend_on_nack = true;
    }

    /// Sends a response of the test's own making on every open state-of-the-world stream.
    pub fn send_sotw(&self, response: DiscoveryResponse) {
        let mut state = self.shared.lock();
        for peer in state.peers.values_mut() {
            if let Outgoing::Sotw(out) = &peer.out {
                let _ = out.send(Ok(response.clone()));
            }
            peer.sent(&response.type_url, &response.nonce);
        }
    }

    /// Sends a response of the test's own making on every open delta stream.
    pub fn send_delta(&self, response: DeltaDiscoveryResponse) {
        let mut state = self.shared.lock();
        for peer in state.peers.values_mut() {
            if let Outgoing::Delta(out) = &peer.out {
                let _ = out.send(Ok(response.clone()));
            }
            peer.sent(&response.type_url, &response.nonce);
        }
    }

    /// Ends every open stream with a status, leaving the connections alone.
    pub fn end_streams(&self, status: &Status) {
        for (_, peer) in std::mem::take(&mut self.shared.lock().peers) {
            match peer.out {
                Outgoing::Sotw(out) => drop(out.send(Err(status.clone()))),
                Outgoing::Delta(out) => drop(out.send(Err(status.clone()))),
            }
        }
    }

    // ---- what was seen ----

    /// Every request since the start.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// Requests of one type.
    pub fn requests_of(&self, kind: Type) -> Vec<Seen> {
        self.shared.lock().seen.iter().filter(|seen| seen.is(kind)).cloned().collect()
    }

    /// The text of the last NACK of a type.
    pub fn last_nack(&self, kind: Type) -> Option<String> {
        self.shared.lock().seen.iter().rev().filter(|seen| seen.is(kind)).find_map(|seen| seen.error.clone())
    }

    /// Streams opened since the start.
    pub fn streams(&self) -> u64 {
        self.shared.lock().streams
    }

    /// Waits until the last response of this type, on the newest stream, has been accepted.
    pub async fn wait_ack(&self, kind: Type) {
        self.wait(&format!("an ACK of {}", kind.label()), |state| {
            state.answer(kind).is_some_and(|a| a.is_ok())
        })
        .await;
    }

    /// Waits until the last response of this type, on the newest stream, has been rejected; its text.
    pub async fn wait_nack(&self, kind: Type) -> String {
        let what = format!("a NACK of {}", kind.label());
        self.wait(&what, |state| state.answer(kind).is_some_and(|answer| answer.is_err())).await;
        self.last_nack(kind).expect("just seen")
    }

    /// Waits for ACKs of the four types that every proxy asks for.
    pub async fn wait_all_acked(&self) {
        for kind in ASKED {
            self.wait_ack(kind).await;
        }
    }

    /// Waits for a request the test recognises.
    pub async fn wait_request(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        self.wait(what, |state| state.seen.iter().any(&wanted)).await;
        self.requests().into_iter().find(|seen| wanted(seen)).expect("just seen")
    }

    /// Waits until this many streams have been opened since the start.
    pub async fn wait_streams(&self, count: u64) {
        self.wait(&format!("stream {count}"), |state| state.streams >= count).await;
    }

    /// Waits until the requests so far satisfy the test.
    pub async fn wait_for(&self, what: &str, done: impl Fn(&[Seen]) -> bool) {
        self.wait(what, |state| done(&state.seen)).await;
    }

    async fn wait(&self, what: &str, mut done: impl FnMut(&State) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let waited = tokio::time::timeout(PATIENCE, async {
            while !done(&self.shared.lock()) {
                changed.changed().await.expect("the server owns the sender");
            }
        });
        if waited.await.is_err() {
            panic!("waited in vain for {what}; requests so far: {:#?}", self.requests());
        }
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Packs a resource under the URL of its type.
pub fn any(kind: Type, message: &impl Message) -> Any {
    Any { type_url: kind.type_url().to_owned(), value: message.encode_to_vec() }
}
