//! Outlier detection of one cluster: decided here once for all workers.
//!
//! Workers count in the hosts' shared state and say when a streak is long enough; the analysis of rates and
//! the end of ejections happen once per interval.

mod detector;
mod stats;

use super::Tools;
use crate::cluster::Shared;
use crate::snapshot::builder::Watched;
use crate::telemetry::Scope;
use detector::{Detector, Event};
use stats::OutlierStats;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Suspicions that may wait; a streak that is not heard says so again.
const SUSPICIONS: usize = 256;

/// Works until aborted.
pub(super) async fn run(mut current: watch::Receiver<Watched>, tools: Arc<Tools>) {
    let watched = current.borrow_and_update().clone();
    let model = &watched.spec.model;
    let name = model.alt_stat_name.as_deref().unwrap_or(&model.name);
    let stats = tools.registry.register(Scope::cluster(name), OutlierStats::default());
    let (sender, mut suspicions) = mpsc::channel(SUSPICIONS);
    let shared = watched.spec.shared.clone();
    shared.detect(Some(sender));
    let _ended = Ended(shared.clone());
    let Some(config) = model.outlier.clone() else { return };
    let cluster = model.name.clone();
    let mut detector = Detector::new(config);
    detector.follow(&watched.spec, &watched.endpoints);
    let mut tick = Instant::now() + detector.interval();
    loop {
        let now = tokio::select! {
            changed = current.changed() => {
                if changed.is_err() {
                    return;
                }
                let watched = current.borrow_and_update().clone();
                detector.follow(&watched.spec, &watched.endpoints);
                Instant::now()
            }
            Some(suspicion) = suspicions.recv() => {
                let now = Instant::now();
                detector.on_suspicion(now, &suspicion, &stats);
                now
            }
            () = sleep_until(tick) => {
                let now = Instant::now();
                detector.on_interval(now, &stats);
                tick = now + detector.interval();
                now
            }
        };
        for event in detector.take_events() {
            log(&cluster, &event, now);
        }
        stats.active.set(detector.ejected() as i64);
        if detector.take_changed() {
            shared.changed();
        }
    }
}

/// Nobody listens to suspicions any more, and nobody is ejected for good.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.detect(None);
        // The detector has taken its ejections back by now.
        self.0.changed();
    }
}

fn log(cluster: &str, event: &Event, now: Instant) {
    let Event { address, kind, enforced, ejected, times, since } = event;
    let action = if *ejected { "EJECT" } else { "UNEJECT" };
    let since = since.map_or(-1, |since| now.saturating_duration_since(since).as_secs() as i64);
    tracing::info!(
        "outlier detection: cluster={cluster} upstream={address} action={action} type={kind} \
         num_ejections={times} enforced={enforced} secs_since_last_action={since}"
    );
}
