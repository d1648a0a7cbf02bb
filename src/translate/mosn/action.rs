//! What a route does: forward, answer, redirect.

use super::balance;
use super::filter::refuse_route_protocol;
use super::headers;
use super::read::{Context, Object};
use crate::model::{
    Action, ClusterChoice, DirectResponse, HeaderEdits, HostRewrite, PathRewrite, Redirect, Regex, RetryOn,
    RetryPolicy, RouteAction, WeightedCluster,
};
use std::time::Duration;

/// MOSN's limit of a whole request when the route sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// MOSN tries a failed connection again at least this often, with or without a policy.
const LEAST_RETRIES: u32 = 3;
/// Its pause before each further try.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// An action with the header edits that stand inside `route`.
pub(super) struct Made {
    pub action: Action,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

/// Reads `direct_response`, `redirect` or `route`, in that order of precedence.
pub(super) fn action(ctx: &mut Context<'_>, route: &mut Object<'_>) -> Option<Made> {
    let direct = route.object(ctx, "direct_response");
    let redirect = route.object(ctx, "redirect");
    let forward = route.object(ctx, "route");
    let plain = |action| Made {
        action,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    };
    match (direct, redirect, forward) {
        (Some(of), _, _) => direct_response(ctx, of).map(Action::Direct).map(plain),
        (None, Some(of), _) => redirection(ctx, of).map(Box::new).map(Action::Redirect).map(plain),
        (None, None, Some(of)) => forwarding(ctx, of),
        (None, None, None) => {
            ctx.error(&route.at("route"), "", "missing; expected route, direct_response or redirect");
            None
        }
    }
}

fn direct_response(ctx: &mut Context<'_>, mut of: Object<'_>) -> Option<DirectResponse> {
    let status = of.number(ctx, "status").unwrap_or(0);
    let body = of.text(ctx, "body").unwrap_or_default().as_bytes().into();
    match u16::try_from(status).ok().filter(|status| (200..=599).contains(status)) {
        Some(status) => {
            of.finish(ctx);
            Some(DirectResponse { status, body })
        }
        None => {
            ctx.error(&of.at("status"), status, "expected a status from 200 to 599");
            None
        }
    }
}

fn redirection(ctx: &mut Context<'_>, mut of: Object<'_>) -> Option<Redirect> {
    let text = |ctx: &mut Context<'_>, of: &mut Object<'_>, key: &str| {
        of.text(ctx, key).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let status = match of.number(ctx, "response_code").unwrap_or(0) {
        0 | 301 => 301,
        302 => 302,
        303 => 303,
        307 => 307,
        308 => 308,
        other => {
            ctx.error(&of.at("response_code"), other, "expected 301, 302, 303, 307 or 308");
            return None;
        }
    };
    let redirect = Redirect {
        status,
        scheme: text(ctx, &mut of, "scheme_redirect"),
        host: text(ctx, &mut of, "host_redirect"),
        port: None,
        path: text(ctx, &mut of, "path_redirect"),
        ..Redirect::default()
    };
    of.finish(ctx);
    Some(redirect)
}

fn forwarding(ctx: &mut Context<'_>, mut of: Object<'_>) -> Option<Made> {
    let cluster = cluster(ctx, &mut of);
    let timeout = of.duration(ctx, "timeout").filter(|timeout| !timeout.is_zero());
    let retry = retry(ctx, &mut of);
    let rewrite = |ctx: &mut Context<'_>, of: &mut Object<'_>, key: &str| {
        of.text(ctx, key).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let prefix = rewrite(ctx, &mut of, "prefix_rewrite").map(PathRewrite::Prefix);
    let regex = regex_rewrite(ctx, &mut of).map(|(regex, text)| PathRewrite::Regex(regex, text));
    let literal = rewrite(ctx, &mut of, "host_rewrite").map(HostRewrite::Literal);
    let auto = of.flag(ctx, "auto_host_rewrite").unwrap_or(false).then_some(HostRewrite::Auto);
    let header = rewrite(ctx, &mut of, "auto_host_rewrite_header").map(HostRewrite::Header);
    let (request_headers, response_headers) = headers::edits(ctx, &mut of);
    refuse_route_protocol(ctx, &mut of);
    let options = balance::options(ctx, &mut of);
    of.no_effect(ctx, "cluster_header", "not used, in MOSN neither");
    of.finish(ctx);
    let action = Action::Route(RouteAction {
        cluster: cluster?,
        timeout: Some(timeout.unwrap_or(DEFAULT_TIMEOUT)),
        retry: Some(retry.into()),
        path_rewrite: prefix.or(regex).map(Box::new),
        host_rewrite: literal.or(header).or(auto).map(Box::new),
        options: Some(options),
        ..RouteAction::default()
    });
    Some(Made { action, request_headers, response_headers })
}

fn cluster(ctx: &mut Context<'_>, of: &mut Object<'_>) -> Option<ClusterChoice> {
    let shares = weighted(ctx, of);
    if let Some(name) = of.text(ctx, "cluster_name").filter(|name| !name.is_empty()) {
        of.skip(ctx, &["cluster_variable"]);
        return Some(ClusterChoice::Single(name.to_owned()));
    }
    of.refuse(ctx, "cluster_variable", "naming the cluster by a variable comes later");
    if shares.is_empty() {
        ctx.error(&of.at("cluster_name"), "", "missing; expected cluster_name or weighted_clusters");
        return None;
    }
    if shares.iter().all(|share| share.weight == 0) {
        ctx.error(&of.at("weighted_clusters"), 0, "expected a total weight above 0");
        return None;
    }
    Some(ClusterChoice::Weighted(shares))
}

/// Today `{"cluster": {…}}`; in 2018 the key was `Clusters`.
fn weighted(ctx: &mut Context<'_>, of: &mut Object<'_>) -> Vec<WeightedCluster> {
    let mut shares = Vec::new();
    for mut item in of.objects(ctx, "weighted_clusters") {
        let share = match item.object(ctx, "cluster") {
            Some(share) => Some(share),
            None => item.object(ctx, "Clusters"),
        };
        item.no_effect(ctx, "runtime_key_prefix", "MOSN has dropped it as well");
        let Some(mut share) = share else {
            ctx.error(&item.at("cluster"), "", "missing");
            continue;
        };
        item.finish(ctx);
        let name = share.text(ctx, "name").unwrap_or_default().to_owned();
        let weight = share.number(ctx, "weight").unwrap_or(0);
        let criteria = balance::criteria(ctx, &mut share);
        if name.is_empty() {
            ctx.error(&share.at("name"), "", "missing");
        }
        share.finish(ctx);
        shares.push(WeightedCluster { name, weight, criteria, ..WeightedCluster::default() });
    }
    shares
}

fn retry(ctx: &mut Context<'_>, of: &mut Object<'_>) -> RetryPolicy {
    let mut policy = RetryPolicy {
        on: RetryOn { connect_failure: true, ..RetryOn::default() },
        retries: LEAST_RETRIES,
        base_interval: RETRY_PAUSE,
        max_interval: RETRY_PAUSE,
        previous_hosts_attempts: 3,
        ..RetryPolicy::default()
    };
    let Some(mut given) = of.object(ctx, "retry_policy") else { return policy };
    let on = given.flag(ctx, "retry_on").unwrap_or(false);
    policy.per_try_timeout = given.duration(ctx, "retry_timeout").filter(|limit| !limit.is_zero());
    policy.retries = given.number(ctx, "num_retries").unwrap_or(0).max(LEAST_RETRIES);
    for (value, path) in given.list(ctx, "status_codes") {
        match value.as_u64().and_then(|code| u16::try_from(code).ok()) {
            Some(code) => policy.status_codes.push(code),
            None => ctx.error(&path, value, "expected a status code"),
        }
    }
    given.finish(ctx);
    if on {
        policy.on.reset = true;
        policy.on.refused_stream = true;
        policy.on.five_xx = policy.status_codes.is_empty();
        policy.on.retriable_status_codes = !policy.status_codes.is_empty();
    }
    policy
}

fn regex_rewrite(ctx: &mut Context<'_>, of: &mut Object<'_>) -> Option<(Regex, String)> {
    let mut rewrite = of.object(ctx, "regex_rewrite")?;
    let substitution = rewrite.text(ctx, "substitution").unwrap_or_default();
    let mut pattern = rewrite.object(ctx, "pattern")?;
    pattern.skip(ctx, &["google_re2"]);
    let text = pattern.text(ctx, "regex").unwrap_or_default();
    if text.len() <= 1 {
        ctx.warn(&pattern.at("regex"), format!("{text:?}"), "no rewrite, as in MOSN: one character or none");
        return None;
    }
    let regex = match Regex::search(text) {
        Ok(regex) => regex,
        Err(why) => {
            ctx.error(&pattern.at("regex"), text, format!("not a regular expression: {why}"));
            return None;
        }
    };
    let Some(substitution_text) = envoy_substitution(substitution) else {
        ctx.error(&rewrite.at("substitution"), substitution, "expected groups by number, $1 to $9");
        return None;
    };
    pattern.finish(ctx);
    rewrite.finish(ctx);
    Some((regex, substitution_text))
}

/// Go's `$1` and `${1}` as `\1`; `None` for groups by name or beyond nine.
fn envoy_substitution(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\']) {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        if let Some(after) = special.strip_prefix('\\') {
            out.push_str("\\\\");
            rest = after;
        } else if let Some(after) = special.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else {
            let name = special.strip_prefix('$')?;
            let (name, after) = match name.strip_prefix('{') {
                Some(braced) => braced.split_once('}')?,
                // Go takes the longest run of word characters as the name.
                None => {
                    name.split_at(name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len()))
                }
            };
            if name.len() != 1 || !name.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            out.push('\\');
            out.push_str(name);
            rest = after;
        }
    }
    out.push_str(rest);
    Some(out)
}
