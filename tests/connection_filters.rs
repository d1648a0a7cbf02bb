//! Filters of connections that limit, steer and tell: `connection_limit`, `local_ratelimit`, `sni_cluster` and
//! `set_filter_state`, the last one of streams as well.

use mizzen::model::{
    Certificates, CommonTls, Data, Hidden, TlsVersion, UpstreamTls, Validation, ValidationSource,
};
use mizzen::tls::{Secrets, Wish};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use support::ads::Type;
use support::http1::{Server, get};
use support::jwt::{Issuer, jwks};
use support::pki::Ca;
use support::proxy::{free_port, wait_listening, wait_until};
use support::resources::{message, tcp_filter};
use support::traffic::tcp_server;
use support::world::{World, cluster, host, http, merged, router, to};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

mod support;

const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";
const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";

fn filter(kind: &str, config: &Value) -> Value {
    json!({"name": kind, "typed_config": merged(json!({"@type": format!("{NETWORK}.{kind}")}), config)})
}

fn listener(port: u16, chain: &Value) -> mizzen::proto::envoy::config::listener::v3::Listener {
    message(&json!({"name": "l", "filter_chains": [chain],
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}))
}

fn before(filter: &Value, last: &Value) -> Value {
    json!({"filters": [filter, {"name": "last", "typed_config": last}]})
}

/// A world whose only listener has this chain.
async fn world(chain: &Value, clusters: &[Value]) -> World {
    let mut world = World::start(&tcp_filter("any"), clusters).await;
    // On a port of its own: who listens there serves by the new chain.
    world.port = free_port();
    world.ads.set_listeners(vec![listener(world.port, chain)]);
    world.push(&[Type::Listener]).await;
    wait_listening(([127, 0, 0, 1], world.port).into()).await;
    world
}

/// The first byte that comes, `None` if the connection ends before.
async fn first(stream: &mut TcpStream) -> Option<u8> {
    stream.read_u8().await.ok()
}

