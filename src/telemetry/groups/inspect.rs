//! What listener filters found and what limits connections, in Envoy's names.

use crate::stat_group;
use crate::telemetry::histogram::Histogram;
use crate::telemetry::metric::{Counter, Gauge};

stat_group! {
    /// `tls_inspector.`, over all listeners.
    pub struct TlsInspectorStats {
        /// Connections ended because their ClientHello was longer than anybody needs.
        client_hello_too_large: Counter,
        tls_found: Counter,
        tls_not_found: Counter,
        alpn_found: Counter,
        alpn_not_found: Counter,
        sni_found: Counter,
        sni_not_found: Counter,
        /// Bytes that were looked at, per connection.
        bytes_processed: Histogram,
    }
}

stat_group! {
    /// `http_inspector.`, over all listeners.
    pub struct HttpInspectorStats {
        /// The client left before its first line was whole.
        read_error: Counter,
        http10_found: Counter,
        http11_found: Counter,
        http2_found: Counter,
        http_not_found: Counter,
    }
}

stat_group! {
    /// `connection_limit.<stat_prefix>.`
    pub struct ConnectionLimitStats {
        /// Those that are refused included, as long as they are there.
        active_connections: Gauge,
        limited_connections: Counter,
    }
}

stat_group! {
    /// `local_rate_limit.<stat_prefix>.`, of connections.
    pub struct ConnectionRateStats {
        rate_limited: Counter,
    }
}
