//! The sample client.

use super::{CLASS, Error, SERVER_KEY, print};
use crate::cli::SampleClient;
use crate::protocol::bolt::{self, Status, heartbeat_ack};
use crate::protocol::rpc::{DecodeError, Decoder, Frame, HeaderOverflow, Kind};
use bytes::BytesMut;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How much longer than the frame's own timeout the client waits, so that a proxy can tell it first.
const GRACE: Duration = Duration::from_secs(1);

/// Why a call got no successful answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// As given.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection ended or broke.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The peer's bytes are not bolt.
    #[error("bad answer: {0}")]
    Decode(#[from] DecodeError),
    /// The call does not fit a frame.
    #[error(transparent)]
    Encode(#[from] HeaderOverflow),
    /// Answered with another status than success.
    #[error("status {0} {name}", name = status_name(*.0))]
    Status(u16),
}

/// A connection on which one call is made at a time.
pub struct Client {
    stream: TcpStream,
    decoder: Decoder,
    buf: BytesMut,
    last_id: u32,
    leaving: bool,
}

impl Client {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// [`CallError::Connect`].
    pub async fn connect(address: &str) -> Result<Self, CallError> {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream =
            connecting.await.map_err(|source| CallError::Connect { address: address.to_owned(), source })?;
        Ok(Client { stream, decoder: Decoder::default(), buf: BytesMut::new(), last_id: 0, leaving: false })
    }

    /// Makes one call and waits for its answer, whatever its status. `limit` goes into the frame.
    ///
    /// # Errors
    /// Anything but [`CallError::Connect`] and [`CallError::Status`]; make a new connection then.
    pub async fn call(
        &mut self,
        headers: &[(&str, &str)],
        content: &[u8],
        limit: Duration,
    ) -> Result<Frame, CallError> {
        self.last_id = self.last_id.wrapping_add(1);
        let id = self.last_id;
        let pairs = headers.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
        let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        let call = bolt::request(id, CLASS, pairs, content, milliseconds)?.into_bytes();
        let answered = async {
            self.stream.write_all(&call).await?;
            self.answer(id).await
        };
        timeout(limit.saturating_add(GRACE), answered).await.map_err(|_| CallError::Timeout(limit))?
    }

    /// Whether the peer has said, by the last answer, that it is leaving: it serves on, but a new connection
    /// is wanted.
    pub fn is_told_to_leave(&self) -> bool {
        self.leaving
    }

    async fn answer(&mut self, id: u32) -> Result<Frame, CallError> {
        loop {
            while let Some(frame) = self.decoder.decode(&mut self.buf)? {
                match frame.kind() {
                    Kind::Response if frame.request_id() == id => return Ok(frame),
                    Kind::Heartbeat => self.stream.write_all(&heartbeat_ack(&frame)).await?,
                    Kind::GoAway => self.leaving = true,
                    _ => {}
                }
            }
            self.buf.reserve(self.decoder.need());
            if self.stream.read_buf(&mut self.buf).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// `mizzen sample client`: one call, or calls until interrupted, a line each. A loop goes on after a failure
/// and connects anew where needed.
///
/// # Errors
/// The only call failed, or stdout is gone.
pub async fn run_client(args: SampleClient) -> Result<(), Error> {
    let mut client = None;
    let mut calls = 0u64;
    loop {
        calls += 1;
        let began = Instant::now();
        let called = call_and_print(&mut client, &args, calls, began).await;
        match called {
            // Its line has been printed.
            Err(Error::Call(CallError::Status(_))) if args.repeat => {}
            Err(Error::Call(error)) if args.repeat => {
                print(format_args!("{calls} FAILED {:.2} ms: {error}", milliseconds(began)))?;
            }
            other if !args.repeat => return other,
            other => other?,
        }
        sleep(args.interval).await;
    }
}

async fn call_and_print(
    client: &mut Option<Client>,
    args: &SampleClient,
    number: u64,
    began: Instant,
) -> Result<(), Error> {
    // Only a connection whose last call was answered is put back.
    let mut connection = match client.take() {
        Some(connection) => connection,
        None => Client::connect(&args.addr).await?,
    };
    let content = format!("hello {number}");
    let headers = [("service", args.service.as_str())];
    let answer = connection.call(&headers, content.as_bytes(), args.timeout).await?;
    if !connection.is_told_to_leave() {
        *client = Some(connection);
    }
    let server = answer.header(SERVER_KEY.as_bytes()).unwrap_or(b"none");
    print(format_args!(
        "{number} {} {:.2} ms, server {}: {}",
        status_name(answer.status()),
        milliseconds(began),
        String::from_utf8_lossy(server),
        String::from_utf8_lossy(answer.content()),
    ))?;
    if answer.status() == Status::Success.code() {
        return Ok(());
    }
    Err(CallError::Status(answer.status()).into())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn status_name(code: u16) -> &'static str {
    Status::from_code(code).map_or("unknown status", Status::name)
}
