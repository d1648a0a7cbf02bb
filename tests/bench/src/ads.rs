//! A control plane for one proxy: gRPC by hand over h2, state of the world or delta, as the client chooses.
//!
//! `ads PORT CLUSTERS LISTENER_PORT BACKEND_PORT [hosts]` prints `ready`, then a line `ack TYPE` or `nack TYPE why`
//! for each answer of the proxy. Lines on its standard input push: `endpoint` changes one endpoint of one cluster,
//! `repeat` sends every endpoint again unchanged, `route` the route table with one virtual host changed. With a
//! listener port of 0 there is no listener; with `hosts` it is one for HTTP, and its table has a virtual host for
//! each cluster.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::xds::*;

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const HTTP: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
/// Name of the route table.
const TABLE: &str = "80";

/// Endpoints per cluster; with their metadata an assignment has about 800 bytes, as istiod's have.
const ENDPOINTS: u32 = 5;

type Named = (String, Any);

struct Plane {
    clusters: Vec<Named>,
    assignments: Vec<Named>,
    listeners: Vec<Named>,
    routes: Vec<Named>,
    /// Counts the changes of one endpoint or virtual host.
    changes: u32,
    nonce: u64,
    stream: Option<Out>,
}

struct Out {
    send: SendStream<Bytes>,
    delta: bool,
}

fn cluster_name(index: u32) -> String {
    format!("outbound|9080||service-{index}.namespace-{}.svc.cluster.local", index % 50)
}

fn cluster(index: u32) -> Cluster {
    let unlimited = || Some(UInt32Value { value: u32::MAX });
    Cluster {
        name: cluster_name(index),
        kind: 3,
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(from_ads()),
            service_name: cluster_name(index),
        }),
        connect_timeout: Some(Duration { seconds: 10 }),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: unlimited(),
                max_pending_requests: unlimited(),
                max_requests: unlimited(),
                max_retries: unlimited(),
            }],
        }),
        metadata: Some(metadata("istio", "services", &cluster_name(index))),
    }
}

/// Cluster 0 is the one that serves; all others are there to be many.
fn assignment(index: u32, backend: u16, change: u32) -> Assignment {
    let endpoint = |number: u32| {
        let (host, port) = if index == 0 {
            ("127.0.0.1".to_owned(), backend)
        } else {
            (format!("10.{}.{}.{}", index >> 8, index & 255, (number + change) % 250 + 1), 9080)
        };
        LbEndpoint {
            endpoint: Some(Endpoint { address: Some(address(&host, port)) }),
            health_status: 1,
            metadata: Some(metadata(
                "istio",
                "workload",
                &format!("service-{index}-v1;namespace;service;v1;Kubernetes"),
            )),
            load_balancing_weight: Some(UInt32Value { value: 1 }),
        }
    };
    let count = if index == 0 { 1 } else { ENDPOINTS };
    Assignment {
        cluster_name: cluster_name(index),
        endpoints: vec![Locality {
            locality: Some(LocalityName { region: "region-1".into(), zone: "zone-a".into() }),
            lb_endpoints: (0..count).map(endpoint).collect(),
            load_balancing_weight: Some(UInt32Value { value: count }),
        }],
    }
}

fn from_ads() -> ConfigSource {
    ConfigSource { ads: Some(Empty {}), resource_api_version: 2 }
}

