//! Groups that are not of one connection or cluster.

use crate::stat_group;
use crate::telemetry::metric::{Gauge, Sample, StatGroup};

stat_group! {
    /// `listener_manager.`, per worker: what is no longer configured and still has connections. A worker counts
    /// the first and the last user only, so that the sum over the workers counts each listener and chain once;
    /// one worker's number may be negative.
    pub struct DrainStats {
        total_listeners_draining: Gauge,
        total_filter_chains_draining: Gauge,
    }
}

/// A group whose readings are computed when asked for.
pub struct Computed<F>(pub F);

impl<F: Fn(&mut dyn FnMut(&str, Sample)) + Send + Sync> StatGroup for Computed<F> {
    fn visit(&self, out: &mut dyn FnMut(&str, Sample)) {
        (self.0)(out);
    }
}
