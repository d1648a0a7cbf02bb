//! The control plane's side of the build thread: responses in, verdicts out.

use super::build::Input;
use super::extensions::Extensions;
use super::lifecycle::Lifecycle;
use super::sockets::Sockets;
use crate::model::Listener;
use crate::model::Runtime;
use crate::snapshot::builder::{Builder, Change, Kind, ListenerStatus, Origin, State, Status};
use crate::telemetry::{Registration, ServerStats};
use crate::translate::{self, Finding, NoteKind, Translated, envoy};
use crate::xds::client::ClientEvent;
use crate::xds::disk::{self, Entry, Header, Saved, Writer};
use crate::xds::driver::Driver;
use crate::xds::dump::TypeDump;
use crate::xds::message::{RawResource, Rejection, Update};
use crate::xds::types::ResourceType;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long the control plane may take for its first answer before the last good snapshot is applied.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// The ADS protocol state, and what keeps it in step with the builder.
pub struct Ads {
    driver: Driver,
    interest: Option<u64>,
    /// What route tables in use were made of.
    tables: HashMap<Arc<str>, envoy::Known>,
    /// Filters by discovery, and the listeners that wait for any.
    extensions: Extensions,
    /// Those that are asked for.
    asked: BTreeSet<Arc<str>>,
    disk: Option<Disk>,
    server: Arc<Registration<ServerStats>>,
    lifecycle: Arc<Lifecycle>,
    /// The cluster of the streams per type, and whether they are delta; `None`: everything comes by ADS.
    pub own_streams: Option<(String, bool)>,
}

/// The last good snapshot.
struct Disk {
    dir: PathBuf,
    header: Header,
    writer: Writer,
    inputs: mpsc::Sender<Input>,
    /// When it is applied if the control plane has not answered by then.
    restore_at: Option<Instant>,
}

impl Ads {
    /// No stream yet.
    pub fn new(driver: Driver, server: Arc<Registration<ServerStats>>, lifecycle: Arc<Lifecycle>) -> Self {
        Ads {
            driver,
            interest: None,
            tables: HashMap::new(),
            extensions: Extensions::default(),
            asked: BTreeSet::new(),
            disk: None,
            server,
            lifecycle,
            own_streams: None,
        }
    }

    /// Asks for these resources of runtime.
    pub fn follow_runtime(&mut self, resources: impl Iterator<Item = Arc<str>>) {
        let names: Vec<_> = resources.collect();
        self.driver.state.set_interest(crate::xds::driver::now(), ResourceType::Runtime, names);
    }

    /// Keeps the last good snapshot in `dir`. Writes run on threads of their own and report to `inputs`.
    pub fn keep_in(&mut self, dir: PathBuf, header: Header, inputs: mpsc::Sender<Input>) {
        let writer = Writer::new(dir.clone(), header.clone(), None);
        self.disk =
            Some(Disk { dir, header, writer, inputs, restore_at: Some(Instant::now() + FIRST_ANSWER) });
    }

    /// A write has ended.
    pub fn on_saved(&mut self, outcome: &io::Result<Saved>) {
        if let Err(error) = outcome {
            tracing::error!("last good snapshot not saved: {error}");
        }
        if let Some(disk) = &mut self.disk {
            disk.writer.on_finished(Instant::now(), outcome);
        }
    }

    /// Takes in what the stream says.
    pub fn on_event(&mut self, event: ClientEvent, builder: &mut Builder, sockets: &mut Sockets) {
        match &event {
            ClientEvent::Connected { stream } => tracing::info!("control plane connected, stream {stream}"),
            ClientEvent::Disconnected { why, .. } => {
                tracing::warn!("control plane lost: {why}");
                self.restore(builder, sockets);
            }
            ClientEvent::Response { .. } => {
                if let Some(disk) = &mut self.disk {
                    disk.restore_at = None;
                }
            }
        }
        if let Some(update) = self.driver.on_event(event) {
            self.judge(update, builder, sockets);
        }
    }

