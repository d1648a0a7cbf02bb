//! Whole exchanges over loopback sockets, written and read as text.

mod ends;
mod faults;
mod pairs;
mod plain;
mod switches;
mod upgrades;

use crate::model::*;
use crate::stream::http2::tests::{Proxy, action, cluster, http, http_manager, route, run, sleep};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

/// A server of which every connection is served by `serve`; counts them.
struct Server {
    address: SocketAddr,
    connections: Rc<Cell<u32>>,
    /// Every byte that came, over all connections.
    seen: Rc<RefCell<Vec<u8>>>,
}

impl Server {
    async fn start<F: Future<Output = ()> + 'static>(serve: impl Fn(Peer) -> F + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, seen) = (Rc::new(Cell::new(0)), Rc::new(RefCell::default()));
        let server = Server { address, connections: connections.clone(), seen: Rc::clone(&seen) };
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.set(connections.get() + 1);
                spawn_local(serve(Peer { stream, early: Vec::new(), seen: seen.clone() }));
            }
        });
        server
    }

    /// One that answers every head, its body being nothing, with `answer`.
    async fn answering(answer: &'static str) -> Server {
        Server::start(move |mut peer| async move {
            while peer.head().await.is_some() {
                peer.send(answer).await;
            }
        })
        .await
    }

    fn seen(&self) -> String {
        String::from_utf8(self.seen.borrow().clone()).unwrap()
    }
}

/// One end of a connection that speaks text.
struct Peer {
    stream: TcpStream,
    early: Vec<u8>,
    seen: Rc<RefCell<Vec<u8>>>,
}

impl Peer {
    async fn connect(address: SocketAddr) -> Peer {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream, early: Vec::new(), seen: Rc::default() }
    }

    async fn send(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes()).await;
    }

    /// Reads more; `false` at the end.
    async fn fill(&mut self) -> bool {
        let mut room = [0; 4096];
        match self.stream.read(&mut room).await {
            Ok(n) if n > 0 => {
                self.early.extend_from_slice(&room[..n]);
                self.seen.borrow_mut().extend_from_slice(&room[..n]);
                true
            }
            _ => false,
        }
    }

    /// Up to and with `end`; `None` if the peer closes first.
    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            let at = self.early.windows(end.len()).position(|part| part == end.as_bytes());
            if let Some(at) = at {
                let rest = self.early.split_off(at + end.len());
                let got = std::mem::replace(&mut self.early, rest);
                return Some(String::from_utf8(got).unwrap());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn head(&mut self) -> Option<String> {
        self.until("\r\n\r\n").await
    }

    /// A head and the `size` bytes after it.
    async fn message(&mut self, size: usize) -> Option<(String, String)> {
        let head = self.head().await?;
        while self.early.len() < size {
            if !self.fill().await {
                return None;
            }
        }
        let rest = self.early.split_off(size);
        let body = std::mem::replace(&mut self.early, rest);
        Some((head, String::from_utf8(body).unwrap()))
    }

    /// Everything up to the end.
    async fn rest(&mut self) -> String {
        while self.fill().await {}
        String::from_utf8(std::mem::take(&mut self.early)).unwrap()
    }
}

/// A proxy of `config` that sends everything to `server` in HTTP/1.
async fn proxy_with(config: HttpManager, server: SocketAddr) -> Proxy {
    let up = Cluster { protocol: UpstreamProtocol::Http1, ..cluster("up", &[server]) };
    Proxy::start(http(config), vec![route("/", Action::Route(action("up")))], &[up]).await
}

async fn proxy(server: &Server) -> Proxy {
    proxy_with(http_manager(), server.address).await
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
