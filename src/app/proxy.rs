//! A running proxy: workers, build thread, control tasks.

use super::ads::Ads;
use super::build::{Build, Dump, Input, SharedCounts};
use super::lifecycle::{FetchLimits, Lifecycle};
use super::{metrics, name_metrics, server_metrics};
use crate::control;
use crate::control::dns::{Resolve, SystemResolver};
use crate::listener::Spread;
use crate::model::{Layer, LayerSource};
use crate::proto::envoy::config::core::v3::Node;
use crate::snapshot::Store;
use crate::snapshot::builder::{Builder, Change, Options};
use crate::stream::Drain;
use crate::telemetry::files::FileStats;
use crate::telemetry::{Registration, Registry, Scope, ServerStats};
use crate::tls::Secrets;
use crate::worker::{Command, Limits, Loads, Sender, Worker};
use crate::xds::client::{self, AdsConfig};
use crate::xds::disk::Header;
use crate::xds::driver::{Driver, request_channel};
use crate::xds::sds::{self, SdsConfig};
use crate::xds::state::StateConfig;
use crate::xds::stats::XdsStats;
use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Room in the channel to the build thread. Stream events wait beyond it in the client task.
const INPUTS: usize = 64;
/// Unfinished frames over all connections, in bytes.
const UNFINISHED: usize = 256 << 20;
/// How often draining looks whether the last connection has gone.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// What a proxy is made of.
pub struct Plan {
    /// Number of workers, at least 1.
    pub workers: usize,
    /// Resources of the bootstrap.
    pub fixed: Vec<Change>,
    /// The control plane, if there is one.
    pub ads: Option<AdsPlan>,
    /// Holds, lingering, bounds.
    pub options: Options,
    /// Unknown fields counted in the bootstrap.
    pub static_unknown_fields: u64,
    /// Over how long connections are told that their listener changed or went; 0 is at once.
    pub drain_spread: Duration,
    /// How many connections with clients may be open; `None`: any number.
    pub connection_limit: Option<u32>,
    /// Who resolves names; `None`: the system's servers.
    pub resolver: Option<Arc<dyn Resolve>>,
    /// Where secrets come from.
    pub sds: SdsConfig,
    /// Layers of runtime, of the bootstrap and the command line.
    pub layers: Vec<Layer>,
}

/// How to reach the control plane and introduce ourselves.
pub struct AdsPlan {
    /// Addresses, variant, timers.
    pub config: AdsConfig,
    /// Who we are.
    pub node: Node,
    /// Where the last good snapshot is kept, and what it must fit.
    pub state_dir: Option<(PathBuf, Header)>,
    /// How long `/ready` waits for clusters and listeners.
    pub fetch: FetchLimits,
    /// The cluster of the streams per type, and whether they are delta; `None`: everything comes by ADS.
    pub own_streams: Option<(String, bool)>,
}

/// A running proxy. Dropping it ends everything at once.
pub struct Proxy {
    /// Configuration as served.
    pub store: Arc<Store>,
    /// All metrics.
    pub registry: Registry,
    /// State of discovery and draining.
    pub lifecycle: Arc<Lifecycle>,
    /// The control-plane connection's counters.
    pub xds: Arc<XdsStats>,
    /// Certificates and trust bundles.
    pub secrets: Arc<Secrets>,
    /// The server's own metrics.
    pub server: Arc<Registration<ServerStats>>,
    workers: Vec<Worker>,
    loads: Arc<Loads>,
    to_build: mpsc::Sender<Input>,
    build: Option<JoinHandle<()>>,
    _metrics: Vec<Box<dyn Any + Send + Sync>>,
    _end_ads: Option<oneshot::Sender<()>>,
    _end_sds: oneshot::Sender<()>,
}

