//! `LocalRateLimit`, and the rules of routes that sort requests into its buckets.

use super::shared;
use crate::model::{
    BucketConfig, Descriptor, FilterConfig, Fraction, LocalRateLimit, RateLimit, RateLimitAction,
    VirtualHostLimits,
};
use crate::proto::envoy::config::core::v3::RuntimeFractionalPercent;
use crate::proto::envoy::config::route::v3 as route;
use crate::proto::envoy::extensions::common::ratelimit::v3 as common;
use crate::proto::envoy::extensions::filters::http::local_ratelimit::v3 as pb;
use crate::proto::envoy::r#type::metadata::v3::MetadataKey;
use crate::proto::envoy::r#type::v3::TokenBucket;
use crate::translate::envoy::headers::edits;
use crate::translate::envoy::matchers::{headers, query};
use crate::translate::envoy::route::runtime_fraction;
use crate::translate::envoy::values::{enumeration, not_empty, positive, within};
use crate::translate::finding::{Findings, Path};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn limit(
    path: &Path<'_>,
    config: &pb::LocalRateLimit,
    out: &mut Findings,
) -> Option<FilterConfig> {
    if config.local_rate_limit_per_downstream_connection {
        let at = path.name("local_rate_limit_per_downstream_connection");
        out.bad(&at, true, "not supported: buckets are shared by all connections (nearest valid false)");
    }
    if config.max_dynamic_descriptors.is_some() {
        out.bad(&path.name("max_dynamic_descriptors"), "", "descriptors without a value are not supported");
    }
    let at = path.name("token_bucket");
    let bucket = match &config.token_bucket {
        Some(given) => bucket(&at, given, out)?,
        // Nothing limits what no descriptor has a bucket for.
        None => BucketConfig { max: u32::MAX, per_fill: u32::MAX, interval: Duration::from_secs(1) },
    };
    // Envoy takes a status that is no error for no status.
    let status = config.status.as_ref().map_or(429, |status| status.code);
    let status = u16::try_from(status).ok().filter(|status| (400..600).contains(status)).unwrap_or(429);
    let at = path.name("descriptors");
    let listed = config.descriptors.iter().enumerate();
    let own = config.token_bucket.as_ref().map(|_| &bucket);
    let descriptors: Vec<_> = listed.filter_map(|(i, one)| descriptor(&at.index(i), one, own, out)).collect();
    for (i, one) in descriptors.iter().enumerate() {
        if descriptors.iter().take(i).any(|other| other.entries == one.entries) {
            out.bad(&at.index(i), "", "another descriptor has the same entries");
        }
    }
    let virtual_host = match enumeration(&path.name("vh_rate_limits"), config.vh_rate_limits, out)? {
        common::VhRateLimitsOptions::Override => VirtualHostLimits::Override,
        common::VhRateLimitsOptions::Include => VirtualHostLimits::Include,
        common::VhRateLimitsOptions::Ignore => VirtualHostLimits::Ignore,
    };
    let at = path.name("enable_x_ratelimit_headers");
    let tell =
        enumeration::<common::XRateLimitHeadersRfcVersion>(&at, config.enable_x_ratelimit_headers, out)?;
    Some(FilterConfig::LocalRateLimit(Box::new(LocalRateLimit {
        stat_prefix: not_empty(&path.name("stat_prefix"), &config.stat_prefix, out),
        status,
        bucket,
        enabled: fraction(path, "filter_enabled", config.filter_enabled.as_ref(), out)?,
        enforced: fraction(path, "filter_enforced", config.filter_enforced.as_ref(), out)?,
        descriptors,
        stage: within(&path.name("stage"), config.stage, 0, 10, out),
        rules: rate_limits(path, &config.rate_limits, out),
        virtual_host,
        always_default: config.always_consume_default_token_bucket.unwrap_or(true),
        resource_exhausted: config.rate_limited_as_resource_exhausted,
        tell: tell == common::XRateLimitHeadersRfcVersion::DraftVersion03,
        request_headers: edits(path, "request", &config.request_headers_to_add_when_not_enforced, &[], out),
        response_headers: edits(path, "response", &config.response_headers_to_add, &[], out),
    })))
}

