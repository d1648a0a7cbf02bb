//! What is counted of a handshake.

use super::Conn;
use crate::telemetry::SslStats;
use crate::tls::TlsError;

/// Counts how a handshake of either side ended.
pub fn count_handshake(stats: &SslStats, outcome: Result<&Conn, &TlsError>) {
    let session = match outcome {
        Ok(conn) => conn.session(),
        Err(error) => {
            let counter = match error {
                TlsError::NotReady(_) => &stats.secrets_not_ready,
                TlsError::Timeout => &stats.handshake_timeout,
                TlsError::NoCertificate => &stats.fail_verify_no_cert,
                TlsError::Chain(_) => &stats.fail_verify_error,
                TlsError::Name => &stats.fail_verify_san,
                TlsError::Pin => &stats.fail_verify_cert_hash,
                TlsError::Connection(_) | TlsError::Unusable(_) => &stats.connection_error,
            };
            counter.inc();
            return;
        }
    };
    let Some(session) = session else { return };
    stats.handshake.inc();
    if session.resumed {
        stats.session_reused.inc();
    }
    if session.peer.is_none() {
        stats.no_certificate.inc();
    }
    stats.ciphers.inc(session.cipher);
    stats.versions.inc(session.version);
    if let Some(curve) = session.curve {
        stats.curves.inc(curve);
    }
}
