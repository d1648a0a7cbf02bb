//! Tokens that say who sends a request: who may issue them, where they are, what is required of whom.

use crate::model::{RouteMatch, StringMatch};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// `JwtAuthentication`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JwtAuthn {
    /// By name, in its order; requirements name them by place.
    pub providers: Vec<JwtProvider>,
    /// The first that matches holds.
    pub rules: Vec<JwtRule>,
    /// Where no rule matches: the key whose text among these says what holds.
    pub by_state: Option<(String, BTreeMap<String, JwtRequirement>)>,
    /// What routes name.
    pub named: BTreeMap<String, JwtRequirement>,
    /// CORS preflights need no token.
    pub bypass_preflight: bool,
    /// Refusals say nothing.
    pub strip_failure: bool,
    /// Follows `jwt_authn.` in metric names.
    pub stat_prefix: String,
}

/// What requests of one kind need.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JwtRule {
    pub matcher: RouteMatch,
    pub requires: JwtRequirement,
}

/// A condition on the tokens of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub enum JwtRequirement {
    /// None: tokens are not looked at.
    #[default]
    Nothing,
    /// A good one of this provider; with audiences in place of the provider's own, if there are any.
    Provider(usize, Vec<String>),
    Any(Vec<JwtRequirement>),
    All(Vec<JwtRequirement>),
    /// None, or good ones.
    AllowMissing,
    /// Whatever they are; good ones count.
    AllowMissingOrFailed,
}

/// Who issues tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JwtProvider {
    pub name: String,
    /// `iss` of its tokens; empty: any.
    pub issuer: String,
    /// One of these must be in `aud`; empty: any.
    pub audiences: Vec<String>,
    pub subjects: Option<StringMatch>,
    pub require_expiration: bool,
    /// From now to `exp`.
    pub max_lifetime: Option<Duration>,
    pub keys: JwksSource,
    /// The token goes on to the upstream.
    pub forward: bool,
    pub from_headers: Vec<TokenHeader>,
    pub from_params: Vec<String>,
    pub from_cookies: Vec<String>,
    /// Gets the payload, in base64url; empty: none does.
    pub payload_header: String,
    /// The same with padding.
    pub pad_payload_header: bool,
    /// Keys in the filter's namespace of metadata; empty: not there.
    pub payload_in_metadata: String,
    pub header_in_metadata: String,
    pub failure_in_metadata: String,
    /// Claims that become lists of their words, in metadata.
    pub space_delimited: Vec<String>,
    /// How far clocks may be apart. Default 60 s.
    pub clock_skew: Duration,
    /// Good tokens that are remembered; `None`: none are.
    pub cache: Option<JwtCache>,
    pub claim_headers: Vec<ClaimHeader>,
    /// Routes are looked for again once claims are in headers or metadata.
    pub clear_route_cache: bool,
}

/// A header with a token behind `prefix`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenHeader {
    /// Lower-cased.
    pub name: String,
    pub prefix: String,
}

/// A header that gets a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimHeader {
    /// Lower-cased.
    pub name: String,
    /// The claim, with `.` between the keys of nested ones.
    pub claim: String,
}

/// How many tokens are remembered, each of at most `longest` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct JwtCache {
    pub size: usize,
    pub longest: usize,
}

/// Where a provider's keys come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum JwksSource {
    /// This text.
    Local(String),
    Remote(RemoteJwks),
}

impl JwksSource {
    /// Whether they are fetched before anybody asks for them.
    pub fn is_eager(&self) -> bool {
        matches!(self, JwksSource::Remote(remote) if remote.eager.is_some())
    }
}

/// Keys that another service has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RemoteJwks {
    pub cluster: String,
    /// The host name of the requests.
    pub authority: String,
    /// Path and query.
    pub path: String,
    pub timeout: Duration,
    /// How long they are good. Default 10 min.
    pub lifetime: Duration,
    /// They are fetched before they are asked for, and again so long after a failure; `None`: when a request
    /// needs them.
    pub eager: Option<Duration>,
    /// Further tries, and shortest and longest pause before them.
    pub retries: (u32, Duration, Duration),
}
