//! Load that knows what it is owed: calls, streams and raw connections in flight, and fresh ones all the time.
//!
//! Whatever was begun must end as its protocol says, and whatever is begun must succeed; everything else is
//! written down with the stage of the test it happened in.

use super::http2;
use bytes::BytesMut;
use mizzen::protocol::bolt;
use mizzen::protocol::rpc::{Decoder, Frame, Kind};
use mizzen::sample::{Client, DELAY_KEY};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(20);
/// Connections the calls in flight share.
const BOLT_CONNECTIONS: usize = 10;
const HTTP2_CONNECTIONS: usize = 4;
/// Pause between the exchanges of one connection.
const PAUSE: Duration = Duration::from_millis(40);

/// A bolt server that answers with `name`.
pub async fn bolt_server(name: &str) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let settings = mizzen::sample::Settings { name: name.into(), delay: Duration::ZERO };
    tokio::spawn(mizzen::sample::serve(socket, settings));
    address
}

/// A TCP server that sends `name` (two bytes) and then echoes.
pub async fn tcp_server(name: &'static str) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    address
}

/// Which server answered.
pub fn server_of(answer: &Frame) -> String {
    String::from_utf8(answer.header(b"sample_server").unwrap_or(b"none").to_vec()).unwrap()
}

/// One call on a connection of its own: the server's name.
pub async fn ask(port: u16, delay: &str) -> Result<String, String> {
    let mut client = Client::connect(&format!("127.0.0.1:{port}")).await.map_err(|e| e.to_string())?;
    call(&mut client, delay).await
}

/// One call: the server's name.
pub async fn call(client: &mut Client, delay: &str) -> Result<String, String> {
    let answer = client.call(&[("service", "s"), (DELAY_KEY, delay)], b"x", LIMIT).await;
    let answer = answer.map_err(|e| e.to_string())?;
    if answer.status() == 0 { Ok(server_of(&answer)) } else { Err(format!("status {}", answer.status())) }
}

/// One raw connection: the server's name.
pub async fn greet(port: u16) -> Result<(TcpStream, String), String> {
    let greeting = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut name = [0; 2];
        stream.read_exact(&mut name).await?;
        Ok::<_, std::io::Error>((stream, String::from_utf8_lossy(&name).into_owned()))
    };
    timeout(LIMIT, greeting).await.map_err(|_| "no greeting".to_owned())?.map_err(|e| e.to_string())
}

/// Sends `text` and expects it back.
pub async fn echo(stream: &mut TcpStream, text: &[u8]) -> Result<(), String> {
    let mut got = vec![0; text.len()];
    let exchange = async {
        stream.write_all(text).await?;
        stream.read_exact(&mut got).await
    };
    timeout(LIMIT, exchange).await.map_err(|_| "no echo".to_owned())?.map_err(|e| e.to_string())?;
    if got == text { Ok(()) } else { Err("another echo".to_owned()) }
}

/// How much of what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// bolt port and calls in flight.
    pub bolt: Option<(u16, usize)>,
    /// HTTP/2 port and streams in flight, half of them streaming both ways.
    pub http2: Option<(u16, usize)>,
    /// TCP port and connections exchanging data.
    pub tcp: Option<(u16, usize)>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Totals {
    pub in_flight: u64,
    pub fresh: u64,
    pub failures: Vec<String>,
}

impl Totals {
    /// Broken 0, fresh failed 0.
    pub fn assert_clean(&self) {
        let shown = self.failures.iter().take(20).collect::<Vec<_>>();
        assert!(self.failures.is_empty(), "{} failures, the first: {shown:#?}", self.failures.len());
        assert!(self.in_flight > 0 && self.fresh > 0, "nothing was measured: {self:?}");
    }
}

/// Running load.
pub struct Traffic {
    ledger: Arc<Ledger>,
    tasks: JoinSet<()>,
}

/// What all tasks write to.
#[derive(Default)]
pub struct Ledger {
    stage: Mutex<String>,
    failures: Mutex<Vec<String>>,
    in_flight: AtomicU64,
    fresh: AtomicU64,
    stop: AtomicBool,
}

