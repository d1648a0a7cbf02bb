//! The server's side of the protocol: what each stream has subscribed, what it gets, what it answered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use mizzen::proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mizzen::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use prost_types::Any;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{Seen, Type};

/// What the server knows of one type on one stream.
#[derive(Debug, Default)]
pub struct Subscription {
    pub wildcard: bool,
    pub names: BTreeSet<String>,
    pub last_nonce: String,
    /// Nonces sent, and the answer to each.
    pub answers: Vec<(String, Option<Result<(), String>>)>,
    /// What the client holds as far as this server knows: name → encoded resource.
    pub known: BTreeMap<String, Option<Any>>,
    /// The published version last sent.
    pub sent_version: u64,
}

pub enum Outgoing {
    Sotw(mpsc::UnboundedSender<Result<DiscoveryResponse, Status>>),
    Delta(mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>),
}

pub struct Peer {
    pub out: Outgoing,
    pub types: HashMap<&'static str, Subscription>,
}

#[derive(Default)]
pub struct State {
    pub staged: HashMap<&'static str, BTreeMap<String, Any>>,
    pub published: HashMap<&'static str, BTreeMap<String, Any>>,
    /// Per type the version at which its published set last changed.
    pub changed_at: HashMap<&'static str, u64>,
    pub version: u64,
    pub nonces: u64,
    pub streams: u64,
    pub peers: BTreeMap<u64, Peer>,
    pub seen: Vec<Seen>,
    pub withheld: BTreeSet<&'static str>,
    pub empty_versions: bool,
    pub resend_on_nack: bool,
}

#[derive(Clone)]
pub struct Shared {
    pub state: Arc<Mutex<State>>,
    pub changed: Arc<watch::Sender<u64>>,
}

/// Where the server listens.
#[derive(Clone)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub async fn serve(place: Place, service: Service, up: std::sync::mpsc::Sender<Place>) {
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
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock held")
    }
    pub fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Peer {
    pub fn sent(&mut self, type_url: &str, nonce: &str) {
        if let Some(kind) = Type::from_type_url(type_url) {
            let subscription = self.types.entry(kind.type_url()).or_default();
            nonce.clone_into(&mut subscription.last_nonce);
            subscription.answers.push((nonce.to_owned(), None));
        }
    }
}

impl State {
    /// The answer to the last response of a type on the newest stream.
    pub fn answer(&self, kind: Type) -> Option<&Result<(), String>> {
        let (_, peer) = self.peers.last_key_value()?;
        peer.types.get(kind.type_url())?.answers.last()?.1.as_ref()
    }

    pub fn on_request(&mut self, stream: u64, seen: Seen) {
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
    pub fn push_to(&mut self, stream: u64, kind: Type, everything: bool) {
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
pub struct Service(pub Shared);

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
