//! `JwtAuthentication`.

use super::{disabled, rule};
use crate::model::{
    ClaimHeader, FilterConfig, JwksSource, JwtAuthn, JwtCache, JwtProvider, JwtRequirement, JwtRule,
    RemoteJwks, RouteFilter, TokenHeader,
};
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use crate::translate::envoy::headers::header_name;
use crate::translate::envoy::matchers::text;
use crate::translate::envoy::route::route_match;
use crate::translate::envoy::service::{http_uri, retries};
use crate::translate::envoy::values::{duration, not_empty, positive};
use crate::translate::finding::{Findings, Path};
use std::collections::BTreeMap;
use std::time::Duration;

/// Good keys, if absent.
const LIFETIME: Duration = Duration::from_secs(600);
/// After a failed fetch, if absent.
const REFETCH: Duration = Duration::from_secs(1);
/// Defaults of `jwt_cache_config`.
const CACHED: usize = 100;
const LONGEST_CACHED: usize = 4096;
/// Tokens remembered at most: each worker holds so many.
const MOST_CACHED: usize = 100_000;
/// Clocks, if absent.
const SKEW: Duration = Duration::from_secs(60);

pub(super) fn of_chain(
    path: &Path<'_>,
    config: &pb::JwtAuthentication,
    out: &mut Findings,
) -> Option<FilterConfig> {
    let at = path.name("providers");
    let names: Vec<&str> = config.providers.keys().map(String::as_str).collect();
    let providers: Vec<_> =
        config.providers.iter().map(|(name, given)| provider(&at.key(name), name, given, out)).collect();
    let at = path.name("requirement_map");
    let named = config.requirement_map.iter();
    let named: Vec<_> = named
        .map(|(name, given)| Some((name.clone(), requirement(&at.key(name), given, &names, out)?)))
        .collect();
    let at = path.name("rules");
    let rules = config.rules.iter().enumerate();
    let rules: Vec<_> = rules.map(|(i, given)| of_rule(&at.index(i), given, config, &names, out)).collect();
    let by_state = config.filter_state_rules.as_ref();
    let by_state = by_state.map(|given| of_state(&path.name("filter_state_rules"), given, &names, out));
    // All or nothing: a rule less could admit more.
    Some(FilterConfig::JwtAuthn(Box::new(JwtAuthn {
        providers: providers.into_iter().collect::<Option<_>>()?,
        rules: rules.into_iter().collect::<Option<_>>()?,
        by_state: by_state.map_or(Some(None), |read| read.map(Some))?,
        named: named.into_iter().collect::<Option<_>>()?,
        bypass_preflight: config.bypass_cors_preflight,
        strip_failure: config.strip_failure_response,
        stat_prefix: config.stat_prefix.clone(),
    })))
}

pub(super) fn of_route(
    path: &Path<'_>,
    config: &pb::PerRouteConfig,
    out: &mut Findings,
) -> Option<RouteFilter> {
    use pb::per_route_config::RequirementSpecifier as Kind;
    match &config.requirement_specifier {
        Some(Kind::Disabled(is)) => disabled(path, *is, out),
        Some(Kind::RequirementName(name)) => {
            let name = not_empty(&path.name("requirement_name"), name, out);
            Some(rule(FilterConfig::JwtRequirement(name)))
        }
        None => {
            out.bad(path, "", "says nothing (one of disabled, requirement_name)");
            None
        }
    }
}

/// Which text under which key requires what.
fn of_state(
    path: &Path<'_>,
    given: &pb::FilterStateRule,
    providers: &[&str],
    out: &mut Findings,
) -> Option<(String, BTreeMap<String, JwtRequirement>)> {
    let name = not_empty(&path.name("name"), &given.name, out);
    let at = path.name("requires");
    let read = given.requires.iter();
    let read: Vec<_> = read
        .map(|(text, given)| Some((text.clone(), requirement(&at.key(text), given, providers, out)?)))
        .collect();
    Some((name, read.into_iter().collect::<Option<_>>()?))
}

