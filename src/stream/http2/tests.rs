//! Whole streams over loopback sockets: an h2 client, a connection served by a hand-made snapshot, h2 servers.
//! What they are made of also serves the tests of HTTP/1.

mod convert;
mod drain;
mod drip;
mod life;
mod limits;
mod streams;

use super::*;
use crate::cluster::{BreakerState, ClusterEntry, ClusterSlot, ClusterSpec, Env};
use crate::filter::Chain;
use crate::model::*;
use crate::net::{PeerAddress, ReadPool, Wheel};
use crate::router::{CompiledHost, RouteTable};
use crate::snapshot::{ChainSpec, Snapshot, View};
use crate::stream::serve_sniffed;
use crate::telemetry::{Registry, Scope};
use crate::util::random::Random;
use bytes::BytesMut;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// A proxy of one listener; every accepted connection is served by its chain.
pub(in crate::stream) struct Proxy {
    pub(in crate::stream) address: SocketAddr,
    pub(in crate::stream) local: Rc<Local>,
    handles: Rc<RefCell<Vec<Rc<Handle>>>>,
}

pub(in crate::stream) fn env() -> Rc<Env> {
    let wheel = Wheel::new();
    spawn_local(wheel.clone().run());
    let registry = Registry::default();
    Rc::new(Env { wheel, random: Random::seeded(7), reads: ReadPool::new(1 << 26), registry })
}

pub(in crate::stream) fn action(cluster: &str) -> RouteAction {
    RouteAction { cluster: ClusterChoice::Single(cluster.into()), ..RouteAction::default() }
}

pub(in crate::stream) fn route(prefix: &str, action: Action) -> Route {
    let path = PathMatch::Prefix { value: prefix.into(), ignore_case: false };
    Route::new("", RouteMatch { path, ..RouteMatch::default() }, action)
}

pub(in crate::stream) fn cluster(name: &str, hosts: &[SocketAddr]) -> Cluster {
    let endpoints = Endpoints::of(name, hosts.iter().map(|host| Address::Ip(*host)));
    Cluster {
        protocol: UpstreamProtocol::Http2,
        ..Cluster::new(name, Discovery::Static(Arc::new(endpoints)))
    }
}

pub(in crate::stream) fn http_manager() -> HttpManager {
    HttpManager {
        stat_prefix: "in".into(),
        codec: Codec::Auto,
        routes: RouteSource::Inline(Arc::default()),
        idle_timeout: None,
        stream_idle_timeout: Some(STREAM_IDLE),
        limits: RequestLimits::default(),
        max_connection_duration: None,
        max_stream_duration: None,
        max_concurrent_streams: settings::MAX_STREAMS,
        http2: Http2Options::default(),
        http1: Http1Options::default(),
        edge: Edge::default(),
        server_name: "envoy".into(),
        delayed_close: HttpManager::DELAYED_CLOSE,
        access_log: Default::default(),
        filters: Vec::new(),
        router: RouterOptions::default(),
    }
}

pub(in crate::stream) fn rpc_proxy(downstream: Protocol, upstream: Protocol) -> FilterSpec {
    let config = RpcProxy {
        stat_prefix: "rpc".into(),
        downstream,
        upstream: Some(upstream),
        routes: RouteSource::Inline(Arc::default()),
        idle_timeout: None,
        drain_goaway: false,
        max_frame: 16 << 20,
        application_errors: false,
        access_log: Default::default(),
        filters: Vec::new(),
    };
    FilterSpec::Rpc { config, routes: RouteId(0) }
}

pub(in crate::stream) fn http(config: HttpManager) -> FilterSpec {
    FilterSpec::Http { config, routes: RouteId(0), scopes: None }
}

pub(in crate::stream) fn snapshot(routes: Vec<Route>, clusters: &[Cluster]) -> View {
    let routes = routes.into_iter().map(Arc::new).collect();
    let host = VirtualHost { domains: vec!["*".into()], routes, ..VirtualHost::default() };
    let table = RouteConfig { virtual_hosts: vec![Arc::new(host)], ..RouteConfig::default() };
    let mut intern = |name: &str| {
        let at = clusters.iter().position(|cluster| cluster.name == name);
        ClusterId(at.unwrap_or(clusters.len()) as u32)
    };
    let host = CompiledHost::compile(&table.virtual_hosts[0], &table, &mut intern);
    let slots = (0u32..).zip(clusters).map(|(id, model)| {
        let Discovery::Static(endpoints) = &model.discovery else { panic!("static clusters only") };
        ClusterSlot::Ready(ClusterEntry {
            endpoints: endpoints.clone(),
            history: Default::default(),
            spec: Arc::new(ClusterSpec {
                id: ClusterId(id),
                model: Arc::new(model.clone()),
                breakers: Arc::<BreakerState>::default(),
                shared: Arc::default(),
                sockets: Default::default(),
            }),
        })
    });
    View::new(Arc::new(Snapshot {
        generation: 1,
        routes: [Some(Arc::new(RouteTable::compile(&table, vec![host])))].into_iter().collect(),
        clusters: slots.collect(),
        ..Snapshot::default()
    }))
}

