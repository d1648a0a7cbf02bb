//! `ExtAuthz` of HTTP and of network chains. What cannot be honoured refuses the resource.

use super::rbac::metadata;
use super::{disabled, rule};
use crate::model::{
    AuthzBody, AuthzService, AuthzSettings, ExtAuthz, FilterConfig, GrpcTarget, HttpAuthz, NetworkAuthz,
    RouteFilter, StringMatch, Switch,
};
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::filters::http::ext_authz::v3 as pb;
use crate::proto::envoy::extensions::filters::network::ext_authz::v3 as network;
use crate::proto::envoy::r#type::matcher::v3::ListStringMatcher;
use crate::proto::envoy::r#type::v3::{HttpStatus, StatusCode};
use crate::translate::envoy::matchers::text;
use crate::translate::envoy::route::runtime_fraction;
use crate::translate::envoy::service::{http_uri, retries};
use crate::translate::envoy::values::{enumeration, not_empty, timeout};
use crate::translate::finding::{Findings, Path};
use std::time::Duration;

/// Time for an answer, if absent.
const TIMEOUT: Duration = Duration::from_millis(200);
/// Longest answer of a gRPC service, if absent.
const MOST: usize = 4 << 20;
/// When the service cannot be asked, if absent.
const FORBIDDEN: u16 = 403;

pub(super) fn of_chain(path: &Path<'_>, config: &pb::ExtAuthz, out: &mut Findings) -> Option<FilterConfig> {
    use pb::ext_authz::Services;
    refuse_unbuilt(path, config, out);
    let service = match &config.services {
        Some(Services::GrpcService(service)) => {
            check_version(path, config.transport_api_version, out);
            grpc(&path.name("grpc_service"), service, out).map(AuthzService::Grpc)
        }
        Some(Services::HttpService(service)) => http(&path.name("http_service"), service, out)
            .map(|service| AuthzService::Http(Box::new(service))),
        None => {
            out.bad(path, "", "no service (one of grpc_service, http_service)");
            None
        }
    };
    let is_http = matches!(service, Some(AuthzService::Http(_)));
    let body = match &config.with_request_body {
        Some(given) => Some(body(&path.name("with_request_body"), given, is_http, out)?),
        None => None,
    };
    let enabled = match &config.filter_enabled {
        Some(share) => Some(runtime_fraction(&path.name("filter_enabled"), share, out)?),
        None => None,
    };
    let enabled_metadata = match &config.filter_enabled_metadata {
        Some(wanted) => Some(metadata(&path.name("filter_enabled_metadata"), wanted, out)?),
        None => None,
    };
    let deny = config.deny_at_disable.as_ref();
    let mut allowed = strings(&path.name("allowed_headers"), config.allowed_headers.as_ref(), out)?;
    if let Some(Services::HttpService(service)) = &config.services
        && let Some(given) = &service.authorization_request
        && given.allowed_headers.is_some()
    {
        let at = path.name("http_service");
        let at = at.name("authorization_request");
        let at = at.name("allowed_headers");
        if allowed.is_some() {
            out.bad(&at, "", "excludes allowed_headers of the filter");
        }
        // The older place.
        allowed = strings(&at, given.allowed_headers.as_ref(), out)?;
    }
    let disallowed = strings(&path.name("disallowed_headers"), config.disallowed_headers.as_ref(), out)?;
    Some(FilterConfig::ExtAuthz(Box::new(ExtAuthz {
        service: service?,
        failure_mode_allow: config.failure_mode_allow,
        failure_mode_header: config.failure_mode_allow_header_add,
        body,
        clear_route_cache: config.clear_route_cache,
        status_on_error: status(&path.name("status_on_error"), config.status_on_error.as_ref(), out),
        validate_mutations: config.validate_mutations,
        namespaces: config.metadata_context_namespaces.clone(),
        enabled,
        enabled_metadata,
        deny_at_disable: Switch {
            on: deny.and_then(|deny| deny.default_value).unwrap_or_default(),
            runtime_key: deny.map(|deny| deny.runtime_key.clone()).unwrap_or_default(),
        },
        peer_certificate: config.include_peer_certificate,
        tls_session: config.include_tls_session,
        stat_prefix: config.stat_prefix.clone(),
        allowed,
        disallowed: disallowed.unwrap_or_default(),
        takes_metadata: config.enable_dynamic_metadata_ingestion.unwrap_or(true),
        denied_body: Some(config.max_denied_response_body_bytes as usize).filter(|most| *most > 0),
    })))
}

