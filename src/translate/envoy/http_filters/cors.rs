//! `CorsPolicy`.

use super::rule;
use crate::model::{Cors, FilterConfig, Fraction, RouteFilter};
use crate::proto::envoy::config::core::v3::RuntimeFractionalPercent;
use crate::proto::envoy::extensions::filters::http::cors::v3 as pb;
use crate::translate::envoy::matchers::text;
use crate::translate::envoy::route::runtime_fraction;
use crate::translate::finding::{Findings, Path};

pub(super) fn policy(path: &Path<'_>, policy: &pb::CorsPolicy, out: &mut Findings) -> Option<RouteFilter> {
    let at = path.name("allow_origin_string_match");
    let origins = policy.allow_origin_string_match.iter().enumerate();
    let fraction = |field: &str, share: Option<&RuntimeFractionalPercent>, out: &mut Findings| {
        share.map(|share| runtime_fraction(&path.name(field), share, out))
    };
    let all = |read: Option<Option<Fraction>>| match read {
        Some(Some(share)) => Some(Some(share)),
        Some(None) => None,
        None => Some(None),
    };
    Some(rule(FilterConfig::Cors(Some(Cors {
        origins: origins.filter_map(|(i, origin)| text(&at.index(i), origin, out)).collect(),
        methods: policy.allow_methods.clone(),
        headers: policy.allow_headers.clone(),
        expose: policy.expose_headers.clone(),
        max_age: policy.max_age.clone(),
        credentials: policy.allow_credentials,
        private_network: policy.allow_private_network_access,
        forward_not_matching: policy.forward_not_matching_preflights,
        enabled: all(fraction("filter_enabled", policy.filter_enabled.as_ref(), out))?,
        shadow: all(fraction("shadow_enabled", policy.shadow_enabled.as_ref(), out))?,
    }))))
}
