//! A whole proxy inside the test process, on real sockets.

use mizzen::app::{AdsPlan, FetchLimits, Plan, Proxy};
use mizzen::control::dns::Resolve;
use mizzen::proto::envoy::config::core::v3::Node;
use mizzen::snapshot::builder::Options;
use mizzen::xds::client::{Address, AdsConfig};
use mizzen::xds::disk::Header;
use mizzen::xds::state::Variant;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// How long a wait may take before it fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a test may choose.
#[derive(Clone)]
pub struct Setup {
    pub variant: Variant,
    pub workers: usize,
    pub options: Options,
    pub state_dir: Option<PathBuf>,
    /// Over how long connections are told of their listener's change.
    pub drain_spread: Duration,
    /// What encrypts the stream to the control plane.
    pub ads_tls: Option<(Arc<mizzen::tls::Client>, mizzen::tls::Wish)>,
    /// Connections with clients, over all listeners.
    pub connection_limit: Option<u32>,
    /// Switches by name.
    pub runtime: mizzen::model::Runtime,
    /// Who resolves names; `None`: the system.
    pub resolver: Option<Arc<dyn Resolve>>,
    /// Where secrets come from.
    pub sds: mizzen::xds::sds::SdsConfig,
    /// Of runtime.
    pub layers: Vec<mizzen::model::Layer>,
}

impl Setup {
    pub fn new(variant: Variant, workers: usize) -> Self {
        let options = Options { wait_for_sockets: true, ..Options::default() };
        Setup {
            variant,
            workers,
            options,
            state_dir: None,
            drain_spread: Duration::ZERO,
            ads_tls: None,
            connection_limit: None,
            runtime: mizzen::model::Runtime::default(),
            resolver: None,
            sds: mizzen::xds::sds::SdsConfig::default(),
            layers: Vec::new(),
        }
    }

    /// Starts a proxy whose control plane is at `ads`.
    pub fn start(self, ads: SocketAddr) -> Proxy {
        let mut config = AdsConfig::new(vec![Address::Socket(ads)], self.variant);
        // Reconnects in tests should not take half a second each.
        config.backoff_base = Duration::from_millis(50);
        config.tls = self.ads_tls;
        let node = Node { id: "node-1".into(), cluster: "tests".into(), ..Node::default() };
        let header = Header {
            node_id: node.id.clone(),
            node_cluster: node.cluster.clone(),
            ads_target: ads.to_string(),
            static_hash: 0,
        };
        let state_dir = self.state_dir.map(|dir| (dir, header));
        let mut layers = self.layers;
        let (name, source) = ("test".to_owned(), mizzen::model::LayerSource::Static);
        layers.push(mizzen::model::Layer { name, source, values: self.runtime });
        Proxy::start(Plan {
            workers: self.workers,
            fixed: Vec::new(),
            ads: Some(AdsPlan { own_streams: None, config, node, state_dir, fetch: FetchLimits::default() }),
            options: self.options,
            static_unknown_fields: 0,
            drain_spread: self.drain_spread,
            connection_limit: self.connection_limit,
            resolver: self.resolver,
            sds: self.sds,
            layers,
        })
        .expect("the proxy starts")
    }
}

/// Waits until `done` says so.
pub async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until connecting to `address` works.
pub async fn wait_listening(address: SocketAddr) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(tokio::time::Instant::now() < end, "nobody listens on {address}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A loopback port nobody else gets: below the range that the system hands out, and each at most once per
/// process. (A port that was bound and closed again could go to the next server that asks for any.)
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Processes that run at the same time start at different places.
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add((std::process::id() % 997) as u16 * 20);
        let port = 10_000 + step % 20_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
