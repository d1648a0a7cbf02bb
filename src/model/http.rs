//! What a connection manager does at the edge: limits of heads, and what becomes of them.

use super::{Cidr, Upgrade};
use serde::Serialize;
use std::time::Duration;

/// HTTP/1 towards clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Http1Options {
    /// Serve HTTP/1.0. Default no: such requests get 426.
    pub accept_http_10: bool,
    /// Host of HTTP/1.0 requests that name none; empty: they are refused.
    pub default_host: String,
    /// Accept absolute-form targets. Default yes.
    pub allow_absolute_url: bool,
    /// Listener metadata `mizzen.http1: lenient`. Default no.
    pub lenient: bool,
    /// Accept methods that nobody has registered. Default no: such requests get 400.
    pub custom_methods: bool,
}

impl Default for Http1Options {
    fn default() -> Self {
        Http1Options {
            accept_http_10: false,
            default_host: String::new(),
            allow_absolute_url: true,
            lenient: false,
            custom_methods: false,
        }
    }
}

/// Limits of what a client sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestLimits {
    /// Bytes of a head. Default 60 KiB, at most 8192 KiB.
    pub head_bytes: usize,
    /// Fields of a head, cookies counting as one. Default 100 on HTTP/1.
    pub max_headers: Option<usize>,
    /// From a head's first byte to its last; `None` off.
    pub headers_timeout: Option<Duration>,
    /// From a request's first byte to its last; `None` off.
    pub request_timeout: Option<Duration>,
    /// Requests after which an HTTP/1 connection closes, and an HTTP/2 one drains; `None` no limit.
    pub per_connection: Option<u32>,
}

impl Default for RequestLimits {
    fn default() -> Self {
        RequestLimits {
            head_bytes: 60 * 1024,
            max_headers: None,
            headers_timeout: None,
            request_timeout: None,
            per_connection: None,
        }
    }
}

/// The router filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouterOptions {
    /// No `x-envoy-…` fields of the router's own to hosts and clients.
    pub suppress_headers: bool,
    /// `x-envoy-expected-rq-timeout-ms` of a request from inside is its time limit, and goes on as it is.
    pub respect_expected_timeout: bool,
    /// `x-envoy-…` fields, in lower case, that have to be readable.
    pub strict_headers: Vec<String>,
}

/// What becomes of heads on arrival and departure.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Edge {
    /// Fields whose names have underscores.
    pub underscores: Underscores,
    /// Dot segments and needless escapes are resolved.
    pub normalize_path: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// `%2F` and `%5C` in paths.
    pub escaped_slashes: EscapedSlashes,
    /// The port of the authority.
    pub strip_port: StripPort,
    /// `host.` becomes `host`.
    pub strip_trailing_dot: bool,
    /// The `server` field of responses.
    pub server_header: ServerHeader,
    /// The client is who is connected, not whom `x-forwarded-for` names.
    pub use_remote_address: bool,
    /// Proxies in front whose `x-forwarded-for` is believed.
    pub trusted_hops: u32,
    /// `x-forwarded-for` is left as it came.
    pub skip_xff_append: bool,
    /// Sets `x-forwarded-port`.
    pub append_port: bool,
    /// Addresses whose requests are internal. Default none.
    pub internal: Vec<Cidr>,
    /// Makes an `x-request-id` where there is none.
    pub request_id: RequestId,
    /// Appended to `via` both ways unless empty.
    pub via: String,
    /// Protocols a request may change to, and whether it may where its route says nothing.
    pub upgrades: Vec<Upgrade>,
    /// `Expect: 100-continue` is the upstream's to answer.
    pub proxy_100_continue: bool,
    /// What hosts are told of the client's certificate.
    pub client_cert: ClientCert,
    /// Requests tell which proxy they came through: `x-envoy-downstream-service-cluster` and `-node`, and
    /// `user-agent` where there is none.
    pub add_user_agent: bool,
    /// The scheme that upstreams are told, whatever the client's.
    pub scheme: Option<RequestScheme>,
}

/// What becomes of `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClientCert {
    pub mode: CertMode,
    /// What is said beside the hash.
    pub subject: bool,
    pub cert: bool,
    pub chain: bool,
    pub dns: bool,
    pub uri: bool,
}

/// What counts: the client's word, its certificate, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum CertMode {
    /// Taken out.
    #[default]
    Sanitize,
    /// Left as it is where the client has shown a certificate, taken out elsewhere.
    ForwardOnly,
    /// As `ForwardOnly`, with the client's certificate appended.
    AppendForward,
    /// The client's certificate alone.
    SanitizeSet,
    /// Left as it is, whoever says it.
    AlwaysForwardOnly,
}

/// What becomes of `x-request-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RequestId {
    /// One is made where there is none. Default yes.
    pub generate: bool,
    /// That of a request from outside is kept. Default no.
    pub preserve_external: bool,
    /// Responses carry it too. Default no.
    pub in_response: bool,
    /// It tells whether and why the request is traced, at its 15th place. Default yes.
    pub carries_reason: bool,
    /// Decides which requests are traced; `None`: none, where the manager does not trace.
    pub sampling: Option<Sampling>,
}

/// Which requests are traced: shares, as numerator and denominator. Runtime may have others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sampling {
    /// Of those whose client asks for it by `x-client-trace-id`.
    pub client: (u32, u32),
    /// Of all others.
    pub random: (u32, u32),
    /// Of those that the first two chose.
    pub overall: (u32, u32),
}

impl Default for RequestId {
    fn default() -> Self {
        RequestId {
            generate: true,
            preserve_external: false,
            in_response: false,
            carries_reason: true,
            sampling: None,
        }
    }
}

/// `scheme_header_transformation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RequestScheme {
    Http,
    Https,
}

/// `headers_with_underscores_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Underscores {
    #[default]
    Allow,
    /// 400.
    Reject,
    Drop,
}

/// `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum EscapedSlashes {
    #[default]
    Keep,
    /// 400.
    Reject,
    /// 307 to the path without them.
    Redirect,
    Unescape,
}

/// `strip_matching_host_port`, `strip_any_host_port`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum StripPort {
    #[default]
    Keep,
    /// If it is the listener's.
    Matching,
    Any,
}

/// `server_header_transformation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ServerHeader {
    #[default]
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}
