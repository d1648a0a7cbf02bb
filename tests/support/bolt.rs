//! A bolt client that sees every frame: many calls at once, raw bytes, ids of its own.

use bytes::{Bytes, BytesMut};
use mizzen::protocol::bolt;
use mizzen::protocol::rpc::{Decoder, Frame};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(15);

pub struct Peer {
    pub stream: TcpStream,
    decoder: Decoder,
    buf: BytesMut,
}

impl Peer {
    pub async fn connect(port: u16) -> Peer {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream, decoder: Decoder::default(), buf: BytesMut::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        timeout(LIMIT, self.stream.write_all(bytes)).await.expect("it reads").unwrap();
    }

    /// The next frame; `None`: the peer closed in good order.
    pub async fn next(&mut self) -> Option<Frame> {
        let next = async {
            loop {
                if let Some(frame) = self.decoder.decode(&mut self.buf).unwrap() {
                    return Some(frame);
                }
                self.buf.reserve(self.decoder.need());
                if self.stream.read_buf(&mut self.buf).await.unwrap() == 0 {
                    return None;
                }
            }
        };
        timeout(LIMIT, next).await.expect("a frame or the end")
    }

    /// Sends a call and waits for its answer: id and status.
    pub async fn ask(&mut self, call: &[u8]) -> (u32, u16) {
        self.send(call).await;
        let answer = self.next().await.expect("an answer");
        (answer.request_id(), answer.status())
    }
}

/// A call with the header `service: s` and these others.
pub fn call(id: u32, timeout_ms: i32, headers: &[(&str, &str)], content: &[u8]) -> Bytes {
    call_to("s", id, timeout_ms, headers, content)
}

/// A call to a service.
pub fn call_to(service: &str, id: u32, timeout_ms: i32, headers: &[(&str, &str)], content: &[u8]) -> Bytes {
    let service = [(&b"service"[..], service.as_bytes())];
    let pairs = service.into_iter().chain(headers.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())));
    bolt::request(id, b"test.Class", pairs, content, timeout_ms).unwrap().into_bytes()
}
