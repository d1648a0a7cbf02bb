//! HTTP filters, in chains and at routes.
//!
//! Each is known by its type. What a chain has and what a route may say instead are translated by the filter's
//! own file; one that cannot be acted upon in full is refused.

mod compression;
mod cors;
mod ext_authz;
mod fault;
mod filter_state;
mod header_mutation;
mod jwt_authn;
mod metadata;
mod rate_limit;
mod rbac;
mod simple;

pub(super) use ext_authz::of_connections as network_authz;
pub(super) use filter_state::of_connections as network_state;
pub(super) use rate_limit::{bucket, rate_limits};
pub(super) use rbac::{metadata as dynamic_metadata, network_rbac};

use std::collections::BTreeMap;
use std::sync::Arc;

use prost_types::Any;

use super::discovered::discover;
use super::extension::{Extension, why_never};
use super::mesh;
use crate::model::{FilterConfig, FilterRule, Fraction, HttpFilter, RouteFilter, RouteFilters};
use crate::proto;
use crate::proto::envoy::config::core::v3::ExtensionConfigSource;
use crate::proto::envoy::config::route::v3::FilterConfig as RouteFilterConfig;
use crate::proto::envoy::extensions::filters::http as pb;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter as Listed, http_filter,
};
use crate::proto::envoy::r#type::v3::FractionalPercent;
use crate::proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use crate::translate::finding::{Findings, Path};
use crate::translate::unknown;

/// Filters of one chain at most.
const MAX_FILTERS: usize = 64;

/// The filters before the router, which must be the last one; those of unknown type only if they are optional.
pub(super) fn chain(path: &Path<'_>, filters: &[Listed], out: &mut Findings) -> Vec<HttpFilter> {
    let mut router_at = None;
    let mut read = Vec::new();
    for (i, filter) in filters.iter().enumerate() {
        let at = path.index(i);
        let Some(extension) = open(&at, filter, out) else { continue };
        let at_config = at.name("typed_config");
        if extension.is::<pb::router::v3::Router>() {
            if let Some(router) = extension.decode::<pb::router::v3::Router>(&at_config, out) {
                check_router(&at_config, &router, out);
            }
            if filter.disabled {
                out.bad(&at.name("disabled"), true, "the router cannot be disabled");
            }
            router_at.get_or_insert(i);
            continue;
        }
        match of_chain(&at_config, &extension, out) {
            Some(config) => read.extend(config.map(|config| HttpFilter {
                name: filter.name.clone(),
                disabled: filter.disabled,
                rule: FilterRule::new(config),
            })),
            None if filter.is_optional && is_unknown(&extension) => out.note(&at),
            None => {
                let why = "this HTTP filter is not supported (nearest valid: Router, or is_optional)";
                out.bad(&at_config, &extension.type_url, why_never(&extension.type_url).unwrap_or(why));
            }
        }
    }
    match router_at {
        None => out.bad(path, "", "the last filter must be the router"),
        Some(i) if i + 1 != filters.len() => {
            out.bad(&path.index(i), "", "the router must be the last filter, and the only one of its kind");
        }
        Some(_) => {}
    }
    if read.len() > MAX_FILTERS {
        out.bad(path, read.len(), format_args!("a chain holds {MAX_FILTERS} filters at most"));
    }
    read
}

fn open<'a>(at: &Path<'_>, filter: &'a Listed, out: &mut Findings) -> Option<Extension<'a>> {
    use http_filter::ConfigType;
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => Extension::open(&at.name("typed_config"), any, out),
        Some(ConfigType::ConfigDiscovery(source)) if !filter.is_optional || is_served(source) => {
            let check = |at: &Path<'_>, extension: &Extension<'_>, out: &mut Findings| {
                of_chain(at, extension, out).is_some()
            };
            discover(at, &filter.name, source, &check, out)
        }
        _ if filter.is_optional => {
            out.note(at);
            None
        }
        Some(ConfigType::ConfigDiscovery(_)) => None,
        None => {
            let why = "filters are known by type, but there is none";
            out.bad(&at.name("typed_config"), &filter.name, why);
            None
        }
    }
}

/// Whether a filter of some of its types can be served.
fn is_served(source: &ExtensionConfigSource) -> bool {
    let served =
        |url: &String| of_chain(&Path::ROOT, &Extension::named(url), &mut Findings::default()).is_some();
    source.type_urls.iter().any(served)
}

/// A type that Mizzen has never heard of: not one that it knows to restrict.
fn is_unknown(extension: &Extension<'_>) -> bool {
    !unknown::is_known(proto::message_name(&extension.type_url)) && !extension.restricts()
}

fn check_router(path: &Path<'_>, router: &pb::router::v3::Router, out: &mut Findings) {
    let at = path.name("upstream_http_filters");
    for (i, filter) in router.upstream_http_filters.iter().enumerate() {
        out.bad(&at.index(i), &filter.name, "upstream HTTP filters are not supported");
    }
}

/// Decodes the configuration if it is a `$kind`, gives it to `$read`, and returns what that makes of it.
macro_rules! filters {
    (($path:ident, $extension:ident, $out:ident) $($kind:ty => $read:expr;)*) => {
        $(if $extension.is::<$kind>() {
            let config = $extension.decode::<$kind>($path, $out);
            return Some(config.and_then(|config: $kind| $read($path, &config, $out)));
        })*
    };
}

