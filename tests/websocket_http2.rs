//! Tunnels over HTTP/2: an HTTP/1 client's upgrade becomes an extended CONNECT upstream, and either side may refuse.

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::http1::{Server, Text, get};
use support::proxy::wait_until;
use support::world::{World, cluster, host, http, to};
use tokio::net::{TcpListener, TcpStream};

mod support;

/// What a server saw of a request: method, protocol, path, and these headers.
type Seen = Arc<Mutex<Vec<(Method, Option<String>, String, Option<String>)>>>;

/// Echoes tunnels to `/chat`, refuses others with 403, and answers plain requests.
async fn server() -> (SocketAddr, Seen) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (socket.local_addr().unwrap(), Seen::default());
    let noted = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let noted = noted.clone();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                let mut connection = builder.enable_connect_protocol().handshake::<_, Bytes>(stream).await?;
                while let Some(accepted) = connection.accept().await {
                    let (request, respond) = accepted?;
                    let protocol = request.extensions().get::<Protocol>().map(|p| p.as_str().to_owned());
                    let field = |name: &str| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
                    let path = request.uri().path().to_owned();
                    let told = field("sec-websocket-version").or(field("upgrade"));
                    noted.lock().unwrap().push((request.method().clone(), protocol, path, told));
                    tokio::spawn(tunnel(request, respond));
                }
                Ok::<_, h2::Error>(())
            });
        }
    });
    (address, seen)
}

async fn tunnel(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let status = if request.uri().path() == "/chat" { StatusCode::OK } else { StatusCode::FORBIDDEN };
    let response = Response::builder().status(status).header("x-from", "upstream").body(()).unwrap();
    let mut send = respond.send_response(response, status != StatusCode::OK)?;
    if status != StatusCode::OK {
        return Ok(());
    }
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        let _ = body.flow_control().release_capacity(chunk.len());
        send.send_data(chunk, false)?;
    }
    send.send_data(Bytes::new(), true)
}

async fn world(upstream: SocketAddr, upgrades: &Value) -> World {
    let more = json!({"upgrade_configs": upgrades});
    let routes = json!([to(&json!({"cluster": "a", "timeout": "1s"}))]);
    let clusters = [cluster("a", &[host(upstream)], &json!({"http2_protocol_options": {}}))];
    World::start(&http(&routes, &more), &clusters).await
}

const ASK: &str = "host: h\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n";

#[tokio::test]
async fn an_upgrade_becomes_an_extended_connect() {
    let (upstream, seen) = server().await;
    let world = world(upstream, &json!([{"upgrade_type": "websocket"}])).await;
    let mut client = Text::connect(world.port).await.unwrap();
    // Bytes behind the request belong to the tunnel once it stands, and not before.
    client.send(&format!("GET /chat HTTP/1.1\r\n{ASK}early")).await.unwrap();
    let head = client.until("\r\n\r\n").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let lower = head.to_ascii_lowercase();
    for line in ["upgrade: websocket\r\n", "connection: upgrade\r\n", "x-from: upstream\r\n"] {
        assert!(lower.contains(line), "{line:?} in {head}");
    }
    assert!(!lower.contains("content-length") && !lower.contains("transfer-encoding"), "{head}");
    client.until("early").await.unwrap();
    for round in 0..20 {
        let text = format!("message {round};");
        client.send(&text).await.unwrap();
        assert_eq!(client.until(";").await.unwrap(), text);
        // Beyond the route's timeout, which a tunnel does not have.
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
    let told = seen.lock().unwrap().clone();
    let version = Some("13".to_owned());
    assert_eq!(told, [(Method::CONNECT, Some("websocket".to_owned()), "/chat".to_owned(), version)]);
    drop(client);
    wait_until("the stream is over", || world.number("cluster.a.upstream_rq_active") == 0).await;
}

#[tokio::test]
async fn a_refused_tunnel_is_an_answer_and_the_connection_goes_on() {
    let (upstream, seen) = server().await;
    let world = world(upstream, &json!([{"upgrade_type": "websocket"}])).await;
    let mut client = Text::connect(world.port).await.unwrap();
    client.send(&format!("GET /other HTTP/1.1\r\n{ASK}")).await.unwrap();
    let answer = client.message().await.unwrap();
    assert_eq!((answer.status(), answer.header("x-from")), (403, Some("upstream")));
    assert_eq!(seen.lock().unwrap().len(), 1);
    assert_eq!(get(world.port, "/chat", &[]).await.status(), 200, "the upstream connection goes on");
    let other = format!("GET /chat HTTP/1.1\r\n{}", ASK.replace("websocket", "else"));
    let refused = support::http1::ask(world.port, &other).await;
    assert_eq!(refused.status(), 403, "what nobody allowed does not leave");
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn an_extended_connect_stays_one() {
    let (upstream, seen) = server().await;
    let world = world(upstream, &json!([{"upgrade_type": "websocket"}])).await;
    let stream = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    wait_until("the proxy allows it", || sender.is_extended_connect_protocol_enabled()).await;
    let mut request = Request::builder().method(Method::CONNECT).uri("http://h/chat").body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let (response, mut send) = sender.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    for _ in 0..5 {
        send.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let chunk = body.data().await.unwrap().unwrap();
        let _ = body.flow_control().release_capacity(chunk.len());
        assert_eq!(&chunk[..], b"hello");
    }
    send.send_data(Bytes::new(), true).unwrap();
    while let Some(chunk) = body.data().await {
        assert!(chunk.unwrap().is_empty());
    }
    let told = seen.lock().unwrap().clone();
    assert_eq!(told, [(Method::CONNECT, Some("websocket".to_owned()), "/chat".to_owned(), None)]);
}

#[tokio::test]
async fn a_tunnel_over_http_1_is_the_same_for_its_client() {
    let socket = Server::start(|_, _| support::http1::Answer {
        after: Duration::ZERO,
        text: Some(
            "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nwelcome".into(),
        ),
    })
    .await;
    let more = json!({"upgrade_configs": [{"upgrade_type": "websocket"}]});
    let clusters = [cluster("a", &[host(socket.address)], &json!({}))];
    let world = World::start(&http(&json!([to(&json!({"cluster": "a"}))]), &more), &clusters).await;
    let stream = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    wait_until("the proxy allows it", || sender.is_extended_connect_protocol_enabled()).await;
    let mut request = Request::builder().method(Method::CONNECT).uri("http://h/chat").body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let (response, _send) = sender.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("upgrade"));
    let chunk = response.into_body().data().await.unwrap().unwrap();
    assert_eq!(&chunk[..], b"welcome");
}
