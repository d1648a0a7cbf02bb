//! HTTP/2 with prior knowledge: a server that echoes and says its name, and a client that makes a new
//! connection when the old one says it is leaving.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits `x-delay` milliseconds, answers 200 with `x-server`, echoes the body as it comes, ends with a trailer.
pub async fn server(name: &'static str) -> SocketAddr {
    server_at(name, ([127, 0, 0, 1], 0).into()).await
}

/// The same at `address`.
pub async fn server_at(name: &'static str, address: SocketAddr) -> SocketAddr {
    let socket = TcpListener::bind(address).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                // By default 138 small frames that nobody has read yet end the connection, here of 200 streams.
                builder.max_concurrent_streams(1000).data_frame_budget(1 << 24);
                let mut connection = builder.handshake::<_, Bytes>(stream).await?;
                while let Some(accepted) = connection.accept().await {
                    let (request, respond) = match accepted {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            println!("server {name}: the connection ended: {error}");
                            return Err(error);
                        }
                    };
                    tokio::spawn(answer(name, request, respond));
                }
                Ok::<_, h2::Error>(())
            });
        }
    });
    address
}

async fn answer(
    name: &'static str,
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let delay = request.headers().get("x-delay").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    sleep(Duration::from_millis(delay.unwrap_or(0))).await;
    let response = Response::builder().header("x-server", name).body(()).unwrap();
    let mut send = respond.send_response(response, false)?;
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        let _ = body.flow_control().release_capacity(chunk.len());
        // An empty chunk is how some clients end their side; said again it would be a frame about nothing.
        if !chunk.is_empty() {
            send.send_data(chunk, false)?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    send.send_trailers(trailers)
}

/// Streams to one port, on one connection at a time.
pub struct Client {
    port: u16,
    current: Mutex<Option<SendRequest<Bytes>>>,
}

impl Client {
    /// Not connected yet.
    pub fn new(port: u16) -> Self {
        Client { port, current: Mutex::new(None) }
    }

    async fn sender(&self) -> Result<SendRequest<Bytes>, String> {
        let mut current = self.current.lock().await;
        if let Some(open) = current.take()
            && let Ok(ready) = open.ready().await
        {
            *current = Some(ready.clone());
            return Ok(ready);
        }
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let (send, connection) = h2::client::Builder::new()
            .data_frame_budget(1 << 24)
            .handshake(stream)
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let ready = send.ready().await.map_err(|e| format!("new connection: {e}"))?;
        *current = Some(ready.clone());
        Ok(ready)
    }

    /// One request with a body, answered after `delay` milliseconds: the server's name.
    pub async fn unary(&self, delay: u64) -> Result<String, String> {
        let exchange = async {
            let (name, mut body) = loop {
                let (answer, mut body) = self.open(delay).await?;
                let sent = body.send_data(Bytes::from_static(b"question"), true);
                match head(answer).await {
                    Err(Refused::Unprocessed) => continue,
                    Err(Refused::Because(why)) => return Err(format!("{why}, sent: {sent:?}")),
                    Ok(answered) => break answered,
                }
            };
            let mut got = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.map_err(|e| format!("body: {e}"))?;
                let _ = body.flow_control().release_capacity(chunk.len());
                got.extend_from_slice(&chunk);
            }
            if got != b"question" {
                return Err(format!("body {got:?}"));
            }
            trailers(body).await?;
            Ok(name)
        };
        timeout(LIMIT, exchange).await.map_err(|_| "no answer".to_owned())?
    }

    /// A stream on which `rounds` messages go there and back, `pause` milliseconds apart: the server's name.
    pub async fn both_ways(&self, rounds: u64, pause: u64) -> Result<String, String> {
        let exchange = async {
            let (mut send, (name, mut body)) = loop {
                let (answer, send) = self.open(0).await?;
                match head(answer).await {
                    Err(Refused::Unprocessed) => continue,
                    Err(Refused::Because(why)) => return Err(why),
                    Ok(answered) => break (send, answered),
                }
            };
            for round in 0..rounds {
                let message = Bytes::from(vec![round as u8; 100]);
                send.send_data(message.clone(), false).map_err(|e| format!("send, round {round}: {e}"))?;
                let mut got = Vec::new();
                while got.len() < message.len() {
                    let chunk = body.data().await.ok_or(format!("ended in round {round}"))?;
                    let chunk = chunk.map_err(|e| format!("round {round}: {e}"))?;
                    let _ = body.flow_control().release_capacity(chunk.len());
                    got.extend_from_slice(&chunk);
                }
                if got != message {
                    return Err(format!("another echo in round {round}"));
                }
                sleep(Duration::from_millis(pause)).await;
            }
            send.send_data(Bytes::new(), true).map_err(|e| format!("end: {e}"))?;
            if let Some(more) = body.data().await {
                return Err(format!("more data: {more:?}"));
            }
            trailers(body).await?;
            Ok(name)
        };
        timeout(LIMIT, exchange).await.map_err(|_| "no answer".to_owned())?
    }

    async fn open(&self, delay: u64) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), String> {
        let request = || {
            let uri = format!("http://127.0.0.1:{}/service/method", self.port);
            Request::post(uri).header("x-delay", delay.to_string()).body(()).unwrap()
        };
        let mut sender = self.sender().await?;
        match sender.send_request(request(), false) {
            Ok(opened) => Ok(opened),
            // It said so between the look and the use: nothing was sent.
            Err(error) if error.is_go_away() => {
                let mut sender = self.sender().await?;
                sender.send_request(request(), false).map_err(|e| format!("open again: {e}"))
            }
            Err(error) => Err(format!("open: {error}")),
        }
    }
}

/// Why there is no head.
enum Refused {
    /// The connection ends in good order and did not look at this stream (RFC 9113, 6.8): it crossed the GOAWAY
    /// on its way, and every client sends it again elsewhere.
    Unprocessed,
    Because(String),
}

async fn head(answer: h2::client::ResponseFuture) -> Result<(String, h2::RecvStream), Refused> {
    let response = answer.await.map_err(|error| {
        if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) {
            Refused::Unprocessed
        } else {
            Refused::Because(format!("head: {error}"))
        }
    })?;
    if response.status() != 200 {
        return Err(Refused::Because(format!("status {}", response.status())));
    }
    let name = response.headers().get("x-server").and_then(|v| v.to_str().ok()).unwrap_or("none").to_owned();
    Ok((name, response.into_body()))
}

async fn trailers(mut body: h2::RecvStream) -> Result<(), String> {
    let trailers = body.trailers().await.map_err(|e| format!("trailers: {e}"))?;
    match trailers.and_then(|t| t.get("grpc-status").cloned()) {
        Some(status) if status == "0" => Ok(()),
        other => Err(format!("trailer {other:?}")),
    }
}

/// One request without a body on a connection of its own: the response and its body.
pub async fn get(port: u16, path: &str, fields: &[(&str, &str)]) -> Response<Bytes> {
    let exchange = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut request = Request::get(format!("http://h.test{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut send = send.ready().await.unwrap();
        let (answer, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
        let (head, mut body) = answer.await.unwrap().into_parts();
        let mut got = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.unwrap();
            let _ = body.flow_control().release_capacity(chunk.len());
            got.extend_from_slice(&chunk);
        }
        driver.abort();
        Response::from_parts(head, got.into())
    };
    timeout(LIMIT, exchange).await.expect("an answer in time")
}
