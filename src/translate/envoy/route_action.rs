//! What a route does: forward, answer, redirect.

use std::time::Duration;

use super::endpoints::lb_metadata;
use super::headers::edits;
use super::http_filters::per_filter;
use super::retry::Policies;
use super::route_options::options;
use super::route_rewrite::{clean, host_rewrite, path_rewrite, substitution};
use super::values::{FOREVER, duration, enumeration, not_empty, port, timeout, within};
use crate::model::{
    Action, ClusterChoice, DirectResponse, PathMatch, Redirect, RouteAction, WeightedCluster,
};
use crate::proto::envoy::config::core::v3::data_source::Specifier;
use crate::proto::envoy::config::route::v3 as pb;
use crate::translate::finding::{Findings, Path};

/// Whole-request timeout if absent.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// What all routes of a table share.
pub(super) struct Shared {
    /// Largest body of a direct response.
    pub max_body: usize,
    /// Retry policies met so far.
    pub policies: Policies,
}

/// The action of a route that matches by `matched`.
pub(super) fn action(
    path: &Path<'_>,
    action: Option<&pb::route::Action>,
    matched: Option<&PathMatch>,
    shared: &mut Shared,
    out: &mut Findings,
) -> Option<Action> {
    match action {
        Some(pb::route::Action::Route(route)) => {
            forward(&path.name("route"), route, matched, shared, out).map(Action::Route)
        }
        Some(pb::route::Action::DirectResponse(direct)) => {
            direct_response(&path.name("direct_response"), direct, shared.max_body, out).map(Action::Direct)
        }
        Some(pb::route::Action::Redirect(redirected)) => {
            redirect(&path.name("redirect"), redirected, out).map(Box::new).map(Action::Redirect)
        }
        Some(pb::route::Action::FilterAction(_)) => {
            out.bad(&path.name("filter_action"), "", "not supported");
            None
        }
        Some(pb::route::Action::NonForwardingAction(_)) => {
            out.bad(&path.name("non_forwarding_action"), "", "not supported by a proxy");
            None
        }
        None => {
            out.bad(path, "", "no action (one of route, redirect, direct_response)");
            None
        }
    }
}

fn forward(
    path: &Path<'_>,
    route: &pb::RouteAction,
    matched: Option<&PathMatch>,
    shared: &mut Shared,
    out: &mut Findings,
) -> Option<RouteAction> {
    refuse_unbuilt(path, route, out);
    let cluster = cluster_choice(path, route, out);
    let limit = Some(ROUTE_TIMEOUT);
    // Zero switches the filter's idle limit off for this route, while absent keeps it.
    let idle = route.idle_timeout.as_ref().map(|d| duration(&path.name("idle_timeout"), d, out));
    let grpc = route.max_grpc_timeout.as_ref();
    Some(RouteAction {
        timeout: timeout(&path.name("timeout"), route.timeout.as_ref(), limit, out),
        idle_timeout: idle.map(|d| if d.is_zero() { FOREVER } else { d }),
        max_grpc_timeout: grpc.map(|d| duration(&path.name("max_grpc_timeout"), d, out)),
        retry: route.retry_policy.as_ref().map(|given| shared.policies.read(path, given, out)),
        path_rewrite: path_rewrite(path, route, matched, out),
        host_rewrite: host_rewrite(path, route, out),
        options: options(path, route, out),
        cluster: cluster?,
    })
}

fn refuse_unbuilt(path: &Path<'_>, route: &pb::RouteAction, out: &mut Findings) {
    let why = "not supported (leave it out)";
    for (field, set) in [
        ("cors", route.cors.is_some()),
        ("internal_redirect_policy", route.internal_redirect_policy.is_some()),
        ("retry_policy_typed_config", route.retry_policy_typed_config.is_some()),
    ] {
        if set {
            out.bad(&path.name(field), "", why);
        }
    }
}

fn cluster_choice(path: &Path<'_>, route: &pb::RouteAction, out: &mut Findings) -> Option<ClusterChoice> {
    use pb::route_action::ClusterSpecifier as Kind;
    match &route.cluster_specifier {
        Some(Kind::Cluster(name)) => Some(ClusterChoice::Single(not_empty(&path.name("cluster"), name, out))),
        Some(Kind::ClusterHeader(name)) => {
            Some(ClusterChoice::Header(not_empty(&path.name("cluster_header"), name, out)))
        }
        Some(Kind::WeightedClusters(list)) => weighted(&path.name("weighted_clusters"), list, out),
        Some(Kind::ClusterSpecifierPlugin(name)) => {
            out.bad(&path.name("cluster_specifier_plugin"), name, "not supported");
            None
        }
        Some(Kind::InlineClusterSpecifierPlugin(plugin)) => {
            let config = plugin.extension.as_ref().and_then(|e| e.typed_config.as_ref());
            let url = config.map_or("", |any| any.type_url.as_str());
            out.bad(&path.name("inline_cluster_specifier_plugin"), url, "not supported");
            None
        }
        None => {
            out.bad(path, "", "no cluster (one of cluster, weighted_clusters, cluster_header)");
            None
        }
    }
}

