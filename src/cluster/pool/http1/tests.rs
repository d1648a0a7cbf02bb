//! Connections to scripted servers on loopback sockets.

mod limits;

use super::*;
use crate::cluster::{BreakerState, ClusterEntry, ClusterSpec, Env};
use crate::model::{self, Address, Discovery, Endpoints, Priority};
use crate::net::ReadPool;
use crate::protocol::http1::{BodyLength, ResponseHead};
use crate::telemetry::Registry;
use crate::util::random::Random;
use bytes::Bytes;
use http::{Method, request};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// A cluster of one host that is one scripted server.
struct World {
    listener: TcpListener,
    cluster: Rc<Cluster>,
    host: Rc<Host>,
}

impl World {
    async fn new(adapt: impl FnOnce(&mut model::Cluster)) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = cluster(&[listener.local_addr().unwrap()], adapt);
        let host = cluster.state().hosts().next().unwrap().clone();
        World { listener, cluster, host }
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    async fn acquire(&self) -> Result<Lease, Failure> {
        Pool::acquire(&self.host, &self.cluster, &self.cluster.state(), Priority::Default).await
    }

    /// A connection that has carried one exchange, and its server's side.
    async fn used(&self, response: &str) -> TcpStream {
        let (lease, server) = tokio::join!(self.acquire(), self.accept());
        let mut server = server;
        let (mut sender, mut receiver) = begin(lease.unwrap(), Method::GET, BodyLength::Empty);
        let (response, _) = tokio::join!(finish(&mut sender, &mut receiver), answer(&mut server, response));
        response.unwrap();
        server
    }
}

fn cluster(hosts: &[SocketAddr], adapt: impl FnOnce(&mut model::Cluster)) -> Rc<Cluster> {
    let wheel = Wheel::new();
    spawn_local(wheel.clone().run());
    let registry = Registry::default();
    let env = Rc::new(Env { wheel, random: Random::seeded(1), reads: ReadPool::new(1 << 20), registry });
    let endpoints = Arc::new(Endpoints::of("c", hosts.iter().map(|host| Address::Ip(*host))));
    let mut model = model::Cluster::new("c", Discovery::Static(endpoints.clone()));
    adapt(&mut model);
    let spec = ClusterSpec {
        id: model::ClusterId(0),
        model: Arc::new(model),
        breakers: Arc::<BreakerState>::default(),
        shared: Arc::default(),
        sockets: Default::default(),
    };
    Cluster::new(&ClusterEntry { spec: Arc::new(spec), endpoints, history: Default::default() }, env)
}

fn head(method: Method) -> request::Parts {
    http::Request::builder().method(method).uri("http://h/p").body(()).unwrap().into_parts().0
}

fn begin(lease: Lease, method: Method, body: BodyLength) -> (Sender, Receiver) {
    lease.send(&head(method), None, body, false)
}

/// Reads a response to its end.
async fn finish(sender: &mut Sender, receiver: &mut Receiver) -> Result<(ResponseHead, Vec<u8>), Failure> {
    let head = loop {
        let head = poll_fn(|cx| receiver.poll_head(cx)).await?;
        if !head.is_interim() {
            break head;
        }
    };
    let mut body = Vec::new();
    while let Some(part) = poll_fn(|cx| receiver.poll_data(cx)).await {
        body.extend_from_slice(&part?);
    }
    let _ = poll_fn(|cx| sender.poll_flush(cx)).await;
    Ok((head, body))
}

/// Reads a head (and nothing after it), sends `response`.
async fn answer(server: &mut TcpStream, response: &str) -> String {
    let head = read_head(server).await;
    server.write_all(response.as_bytes()).await.unwrap();
    head
}

