//! Why a request was not answered by an upstream, and what that is in every protocol.
//!
//! The one table of failures: HTTP status, bolt status, Envoy response flag, response code details, and the
//! word used in logs and counters.

use super::Flags;

/// A locally made failure. `Copy`, so that the hot path never allocates for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub reason: Reason,
    /// Whether the upstream may have seen part of the request (then only idempotent policies retry it).
    pub sent: bool,
}

impl Failure {
    /// Failed before any byte was sent upstream.
    pub fn before(reason: Reason) -> Self {
        Failure { reason, sent: false }
    }

    /// Failed after bytes may have reached the upstream.
    pub fn after(reason: Reason) -> Self {
        Failure { reason, sent: true }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = ($word:literal, $http:literal, $bolt:literal, $flag:literal, $details:literal);)*) => {
        /// Every cause a request can fail for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// All causes, for counters indexed by `as usize`.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];
            /// Whether the cluster takes no more now.
            pub fn is_overflow(self) -> bool {
                matches!(
                    self,
                    Reason::OverflowConnections
                        | Reason::OverflowPending
                        | Reason::OverflowRequests
                        | Reason::Maintenance
                )
            }
            /// The word in logs and counters.
            pub fn word(self) -> &'static str { match self { $(Reason::$name => $word,)* } }
            /// HTTP status of the local reply.
            pub fn http_status(self) -> u16 { match self { $(Reason::$name => $http,)* } }
            /// bolt response status of the local reply.
            pub fn bolt_status(self) -> u16 { match self { $(Reason::$name => $bolt,)* } }
            /// Envoy's response flag.
            pub fn flag(self) -> &'static str { match self { $(Reason::$name => $flag,)* } }
            /// Envoy's response code details.
            pub fn details(self) -> &'static str { match self { $(Reason::$name => $details,)* } }
        }
    };
}

