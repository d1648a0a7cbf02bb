//! One gRPC stream over HTTP/2, plain or within TLS: sockets, names, headers, keepalive.
//!
//! Connects to the first address that answers (names are resolved anew for every attempt), speaks HTTP/2
//! through tonic's channel, and cuts the body into messages itself: tonic's decoder would keep a buffer of
//! the largest message for as long as the stream lives. A channel carries one aggregated stream, or one per type,
//! and is dropped with it: when one of them ends all do, so nothing reconnects behind our back.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::client::{AdsConnect, AdsStream};
use super::state::Variant;
use super::types::ResourceType;
use super::wire::{Framer, Message, frame};
use crate::tls;

/// Requests a server may leave unread before the stream counts as stuck.
const UNSENT_REQUESTS: usize = 4096;
/// Flow-control window of the stream and its connection: a 10 MB push in a few round trips, and the most
/// that lies unread when the inbox is full.
const WINDOW: u32 = 1024 * 1024;

/// Where a control plane listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A name, resolved by the system at each attempt; all its addresses are tried.
    Dns {
        /// The host name.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// Which service is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// All types on one stream.
    Aggregated,
    /// Secrets alone, state of the world.
    Secrets,
}

/// How to reach the control plane.
#[derive(Debug, Clone)]
pub struct AdsConfig {
    /// Tried in this order, from one further at each attempt.
    pub addresses: Vec<Address>,
    /// Which of the two streams to open.
    pub variant: Variant,
    /// A stream per type, of the types' own services, instead of one aggregated stream.
    pub split: bool,
    /// What is asked there.
    pub service: Asked,
    /// `:authority` of the requests.
    pub authority: String,
    /// Further headers (`initial_metadata`).
    pub metadata: Vec<(String, String)>,
    /// What the connection is encrypted by, and what is asked for; `None`: plaintext.
    pub tls: Option<(Arc<tls::Client>, tls::Wish)>,
    /// For the name, and again for each connection.
    pub connect_timeout: Duration,
    /// Silence after which a PING is sent, also without traffic.
    pub ping_interval: Duration,
    /// How long its answer may take.
    pub ping_timeout: Duration,
    /// First window of the backoff.
    pub backoff_base: Duration,
    /// Its widest window.
    pub backoff_cap: Duration,
    /// Largest response in bytes.
    pub max_message: usize,
}

impl AdsConfig {
    /// The defaults: connect 5 s, PING every 30 s answered within 10 s (an Istio agent punishes less than
    /// 15 s), full jitter from 0.5 to 30 s, responses up to 512 MB.
    #[must_use]
    pub fn new(addresses: Vec<Address>, variant: Variant) -> Self {
        Self {
            addresses,
            variant,
            split: false,
            service: Asked::Aggregated,
            authority: "xds".to_owned(),
            metadata: Vec::new(),
            tls: None,
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
            backoff_base: Duration::from_millis(500),
            backoff_cap: Duration::from_secs(30),
            max_message: 512 * 1024 * 1024,
        }
    }

    /// The method of the stream that requests about `kind` go to.
    const fn path(&self, kind: ResourceType) -> &'static str {
        const AGGREGATED: (&str, &str) = (
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        );
        let methods = if self.split { kind.methods() } else { AGGREGATED };
        match self.variant {
            _ if matches!(self.service, Asked::Secrets) => {
                "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
            }
            Variant::Sotw => methods.0,
            Variant::Delta => methods.1,
        }
    }

    fn endpoint(&self) -> Result<Endpoint, String> {
        let uri =
            Uri::builder().scheme("http").authority(self.authority.as_str()).path_and_query("/").build();
        let uri = uri.map_err(|error| format!("authority {}: {error}", self.authority))?;
        Ok(Endpoint::from(uri)
            .connect_timeout(self.connect_timeout)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_keep_alive_interval(self.ping_interval)
            .keep_alive_timeout(self.ping_timeout)
            .keep_alive_while_idle(true))
    }

    fn request(&self, path: &str, body: Body) -> Result<Request<Body>, String> {
        let mut request = Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in &self.metadata {
            request = request.header(name, value);
        }
        request.body(body).map_err(|error| format!("request headers: {error}"))
    }
}

/// Opens streams to one control plane.
#[derive(Debug)]
pub struct GrpcConnector {
    config: AdsConfig,
    attempts: usize,
}

