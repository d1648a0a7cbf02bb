//! The sample server.

use super::{CLASS, DELAY_KEY, Error, SERVER_KEY, print};
use crate::cli::SampleServer;
use crate::protocol::bolt::{self, Status, heartbeat_ack, reply};
use crate::protocol::rpc::{DecodeError, Decoder, Frame, Kind};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

/// Answers a connection may owe at a time; beyond them it is not read.
const MAX_OWED: usize = 10_000;

/// What the server does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Told in each answer.
    pub name: String,
    /// Wait before each answer.
    pub delay: Duration,
}

/// `mizzen sample server`: listens, says so, serves until the process ends.
///
/// # Errors
/// The address cannot be had, or stdout is gone.
pub async fn run_server(args: SampleServer) -> Result<(), Error> {
    let address = format!("{}:{}", args.host, args.port);
    let listening = async {
        let listener = TcpListener::bind((args.host.as_str(), args.port)).await?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    let (listener, bound) = listening.await.map_err(|source| Error::Listen { address, source })?;
    print(format_args!("sample server `{}` listens on {bound}", args.name))?;
    serve(listener, Settings { name: args.name, delay: args.delay }).await;
    Ok(())
}

/// Accepts and serves until dropped.
pub async fn serve(listener: TcpListener, settings: Settings) {
    let settings = Arc::new(settings);
    // Owned here, so that dropping the server ends its connections.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, settings.clone()));
                }
                // Out of descriptors, most likely: some connection has to end first.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection: answers leave when their time has come, whatever their order.
async fn serve_connection(mut stream: TcpStream, settings: Arc<Settings>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(settings);
    let mut buf = BytesMut::new();
    loop {
        let due = connection.take_due(Instant::now());
        if !due.is_empty() {
            stream.write_all(&due).await?;
        }
        let next = connection.owed.keys().next().map(|(at, _)| *at);
        if connection.closing && next.is_none() {
            return stream.shutdown().await;
        }
        let may_read = !connection.closing && connection.owed.len() < MAX_OWED;
        tokio::select! {
            read = stream.read_buf(&mut buf), if may_read => {
                if read? == 0 {
                    connection.closing = true;
                } else {
                    connection.on_bytes(&mut buf);
                }
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

struct Connection {
    settings: Arc<Settings>,
    decoder: Decoder,
    /// Answers by the time they are due, then by arrival.
    owed: BTreeMap<(Instant, u64), Bytes>,
    arrivals: u64,
    /// Nothing more will be read: end when nothing is owed.
    closing: bool,
}

impl Connection {
    fn new(settings: Arc<Settings>) -> Self {
        let decoder = Decoder::default();
        Connection { settings, decoder, owed: BTreeMap::new(), arrivals: 0, closing: false }
    }

    fn on_bytes(&mut self, buf: &mut BytesMut) {
        loop {
            match self.decoder.decode(buf) {
                Ok(Some(frame)) => self.on_frame(&frame),
                Ok(None) => return,
                Err(error) => {
                    if let Some(id) = error.reply_to() {
                        self.owe(Duration::ZERO, reply(id, Status::CodecException));
                    }
                    if let DecodeError::Fatal { .. } = error {
                        self.closing = true;
                        return;
                    }
                }
            }
        }
    }

    fn on_frame(&mut self, frame: &Frame) {
        match frame.kind() {
            Kind::Request => {
                let own = frame.header(DELAY_KEY.as_bytes()).and_then(|text| std::str::from_utf8(text).ok());
                let delay = own.and_then(|text| text.parse().ok()).map(Duration::from_millis);
                self.owe(delay.unwrap_or(self.settings.delay), answer(frame, &self.settings.name));
            }
            Kind::Heartbeat => self.owe(Duration::ZERO, heartbeat_ack(frame)),
            Kind::Oneway | Kind::Response | Kind::HeartbeatAck | Kind::GoAway => {}
        }
    }

    fn owe(&mut self, delay: Duration, bytes: Bytes) {
        self.arrivals += 1;
        let now = Instant::now();
        self.owed.insert((now.checked_add(delay).unwrap_or(now), self.arrivals), bytes);
    }

    /// Everything due by now, for one write.
    fn take_due(&mut self, now: Instant) -> BytesMut {
        let mut due = BytesMut::new();
        while let Some(entry) = self.owed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            due.extend_from_slice(&entry.remove());
        }
        due
    }
}

/// The call's headers and content back, with the server's name.
fn answer(call: &Frame, name: &str) -> Bytes {
    let named = (Some(SERVER_KEY.as_bytes()), Some(name.as_bytes()));
    let head = bolt::Head { request_id: call.request_id(), codec: call.head().codec, ..bolt::Head::RESPONSE };
    match bolt::encode(head, CLASS, call.headers().chain([named]), call.content()) {
        Ok(frame) => frame.into_bytes(),
        // The echoed block left no room for the name.
        Err(_) => reply(call.request_id(), Status::ServerSerialException),
    }
}