fn fraction(
    path: &Path<'_>,
    field: &str,
    share: Option<&RuntimeFractionalPercent>,
    out: &mut Findings,
) -> Option<Option<Fraction>> {
    match share {
        None => Some(None),
        Some(share) => runtime_fraction(&path.name(field), share, out).map(Some),
    }
}

pub(in crate::translate::envoy) fn bucket(
    path: &Path<'_>,
    given: &TokenBucket,
    out: &mut Findings,
) -> Option<BucketConfig> {
    let at = path.name("fill_interval");
    let Some(interval) = &given.fill_interval else {
        out.bad(&at, "", "is required");
        return None;
    };
    let read = positive(&at, Some(interval), Duration::from_secs(1), out);
    if read < Duration::from_millis(50) {
        out.bad(&at, format_args!("{interval}"), "must be at least 50 ms (nearest valid 0.050s)");
    }
    Some(BucketConfig {
        max: given.max_tokens,
        per_fill: within(&path.name("tokens_per_fill"), given.tokens_per_fill.unwrap_or(1), 1, u32::MAX, out),
        interval: read,
    })
}

fn descriptor(
    path: &Path<'_>,
    given: &common::LocalRateLimitDescriptor,
    own: Option<&BucketConfig>,
    out: &mut Findings,
) -> Option<Descriptor> {
    let at = path.name("entries");
    if given.entries.is_empty() {
        out.bad(&at, "", "at least one entry");
    }
    let mut entries = Vec::with_capacity(given.entries.len());
    for (i, entry) in given.entries.iter().enumerate() {
        let at = at.index(i);
        let key = not_empty(&at.name("key"), &entry.key, out);
        if entry.value.is_empty() {
            out.bad(&at.name("value"), "", "descriptors without a value are not supported");
        }
        entries.push((key, entry.value.clone()));
    }
    let at = path.name("token_bucket");
    let Some(given) = &given.token_bucket else {
        out.bad(&at, "", "is required");
        return None;
    };
    let bucket = bucket(&at, given, out)?;
    if own.is_some_and(|own| bucket.interval.as_nanos() % own.interval.as_nanos().max(1) != 0) {
        out.bad(&at.name("fill_interval"), "", "must be a multiple of that of the limit's own bucket");
    }
    Some(Descriptor { entries, bucket })
}

/// `rate_limits` of a route, of a virtual host or of a limit.
pub(in crate::translate::envoy) fn rate_limits(
    path: &Path<'_>,
    list: &[route::RateLimit],
    out: &mut Findings,
) -> Arc<[RateLimit]> {
    let at = path.name("rate_limits");
    shared(list.iter().enumerate().filter_map(|(i, one)| rate_limit(&at.index(i), one, out)).collect())
}

