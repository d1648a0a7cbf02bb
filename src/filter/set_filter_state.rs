//! Values of the configuration, as a stream's filter state.

use super::chain::Verdict;
use super::context::Context;
use crate::message::Facts;
use crate::model::{FilterConfig, HttpFilter, SetFilterState, StateValue};

pub(super) fn on_request(filter: &HttpFilter, ctx: &mut Context<'_>) -> Verdict {
    if let FilterConfig::SetFilterState(own) = &filter.rule.config {
        apply(own, ctx);
    }
    // Those of routes after the chain's own, the most specific last.
    let rules: Vec<_> = ctx.world.route_rules(&filter.name).collect();
    for rule in rules.into_iter().rev() {
        if let FilterConfig::SetFilterState(more) = &rule.config {
            apply(more, ctx);
        }
    }
    Verdict::Continue
}

fn apply(config: &SetFilterState, ctx: &mut Context<'_>) {
    for value in &config.values {
        let text = state_text(value, &ctx.facts());
        if let Some(text) = text {
            ctx.metadata.state.set(&value.key, text, value.locked);
        }
    }
}

/// What a key is set to; `None`: it is left as it is.
pub fn state_text(value: &StateValue, facts: &dyn Facts) -> Option<String> {
    let mut text = Vec::new();
    value.value.write(facts, if value.omit_empty { b"" } else { b"-" }, &mut text);
    (!text.is_empty() || !value.skip_if_empty).then(|| String::from_utf8_lossy(&text).into_owned())
}
