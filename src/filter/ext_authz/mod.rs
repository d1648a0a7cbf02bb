//! External authorization: another service is asked about each request, or about a connection.
//!
//! Nothing passes before there is consent. An answer that cannot be had or read is an error and no denial: what
//! then becomes of the request is the configuration's to say.

mod answer;
mod changes;
mod check;
mod network;

use self::answer::{Change, Decision, Kind};
use self::check::{Check, HttpPart};
use super::ask::{Ask, Retries};
use super::chain::{Outgoing, State as Kept, Verdict};
use super::context::{Context, Reply};
use super::rbac::metadata_holds;
use super::stats::{Counters, counters};
use crate::message::{Datum, Reason};
use crate::model::{AuthzBody, AuthzService, AuthzSettings, ExtAuthz, FilterConfig, HttpAuthz, StringMatch};
use crate::telemetry::Scope;
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

pub use network::{ConnectionCheck, Ruling};

/// Where what the service says goes.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
/// Whether the service got only a part of the body.
const PARTIAL: &str = "x-envoy-auth-partial-body";
/// Tells the upstream that the service could not be asked.
const FAILURE_ALLOWED: &str = "x-envoy-auth-failure-mode-allowed";
/// Longest answer of an HTTP service.
const MOST: usize = 4 << 20;

counters! {
    NAMES:
    "ok" = OK,
    "denied" = DENIED,
    "error" = ERROR,
    "failure_mode_allowed" = FAILURE_MODE,
    "disabled" = DISABLED,
    "invalid" = INVALID,
    "ignored_dynamic_metadata" = IGNORED,
}

/// Those a cluster has too.
const CLUSTER_NAMES: &[&str] =
    &["ext_authz.ok", "ext_authz.denied", "ext_authz.error", "ext_authz.failure_mode_allowed"];

/// How far a request has come.
pub(super) enum State {
    /// Its body is wanted.
    Body,
    /// The service is asked since then.
    Asked(Instant),
    /// It passes; its response gets these.
    Passed(Vec<Change>),
}

pub(super) fn on_request(
    config: &ExtAuthz,
    (name, place): (&str, usize),
    kept: &mut Kept,
    ctx: &mut Context<'_>,
) -> Verdict {
    // Without a route it goes nowhere.
    if ctx.world.route.is_none() {
        return Verdict::Continue;
    }
    let settings = settings(name, ctx);
    let service = settings.service.as_ref().unwrap_or(&config.service);
    match std::mem::take(kept) {
        Kept::Authz(State::Asked(begin)) => {
            let heard = ctx
                .heard
                .take()
                .unwrap_or_else(|| Err(crate::message::Failure::before(Reason::Unauthorized)));
            let decision = match service {
                AuthzService::Grpc(_) => answer::of_grpc(heard),
                AuthzService::Http(http) => answer::of_http(http, heard),
            };
            return decided(config, place, decision, begin, kept, ctx);
        }
        Kept::Authz(State::Body) => {}
        _ => {
            if !is_enabled(config, ctx) {
                count(config, place, DISABLED, ctx);
                if config.deny_at_disable.is_on() {
                    return refuse(config.status_on_error, "ext_authz_error");
                }
                return Verdict::Continue;
            }
            if let Some(body) = wanted_body(config, &settings, ctx) {
                *kept = Kept::Authz(State::Body);
                return if body.partial { Verdict::Peek(body.most) } else { Verdict::Hold(body.most) };
            }
        }
    }
    let body = if ctx.ends { None } else { wanted_body(config, &settings, ctx) };
    let ask = match service {
        AuthzService::Grpc(target) => {
            let http = http_part(config, body, ctx);
            let check = Check {
                peer: ctx.world.peer,
                facts: ctx.world.facts,
                http: Some(http),
                service: text(ctx, "x-envoy-downstream-service-cluster"),
                certificate: config.peer_certificate,
                tls_session: config.tls_session,
                context: settings.context,
                metadata: ctx.metadata,
                namespaces: &config.namespaces,
            };
            check::call(target, &check.encode())
        }
        AuthzService::Http(http) => http_ask(config, http, body, ctx),
    };
    *kept = Kept::Authz(State::Asked(Instant::now()));
    Verdict::Ask(Box::new(ask))
}

pub(super) fn on_response(kept: &Kept, response: &mut Outgoing<'_>) {
    if let Kept::Authz(State::Passed(list)) = kept {
        changes::response(response.headers, list);
    }
}

