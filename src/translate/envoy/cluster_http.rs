//! Upstream HTTP options of a cluster: the typed extension, and the deprecated fields it replaced.

use std::sync::Arc;
use std::time::Duration;

use super::extension::Extension;
use super::headers::header_name;
use super::values::{percent, positive, timeout, within};
use crate::model::{AutoNames, Cluster, Http2Options, Keepalive, UpstreamProtocol};
use crate::proto::envoy::config::cluster::v3 as pb;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use crate::translate::finding::{Findings, Path};

/// Largest HTTP/2 window.
const MAX_WINDOW: u32 = 0x7fff_ffff;
/// Largest `max_response_headers_kb`.
const MAX_HEAD_KB: u32 = 8192;
/// Smallest HTTP/2 window that Envoy accepts.
const MIN_WINDOW: u32 = 65_535;

/// Applies whatever of both forms is there; the typed form wins.
pub(super) fn apply(message: &pb::Cluster, model: &mut Cluster, out: &mut Findings) {
    let root = Path::ROOT;
    deprecated(message, model, out);
    let at = root.name("typed_extension_protocol_options");
    for (key, any) in &message.typed_extension_protocol_options {
        let at = at.key(key);
        let Some(extension) = Extension::open(&at, any, out) else { continue };
        if !extension.is::<HttpProtocolOptions>() {
            out.bad(&at, &extension.type_url, "unknown protocol options");
            continue;
        }
        if let Some(options) = extension.decode::<HttpProtocolOptions>(&at, out) {
            typed(&at, &options, model, out);
        }
    }
    let default = Cluster::DEFAULT_RESPONSE_HEAD;
    if model.response_head_bytes != default {
        model.http2.header_list = u32::try_from(model.response_head_bytes).ok();
    }
}

fn deprecated(message: &pb::Cluster, model: &mut Cluster, out: &mut Findings) {
    let root = Path::ROOT;
    if let Some(options) = &message.http2_protocol_options {
        model.protocol = UpstreamProtocol::Http2;
        model.http2 = http2(&root.name("http2_protocol_options"), options, out);
    }
    if message.protocol_selection == pb::cluster::ClusterProtocolSelection::UseDownstreamProtocol as i32 {
        model.protocol = UpstreamProtocol::Downstream;
    }
    if let Some(common) = &message.common_http_protocol_options {
        common_options(&root.name("common_http_protocol_options"), common, model, out);
    }
    if let Some(max) = message.max_requests_per_connection {
        model.max_requests_per_connection = max;
    }
}

fn typed(path: &Path<'_>, options: &HttpProtocolOptions, model: &mut Cluster, out: &mut Findings) {
    use crate::proto::envoy::extensions::upstreams::http::v3::http_protocol_options as pb;
    use pb::UpstreamProtocolOptions as Choice;
    use pb::explicit_http_config::ProtocolConfig as Explicit;
    if let Some(common) = &options.common_http_protocol_options {
        common_options(&path.name("common_http_protocol_options"), common, model, out);
    }
    let filters = path.name("http_filters");
    for (i, filter) in options.http_filters.iter().enumerate() {
        out.bad(&filters.index(i), &filter.name, "upstream HTTP filters are not supported");
    }
    if !options.request_mirror_policies.is_empty() {
        out.bad(&path.name("request_mirror_policies"), "", "mirroring is not supported");
    }
    if let Some(upstream) = &options.upstream_http_protocol_options {
        let at = path.name("upstream_http_protocol_options");
        let (sni, san) = (upstream.auto_sni, upstream.auto_san_validation);
        let named = Some(&upstream.override_auto_sni_header).filter(|name| !name.is_empty());
        let field = at.name("override_auto_sni_header");
        let header = named.map(|name| header_name(&field, name, out));
        model.auto_names = (sni || san).then(|| Arc::new(AutoNames { sni, san, header }));
    }
    if options.retry_policy.is_some() {
        out.bad(&path.name("retry_policy"), "", "not supported here (nearest valid: on the route)");
    }
    match &options.upstream_protocol_options {
        None => out.bad(path, "", "no upstream_protocol_options (nearest valid: explicit_http_config)"),
        Some(Choice::ExplicitHttpConfig(config)) => {
            let at = path.name("explicit_http_config");
            match &config.protocol_config {
                Some(Explicit::HttpProtocolOptions(_)) => model.protocol = UpstreamProtocol::Http1,
                Some(Explicit::Http2ProtocolOptions(options)) => {
                    model.protocol = UpstreamProtocol::Http2;
                    model.http2 = http2(&at.name("http2_protocol_options"), options, out);
                }
                Some(Explicit::Http3ProtocolOptions(_)) => {
                    let why = "HTTP/3 is not supported (nearest valid: http2_protocol_options)";
                    out.bad(&at.name("http3_protocol_options"), "", why);
                }
                None => out.bad(&at, "", "no protocol"),
            }
        }
        Some(Choice::UseDownstreamProtocolConfig(config)) => {
            let at = path.name("use_downstream_protocol_config");
            model.protocol = UpstreamProtocol::Downstream;
            if let Some(options) = &config.http2_protocol_options {
                model.http2 = http2(&at.name("http2_protocol_options"), options, out);
            }
        }
        Some(Choice::AutoConfig(config)) => {
            let at = path.name("auto_config");
            model.protocol = UpstreamProtocol::Auto;
            if let Some(options) = &config.http2_protocol_options {
                model.http2 = http2(&at.name("http2_protocol_options"), options, out);
            }
            if config.http3_protocol_options.is_some() {
                let why = "HTTP/3 is not supported (leave it out)";
                out.bad(&at.name("http3_protocol_options"), "", why);
            }
        }
    }
}

