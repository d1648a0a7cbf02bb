//! `Buffer`, `HealthCheck` and `grpc_stats`.

use super::{disabled, rule};
use crate::model::{FilterConfig, GrpcStats, HealthCheckFilter, RouteFilter};
use crate::proto::envoy::extensions::filters::http as pb;
use crate::translate::envoy::matchers::headers;
use crate::translate::envoy::values::positive;
use crate::translate::finding::{Findings, Path};
use std::time::Duration;

pub(super) fn buffer(
    path: &Path<'_>,
    config: &pb::buffer::v3::Buffer,
    out: &mut Findings,
) -> Option<FilterConfig> {
    let at = path.name("max_request_bytes");
    match config.max_request_bytes {
        None => out.bad(&at, "", "is required"),
        Some(0) => out.bad(&at, 0, "must be at least 1"),
        Some(most) => return Some(FilterConfig::Buffer(Some(most))),
    }
    None
}

pub(super) fn buffer_of_route(
    path: &Path<'_>,
    config: &pb::buffer::v3::BufferPerRoute,
    out: &mut Findings,
) -> Option<RouteFilter> {
    use pb::buffer::v3::buffer_per_route::Override;
    match &config.r#override {
        Some(Override::Disabled(is)) => disabled(path, *is, out),
        Some(Override::Buffer(config)) => buffer(&path.name("buffer"), config, out).map(rule),
        None => {
            out.bad(path, "", "says nothing (one of disabled, buffer)");
            None
        }
    }
}

pub(super) fn health_check(
    path: &Path<'_>,
    config: &pb::health_check::v3::HealthCheck,
    out: &mut Findings,
) -> Option<FilterConfig> {
    let Some(pass_through) = config.pass_through_mode else {
        out.bad(&path.name("pass_through_mode"), "", "is required");
        return None;
    };
    let at = path.name("cache_time");
    let cache = config.cache_time.as_ref().map(|time| positive(&at, Some(time), Duration::ZERO, out));
    if cache.is_some() && !pass_through {
        out.bad(&at, "", "only in pass_through_mode");
    }
    if pass_through && !config.cluster_min_healthy_percentages.is_empty() {
        out.bad(&path.name("cluster_min_healthy_percentages"), "", "only without pass_through_mode");
    }
    let clusters = config.cluster_min_healthy_percentages.iter();
    Some(FilterConfig::HealthCheck(HealthCheckFilter {
        pass_through,
        cache,
        clusters: clusters.map(|(name, percent)| (name.clone(), percent.value)).collect(),
        headers: headers(&path.name("headers"), &config.headers, out),
    }))
}

pub(super) fn grpc_stats(
    _: &Path<'_>,
    config: &pb::grpc_stats::v3::FilterConfig,
    _: &mut Findings,
) -> Option<FilterConfig> {
    use pb::grpc_stats::v3::filter_config::PerMethodStatSpecifier as Kind;
    let (methods, all_methods) = match &config.per_method_stat_specifier {
        Some(Kind::IndividualMethodStatsAllowlist(list)) => {
            let services = list.services.iter();
            (Some(services.map(|one| (one.name.clone(), one.method_names.clone())).collect()), false)
        }
        Some(Kind::StatsForAllMethods(all)) => (None, *all),
        None => (None, false),
    };
    Some(FilterConfig::GrpcStats(GrpcStats {
        methods,
        all_methods,
        for_filters: config.emit_filter_state,
        upstream: config.enable_upstream_stats,
        replace_dots: config.replace_dots_in_grpc_service_name,
    }))
}
