//! The xDS protocol without sockets and without a clock, for both variants.
//!
//! Owns what is subscribed, what is held and what was refused. Takes in connections, responses, verdicts,
//! interests and the time; gives out [`Update`](super::message::Update)s and the requests to send. The caller, the build thread,
//! hands each update back with its verdicts and then sends what [`AdsState::take_requests`] yields.
//!
//! Order: a first request of a type is sent when all earlier types had theirs; the first LDS request also
//! waits for the first CDS verdict, because the EDS request it causes belongs in front of it. An ACK never
//! waits for warming.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use super::held::Limits;
use super::held::Store;
use super::message::{Now, RawResource, Request, RequestBody};
use super::names::Names;
use super::repeat::Repeat;
use super::requests::{self, MAX_REQUEST_BYTES, delta_changes, delta_subscription, request};
use super::stats::XdsStats;
use super::types::{PerType, ResourceType};

mod response;

/// State of the world or delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// `StreamAggregatedResources`.
    Sotw,
    /// `DeltaAggregatedResources`.
    Delta,
}

/// What the state needs to know once.
#[derive(Debug, Clone)]
pub struct StateConfig {
    /// Which of the two protocols.
    pub variant: Variant,
    /// Encoded size of the node, which the first request has to fit in.
    pub node_bytes: usize,
    /// Bounds of one type.
    pub limits: Limits,
    /// How long the first LDS request of a stream waits for a CDS answer: a server without a single cluster
    /// may never give one in delta.
    pub lds_wait: Duration,
    /// Seed of the jitter.
    pub seed: u64,
    /// Each type has a stream of its own: the first request of each introduces the node.
    pub split: bool,
}

impl StateConfig {
    /// The defaults for `variant`: limits of [`Limits`], 2 s for LDS.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        Self {
            variant,
            node_bytes: 0,
            limits: Limits::default(),
            lds_wait: Duration::from_secs(2),
            seed: 1,
            split: false,
        }
    }
}

/// What is known about one type.
#[derive(Debug)]
pub(super) struct TypeState {
    pub(super) store: Store,
    /// Names wanted; unused for a wildcard type.
    interest: BTreeSet<Arc<str>>,
    /// All resources are wanted; of a wildcard type only.
    whole: bool,
    /// A first request was sent on this stream.
    subscribed: bool,
    /// The node went with it, where the type has a stream of its own.
    introduced: bool,
    /// The last nonce received on this stream.
    nonce: Arc<str>,
    /// State of the world: the last version accepted as a whole.
    pub(super) accepted: Arc<str>,
    /// State of the world: the names of the last request.
    sent: requests::Names,
    /// Updates handed out and not judged yet.
    pending: usize,
    /// State of the world: the interest changed while an update was pending.
    dirty: bool,
    /// An answer held back, and until when.
    delayed: Option<(Instant, Request)>,
    repeat: Repeat,
    /// Something is held that the next answer has to confirm.
    unconfirmed: bool,
    restored: bool,
}

impl TypeState {
    fn new(kind: ResourceType, limits: Limits, names: Arc<Names>) -> Self {
        Self {
            store: Store::new(kind, limits, names),
            interest: BTreeSet::new(),
            // Scopes are asked for when a listener has use for them.
            whole: matches!(kind, ResourceType::Cluster | ResourceType::Listener),
            subscribed: false,
            introduced: false,
            nonce: Arc::from(""),
            accepted: Arc::from(""),
            sent: Arc::from([]),
            pending: 0,
            dirty: false,
            delayed: None,
            repeat: Repeat::default(),
            unconfirmed: false,
            restored: false,
        }
    }
}

/// The protocol state of one aggregated stream.
#[derive(Debug)]
pub struct AdsState {
    config: StateConfig,
    stats: Arc<XdsStats>,
    types: PerType<TypeState>,
    /// The stream in use.
    stream: Option<u64>,
    node_sent: bool,
    /// When LDS is asked for without a CDS answer.
    lds_at: Option<Instant>,
    /// CDS has been judged once, or restored.
    cds_known: bool,
    out: VecDeque<Request>,
    random: u64,
}

impl AdsState {
    /// Nothing held, nothing wanted but the wildcard types.
    #[must_use]
    pub fn new(config: StateConfig, stats: Arc<XdsStats>) -> Self {
        let types = PerType::build(|kind| TypeState::new(kind, config.limits, stats.names(kind).clone()));
        let random = config.seed;
        Self {
            config,
            stats,
            types,
            stream: None,
            node_sent: false,
            lds_at: None,
            cds_known: false,
            out: VecDeque::new(),
            random,
        }
    }

    /// Counters and gauges.
    #[must_use]
    pub const fn stats(&self) -> &Arc<XdsStats> {
        &self.stats
    }

