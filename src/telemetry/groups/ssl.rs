//! Handshakes, in Envoy's names.

use crate::stat_group;
use crate::telemetry::metric::{Counter, Metric, Sample, Value};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

stat_group! {
    /// `listener.<address>.ssl.` and `cluster.<name>.ssl.`, made with the first handshake.
    pub struct SslStats {
        handshake: Counter,
        session_reused: Counter,
        connection_error: Counter,
        /// Handshakes in which the peer showed no certificate and needed none.
        no_certificate: Counter,
        fail_verify_no_cert: Counter,
        fail_verify_error: Counter,
        fail_verify_san: Counter,
        fail_verify_cert_hash: Counter,
        /// Open connections ended because their certificates are not accepted any more.
        closed_revoked: Counter,
        /// Refused because a secret has not come.
        secrets_not_ready: Counter,
        /// Given up because they took too long.
        handshake_timeout: Counter,
        /// Refused because too many were under way.
        handshake_overflow: Counter,
        ciphers: Words,
        versions: Words,
        curves: Words,
    }
}

stat_group! {
    /// `sds.<name>.`; written by the control thread.
    pub struct SdsStats {
        update_attempt: Counter,
        update_success: Counter,
        update_rejected: Counter,
        update_failure: Counter,
    }
}

/// Counters by a word of a small vocabulary.
#[derive(Debug, Default)]
pub struct Words(Mutex<BTreeMap<&'static str, u64>>);

impl Words {
    /// Counts one. Takes a lock: for what happens once a connection.
    pub fn inc(&self, word: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(word).or_default() += 1;
    }
}

impl Metric for Words {
    fn sample(&self, name: &str, out: &mut dyn FnMut(&str, Sample)) {
        for (word, count) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            out(&format!("{name}.{word}"), Value::Counter(*count));
        }
    }
}
