//! JWT authentication: requests have tokens of whom they must have them of, and what the tokens say goes on.
//!
//! A request is judged in one go; where keys must be fetched first, it is judged anew when they are here, so that
//! nothing of it is changed before the verdict.

mod cache;
mod judge;
mod keeper;
mod keys;
mod places;
mod refusal;
mod remote;
mod token;

use self::cache::Cache;
use self::judge::{Good, Judge, Source, Stop};
use self::keys::Keys;
use self::refusal::Refusal;
use self::remote::{Remote, Turn};
use self::token::Token;
use super::chain::{State as Kept, Verdict};
use super::context::{Context, Reply};
use super::stats::{Counters, counters};
use crate::message::{Datum, Head, Metadata, Reason, Request};
use crate::model::{FilterConfig, FilterRule, JwksSource, JwtAuthn, JwtProvider, JwtRequirement};
use crate::router::route_holds;
use crate::telemetry::{Registry, Scope};
use crate::util::base64;
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

pub use keeper::Keeper;

/// Where payloads and headers go.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";
/// Longest path in `www-authenticate`.
const MOST_PATH: usize = 256;

counters! {
    NAMES:
    "allowed" = ALLOWED,
    "denied" = DENIED,
    "cors_preflight_bypassed" = BYPASSED,
    "jwks_fetch_success" = FETCHED,
    "jwks_fetch_failed" = FETCH_FAILED,
    "jwt_cache_hit" = HIT,
    "jwt_cache_miss" = MISS,
}

/// A request that waits for keys.
#[derive(Default)]
pub(super) struct State {
    /// It fetches them itself.
    turn: Option<Turn>,
    /// For whose it waited, and how many fetches of them had ended then.
    waited: Vec<(usize, u64)>,
}

/// What a rule is worked by: shared by all workers.
struct Checker {
    /// As the rule's providers.
    sources: Vec<Source>,
    /// What the caches of workers know it by.
    id: u64,
    alive: Arc<()>,
}

impl Checker {
    fn of<'a>(config: &JwtAuthn, rule: &'a FilterRule) -> Option<&'a Checker> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        rule.compiled.get(|| {
            let source = |provider: &JwtProvider| match &provider.keys {
                JwksSource::Remote(spec) => Source::Remote(Remote::new(spec.clone())),
                JwksSource::Local(text) => {
                    let keys = Keys::parse(text.as_bytes());
                    if keys.is_none() {
                        tracing::warn!("JWT provider {}: local_jwks has no usable key", provider.name);
                    }
                    Source::Local(keys)
                }
            };
            Checker {
                sources: config.providers.iter().map(source).collect(),
                id: NEXT.fetch_add(1, Relaxed),
                alive: Arc::new(()),
            }
        })
    }
}

/// The remote key sets of a rule that are to be kept fresh, and that nobody keeps yet.
pub(super) fn keepers(rule: &FilterRule, registry: &Registry, scope: &Scope) -> Vec<Keeper> {
    let FilterConfig::JwtAuthn(config) = &rule.config else { return Vec::new() };
    if !config.providers.iter().any(|provider| provider.keys.is_eager()) {
        return Vec::new();
    }
    let sources = Checker::of(config, rule).map(|checker| checker.sources.as_slice()).unwrap_or_default();
    let remotes = sources.iter().filter_map(|source| match source {
        Source::Remote(remote) if remote.claim() => Some(remote),
        _ => None,
    });
    remotes.map(|remote| Keeper::new(remote, registry.register(scope.clone(), counters(config)))).collect()
}

fn counters(config: &JwtAuthn) -> Counters {
    match config.stat_prefix.trim_end_matches('.') {
        "" => Counters::new("jwt_authn.", NAMES),
        own => Counters::new(format!("jwt_authn.{own}."), NAMES),
    }
}