    /// Holds resources read back from disk. They are asked for again without a version, and CDS and LDS
    /// names missing from the first answer go.
    pub fn restore(&mut self, kind: ResourceType, resources: Vec<RawResource>) {
        if resources.is_empty() {
            return;
        }
        let state = self.types.get_mut(kind);
        for raw in resources {
            let name = raw.name.clone();
            state.store.insert(raw, 0);
            if let Some(held) = state.store.held.get_mut(&name) {
                held.unconfirmed = true;
                held.version = Arc::from("");
            }
        }
        state.accepted = Arc::from("");
        (state.unconfirmed, state.restored) = (true, true);
        self.cds_known |= kind == ResourceType::Cluster;
        self.refresh_gauges(kind);
    }

    /// What was restored for `kind` is from `unix_ms`, milliseconds since 1970: the age that gauges tell until the
    /// control plane answers.
    pub fn restored_from(&self, kind: ResourceType, unix_ms: u64) {
        let last = &self.stats.of(kind).last_contact_ms;
        if last.get() == 0 {
            last.set(unix_ms);
        }
    }

    /// A stream is open: everything wanted is asked for anew, in order.
    pub fn on_connected(&mut self, now: Now, stream: u64) {
        self.reset_stream();
        self.stream = Some(stream);
        self.lds_at = Some(now.instant + self.config.lds_wait);
        self.stats.connects.add(1);
        self.stats.connected.set(true);
        self.advance(now);
    }

    /// The stream ended, or an attempt to open one failed. What is held stays.
    pub fn on_disconnected(&mut self, why: &str) {
        self.reset_stream();
        self.stats.connected.set(false);
        self.stats.disconnects.add(1);
        self.stats.last_error.set(Arc::from(why));
        for kind in ResourceType::ALL {
            if self.is_wanted(kind) {
                self.stats.of(kind).update_failure.add(1);
            }
        }
    }

    fn reset_stream(&mut self) {
        self.stream = None;
        self.node_sent = false;
        self.lds_at = None;
        self.out.clear();
        for kind in ResourceType::ALL {
            let state = self.types.get_mut(kind);
            (state.subscribed, state.introduced, state.dirty, state.pending) = (false, false, false, 0);
            (state.nonce, state.delayed) = (Arc::from(""), None);
        }
    }

    fn is_wanted(&self, kind: ResourceType) -> bool {
        let state = self.types.get(kind);
        state.whole || !state.interest.is_empty()
    }

    /// Sends first requests, in order, as far as they may go.
    fn advance(&mut self, now: Now) {
        if self.stream.is_none() {
            return;
        }
        for kind in ResourceType::ALL {
            if self.types.get(kind).subscribed || !self.is_wanted(kind) {
                continue;
            }
            let may_ask = kind != ResourceType::Listener
                || self.cds_known
                || self.lds_at.is_none_or(|at| at <= now.instant);
            if !may_ask {
                break;
            }
            self.subscribe(kind);
        }
    }

    /// The first request of `kind` on this stream.
    fn subscribe(&mut self, kind: ResourceType) {
        let budget = self.budget();
        let state = self.types.get_mut(kind);
        state.subscribed = true;
        self.stats.of(kind).update_attempt.add(1);
        let names: requests::Names = state.interest.iter().cloned().collect();
        if self.config.variant == Variant::Sotw {
            // A server that goes by the version alone must not stay silent about a name that is missing here.
            let complete = !state.restored && names.iter().all(|name| state.store.held.contains_key(name));
            let version = if complete { state.accepted.clone() } else { Arc::from("") };
            state.sent = names.clone();
            self.push(request(kind, Arc::from(""), RequestBody::Sotw { version, names }));
            return;
        }
        let mut versions: Vec<_> = state.store.held.iter().filter(|(_, held)| !held.withdrawn).collect();
        versions.sort_unstable_by_key(|(name, _)| *name);
        let known =
            versions.iter().map(|(name, held)| (held.wire_name.as_ref().unwrap_or(name), &held.version));
        let known: Vec<_> = known.map(|(name, version)| (name.clone(), version.clone())).collect();
        let unlisted: Vec<_> = versions.into_iter().map(|(name, _)| name.clone()).collect();
        let (requests, written) = delta_subscription(kind, &names, &known, budget);
        for name in unlisted.into_iter().skip(written) {
            if let Some(held) = state.store.held.get_mut(&name) {
                (held.unconfirmed, state.unconfirmed) = (true, true);
            }
        }
        for request in requests {
            self.push(request);
        }
    }

    const fn budget(&self) -> usize {
        MAX_REQUEST_BYTES.saturating_sub(self.config.node_bytes)
    }