    /// Translates and applies an update; answers it with a verdict per resource.
    fn judge(&mut self, mut update: Update, builder: &mut Builder, sockets: &mut Sockets) {
        let start = Instant::now();
        let mut rejections = Vec::new();
        let before = (update.kind == ResourceType::Listener).then(|| self.extensions.clone());
        let mut changes = self.changes(update.kind, &update.changed, &mut rejections);
        let noop = update.is_noop();
        let gone = update.removed.iter().chain(&update.withdrawn);
        changes.extend(gone.filter_map(|name| self.removal(update.kind, name)));
        if update.kind == ResourceType::ScopedRoute {
            changes.push(Change::ScopesAnswered);
        }
        if !changes.is_empty() {
            let refused = builder.apply(start, Origin::Ads, changes);
            let unbound = sockets.bind(builder, start);
            for rejection in refused.into_iter().chain(unbound).filter(|r| kind_of(r.kind) == update.kind) {
                let text = format!("{} {}: {}", update.kind.noun(), rejection.name, rejection.why);
                rejections.push(Rejection { name: rejection.name.into(), text });
            }
        }
        if let Some(before) = before {
            self.extensions.take_back(&before, rejections.iter().map(|rejection| &*rejection.name));
        }
        for rejection in &rejections {
            tracing::warn!("rejected {}", rejection.text);
        }
        if update.kind == ResourceType::Listener {
            let refused: Vec<&str> = rejections.iter().map(|rejection| &*rejection.name).collect();
            let lacking = self.lifecycle.note_listeners(&update.changed, &update.removed, &refused, builder);
            if lacking {
                update.keep_unready();
            }
        }
        // Before the verdict: Envoy's order on the wire, and one round trip less until everything is warm.
        self.subscribe(builder);
        let (kind, changed) = (update.kind, update.changed.len());
        self.driver.on_verdicts(update, rejections);
        if kind == ResourceType::Listener {
            let state = &self.driver.state;
            self.lifecycle.keep_lacking(|name| state.is_rejected(kind, name));
        }
        if !noop {
            let took = start.elapsed();
            match kind {
                // Endpoints come and go all the time; a line for each would cost a tenth of the push.
                ResourceType::Endpoint => tracing::debug!("EDS: {changed} changed resources in {took:?}"),
                _ => tracing::info!("{}: {changed} changed resources in {took:?}", kind.label()),
            }
            if let Some(disk) = &mut self.disk {
                disk.writer.mark_changed(start);
            }
        }
    }

    fn changes(
        &mut self,
        kind: ResourceType,
        raws: &[RawResource],
        rejections: &mut Vec<Rejection>,
    ) -> Vec<Change> {
        let mut changes = Vec::with_capacity(raws.len());
        for raw in raws {
            let bytes = &raw.bytes;
            let change = match kind {
                ResourceType::Runtime => envoy::runtime::runtime(bytes).map(|t| {
                    let (resource, values) = self.noted(t);
                    Change::Runtime { resource, values }
                }),
                ResourceType::Cluster => envoy::cluster(bytes)
                    .and_then(|t| self.placed("Cluster", raw, t))
                    .map(|t| Change::Cluster(Arc::new(self.noted(t)))),
                ResourceType::Endpoint => {
                    envoy::endpoints(bytes).map(|t| Change::Endpoints(Arc::new(self.noted(t))))
                }
                ResourceType::Listener => {
                    let read = self.extensions.listener(&raw.name, bytes, Instant::now());
                    match read.and_then(|(t, waits)| Ok((self.placed("Listener", raw, t)?, waits))) {
                        Ok((_, true)) => continue,
                        Ok((translated, false)) => Ok(self.of_listener(translated)),
                        Err(rejection) => Err(rejection),
                    }
                }
                ResourceType::Extension => match self.extensions.arrived(&raw.name, bytes) {
                    Ok(listeners) => {
                        changes.extend(listeners.into_iter().map(|translated| self.of_listener(translated)));
                        continue;
                    }
                    Err(rejection) => Err(rejection),
                },
                ResourceType::ScopedRoute => {
                    envoy::scoped_route(bytes).map(|t| Change::ScopedRoute(Arc::new(self.noted(t))))
                }
                ResourceType::Route => {
                    envoy::route_after(bytes, self.tables.get(&raw.name)).map(|(table, known)| {
                        self.tables.insert(raw.name.clone(), known);
                        Change::Routes(self.noted(table))
                    })
                }
            };
            match change {
                Ok(change) => changes.push(change),
                Err(rejection) => {
                    rejections.push(Rejection { name: raw.name.clone(), text: rejection.to_string() });
                }
            }
        }
        changes
    }

    /// Refuses a resource that asks for other streams than there are.
    fn placed<T>(
        &self,
        resource_type: &'static str,
        raw: &RawResource,
        translated: Translated<T>,
    ) -> Result<Translated<T>, translate::Rejection> {
        let expected = || match &self.own_streams {
            Some((cluster, delta)) => {
                let kind = if *delta { "DELTA_GRPC" } else { "GRPC" };
                format!(
                    "resources come by {kind} from cluster {cluster:?} here (nearest valid: that, or ads)"
                )
            }
            None => "resources come by ADS here (nearest valid: ads)".to_owned(),
        };
        let mut findings = Vec::new();
        for note in &translated.notes {
            if let NoteKind::OwnStream { cluster, delta } = &note.kind
                && self.own_streams.as_ref() != Some(&(cluster.clone(), *delta))
            {
                findings.push(Finding::error(note.path.as_str(), cluster, expected()));
            }
        }
        if findings.is_empty() {
            return Ok(translated);
        }
        Err(translate::Rejection { resource_type, name: Some(raw.name.to_string()), findings })
    }