impl Ledger {
    pub fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Something begun before ended as it should, or not.
    pub fn finished(&self, what: &str, result: Result<(), String>) {
        self.note(&self.in_flight, "broken", what, result);
    }

    /// Something new succeeded, or not.
    pub fn began(&self, what: &str, result: Result<(), String>) {
        self.note(&self.fresh, "fresh failed", what, result);
    }

    fn note(&self, good: &AtomicU64, bad: &str, what: &str, result: Result<(), String>) {
        match result {
            Ok(()) => drop(good.fetch_add(1, Relaxed)),
            Err(why) => {
                let stage = self.stage.lock().unwrap().clone();
                self.failures.lock().unwrap().push(format!("{bad}: {stage}: {what}: {why}"));
            }
        }
    }
}

impl Traffic {
    /// Starts it; returns when everything is in flight.
    pub async fn start(load: Load) -> Self {
        let ledger = Arc::new(Ledger::default());
        let mut tasks = JoinSet::new();
        if let Some((port, calls)) = load.bolt {
            for index in 0..BOLT_CONNECTIONS {
                let width = calls / BOLT_CONNECTIONS + usize::from(index < calls % BOLT_CONNECTIONS);
                tasks.spawn(calls_in_flight(port, width, ledger.clone()));
            }
            tasks.spawn(steady_calls(port, ledger.clone()));
            tasks.spawn(fresh_calls(port, ledger.clone()));
        }
        if let Some((port, streams)) = load.http2 {
            for _ in 0..HTTP2_CONNECTIONS {
                let client = Arc::new(http2::Client::new(port));
                for index in 0..streams / HTTP2_CONNECTIONS {
                    tasks.spawn(streams_in_flight(client.clone(), index, ledger.clone()));
                }
            }
            tasks.spawn(fresh_streams(port, ledger.clone()));
        }
        if let Some((port, connections)) = load.tcp {
            for _ in 0..connections {
                tasks.spawn(raw_in_flight(port, ledger.clone()));
            }
            tasks.spawn(fresh_raw(port, ledger.clone()));
        }
        sleep(Duration::from_millis(400)).await;
        Traffic { ledger, tasks }
    }

    /// What the test does now, for the report.
    pub fn stage(&self, name: &str) {
        *self.ledger.stage.lock().unwrap() = name.to_owned();
    }

