//! A small ADS server: both variants of the protocol, resources per proxy, on a thread of its own.
//!
//! Takes in publications; gives out what every proxy has answered. It can be killed (the port closes, every
//! connection is cut) and come back on the same port with what was published. The protocol is in `session`.

use self::session::{Names, Request, Response, Session};
use super::resources::{Resources, Versioned};
use crate::proto::envoy::service::discovery::v3 as pb;
use crate::xds::types::ResourceType;
use pb::aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Status, Streaming};

mod session;

/// Responses that may wait for a slow client before the session stops reading it.
const OUTBOX: usize = 16;

/// Everything that is served: a counter, and resources by node id.
#[derive(Clone, Debug, Default)]
struct Published {
    version: u64,
    nodes: BTreeMap<String, Arc<Resources>>,
}

/// How a proxy stands.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Whether it has a stream open.
    pub connected: bool,
    /// The publication it has been sent last.
    pub version: u64,
    /// Responses it has not answered yet.
    pub unanswered: usize,
    /// What it refused, in order of arrival.
    pub nacks: Vec<Nack>,
}

impl Standing {
    /// Whether it has answered everything up to a publication.
    pub fn has_answered(&self, version: u64) -> bool {
        self.connected && self.version >= version && self.unanswered == 0
    }
}

/// A refusal, word for word.
#[derive(Clone, Debug)]
pub struct Nack {
    pub kind: ResourceType,
    pub text: String,
}

/// Standings by node id.
pub type Ledger = BTreeMap<String, Standing>;

/// The server. Dropping it kills it.
pub struct ControlPlane {
    address: SocketAddr,
    published: watch::Sender<Published>,
    ledger: watch::Sender<Ledger>,
    running: Option<(oneshot::Sender<()>, JoinHandle<io::Result<()>>)>,
}

impl ControlPlane {
    /// Listens on `address` (port 0: a free one).
    ///
    /// # Errors
    /// The address or a thread cannot be had.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        let (published, ledger) = (watch::Sender::default(), watch::Sender::default());
        let mut plane = ControlPlane { address, published, ledger, running: None };
        plane.revive()?;
        Ok(plane)
    }

    /// Where it listens, also while it is dead.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces what `node` is served and sends it what changed. Gives the number of the publication.
    pub fn publish(&self, node: &str, resources: Resources) -> u64 {
        let mut version = 0;
        self.published.send_modify(|published| {
            published.version += 1;
            version = published.version;
            published.nodes.insert(node.to_owned(), Arc::new(resources));
        });
        version
    }

    /// Answers, as they come in.
    pub fn ledger(&self) -> watch::Receiver<Ledger> {
        self.ledger.subscribe()
    }

    /// Closes the port and cuts every connection. Returns when both have happened.
    pub fn kill(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
            self.ledger.send_modify(|ledger| {
                for standing in ledger.values_mut() {
                    (standing.connected, standing.unanswered) = (false, 0);
                }
            });
        }
    }

    /// Comes up again where it was.
    ///
    /// # Errors
    /// The port has been taken meanwhile.
    pub fn revive(&mut self) -> io::Result<()> {
        self.kill();
        let listener = TcpListener::bind(self.address)?;
        self.address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let service = Service { published: self.published.subscribe(), ledger: self.ledger.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("control-plane".into()).spawn(move || {
            // Dropping the runtime drops the tasks of all connections, and with them their sockets.
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, service) => served,
                    _ = stopped => Ok(()),
                }
            })
        })?;
        self.running = Some((stop, thread));
        Ok(())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(listener: TcpListener, service: Service) -> io::Result<()> {
    let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?);
    let service = AggregatedDiscoveryServiceServer::new(service);
    let server = tonic::transport::Server::builder().add_service(service);
    server.serve_with_incoming(incoming).await.map_err(io::Error::other)
}

#[derive(Clone)]
struct Service {
    published: watch::Receiver<Published>,
    ledger: watch::Sender<Ledger>,
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<pb::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<pb::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(self.open(false, request.into_inner(), from_sotw, to_sotw))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.open(true, request.into_inner(), from_delta, to_delta))
    }
}

