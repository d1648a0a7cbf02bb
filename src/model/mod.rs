//! Plain data that every dialect is translated into.
//!
//! Owns the vocabulary of configuration: listeners, routes, clusters, endpoints. Takes nothing in; gives
//! values that compare with `==` (equal model = no new generation) and serialise for the admin dumps.
//! No tokio, no protobuf, no TLS here. Values that need parsing (regex, CIDR) are newtypes that hold the
//! parsed form, so that a bad one fails in `translate`, where its field path is known.

mod access_log;
mod address;
mod cluster;
mod endpoint;
pub mod expr;
mod filter;
mod format;
mod headers;
mod http;
mod ids;
mod inspect;
mod json;
mod listener;
mod mesh;
mod route;
mod route_options;
pub mod runtime;
mod scopes;
mod text;
mod tls;
mod uri_template;
pub mod workload;

pub use access_log::{
    AccessLog, AccessLogs, Comparison, JsonNode, JsonTemplate, LocalReplies, LogFilter, LogFormat, LogKind,
    LogMoments, LogRoller, LogSink, Op, ReplyFormat, ReplyMapper, RollerError,
};
pub use address::{Address, Cidr};
pub use cluster::{
    AutoNames, BindConfig, Breakers, Check, CheckTarget, Cluster, Discovery, DnsFamily, DnsPace, Fallback,
    HashFunction, HealthCheck, Http2Options, HttpCheck, Keepalive, LbKeys, LbPolicy, OriginalDst,
    OutlierDetection, RetryBudget, Selector, SlowStart, SocketOption, SocketState, StatusRange, Subsets,
    TcpKeepalive, Thresholds, UpstreamProtocol,
};
pub use endpoint::{Endpoint, Endpoints, Health, Locality};
pub use expr::Expr;
pub use filter::{
    AbortWith, Algorithm, AuthzBody, AuthzService, AuthzSettings, BucketConfig, ClaimHeader, Compiled,
    Compression, Compressor, ConnectionLimit, ConnectionRate, Cors, Decompressor, Descriptor, ExtAuthz,
    Fault, FaultAbort, FaultDelay, FaultRate, FilterConfig, FilterRule, GrpcStats, GrpcTarget, Guard,
    HeaderMutation, HeaderRule, HeaderToMetadata, HealthCheckFilter, HttpAuthz, HttpFilter, IpAccess,
    JwksSource, JwtAuthn, JwtCache, JwtProvider, JwtRequirement, JwtRule, LocalRateLimit, MetadataEntry,
    MetadataMatch, MetadataValue, Mutation, NetworkAuthz, NetworkRbac, ParameterMutation, Permission,
    Policies, Policy, Principal, RateLimit, RateLimitAction, Rbac, RbacAction, RbacSet, RemoteJwks,
    RouteFilter, RouteFilters, RuleSource, SetFilterState, SetMetadata, StateValue, TokenHeader, ValueMatch,
    VirtualHostLimits,
};
pub(crate) use format::query_parameter;
pub use format::{Block, Format, FormatError, TimeFormat};
pub use headers::{EditValue, HeaderEdit, HeaderEdits, HeaderMatch, HeaderMatchKind};
pub use http::{
    CertMode, ClientCert, Edge, EscapedSlashes, Http1Options, RequestId, RequestLimits, RequestScheme,
    RouterOptions, Sampling, ServerHeader, StripPort, Underscores,
};
pub use ids::{ClusterId, RouteId};
pub use inspect::{Inspector, Inspectors, OriginalSource, Predicate};
pub use json::parse_json;
pub use listener::{
    ChainMatch, Codec, Direction, FilterChain, HttpManager, Listener, NetworkFilter, Protocol, RouteSource,
    RpcProxy, SourceType, TcpProxy,
};
pub use mesh::{
    AlpnOverride, ChainMesh, ClusterMesh, MESH_LABELS, MESH_METRICS, MeshReporter, MeshService, MeshStats,
    MetricOverride, PeerExchange, PeerMetadata,
};
pub use route::{
    Action, ClusterChoice, DirectResponse, Fraction, HostRewrite, Mirror, PathMatch, PathRewrite, QueryMatch,
    Redirect, RequireTls, Route, RouteAction, RouteConfig, RouteMatch, TemplatePart, VirtualHost,
    WeightedCluster,
};
pub use route_options::{
    Criteria, DrawBy, HashPolicy, HashSource, MaxStream, Priority, RateLimitedBackOff, ResetFormat, RetryOn,
    RetryPolicy, RouteOptions, Upgrade,
};
pub use runtime::{Layer, LayerSource, Runtime, RuntimeValue, Switch};
pub use scopes::{Extract, KeyFragment, ScopeSource, ScopeTable, ScopedRoute, ScopedRoutes};
pub use text::{Regex, RegexError, StringMatch};
pub use tls::{
    Certificate, Certificates, ChainTls, CommonTls, Data, DownstreamTls, Hidden, SanKind, SanMatch, Secret,
    SecretRef, SecretSource, SocketMatch, TlsVersion, TransportSocket, TransportSockets, UpstreamTls,
    Validation, ValidationSource,
};
pub use uri_template::{TemplateError, UriTemplate};
pub use workload::{Node, Workload};