/// What the levels of the route say, the most specific last.
fn settings(name: &str, ctx: &Context<'_>) -> AuthzSettings {
    let Some(route) = ctx.world.route else { return AuthzSettings::default() };
    let mut settings = AuthzSettings::default();
    let levels: Vec<_> = route.filter_rules(name, ctx.world.share).collect();
    for rule in levels.into_iter().rev() {
        if let FilterConfig::AuthzSettings(level) = &rule.config {
            let mut context = std::mem::take(&mut settings.context);
            context.extend(level.context.iter().map(|(key, value)| (key.clone(), value.clone())));
            settings = AuthzSettings { context, ..(**level).clone() };
        }
    }
    settings
}

fn is_enabled(config: &ExtAuthz, ctx: &Context<'_>) -> bool {
    config.enabled.as_ref().is_none_or(|share| share.holds(ctx.world.random.next()))
        && config.enabled_metadata.as_ref().is_none_or(|wanted| metadata_holds(wanted, ctx.metadata))
}

/// How much of the body the service gets. A request for another protocol has none.
fn wanted_body(config: &ExtAuthz, settings: &AuthzSettings, ctx: &Context<'_>) -> Option<AuthzBody> {
    let body = settings.body.or(config.body)?;
    let head = ctx.request.head();
    let changes = head.header("upgrade").is_some() || head.method() == Some(b"CONNECT");
    (!settings.no_body && !ctx.ends && !changes).then_some(body)
}

fn text(ctx: &Context<'_>, name: &str) -> Vec<u8> {
    ctx.request.header(name).map(Cow::into_owned).unwrap_or_default()
}

/// Every header of the request by itself, pseudo headers too; several values of one are joined.
fn headers(ctx: &Context<'_>) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for name in [":method", ":path", ":authority", ":scheme"] {
        if let Some(value) = ctx.request.header(name) {
            all.insert(name.to_owned(), value.into_owned());
        }
    }
    ctx.request.each(&mut |name, value| {
        // What we say to the service ourselves nobody else may say.
        if name == PARTIAL {
            return;
        }
        let held: &mut Vec<u8> = all.entry(name.to_ascii_lowercase()).or_default();
        if !held.is_empty() {
            held.push(b',');
        }
        held.extend_from_slice(value);
    });
    all
}

fn meets(list: &[StringMatch], name: &str) -> bool {
    list.iter().any(|one| one.matches(name.as_bytes()))
}

/// The request as a gRPC service gets it.
fn http_part(config: &ExtAuthz, wanted: Option<AuthzBody>, ctx: &Context<'_>) -> HttpPart {
    let mut headers = headers(ctx);
    headers.retain(|name, _| {
        config.allowed.as_ref().is_none_or(|list| meets(list, name)) && !meets(&config.disallowed, name)
    });
    let held = wanted.and_then(|wanted| Some((ctx.held?, wanted.raw)));
    if let Some((part, _)) = held {
        headers.insert(PARTIAL.to_owned(), (!part.whole).to_string().into_bytes());
    }
    let length = ctx
        .request
        .header("content-length")
        .and_then(|length| std::str::from_utf8(&length).ok()?.parse().ok());
    let whole = held.filter(|(part, _)| part.whole).map(|(part, _)| part.data.len());
    HttpPart {
        method: text(ctx, ":method"),
        path: text(ctx, ":path"),
        host: text(ctx, ":authority"),
        scheme: text(ctx, ":scheme"),
        headers,
        size: whole.and_then(|length| i64::try_from(length).ok()).or(length).or(ctx.ends.then_some(0)),
        body: held.map(|(part, raw)| (part.data.clone(), raw)),
    }
}

/// The request as an HTTP service gets it: under its own method, path and host name.
fn http_ask(config: &ExtAuthz, http: &HttpAuthz, wanted: Option<AuthzBody>, ctx: &Context<'_>) -> Ask {
    let allowed = |name: &str| {
        let listed = config.allowed.as_ref().is_some_and(|list| meets(list, name));
        (listed || name == "authorization") && !meets(&config.disallowed, name)
    };
    // Of the connection with the client, or of a body that is another one's.
    let own = |name: &str| {
        matches!(
            name,
            "connection"
                | "content-length"
                | "expect"
                | "host"
                | "keep-alive"
                | "proxy-connection"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        )
    };
    let mut fields = headers(ctx);
    fields.retain(|name, _| !name.starts_with(':') && !own(name) && allowed(name));
    for (name, value) in &http.headers_to_add {
        fields.insert(name.clone(), value.clone().into_bytes());
    }
    let held = wanted.and(ctx.held);
    if let Some(part) = held {
        fields.insert(PARTIAL.to_owned(), (!part.whole).to_string().into_bytes());
    }
    let body = held.map(|part| part.data.clone()).unwrap_or_default();
    fields.insert("content-length".to_owned(), body.len().to_string().into_bytes());
    let string = |name: &str| String::from_utf8_lossy(&text(ctx, name)).into_owned();
    let (count, base, most) = http.retries;
    Ask {
        cluster: http.cluster.clone(),
        http2: false,
        method: string(":method"),
        authority: string(":authority"),
        path: format!("{}{}", http.path_prefix, string(":path")),
        headers: fields.into_iter().collect(),
        body,
        timeout: http.timeout,
        most: MOST,
        retries: Retries { count, base, most },
    }
}

