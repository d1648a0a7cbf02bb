//! Load over HTTP/1.1: one request after the other on each connection.

use super::{Plan, Shared, connect, count};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Fields beside Host, as a browser or a client library sends them.
const FIELDS: [(&str, &str); 9] = [
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Referer", "http://bench.local/start"),
    ("Cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
    ("Cache-Control", "no-cache"),
    ("X-Request-Source", "bench"),
    ("X-Trace-Note", "0af7651916cd43dd8448eb211c80319c"),
];

fn request(plan: &Plan) -> Vec<u8> {
    let mut text = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", plan.target(), plan.host);
    for (name, value) in FIELDS.iter().take(plan.fields) {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// Keeps one request going.
pub async fn closed(plan: &Plan, shared: &Shared) -> Result<()> {
    let mut client = Client::open(plan).await?;
    loop {
        let began = Instant::now();
        let ok = client.ask(plan.size).await?;
        count(shared, ok, began);
    }
}

/// Opens a connection and makes one request on it.
pub async fn one(plan: &Plan) -> Result<TcpStream> {
    let mut client = Client::open(plan).await?;
    anyhow::ensure!(client.ask(plan.size).await?, "not the answer that was wanted");
    Ok(client.socket)
}

struct Client {
    socket: TcpStream,
    request: Vec<u8>,
    input: BytesMut,
    /// Bytes one read may bring.
    room: usize,
}

impl Client {
    async fn open(plan: &Plan) -> Result<Self> {
        let socket = connect(plan.port).await?;
        let room = plan.size.clamp(4 * 1024, 256 * 1024);
        Ok(Self { socket, request: request(plan), input: BytesMut::new(), room })
    }

    async fn read(&mut self) -> Result<()> {
        self.input.reserve(self.room);
        if self.socket.read_buf(&mut self.input).await? == 0 {
            bail!("closed by the proxy");
        }
        Ok(())
    }

    /// One request; whether the answer is a 200 of `size` bytes.
    async fn ask(&mut self, size: usize) -> Result<bool> {
        self.socket.write_all(&self.request).await?;
        let (ok, mut left) = loop {
            self.read().await?;
            if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.input.split_to(end + 4);
                let length = content_length(&head).context("no content-length")?;
                break (head.starts_with(b"HTTP/1.1 200") && length == size, length);
            }
        };
        loop {
            let here = left.min(self.input.len());
            self.input.advance(here);
            left -= here;
            if left == 0 {
                return Ok(ok);
            }
            self.read().await?;
        }
    }
}

/// What a head says of its body's length.
pub fn content_length(head: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(head).ok()?;
    let field = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    field?.trim().parse().ok()
}