pub(super) fn on_request(
    config: &JwtAuthn,
    rule: &FilterRule,
    (name, place): (&str, usize),
    kept: &mut Kept,
    ctx: &mut Context<'_>,
) -> Verdict {
    let group = ctx.world.stats.own(place, || counters(config));
    // The realm is what the client asked for, before anything is taken out of it.
    let realm = realm(ctx.request);
    // What only good tokens may put there, required or not.
    config.providers.iter().for_each(|provider| clean(ctx.request, provider));
    let required = match wanted(config, name, &group, ctx) {
        Ok(required) => required,
        Err(verdict) => return verdict,
    };
    let Some(checker) = Checker::of(config, rule) else { return Verdict::Reply(Box::new(broken())) };
    let mut state = match std::mem::take(kept) {
        Kept::Jwt(state) => *state,
        _ => State::default(),
    };
    if let Some(turn) = state.turn.take() {
        let fetched = ctx.heard.take().is_some_and(|heard| turn.heard(heard));
        group.inc(if fetched { FETCHED } else { FETCH_FAILED });
    }
    let cache = Cache { checker: checker.id, alive: &checker.alive, config };
    let mut judge = Judge {
        config,
        sources: &checker.sources,
        request: ctx.request,
        now: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        waited: &state.waited,
        remembered: &|provider, text| {
            let found = cache.get(provider, text)?;
            group.inc(if found.is_some() { HIT } else { MISS });
            found
        },
        good: Vec::new(),
        new: Vec::new(),
        refused: Vec::new(),
    };
    let verdict = judge.judge(required);
    let Judge { good, new, refused, .. } = judge;
    new.into_iter().for_each(|(provider, text, token)| cache.put(provider, text, token));
    match verdict {
        Ok(()) => {
            tell_failures(config, &refused, ctx.metadata);
            good.iter().for_each(|good| carry(config, good, ctx));
            group.inc(ALLOWED);
            Verdict::Continue
        }
        Err(Stop::Keys(provider)) => wait(provider, &checker.sources, state, kept),
        Err(Stop::Refused(refusal)) => {
            tell_failures(config, &refused, ctx.metadata);
            group.inc(DENIED);
            refuse(config, refusal, realm)
        }
    }
}

/// What is required of the request, or what becomes of it where nothing is.
fn wanted<'a>(
    config: &'a JwtAuthn,
    name: &str,
    group: &Counters,
    ctx: &Context<'_>,
) -> Result<&'a JwtRequirement, Verdict> {
    if config.bypass_preflight && is_preflight(ctx.request.head()) {
        group.inc(BYPASSED);
        group.inc(ALLOWED);
        return Err(Verdict::Continue);
    }
    match required(config, name, ctx) {
        Ok(Some(required)) => Ok(required),
        Ok(None) => {
            group.inc(ALLOWED);
            Err(Verdict::Continue)
        }
        Err(why) => {
            group.inc(DENIED);
            Err(wrong_name(config, &why))
        }
    }
}

/// What is required of the request: by its route, by the first rule that it meets, or by what filters said of it.
/// `None`: nothing.
///
/// # Errors
/// The route names what there is not.
fn required<'a>(
    config: &'a JwtAuthn,
    name: &str,
    ctx: &Context<'_>,
) -> Result<Option<&'a JwtRequirement>, String> {
    let of_route = ctx.world.route.and_then(|route| {
        route.filter_rules(name, ctx.world.share).find_map(|rule| match &rule.config {
            FilterConfig::JwtRequirement(named) => Some(named),
            _ => None,
        })
    });
    if let Some(named) = of_route {
        let known = || config.named.keys().map(String::as_str).collect::<Vec<_>>().join(",");
        let found = config.named.get(named);
        return found
            .map(Some)
            .ok_or_else(|| format!("Wrong requirement_name: {named}. It should be one of [{}]", known()));
    }
    let head = ctx.request.head();
    let random = ctx.world.random.next();
    let rule = config.rules.iter().find(|rule| route_holds(&rule.matcher, head, random));
    let by_state = || {
        let (key, texts) = config.by_state.as_ref()?;
        texts.get(ctx.metadata.state.get(key)?)
    };
    let requires = rule.map_or_else(by_state, |rule| Some(&rule.requires));
    Ok(requires.filter(|requires| **requires != JwtRequirement::Nothing))
}

fn is_preflight(head: &dyn Head) -> bool {
    let has = |name: &str| head.header(name).is_some_and(|value| !value.is_empty());
    head.method() == Some(b"OPTIONS") && has("origin") && has("access-control-request-method")
}

/// Takes from the request what only a good token of this provider may put there.
fn clean(request: &mut dyn Request, provider: &JwtProvider) {
    if !provider.payload_header.is_empty() {
        request.remove(&provider.payload_header);
    }
    for claim in &provider.claim_headers {
        request.remove(&claim.name);
    }
}

/// Waits for the keys of one provider: fetches them, unless somebody does.
fn wait(provider: usize, sources: &[Source], mut state: State, kept: &mut Kept) -> Verdict {
    let Some(Source::Remote(remote)) = sources.get(provider) else {
        return Verdict::Reply(Box::new(broken()));
    };
    state.waited.push((provider, remote.ended()));
    let verdict = match remote.turn() {
        Ok(turn) => {
            let ask = turn.ask();
            state.turn = Some(turn);
            Verdict::Ask(Box::new(ask))
        }
        Err(until) => Verdict::Until(until),
    };
    *kept = Kept::Jwt(Box::new(state));
    verdict
}

