//! Values of the configuration, as a stream's metadata.

use super::chain::Verdict;
use super::context::Context;
use super::stats::Counters;
use crate::model::SetMetadata;

pub(super) fn on_request(config: &SetMetadata, place: usize, ctx: &mut Context<'_>) -> Verdict {
    for entry in &config.entries {
        if !entry.overwrite && ctx.metadata.namespace(&entry.namespace).is_some() {
            let group = ctx.world.stats.own(place, || Counters::new("set_metadata.", &["overwrite_denied"]));
            group.inc(0);
            continue;
        }
        ctx.metadata.merge(&entry.namespace, &entry.values);
    }
    Verdict::Continue
}