impl GrpcConnector {
    /// Opens nothing yet.
    #[must_use]
    pub const fn new(config: AdsConfig) -> Self {
        Self { config, attempts: 0 }
    }

    async fn channel(&mut self) -> Result<Channel, String> {
        let endpoint = self.config.endpoint()?;
        let count = self.config.addresses.len();
        let first = self.attempts % count.max(1);
        self.attempts += 1;
        let mut failures = String::new();
        for address in self.config.addresses.iter().cycle().skip(first).take(count) {
            match dial(address, &endpoint, &self.config).await {
                Ok(channel) => return Ok(channel),
                Err(why) => {
                    let separator = if failures.is_empty() { "" } else { "; " };
                    let _ = write!(failures, "{separator}{why}");
                }
            }
        }
        Err(if failures.is_empty() { "no address to connect to".to_owned() } else { failures })
    }
}

impl AdsConnect for GrpcConnector {
    type Stream = GrpcStream;

    async fn connect(&mut self) -> Result<GrpcStream, String> {
        let channel = self.channel().await?;
        Ok(GrpcStream { config: self.config.clone(), channel, calls: Vec::new(), turn: 0, waiting: None })
    }
}

/// One attempt on one address, or on each address of a name.
async fn dial(address: &Address, endpoint: &Endpoint, config: &AdsConfig) -> Result<Channel, String> {
    let limit = config.connect_timeout;
    match address {
        Address::Unix(path) => {
            let socket = within(limit, UnixStream::connect(path)).await;
            let socket = socket.map_err(|error| format!("{}: {error}", path.display()))?;
            open(endpoint, socket, None, config).await.map_err(|why| format!("{}: {why}", path.display()))
        }
        Address::Socket(address) => dial_tcp(*address, endpoint, config).await,
        Address::Dns { host, port } => {
            let found = within(limit, tokio::net::lookup_host((host.as_str(), *port))).await;
            let found: Vec<_> = found.map_err(|error| format!("{host}: {error}"))?.collect();
            let mut last = format!("{host}: no address");
            for address in found {
                match dial_tcp(address, endpoint, config).await {
                    Ok(channel) => return Ok(channel),
                    Err(why) => last = format!("{host}: {why}"),
                }
            }
            Err(last)
        }
    }
}

async fn dial_tcp(address: SocketAddr, endpoint: &Endpoint, config: &AdsConfig) -> Result<Channel, String> {
    let socket = within(config.connect_timeout, TcpStream::connect(address)).await;
    let socket = socket.map_err(|error| format!("{address}: {error}"))?;
    // Small requests must not wait for one another. A socket that refuses the option still works.
    let _ = socket.set_nodelay(true);
    open(endpoint, socket, Some(address.ip()), config).await.map_err(|why| format!("{address}: {why}"))
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "timed out")))
}

/// Encrypts a connected socket, if it is to be, and starts HTTP/2 on it.
async fn open<S>(
    endpoint: &Endpoint,
    socket: S,
    ip: Option<IpAddr>,
    config: &AdsConfig,
) -> Result<Channel, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let Some((context, wish)) = &config.tls else { return start(endpoint, socket).await };
    let shaken = timeout(config.connect_timeout, context.connect(socket, wish, ip)).await;
    let (stream, _session) =
        shaken.unwrap_or(Err(tls::TlsError::Timeout)).map_err(|error| error.to_string())?;
    start(endpoint, stream).await
}

async fn start<S>(endpoint: &Endpoint, socket: S) -> Result<Channel, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let connector = Once(Some(TokioIo::new(socket)));
    endpoint.connect_with_connector(connector).await.map_err(|error| chain(&error))
}

/// A connector that gives its one socket once: a channel that lost it fails instead of reconnecting.
struct Once<T>(Option<T>);

impl<T: Send + 'static> Service<Uri> for Once<T> {
    type Response = T;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<T>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the connection is gone");
        std::future::ready(self.0.take().ok_or_else(gone))
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Response<Body>, tonic::transport::Error>> + Send>>;

/// What one connection carries: the aggregated stream, or one for each type that was asked for.
pub struct GrpcStream {
    config: AdsConfig,
    channel: Channel,
    /// Open streams, in the order in which they were first needed.
    calls: Vec<Call>,
    /// Which of them is looked at first.
    turn: usize,
    /// Whoever polls before there is a stream.
    waiting: Option<Waker>,
}

/// One stream.
struct Call {
    path: &'static str,
    requests: mpsc::Sender<Bytes>,
    state: State,
    framer: Framer,
}