fn of_rule(
    path: &Path<'_>,
    given: &pb::RequirementRule,
    config: &pb::JwtAuthentication,
    providers: &[&str],
    out: &mut Findings,
) -> Option<JwtRule> {
    use pb::requirement_rule::RequirementType as Kind;
    let at = path.name("match");
    let Some(matcher) = &given.r#match else {
        out.bad(&at, "", "is required (nearest valid: prefix \"/\")");
        return None;
    };
    let matcher = route_match(&at, matcher, out);
    let requires = match &given.requirement_type {
        None => Some(JwtRequirement::Nothing),
        Some(Kind::Requires(given)) => requirement(&path.name("requires"), given, providers, out),
        Some(Kind::RequirementName(name)) => match config.requirement_map.get(name) {
            // What is wrong with it was said where it stands.
            Some(given) => requirement(path, given, providers, &mut Findings::default()),
            None => {
                out.bad(&path.name("requirement_name"), name, "is not in requirement_map");
                None
            }
        },
    };
    Some(JwtRule { matcher: matcher?, requires: requires? })
}

fn requirement(
    path: &Path<'_>,
    given: &pb::JwtRequirement,
    providers: &[&str],
    out: &mut Findings,
) -> Option<JwtRequirement> {
    use pb::jwt_requirement::RequiresType as Kind;
    let place = |at: &Path<'_>, name: &str, out: &mut Findings| {
        let found = providers.iter().position(|known| *known == name);
        if found.is_none() {
            out.bad(at, name, "there is no provider of this name");
        }
        found
    };
    let list = |field: &str, given: &[pb::JwtRequirement], out: &mut Findings| {
        let at = path.name(field);
        let at = at.name("requirements");
        if given.len() < 2 {
            out.bad(&at, given.len(), "at least two");
        }
        let read: Vec<_> =
            given.iter().enumerate().map(|(i, one)| requirement(&at.index(i), one, providers, out)).collect();
        read.into_iter().collect::<Option<Vec<_>>>()
    };
    Some(match &given.requires_type {
        None => JwtRequirement::Nothing,
        Some(Kind::ProviderName(name)) => {
            JwtRequirement::Provider(place(&path.name("provider_name"), name, out)?, Vec::new())
        }
        Some(Kind::ProviderAndAudiences(both)) => {
            let at = path.name("provider_and_audiences");
            let provider = place(&at.name("provider_name"), &both.provider_name, out)?;
            JwtRequirement::Provider(provider, both.audiences.clone())
        }
        Some(Kind::RequiresAny(any)) => JwtRequirement::Any(list("requires_any", &any.requirements, out)?),
        Some(Kind::RequiresAll(all)) => JwtRequirement::All(list("requires_all", &all.requirements, out)?),
        Some(Kind::AllowMissing(())) => JwtRequirement::AllowMissing,
        Some(Kind::AllowMissingOrFailed(())) => JwtRequirement::AllowMissingOrFailed,
    })
}

fn provider(path: &Path<'_>, name: &str, given: &pb::JwtProvider, out: &mut Findings) -> Option<JwtProvider> {
    let subjects = match &given.subjects {
        Some(subjects) => Some(text(&path.name("subjects"), subjects, out)?),
        None => None,
    };
    let lifetime = given.max_lifetime.as_ref();
    let cache = given.jwt_cache_config.as_ref().map(|cache| {
        let or = |number: u32, default| if number == 0 { default } else { number as usize };
        let size = or(cache.jwt_cache_size, CACHED);
        if size > MOST_CACHED {
            let at = path.name("jwt_cache_config");
            let why = format!("at most {MOST_CACHED} (nearest valid {MOST_CACHED})");
            out.bad(&at.name("jwt_cache_size"), size, why);
        }
        JwtCache { size, longest: or(cache.jwt_max_token_size, LONGEST_CACHED) }
    });
    let at = path.name("claim_to_headers");
    let claims = given.claim_to_headers.iter().enumerate().map(|(i, claim)| ClaimHeader {
        name: header_name(&at.index(i).name("header_name"), &claim.header_name, out),
        claim: not_empty(&at.index(i).name("claim_name"), &claim.claim_name, out),
    });
    let claim_headers = claims.collect();
    let at = path.name("from_headers");
    let headers = given.from_headers.iter().enumerate().map(|(i, header)| TokenHeader {
        name: header_name(&at.index(i).name("name"), &header.name, out),
        prefix: header.value_prefix.clone(),
    });
    let from_headers = headers.collect();
    let payload_header = match given.forward_payload_header.as_str() {
        "" => String::new(),
        name => header_name(&path.name("forward_payload_header"), name, out),
    };
    let normal = given.normalize_payload_in_metadata.as_ref();
    let provider = JwtProvider {
        name: name.to_owned(),
        issuer: given.issuer.clone(),
        audiences: given.audiences.clone(),
        subjects,
        require_expiration: given.require_expiration,
        max_lifetime: lifetime.map(|time| duration(&path.name("max_lifetime"), time, out)),
        keys: keys(path, given, out)?,
        forward: given.forward,
        from_headers,
        from_params: given.from_params.clone(),
        from_cookies: given.from_cookies.clone(),
        payload_header,
        pad_payload_header: given.pad_forward_payload_header,
        payload_in_metadata: given.payload_in_metadata.clone(),
        header_in_metadata: given.header_in_metadata.clone(),
        failure_in_metadata: given.failed_status_in_metadata.clone(),
        space_delimited: normal.map(|normal| normal.space_delimited_claims.clone()).unwrap_or_default(),
        clock_skew: match given.clock_skew_seconds {
            0 => SKEW,
            seconds => Duration::from_secs(seconds.into()),
        },
        cache,
        claim_headers,
        clear_route_cache: given.clear_route_cache,
    };
    Some(with_places(provider))
}

