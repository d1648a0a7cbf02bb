//! What goes on beside the request path: names are resolved, hosts checked, outliers ejected.
//!
//! Owns one set of tasks per watched cluster. Takes in orders of the builder (which clusters, which hosts)
//! and suspicions of workers; gives out reports to the builder and bits in the hosts' shared state, which
//! workers see at their next pick. Everything here waits for timers and sockets only.

pub mod dns;
mod health;
mod outlier;

use crate::model::{ClusterId, Discovery};
use crate::snapshot::builder::{Order, Report, Watched};
use crate::telemetry::Registry;
use dns::Resolve;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What every task needs.
pub(crate) struct Tools {
    /// Where its counters go.
    pub(crate) registry: Registry,
    /// Who knows names.
    pub(crate) resolver: Arc<dyn Resolve>,
    /// Where findings go. As many wait as clusters are watched, two each at the most.
    pub(crate) reports: mpsc::UnboundedSender<Report>,
}

/// Follows `orders` until their sender is gone. Reports go to `reports`.
pub async fn run<E: From<Report>>(
    mut orders: mpsc::UnboundedReceiver<Order>,
    reports: mpsc::Sender<E>,
    registry: Registry,
    resolver: Arc<dyn Resolve>,
) {
    let (sender, mut found) = mpsc::unbounded_channel();
    let tools = Arc::new(Tools { registry, resolver, reports: sender });
    let mut keepers: HashMap<ClusterId, Keeper> = HashMap::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some((id, None)) => drop(keepers.remove(&id)),
                Some((id, Some(watched))) => match keepers.get_mut(&id) {
                    Some(keeper) if keeper.is_of(&watched) => keeper.follow(&tools, watched),
                    _ => drop(keepers.insert(id, Keeper::start(&tools, watched))),
                },
            },
            Some(report) = found.recv() => {
                if reports.send(report.into()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Ends its task when dropped.
pub(crate) struct Task(JoinHandle<()>);

impl Task {
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The tasks of one cluster.
struct Keeper {
    current: watch::Sender<Watched>,
    outlier: Option<Task>,
    health: Option<Task>,
    dns: Option<Task>,
}

impl Keeper {
    fn start(tools: &Arc<Tools>, watched: Watched) -> Keeper {
        let current = watch::Sender::new(watched.clone());
        let mut keeper = Keeper { current, outlier: None, health: None, dns: None };
        keeper.settle(tools, &watched, None);
        keeper
    }

    /// Whether `watched` is another version of the same cluster, not one that has its id now.
    fn is_of(&self, watched: &Watched) -> bool {
        Arc::ptr_eq(&self.current.borrow().spec.shared, &watched.spec.shared)
    }

    fn follow(&mut self, tools: &Arc<Tools>, watched: Watched) {
        let before = self.current.send_replace(watched.clone());
        self.settle(tools, &watched, Some(&before));
    }

    /// Starts what is wanted and not there, and ends what is not wanted.
    fn settle(&mut self, tools: &Arc<Tools>, now: &Watched, before: Option<&Watched>) {
        let model = &now.spec.model;
        let old = before.map(|before| &before.spec.model);
        let receiver = || self.current.subscribe();
        if model.outlier.is_none() {
            self.outlier = None;
        } else if self.outlier.is_none() {
            self.outlier = Some(Task::spawn(outlier::run(receiver(), tools.clone())));
        }
        if old.is_some_and(|old| old.health_checks != model.health_checks) {
            self.health = None;
        }
        if !model.health_checks.is_empty() && self.health.is_none() {
            self.health = Some(Task::spawn(health::run(receiver(), tools.clone())));
        } else if model.health_checks.is_empty() && old.is_some_and(|old| !old.health_checks.is_empty()) {
            health::forget(now);
        }
        if old.is_some_and(|old| old.discovery != model.discovery) {
            self.dns = None;
        }
        if matches!(model.discovery, Discovery::Dns { .. }) && self.dns.is_none() {
            self.dns = Some(Task::spawn(dns::run(receiver(), tools.clone())));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.current.borrow().spec.shared.detect(None);
    }
}