fn common_options(
    path: &Path<'_>,
    common: &core::HttpProtocolOptions,
    model: &mut Cluster,
    out: &mut Findings,
) {
    let idle = common.idle_timeout.as_ref();
    model.idle_timeout = timeout(&path.name("idle_timeout"), idle, model.idle_timeout, out);
    if let Some(max) = common.max_requests_per_connection {
        model.max_requests_per_connection = max;
    }
    if let Some(max) = common.max_headers_count {
        let max = within(&path.name("max_headers_count"), max, 1, u32::MAX, out);
        model.response_headers = max as usize;
    }
    if let Some(kb) = common.max_response_headers_kb {
        // HTTP/2's is set with its other options, wherever those come from.
        let kb = within(&path.name("max_response_headers_kb"), kb, 1, MAX_HEAD_KB, out);
        model.response_head_bytes = kb as usize * 1024;
    }
    for (field, set) in [
        ("max_connection_duration", common.max_connection_duration.is_some()),
        ("max_stream_duration", common.max_stream_duration.is_some()),
    ] {
        if set {
            out.note(&path.name(field));
        }
    }
}

/// HTTP/2 settings of either side.
pub(super) fn http2(
    path: &Path<'_>,
    options: &core::Http2ProtocolOptions,
    out: &mut Findings,
) -> Http2Options {
    let mut bounded = |field: &str, value: Option<u32>, min: u32| {
        value.map(|v| within(&path.name(field), v, min, MAX_WINDOW, out))
    };
    let mut model = Http2Options {
        max_concurrent_streams: bounded("max_concurrent_streams", options.max_concurrent_streams, 1),
        initial_stream_window: bounded(
            "initial_stream_window_size",
            options.initial_stream_window_size,
            MIN_WINDOW,
        ),
        initial_connection_window: bounded(
            "initial_connection_window_size",
            options.initial_connection_window_size,
            MIN_WINDOW,
        ),
        keepalive: None,
        header_list: None,
    };
    if let Some(keepalive) = &options.connection_keepalive {
        let at = path.name("connection_keepalive");
        if keepalive.timeout.is_none() {
            out.bad(&at.name("timeout"), "", "is required");
        }
        let zero = Duration::ZERO;
        let answer = positive(&at.name("timeout"), keepalive.timeout.as_ref(), zero, out);
        let mut time = |field: &str, given: Option<&prost_types::Duration>| {
            given.map(|given| positive(&at.name(field), Some(given), zero, out))
        };
        let interval = time("interval", keepalive.interval.as_ref());
        let idle = time("connection_idle_interval", keepalive.connection_idle_interval.as_ref());
        let jitter = keepalive.interval_jitter.as_ref();
        let jitter = jitter.map_or(15, |share| percent(&at.name("interval_jitter"), share.value, out));
        if interval.is_some() || idle.is_some() {
            model.keepalive = Some(Box::new(Keepalive { interval, timeout: answer, jitter, idle }));
        }
    }
    model
}
