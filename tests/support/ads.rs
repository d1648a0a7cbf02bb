//! A scriptable ADS server: tonic on a thread of its own, state of the world and delta.
//!
//! Tests set resources per type and [`Ads::push`]; the server answers subscriptions as istiod does (a NACK is
//! recorded, not answered; a stale nonce is ignored; the first request of a type always gets an answer) and
//! records every request. It can withhold a type, send raw responses, be killed and come back on the same
//! address. All waits end in a panic that says what was waited for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use mizzen::proto::envoy::config::cluster::v3::Cluster;
use mizzen::proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use mizzen::proto::envoy::config::listener::v3::Listener;
use mizzen::proto::envoy::config::route::v3::RouteConfiguration;
use mizzen::proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mizzen::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
pub use mizzen::xds::types::ResourceType as Type;
use prost::Message;
use prost_types::Any;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// How long a wait may take before it fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

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

/// What the server knows of one type on one stream.
#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    last_nonce: String,
    /// Nonces sent, and the answer to each.
    answers: Vec<(String, Option<Result<(), String>>)>,
    /// What the client holds as far as this server knows: name → encoded resource.
    known: BTreeMap<String, Option<Any>>,
    /// The published version last sent.
    sent_version: u64,
}

enum Outgoing {
    Sotw(mpsc::UnboundedSender<Result<DiscoveryResponse, Status>>),
    Delta(mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>),
}

struct Peer {
    out: Outgoing,
    types: HashMap<&'static str, Subscription>,
}

#[derive(Default)]
struct State {
    staged: HashMap<&'static str, BTreeMap<String, Any>>,
    published: HashMap<&'static str, BTreeMap<String, Any>>,
    /// Per type the version at which its published set last changed.
    changed_at: HashMap<&'static str, u64>,
    version: u64,
    nonces: u64,
    streams: u64,
    peers: BTreeMap<u64, Peer>,
    seen: Vec<Seen>,
    withheld: BTreeSet<&'static str>,
    empty_versions: bool,
    resend_on_nack: bool,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

/// Where the server listens.
#[derive(Clone)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
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