// word, HTTP, bolt, flag, details. bolt: 3 unknown, 4 busy, 6 no processor, 7 timeout, 9 codec, 16 closed.
reasons! {
    /// No virtual host or route matched.
    NoRoute = ("no_route", 404, 6, "NR", "route_not_found");
    /// The route names a cluster that is not configured.
    UnknownCluster = ("cluster_not_found", 503, 6, "NC", "cluster_not_found");
    /// The cluster has not got its endpoints yet.
    Warming = ("cluster_warming", 503, 6, "UH", "cluster_warming");
    /// The cluster has no endpoints.
    NoEndpoints = ("no_endpoints", 503, 6, "UH", "no_healthy_upstream");
    /// Every endpoint is unhealthy or draining.
    AllUnhealthy = ("all_unhealthy", 503, 6, "UH", "no_healthy_upstream");
    /// Refused, unreachable, or a broken handshake.
    ConnectFailed = ("connect_failed", 503, 16, "UF", "upstream_reset_before_response_started{connection_failure}");
    /// The connect timeout passed.
    ConnectTimeout = ("connect_timeout", 503, 16, "UF", "upstream_reset_before_response_started{connection_timeout}");
    /// The upstream connection ended while the request was on it.
    UpstreamClosed = ("upstream_closed", 503, 16, "UC", "upstream_reset_before_response_started{connection_termination}");
    /// The upstream reset this stream.
    UpstreamReset = ("upstream_reset", 503, 3, "UR", "upstream_reset_before_response_started{remote_reset}");
    /// The upstream said it did not process this stream.
    UpstreamRefused = ("upstream_refused", 503, 16, "UR", "upstream_reset_before_response_started{remote_refused_stream_reset}");
    /// The upstream broke its protocol.
    UpstreamProtocol = ("upstream_protocol_error", 502, 3, "UPE", "upstream_reset_before_response_started{protocol_error}");
    /// The whole request took longer than its timeout.
    Timeout = ("timeout", 504, 7, "UT", "response_timeout");
    /// One try took longer than its share and no try was left.
    PerTryTimeout = ("per_try_timeout", 504, 7, "UT", "upstream_per_try_timeout");
    /// One try made no progress for its idle timeout and no try was left.
    PerTryIdle = ("per_try_idle_timeout", 504, 7, "UT", "upstream_per_try_idle_timeout");
    /// What the request asked of the router cannot be read.
    InvalidEnvoyHeader = ("invalid_envoy_header", 400, 9, "IH", "request_headers_failed_strict_check");
    /// No progress for the stream idle timeout.
    StreamIdle = ("stream_idle_timeout", 408, 7, "SI", "stream_idle_timeout");
    /// The client did not send its whole request in time.
    RequestTimeout = ("request_timeout", 408, 7, "-", "request_overall_timeout");
    /// The client asked for another protocol, which is not allowed here.
    UpgradeRefused = ("upgrade_refused", 403, 9, "-", "upgrade_failed");
    /// A breaker's connection limit.
    OverflowConnections = ("overflow_connections", 503, 4, "UO", "upstream_reset_before_response_started{overflow}");
    /// A breaker's or a pool's pending limit.
    OverflowPending = ("overflow_pending", 503, 4, "UO", "upstream_reset_before_response_started{overflow}");
    /// A breaker's request limit.
    OverflowRequests = ("overflow_requests", 503, 4, "UO", "upstream_reset_before_response_started{overflow}");
    /// Runtime has a share of the cluster's requests refused.
    Maintenance = ("maintenance_mode", 503, 4, "UO", "maintenance_mode");
    /// The client's bytes could not be decoded.
    BadRequest = ("codec_error", 400, 9, "DPE", "codec_error");
    /// A body or frame over its limit.
    TooLarge = ("too_large", 413, 9, "DPE", "request_payload_too_large");
    /// A message could not be carried over to the other protocol.
    Conversion = ("conversion_error", 502, 9, "DPE", "protocol_conversion");
    /// Header edits made the head larger than its protocol can carry.
    HeaderOverflow = ("header_overflow", 431, 9, "DPE", "request_headers_too_large");
    /// The client went away.
    DownstreamReset = ("downstream_reset", 499, 3, "DC", "downstream_remote_disconnect");
    /// A filter was told to fail it.
    Fault = ("fault_injected", 503, 3, "FI", "fault_filter_abort");
    /// Too many requests for a local limit.
    RateLimited = ("rate_limited", 429, 4, "RL", "local_rate_limited");
    /// A policy does not admit it.
    Denied = ("access_denied", 403, 2, "-", "rbac_access_denied_matched_policy[none]");
    /// It has not the token it must have.
    Unauthenticated = ("unauthenticated", 401, 2, "-", "jwt_authn_access_denied");
    /// The authorization service does not admit it, or cannot be asked.
    Unauthorized = ("ext_authz_denied", 403, 2, "UAEX", "ext_authz_denied");
    /// A filter or policy of ours ended it.
    LocalReset = ("local_reset", 500, 3, "LR", "local_reset");
}

impl Reason {
    /// Envoy's response flags.
    pub fn flags(self) -> Flags {
        Flags::named(self.flag()).unwrap_or_default()
    }

    /// Envoy's response code details once the response's head had been sent.
    pub fn details_after_start(self) -> &'static str {
        match self {
            Reason::ConnectFailed | Reason::UpstreamClosed => {
                "upstream_reset_after_response_started{connection_termination}"
            }
            Reason::UpstreamReset | Reason::UpstreamRefused => {
                "upstream_reset_after_response_started{remote_reset}"
            }
            Reason::UpstreamProtocol => "upstream_reset_after_response_started{protocol_error}",
            other => other.details(),
        }
    }
}

/// The gRPC status of an HTTP one: gRPC's own table (`doc/http-grpc-status-mapping.md`), and OK for 200.
pub fn grpc_of_http(status: u16) -> u16 {
    match status {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_own_word() {
        let mut words: Vec<_> = Reason::ALL.iter().map(|r| r.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
