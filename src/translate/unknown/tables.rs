//! Which messages are strict about unknown fields, and which known fields Mizzen accepts without acting on them.
//!
//! A field is listed in `NO_EFFECT` only if leaving it out encrypts nothing less, admits nothing more and sends
//! no request elsewhere. What is not listed is read by `translate::envoy`, which applies or refuses it, or is
//! a description (metadata, stat names).

/// Name prefixes of messages in which an unknown field is a rejection.
pub(super) const STRICT: &[&str] = &[
    "envoy.config.cluster.v3.Filter",
    "envoy.config.common.mutation_rules.v3.",
    "envoy.config.core.v3.ConfigSource",
    "envoy.config.core.v3.DataSource",
    "envoy.config.core.v3.SocketAddress",
    "envoy.config.core.v3.TransportSocket",
    "envoy.config.listener.v3.Filter",
    "envoy.config.listener.v3.ListenerFilter",
    "envoy.config.rbac.v3.",
    "envoy.config.route.v3.FilterConfig",
    "envoy.config.route.v3.HeaderMatcher",
    "envoy.config.route.v3.QueryParameterMatcher",
    "envoy.config.route.v3.RateLimit",
    "envoy.config.route.v3.RouteMatch",
    "envoy.extensions.common.ratelimit.v3.",
    "envoy.extensions.filters.",
    "envoy.extensions.transport_sockets.",
    "envoy.type.matcher.v3.",
    "mizzen.v1.",
];

/// Messages of which only the presence is read; an unknown field in them says nothing new.
pub(super) const SHELLS: &[&str] = &[
    "envoy.config.bootstrap.v3.FatalAction",
    "envoy.config.bootstrap.v3.Watchdog",
    "envoy.config.bootstrap.v3.Watchdogs",
    "envoy.config.core.v3.Http3ProtocolOptions",
    "envoy.config.listener.v3.ApiListener",
    "envoy.config.listener.v3.UdpListenerConfig",
    "envoy.config.route.v3.CorsPolicy",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.OutlierDetection",
    "xds.type.matcher.v3.Matcher",
];

/// Oneofs that may well be unset, so that an unknown field beside them is no sign of an unknown member.
pub(super) const OPTIONAL_ONEOFS: &[&str] = &[
    "access_log_format",
    "cluster_discovery_type",
    "host_rewrite_specifier",
    "lb_config",
    "listener_specifier",
    "locality_config_specifier",
    "random_value_specifier",
    "scheme_rewrite_specifier",
    "path_rewrite_specifier",
    "user_agent_version_type",
];

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Accepted, reported, not acted upon.
pub(super) const NO_EFFECT: &[(&str, &[&str])] = &[
    (
        "envoy.config.listener.v3.Listener",
        &["drain_type", "enable_mptcp", "socket_options", "tcp_fast_open_queue_length"],
    ),
    ("envoy.config.listener.v3.AdditionalAddress", &["socket_options"]),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &[
            "access_log_flush_interval",
            "access_log_options",
            "backoff_options",
            "downstream_idle_timeout",
            "flush_access_log_on_connected",
            "max_downstream_connection_duration_jitter_percentage",
            "max_early_data_bytes",
            "upstream_connect_mode",
            "upstream_idle_timeout",
        ],
    ),
    (
        HCM,
        &[
            "drain_timeout",
            "proxy_status_config",
            "stream_flush_timeout",
            "tracing",
            "typed_header_validation_config",
        ],
    ),
    // Properties are always sorted; what a log line is sent as matters to nobody.
    ("envoy.config.core.v3.JsonFormatOptions", &["sort_properties"]),
    ("envoy.extensions.filters.http.router.v3.Router", &["upstream_log"]),
    ("envoy.extensions.filters.http.fault.v3.HTTPFault", &["disable_downstream_cluster_stats"]),
    ("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig", &["enable_upstream_stats"]),
    ("envoy.extensions.filters.http.header_to_metadata.v3.Config", &["stat_prefix"]),
    ("envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue", &["shared_with_upstream"]),
    ("stats.PluginConfig", &["rescoping_duration", "scope_grace_period_duration"]),
    (
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        &[
            "charge_cluster_response_stats",
            "emit_filter_state_stats",
            "enforce_response_header_limits",
            "filter_metadata",
        ],
    ),
    (
        "envoy.extensions.filters.http.compressor.v3.Compressor.ResponseDirectionConfig",
        &["status_header_enabled"],
    ),
    (
        "envoy.extensions.compression.gzip.compressor.v3.Gzip",
        &["chunk_size", "compression_strategy", "memory_level", "window_bits"],
    ),
    (
        "envoy.extensions.compression.brotli.compressor.v3.Brotli",
        &["chunk_size", "disable_literal_context_modeling", "encoder_mode", "input_block_bits"],
    ),
    ("envoy.extensions.compression.zstd.compressor.v3.Zstd", &["chunk_size", "strategy"]),
    ("envoy.extensions.compression.gzip.decompressor.v3.Gzip", &["chunk_size", "window_bits"]),
    (
        "envoy.extensions.compression.brotli.decompressor.v3.Brotli",
        &["chunk_size", "disable_ring_buffer_reallocation"],
    ),
    ("envoy.extensions.compression.zstd.decompressor.v3.Zstd", &["chunk_size"]),
    ("envoy.config.route.v3.RateLimit", &["disable_key"]),
    (
        "envoy.config.core.v3.Http2ProtocolOptions",
        &[
            "allow_metadata",
            "custom_settings_parameters",
            "hpack_table_size",
            "max_consecutive_inbound_frames_with_empty_payload",
            "max_inbound_priority_frames_per_stream",
            "max_inbound_window_update_frames_per_data_frame_sent",
            "max_outbound_control_frames",
            "max_outbound_frames",
        ],
    ),
    ("envoy.config.route.v3.RouteConfiguration", &["cluster_specifier_plugins", "validate_clusters"]),
    (
        "envoy.config.route.v3.VirtualHost",
        &["hedge_policy", "include_is_timeout_retry_header", "virtual_clusters"],
    ),
    // All tables are asked for at once.
    ("envoy.config.route.v3.ScopedRouteConfiguration", &["on_demand"]),
    ("envoy.config.route.v3.Tracing", &["custom_tags", "operation", "upstream_operation"]),
    (
        "envoy.config.route.v3.RouteAction",
        &["cluster_not_found_response_code", "early_data_policy", "flush_timeout", "hedge_policy"],
    ),
    ("envoy.config.route.v3.WeightedCluster", &["total_weight"]),
    ("envoy.config.route.v3.RetryPolicy", &["retry_options_predicates", "retry_priority"]),
    (
        "envoy.config.cluster.v3.Cluster",
        &[
            "close_connections_on_host_health_failure",
            "connection_pool_per_downstream_connection",
            "ignore_health_on_host_removal",
            "preconnect_policy",
            "typed_dns_resolver_config",
        ],
    ),
    (
        "envoy.config.cluster.v3.Cluster.CommonLbConfig",
        &["close_connections_on_host_set_change", "override_host_status"],
    ),
    ("envoy.config.cluster.v3.CircuitBreakers.Thresholds", &["max_connection_pools"]),
    (
        "envoy.config.cluster.v3.UpstreamConnectionOptions",
        &["set_local_interface_name_on_upstream_connections"],
    ),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        &["hash_policy", "header_validation_config", "outlier_detection"],
    ),
    ("envoy.config.endpoint.v3.ClusterLoadAssignment.Policy", &["endpoint_stale_after"]),
    ("envoy.config.endpoint.v3.Endpoint", &["additional_addresses"]),
];