/// Puts what a good token says where its provider wants it.
fn carry(config: &JwtAuthn, good: &Good, ctx: &mut Context<'_>) {
    let Some(provider) = config.providers.get(good.provider) else { return };
    let token: &Token = &good.token;
    if !provider.payload_header.is_empty() {
        let mut text = token.payload_text.clone();
        while provider.pad_payload_header && !text.len().is_multiple_of(4) {
            text.push('=');
        }
        ctx.request.append(&provider.payload_header, text.as_bytes());
    }
    let mut claimed = false;
    for header in &provider.claim_headers {
        if let Some(value) = token.claim(&header.claim) {
            ctx.request.append(&header.name, value.as_bytes());
            claimed = true;
        } else if let Some(json) = list_claim(token, &header.claim) {
            ctx.request.append(&header.name, &json);
            claimed = true;
        }
    }
    if !provider.forward {
        places::take_away(ctx.request, &good.place);
    }
    if !provider.header_in_metadata.is_empty() {
        let header = Datum::Map(token.header.clone());
        ctx.metadata.set(NAMESPACE, &provider.header_in_metadata, header);
    }
    if !provider.payload_in_metadata.is_empty() {
        let payload = Datum::Map(normalised(provider, &token.payload));
        ctx.metadata.set(NAMESPACE, &provider.payload_in_metadata, payload);
    }
    if provider.clear_route_cache && (claimed || !provider.payload_in_metadata.is_empty()) {
        *ctx.reroute = true;
    }
}

/// A claim that is a list or an object, as base64 of its JSON, which is how Envoy carries it in a header.
fn list_claim(token: &Token, path: &str) -> Option<Vec<u8>> {
    let mut keys = path.split('.');
    let mut at = token.payload.get(keys.next()?)?;
    for key in keys {
        let Datum::Map(inner) = at else { return None };
        at = inner.get(key)?;
    }
    if !matches!(at, Datum::List(_) | Datum::Map(_)) {
        return None;
    }
    let (mut json, mut text) = (Vec::new(), Vec::new());
    at.write_json(&mut json);
    base64::encode(&json, &mut text);
    Some(text)
}

/// The payload with words as lists, where that is wanted.
fn normalised(provider: &JwtProvider, payload: &BTreeMap<String, Datum>) -> BTreeMap<String, Datum> {
    let mut payload = payload.clone();
    for name in &provider.space_delimited {
        if let Some(claim) = payload.get_mut(name)
            && let Datum::Text(text) = claim
        {
            let words = text.split(' ').filter(|word| !word.is_empty());
            *claim = Datum::List(words.map(|word| Datum::Text(word.to_owned())).collect());
        }
    }
    payload
}

fn tell_failures(config: &JwtAuthn, refused: &[(usize, Refusal)], metadata: &mut Metadata) {
    for (number, refusal) in refused {
        let Some(provider) = config.providers.get(*number) else { continue };
        if provider.failure_in_metadata.is_empty() {
            continue;
        }
        let why = BTreeMap::from([
            ("code".to_owned(), Datum::Text(refusal.code().to_string())),
            ("message".to_owned(), Datum::Text(refusal.text().to_owned())),
        ]);
        metadata.set(NAMESPACE, &provider.failure_in_metadata, Datum::Map(why));
    }
}

/// Where the client went.
fn realm(request: &dyn Request) -> String {
    let text = |name: &str| match request.header(name) {
        Some(value) => String::from_utf8_lossy(&value).into_owned(),
        None => String::new(),
    };
    let original = text("x-envoy-original-path");
    let path = if original.is_empty() { text(":path") } else { original };
    let path: String = path.chars().take(MOST_PATH).collect();
    let scheme = text(":scheme");
    let scheme = if scheme.is_empty() { "http" } else { &scheme };
    format!("{scheme}://{}{path}", text(":authority"))
}

fn refuse(config: &JwtAuthn, refusal: Refusal, realm: String) -> Verdict {
    let status = if refusal == Refusal::Audience { 403 } else { 401 };
    let mut reply = Reply {
        details: Cow::Owned(refusal.details()),
        ..Reply::text(Reason::Unauthenticated, status, refusal.text(), "")
    };
    if config.strip_failure {
        reply.body = Bytes::new();
    } else {
        let error = if refusal == Refusal::Missing { "" } else { ", error=\"invalid_token\"" };
        reply.headers.push(("www-authenticate", format!("Bearer realm=\"{realm}\"{error}").into_bytes()));
    }
    Verdict::Reply(Box::new(reply))
}

fn wrong_name(config: &JwtAuthn, why: &str) -> Verdict {
    let details = format!("jwt_authn_access_denied{{{}}}", why.replace(' ', "_"));
    let mut reply =
        Reply { details: Cow::Owned(details), ..Reply::text(Reason::Unauthenticated, 403, "", "") };
    if !config.strip_failure {
        reply.body = format!("Failed JWT authentication: {why}").into();
    }
    Verdict::Reply(Box::new(reply))
}

/// What cannot be judged does not pass.
fn broken() -> Reply {
    Reply::text(Reason::Unauthenticated, 401, "Jwks remote fetch is failed", "jwt_authn_access_denied")
}

#[cfg(test)]
mod tests;