fn weighted(path: &Path<'_>, list: &pb::WeightedCluster, out: &mut Findings) -> Option<ClusterChoice> {
    let at = path.name("clusters");
    let mut sum = 0u64;
    let mut clusters = Vec::with_capacity(list.clusters.len());
    for (i, item) in list.clusters.iter().enumerate() {
        let at = at.index(i);
        let header = (!item.cluster_header.is_empty()).then(|| item.cluster_header.to_ascii_lowercase());
        match (&header, item.name.is_empty()) {
            (None, true) => out.bad(&at.name("name"), "", "must not be empty (or give cluster_header)"),
            (Some(header), false) => {
                out.bad(&at.name("cluster_header"), header, "name and cluster_header exclude each other");
            }
            _ => {}
        }
        let host_rewrite = match &item.host_rewrite_specifier {
            Some(pb::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                Some(clean(&at.name("host_rewrite_literal"), host, out)).filter(|host| !host.is_empty())
            }
            None => None,
        };
        if item.weight.is_none() {
            out.bad(&at.name("weight"), "", "is required");
        }
        let weight = item.weight.unwrap_or_default();
        sum += u64::from(weight);
        let add = (&item.request_headers_to_add, &item.request_headers_to_remove);
        let response = (&item.response_headers_to_add, &item.response_headers_to_remove);
        clusters.push(WeightedCluster {
            name: item.name.clone(),
            weight,
            runtime_key: (!list.runtime_key_prefix.is_empty())
                .then(|| format!("{}.{}", list.runtime_key_prefix, item.name).into()),
            header,
            host_rewrite,
            criteria: item.metadata_match.as_ref().map(lb_metadata).unwrap_or_default(),
            filters: per_filter(&at, &item.typed_per_filter_config, out),
            request_headers: edits(&at, "request", add.0, add.1, out),
            response_headers: edits(&at, "response", response.0, response.1, out),
        });
    }
    check_sum(&at, sum, out);
    Some(ClusterChoice::Weighted(clusters))
}

/// Weights must add up to something, and fit 32 bits.
pub(super) fn check_sum(path: &Path<'_>, sum: u64, out: &mut Findings) {
    if sum == 0 {
        out.bad(path, 0, "the weights must add up to at least 1");
    } else if sum > u64::from(u32::MAX) {
        out.bad(path, sum, format_args!("the weights add up to more than {} (the limit)", u32::MAX));
    }
}

fn direct_response(
    path: &Path<'_>,
    direct: &pb::DirectResponseAction,
    max_body: usize,
    out: &mut Findings,
) -> Option<DirectResponse> {
    let status = within(&path.name("status"), direct.status, 200, 599, out);
    if direct.body_format.is_some() {
        out.bad(&path.name("body_format"), "", "not supported (nearest valid: body)");
    }
    let at = path.name("body");
    let body = match direct.body.as_ref().map(|b| b.specifier.as_ref()) {
        None => Vec::new(),
        Some(Some(Specifier::InlineString(text))) => text.clone().into_bytes(),
        Some(Some(Specifier::InlineBytes(bytes))) => bytes.clone(),
        Some(Some(Specifier::Filename(name))) => {
            out.looked_outside();
            file(&at.name("filename"), name, out)?
        }
        Some(Some(Specifier::EnvironmentVariable(name))) => match std::env::var(name) {
            Ok(text) => text.into_bytes(),
            Err(_) => {
                out.bad(&at.name("environment_variable"), name, "is not set");
                return None;
            }
        },
        Some(None) => {
            out.bad(&at, "", "no source (one of inline_string, inline_bytes, filename)");
            return None;
        }
    };
    if direct.body.as_ref().is_some_and(|body| body.watched_directory.is_some()) {
        out.bad(&at.name("watched_directory"), "", "the file is read once (leave it out)");
    }
    if body.len() > max_body {
        let why = format!("larger than max_direct_response_body_size_bytes ({max_body})");
        out.bad(&at, format_args!("{} bytes", body.len()), why);
    }
    Some(DirectResponse { status: u16::try_from(status).ok()?, body: body.into() })
}

/// A body in a file of this machine, read when the route comes.
fn file(path: &Path<'_>, name: &str, out: &mut Findings) -> Option<Vec<u8>> {
    match std::fs::read(name) {
        Ok(body) => Some(body),
        Err(error) => {
            out.bad(path, name, error);
            None
        }
    }
}

fn redirect(path: &Path<'_>, redirected: &pb::RedirectAction, out: &mut Findings) -> Option<Redirect> {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let status = match enumeration(&path.name("response_code"), redirected.response_code, out)? {
        RedirectResponseCode::MovedPermanently => 301,
        RedirectResponseCode::Found => 302,
        RedirectResponseCode::SeeOther => 303,
        RedirectResponseCode::TemporaryRedirect => 307,
        RedirectResponseCode::PermanentRedirect => 308,
    };
    let mut model = Redirect {
        status,
        host: some_text(&clean(&path.name("host_redirect"), &redirected.host_redirect, out)),
        strip_query: redirected.strip_query,
        ..Redirect::default()
    };
    if redirected.port_redirect != 0 {
        model.port = Some(port(&path.name("port_redirect"), redirected.port_redirect, out));
    }
    model.scheme = match &redirected.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => some_text(scheme),
        _ => None,
    };
    match &redirected.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(text)) => {
            model.path = some_text(&clean(&path.name("path_redirect"), text, out));
        }
        Some(PathRewriteSpecifier::PrefixRewrite(text)) => {
            model.prefix_rewrite = some_text(&clean(&path.name("prefix_rewrite"), text, out));
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            model.regex_rewrite = Some(substitution(&path.name("regex_rewrite"), rewrite, out)?);
        }
        None => {}
    }
    Some(model)
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