fn rate_limit(path: &Path<'_>, given: &route::RateLimit, out: &mut Findings) -> Option<RateLimit> {
    for (field, set) in [
        ("limit", given.limit.is_some()),
        ("hits_addend", given.hits_addend.is_some()),
        ("apply_on_stream_done", given.apply_on_stream_done),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
    let at = path.name("actions");
    if given.actions.is_empty() {
        out.bad(&at, "", "at least one action");
    }
    let mut actions = Vec::with_capacity(given.actions.len());
    for (i, one) in given.actions.iter().enumerate() {
        actions.push(action(&at.index(i), one, out)?);
    }
    Some(RateLimit { stage: within(&path.name("stage"), given.stage.unwrap_or(0), 0, 10, out), actions })
}

fn action(path: &Path<'_>, given: &route::rate_limit::Action, out: &mut Findings) -> Option<RateLimitAction> {
    use route::rate_limit::action::ActionSpecifier as Kind;
    let or = |key: &str, default: &str| if key.is_empty() { default.to_owned() } else { key.to_owned() };
    Some(match given.action_specifier.as_ref() {
        Some(Kind::DestinationCluster(_)) => RateLimitAction::DestinationCluster,
        Some(Kind::RequestHeaders(of)) => {
            let at = path.name("request_headers");
            RateLimitAction::RequestHeader {
                name: not_empty(&at.name("header_name"), &of.header_name, out).to_ascii_lowercase(),
                key: not_empty(&at.name("descriptor_key"), &of.descriptor_key, out),
                skip_if_absent: of.skip_if_absent,
            }
        }
        Some(Kind::QueryParameters(of)) => {
            let at = path.name("query_parameters");
            RateLimitAction::QueryParameter {
                name: not_empty(&at.name("query_parameter_name"), &of.query_parameter_name, out),
                key: not_empty(&at.name("descriptor_key"), &of.descriptor_key, out),
                skip_if_absent: of.skip_if_absent,
            }
        }
        Some(Kind::RemoteAddress(_)) => RateLimitAction::RemoteAddress,
        Some(Kind::MaskedRemoteAddress(of)) => {
            let at = path.name("masked_remote_address");
            let mut bits = |field: &str, bits: Option<u32>, most: u32| {
                u8::try_from(within(&at.name(field), bits.unwrap_or(most), 0, most, out)).unwrap_or(u8::MAX)
            };
            RateLimitAction::MaskedRemoteAddress {
                v4: bits("v4_prefix_mask_len", of.v4_prefix_mask_len, 32),
                v6: bits("v6_prefix_mask_len", of.v6_prefix_mask_len, 128),
            }
        }
        Some(Kind::GenericKey(of)) => RateLimitAction::GenericKey {
            key: or(&of.descriptor_key, "generic_key"),
            value: not_empty(&path.name("generic_key").name("descriptor_value"), &of.descriptor_value, out),
        },
        Some(Kind::HeaderValueMatch(of)) => {
            let at = path.name("header_value_match");
            RateLimitAction::HeaderValueMatch {
                key: or(&of.descriptor_key, "header_match"),
                value: not_empty(&at.name("descriptor_value"), &of.descriptor_value, out),
                expect: of.expect_match.unwrap_or(true),
                headers: headers(&at.name("headers"), &of.headers, out),
            }
        }
        Some(Kind::QueryParameterValueMatch(of)) => {
            let at = path.name("query_parameter_value_match");
            let list = at.name("query_parameters");
            let parameters = of.query_parameters.iter().enumerate();
            RateLimitAction::QueryValueMatch {
                key: or(&of.descriptor_key, "query_match"),
                value: not_empty(&at.name("descriptor_value"), &of.descriptor_value, out),
                expect: of.expect_match.unwrap_or(true),
                query: parameters.filter_map(|(i, one)| query(&list.index(i), one, out)).collect(),
            }
        }
        Some(Kind::Metadata(of)) => {
            use route::rate_limit::action::meta_data::Source;
            let at = path.name("metadata");
            if enumeration::<Source>(&at.name("source"), of.source, out)? != Source::Dynamic {
                out.bad(&at.name("source"), "ROUTE_ENTRY", "not supported (nearest valid DYNAMIC)");
            }
            let key = not_empty(&at.name("descriptor_key"), &of.descriptor_key, out);
            metadata(&at, key, of.metadata_key.as_ref(), (&of.default_value, of.skip_if_absent), out)?
        }
        Some(Kind::DynamicMetadata(of)) => {
            let at = path.name("dynamic_metadata");
            let key = not_empty(&at.name("descriptor_key"), &of.descriptor_key, out);
            metadata(&at, key, of.metadata_key.as_ref(), (&of.default_value, false), out)?
        }
        Some(Kind::SourceCluster(_)) | Some(Kind::Extension(_)) | None => {
            out.bad(path, "", "this action is not supported");
            return None;
        }
    })
}

fn metadata(
    path: &Path<'_>,
    key: String,
    from: Option<&MetadataKey>,
    (default, skip_if_absent): (&str, bool),
    out: &mut Findings,
) -> Option<RateLimitAction> {
    use crate::proto::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
    let at = path.name("metadata_key");
    let Some(from) = from else {
        out.bad(&at, "", "is required");
        return None;
    };
    let keys = from.path.iter().filter_map(|segment| {
        let Segment::Key(key) = segment.segment.as_ref()?;
        Some(key.clone())
    });
    Some(RateLimitAction::Metadata {
        key,
        namespace: not_empty(&at.name("key"), &from.key, out),
        path: keys.collect(),
        default: default.to_owned(),
        skip_if_absent,
    })
}