async fn dial(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_too_many_is_closed() {
    let server = tcp_server("first").await;
    let clusters = [cluster("any", &[host(server)], &json!({}))];
    let limit = json!({"stat_prefix": "few", "max_connections": 1, "delay": "0.01s",
        "runtime_enabled": {"default_value": true, "runtime_key": "few"}});
    let chain = before(&filter("connection_limit.v3.ConnectionLimit", &limit), &tcp_filter("any"));
    let world = world(&chain, &clusters).await;
    let number = |name: &str| world.number(&format!("connection_limit.few.{name}"));
    // Who found out that the port listens may have the place for a moment.
    let served = async {
        loop {
            let mut one = dial(world.port).await;
            if first(&mut one).await == Some(b'f') {
                return one;
            }
        }
    };
    let one = timeout(Duration::from_secs(20), served).await.expect("a first connection is served");
    let before = number("limited_connections");
    assert_eq!(first(&mut dial(world.port).await).await, None);
    wait_until("it is counted", || number("limited_connections") == before + 1).await;
    // A push that leaves the filter as it is leaves what it counts.
    let mut other = chain.clone();
    other["filters"][1]["typed_config"]["idle_timeout"] = "77s".into();
    let generation = world.proxy.store.load().generation;
    world.ads.set_listeners(vec![listener(world.port, &other)]);
    world.push(&[Type::Listener]).await;
    wait_until("it is applied", || world.proxy.store.load().generation > generation).await;
    for _ in 0..3 {
        assert_eq!(first(&mut dial(world.port).await).await, None);
    }
    wait_until("only the first is left", || number("active_connections") == 1).await;
    drop(one);
    wait_until("it is gone", || number("active_connections") == 0).await;
    assert_eq!(first(&mut dial(world.port).await).await, Some(b'f'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_come_as_fast_as_tokens() {
    let server = tcp_server("first").await;
    let clusters = [cluster("any", &[host(server)], &json!({}))];
    let slow = |on: bool| {
        let config = json!({"stat_prefix": "slow",
            "token_bucket": {"max_tokens": 2, "tokens_per_fill": 1, "fill_interval": "3600s"},
            "runtime_enabled": {"default_value": on, "runtime_key": "none"}});
        before(&filter("local_ratelimit.v3.LocalRateLimit", &config), &tcp_filter("any"))
    };
    let world = world(&slow(true), &clusters).await;
    let mut served = 0;
    for _ in 0..5 {
        served += usize::from(first(&mut dial(world.port).await).await.is_some());
    }
    // Whether the port listens was found out by connecting.
    assert!(served <= 2, "{served}");
    wait_until("they are counted", || world.number("local_rate_limit.slow.rate_limited") >= 3).await;
    world.ads.set_listeners(vec![listener(world.port, &slow(false))]);
    world.push(&[Type::Listener]).await;
    while first(&mut dial(world.port).await).await.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(first(&mut dial(world.port).await).await, Some(b'f'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_name_or_filter_state_says_where_connections_go() {
    let (one, two) = (tcp_server("1").await, tcp_server("2").await);
    let clusters = [cluster("any", &[host(one)], &json!({})), cluster("two.test", &[host(two)], &json!({}))];
    let ca = Ca::new("root");
    let leaf = ca.leaf(&["one.test", "two.test", "three.test"]);
    let tls = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [{"certificate_chain": {"inline_string": leaf.chain},
            "private_key": {"inline_string": leaf.key}}]}}});
    let sni = filter("sni_cluster.v3.SniCluster", &json!({}));
    let chain = merged(before(&sni, &tcp_filter("any")), &json!({"transport_socket": tls}));
    let world = world(&chain, &clusters).await;
    let ask = async |name: &str| {
        let common = CommonTls {
            min: TlsVersion::Tls12,
            max: TlsVersion::Tls13,
            ciphers: None,
            curves: None,
            alpn: Vec::new(),
            certificates: Certificates::Given(Vec::new()),
            validation: ValidationSource {
                given: Some(Validation {
                    roots: Some(Data::Inline(Hidden::new(ca.pem.as_bytes()))),
                    ..Validation::default()
                }),
                secret: None,
            },
        };
        let model = UpstreamTls {
            common,
            sni: name.to_owned(),
            host_sni: false,
            check_sni: false,
            max_session_keys: 0,
        };
        let client = Secrets::default().client(&Arc::new(model));
        let (mut stream, _) = client.connect(dial(world.port).await, &Wish::default(), None).await.ok()?;
        stream.read_u8().await.ok()
    };
    assert_eq!(ask("two.test").await, Some(b'2'));
    assert_eq!(ask("").await, Some(b'1'), "without a name the configured cluster");
    assert_eq!(ask("three.test").await, None, "there is no such cluster");
    wait_until("it is counted", || world.number("tcp.tcp.downstream_cx_no_route") >= 1).await;

    let set = json!({"on_new_connection": [{"object_key": "envoy.tcp_proxy.cluster",
        "format_string": {"text_format_source": {"inline_string": "two.test"}}, "read_only": true},
        {"object_key": "envoy.tcp_proxy.cluster",
        "format_string": {"text_format_source": {"inline_string": "any"}}}]});
    let chain = before(&filter("set_filter_state.v3.Config", &set), &tcp_filter("any"));
    let port = free_port();
    let mut plain = listener(port, &chain);
    plain.name = "plain".into();
    world.ads.set_listeners(vec![plain]);
    world.push(&[Type::Listener]).await;
    wait_listening(([127, 0, 0, 1], port).into()).await;
    assert_eq!(first(&mut dial(port).await).await, Some(b'2'), "what is locked stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filter_state_is_told_and_asked_for() {
    let app = Server::named("app").await;
    let issuer = Issuer::new("ES256", "k");
    let keys = jwks(&[&issuer]);
    let text = |text: &str| json!({"text_format_source": {"inline_string": text}, "omit_empty_values": true});
    let set = json!({"name": "set", "typed_config": {"@type": format!("{HTTP}.set_filter_state.v3.Config"),
        "on_request_headers": [
            {"object_key": "tenant", "factory_key": "envoy.string", "format_string": text("%REQ(x-tenant)%"),
             "skip_if_empty": true}]}});
    let authn = json!({"name": "jwt", "typed_config": {
        "@type": format!("{HTTP}.jwt_authn.v3.JwtAuthentication"),
        "providers": {"p": {"issuer": "i", "local_jwks": {"inline_string": keys}}},
        "filter_state_rules": {"name": "tenant", "requires": {"closed": {"provider_name": "p"}}}}});
    let shown = json!({"response_headers_to_add": [
        {"header": {"key": "x-plain", "value": "%FILTER_STATE(tenant:PLAIN)%"}},
        {"header": {"key": "x-typed", "value": "%FILTER_STATE(conn)%"}}]});
    let route = merged(to(&json!({"cluster": "app"})), &shown);
    let manager = http(&json!([route]), &json!({"http_filters": [set, authn, router(&json!({}))]}));
    let conn = json!({"on_new_connection": [{"object_key": "conn", "factory_key": "envoy.string",
        "format_string": text("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%")}]});
    let chain = before(&filter("set_filter_state.v3.Config", &conn), &manager);
    let world = world(&chain, &[cluster("app", &[host(app.address)], &json!({}))]).await;
    let open = get(world.port, "/", &["x-tenant: open"]).await;
    assert_eq!((open.status(), open.header("x-plain")), (200, Some("open")));
    assert_eq!(open.header("x-typed"), Some("\"127.0.0.1\""));
    assert_eq!(get(world.port, "/", &[]).await.header("x-plain"), None);
    assert_eq!(get(world.port, "/", &["x-tenant: closed"]).await.status(), 401);
    let token = format!("authorization: Bearer {}", issuer.token(&json!({"iss": "i"})));
    assert_eq!(get(world.port, "/", &["x-tenant: closed", &token]).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_refused() {
    let server = tcp_server("s").await;
    let world = World::start(&tcp_filter("any"), &[cluster("any", &[host(server)], &json!({}))]).await;
    let value = json!({"format_string": {"text_format_source": {"inline_string": "x"}}});
    let bad = [
        ("connection_limit.v3.ConnectionLimit", json!({"stat_prefix": "a"}), "max_connections: is required"),
        (
            "local_ratelimit.v3.LocalRateLimit",
            json!({"stat_prefix": "a", "share_key": "k",
            "token_bucket": {"max_tokens": 1, "fill_interval": "1s"}}),
            "share_key: k: not supported",
        ),
        (
            "set_filter_state.v3.Config",
            json!({"on_new_connection":
            [merged(json!({"object_key": "no.such.object"}), &value)]}),
            "no objects of this kind",
        ),
    ];
    for (kind, config, why) in bad {
        world
            .ads
            .set_listeners(vec![listener(free_port(), &before(&filter(kind, &config), &tcp_filter("any")))]);
        world.ads.push().await;
        let said = || world.ads.last_nack(Type::Listener).is_some_and(|said| said.contains(why));
        wait_until(why, said).await;
    }
    let mut stream = dial(world.port).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(first(&mut stream).await, Some(b's'), "the last good one serves");
}
