//! Services that say who may pass.

use super::MetadataMatch;
use crate::model::{Fraction, StringMatch, Switch};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// `ExtAuthz` of HTTP chains.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExtAuthz {
    pub service: AuthzService,
    /// Requests pass when the service cannot be asked.
    pub failure_mode_allow: bool,
    /// And say so to the upstream.
    pub failure_mode_header: bool,
    pub body: Option<AuthzBody>,
    /// Routes are looked for again where the service changed a request.
    pub clear_route_cache: bool,
    /// When the service cannot be asked. Default 403.
    pub status_on_error: u16,
    /// An answer with changes that are none is refused.
    pub validate_mutations: bool,
    /// Metadata that the service gets, by namespace.
    pub namespaces: Vec<String>,
    /// Share of requests it is asked about; `None` all.
    pub enabled: Option<Fraction>,
    /// And only those with this metadata.
    pub enabled_metadata: Option<MetadataMatch>,
    /// Requests it is not asked about are refused.
    pub deny_at_disable: Switch,
    pub peer_certificate: bool,
    pub tls_session: bool,
    /// Follows `ext_authz.` in metric names.
    pub stat_prefix: String,
    /// Headers that the service gets; `None`: as its protocol has it.
    pub allowed: Option<Vec<StringMatch>>,
    /// Headers it never gets.
    pub disallowed: Vec<StringMatch>,
    /// What it says goes into metadata. Default yes.
    pub takes_metadata: bool,
    /// Longest body of a refusal; `None` any.
    pub denied_body: Option<usize>,
}

/// How much of a body the service gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AuthzBody {
    pub most: usize,
    /// The begin of a longer one; else that one is refused.
    pub partial: bool,
    /// As bytes, not as text.
    pub raw: bool,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum AuthzService {
    Grpc(GrpcTarget),
    Http(Box<HttpAuthz>),
}

/// `GrpcService`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrpcTarget {
    pub cluster: String,
    pub authority: String,
    /// `None` for ever. Default 200 ms.
    pub timeout: Option<Duration>,
    /// Headers of each call.
    pub metadata: Vec<(String, String)>,
    /// Longest answer.
    pub most: usize,
}

/// `HttpService`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpAuthz {
    pub cluster: String,
    pub timeout: Option<Duration>,
    /// Stands before the request's path.
    pub path_prefix: String,
    /// In place of what the client said.
    pub headers_to_add: Vec<(String, String)>,
    /// Of its answer: what replaces headers of the request, and what is added to them.
    pub upstream: Vec<StringMatch>,
    pub upstream_append: Vec<StringMatch>,
    /// Of its refusals: what the client gets; `None` everything.
    pub client: Option<Vec<StringMatch>>,
    /// Of its consent: what the client gets.
    pub client_on_success: Vec<StringMatch>,
    /// Of its consent: what goes into metadata.
    pub metadata: Vec<StringMatch>,
    /// Further tries, and shortest and longest pause before them.
    pub retries: (u32, Duration, Duration),
}

/// `CheckSettings` of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AuthzSettings {
    /// What the service gets beside the request.
    pub context: BTreeMap<String, String>,
    /// It gets no body.
    pub no_body: bool,
    pub body: Option<AuthzBody>,
    /// Another service.
    pub service: Option<AuthzService>,
}

/// `ExtAuthz` of network chains.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkAuthz {
    pub stat_prefix: String,
    pub service: GrpcTarget,
    pub failure_mode_allow: bool,
    pub peer_certificate: bool,
    pub tls_session: bool,
    /// Asked only about connections with this metadata.
    pub enabled_metadata: Option<MetadataMatch>,
    pub namespaces: Vec<String>,
}
