//! The HTTP server: limits, access rules, dispatch.

use super::access::{self, Refusal};
use super::io::Stalling;
use super::query::Params;
use super::reply::{self, Reply};
use super::source::{Ask, ServerState, Source};
use super::{envoy, explain, mosn};
use crate::telemetry::{Computed, Scope, SharedCounter, Value};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Connections at a time; more are told 503.
const CONNECTIONS: usize = 64;
/// Bytes of a request's head.
const HEAD: usize = 8 * 1024;
/// Bytes of a request's body, for the one call that reads one.
const BODY: usize = 64 * 1024;
/// Dumps written at a time.
const DUMPS: usize = 2;
/// How long a dump waits for its turn, and a question for its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a head may take, idle connections included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause when the process is out of file descriptors.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 21\r\nconnection: close\r\n\r\n\
    too many connections\n";

/// Why the admin cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("admin address {address}")]
pub struct BindError {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// A bound admin server.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    context: Arc<Context>,
}

/// What handlers work with.
pub struct Context {
    pub source: Source,
    bound_name: Option<String>,
    dumps: Arc<Semaphore>,
    /// Requests refused by an access rule and connections over the limit.
    refused: Arc<SharedCounter>,
}

impl Server {
    /// Binds `address`; `bound_name` is the host name it was configured with, if it was one. Must be called
    /// inside the runtime that will serve.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(
        address: SocketAddr,
        bound_name: Option<String>,
        source: Source,
    ) -> Result<Server, BindError> {
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the admin has no password and is not bound to loopback");
        }
        let refused = Arc::<SharedCounter>::default();
        provide_server_gauges(&source, refused.clone());
        let dumps = Arc::new(Semaphore::new(DUMPS));
        let context = Arc::new(Context { source, bound_name, dumps, refused });
        Ok(Server { listener, address, context })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the future is dropped; open connections then end by themselves.
    pub async fn serve(self) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::debug!(error = %e, "admin accept");
                    tokio::time::sleep(NO_DESCRIPTORS).await;
                    continue;
                }
            };
            match slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    tokio::spawn(serve_connection(stream, self.context.clone(), slot));
                }
                Err(_) => {
                    self.context.refused.inc();
                    // Into an empty socket buffer this fits; if not, the close says enough.
                    let _ = stream.try_write(FULL);
                }
            }
        }
    }
}

/// `server.state`, `server.live` and what was refused, read off when asked for.
fn provide_server_gauges(source: &Source, refused: Arc<SharedCounter>) {
    let lifecycle = source.lifecycle.clone();
    source.registry.provide(Box::new(move || {
        let state = lifecycle.discovery();
        let live = lifecycle.shown() == ServerState::Live;
        let refused = refused.get();
        let group = Computed(move |out: &mut dyn FnMut(&str, Value)| {
            out("state", Value::Gauge(Some(state as i64)));
            out("live", Value::Gauge(Some(i64::from(live))));
            out("admin_refused", Value::Counter(refused));
        });
        vec![(Scope::server(), Box::new(group))]
    }));
}

async fn serve_connection(stream: TcpStream, context: Arc<Context>, slot: OwnedSemaphorePermit) {
    let service = service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(context.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(Stalling::new(stream)), service);
    if let Err(e) = connection.await {
        tracing::debug!(error = %e, "admin connection");
    }
    drop(slot);
}

impl Context {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        if let Err(refusal) = access::check(&head.headers, head.version, self.bound_name.as_deref()) {
            self.refused.inc();
            return refuse(refusal);
        }
        let path = head.uri.path();
        let params = Params::parse(head.uri.query());
        if let Some(reply) = envoy::answer(self, &head.method, path, &params).await {
            return reply;
        }
        if let Some(reply) = explain::answer(self, &head.method, path, &params) {
            return reply;
        }
        let read = async || Some(Limited::new(body, BODY).collect().await.ok()?.to_bytes().to_vec());
        match mosn::answer(self, &head.method, path, &params, read).await {
            Some(reply) => reply,
            None => reply::text(StatusCode::NOT_FOUND, format!("invalid path. {}", envoy::help())),
        }
    }

    /// A turn to write a dump; dropped when it is written.
    ///
    /// # Errors
    /// The reply to give when no turn came in time.
    pub async fn dump_permit(&self) -> Result<OwnedSemaphorePermit, Reply> {
        match tokio::time::timeout(PATIENCE, self.dumps.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                self.refused.inc();
                let busy = "two dumps are being written, try again later\n";
                Err(reply::text(StatusCode::SERVICE_UNAVAILABLE, busy))
            }
        }
    }

    /// Asks another thread.
    ///
    /// # Errors
    /// The reply to give when no answer came in time.
    pub async fn ask<T>(&self, ask: &Ask<T>) -> Result<T, Reply> {
        let (sender, answer) = oneshot::channel();
        ask(sender);
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => {
                Err(reply::text(StatusCode::SERVICE_UNAVAILABLE, "no answer from inside, try again later\n"))
            }
        }
    }
}

fn refuse(refusal: Refusal) -> Reply {
    match refusal {
        Refusal::NoHost => reply::text(StatusCode::BAD_REQUEST, "Host is missing\n"),
        Refusal::ForeignHost => {
            reply::text(StatusCode::FORBIDDEN, "Host must be an IP address, localhost or the bound name\n")
        }
        Refusal::CrossSite => reply::text(StatusCode::FORBIDDEN, "cross-site request\n"),
    }
}