async fn read_head(server: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(server.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Lets what was sent arrive, and the runtime hear of it.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_is_used_again() {
    let run = async {
        let world = World::new(|_| {}).await;
        let mut server = world.used(OK).await;
        assert_eq!((world.host.http1.open(), world.host.http1.idle()), (1, 1));
        let lease = world.host.http1.ready().unwrap();
        assert!(lease.is_reused());
        assert!(world.host.http1.ready().is_none(), "lent to one at a time");
        let (mut sender, mut receiver) = begin(lease, Method::POST, BodyLength::Known(5));
        sender.send(Bytes::from_static(b"hello"), true).unwrap();
        let chunked = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
                       \r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n";
        let (got, sent) = tokio::join!(finish(&mut sender, &mut receiver), async {
            let head = read_head(&mut server).await;
            let mut body = [0; 5];
            server.read_exact(&mut body).await.unwrap();
            server.write_all(chunked.as_bytes()).await.unwrap();
            (head, body)
        });
        assert_eq!(got.unwrap().1, b"abc");
        assert_eq!(receiver.take_trailers().unwrap().get("x-sum").unwrap(), "1");
        assert_eq!(sent.0, "POST /p HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(&sent.1, b"hello");
        assert_eq!((world.host.http1.open(), world.host.http1.idle()), (1, 1));
        assert_eq!(world.cluster.stats.upstream_cx_total.get(), 1);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn an_unused_lease_goes_back() {
    let run = async {
        let world = World::new(|_| {}).await;
        let (lease, _server) = tokio::join!(world.acquire(), world.accept());
        assert!(!lease.as_ref().unwrap().is_reused());
        drop(lease);
        assert_eq!(world.host.http1.idle(), 1);
        assert!(!world.host.http1.ready().unwrap().is_reused());
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn what_ends_a_connection() {
    let run = async {
        for response in [
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n",
        ] {
            let world = World::new(|_| {}).await;
            let _server = world.used(response).await;
            assert_eq!((world.host.http1.open(), world.host.http1.idle()), (0, 0), "{response}");
        }
        // A response before the request was whole.
        let world = World::new(|_| {}).await;
        let (lease, server) = tokio::join!(world.acquire(), world.accept());
        let mut server = server;
        let (mut sender, mut receiver) = begin(lease.unwrap(), Method::POST, BodyLength::Known(5));
        sender.send(Bytes::from_static(b"he"), false).unwrap();
        let (got, _) = tokio::join!(finish(&mut sender, &mut receiver), answer(&mut server, OK));
        got.unwrap();
        assert_eq!(world.host.http1.idle(), 0);
        drop((sender, receiver));
        assert_eq!(world.host.http1.open(), 0);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_body_cut_short_is_no_body() {
    let run = async {
        for response in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            let world = World::new(|_| {}).await;
            let (lease, server) = tokio::join!(world.acquire(), world.accept());
            let mut server = server;
            let (mut sender, mut receiver) = begin(lease.unwrap(), Method::GET, BodyLength::Empty);
            let (got, ()) = tokio::join!(finish(&mut sender, &mut receiver), async {
                answer(&mut server, response).await;
                drop(server);
            });
            assert_eq!(got.unwrap_err(), Failure::after(Reason::UpstreamClosed), "{response}");
        }
        let world = World::new(|_| {}).await;
        let (lease, server) = tokio::join!(world.acquire(), world.accept());
        let mut server = server;
        let (mut sender, mut receiver) = begin(lease.unwrap(), Method::GET, BodyLength::Empty);
        let (got, ()) = tokio::join!(finish(&mut sender, &mut receiver), async {
            answer(&mut server, "HTTP/1.1 200 OK\r\n\r\nabc").await;
            drop(server);
        });
        assert_eq!(got.unwrap().1, b"abc", "this one ends with the connection");
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn faulty_responses_are_refused() {
    let run = async {
        let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(120);
        for response in ["HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "SSH-2.0-x\r\n\r\n", &endless] {
            let world = World::new(|_| {}).await;
            let (lease, server) = tokio::join!(world.acquire(), world.accept());
            let mut server = server;
            let (mut sender, mut receiver) = begin(lease.unwrap(), Method::GET, BodyLength::Empty);
            let (got, _) = tokio::join!(finish(&mut sender, &mut receiver), answer(&mut server, response));
            assert_eq!(got.unwrap_err(), Failure::after(Reason::UpstreamProtocol), "{response}");
            drop((sender, receiver));
            assert_eq!(world.host.http1.open(), 0);
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn closed_and_talking_connections_are_not_lent() {
    let run = async {
        for talk in [false, true] {
            let world = World::new(|_| {}).await;
            let mut server = world.used(OK).await;
            if talk {
                server.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
            } else {
                drop(server);
            }
            settle().await;
            assert!(world.host.http1.ready().is_none());
            assert_eq!(world.host.http1.open(), 0);
            assert_eq!(world.cluster.stats.upstream_cx_destroy_remote.get(), 1);
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_close_before_the_first_byte_says_that_nothing_was_sent() {
    let run = async {
        let world = World::new(|_| {}).await;
        let server = world.used(OK).await;
        settle().await;
        let lease = world.host.http1.ready().unwrap();
        drop(server);
        settle().await;
        let (mut sender, mut receiver) = begin(lease, Method::POST, BodyLength::Empty);
        let got = finish(&mut sender, &mut receiver).await;
        assert_eq!(got.unwrap_err(), Failure::before(Reason::UpstreamClosed));
        assert!(world.host.http1.learned.limit(Instant::now()).is_some(), "and teaches");
        // A close after the request was written does not.
        let world = World::new(|_| {}).await;
        let mut server = world.used(OK).await;
        let (mut sender, mut receiver) =
            begin(world.host.http1.ready().unwrap(), Method::POST, BodyLength::Empty);
        let (got, ()) = tokio::join!(finish(&mut sender, &mut receiver), async {
            read_head(&mut server).await;
            drop(server);
        });
        assert_eq!(got.unwrap_err(), Failure::after(Reason::UpstreamClosed));
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn an_upgrade_is_a_tunnel_only_once_the_server_agrees() {
    let run = async {
        let upgrade = || {
            let mut head = head(Method::GET);
            head.headers.insert("upgrade", "echo".parse().unwrap());
            head
        };
        let world = World::new(|_| {}).await;
        let (lease, server) = tokio::join!(world.acquire(), world.accept());
        let mut server = server;
        let (mut sender, mut receiver) = lease.unwrap().send(&upgrade(), None, BodyLength::Empty, true);
        poll_fn(|cx| {
            assert!(sender.poll_room(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhi";
        let (got, sent) = tokio::join!(poll_fn(|cx| receiver.poll_head(cx)), answer(&mut server, agreed));
        assert!(got.unwrap().tunnel);
        assert!(sent.contains("upgrade: echo\r\nconnection: upgrade\r\n"), "{sent}");
        poll_fn(|cx| sender.poll_room(cx)).await.unwrap();
        sender.send(Bytes::from_static(b"yo"), true).unwrap();
        poll_fn(|cx| sender.poll_flush(cx)).await.unwrap();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"yo");
        assert_eq!(poll_fn(|cx| receiver.poll_data(cx)).await.unwrap().unwrap(), "hi");
        drop((sender, receiver));
        assert_eq!(world.host.http1.open(), 0);
        // Refused, the connection goes on with requests.
        let world = World::new(|_| {}).await;
        let (lease, server) = tokio::join!(world.acquire(), world.accept());
        let mut server = server;
        let (mut sender, mut receiver) = lease.unwrap().send(&upgrade(), None, BodyLength::Empty, true);
        let (got, _) = tokio::join!(finish(&mut sender, &mut receiver), answer(&mut server, OK));
        got.unwrap();
        assert_eq!(poll_fn(|cx| sender.poll_room(cx)).await, Err(Closed));
        assert_eq!(world.host.http1.idle(), 1);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_server_that_does_not_read_holds_the_client_back() {
    let run = async {
        let world = World::new(|_| {}).await;
        let (lease, server) = tokio::join!(world.acquire(), world.accept());
        let mut server = server;
        let (mut sender, mut receiver) = begin(lease.unwrap(), Method::PUT, BodyLength::Unknown);
        let mut taken = 0;
        let part = Bytes::from(vec![b'x'; 60_000]);
        while let Some(room) = poll_fn(|cx| match sender.poll_room(cx) {
            Poll::Ready(room) => Poll::Ready(Some(room.unwrap())),
            Poll::Pending => Poll::Ready(None),
        })
        .await
        {
            let part = part.slice(..room.min(part.len()));
            taken += part.len();
            sender.send(part, false).unwrap();
            let _ = poll_fn(|cx| Poll::Ready(sender.poll_flush(cx))).await;
            assert!(taken < 100 << 20, "no end");
        }
        sender.send(Bytes::new(), true).unwrap();
        let (got, read) = tokio::join!(finish(&mut sender, &mut receiver), async {
            let mut all = Vec::new();
            while !all.ends_with(b"\r\n0\r\n\r\n") {
                server.read_buf(&mut all).await.unwrap();
            }
            server.write_all(OK.as_bytes()).await.unwrap();
            all.iter().filter(|byte| **byte == b'x').count()
        });
        got.unwrap();
        assert_eq!(read, taken);
        assert_eq!(world.host.http1.idle(), 1);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_given_up() {
    let run = async {
        for (announced, last) in [(2, false), (9, true)] {
            let world = World::new(|_| {}).await;
            let (lease, _server) = tokio::join!(world.acquire(), world.accept());
            let (mut sender, mut receiver) =
                begin(lease.unwrap(), Method::POST, BodyLength::Known(announced));
            assert_eq!(sender.send(Bytes::from_static(b"hello"), last), Err(Closed));
            let got = finish(&mut sender, &mut receiver).await;
            assert_eq!(got.unwrap_err(), Failure::after(Reason::BadRequest));
            drop((sender, receiver));
            assert_eq!(world.host.http1.open(), 0);
            assert_eq!(world.cluster.stats.upstream_cx_destroy_local_with_active_rq.get(), 1);
        }
    };
    LocalSet::new().run_until(run).await;
}