/// Tokens are behind `Bearer`, or in `access_token`, where a provider says nothing else.
fn with_places(mut provider: JwtProvider) -> JwtProvider {
    let said = [provider.from_headers.len(), provider.from_params.len(), provider.from_cookies.len()];
    if said == [0; 3] {
        let (name, prefix) = ("authorization".to_owned(), "Bearer ".to_owned());
        provider.from_headers.push(TokenHeader { name, prefix });
        provider.from_params.push("access_token".to_owned());
    }
    provider
}

fn keys(path: &Path<'_>, given: &pb::JwtProvider, out: &mut Findings) -> Option<JwksSource> {
    use pb::jwt_provider::JwksSourceSpecifier as Kind;
    match &given.jwks_source_specifier {
        Some(Kind::LocalJwks(source)) => local(&path.name("local_jwks"), source, out).map(JwksSource::Local),
        Some(Kind::RemoteJwks(given)) => {
            remote(&path.name("remote_jwks"), given, out).map(JwksSource::Remote)
        }
        None => {
            out.bad(path, "", "no keys (one of remote_jwks, local_jwks)");
            None
        }
    }
}

fn local(path: &Path<'_>, source: &core::DataSource, out: &mut Findings) -> Option<String> {
    use core::data_source::Specifier;
    if source.watched_directory.is_some() {
        out.bad(&path.name("watched_directory"), "", "the file is read once (leave it out)");
    }
    let bytes = match &source.specifier {
        Some(Specifier::InlineString(text)) => text.clone().into_bytes(),
        Some(Specifier::InlineBytes(bytes)) => bytes.clone(),
        Some(Specifier::Filename(name)) => {
            out.looked_outside();
            match std::fs::read(name) {
                Ok(bytes) => bytes,
                Err(error) => {
                    out.bad(&path.name("filename"), name, error);
                    return None;
                }
            }
        }
        Some(Specifier::EnvironmentVariable(name)) => {
            out.looked_outside();
            std::env::var(name).unwrap_or_default().into_bytes()
        }
        None => Vec::new(),
    };
    let text = String::from_utf8(bytes).unwrap_or_default();
    if text.is_empty() {
        out.bad(path, "", "holds no text (nearest valid: inline_string)");
        return None;
    }
    Some(text)
}

fn remote(path: &Path<'_>, given: &pb::RemoteJwks, out: &mut Findings) -> Option<RemoteJwks> {
    let to = http_uri(&path.name("http_uri"), given.http_uri.as_ref(), out)?;
    let Some(timeout) = to.timeout else {
        let at = path.name("http_uri");
        out.bad(&at.name("timeout"), "", "is required and more than 0");
        return None;
    };
    let eager = given.async_fetch.as_ref().map(|fetch| {
        let at = path.name("async_fetch");
        positive(&at.name("failed_refetch_duration"), fetch.failed_refetch_duration.as_ref(), REFETCH, out)
    });
    let again = retries(&path.name("retry_policy"), given.retry_policy.as_ref(), out);
    Some(RemoteJwks {
        cluster: to.cluster,
        authority: to.authority,
        path: to.path,
        timeout,
        lifetime: positive(&path.name("cache_duration"), given.cache_duration.as_ref(), LIFETIME, out),
        eager,
        retries: again,
    })
}