    fn of_listener(&self, translated: Translated<Listener>) -> Change {
        Change::Listener(Arc::new(self.noted(translated)))
    }

    /// Counts what an accepted resource says that does nothing.
    fn noted<T>(&self, translated: Translated<T>) -> T {
        for note in &translated.notes {
            match note.kind {
                NoteKind::UnknownField => {
                    self.server.dynamic_unknown_fields.inc();
                    tracing::debug!("unknown field {}", note.path);
                }
                NoteKind::NotSpoken => self.server.tls_names_left_out.inc(),
                NoteKind::NoEffect | NoteKind::OwnStream { .. } => {}
            }
        }
        translated.model
    }

    /// Applies the last good snapshot, unless the control plane has answered or it was applied before.
    fn restore(&mut self, builder: &mut Builder, sockets: &mut Sockets) {
        let Some(disk) = self.disk.as_mut().filter(|disk| disk.restore_at.is_some()) else { return };
        disk.restore_at = None;
        let loaded = match disk::load(&disk.dir, &disk.header) {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return,
            Err(error) => {
                tracing::error!("{error}");
                return;
            }
        };
        disk.writer = Writer::new(disk.dir.clone(), disk.header.clone(), Some(loaded.digest));
        let start = Instant::now();
        let saved_at = loaded.saved_at;
        let mut by_kind = ResourceType::ALL.map(|kind| (kind, Vec::new()));
        for entry in loaded.entries {
            if let Some((_, raws)) = by_kind.iter_mut().find(|(kind, _)| *kind == entry.kind) {
                raws.push(entry.into_raw());
            }
        }
        for (kind, raws) in by_kind {
            let mut rejections = Vec::new();
            let mut changes = self.changes(kind, &raws, &mut rejections);
            if kind == ResourceType::ScopedRoute && !raws.is_empty() {
                changes.push(Change::ScopesAnswered);
            }
            for rejection in &rejections {
                tracing::warn!("last good snapshot: {}", rejection.text);
            }
            let mut refused: Vec<_> =
                rejections.into_iter().map(|rejection| rejection.name.to_string()).collect();
            for rejection in builder.apply(start, Origin::Ads, changes) {
                tracing::warn!("last good snapshot: {rejection}");
                refused.push(rejection.name);
            }
            let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
            let listeners = kind == ResourceType::Listener;
            let lacking = listeners && self.lifecycle.note_listeners(&raws, &[], &refused, builder);
            if kind.is_wildcard() && !lacking {
                self.driver.state.count_success(kind);
            }
            if !raws.is_empty() {
                let since = saved_at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                self.driver.state.restored_from(kind, u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
            }
            self.driver.state.restore(kind, raws);
        }
        sockets.bind(builder, start);
        let age = saved_at.elapsed().unwrap_or_default().as_secs();
        tracing::warn!("serving the last good snapshot, {age} s old, until the control plane answers");
    }

    /// Takes away what the control plane has not renewed in time.
    fn expire(&mut self, at: Instant, builder: &mut Builder, sockets: &mut Sockets) {
        for (kind, names) in self.driver.take_expired() {
            tracing::warn!("{}: time to live over for {names:?}", kind.label());
            let changes = names.iter().filter_map(|name| self.removal(kind, name)).collect();
            builder.apply(at, Origin::Ads, changes);
            sockets.bind(builder, at);
            if let Some(disk) = &mut self.disk {
                disk.writer.mark_changed(at);
            }
        }
    }

    /// Subscriptions, delayed answers, times to live, saving.
    pub fn pump(&mut self, at: Instant, builder: &mut Builder, sockets: &mut Sockets) {
        let restore_at = self.disk.as_ref().and_then(|disk| disk.restore_at);
        if restore_at.is_some_and(|restore| restore <= at) {
            self.restore(builder, sockets);
        }
        if self.driver.next_timeout().is_some_and(|due| due <= at) {
            self.driver.on_timeout();
            self.expire(at, builder, sockets);
        }
        if self.extensions.deadline().is_some_and(|due| due <= at) {
            let complete = self.extensions.expired(at);
            let changes = complete.into_iter().map(|translated| self.of_listener(translated)).collect();
            builder.apply(at, Origin::Ads, changes);
            sockets.bind(builder, at);
        }
        self.subscribe(builder);
        if let Some(disk) = &mut self.disk
            && disk.writer.due(at)
        {
            let (job, inputs, entries) = (disk.writer.begin(), disk.inputs.clone(), entries(&self.driver));
            std::thread::spawn(move || {
                let outcome = job.run(entries);
                let _ = inputs.blocking_send(Input::Saved(outcome));
            });
        }
    }

    /// Asks for the endpoints, routes and extensions that are needed now.
    fn subscribe(&mut self, builder: &Builder) {
        let wanted = self.extensions.wanted();
        if wanted != self.asked {
            let names = wanted.iter().cloned();
            self.driver.state.set_interest(crate::xds::driver::now(), ResourceType::Extension, names);
            self.asked = wanted;
            self.driver.flush();
        }
        if self.interest == Some(builder.interest_version()) {
            return;
        }
        self.interest = Some(builder.interest_version());
        let interest = builder.interest();
        let now = crate::xds::driver::now();
        self.driver.state.set_interest(now, ResourceType::Endpoint, interest.endpoints);
        if interest.scopes {
            self.driver.state.want_all(now, ResourceType::ScopedRoute);
        }
        self.tables.retain(|name, _| interest.routes.binary_search(name).is_ok());
        self.driver.state.set_interest(now, ResourceType::Route, interest.routes);
        self.driver.flush();
    }

    /// When [`pump`](Self::pump) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let disk = self.disk.as_ref();
        let restore = disk.and_then(|disk| disk.restore_at);
        let save = disk.and_then(|disk| disk.writer.next_due());
        let extensions = self.extensions.deadline();
        [self.driver.next_timeout(), restore, save, extensions].into_iter().flatten().min()
    }

