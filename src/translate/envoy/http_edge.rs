//! The fields of HttpConnectionManager about heads: what clients may send, and what becomes of it.

use super::extension::Extension;
use super::values::{cidr, enumeration, timeout, within};
use crate::model::{
    CertMode, ClientCert, Edge, EscapedSlashes, Http1Options, RequestId, RequestLimits, RequestScheme,
    Sampling, ServerHeader, StripPort, Underscores, Upgrade,
};
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use crate::proto::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use crate::proto::envoy::r#type::v3::Percent;
use crate::translate::finding::{Findings, Path};

/// Largest `max_request_headers_kb`.
const MAX_HEAD_KB: u32 = 8192;

/// What clients may send.
pub(super) fn limits(
    path: &Path<'_>,
    manager: &pb::HttpConnectionManager,
    common: &core::HttpProtocolOptions,
    out: &mut Findings,
) -> RequestLimits {
    let at = path.name("common_http_protocol_options");
    let default = RequestLimits::default();
    let kilobytes = manager
        .max_request_headers_kb
        .map(|kb| within(&path.name("max_request_headers_kb"), kb, 1, MAX_HEAD_KB, out));
    let headers =
        common.max_headers_count.map(|n| within(&at.name("max_headers_count"), n, 1, u32::MAX, out));
    let (head, whole) = (manager.request_headers_timeout.as_ref(), manager.request_timeout.as_ref());
    RequestLimits {
        head_bytes: kilobytes.map_or(default.head_bytes, |kb| kb as usize * 1024),
        max_headers: headers.map(|n| n as usize),
        headers_timeout: timeout(&path.name("request_headers_timeout"), head, None, out),
        request_timeout: timeout(&path.name("request_timeout"), whole, None, out),
        per_connection: common.max_requests_per_connection.filter(|max| *max > 0),
    }
}