fn refuse_unbuilt(path: &Path<'_>, config: &pb::ExtAuthz, out: &mut Findings) {
    let lists = [
        ("typed_metadata_context_namespaces", &config.typed_metadata_context_namespaces),
        ("route_metadata_context_namespaces", &config.route_metadata_context_namespaces),
        ("route_typed_metadata_context_namespaces", &config.route_typed_metadata_context_namespaces),
    ];
    let lists = lists.iter().map(|(field, list)| (*field, !list.is_empty()));
    let others = [
        ("bootstrap_metadata_labels_key", !config.bootstrap_metadata_labels_key.is_empty()),
        ("encode_raw_headers", config.encode_raw_headers),
        ("decoder_header_mutation_rules", config.decoder_header_mutation_rules.is_some()),
    ];
    for (field, set) in lists.chain(others) {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
}

pub(super) fn of_route(
    path: &Path<'_>,
    config: &pb::ExtAuthzPerRoute,
    out: &mut Findings,
) -> Option<RouteFilter> {
    use pb::check_settings::ServiceOverride;
    use pb::ext_authz_per_route::Override;
    match &config.r#override {
        Some(Override::Disabled(is)) => disabled(path, *is, out),
        Some(Override::CheckSettings(given)) => {
            let at = path.name("check_settings");
            let service = match &given.service_override {
                Some(ServiceOverride::GrpcService(service)) => {
                    Some(AuthzService::Grpc(grpc(&at.name("grpc_service"), service, out)?))
                }
                Some(ServiceOverride::HttpService(service)) => {
                    let service = http(&at.name("http_service"), service, out)?;
                    Some(AuthzService::Http(Box::new(service)))
                }
                None => None,
            };
            let is_http = matches!(service, Some(AuthzService::Http(_)));
            let at_body = at.name("with_request_body");
            let body = match &given.with_request_body {
                Some(_) if given.disable_request_body_buffering => {
                    out.bad(&at_body, "", "excludes disable_request_body_buffering");
                    None
                }
                Some(given) => Some(body(&at_body, given, is_http, out)?),
                None => None,
            };
            Some(rule(FilterConfig::AuthzSettings(Box::new(AuthzSettings {
                context: given.context_extensions.clone(),
                no_body: given.disable_request_body_buffering,
                body,
                service,
            }))))
        }
        None => {
            out.bad(path, "", "says nothing (one of disabled, check_settings)");
            None
        }
    }
}

/// `ExtAuthz` of a network chain. It is asked once, before anything is passed on.
pub(in crate::translate::envoy) fn of_connections(
    path: &Path<'_>,
    config: &network::ExtAuthz,
    out: &mut Findings,
) -> Option<NetworkAuthz> {
    for (field, set) in [
        ("bootstrap_metadata_labels_key", !config.bootstrap_metadata_labels_key.is_empty()),
        ("typed_metadata_context_namespaces", !config.typed_metadata_context_namespaces.is_empty()),
        ("send_tls_alert_on_denial", config.send_tls_alert_on_denial),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
    let at = path.name("grpc_service");
    let Some(service) = &config.grpc_service else {
        out.bad(&at, "", "is required");
        return None;
    };
    check_version(path, config.transport_api_version, out);
    let enabled_metadata = match &config.filter_enabled_metadata {
        Some(wanted) => Some(metadata(&path.name("filter_enabled_metadata"), wanted, out)?),
        None => None,
    };
    Some(NetworkAuthz {
        stat_prefix: not_empty(&path.name("stat_prefix"), &config.stat_prefix, out),
        service: grpc(&at, service, out)?,
        failure_mode_allow: config.failure_mode_allow,
        peer_certificate: config.include_peer_certificate,
        tls_session: config.include_tls_session,
        enabled_metadata,
        namespaces: config.metadata_context_namespaces.clone(),
    })
}

fn check_version(path: &Path<'_>, version: i32, out: &mut Findings) {
    if version != core::ApiVersion::V3 as i32 {
        out.bad(&path.name("transport_api_version"), version, "must be V3");
    }
}

fn grpc(path: &Path<'_>, service: &core::GrpcService, out: &mut Findings) -> Option<GrpcTarget> {
    use core::grpc_service::TargetSpecifier;
    let Some(TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else {
        out.bad(path, "", "only clusters are asked (nearest valid: envoy_grpc)");
        return None;
    };
    if service.retry_policy.is_some() || target.retry_policy.is_some() {
        out.bad(&path.name("retry_policy"), "", "not supported (leave it out)");
    }
    let at = path.name("envoy_grpc");
    let cluster = not_empty(&at.name("cluster_name"), &target.cluster_name, out);
    let authority = match target.authority.as_str() {
        "" => host_name(&cluster),
        own => own.to_owned(),
    };
    if ::http::uri::Authority::try_from(authority.as_str()).is_err() {
        out.bad(&at.name("authority"), &authority, "is no host name");
    }
    let most = target.max_receive_message_length.map_or(MOST, |most| most as usize);
    Some(GrpcTarget {
        cluster,
        authority,
        timeout: timeout(&path.name("timeout"), service.timeout.as_ref(), Some(TIMEOUT), out),
        metadata: header_values(&path.name("initial_metadata"), &service.initial_metadata, out),
        most,
    })
}

/// A cluster's name as a host name: what no host name may hold becomes `_`.
fn host_name(cluster: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':') { c } else { '_' };
    let name: String = cluster.chars().map(keep).collect();
    match ::http::uri::Authority::try_from(name.as_str()) {
        Ok(_) => name,
        Err(_) => name.replace(':', "_"),
    }
}

fn header_values(path: &Path<'_>, given: &[core::HeaderValue], out: &mut Findings) -> Vec<(String, String)> {
    let mut values = Vec::with_capacity(given.len());
    for (i, header) in given.iter().enumerate() {
        let at = path.index(i);
        let name = header.key.to_ascii_lowercase();
        if ::http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            out.bad(&at.name("key"), &header.key, "is no name of a header");
        }
        let value = match header.raw_value.as_slice() {
            [] => header.value.clone(),
            raw => String::from_utf8_lossy(raw).into_owned(),
        };
        if ::http::HeaderValue::from_str(&value).is_err() || value.contains('%') {
            out.bad(&at.name("value"), &value, "is no plain value of a header");
        }
        values.push((name, value));
    }
    values
}