impl Proxy {
    /// Starts workers and build thread, applies the bootstrap's resources, and keeps a stream to the control
    /// plane open on the calling runtime (which must be able to `spawn_local`… or run on a `LocalSet`).
    ///
    /// # Errors
    /// A thread or runtime could not be made.
    pub fn start(plan: Plan) -> std::io::Result<Proxy> {
        let (store, registry) = (Arc::new(Store::default()), Registry::new());
        registry.introduce(plan.options.node.clone());
        let server = Arc::new(registry.register(Scope::server(), ServerStats::default()));
        server.concurrency.set(plan.workers as i64);
        server.uptime.now();
        server.static_unknown_fields.add(plan.static_unknown_fields);
        let count = plan.workers.max(1);
        let limits = Limits {
            unfinished: UNFINISHED,
            connections: plan.connection_limit,
            drain_spread: plan.drain_spread,
        };
        let (workers, loads) = Worker::start_all(count, &store, &registry, limits)?;
        let secrets = plan.options.secrets.clone();
        let (xds, counts) = (Arc::new(XdsStats::default()), SharedCounts::default());
        let lifecycle =
            Arc::new(Lifecycle::new(plan.ads.as_ref().map(|ads| ads.fetch), xds.clone(), secrets.clone()));
        let (to_build, inputs) = mpsc::channel(INPUTS);
        let mut end_ads = None;
        let ads = plan.ads.map(|ads| {
            let (to_client, from_build) = request_channel();
            let mut state = StateConfig::new(ads.config.variant);
            state.seed = crate::util::random::Random::default().next();
            state.split = ads.config.split;
            let driver = Driver::new(state, ads.node, xds.clone(), to_client);
            let mut half = Ads::new(driver, server.clone(), lifecycle.clone());
            half.own_streams = ads.own_streams;
            half.follow_runtime(plan.layers.iter().filter_map(|layer| match &layer.source {
                LayerSource::Rtds(resource) => Some(resource.as_str().into()),
                LayerSource::Static | LayerSource::Admin => None,
            }));
            if let Some((dir, header)) = ads.state_dir {
                half.keep_in(dir, header, to_build.clone());
            }
            let (end, ended) = oneshot::channel();
            end_ads = Some(end);
            tokio::spawn(client::run(ads.config, to_build.clone(), from_build, async {
                let _ = ended.await;
            }));
            half
        });
        let senders = workers.iter().map(Worker::sender).collect();
        let mut builder = Builder::new(Options { control: true, ..plan.options });
        builder.set_layers(plan.layers);
        let (orders, watched) = mpsc::unbounded_channel();
        let resolver = plan.resolver.unwrap_or_else(|| Arc::new(SystemResolver::default()));
        // Ends with the build thread, which holds the orders' sender.
        tokio::spawn(control::run(watched, to_build.clone(), registry.clone(), resolver));
        let end_sds = start_sds(&secrets, plan.sds, &registry, &to_build);
        let (shared, alive) = (counts.clone(), lifecycle.clone());
        let build = Build::new(builder, senders, ads, store.clone(), shared, alive, orders);
        let build = start_build(build, plan.fixed, inputs)?;
        let files = registry.register(Scope::filesystem(), FileStats);
        let mut metrics = metrics::register(&registry, &xds, &counts, &lifecycle, workers.len() as u64);
        metrics.push(Box::new(files));
        name_metrics::provide(&registry, &store, &xds, &counts);
        server_metrics::provide(&registry, &lifecycle, &loads, &secrets);
        Ok(Proxy {
            store,
            registry,
            lifecycle,
            xds,
            secrets,
            server,
            workers,
            loads,
            to_build,
            build: Some(build),
            _metrics: metrics,
            _end_ads: end_ads,
            _end_sds: end_sds,
        })
    }

    /// A copy of what is configured, for the admin; `None` when the build thread has ended.
    pub async fn dump(&self) -> Option<Dump> {
        let (answer, dump) = oneshot::channel();
        self.to_build.send(Input::Dump(answer)).await.ok()?;
        dump.await.ok()
    }