    /// Queues a request. An answer of the same type that was held back goes first: answers keep their order.
    fn push(&mut self, mut request: Request) {
        if let Some((_, delayed)) = self.types.get_mut(request.kind).delayed.take() {
            self.out.push_back(delayed);
        }
        let sent = match self.config.split {
            true => &mut self.types.get_mut(request.kind).introduced,
            false => &mut self.node_sent,
        };
        request.with_node = !std::mem::replace(sent, true);
        self.out.push_back(request);
    }

    /// All resources of `kind` are needed. They stay subscribed from then on.
    pub fn want_all(&mut self, now: Now, kind: ResourceType) {
        let state = self.types.get_mut(kind);
        if kind.is_wildcard() && !state.whole {
            state.whole = true;
            self.advance(now);
        }
    }

    /// The names of RTDS, EDS or RDS that are needed now. What is no longer needed is unsubscribed and forgotten.
    /// Of no effect on CDS, LDS and SRDS, which are subscribed as a whole.
    pub fn set_interest(&mut self, now: Now, kind: ResourceType, names: impl IntoIterator<Item = Arc<str>>) {
        if kind.is_wildcard() {
            return;
        }
        let names: BTreeSet<Arc<str>> = names.into_iter().collect();
        let budget = self.budget();
        let state = self.types.get_mut(kind);
        let added: Vec<_> = names.difference(&state.interest).cloned().collect();
        let dropped: Vec<_> = state.interest.difference(&names).cloned().collect();
        let strays: Vec<_> = state.store.held.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in dropped.iter().chain(&strays) {
            state.store.forget(name);
        }
        state.store.watch(added.iter(), self.stats.of(kind).update_failure.get());
        state.interest = names;
        let (changed, subscribed) = (!(added.is_empty() && dropped.is_empty()), state.subscribed);
        if self.stream.is_some() && subscribed && changed {
            match self.config.variant {
                Variant::Delta => {
                    for request in delta_changes(kind, &added, &dropped, budget) {
                        self.push(request);
                    }
                }
                // With an answer outstanding the nonce is not ours to use yet.
                Variant::Sotw if state.pending > 0 => state.dirty = true,
                Variant::Sotw => self.push_names(kind),
            }
        }
        self.advance(now);
        self.refresh_gauges(kind);
    }

    /// State of the world: the full list of names, with the last nonce and version.
    fn push_names(&mut self, kind: ResourceType) {
        let state = self.types.get_mut(kind);
        state.dirty = false;
        state.sent = state.interest.iter().cloned().collect();
        let body = RequestBody::Sotw { version: state.accepted.clone(), names: state.sent.clone() };
        let request = request(kind, state.nonce.clone(), body);
        self.push(request);
    }

    /// When [`Self::on_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let delayed = ResourceType::ALL
            .into_iter()
            .filter_map(|kind| self.types.get(kind).delayed.as_ref().map(|(at, _)| *at));
        let waiting =
            self.lds_at.filter(|_| !self.cds_known && !self.types.get(ResourceType::Listener).subscribed);
        let ttls = ResourceType::ALL.into_iter().filter_map(|kind| self.types.get(kind).store.ttls.next());
        delayed.chain(waiting).chain(ttls).min()
    }

    /// Releases what was held back until now.
    pub fn on_timeout(&mut self, now: Now) {
        for kind in ResourceType::ALL {
            let state = self.types.get_mut(kind);
            if let Some((_, answer)) = state.delayed.take_if(|(at, _)| *at <= now.instant) {
                self.out.push_back(answer);
            }
        }
        self.advance(now);
    }

    /// Resources whose time to live is over: CDS and LDS ones are gone, EDS and RDS ones count as taken back.
    #[must_use]
    pub fn take_expired(&mut self, now: Now) -> Vec<(ResourceType, Vec<Arc<str>>)> {
        let mut expired = Vec::new();
        for kind in ResourceType::ALL {
            let names = self.types.get_mut(kind).store.expire(now);
            if !names.is_empty() {
                self.refresh_gauges(kind);
                expired.push((kind, names));
            }
        }
        expired
    }

    /// The requests to send since the last call, in order, and the stream they are for.
    pub fn take_requests(&mut self) -> (u64, Vec<Request>) {
        (self.stream.unwrap_or(0), self.out.drain(..).collect())
    }

    /// Whether anything served comes from disk without the control plane having answered for its type.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        ResourceType::ALL.into_iter().any(|kind| self.stats.of(kind).stale.get())
    }

    pub(super) const fn of(&self, kind: ResourceType) -> &TypeState {
        self.types.get(kind)
    }

    fn refresh_gauges(&self, kind: ResourceType) {
        let (state, stats) = (self.types.get(kind), self.stats.of(kind));
        stats.held.set(state.store.held.len() as u64);
        stats.rejected.set(state.store.rejected.len() as u64);
        stats.stale.set(state.restored && !state.store.held.is_empty());
    }
}

#[cfg(test)]
mod tests;
