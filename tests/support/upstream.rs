//! A bolt upstream that does what the test says, and counts its connections.

use bytes::{Bytes, BytesMut};
use mizzen::protocol::bolt::{self, Status};
use mizzen::protocol::rpc::{Decoder, Frame, Kind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// What a connection's writer is told.
pub enum Say {
    Bytes(Bytes),
    /// Close the connection.
    Close,
}

/// Where answers go, at any time.
pub type Out = UnboundedSender<Say>;

/// The upstream.
#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    frames: Arc<AtomicUsize>,
}

impl Upstream {
    /// Calls `on_frame` for every frame but heartbeats, which are answered.
    pub async fn start(on_frame: impl Fn(Frame, &Out) + Send + Sync + 'static) -> Upstream {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream {
            address: socket.local_addr().unwrap(),
            accepted: Arc::default(),
            open: Arc::default(),
            frames: Arc::default(),
        };
        let (counts, on_frame) = (upstream.clone(), Arc::new(on_frame));
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                counts.accepted.fetch_add(1, SeqCst);
                counts.open.fetch_add(1, SeqCst);
                let (counts, on_frame) = (counts.clone(), on_frame.clone());
                tokio::spawn(async move {
                    let _ = serve(stream, &counts, &*on_frame).await;
                    counts.open.fetch_sub(1, SeqCst);
                });
            }
        });
        upstream
    }

    /// Answers every call at once with its own content.
    pub async fn echo() -> Upstream {
        Upstream::start(|frame, out| say(out, ok(&frame))).await
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    /// Frames received, heartbeats not counted.
    pub fn frames(&self) -> usize {
        self.frames.load(SeqCst)
    }
}

pub fn say(out: &Out, bytes: Bytes) {
    let _ = out.send(Say::Bytes(bytes));
}

/// The successful answer to `call`: its headers and content.
pub fn ok(call: &Frame) -> Bytes {
    let head = bolt::Head { request_id: call.request_id(), ..bolt::Head::RESPONSE };
    assert_eq!(head.status, Status::Success.code());
    bolt::encode(head, b"answer", call.headers(), call.content()).unwrap().into_bytes()
}

async fn serve(
    mut stream: TcpStream,
    counts: &Upstream,
    on_frame: &(dyn Fn(Frame, &Out) + Send + Sync),
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (out, mut queue) = unbounded_channel();
    let (mut decoder, mut buf) = (Decoder::default(), BytesMut::new());
    let (mut read, mut write) = stream.split();
    loop {
        tokio::select! {
            got = read.read_buf(&mut buf) => {
                if got? == 0 {
                    return Ok(());
                }
                while let Some(frame) = decoder.decode(&mut buf).unwrap() {
                    if frame.kind() == Kind::Heartbeat {
                        say(&out, bolt::heartbeat_ack(&frame));
                    } else {
                        counts.frames.fetch_add(1, SeqCst);
                        on_frame(frame, &out);
                    }
                }
            }
            said = queue.recv() => match said {
                Some(Say::Bytes(bytes)) => write.write_all(&bytes).await?,
                _ => return Ok(()),
            },
        }
    }
}
