//! The plain values that pass between the stream, the state and the build thread.
//!
//! No generated type appears here: `state` and its tests need no protobuf, and the conversion is in one
//! place (`convert`). Names and versions are `Arc<str>` because the same name sits in the subscription, the
//! held set, a request and a dump at once.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::types::ResourceType;

/// The time of an event, read by the caller.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub instant: Instant,
    /// For what people read: milliseconds since 1970.
    pub unix_ms: u64,
}

/// One response of the stream, either variant.
#[derive(Debug, Clone, Default)]
pub struct Response {
    /// Type URL of the response as a whole.
    pub type_url: String,
    /// Echoed in the answer.
    pub nonce: String,
    /// `version_info`, or `system_version_info` in delta.
    pub version: String,
    /// The resources.
    pub items: Vec<Item>,
    /// Delta only: names that are gone.
    pub removed: Vec<String>,
    /// `control_plane.identifier`, empty when not given.
    pub control_plane: String,
}

/// One resource of a response, not yet decoded.
#[derive(Debug, Clone, Default)]
pub struct Item {
    /// `Resource.name` of the wrapper; empty in a bare state-of-the-world resource.
    pub name: String,
    /// `Resource.version`; empty where the server sets none.
    pub version: String,
    /// Type URL of the body.
    pub type_url: Cow<'static, str>,
    /// The encoded message, `None` in a heartbeat, which names a resource to keep. It may lie in the memory of
    /// the whole response: whoever keeps it copies it.
    pub body: Option<Bytes>,
    /// How long it is good for without a further sign; `None`: for ever.
    pub ttl: Option<Duration>,
}

/// A resource as received: what the build thread decodes and translates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawResource {
    /// The resource's own name, from inside the message.
    pub name: Arc<str>,
    /// The encoded message, in memory of its own.
    pub bytes: Bytes,
    /// Its version in delta, the response's in state of the world. May be empty.
    pub version: Arc<str>,
    /// The wrapper's name where it differs from `name`: removals and reconnects use it.
    pub(super) wire_name: Option<Arc<str>>,
    /// How long it is good for; `None`: for ever.
    pub(super) ttl: Option<Duration>,
}

impl RawResource {
    /// A resource whose wrapper name, if any, is its own.
    #[must_use]
    pub const fn new(name: Arc<str>, bytes: Bytes, version: Arc<str>) -> Self {
        Self { name, bytes, version, wire_name: None, ttl: None }
    }
}

/// What one response changes. Hand it back with the verdicts: that sends the ACK or NACK.
#[derive(Debug)]
#[must_use = "a response without verdicts is never acknowledged"]
pub struct Update {
    /// The type of everything in it.
    pub kind: ResourceType,
    /// New, changed, or formerly rejected resources. Unchanged ones are not here. Each name once.
    pub changed: Vec<RawResource>,
    /// CDS and LDS: held resources that are gone.
    pub removed: Vec<Arc<str>>,
    /// EDS and RDS: the server dropped these names. They stay held while something refers to them.
    pub withdrawn: Vec<Arc<str>>,
    pub(super) ticket: Ticket,
}

impl Update {
    /// Nothing to do but to acknowledge.
    #[must_use]
    pub const fn is_noop(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty() && self.withdrawn.is_empty()
    }

    /// What the process cannot be ready without is refused, and nothing serves in its place: the response is no
    /// success, however much of it is accepted.
    pub const fn keep_unready(&mut self) {
        self.ticket.unready = true;
    }
}

/// What the state needs to answer an [`Update`].
#[derive(Debug)]
pub(super) struct Ticket {
    pub stream: u64,
    pub nonce: Arc<str>,
    pub version: Arc<str>,
    /// Refused before anyone decoded them: no name, a second copy, too large, too many.
    pub refused: Vec<Rejected>,
    /// When the response was read.
    pub at: Instant,
    /// How many resources arrived as they are held.
    pub unchanged: usize,
    /// See [`Update::keep_unready`].
    pub unready: bool,
}

/// A verdict against one changed resource. What no rejection names is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The resource's name as in [`RawResource::name`].
    pub name: Arc<str>,
    /// One line for the server: `Cluster name: field.path: value: why`.
    pub text: String,
}

/// A rejected resource, remembered until a good version or a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its name; empty if it could not be read.
    pub name: Arc<str>,
    /// The version that was refused.
    pub version: Arc<str>,
    /// Why.
    pub text: Arc<str>,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What was refused; empty when it was over the size limit.
    pub bytes: Bytes,
    /// The wrapper's name where it differs from `name`.
    pub(super) wire_name: Option<Arc<str>>,
}

impl Rejected {
    pub(super) fn of(raw: RawResource, text: Arc<str>, unix_ms: u64) -> Self {
        let RawResource { name, bytes, version, wire_name, ttl: _ } = raw;
        Self { name, version, text, unix_ms, bytes, wire_name }
    }
}

/// A request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The type it is about.
    pub kind: ResourceType,
    /// The first message of a stream carries the node; no other does.
    pub with_node: bool,
    /// The nonce answered, empty when nothing is.
    pub nonce: Arc<str>,
    /// Set in a NACK: the text of `error_detail`.
    pub error: Option<String>,
    /// The part that differs by variant.
    pub body: RequestBody,
}

/// The part of a request that differs by variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestBody {
    /// State of the world.
    Sotw {
        /// Last accepted version.
        version: Arc<str>,
        /// All subscribed names; empty for the wildcard.
        names: Arc<[Arc<str>]>,
    },
    /// Delta.
    Delta {
        /// Names to add; an empty first request is the wildcard.
        subscribe: Vec<Arc<str>>,
        /// Names to drop.
        unsubscribe: Vec<Arc<str>>,
        /// On the first request of a type: what is held, and its version.
        initial_versions: Vec<(Arc<str>, Arc<str>)>,
    },
}
