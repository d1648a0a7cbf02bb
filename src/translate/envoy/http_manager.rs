//! HttpConnectionManager.

use std::time::Duration;

use super::access_log;
use super::cluster_http::http2;
use super::extension::Extension;
use super::filters::{IDLE, inline_routes, rds};
use super::http_edge;
use super::values::{enumeration, not_empty, timeout};
use crate::model::{Codec, Http2Options, HttpManager, RouteSource};
use crate::proto;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::filters::http::router::v3::Router;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use crate::translate::finding::{Findings, Path};
use crate::translate::unknown;

/// `stream_idle_timeout` if absent.
const STREAM_IDLE: Duration = Duration::from_secs(300);
/// Streams a client may have at once, if not set.
const MAX_STREAMS: u32 = 1024;

pub(super) fn manager(
    path: &Path<'_>,
    manager: &pb::HttpConnectionManager,
    out: &mut Findings,
) -> Option<HttpManager> {
    refuse_unbuilt(path, manager, out);
    http_filters(&path.name("http_filters"), &manager.http_filters, out);
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
        access_log: access_log::logs(&path.name("access_log"), &manager.access_log, out),
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
        Some(Source::ScopedRoutes(_)) => {
            out.bad(&path.name("scoped_routes"), "", "not supported (nearest valid: rds)");
            None
        }
        None => {
            out.bad(path, "", "no routes (one of rds, route_config)");
            None
        }
    }
}

/// The router, last; others of unknown type only if they are optional.
fn http_filters(path: &Path<'_>, filters: &[pb::HttpFilter], out: &mut Findings) {
    use pb::http_filter::ConfigType;
    let mut router_at = None;
    for (i, filter) in filters.iter().enumerate() {
        let at = path.index(i);
        let any = match &filter.config_type {
            Some(ConfigType::TypedConfig(any)) => any,
            _ if filter.is_optional => {
                out.note(&at);
                continue;
            }
            Some(ConfigType::ConfigDiscovery(_)) => {
                out.bad(&at.name("config_discovery"), &filter.name, "not supported (use typed_config)");
                continue;
            }
            None => {
                let why = "filters are known by type, but there is none";
                out.bad(&at.name("typed_config"), &filter.name, why);
                continue;
            }
        };
        let at_config = at.name("typed_config");
        let Some(extension) = Extension::open(&at_config, any, out) else { continue };
        if extension.is::<Router>() {
            if let Some(router) = extension.decode::<Router>(&at_config, out) {
                check_router(&at_config, &router, out);
            }
            if filter.disabled {
                out.bad(&at.name("disabled"), true, "the router cannot be disabled");
            }
            router_at.get_or_insert(i);
        } else if filter.is_optional && is_unknown(&extension) {
            out.note(&at);
        } else {
            let why = "this HTTP filter is not supported (nearest valid: Router, or is_optional)";
            out.bad(&at_config, &extension.type_url, why);
        }
    }
    match router_at {
        None => out.bad(path, "", "the last filter must be the router"),
        Some(i) if i + 1 != filters.len() => {
            out.bad(&path.index(i), "", "the router must be the last filter, and the only one of its kind");
        }
        Some(_) => {}
    }
}

/// A type that Mizzen has never heard of: not one that it knows to restrict.
fn is_unknown(extension: &Extension<'_>) -> bool {
    !unknown::is_known(proto::message_name(&extension.type_url)) && !extension.restricts()
}

fn check_router(path: &Path<'_>, router: &Router, out: &mut Findings) {
    let at = path.name("upstream_http_filters");
    for (i, filter) in router.upstream_http_filters.iter().enumerate() {
        out.bad(&at.index(i), &filter.name, "upstream HTTP filters are not supported");
    }
}
