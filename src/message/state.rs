//! Filter state: texts that filters leave under well-known keys, some of which later parts act upon.

/// Keys with an effect, as Envoy calls them.
pub mod key {
    /// Server name in TLS with hosts.
    pub const SERVER_NAME: &str = "envoy.network.upstream_server_name";
    /// Names with `,` between them, one of which a host's certificate must have.
    pub const SUBJECT_ALT_NAMES: &str = "envoy.network.upstream_subject_alt_names";
    /// Protocols with `,` between them that hosts are offered in TLS.
    pub const APPLICATION_PROTOCOLS: &str = "envoy.network.application_protocols";
    /// Where a raw connection goes.
    pub const TCP_CLUSTER: &str = "envoy.tcp_proxy.cluster";
    /// Idle time of a raw connection in milliseconds; 0: none.
    pub const TCP_IDLE: &str = "envoy.tcp_proxy.per_connection_idle_timeout_ms";
}

/// The state of one connection or stream. Most have none, and then this allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterState(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: String,
    value: String,
    locked: bool,
}

impl FilterState {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text under `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }

    /// Sets `key`, unless it is locked already; `locked`: for good.
    pub fn set(&mut self, key: &str, value: String, locked: bool) {
        match self.0.iter_mut().find(|entry| entry.key == key) {
            Some(entry) if entry.locked => {}
            Some(entry) => (entry.value, entry.locked) = (value, locked),
            None => self.0.push(Entry { key: key.to_owned(), value, locked }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_locked_stays() {
        let mut state = FilterState::default();
        assert!(state.is_empty() && state.get("a").is_none());
        state.set("a", "1".into(), false);
        state.set("a", "2".into(), true);
        state.set("a", "3".into(), false);
        state.set("b", String::new(), false);
        assert_eq!((state.get("a"), state.get("b")), (Some("2"), Some("")));
    }
}