impl Service {
    /// Starts a stream's task.
    fn open<I: Send + 'static, O: Send + 'static>(
        &self,
        delta: bool,
        requests: Streaming<I>,
        read: fn(I) -> Option<Request>,
        write: fn(Response) -> O,
    ) -> tonic::Response<Answers<O>> {
        let (out, answers) = mpsc::channel(OUTBOX);
        let (service, session) = (self.clone(), Session::new(delta));
        tokio::spawn(async move { service.converse(session, requests, read, write, out).await });
        tonic::Response::new(ReceiverStream::new(answers))
    }

    /// One stream from its first request to its end.
    async fn converse<I, O>(
        mut self,
        mut session: Session,
        mut requests: Streaming<I>,
        read: fn(I) -> Option<Request>,
        write: fn(Response) -> O,
        out: mpsc::Sender<Result<O, Status>>,
    ) {
        let mut node: Option<String> = None;
        loop {
            let mut responses = Vec::new();
            tokio::select! {
                request = requests.message() => {
                    let Ok(Some(request)) = request else { break };
                    // A type that is not served gets no answer, as the protocol has it.
                    let Some(request) = read(request) else { continue };
                    if node.is_none() {
                        node.clone_from(&request.node);
                        responses.extend(self.current(&node, &mut session));
                    }
                    self.note_nack(&node, &request);
                    responses.extend(session.on_request(request));
                }
                changed = self.published.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    responses.extend(self.current(&node, &mut session));
                }
            }
            // Before the response leaves, so that its answer finds it in the books.
            self.note(&node, &session, true);
            for response in responses {
                if out.send(Ok(write(response))).await.is_err() {
                    break;
                }
            }
        }
        self.note(&node, &session, false);
    }

    fn current(&mut self, node: &Option<String>, session: &mut Session) -> Vec<Response> {
        let published = self.published.borrow_and_update().clone();
        let resources = node.as_ref().and_then(|node| published.nodes.get(node)).cloned();
        session.on_publication(published.version, resources.unwrap_or_default())
    }

    fn note(&self, node: &Option<String>, session: &Session, connected: bool) {
        let Some(node) = node else { return };
        self.ledger.send_modify(|ledger| {
            let standing = ledger.entry(node.clone()).or_default();
            (standing.connected, standing.version) = (connected, session.version());
            standing.unanswered = session.unanswered();
        });
    }

    fn note_nack(&self, node: &Option<String>, request: &Request) {
        let (Some(node), Some(text)) = (node, &request.error) else { return };
        let nack = Nack { kind: request.kind, text: text.clone() };
        self.ledger.send_modify(|ledger| ledger.entry(node.clone()).or_default().nacks.push(nack));
    }
}

fn from_sotw(request: pb::DiscoveryRequest) -> Option<Request> {
    Some(Request {
        kind: ResourceType::from_type_url(&request.type_url)?,
        node: request.node.map(|node| node.id),
        nonce: request.response_nonce,
        error: request.error_detail.map(|error| error.message),
        names: Names::All(request.resource_names.into_iter().collect()),
    })
}

fn from_delta(request: pb::DeltaDiscoveryRequest) -> Option<Request> {
    Some(Request {
        kind: ResourceType::from_type_url(&request.type_url)?,
        node: request.node.map(|node| node.id),
        nonce: request.response_nonce,
        error: request.error_detail.map(|error| error.message),
        names: Names::Changes {
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            held: request.initial_resource_versions,
        },
    })
}

fn to_sotw(response: Response) -> pb::DiscoveryResponse {
    pb::DiscoveryResponse {
        version_info: response.version.to_string(),
        type_url: response.kind.type_url().to_owned(),
        nonce: response.nonce,
        resources: response.resources.into_iter().map(|(_, of)| of.any).collect(),
        ..Default::default()
    }
}

fn to_delta(response: Response) -> pb::DeltaDiscoveryResponse {
    let resource = |(name, Versioned { version, any })| pb::Resource {
        name,
        version,
        resource: Some(any),
        ..Default::default()
    };
    pb::DeltaDiscoveryResponse {
        system_version_info: response.version.to_string(),
        type_url: response.kind.type_url().to_owned(),
        nonce: response.nonce,
        resources: response.resources.into_iter().map(resource).collect(),
        removed_resources: response.removed,
        ..Default::default()
    }
}