    /// Listeners that wait for extensions.
    pub fn waiting(&self) -> usize {
        self.extensions.waiting().count()
    }

    /// Tells of them in `status`.
    pub fn tell_waiting(&self, status: &mut Status) {
        for (name, missing) in self.extensions.waiting() {
            let blocked_by: Vec<String> = missing.iter().map(|name| format!("ECDS {name}")).collect();
            match status.listeners.iter_mut().find(|listener| listener.name == *name) {
                Some(listener) => {
                    listener.state = State::Updating;
                    listener.blocked_by.extend(blocked_by);
                }
                None => status.listeners.push(ListenerStatus {
                    name: name.clone(),
                    origin: Origin::Ads,
                    state: State::Warming,
                    shadowed: false,
                    blocked_by,
                    rejected: None,
                }),
            }
        }
    }

    /// What it means that a resource is gone. EDS, RDS and ECDS resources stay while something refers to them.
    fn removal(&mut self, kind: ResourceType, name: &str) -> Option<Change> {
        Some(match kind {
            ResourceType::Cluster => Change::ClusterRemoved(name.to_owned()),
            ResourceType::Listener => {
                self.extensions.forget(name);
                Change::ListenerRemoved(name.to_owned())
            }
            ResourceType::ScopedRoute => Change::ScopedRouteRemoved(name.to_owned()),
            ResourceType::Runtime => {
                Change::Runtime { resource: name.to_owned(), values: Runtime::default() }
            }
            ResourceType::Endpoint => Change::EndpointsWithdrawn(name.to_owned()),
            ResourceType::Route => Change::RoutesWithdrawn(name.to_owned()),
            ResourceType::Extension => return None,
        })
    }

    /// A resource that had been refused for an outside cause is good after all.
    pub fn recovered(&mut self, kind: ResourceType, name: &str) {
        self.driver.state.accept_late(crate::xds::driver::now(), kind, name);
        let listeners = kind == ResourceType::Listener;
        if listeners && self.lifecycle.listener_recovered(name) {
            self.driver.state.count_success(kind);
        }
    }

    /// What is held, per type.
    pub fn dump(&self) -> Vec<(ResourceType, TypeDump)> {
        ResourceType::ALL.into_iter().map(|kind| (kind, self.driver.state.dump(kind))).collect()
    }

    /// Saves what is not saved yet; returns when it is on disk.
    pub fn save_now(&mut self) {
        if let Some(disk) = &mut self.disk
            && disk.writer.next_due().is_some()
        {
            let outcome = disk.writer.begin().run(entries(&self.driver));
            self.on_saved(&outcome);
        }
    }
}

/// Everything that is held, for the disk.
fn entries(driver: &Driver) -> Vec<Entry> {
    let held = |kind| {
        let names = driver.state.dump(kind).resources.into_iter().map(|resource| resource.name);
        names.filter_map(move |name| driver.state.held(kind, &name)).map(move |raw| Entry::new(kind, raw))
    };
    ResourceType::ALL.into_iter().flat_map(held).collect()
}

fn kind_of(kind: Kind) -> ResourceType {
    match kind {
        Kind::Cluster => ResourceType::Cluster,
        Kind::Endpoints => ResourceType::Endpoint,
        Kind::Routes => ResourceType::Route,
        Kind::ScopedRoute => ResourceType::ScopedRoute,
        Kind::Listener => ResourceType::Listener,
    }
}
