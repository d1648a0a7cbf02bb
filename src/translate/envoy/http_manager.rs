//! HttpConnectionManager.

use std::time::Duration;

use prost::{Message, Name};

use super::access_log;
use super::cluster_http::http2;
use super::filters::{IDLE, inline_routes, rds};
use super::scopes::scoped;
use super::values::{duration, enumeration, not_empty, timeout};
use super::{http_edge, http_filters};
use crate::model::{Codec, Http2Options, HttpManager, RouteSource, RouterOptions};
use crate::proto;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::filters::http::router::v3::Router;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use crate::translate::finding::{Findings, Path};

/// `stream_idle_timeout` if absent.
const STREAM_IDLE: Duration = Duration::from_secs(300);
/// What `strict_check_headers` may name.
const STRICT_HEADERS: [&str; 5] = [
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-max-retries",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
];
/// Streams a client may have at once, if not set.
const MAX_STREAMS: u32 = 1024;

pub(super) fn manager(
    path: &Path<'_>,
    manager: &pb::HttpConnectionManager,
    out: &mut Findings,
) -> Option<HttpManager> {
    refuse_unbuilt(path, manager, out);
    let filters = http_filters::chain(&path.name("http_filters"), &manager.http_filters, out);
    let codec = codec(&path.name("codec_type"), manager.codec_type, out);
    let routes = routes(path, manager, out);
    let default = core::HttpProtocolOptions::default();
    let common = manager.common_http_protocol_options.as_ref().unwrap_or(&default);
    let at = path.name("common_http_protocol_options");
    let mut http2 = match &manager.http2_protocol_options {
        Some(options) => http2(&path.name("http2_protocol_options"), options, out),
        None => Http2Options::default(),
    };
    let limits = http_edge::limits(path, manager, common, out);
    if manager.max_request_headers_kb.is_some() {
        http2.header_list = u32::try_from(limits.head_bytes).ok();
    }
    let age = common.max_connection_duration.as_ref();
    let stream_age = common.max_stream_duration.as_ref();
    let idle = manager.stream_idle_timeout.as_ref();
    Some(HttpManager {
        stat_prefix: not_empty(&path.name("stat_prefix"), &manager.stat_prefix, out),
        idle_timeout: timeout(&at.name("idle_timeout"), common.idle_timeout.as_ref(), Some(IDLE), out),
        stream_idle_timeout: timeout(&path.name("stream_idle_timeout"), idle, Some(STREAM_IDLE), out),
        limits,
        max_connection_duration: timeout(&at.name("max_connection_duration"), age, None, out),
        max_stream_duration: timeout(&at.name("max_stream_duration"), stream_age, None, out),
        max_concurrent_streams: http2.max_concurrent_streams.unwrap_or(MAX_STREAMS),
        http2,
        http1: http_edge::http1(&path.name("http_protocol_options"), manager, out),
        edge: http_edge::edge(path, manager, common, out)?,
        server_name: server_name(&manager.server_name),
        access_log: access_log::of_manager(path, manager, out),
        delayed_close: match &manager.delayed_close_timeout {
            None => HttpManager::DELAYED_CLOSE,
            Some(given) => duration(&path.name("delayed_close_timeout"), given, out),
        },
        filters,
        router: router(&path.name("http_filters"), &manager.http_filters, out),
        codec: codec?,
        routes: routes?,
    })
}

fn server_name(name: &str) -> String {
    if name.is_empty() { "envoy".to_owned() } else { name.to_owned() }
}

/// What changes which requests are admitted, or where they go, and is not built.
fn refuse_unbuilt(path: &Path<'_>, manager: &pb::HttpConnectionManager, out: &mut Findings) {
    for (field, set) in [
        ("original_ip_detection_extensions", !manager.original_ip_detection_extensions.is_empty()),
        ("early_header_mutation_extensions", !manager.early_header_mutation_extensions.is_empty()),
        ("path_normalization_options", manager.path_normalization_options.is_some()),
        ("forward_client_cert_matcher", manager.forward_client_cert_matcher.is_some()),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
}

fn codec(path: &Path<'_>, number: i32, out: &mut Findings) -> Option<Codec> {
    use pb::http_connection_manager::CodecType;
    match enumeration(path, number, out)? {
        CodecType::Auto => Some(Codec::Auto),
        CodecType::Http1 => Some(Codec::Http1),
        CodecType::Http2 => Some(Codec::Http2),
        CodecType::Http3 => {
            let why = "this codec is not supported (nearest valid: AUTO, HTTP1 or HTTP2)";
            out.bad(path, CodecType::Http3.as_str_name(), why);
            None
        }
    }
}

fn routes(path: &Path<'_>, manager: &pb::HttpConnectionManager, out: &mut Findings) -> Option<RouteSource> {
    use pb::http_connection_manager::RouteSpecifier as Source;
    match &manager.route_specifier {
        Some(Source::Rds(source)) => rds(&path.name("rds"), source, out),
        Some(Source::RouteConfig(table)) => inline_routes(&path.name("route_config"), table, out),
        Some(Source::ScopedRoutes(by_scope)) => scoped(&path.name("scoped_routes"), by_scope, out),
        None => {
            out.bad(path, "", "no routes (one of rds, route_config, scoped_routes)");
            None
        }
    }
}

/// The settings of the router.
fn router(path: &Path<'_>, filters: &[pb::HttpFilter], out: &mut Findings) -> RouterOptions {
    use pb::http_filter::ConfigType;
    let mut routers = filters.iter().enumerate().filter_map(|(i, filter)| match &filter.config_type {
        // What cannot be read is told where the filters are.
        Some(ConfigType::TypedConfig(any)) if proto::message_name(&any.type_url) == Router::full_name() => {
            Router::decode(&*any.value).ok().map(|router| (i, router))
        }
        _ => None,
    });
    let Some((i, router)) = routers.next_back() else { return RouterOptions::default() };
    let at = path.index(i);
    let at = at.name("typed_config");
    let at = at.name("strict_check_headers");
    let strict_headers: Vec<String> =
        router.strict_check_headers.iter().map(|name| name.to_ascii_lowercase()).collect();
    for (i, name) in strict_headers.iter().enumerate() {
        if !STRICT_HEADERS.contains(&name.as_str()) {
            let why = format!("cannot be checked (valid: {})", STRICT_HEADERS.join(", "));
            out.bad(&at.index(i), name, why);
        }
    }
    RouterOptions {
        suppress_headers: router.suppress_envoy_headers,
        respect_expected_timeout: router.respect_expected_rq_timeout,
        strict_headers,
    }
}
