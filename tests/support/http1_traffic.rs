//! HTTP/1 traffic that is always in flight: slow responses, bodies both ways, WebSockets, pipelines.

use super::http1::Text;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A server that answers with its name: slowly, in chunks as they come, or as a WebSocket.
pub async fn server(name: &'static str) -> SocketAddr {
    server_at(name, ([127, 0, 0, 1], 0).into(), Arc::new(AtomicBool::new(true))).await
}

/// The same at `address`. `/health` tells what `healthy` says, and `/bad/<name>` gets 503 of the server of that name.
pub async fn server_at(name: &'static str, address: SocketAddr, healthy: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(Text::of(stream), name, healthy.clone()));
        }
    });
    address
}

async fn serve(mut peer: Text, name: &str, healthy: Arc<AtomicBool>) -> Result<(), String> {
    loop {
        let head = peer.until("\r\n\r\n").await?;
        match head.split(' ').nth(1).unwrap() {
            "/echo" => {
                peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                loop {
                    let size = peer.until("\r\n").await?;
                    let rest = peer.until("\r\n").await?;
                    peer.send(&format!("{size}{rest}")).await?;
                    if size == "0\r\n" {
                        break;
                    }
                }
            }
            "/chat" => {
                peer.send(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                )
                .await?;
                loop {
                    let early = String::from_utf8(std::mem::take(&mut peer.early)).unwrap();
                    peer.send(&early).await?;
                    peer.fill().await?;
                }
            }
            path => {
                let pause = path.strip_prefix("/slow/").map_or(0, |ms| ms.parse().unwrap());
                sleep(Duration::from_millis(pause)).await;
                let sick = path == "/health" && !healthy.load(Ordering::SeqCst);
                let bad = path.strip_prefix("/bad/") == Some(name);
                let status = if sick || bad { "503 No" } else { "200 OK" };
                peer.send(&format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len()))
                    .await?;
            }
        }
    }
}

/// What the clients share.
#[derive(Default)]
struct Ledger {
    stop: AtomicBool,
    done: AtomicU64,
}

impl Ledger {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Requests one after the other, `at_once` of them in one write, on connections that are kept while they last.
async fn requests(port: u16, ledger: Arc<Ledger>, pause: u64, at_once: usize) -> Result<(), String> {
    let one = format!("GET /slow/{pause} HTTP/1.1\r\nhost: h\r\n\r\n");
    while ledger.goes_on() {
        let mut text = Text::connect(port).await?;
        let mut open = true;
        while open && ledger.goes_on() {
            text.send(&one.repeat(at_once)).await?;
            for left in (0..at_once).rev() {
                let (keeps, body) = text.response().await?;
                if !body.starts_with('h') {
                    return Err(format!("{body:?} instead of a name"));
                }
                if !keeps && left > 0 {
                    return Err("closed with requests waiting".into());
                }
                open = keeps;
                ledger.count();
            }
        }
    }
    Ok(())
}

/// One body that grows both ways for as long as the test lasts.
async fn both_ways(port: u16, ledger: Arc<Ledger>) -> Result<(), String> {
    let mut text = Text::connect(port).await?;
    text.send("POST /echo HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    text.until("\r\n\r\n").await?;
    while ledger.goes_on() {
        text.send("5\r\nhello\r\n").await?;
        text.until("5\r\nhello\r\n").await?;
        ledger.count();
        sleep(Duration::from_millis(10)).await;
    }
    text.send("0\r\n\r\n").await?;
    text.until("0\r\n\r\n").await.map(drop)
}

/// One WebSocket for as long as the test lasts.
async fn socket(port: u16, ledger: Arc<Ledger>) -> Result<(), String> {
    let mut text = Text::connect(port).await?;
    text.send("GET /chat HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await?;
    let head = text.until("\r\n\r\n").await?;
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(head);
    }
    while ledger.goes_on() {
        text.send("ping").await?;
        text.until("ping").await?;
        ledger.count();
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Clients of all kinds, until they are told to finish.
#[derive(Default)]
pub struct Clients {
    ledger: Arc<Ledger>,
    tasks: JoinSet<Result<(), String>>,
}

impl Clients {
    /// Requests of five kinds, and `streams` bodies and WebSockets each.
    pub fn add(&mut self, port: u16, streams: usize) {
        for (pause, at_once) in [(0, 1), (2, 1), (60, 1), (0, 5), (3, 4)] {
            self.tasks.spawn(requests(port, self.ledger.clone(), pause, at_once));
        }
        for _ in 0..streams {
            self.tasks.spawn(both_ways(port, self.ledger.clone()));
            self.tasks.spawn(socket(port, self.ledger.clone()));
        }
    }

    /// Ends them in good order, none with an error; gives the number of exchanges.
    pub async fn finish(mut self) -> u64 {
        self.ledger.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.tasks.join_next().await {
            assert_eq!(client.unwrap(), Ok(()));
        }
        self.ledger.done.load(Ordering::Relaxed)
    }
}