/// HTTP/1 towards clients.
pub(super) fn http1(
    path: &Path<'_>,
    manager: &pb::HttpConnectionManager,
    out: &mut Findings,
) -> Http1Options {
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    let default = Http1Options::default();
    let Some(options) = &manager.http_protocol_options else { return default };
    if let Some(format) = &options.header_key_format
        && let Some(HeaderFormat::ProperCaseWords(_)) = &format.header_format
    {
        let why =
            "not supported (names are passed on as they were written; nearest valid: stateful_formatter)";
        out.bad(&path.name("header_key_format").name("proper_case_words"), "", why);
    }
    for (field, set) in [
        ("allow_chunked_length", options.allow_chunked_length),
        ("send_fully_qualified_url", options.send_fully_qualified_url),
        ("ignore_http_11_upgrade", !options.ignore_http_11_upgrade.is_empty()),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
    Http1Options {
        accept_http_10: options.accept_http_10,
        default_host: options.default_host_for_http_10.clone(),
        allow_absolute_url: options.allow_absolute_url.unwrap_or(true),
        custom_methods: options.allow_custom_methods,
        ..default
    }
}

/// What becomes of heads.
pub(super) fn edge(
    path: &Path<'_>,
    manager: &pb::HttpConnectionManager,
    common: &core::HttpProtocolOptions,
    out: &mut Findings,
) -> Option<Edge> {
    use core::http_protocol_options::HeadersWithUnderscoresAction as Names;
    use pb::http_connection_manager::{PathWithEscapedSlashesAction as Slashes, ServerHeaderTransformation};
    let at = path.name("common_http_protocol_options");
    let at = at.name("headers_with_underscores_action");
    let underscores = match enumeration(&at, common.headers_with_underscores_action, out)? {
        Names::Allow => Underscores::Allow,
        Names::RejectRequest => Underscores::Reject,
        Names::DropHeader => Underscores::Drop,
    };
    let at = path.name("path_with_escaped_slashes_action");
    let escaped_slashes = match enumeration(&at, manager.path_with_escaped_slashes_action, out)? {
        Slashes::ImplementationSpecificDefault | Slashes::KeepUnchanged => EscapedSlashes::Keep,
        Slashes::RejectRequest => EscapedSlashes::Reject,
        Slashes::UnescapeAndRedirect => EscapedSlashes::Redirect,
        Slashes::UnescapeAndForward => EscapedSlashes::Unescape,
    };
    let at = path.name("server_header_transformation");
    let server_header = match enumeration(&at, manager.server_header_transformation, out)? {
        ServerHeaderTransformation::Overwrite => ServerHeader::Overwrite,
        ServerHeaderTransformation::AppendIfAbsent => ServerHeader::AppendIfAbsent,
        ServerHeaderTransformation::PassThrough => ServerHeader::PassThrough,
    };
    let internal = manager.internal_address_config.as_ref();
    let at = path.name("internal_address_config");
    let at = at.name("cidr_ranges");
    let ranges = internal.map(|config| config.cidr_ranges.as_slice()).unwrap_or_default();
    Some(Edge {
        underscores,
        escaped_slashes,
        server_header,
        normalize_path: manager.normalize_path.unwrap_or(false),
        merge_slashes: manager.merge_slashes,
        strip_port: strip_port(manager),
        strip_trailing_dot: manager.strip_trailing_host_dot,
        use_remote_address: manager.use_remote_address.unwrap_or(false),
        trusted_hops: manager.xff_num_trusted_hops,
        skip_xff_append: manager.skip_xff_append,
        append_port: manager.append_x_forwarded_port,
        internal: ranges.iter().enumerate().filter_map(|(i, range)| cidr(&at.index(i), range, out)).collect(),
        request_id: request_id(path, manager, out)?,
        via: via(path, &manager.via, out),
        upgrades: upgrades(&path.name("upgrade_configs"), &manager.upgrade_configs, out),
        proxy_100_continue: manager.proxy_100_continue,
        client_cert: client_cert(path, manager, out)?,
        add_user_agent: manager.add_user_agent.unwrap_or(false),
        scheme: scheme(path, manager, out),
    })
}

fn request_id(path: &Path<'_>, manager: &pb::HttpConnectionManager, out: &mut Findings) -> Option<RequestId> {
    let mut config = UuidRequestIdConfig::default();
    if let Some(any) = manager.request_id_extension.as_ref().and_then(|e| e.typed_config.as_ref()) {
        let at = path.name("request_id_extension");
        let at = at.name("typed_config");
        let extension = Extension::open(&at, any, out)?;
        if !extension.is::<UuidRequestIdConfig>() {
            let why = "this kind of request id is not supported (nearest valid: UuidRequestIdConfig)";
            out.bad(&at, &extension.type_url, why);
            return None;
        }
        config = extension.decode(&at, out)?;
    }
    // Where the id has no say, its digit has no meaning either.
    let decides = config.use_request_id_for_trace_sampling.unwrap_or(true);
    let at = path.name("tracing");
    let share = |name: &str, value: Option<&Percent>, out: &mut Findings| match value {
        None => (10_000, 10_000),
        Some(percent) if (0.0..=100.0).contains(&percent.value) => {
            ((percent.value * 100.0).round() as u32, 10_000)
        }
        Some(percent) => {
            out.bad(&at.name(name).name("value"), percent.value, "must be 0 to 100");
            (0, 10_000)
        }
    };
    let sampling = manager.tracing.as_ref().filter(|_| decides).map(|tracing| Sampling {
        client: share("client_sampling", tracing.client_sampling.as_ref(), out),
        random: share("random_sampling", tracing.random_sampling.as_ref(), out),
        overall: share("overall_sampling", tracing.overall_sampling.as_ref(), out),
    });
    Some(RequestId {
        generate: manager.generate_request_id.unwrap_or(true),
        preserve_external: manager.preserve_external_request_id,
        in_response: manager.always_set_request_id_in_response,
        carries_reason: config.pack_trace_reason.unwrap_or(true),
        sampling,
    })
}

/// What hosts are told of the client's certificate.
fn client_cert(
    path: &Path<'_>,
    manager: &pb::HttpConnectionManager,
    out: &mut Findings,
) -> Option<ClientCert> {
    use pb::http_connection_manager::ForwardClientCertDetails as Details;
    let at = path.name("forward_client_cert_details");
    let mode = match enumeration(&at, manager.forward_client_cert_details, out)? {
        Details::Sanitize => CertMode::Sanitize,
        Details::ForwardOnly => CertMode::ForwardOnly,
        Details::AppendForward => CertMode::AppendForward,
        Details::SanitizeSet => CertMode::SanitizeSet,
        Details::AlwaysForwardOnly => CertMode::AlwaysForwardOnly,
    };
    let none = pb::http_connection_manager::SetCurrentClientCertDetails::default();
    let set = manager.set_current_client_cert_details.as_ref().unwrap_or(&none);
    Some(ClientCert {
        mode,
        subject: set.subject == Some(true),
        cert: set.cert,
        chain: set.chain,
        dns: set.dns,
        uri: set.uri,
    })
}

fn scheme(path: &Path<'_>, manager: &pb::HttpConnectionManager, out: &mut Findings) -> Option<RequestScheme> {
    use core::scheme_header_transformation::Transformation;
    let wanted = manager.scheme_header_transformation.as_ref()?;
    let at = path.name("scheme_header_transformation");
    if wanted.match_upstream {
        out.bad(&at.name("match_upstream"), true, "not supported (nearest valid: scheme_to_overwrite)");
    }
    let Transformation::SchemeToOverwrite(word) = wanted.transformation.as_ref()?;
    match word.as_str() {
        "http" => Some(RequestScheme::Http),
        "https" => Some(RequestScheme::Https),
        other => {
            out.bad(&at.name("scheme_to_overwrite"), other, "nearest valid: http, https");
            None
        }
    }
}

fn strip_port(manager: &pb::HttpConnectionManager) -> StripPort {
    use pb::http_connection_manager::StripPortMode as Mode;
    match manager.strip_port_mode {
        Some(Mode::StripAnyHostPort(true)) => StripPort::Any,
        _ if manager.strip_matching_host_port => StripPort::Matching,
        _ => StripPort::Keep,
    }
}

fn via(path: &Path<'_>, via: &str, out: &mut Findings) -> String {
    if via.bytes().any(|byte| byte.is_ascii_control()) {
        out.bad(&path.name("via"), via, "control characters cannot be in a header");
    }
    via.to_owned()
}

fn upgrades(
    path: &Path<'_>,
    list: &[pb::http_connection_manager::UpgradeConfig],
    out: &mut Findings,
) -> Vec<Upgrade> {
    let mut read: Vec<Upgrade> = Vec::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        let at = path.index(i);
        let kind = item.upgrade_type.to_ascii_lowercase();
        if kind.is_empty() {
            out.bad(&at.name("upgrade_type"), "", "is required");
        }
        if read.iter().any(|other| other.kind == kind) {
            out.bad(&at.name("upgrade_type"), &item.upgrade_type, "is there twice");
        }
        if !item.filters.is_empty() {
            out.bad(&at.name("filters"), "", "filters of their own for upgrades are not supported");
        }
        read.push(Upgrade { kind, enabled: item.enabled.unwrap_or(true), raw: None });
    }
    read
}