impl Proxy {
    pub(in crate::stream) async fn start(
        filter: FilterSpec,
        routes: Vec<Route>,
        clusters: &[Cluster],
    ) -> Proxy {
        let local = Local::new(env(), snapshot(routes, clusters));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handles = Rc::new(RefCell::new(Vec::new()));
        let model = FilterChain {
            name: "c".into(),
            matcher: ChainMatch::default(),
            tls: None,
            guards: Vec::new(),
            mesh: None,
            filter: NetworkFilter::Http(http_manager()),
        };
        let filters = match &filter {
            FilterSpec::Http { config, .. } => {
                Chain::compile(Scope::http(&config.stat_prefix), &config.filters, None)
            }
            FilterSpec::Rpc { config, .. } => {
                Chain::compile(Scope::rpc(&config.stat_prefix), &config.filters, None)
            }
            FilterSpec::Tcp { .. } => None,
        };
        let chain = Arc::new(ChainSpec { model, tls: None, filter, filters, leftover: Default::default() });
        let proxy = Proxy { address, local: local.clone(), handles: handles.clone() };
        spawn_local(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let handle = Handle::new("l".into(), chain.clone(), PeerAddress::Ip(peer), Some(address));
                handles.borrow_mut().push(handle.clone());
                let local = local.clone();
                spawn_local(
                    async move { serve_sniffed(Conn::Tcp(stream), BytesMut::new(), handle, local).await },
                );
            }
        });
        proxy
    }

    /// One that sends everything to `hosts`.
    pub(in crate::stream) async fn to(hosts: &[SocketAddr]) -> Proxy {
        Self::start(
            http(http_manager()),
            vec![route("/", Action::Route(action("up")))],
            &[cluster("up", hosts)],
        )
        .await
    }

    pub(in crate::stream) fn handle(&self) -> Rc<Handle> {
        self.handles.borrow().last().unwrap().clone()
    }
}

/// A server that hands every request to `serve`.
pub(in crate::stream) async fn server<F, S>(serve: S) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
    S: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + 'static,
{
    server_with(settings::server(&Http2Options::default(), settings::MAX_STREAMS), serve).await
}

pub(in crate::stream) async fn server_with<F, S>(builder: h2::server::Builder, serve: S) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
    S: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (serve, builder) = (serve.clone(), builder.clone());
            spawn_local(async move {
                let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    spawn_local(serve(request, respond));
                }
            });
        }
    });
    address
}

/// Answers with the request's path, body and trailers.
pub(in crate::stream) async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = HeaderValue::from_str(request.uri().path()).unwrap();
    let authority = HeaderValue::from_str(request.uri().authority().unwrap().as_str()).unwrap();
    let mut body = request.into_body();
    let response = Response::builder().header("path", path).header("to", authority).body(()).unwrap();
    // Whoever asked may have given up.
    let Ok(mut sink) = respond.send_response(response, false) else { return };
    while let Some(Ok(part)) = body.data().await {
        let _ = body.flow_control().release_capacity(part.len());
        if sink.send_data(part, false).is_err() {
            return;
        }
    }
    match body.trailers().await {
        Ok(Some(trailers)) => drop(sink.send_trailers(trailers)),
        Ok(None) => drop(sink.send_data(Bytes::new(), true)),
        Err(_) => {}
    }
}

pub(in crate::stream) struct Client(SendRequest<Bytes>);

impl Client {
    pub(in crate::stream) async fn connect(address: SocketAddr) -> Client {
        Self::with(address, settings::client(&Http2Options::default())).await
    }

    pub(in crate::stream) async fn with(address: SocketAddr, builder: h2::client::Builder) -> Client {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        spawn_local(connection);
        Client(sender)
    }

    pub(in crate::stream) async fn send(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        self.0 = self.0.clone().ready().await.unwrap();
        self.0.send_request(request, end).unwrap()
    }

    pub(in crate::stream) async fn get(&mut self, path: &str) -> Got {
        let (response, _sink) = self.send(request("GET", path), true).await;
        got(response).await
    }

    pub(in crate::stream) async fn post(&mut self, path: &str, body: &[u8]) -> Got {
        let (response, mut sink) = self.send(request("POST", path), false).await;
        sink.send_data(Bytes::copy_from_slice(body), true).unwrap();
        got(response).await
    }
}

pub(in crate::stream) fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://svc.test{path}")).body(()).unwrap()
}

#[derive(Debug)]
pub(in crate::stream) struct Got {
    pub(in crate::stream) status: u16,
    pub(in crate::stream) headers: HeaderMap,
    pub(in crate::stream) body: Vec<u8>,
    pub(in crate::stream) trailers: Option<HeaderMap>,
}

pub(in crate::stream) async fn got(response: ResponseFuture) -> Got {
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        bytes.extend_from_slice(&part);
    }
    let trailers = body.trailers().await.unwrap();
    Got { status: head.status.as_u16(), headers: head.headers, body: bytes, trailers }
}

/// Runs a test on one thread, within a minute.
pub(in crate::stream) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("in time") };
    runtime.block_on(LocalSet::new().run_until(test));
}

pub(in crate::stream) async fn sleep(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
