//! The build thread's end of the stream: events in, updates out, requests back.
//!
//! Wraps [`AdsState`] with decoding, encoding and the channel to the client task, so that the build thread
//! sees resources and verdicts only. Decoding happens here and not on the control thread: a push of
//! 10,000 clusters costs milliseconds that PINGs and `/ready` must not wait for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::client::{ClientEvent, ClientRequest};
use super::convert;
use super::message::{Now, Rejection, Update};
use super::state::{AdsState, StateConfig, Variant};
use super::stats::XdsStats;
use super::types::ResourceType;
use crate::proto::envoy::config::core::v3::Node;

/// The state and its link to the client task.
#[derive(Debug)]
pub struct Driver {
    /// The protocol state: interests, held resources, dumps. After changing an interest call [`Driver::flush`].
    pub state: AdsState,
    variant: Variant,
    node: Node,
    to_client: mpsc::Sender<ClientRequest>,
    /// Requests the channel had no room for.
    unsent: VecDeque<ClientRequest>,
}

/// Room in the channel from here to the client task, in requests.
const REQUESTS: usize = 1024;
/// When to try again what found no room. The client task empties the channel whenever it runs.
const RETRY: Duration = Duration::from_millis(10);

/// The channel between a driver and its client task.
#[must_use]
pub fn request_channel() -> (mpsc::Sender<ClientRequest>, mpsc::Receiver<ClientRequest>) {
    mpsc::channel(REQUESTS)
}

/// The present, for the state.
#[must_use]
pub fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
}

impl Driver {
    /// A driver that sends to `to_client`; `node` introduces this proxy on every stream.
    #[must_use]
    pub fn new(
        mut config: StateConfig,
        node: Node,
        stats: Arc<XdsStats>,
        to_client: mpsc::Sender<ClientRequest>,
    ) -> Self {
        config.node_bytes = prost::Message::encoded_len(&node);
        Self {
            variant: config.variant,
            state: AdsState::new(config, stats),
            node,
            to_client,
            unsent: VecDeque::new(),
        }
    }

    /// Takes in what the client task reports. A response that changes or answers anything becomes an
    /// update; hand it back through [`Driver::on_verdicts`].
    pub fn on_event(&mut self, event: ClientEvent) -> Option<Update> {
        let update = match event {
            ClientEvent::Connected { stream } => {
                self.state.on_connected(now(), stream);
                None
            }
            ClientEvent::Disconnected { why, .. } => {
                self.state.on_disconnected(&why);
                None
            }
            ClientEvent::Response { stream, message } => match convert::decode(self.variant, message) {
                Ok(response) => self.state.on_response(now(), response),
                Err(error) => {
                    // Neither type nor nonce is known: there is nothing to answer, only to start over.
                    let why = format!("a response that cannot be decoded: {error}");
                    self.unsent.push_back(ClientRequest::Reset { stream, why });
                    None
                }
            },
        };
        self.flush();
        update
    }

    /// Takes the verdicts on an update and sends its ACK or NACK.
    pub fn on_verdicts(&mut self, update: Update, rejections: Vec<Rejection>) {
        self.state.on_verdicts(now(), update, rejections);
        self.flush();
    }

    /// When [`Driver::on_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let retry = (!self.unsent.is_empty()).then(|| Instant::now() + RETRY);
        self.state.next_timeout().into_iter().chain(retry).min()
    }

    /// To be called at [`Driver::next_timeout`].
    pub fn on_timeout(&mut self) {
        self.state.on_timeout(now());
        self.flush();
    }

    /// Resources whose time to live is over.
    #[must_use]
    pub fn take_expired(&mut self) -> Vec<(ResourceType, Vec<Arc<str>>)> {
        self.state.take_expired(now())
    }

    /// Sends what the state has queued; never waits. What finds no room is sent at the next call.
    pub fn flush(&mut self) {
        let (stream, requests) = self.state.take_requests();
        for request in requests {
            let kind = request.kind;
            let bytes = Bytes::from(convert::encode(request, &self.node));
            self.unsent.push_back(ClientRequest::Send { stream, kind, bytes });
        }
        while let Ok(permit) = self.to_client.try_reserve() {
            let Some(request) = self.unsent.pop_front() else { break };
            permit.send(request);
        }
        self.state.stats().pending_requests.set(self.unsent.len() as u64);
        // Without a client task there is no stream to send on.
        if self.to_client.is_closed() {
            self.unsent.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::wire::Message;

    #[test]
    fn response_that_cannot_be_decoded_resets_the_stream() {
        for variant in [Variant::Sotw, Variant::Delta] {
            let (to_client, mut requests) = request_channel();
            let mut driver =
                Driver::new(StateConfig::new(variant), Node::default(), Arc::default(), to_client);
            driver.on_event(ClientEvent::Connected { stream: 3 });
            assert!(matches!(requests.try_recv(), Ok(ClientRequest::Send { stream: 3, .. })));
            let message = Message::from(Bytes::from_static(&[0x0a, 0x7f, 1]));
            assert!(driver.on_event(ClientEvent::Response { stream: 3, message }).is_none());
            let reset = requests.try_recv();
            assert!(
                matches!(reset, Ok(ClientRequest::Reset { stream: 3, why }) if why.starts_with("a response that cannot"))
            );
        }
    }

    #[test]
    fn requests_without_room_are_sent_later_and_none_is_lost() {
        let (to_client, mut requests) = mpsc::channel(1);
        let mut driver =
            Driver::new(StateConfig::new(Variant::Delta), Node::default(), Arc::default(), to_client);
        for stream in 1..=3 {
            driver.on_event(ClientEvent::Connected { stream });
        }
        assert!(driver.next_timeout().is_some());
        for expected in 1..=3 {
            let sent = requests.try_recv();
            assert!(matches!(sent, Ok(ClientRequest::Send { stream, .. }) if stream == expected), "{sent:?}");
            driver.on_timeout();
        }
        assert!(requests.try_recv().is_err());
    }
}