/// A virtual host as istiod writes it: the service under each name it can be called by.
fn virtual_host(index: u32, change: u32) -> VirtualHost {
    let (service, namespace) = (format!("service-{index}"), format!("namespace-{}", index % 50));
    let long = format!("{service}.{namespace}.svc.cluster.local");
    let retry = RetryPolicy {
        retry_on: "connect-failure,refused-stream,unavailable,cancelled".into(),
        num_retries: Some(UInt32Value { value: 2 }),
    };
    let action = RouteAction {
        cluster: Some(cluster_name(index)),
        timeout: Some(Duration { seconds: i64::from(change) }),
        retry_policy: Some(retry),
    };
    VirtualHost {
        name: format!("{long}:9080"),
        domains: vec![
            long.clone(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            format!("10.{}.{}.1", index >> 8, index & 255),
        ],
        routes: vec![Route {
            route_match: Some(RouteMatch { prefix: Some("/".into()) }),
            action: Some(action),
        }],
    }
}

/// The table of `clusters` virtual hosts, in one of them the change with this number.
fn route_table(clusters: u32, change: u32) -> Named {
    let host = |index| virtual_host(index, if index == 1 { change } else { 0 });
    let table = RouteConfig { name: TABLE.into(), virtual_hosts: (0..clusters).map(host).collect() };
    (TABLE.into(), Any { type_url: RDS.into(), value: table.encode_to_vec().into() })
}

fn http_listener(port: u16) -> Listener {
    let manager = HttpManager {
        codec_type: 2,
        stat_prefix: "bench".into(),
        rds: Some(Rds { config_source: Some(from_ads()), route_config_name: TABLE.into() }),
        http_filters: vec![Filter {
            name: "envoy.filters.http.router".into(),
            typed_config: Some(Any::pack(ROUTER, &Empty {})),
        }],
    };
    let filter = Filter { name: "http".into(), typed_config: Some(Any::pack(HTTP, &manager)) };
    Listener {
        name: "bench".into(),
        address: Some(address("127.0.0.1", port)),
        filter_chains: vec![FilterChain { filters: vec![filter] }],
    }
}

fn listener(port: u16) -> Listener {
    let route = Route {
        route_match: Some(RouteMatch { prefix: Some("/".into()) }),
        action: Some(RouteAction { cluster: Some(cluster_name(0)), ..RouteAction::default() }),
    };
    let host = VirtualHost { name: "all".into(), domains: vec!["*".into()], routes: vec![route] };
    let proxy = RpcProxy {
        stat_prefix: "bench".into(),
        downstream_protocol: "bolt".into(),
        route_config: Some(RouteConfig { name: "bench".into(), virtual_hosts: vec![host] }),
    };
    let filter = Filter { name: "rpc".into(), typed_config: Some(Any::pack("mizzen.v1.RpcProxy", &proxy)) };
    Listener {
        name: "bench".into(),
        address: Some(address("127.0.0.1", port)),
        filter_chains: vec![FilterChain { filters: vec![filter] }],
    }
}

impl Plane {
    fn new(clusters: u32, listener_port: u16, backend: u16, hosts: bool) -> Self {
        let listener = if hosts { http_listener(listener_port) } else { listener(listener_port) };
        let named = |name: String, url: &str, bytes: Vec<u8>| {
            (name, Any { type_url: url.to_owned(), value: bytes.into() })
        };
        Self {
            clusters: (0..clusters)
                .map(|index| named(cluster_name(index), CDS, cluster(index).encode_to_vec()))
                .collect(),
            assignments: (0..clusters)
                .map(|index| named(cluster_name(index), EDS, assignment(index, backend, 0).encode_to_vec()))
                .collect(),
            listeners: (listener_port != 0)
                .then(|| named("bench".into(), LDS, listener.encode_to_vec()))
                .into_iter()
                .collect(),
            routes: hosts.then(|| route_table(clusters, 0)).into_iter().collect(),
            changes: 0,
            nonce: 0,
            stream: None,
        }
    }

    fn all(&self, url: &str) -> &[Named] {
        match url {
            CDS => &self.clusters,
            EDS => &self.assignments,
            LDS => &self.listeners,
            RDS => &self.routes,
            _ => &[],
        }
    }

    /// Sends `chosen`; in state of the world always everything of the type.
    fn send(&mut self, url: &str, chosen: &[Named]) -> Result<()> {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let delta = self.stream.as_ref().context("no stream")?.delta;
        let message = if delta {
            let resources = chosen
                .iter()
                .map(|(name, any)| Resource {
                    version: nonce.clone(),
                    resource: Some(any.clone()),
                    name: name.clone(),
                })
                .collect();
            DeltaResponse { resources, type_url: url.to_owned(), nonce }.encode_to_vec()
        } else {
            let resources = self.all(url).iter().map(|(_, any)| any.clone()).collect();
            SotwResponse { version_info: nonce.clone(), resources, type_url: url.to_owned(), nonce }
                .encode_to_vec()
        };
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.extend_from_slice(&message);
        println!("sent {} {} bytes", short(url), message.len());
        Ok(self.stream.as_mut().context("no stream")?.send.send_data(frame.freeze(), false)?)
    }

    fn on_command(&mut self, command: &str) -> Result<()> {
        match command {
            "endpoint" => {
                self.changes += 1;
                let (index, change) = (1, self.changes);
                let changed = assignment(index, 0, change).encode_to_vec();
                let entry = self.assignments.get_mut(index as usize).context("one cluster only")?;
                entry.1.value = changed.into();
                let entry = entry.clone();
                self.send(EDS, &[entry])
            }
            "route" => {
                self.changes += 1;
                let table = route_table(self.clusters.len() as u32, self.changes);
                self.routes = vec![table.clone()];
                self.send(RDS, &[table])
            }
            "repeat" => {
                let all = self.assignments.clone();
                self.send(EDS, &all)
            }
            other => bail!("no command {other}"),
        }
    }
}

fn short(url: &str) -> &str {
    url.rsplit('.').next().unwrap_or(url)
}

/// What one request says, whichever variant it came in.
struct Asked {
    url: String,
    names: Vec<String>,
    nonce: String,
    error: Option<Status>,
}

fn decode(message: &[u8], delta: bool) -> Result<Asked> {
    Ok(if delta {
        let it = DeltaRequest::decode(message)?;
        Asked { url: it.type_url, names: it.subscribe, nonce: it.response_nonce, error: it.error_detail }
    } else {
        let it = SotwRequest::decode(message)?;
        Asked { url: it.type_url, names: it.resource_names, nonce: it.response_nonce, error: it.error_detail }
    })
}

pub async fn run(args: &[String]) -> Result<()> {
    let number = |at: usize| -> Result<u32> {
        Ok(args.get(at).context("ads PORT CLUSTERS LISTENER BACKEND")?.parse()?)
    };
    let hosts = args.get(4).is_some_and(|arg| arg == "hosts");
    let plane = Plane::new(number(1)?, number(2)? as u16, number(3)? as u16, hosts);
    let plane = Rc::new(RefCell::new(plane));
    let listener = TcpListener::bind(("127.0.0.1", number(0)? as u16)).await?;
    println!("ready");
    let commands = plane.clone();
    tokio::task::spawn_local(async move {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Err(error) = commands.borrow_mut().on_command(line.trim()) {
                println!("failed {error:#}");
            }
        }
    });
    loop {
        let (socket, _) = listener.accept().await?;
        let plane = plane.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = serve(socket, plane).await {
                println!("stream {error:#}");
            }
        });
    }
}

