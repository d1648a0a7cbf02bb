//! Filter state of connections, and where it sends them.

use super::Handle;
use super::facts::StreamFacts;
use crate::cluster::Variant;
use crate::filter::state_text;
use crate::message::state::key;
use crate::message::{FilterState, Metadata, Reason};
use crate::model::{ClusterId, SetFilterState, TcpProxy};
use crate::snapshot::View;
use std::time::Duration;

/// Sets what `config` says of a connection of which nothing was read yet.
pub fn set_state(handle: &Handle, config: &SetFilterState, metadata: &mut Metadata) {
    for value in &config.values {
        let facts = StreamFacts::of_connection(handle, metadata);
        if let Some(text) = state_text(value, &facts) {
            metadata.state.set(&value.key, text, value.locked);
        }
    }
}

/// What filter state says of the way of a raw connection.
#[derive(Default)]
pub(super) struct Steered<'a> {
    state: Option<&'a FilterState>,
    /// What its connection to a host has beside what is configured.
    pub variant: Variant,
}

impl<'a> Steered<'a> {
    pub(super) fn by(handle: &'a Handle) -> Self {
        let state = handle.state();
        let mut variant = Variant { source: handle.seen.source, ..Variant::default() };
        state.into_iter().for_each(|state| variant.take(state));
        Steered { state, variant }
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.state?.get(key)
    }

    /// The cluster that is named, in place of the configured ones; the inner error: there is no such cluster.
    pub(super) fn cluster(&self, view: &View) -> Option<Result<ClusterId, Reason>> {
        let name = self.text(key::TCP_CLUSTER)?;
        Some(view.cluster_id(name.as_bytes()).ok_or(Reason::UnknownCluster))
    }

    /// The settings it is served by.
    pub(super) fn config(&self, config: &TcpProxy) -> TcpProxy {
        let mut config = config.clone();
        if let Some(millis) = self.text(key::TCP_IDLE).and_then(|text| text.parse::<u64>().ok()) {
            let time = Duration::from_millis(millis.min(u64::from(u32::MAX)));
            config.idle_timeout = Some(time).filter(|time| !time.is_zero());
        }
        config
    }
}
