//! The control thread's end of the stream: one connection, one stream, whole messages.
//!
//! Owns connecting, the backoff between attempts and the hand-over to the build thread. Takes in encoded
//! requests and gives out [`ClientEvent`]s; it looks into no message. It never blocks on a busy build thread:
//! responses wait in a bounded inbox (past the bound the stream is not read, so the server is held back by
//! flow control) and requests are always taken, so the two sides cannot wait for each other.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::grpc::GrpcConnector;
pub use super::grpc::{Address, AdsConfig, Asked};
use super::types::ResourceType;
use super::wire::Message;
use crate::util::backoff::FullJitter;

/// Responses that may wait for the build thread, in bytes. One more may be over it.
const INBOX_BYTES: usize = 32 * 1024 * 1024;
/// The same in number: a server that sends many small ones.
const INBOX_EVENTS: usize = 1024;

/// What happened on the stream.
#[derive(Debug)]
pub enum ClientEvent {
    /// A stream is open; requests may be sent on it.
    Connected {
        /// Its number, from 1 upwards.
        stream: u64,
    },
    /// The stream ended, or an attempt to open one failed.
    Disconnected {
        /// Its number; `None` for an attempt.
        stream: Option<u64>,
        /// One line for people.
        why: String,
    },
    /// A whole response, not decoded.
    Response {
        /// The stream it came on.
        stream: u64,
        /// Its bytes.
        message: Message,
    },
}

/// What the build thread asks for.
#[derive(Debug)]
pub enum ClientRequest {
    /// Send an encoded request; dropped when `stream` is no longer the open one.
    Send {
        /// The stream it is meant for.
        stream: u64,
        /// What it is about.
        kind: ResourceType,
        /// The encoded message.
        bytes: Bytes,
    },
    /// End the stream and open another.
    Reset {
        /// The stream meant.
        stream: u64,
        /// One line for people.
        why: String,
    },
}

/// A bidirectional stream of messages: gRPC in the process, a script in tests.
pub trait AdsStream {
    /// Queues a request about `kind`.
    ///
    /// # Errors
    /// The stream is dead, or the server has left too many requests unread.
    fn send(&mut self, kind: ResourceType, request: Bytes) -> Result<(), String>;

    /// The next response; `None` when the server ended the stream in good order.
    ///
    /// # Errors
    /// One line that says how the stream ended.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, String>>;
}

/// Opens streams, one at a time.
pub trait AdsConnect {
    /// What it opens.
    type Stream: AdsStream;
    /// One attempt.
    ///
    /// # Errors
    /// One line that says what failed.
    fn connect(&mut self) -> impl Future<Output = Result<Self::Stream, String>>;
}

/// Keeps a stream to the configured control plane open until `shutdown` completes or the build thread is
/// gone. Events go to `to_build`, whose item may be any type that can be made from one.
pub async fn run<E: From<ClientEvent>>(
    config: AdsConfig,
    to_build: mpsc::Sender<E>,
    from_build: mpsc::Receiver<ClientRequest>,
    shutdown: impl Future<Output = ()>,
) {
    let backoff = FullJitter::new(config.backoff_base, config.backoff_cap);
    tokio::select! {
        () = drive(GrpcConnector::new(config), backoff, to_build, from_build) => {}
        () = shutdown => {}
    }
}

/// As [`run`], over any connector and without an end of its own but the build thread's.
pub async fn drive<C: AdsConnect, E: From<ClientEvent>>(
    mut connector: C,
    mut backoff: FullJitter,
    to_build: mpsc::Sender<E>,
    from_build: mpsc::Receiver<ClientRequest>,
) {
    let mut link = Link { to_build, from_build, inbox: VecDeque::new(), inbox_bytes: 0 };
    let mut number = 0;
    loop {
        let (stream, why) = match link.during(connector.connect()).await {
            Some(Ok(mut stream)) => {
                number += 1;
                match link.serve(&mut stream, number, &mut backoff).await {
                    Some(why) => (Some(number), why),
                    None => return,
                }
            }
            Some(Err(why)) => (None, why),
            None => return,
        };
        link.push(ClientEvent::Disconnected { stream, why });
        let wait: Duration = backoff.next_wait();
        if link.during(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// The two channels to the build thread.
struct Link<E> {
    to_build: mpsc::Sender<E>,
    from_build: mpsc::Receiver<ClientRequest>,
    inbox: VecDeque<ClientEvent>,
    inbox_bytes: usize,
}

/// What moved in one turn of the link.
enum Turn {
    Request(ClientRequest),
    Delivered,
    /// The build thread is gone.
    Over,
}

impl<E: From<ClientEvent>> Link<E> {
    fn push(&mut self, event: ClientEvent) {
        if let ClientEvent::Response { message, .. } = &event {
            self.inbox_bytes += message.len();
        }
        self.inbox.push_back(event);
    }

    fn is_full(&self) -> bool {
        self.inbox_bytes > INBOX_BYTES || self.inbox.len() >= INBOX_EVENTS
    }

    /// Delivers an event or takes a request, whichever can be done first. Nothing is lost when dropped.
    async fn turn(&mut self) -> Turn {
        tokio::select! {
            biased;
            request = self.from_build.recv() => request.map_or(Turn::Over, Turn::Request),
            permit = self.to_build.reserve(), if !self.inbox.is_empty() => {
                let Ok(permit) = permit else { return Turn::Over };
                if let Some(event) = self.inbox.pop_front() {
                    if let ClientEvent::Response { message, .. } = &event {
                        self.inbox_bytes -= message.len();
                    }
                    permit.send(E::from(event));
                }
                Turn::Delivered
            }
        }
    }

    /// Waits for `work` while events are delivered; requests have no stream to go to. `None` when the build
    /// thread is gone.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                turn = self.turn() => if matches!(turn, Turn::Over) { return None },
            }
        }
    }

    /// Serves one stream until it ends; why it did, or `None` when the build thread is gone.
    async fn serve(
        &mut self,
        stream: &mut impl AdsStream,
        number: u64,
        backoff: &mut FullJitter,
    ) -> Option<String> {
        self.push(ClientEvent::Connected { stream: number });
        loop {
            let may_read = !self.is_full();
            tokio::select! {
                biased;
                turn = self.turn() => match turn {
                    Turn::Delivered => {}
                    Turn::Over => return None,
                    Turn::Request(ClientRequest::Send { stream: of, kind, bytes }) if of == number => {
                        if let Err(why) = stream.send(kind, bytes) {
                            return Some(why);
                        }
                    }
                    Turn::Request(ClientRequest::Reset { stream: of, why }) if of == number => return Some(why),
                    // Meant for a stream that is gone.
                    Turn::Request(_) => {}
                },
                response = poll_fn(|cx| stream.poll_response(cx)), if may_read => match response {
                    Ok(Some(message)) => {
                        backoff.reset();
                        self.push(ClientEvent::Response { stream: number, message });
                    }
                    Ok(None) => return Some("the control plane ended the stream".to_owned()),
                    Err(why) => return Some(why),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
