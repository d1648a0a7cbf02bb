//! HTTP/1 by heads and sizes: a connection that is read so, a server that does what the test says and
//! remembers what it was sent, and a client for one request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection that is read by heads and sizes.
pub struct Text {
    pub stream: TcpStream,
    pub early: Vec<u8>,
}

impl Text {
    pub fn of(stream: TcpStream) -> Text {
        let _ = stream.set_nodelay(true);
        Text { stream, early: Vec::new() }
    }

    pub async fn connect(port: u16) -> Result<Text, String> {
        TcpStream::connect(("127.0.0.1", port)).await.map(Text::of).map_err(|error| error.to_string())
    }

    pub async fn send(&mut self, text: &str) -> Result<(), String> {
        self.stream.write_all(text.as_bytes()).await.map_err(|error| format!("write: {error}"))
    }

    pub async fn fill(&mut self) -> Result<(), String> {
        let mut room = [0; 4096];
        match self.stream.read(&mut room).await {
            Ok(0) => Err("end".into()),
            Ok(n) => {
                self.early.extend_from_slice(&room[..n]);
                Ok(())
            }
            Err(error) => Err(format!("read: {error}")),
        }
    }

    pub async fn until(&mut self, end: &str) -> Result<String, String> {
        loop {
            let at = self.early.windows(end.len()).position(|part| part == end.as_bytes());
            if let Some(at) = at {
                let rest = self.early.split_off(at + end.len());
                return Ok(String::from_utf8(std::mem::replace(&mut self.early, rest)).unwrap());
            }
            self.fill().await?;
        }
    }

    pub async fn exactly(&mut self, size: usize) -> Result<String, String> {
        while self.early.len() < size {
            self.fill().await?;
        }
        let rest = self.early.split_off(size);
        Ok(String::from_utf8(std::mem::replace(&mut self.early, rest)).unwrap())
    }

    /// A response with a known length: whether the connection goes on, and the body.
    pub async fn response(&mut self) -> Result<(bool, String), String> {
        let message = self.message().await?;
        if message.status() != 200 {
            return Err(message.head);
        }
        Ok((message.header("connection") != Some("close"), message.body))
    }

    /// The next message, whole.
    pub async fn message(&mut self) -> Result<Message, String> {
        let head = self.until("\r\n\r\n").await?;
        let mut message = Message { head, body: String::new(), trailers: String::new() };
        if message.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.until("\r\n").await?;
                let size = usize::from_str_radix(size.trim_end(), 16).map_err(|_| "chunk size".to_owned())?;
                if size == 0 {
                    break;
                }
                message.body.push_str(&self.exactly(size).await?);
                self.until("\r\n").await?;
            }
            loop {
                let line = self.until("\r\n").await?;
                if line == "\r\n" {
                    break;
                }
                message.trailers.push_str(&line);
            }
        } else if let Some(size) = message.header("content-length").map(str::to_owned) {
            message.body = self.exactly(size.parse().map_err(|_| "length".to_owned())?).await?;
        }
        Ok(message)
    }
}

/// A request or response.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub head: String,
    pub body: String,
    pub trailers: String,
}

impl Message {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn has(&self, name: &str) -> bool {
        self.header(name).is_some()
    }

    /// Of a response.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    /// Of a request.
    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

/// What a server does with a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Waits first.
    pub after: Duration,
    /// `None`: closes the connection.
    pub text: Option<String>,
}

impl Answer {
    /// A response with these further fields (`name: value`).
    pub fn of(status: u16, fields: &[&str], body: &str) -> Answer {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let head = format!("HTTP/1.1 {status} Word\r\ncontent-length: {}\r\n{fields}\r\n", body.len());
        Answer { after: Duration::ZERO, text: Some(head + body) }
    }

    pub fn ok(body: &str) -> Answer {
        Answer::of(200, &[], body)
    }

    /// No response, and the end of the connection.
    pub fn close() -> Answer {
        Answer { after: Duration::ZERO, text: None }
    }

    pub fn after(self, millis: u64) -> Answer {
        Answer { after: Duration::from_millis(millis), ..self }
    }
}

/// A server.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Server {
    /// Answers each request as `answer` says, which is told how many came before.
    pub async fn start(answer: impl Fn(usize, &Message) -> Answer + Send + Sync + 'static) -> Server {
        Server::at(([127, 0, 0, 1], 0).into(), answer).await
    }

    /// At an address of the test's choice.
    pub async fn at(
        address: SocketAddr,
        answer: impl Fn(usize, &Message) -> Answer + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind(address).await.unwrap();
        let server = Server { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let (seen, answer) = (server.seen.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer) = (seen.clone(), answer.clone());
                tokio::spawn(async move {
                    let mut peer = Text::of(stream);
                    while let Ok(request) = peer.message().await {
                        let before = {
                            let mut seen = seen.lock().unwrap();
                            seen.push(request.clone());
                            seen.len() - 1
                        };
                        let Answer { after, text } = answer(before, &request);
                        sleep(after).await;
                        let Some(text) = text else { return };
                        if peer.send(&text).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        server
    }

    /// Answers with `name`.
    pub async fn named(name: &'static str) -> Server {
        Server::start(move |_, _| Answer::ok(name)).await
    }

    /// What it was sent so far.
    pub fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    /// The only request so far.
    pub fn only(&self) -> Message {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.into_iter().next().unwrap()
    }
}

/// One GET on a connection of its own, with these fields (`name: value`).
pub async fn get(port: u16, path: &str, fields: &[&str]) -> Message {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    ask(port, &format!("GET {path} HTTP/1.1\r\nhost: h.test\r\n{fields}\r\n")).await
}

/// One request on a connection of its own.
pub async fn ask(port: u16, request: &str) -> Message {
    let exchange = async {
        let mut text = Text::connect(port).await?;
        text.send(request).await?;
        text.message().await
    };
    timeout(LIMIT, exchange).await.expect("an answer in time").unwrap()
}
