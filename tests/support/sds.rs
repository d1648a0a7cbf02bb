//! A secret discovery service that serves what the test puts into it.

use super::pki::{Ca, Leaf};
use mizzen::proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use mizzen::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use mizzen::proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone, Default)]
struct State {
    secrets: Arc<Mutex<HashMap<String, (u64, Secret)>>>,
    nacks: Arc<Mutex<Vec<(String, String)>>>,
}

/// See the module.
pub struct SdsServer {
    address: Option<SocketAddr>,
    state: State,
    changes: watch::Sender<u64>,
    task: tokio::task::JoinHandle<()>,
}

struct Service {
    state: State,
    changes: watch::Receiver<u64>,
}

impl SdsServer {
    /// On a port of its own, empty.
    pub fn start() -> SdsServer {
        SdsServer::on("127.0.0.1:0".parse().unwrap())
    }

    fn on(address: SocketAddr) -> SdsServer {
        let socket = std::net::TcpListener::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        SdsServer::serving(Some(address), |router| async move {
            let socket = TcpListenerStream::new(tokio::net::TcpListener::from_std(socket).unwrap());
            router.serve_with_incoming(socket).await.unwrap();
        })
    }

    /// On a Unix socket, empty.
    pub fn start_unix(path: &Path) -> SdsServer {
        let _ = std::fs::remove_file(path);
        let socket = tokio::net::UnixListener::bind(path).unwrap();
        SdsServer::serving(None, |router| async move {
            router.serve_with_incoming(UnixListenerStream::new(socket)).await.unwrap();
        })
    }

    fn serving<F>(address: Option<SocketAddr>, serve: impl FnOnce(Router) -> F) -> SdsServer
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (changes, seen) = watch::channel(0);
        let state = State::default();
        let service = Service { state: state.clone(), changes: seen };
        let router =
            tonic::transport::Server::builder().add_service(SecretDiscoveryServiceServer::new(service));
        SdsServer { address, state, changes, task: tokio::spawn(serve(router)) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address.expect("on TCP")
    }

    /// Ends every stream; a new server on the same port has nothing.
    pub async fn gone(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address.expect("on TCP")
    }

    fn put(&self, name: &str, content: &Value) {
        let mut all = json!({"name": name});
        all.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
        let secret: Secret = super::resources::message(&all);
        let mut version = 0;
        self.changes.send_modify(|next| {
            *next += 1;
            version = *next;
        });
        self.state.secrets.lock().unwrap().insert(name.to_owned(), (version, secret));
        self.changes.send_modify(|next| *next += 1);
    }

    pub fn certificate(&self, name: &str, leaf: &Leaf) {
        self.put(
            name,
            &json!({"tls_certificate": {"certificate_chain": {"inline_string": leaf.chain},
            "private_key": {"inline_string": leaf.key}}}),
        );
    }

    pub fn roots(&self, name: &str, cas: &[&Ca]) {
        let bundle: String = cas.iter().map(|ca| ca.pem.as_str()).collect();
        self.put(name, &json!({"validation_context": {"trusted_ca": {"inline_string": bundle}}}));
    }

    /// Waits until `name` was refused with `part` in the reason.
    pub async fn wait_nack(&self, name: &str, part: &str) {
        super::proxy::wait_until("a NACK of the secret", || {
            let nacks = self.state.nacks.lock().unwrap();
            nacks.iter().any(|(of, why)| of == name && why.contains(part))
        })
        .await;
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type StreamSecretsStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let mut requests = request.into_inner();
        let (out, answers) = mpsc::channel(16);
        let (state, mut changes) = (self.state.clone(), self.changes.clone());
        tokio::spawn(async move {
            let Ok(Some(first)) = requests.message().await else { return };
            let name = first.resource_names.first().cloned().unwrap_or_default();
            assert!(first.resource_names.len() == 1 && first.node.is_some(), "one secret, with the node");
            let mut sent = 0;
            loop {
                changes.mark_unchanged();
                let current = state.secrets.lock().unwrap().get(&name).cloned();
                if let Some((version, secret)) = current
                    && version > sent
                {
                    sent = version;
                    let response = DiscoveryResponse {
                        version_info: version.to_string(),
                        nonce: format!("n{version}"),
                        type_url: first.type_url.clone(),
                        resources: vec![mizzen::proto::pack(&secret)],
                        ..DiscoveryResponse::default()
                    };
                    if out.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    request = requests.message() => match request {
                        Ok(Some(request)) => {
                            assert!(request.node.is_none(), "the node goes with the first request only");
                            if let Some(error) = request.error_detail {
                                state.nacks.lock().unwrap().push((name.clone(), error.message));
                            }
                        }
                        _ => return,
                    },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// Time for the port to be free again.
pub const PAUSE: Duration = Duration::from_millis(20);

impl SdsServer {
    /// The same port, nothing in it, all streams ended.
    pub async fn restarted(self) -> SdsServer {
        let address = self.gone().await;
        for _ in 0..500 {
            if std::net::TcpListener::bind(address).is_ok() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        SdsServer::on(address)
    }
}