    /// Begins nothing more, waits for what is in flight.
    pub async fn finish(mut self) -> Totals {
        self.ledger.stop.store(true, Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        Totals {
            in_flight: self.ledger.in_flight.load(Relaxed),
            fresh: self.ledger.fresh.load(Relaxed),
            failures: std::mem::take(&mut self.ledger.failures.lock().unwrap()),
        }
    }
}

/// Keeps `width` calls of 0.6–1.2 s in flight on one connection.
async fn calls_in_flight(port: u16, width: usize, ledger: Arc<Ledger>) {
    let mut stream = match TcpStream::connect(("127.0.0.1", port)).await {
        Ok(stream) => stream,
        Err(error) => return ledger.began("bolt connection", Err(error.to_string())),
    };
    let (mut decoder, mut buf) = (Decoder::default(), BytesMut::new());
    let mut owed: HashMap<u32, String> = HashMap::new();
    let mut id = 0u32;
    loop {
        let mut calls = Vec::new();
        while owed.len() < width && !ledger.stopping() {
            id += 1;
            let content = format!("call {id}");
            let delay = (600 + id * 37 % 600).to_string();
            let pairs = [(&b"service"[..], &b"s"[..]), (DELAY_KEY.as_bytes(), delay.as_bytes())];
            calls.extend_from_slice(
                &bolt::request(id, b"c", pairs, content.as_bytes(), -1).unwrap().into_bytes(),
            );
            owed.insert(id, content);
        }
        if owed.is_empty() {
            return;
        }
        let exchange = async {
            stream.write_all(&calls).await?;
            stream.read_buf(&mut buf).await
        };
        let trouble = match timeout(LIMIT, exchange).await {
            Ok(Ok(0)) => Some("connection closed".to_owned()),
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer".to_owned()),
        };
        if let Some(trouble) = trouble {
            for _ in owed {
                ledger.finished("bolt call", Err(trouble.clone()));
            }
            return;
        }
        while let Some(frame) = decoder.decode(&mut buf).unwrap() {
            let result = match (owed.remove(&frame.request_id()), frame.kind(), frame.status()) {
                (Some(sent), Kind::Response, 0) if frame.content() == sent.as_bytes() => Ok(()),
                (sent, kind, status) => Err(format!("{sent:?} was answered by {kind:?}, status {status}")),
            };
            ledger.finished("bolt call", result);
        }
    }
}

/// Short calls one after another on a connection that stays open.
async fn steady_calls(port: u16, ledger: Arc<Ledger>) {
    let mut client = Client::connect(&format!("127.0.0.1:{port}")).await.unwrap();
    while !ledger.stopping() {
        let result = call(&mut client, "0").await;
        let lost = result.is_err();
        ledger.began("bolt call on an old connection", result.map(drop));
        if lost && let Ok(new) = Client::connect(&format!("127.0.0.1:{port}")).await {
            client = new;
        }
        sleep(PAUSE / 4).await;
    }
}

/// Short calls, each on a new connection.
async fn fresh_calls(port: u16, ledger: Arc<Ledger>) {
    while !ledger.stopping() {
        ledger.began("bolt call on a new connection", ask(port, "0").await.map(drop));
        sleep(PAUSE / 4).await;
    }
}

/// One stream after another; odd ones stream both ways.
async fn streams_in_flight(client: Arc<http2::Client>, index: usize, ledger: Arc<Ledger>) {
    let long = 600 + (index as u64 * 37) % 600;
    while !ledger.stopping() {
        if index.is_multiple_of(2) {
            ledger.finished("HTTP/2 request", client.unary(long).await.map(drop));
        } else {
            ledger.finished("HTTP/2 both ways", client.both_ways(long / 60, 60).await.map(drop));
        }
    }
}

/// Short requests on an old and on new connections in turn.
async fn fresh_streams(port: u16, ledger: Arc<Ledger>) {
    let old = http2::Client::new(port);
    while !ledger.stopping() {
        ledger.began("HTTP/2 request on an old connection", old.unary(0).await.map(drop));
        let new = http2::Client::new(port);
        ledger.began("HTTP/2 request on a new connection", new.unary(0).await.map(drop));
        sleep(PAUSE / 4).await;
    }
}

/// A raw connection that exchanges data until the end.
async fn raw_in_flight(port: u16, ledger: Arc<Ledger>) {
    let mut stream = match greet(port).await {
        Ok((stream, _)) => stream,
        Err(error) => return ledger.began("raw connection", Err(error)),
    };
    let mut round = 0u8;
    while !ledger.stopping() {
        round = round.wrapping_add(1);
        if let Err(error) = echo(&mut stream, &[round; 300]).await {
            return ledger.finished("raw connection", Err(error));
        }
        sleep(PAUSE).await;
    }
    ledger.finished("raw connection", finish_raw(stream).await);
}

/// Half-closes and expects the other half to end.
async fn finish_raw(mut stream: TcpStream) -> Result<(), String> {
    stream.shutdown().await.map_err(|e| e.to_string())?;
    match timeout(LIMIT, stream.read(&mut [0])).await {
        Ok(Ok(0)) => Ok(()),
        other => Err(format!("not the end but {other:?}")),
    }
}

async fn fresh_raw(port: u16, ledger: Arc<Ledger>) {
    while !ledger.stopping() {
        let result = async {
            let (mut stream, _) = greet(port).await?;
            echo(&mut stream, b"fresh").await?;
            finish_raw(stream).await
        };
        ledger.began("new raw connection", result.await);
        sleep(PAUSE / 4).await;
    }
}