fn decided(
    config: &ExtAuthz,
    place: usize,
    mut decision: Decision,
    begin: Instant,
    kept: &mut Kept,
    ctx: &mut Context<'_>,
) -> Verdict {
    if decision.strange && config.validate_mutations {
        return invalid(config, place, ctx);
    }
    if !decision.metadata.is_empty() {
        if config.takes_metadata {
            if decision.kind == Kind::Allowed {
                let took = Datum::Number(begin.elapsed().as_millis() as f64);
                decision.metadata.insert("ext_authz_duration".to_owned(), took);
            }
            ctx.metadata.merge(NAMESPACE, &decision.metadata);
        } else {
            count(config, place, IGNORED, ctx);
        }
    }
    match decision.kind {
        Kind::Allowed => {
            if config.validate_mutations && !changes::are_valid(&decision) {
                return invalid(config, place, ctx);
            }
            let changed = changes::request(ctx.request, &decision);
            *ctx.reroute = config.clear_route_cache && changed;
            count(config, place, OK, ctx);
            *kept = Kept::Authz(State::Passed(decision.response));
            Verdict::Continue
        }
        Kind::Denied => {
            count(config, place, DENIED, ctx);
            if config.validate_mutations && !changes::are_valid(&decision) {
                return invalid(config, place, ctx);
            }
            if let Some(most) = config.denied_body {
                decision.body.truncate(most);
            }
            let status = if decision.status == 0 { 403 } else { decision.status };
            answered(status, "ext_authz_denied", decision)
        }
        Kind::Failed => {
            count(config, place, ERROR, ctx);
            if config.failure_mode_allow {
                count(config, place, FAILURE_MODE, ctx);
                if config.failure_mode_header {
                    ctx.request.append(FAILURE_ALLOWED, b"true");
                }
                *kept = Kept::Authz(State::Passed(Vec::new()));
                return Verdict::Continue;
            }
            let status = if decision.status == 0 { config.status_on_error } else { decision.status };
            answered(status, "ext_authz_error", decision)
        }
    }
}

fn refuse(status: u16, details: &'static str) -> Verdict {
    answered(status, details, Decision::default())
}

/// A refusal with what the service wants the client to know.
fn answered(status: u16, details: &'static str, decision: Decision) -> Verdict {
    // What frames our own answer is not the service's to say.
    let framing = ["connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"];
    let fields = decision.response.into_iter().map(|(_, name, value)| (name, value));
    let fields = fields.filter(|(name, _)| !name.starts_with(':') && !framing.contains(&name.as_str()));
    Verdict::Reply(Box::new(Reply {
        more: fields.collect(),
        replaces: true,
        body: Bytes::from(decision.body),
        ..Reply::text(Reason::Unauthorized, status, "", details)
    }))
}

/// The service's consent cannot be carried out.
fn invalid(config: &ExtAuthz, place: usize, ctx: &Context<'_>) -> Verdict {
    count(config, place, INVALID, ctx);
    refuse(500, "ext_authz_invalid")
}

fn count(config: &ExtAuthz, place: usize, at: usize, ctx: &Context<'_>) {
    let stats = ctx.world.stats;
    let make = || match config.stat_prefix.trim_end_matches('.') {
        "" => Counters::new("ext_authz.", NAMES),
        own => Counters::new(format!("ext_authz.{own}."), NAMES),
    };
    stats.own(place, make).inc(at);
    if let (Some((_, cluster)), true) = (ctx.world.cluster, at < CLUSTER_NAMES.len()) {
        let of_cluster = |_: &str| (Some(Scope::cluster(cluster)), Counters::new("", CLUSTER_NAMES));
        stats.named(&format!("ext_authz\0{cluster}"), false, of_cluster).inc(at);
    }
}

#[cfg(test)]
mod tests;