    /// Waits for ACKs of all four types.
    pub async fn wait_all_acked(&self) {
        for kind in Type::ALL {
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

async fn serve(place: Place, service: Service, up: std::sync::mpsc::Sender<Place>) {
    let service = AggregatedDiscoveryServiceServer::new(service).max_decoding_message_size(64 << 20);
    let router = tonic::transport::Server::builder().add_service(service);
    match place {
        Place::Tcp(address) => {
            let listener = tokio::net::TcpListener::bind(address).await.expect("bind");
            let address = listener.local_addr().expect("bound");
            up.send(Place::Tcp(address)).expect("the test waits");
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serve");
        }
        Place::Unix(path) => {
            let _ = std::fs::remove_file(&path);
            let listener = tokio::net::UnixListener::bind(&path).expect("bind");
            up.send(Place::Unix(path)).expect("the test waits");
            router.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("serve");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock held")
    }
    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Peer {
    fn sent(&mut self, type_url: &str, nonce: &str) {
        if let Some(kind) = Type::from_type_url(type_url) {
            let subscription = self.types.entry(kind.type_url()).or_default();
            nonce.clone_into(&mut subscription.last_nonce);
            subscription.answers.push((nonce.to_owned(), None));
        }
    }
}

impl State {
    /// The answer to the last response of a type on the newest stream.
    fn answer(&self, kind: Type) -> Option<&Result<(), String>> {
        let (_, peer) = self.peers.last_key_value()?;
        peer.types.get(kind.type_url())?.answers.last()?.1.as_ref()
    }

    fn on_request(&mut self, stream: u64, seen: Seen) {
        self.seen.push(seen.clone());
        let Some(kind) = Type::from_type_url(&seen.type_url) else { return };
        let Some(peer) = self.peers.get_mut(&stream) else { return };
        let first = !peer.types.contains_key(kind.type_url());
        let subscription = peer.types.entry(kind.type_url()).or_default();
        for (nonce, answer) in &mut subscription.answers {
            if *nonce == seen.nonce {
                *answer = Some(seen.error.clone().map_or(Ok(()), Err));
            }
        }
        if seen.error.is_some() {
            if self.resend_on_nack {
                self.push_to(stream, kind, true);
            }
            return;
        }
        if seen.delta {
            self.on_delta(stream, kind, first, seen);
        } else if first || seen.nonce == subscription.last_nonce {
            let names: BTreeSet<String> = seen.names.into_iter().collect();
            let news = names.difference(&subscription.names).next().is_some();
            subscription.wildcard = names.is_empty() && (first || subscription.wildcard);
            subscription.names = names;
            if first || news {
                self.push_to(stream, kind, true);
            }
        }
    }

    fn on_delta(&mut self, stream: u64, kind: Type, first: bool, seen: Seen) {
        let published = self.published.get(kind.type_url()).cloned().unwrap_or_default();
        let empty = self.empty_versions;
        let Some(subscription) =
            self.peers.get_mut(&stream).and_then(|peer| peer.types.get_mut(kind.type_url()))
        else {
            return;
        };
        subscription.wildcard |= first && seen.names.is_empty();
        for name in &seen.unsubscribe {
            subscription.names.remove(name);
            subscription.known.remove(name);
        }
        for (name, version) in seen.initial_versions {
            let same = published.get(&name).filter(|any| !empty && version_of(any) == version);
            subscription.known.insert(name, same.cloned());
        }
        let added = !seen.names.is_empty();
        for name in seen.names {
            if !first {
                subscription.known.remove(&name);
            }
            subscription.names.insert(name);
        }
        if first || added {
            self.push_to(stream, kind, false);
        }
    }

    /// Sends a stream what it has subscribed of a type: what changed for it, or everything.
    fn push_to(&mut self, stream: u64, kind: Type, everything: bool) {
        let url = kind.type_url();
        if self.withheld.contains(url) {
            return;
        }
        let published = self.published.get(url).cloned().unwrap_or_default();
        let changed_at = self.changed_at.get(url).copied().unwrap_or(0);
        let (version, empty) = (self.version, self.empty_versions);
        let Some(peer) = self.peers.get_mut(&stream) else { return };
        let Some(subscription) = peer.types.get_mut(url) else { return };
        let visible: BTreeMap<String, Any> = published
            .into_iter()
            .filter(|(name, _)| subscription.wildcard || subscription.names.contains(name))
            .collect();
        self.nonces += 1;
        let nonce = format!("nonce-{}", self.nonces);
        match &peer.out {
            Outgoing::Sotw(out) => {
                if !everything && subscription.sent_version >= changed_at {
                    return;
                }
                let resources = visible.values().cloned().collect();
                let type_url = url.to_owned();
                let response = DiscoveryResponse {
                    version_info: version.to_string(),
                    resources,
                    type_url,
                    nonce: nonce.clone(),
                    ..Default::default()
                };
                let _ = out.send(Ok(response));
            }
            Outgoing::Delta(out) => {
                let first = subscription.answers.is_empty();
                let news = |name: &String, any: &Any| {
                    everything || subscription.known.get(name) != Some(&Some(any.clone()))
                };
                let resources: Vec<Resource> = visible
                    .iter()
                    .filter(|(name, any)| news(name, any))
                    .map(|(name, any)| Resource {
                        name: name.clone(),
                        version: if empty { String::new() } else { version_of(any) },
                        resource: Some(any.clone()),
                        ..Default::default()
                    })
                    .collect();
                let removed: Vec<String> =
                    subscription.known.keys().filter(|name| !visible.contains_key(*name)).cloned().collect();
                if resources.is_empty() && removed.is_empty() && !everything && !first {
                    return;
                }
                let response = DeltaDiscoveryResponse {
                    system_version_info: version.to_string(),
                    resources,
                    removed_resources: removed,
                    type_url: url.to_owned(),
                    nonce: nonce.clone(),
                    ..Default::default()
                };
                subscription.known = visible.into_iter().map(|(name, any)| (name, Some(any))).collect();
                let _ = out.send(Ok(response));
            }
        }
        subscription.sent_version = version;
        peer.sent(url, &nonce);
    }
}

/// A version that follows from the content, so that it survives a restart of the server.
fn version_of(any: &Any) -> String {
    format!("{:016x}", mizzen::util::hash::xxh64(&any.value, 0))
}

/// The gRPC service.
struct Service(Shared);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    fn open(&self, out: Outgoing) -> u64 {
        let mut state = self.0.lock();
        state.streams += 1;
        let stream = state.streams;
        state.peers.insert(stream, Peer { out, types: HashMap::new() });
        drop(state);
        self.0.notify();
        stream
    }

    /// Reads requests until the client is gone.
    fn read<R: Send + 'static>(
        &self,
        stream: u64,
        mut requests: Streaming<R>,
        convert: impl Fn(R) -> Seen + Send + 'static,
    ) {
        let shared = self.0.clone();
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                shared.lock().on_request(stream, Seen { stream, ..convert(request) });
                shared.notify();
            }
            shared.lock().peers.remove(&stream);
            shared.notify();
        });
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (out, answers) = mpsc::unbounded_channel();
        let stream = self.open(Outgoing::Sotw(out));
        self.read(stream, request.into_inner(), |request| Seen {
            with_node: request.node.is_some(),
            node_id: request.node.map(|node| node.id).unwrap_or_default(),
            type_url: request.type_url,
            nonce: request.response_nonce,
            error_code: request.error_detail.as_ref().map_or(0, |error| error.code),
            error: request.error_detail.map(|error| error.message),
            version: request.version_info,
            names: request.resource_names,
            ..Seen::default()
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (out, answers) = mpsc::unbounded_channel();
        let stream = self.open(Outgoing::Delta(out));
        self.read(stream, request.into_inner(), |request| Seen {
            delta: true,
            with_node: request.node.is_some(),
            node_id: request.node.map(|node| node.id).unwrap_or_default(),
            type_url: request.type_url,
            nonce: request.response_nonce,
            error_code: request.error_detail.as_ref().map_or(0, |error| error.code),
            error: request.error_detail.map(|error| error.message),
            names: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial_versions: request.initial_resource_versions.into_iter().collect(),
            ..Seen::default()
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }
}