fn http(path: &Path<'_>, service: &pb::HttpService, out: &mut Findings) -> Option<HttpAuthz> {
    let to = http_uri(&path.name("server_uri"), service.server_uri.as_ref(), out)?;
    if !service.path_prefix.is_empty() && !service.path_prefix.starts_with('/') {
        out.bad(&path.name("path_prefix"), &service.path_prefix, "must begin with /");
    }
    let request = service.authorization_request.clone().unwrap_or_default();
    let response = service.authorization_response.clone().unwrap_or_default();
    let at = path.name("authorization_request");
    let headers_to_add = header_values(&at.name("headers_to_add"), &request.headers_to_add, out);
    let at = path.name("authorization_response");
    let list = |field: &str, given: &Option<ListStringMatcher>, out: &mut Findings| {
        strings(&at.name(field), given.as_ref(), out)
    };
    let again = retries(&path.name("retry_policy"), service.retry_policy.as_ref(), out);
    Some(HttpAuthz {
        cluster: to.cluster,
        timeout: to.timeout,
        path_prefix: service.path_prefix.clone(),
        headers_to_add,
        upstream: list("allowed_upstream_headers", &response.allowed_upstream_headers, out)?
            .unwrap_or_default(),
        upstream_append: list(
            "allowed_upstream_headers_to_append",
            &response.allowed_upstream_headers_to_append,
            out,
        )?
        .unwrap_or_default(),
        client: list("allowed_client_headers", &response.allowed_client_headers, out)?,
        client_on_success: list(
            "allowed_client_headers_on_success",
            &response.allowed_client_headers_on_success,
            out,
        )?
        .unwrap_or_default(),
        metadata: list("dynamic_metadata_from_headers", &response.dynamic_metadata_from_headers, out)?
            .unwrap_or_default(),
        retries: again,
    })
}

/// `Some(None)`: there is no list.
fn strings(
    path: &Path<'_>,
    given: Option<&ListStringMatcher>,
    out: &mut Findings,
) -> Option<Option<Vec<StringMatch>>> {
    let Some(given) = given else { return Some(None) };
    let at = path.name("patterns");
    let read: Vec<_> =
        given.patterns.iter().enumerate().map(|(i, one)| lower(text(&at.index(i), one, out))).collect();
    read.into_iter().collect::<Option<Vec<_>>>().map(Some)
}

/// Names of headers are held against it, which have no case.
fn lower(text: Option<StringMatch>) -> Option<StringMatch> {
    Some(match text? {
        StringMatch::Exact { value, .. } => StringMatch::Exact { value, ignore_case: true },
        StringMatch::Prefix { value, .. } => StringMatch::Prefix { value, ignore_case: true },
        StringMatch::Suffix { value, .. } => StringMatch::Suffix { value, ignore_case: true },
        StringMatch::Contains { value, .. } => StringMatch::Contains { value, ignore_case: true },
        regex => regex,
    })
}

fn body(path: &Path<'_>, given: &pb::BufferSettings, is_http: bool, out: &mut Findings) -> Option<AuthzBody> {
    if given.max_request_bytes == 0 {
        out.bad(&path.name("max_request_bytes"), 0, "must be at least 1");
        return None;
    }
    Some(AuthzBody {
        most: given.max_request_bytes as usize,
        partial: given.allow_partial_message,
        raw: is_http || given.pack_as_bytes,
    })
}

fn status(path: &Path<'_>, given: Option<&HttpStatus>, out: &mut Findings) -> u16 {
    let Some(given) = given else { return FORBIDDEN };
    let code = enumeration::<StatusCode>(&path.name("code"), given.code, out);
    match code.and_then(|code| u16::try_from(code as i32).ok()) {
        Some(code @ 200..) => code,
        _ => FORBIDDEN,
    }
}