/// `None`: no filter of chains; `Some(None)`: one whose configuration is bad, which was said.
fn of_chain(path: &Path<'_>, extension: &Extension<'_>, out: &mut Findings) -> Option<Option<FilterConfig>> {
    filters! { (path, extension, out)
        pb::fault::v3::HttpFault => fault::fault;
        pb::cors::v3::Cors => |_: &Path<'_>, _: &_, _: &mut Findings| Some(FilterConfig::Cors(None));
        pb::header_mutation::v3::HeaderMutation => header_mutation::of_chain;
        pb::buffer::v3::Buffer => simple::buffer;
        pb::local_ratelimit::v3::LocalRateLimit => rate_limit::limit;
        pb::health_check::v3::HealthCheck => simple::health_check;
        pb::jwt_authn::v3::JwtAuthentication => jwt_authn::of_chain;
        pb::ext_authz::v3::ExtAuthz => ext_authz::of_chain;
        pb::rbac::v3::Rbac => rbac::http_rbac;
        pb::header_to_metadata::v3::Config => metadata::header_to_metadata;
        pb::set_metadata::v3::Config => metadata::set_metadata;
        pb::set_filter_state::v3::Config => filter_state::of_streams;
        pb::grpc_web::v3::GrpcWeb => |_: &Path<'_>, _: &_, _: &mut Findings| Some(FilterConfig::GrpcWeb);
        pb::grpc_stats::v3::FilterConfig => simple::grpc_stats;
        pb::compressor::v3::Compressor => compression::compressor;
        pb::decompressor::v3::Decompressor => compression::decompressor;
        proto::io::istio::http::peer_metadata::Config => mesh::peer_metadata;
        proto::istio::envoy::config::filter::http::alpn::v2alpha1::FilterConfig => mesh::alpn_override;
        proto::stats::PluginConfig => mesh::http_stats;
    }
    None
}

/// As [`of_chain`], for what a route may say.
fn of_route(path: &Path<'_>, extension: &Extension<'_>, out: &mut Findings) -> Option<Option<RouteFilter>> {
    filters! { (path, extension, out)
        pb::cors::v3::CorsPolicy => cors::policy;
        pb::header_mutation::v3::HeaderMutationPerRoute => header_mutation::of_route;
        pb::buffer::v3::BufferPerRoute => simple::buffer_of_route;
        pb::jwt_authn::v3::PerRouteConfig => jwt_authn::of_route;
        pb::ext_authz::v3::ExtAuthzPerRoute => ext_authz::of_route;
        pb::rbac::v3::RbacPerRoute => rbac::of_route;
        pb::compressor::v3::CompressorPerRoute => compression::of_route;
    }
    // These say the same at both levels.
    let same = extension.is::<pb::fault::v3::HttpFault>()
        || extension.is::<pb::local_ratelimit::v3::LocalRateLimit>()
        || extension.is::<pb::header_to_metadata::v3::Config>()
        || extension.is::<pb::set_metadata::v3::Config>()
        || extension.is::<pb::set_filter_state::v3::Config>();
    if !same {
        return None;
    }
    of_chain(path, extension, out).map(|config| config.map(rule))
}

/// A route's `disabled`, which can only be said with `true`.
fn disabled(path: &Path<'_>, is: bool, out: &mut Findings) -> Option<RouteFilter> {
    if !is {
        out.bad(&path.name("disabled"), false, "must be true (or leave it out)");
    }
    is.then_some(RouteFilter::Disabled)
}

fn rule(config: FilterConfig) -> RouteFilter {
    RouteFilter::Rule(FilterRule::new(config))
}

/// Configuration of filters at one level of a route table.
pub(super) fn per_filter(
    path: &Path<'_>,
    configs: &BTreeMap<String, Any>,
    out: &mut Findings,
) -> RouteFilters {
    let at = path.name("typed_per_filter_config");
    let mut filters = RouteFilters::new();
    for (name, any) in configs {
        let at = at.key(name);
        let Some(extension) = Extension::open(&at, any, out) else { continue };
        let read = if extension.is::<RouteFilterConfig>() {
            extension.decode::<RouteFilterConfig>(&at, out).and_then(|config| wrapped(&at, &config, out))
        } else {
            known(&at, &extension, false, out)
        };
        filters.extend(read.map(|read| (name.clone(), read)));
    }
    filters
}

/// What a `FilterConfig` says: that the filter is off, or on, or what to work by.
fn wrapped(path: &Path<'_>, config: &RouteFilterConfig, out: &mut Findings) -> Option<RouteFilter> {
    if config.disabled {
        return Some(RouteFilter::Disabled);
    }
    let at = path.name("config");
    let Some(any) = &config.config else {
        out.bad(&at, "", "is required where the filter is not disabled (empty: the filter is enabled)");
        return None;
    };
    if any.type_url.is_empty() {
        return Some(RouteFilter::Enabled);
    }
    let extension = Extension::open(&at, any, out)?;
    known(&at, &extension, config.is_optional, out)
}

fn known(
    path: &Path<'_>,
    extension: &Extension<'_>,
    optional: bool,
    out: &mut Findings,
) -> Option<RouteFilter> {
    match of_route(path, extension, out) {
        Some(read) => read,
        None if optional && is_unknown(extension) => {
            out.note(path);
            None
        }
        None => {
            out.bad(path, &extension.type_url, "this filter is not supported at routes");
            None
        }
    }
}

/// A share of requests.
fn share(path: &Path<'_>, percent: Option<&FractionalPercent>, out: &mut Findings) -> Fraction {
    let default = FractionalPercent::default();
    let percent = percent.unwrap_or(&default);
    let kind = super::values::enumeration(&path.name("denominator"), percent.denominator, out);
    let denominator = match kind.unwrap_or(DenominatorType::Hundred) {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    Fraction { numerator: percent.numerator, denominator, runtime_key: String::new() }
}

/// Equal lists of rules are one.
fn shared<T>(list: Vec<T>) -> Arc<[T]> {
    list.into()
}