#[expect(clippy::large_enum_variant, reason = "a few in a process")]
enum State {
    /// Not sent yet: the connection has to be ready first.
    New(Channel, Request<Body>),
    /// No response headers yet: many servers send them with the first message only.
    Opening(Opening),
    Open(Body),
    Failed,
}

impl AdsStream for GrpcStream {
    fn send(&mut self, kind: ResourceType, request: Bytes) -> Result<(), String> {
        let path = self.config.path(kind);
        let at = self.calls.iter().position(|call| call.path == path);
        if at.is_none() {
            self.calls.push(Call::new(&self.config, path, self.channel.clone())?);
            if let Some(waiting) = self.waiting.take() {
                waiting.wake();
            }
        }
        let call = match at {
            Some(at) => self.calls.get(at),
            None => self.calls.last(),
        };
        call.map_or(Ok(()), |call| call.send(&request))
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, String>> {
        if self.calls.is_empty() {
            self.waiting = Some(cx.waker().clone());
        }
        let count = self.calls.len();
        for at in (0..count).map(|i| (i + self.turn) % count) {
            let Some(call) = self.calls.get_mut(at) else { continue };
            if let Poll::Ready(response) = call.poll_response(cx) {
                // The others are looked at before this one again.
                self.turn = at + 1;
                return Poll::Ready(response);
            }
        }
        Poll::Pending
    }
}

impl Call {
    fn new(config: &AdsConfig, path: &'static str, channel: Channel) -> Result<Self, String> {
        let (requests, queue) = mpsc::channel(UNSENT_REQUESTS);
        let frames = ReceiverStream::new(queue).map(|bytes: Bytes| Ok::<_, Status>(Frame::data(bytes)));
        let request = config.request(path, Body::new(StreamBody::new(frames)))?;
        let framer = Framer::new(config.max_message);
        Ok(Call { path, requests, state: State::New(channel, request), framer })
    }

    fn send(&self, request: &Bytes) -> Result<(), String> {
        self.requests.try_send(frame(request)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                format!("the control plane left {UNSENT_REQUESTS} requests unread")
            }
            mpsc::error::TrySendError::Closed(_) => "the connection is closed".to_owned(),
        })
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, String>> {
        loop {
            match &mut self.state {
                State::New(channel, _) => {
                    ready!(channel.poll_ready(cx)).map_err(|error| chain(&error))?;
                    if let State::New(mut channel, request) =
                        std::mem::replace(&mut self.state, State::Failed)
                    {
                        self.state = State::Opening(Box::pin(channel.call(request)));
                    }
                }
                State::Opening(opening) => {
                    let response = ready!(opening.as_mut().poll(cx)).map_err(|error| chain(&error))?;
                    check_head(&response)?;
                    self.state = State::Open(response.into_body());
                }
                State::Open(body) => {
                    if let Some(message) = self.framer.next_message()? {
                        return Poll::Ready(Ok(Some(message)));
                    }
                    match ready!(Pin::new(body).poll_frame(cx)) {
                        None => return Poll::Ready(Ok(None)),
                        Some(Err(status)) => return Poll::Ready(Err(describe(&status))),
                        Some(Ok(part)) => match part.into_data() {
                            Ok(data) => self.framer.push(data),
                            Err(part) => return Poll::Ready(ended(part.trailers_ref())),
                        },
                    }
                }
                State::Failed => return Poll::Ready(Err("the stream is over".to_owned())),
            }
        }
    }
}

/// An answer that is not gRPC, or a refusal in the headers.
fn check_head(response: &Response<Body>) -> Result<(), String> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != tonic::Code::Ok => return Err(describe(&status)),
        _ => {}
    }
    if response.status() != http::StatusCode::OK {
        return Err(format!("the control plane answered with HTTP status {}", response.status().as_u16()));
    }
    Ok(())
}

/// The trailers end the stream, in good order or not.
fn ended(trailers: Option<&http::HeaderMap>) -> Result<Option<Message>, String> {
    match trailers.and_then(Status::from_header_map) {
        Some(status) if status.code() != tonic::Code::Ok => Err(describe(&status)),
        _ => Ok(None),
    }
}

/// `Unavailable: message`.
fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// An error with its causes, innermost last, each once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !out.contains(&text) {
            let _ = write!(out, ": {text}");
        }
        cause = error.source();
    }
    out
}