    /// The way to the build thread.
    pub fn inputs(&self) -> mpsc::Sender<Input> {
        self.to_build.clone()
    }

    /// The ways to the workers.
    pub fn senders(&self) -> Vec<Sender> {
        self.workers.iter().map(Worker::sender).collect()
    }

    /// Open downstream connections.
    pub fn connections(&self) -> usize {
        self.loads.total()
    }

    /// Whether a thread that serving depends on has ended.
    pub fn is_broken(&self) -> bool {
        self.workers.iter().any(Worker::is_dead) || self.build.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Has every worker hand its log lines over.
    pub async fn flush_logs(&self) {
        for worker in &self.workers {
            let (done, handed_over) = oneshot::channel();
            worker.send(Command::FlushLogs(done));
            // A worker that has ended has nothing left.
            let _ = handed_over.await;
        }
    }

    /// Closes listening sockets.
    pub async fn stop_accepting(&self, inbound_only: bool) {
        let _ = self.to_build.send(Input::StopAccepting { inbound_only }).await;
    }

    /// Asks connections to leave; those that are to be told only are told over the time `spread`.
    pub fn ask_to_leave(&self, how: Drain, spread: Duration, inbound_only: bool) {
        let spread = Spread::over(spread);
        for worker in &self.workers {
            worker.send(Command::Drain { how, spread, inbound_only });
        }
    }

    /// Leaves in good order: `/ready` fails at once, listening sockets close after `accept`, connections are
    /// served until they are idle, and cut when `limit` is over. Returns when none is left.
    pub async fn drain(&self, accept: Duration, limit: Duration) {
        self.lifecycle.drain();
        let end = tokio::time::Instant::now() + limit;
        tokio::time::sleep(accept.min(limit)).await;
        self.stop_accepting(false).await;
        // What this process waits for is that its clients go: they are told at once, whatever the strategy.
        self.ask_to_leave(Drain::Leaving, Duration::ZERO, false);
        // A connection that waited in an accept queue may not be counted yet.
        tokio::time::sleep(DRAIN_POLL).await;
        while self.connections() > 0 {
            if tokio::time::Instant::now() >= end {
                tracing::warn!("drain time is over: {} connections are cut", self.connections());
                return;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }

    /// Ends the build thread after it has saved what is not saved yet. Blocks for at most the write.
    pub async fn finish(mut self) {
        let _ = self.to_build.send(Input::Quit).await;
        if let Some(build) = self.build.take() {
            let _ = tokio::task::spawn_blocking(move || build.join()).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.to_build.try_send(Input::Quit);
    }
}

/// Follows secrets and files until what is given is dropped.
fn start_sds(
    secrets: &Arc<Secrets>,
    config: SdsConfig,
    registry: &Registry,
    to_build: &mpsc::Sender<Input>,
) -> oneshot::Sender<()> {
    let (end, ended) = oneshot::channel();
    let (secrets, registry, to_build) = (secrets.clone(), registry.clone(), to_build.clone());
    tokio::spawn(async move {
        // A full channel is being worked off, and what it holds is followed by the same look at the secrets.
        let work = sds::run(secrets, config, registry, move || drop(to_build.try_send(Input::Secrets)));
        tokio::select! {
            () = work => {}
            _ = ended => {}
        }
    });
    end
}

/// Runs the build thread; returns once the bootstrap's resources are applied.
fn start_build(
    mut build: Build,
    fixed: Vec<Change>,
    inputs: mpsc::Receiver<Input>,
) -> std::io::Result<JoinHandle<()>> {
    for refused in build.apply_static(fixed) {
        tracing::error!("bootstrap: {refused}");
    }
    std::thread::Builder::new().name("build".into()).spawn(move || {
        // Serving comes first: configuration work gives way to the workers.
        let _ = rustix::process::nice(10);
        build.run(inputs);
    })
}
