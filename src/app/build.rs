//! The build thread: the only writer of configuration.
//!
//! Owns the xDS state, the snapshot builder and the listening sockets. Takes in [`Input`]s: stream events,
//! requests for dumps, commands; gives out snapshots, sockets for the workers, and requests for the stream.
//! Decoding, translating, compiling and freeing all happen here, so that the control thread answers
//! `/ready`, PINGs and probes while 10,000 clusters arrive.

use super::ads::Ads;
use super::lifecycle::Lifecycle;
use super::sockets::Sockets;
use crate::model::runtime;
use crate::snapshot::Store;
use crate::snapshot::builder::{Builder, Change, Counts, Event, Order, Origin, Report, Status};
use crate::util::park::Park;
use crate::worker::Sender;
use crate::xds::client::ClientEvent;
use crate::xds::disk::Saved;
use crate::xds::dump::TypeDump;
use crate::xds::types::ResourceType;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How soon after a publication old snapshots are looked at, and how often while any is still held.
const REAP: Duration = Duration::from_millis(250);
/// How long to wait when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// What the build thread is told.
#[derive(Debug)]
pub enum Input {
    /// From the ADS stream.
    Ads(ClientEvent),
    /// A copy of what is held, for the admin.
    Dump(oneshot::Sender<Dump>),
    /// A write of the last good snapshot has ended.
    Saved(std::io::Result<Saved>),
    /// From the control tasks.
    Control(Report),
    /// Set these runtime keys in the admin layer; whether there is one.
    Runtime(Vec<(String, String)>, oneshot::Sender<bool>),
    /// Secrets came, or are wanted.
    Secrets,
    /// Take no new connections.
    StopAccepting {
        /// Only on listeners declared inbound.
        inbound_only: bool,
    },
    /// Save what is not saved yet and end.
    Quit,
}

impl From<ClientEvent> for Input {
    fn from(event: ClientEvent) -> Self {
        Input::Ads(event)
    }
}

impl From<Report> for Input {
    fn from(report: Report) -> Self {
        Input::Control(report)
    }
}

/// Everything the admin shows of configuration.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Per type: versions, raw resources, rejections.
    pub types: Vec<(ResourceType, TypeDump)>,
    /// Where every resource stands.
    pub status: Status,
}

/// Counters and gauges of configuration, readable from other threads.
pub type SharedCounts = Arc<Mutex<Counts>>;

/// The build thread's state.
pub struct Build {
    builder: Builder,
    sockets: Sockets,
    ads: Option<Ads>,
    store: Arc<Store>,
    counts: SharedCounts,
    lifecycle: Arc<Lifecycle>,
    reap_at: Option<Instant>,
    /// What peers are checked against, as of the last look.
    trust: u64,
    /// To the control tasks. At most one order per watched cluster and applied set.
    orders: mpsc::UnboundedSender<Order>,
}

impl Build {
    /// Nothing configured yet.
    pub fn new(
        builder: Builder,
        workers: Vec<Sender>,
        ads: Option<Ads>,
        store: Arc<Store>,
        counts: SharedCounts,
        lifecycle: Arc<Lifecycle>,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Self {
        let sockets = Sockets::new(workers, lifecycle.clone());
        Build { builder, sockets, ads, store, counts, lifecycle, reap_at: None, trust: 0, orders }
    }

    /// Applies the bootstrap's resources. Gives what could not be applied, one line each.
    pub fn apply_static(&mut self, changes: Vec<Change>) -> Vec<String> {
        let now = Instant::now();
        let mut refused: Vec<String> =
            self.builder.apply(now, Origin::Static, changes).iter().map(ToString::to_string).collect();
        refused.extend(self.sockets.bind(&mut self.builder, now).iter().map(ToString::to_string));
        self.pump(now);
        refused
    }

    /// Works until told to quit. Takes the thread it is called on.
    pub fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut park = Park::default();
        loop {
            let due = self.deadline().unwrap_or_else(|| Instant::now() + IDLE);
            match park.until(due, |context| inputs.poll_recv(context)) {
                Some(None | Some(Input::Quit)) => break,
                Some(Some(input)) => self.take(input),
                None => {}
            }
            self.pump(Instant::now());
        }
        if let Some(ads) = &mut self.ads {
            ads.save_now();
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Ads(event) => {
                if let Some(ads) = &mut self.ads {
                    ads.on_event(event, &mut self.builder, &mut self.sockets);
                }
            }
            Input::Dump(answer) => {
                let types = self.ads.as_ref().map(Ads::dump).unwrap_or_default();
                let mut status = self.builder.status(Instant::now());
                self.ads.iter().for_each(|ads| ads.tell_waiting(&mut status));
                let _ = answer.send(Dump { types, status });
            }
            Input::Saved(outcome) => {
                if let Some(ads) = &mut self.ads {
                    ads.on_saved(&outcome);
                }
            }
            Input::Control(report) => self.builder.on_report(Instant::now(), report),
            Input::Runtime(changes, answer) => drop(answer.send(self.builder.modify_runtime(changes))),
            Input::StopAccepting { inbound_only } => self.sockets.stop(&self.builder, inbound_only),
            // What else follows from it is settled after every input.
            Input::Secrets => self.recheck(),
            Input::Quit => {}
        }
    }

    /// Whom peers are checked against has changed, and connections are not to outlive that.
    fn recheck(&mut self) {
        let version = self.lifecycle.trust_version();
        if std::mem::replace(&mut self.trust, version) == version {
            return;
        }
        if self.store.load().runtime.flag(runtime::CLOSE_REVOKED, false) {
            self.sockets.recheck();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let ads = self.ads.as_ref().and_then(Ads::deadline);
        let live = self.lifecycle.deadline();
        [self.builder.deadline(), self.sockets.retry_at(), self.reap_at, ads, live]
            .into_iter()
            .flatten()
            .min()
    }

    /// Brings everything that is due to its end: timers, sockets, publication, subscriptions, freeing.
    fn pump(&mut self, now: Instant) {
        if self.builder.deadline().is_some_and(|at| at <= now) {
            self.builder.tick(now);
        }
        // Late refusals have no response to answer; they are logged where they happen and shown by the admin.
        let _ = self.sockets.bind(&mut self.builder, now);
        self.publish();
        if self.reap_at.is_some_and(|at| at <= now) {
            self.builder.reap(now);
            self.publish();
            self.reap_at = (self.builder.kept_snapshots() > 0).then_some(now + REAP);
        }
        for order in self.builder.take_orders() {
            let _ = self.orders.send(order);
        }
        for event in self.builder.take_events() {
            self.note(&event);
        }
        if let Some(ads) = &mut self.ads {
            ads.pump(now, &mut self.builder, &mut self.sockets);
        }
        self.publish();
        // Also without a publication: what was shadowed, or has begun to warm, shows in the counts alone.
        let mut counts = self.builder.counts();
        counts.total_listeners_warming += self.ads.as_ref().map_or(0, |ads| ads.waiting() as u64);
        self.lifecycle.settle(Instant::now(), &counts);
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    fn publish(&mut self) {
        if let Some(snapshot) = self.builder.publish() {
            tracing::debug!("generation {}", snapshot.generation);
            self.store.publish(snapshot);
            self.reap_at = self.reap_at.or(Some(Instant::now() + REAP));
        }
        self.sockets.follow(&self.builder);
    }

    fn note(&mut self, event: &Event) {
        tracing::warn!("{event}");
        if let (Event::ListenerRecovered { listener }, Some(ads)) = (event, &mut self.ads) {
            ads.recovered(ResourceType::Listener, listener);
        }
    }
}