async fn serve(socket: TcpStream, plane: Rc<RefCell<Plane>>) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(16 << 20)
        .initial_connection_window_size(64 << 20)
        .max_send_buffer_size(64 << 20)
        .handshake::<_, Bytes>(socket)
        .await?;
    while let Some(request) = connection.accept().await {
        let (request, mut reply) = request?;
        let delta = request.uri().path().contains("Delta");
        let head = http::Response::builder().header("content-type", "application/grpc").body(())?;
        let send = reply.send_response(head, false)?;
        plane.borrow_mut().stream = Some(Out { send, delta });
        let plane = plane.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = read_requests(request.into_body(), delta, plane).await {
                println!("stream {error:#}");
            }
        });
    }
    Ok(())
}

async fn read_requests(mut body: RecvStream, delta: bool, plane: Rc<RefCell<Plane>>) -> Result<()> {
    let mut input = BytesMut::new();
    // How many names of a type were asked for so far: a further answer is due only when there are more.
    let mut asked: HashMap<String, usize> = HashMap::new();
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        input.extend_from_slice(&data);
        while let Some(message) = take_message(&mut input) {
            let request = decode(&message, delta)?;
            match &request.error {
                Some(error) => println!("nack {} {}", short(&request.url), error.message),
                None if !request.nonce.is_empty() => println!("ack {}", short(&request.url)),
                None => {}
            }
            let before = asked.get(&request.url).copied();
            let now = if delta { before.unwrap_or(0) + request.names.len() } else { request.names.len() };
            if before.is_none_or(|before| now > before) {
                asked.insert(request.url.clone(), now);
                answer(&mut plane.borrow_mut(), &request)?;
            }
        }
    }
    Ok(())
}

/// Sends what a subscription names, or everything.
fn answer(plane: &mut Plane, request: &Asked) -> Result<()> {
    let all = plane.all(&request.url);
    let chosen: Vec<Named> = if request.names.is_empty() || request.names.len() >= all.len() {
        all.to_vec()
    } else {
        let wanted: std::collections::HashSet<&String> = request.names.iter().collect();
        all.iter().filter(|(name, _)| wanted.contains(name)).cloned().collect()
    };
    if chosen.is_empty() && request.url == EDS { Ok(()) } else { plane.send(&request.url, &chosen) }
}

fn take_message(input: &mut BytesMut) -> Option<Bytes> {
    let len = u32::from_be_bytes([*input.get(1)?, *input.get(2)?, *input.get(3)?, *input.get(4)?]) as usize;
    if input.len() < len + 5 {
        return None;
    }
    input.advance(5);
    Some(input.split_to(len).freeze())
}
