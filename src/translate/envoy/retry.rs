//! Retry policies.

use std::sync::Arc;
use std::time::Duration;

use prost::Name;

use super::matchers::headers;
use super::values::{enumeration, not_empty, positive, timeout, within};
use crate::model::{RateLimitedBackOff, ResetFormat, RetryOn, RetryPolicy};
use crate::proto::envoy::config::route::v3 as pb;
use crate::proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use crate::proto::message_name;
use crate::translate::finding::{Findings, Path};

const BASE_INTERVAL: Duration = Duration::from_millis(25);
/// Longest wait a server may ask for, if not set.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Policies of one table: most routes have the same, which is kept once.
#[derive(Default)]
pub(super) struct Policies(Vec<Arc<RetryPolicy>>);

/// More than this are not compared.
const KEPT: usize = 16;

impl Policies {
    pub(super) fn read(
        &mut self,
        path: &Path<'_>,
        given: &pb::RetryPolicy,
        out: &mut Findings,
    ) -> Arc<RetryPolicy> {
        let read = policy(&path.name("retry_policy"), given, out);
        if let Some(known) = self.0.iter().find(|known| ***known == read) {
            return known.clone();
        }
        let read = Arc::new(read);
        if self.0.len() < KEPT {
            self.0.push(read.clone());
        }
        read
    }
}

fn policy(path: &Path<'_>, policy: &pb::RetryPolicy, out: &mut Findings) -> RetryPolicy {
    let limit = |field: &str, value: Option<&prost_types::Duration>, out: &mut Findings| {
        timeout(&path.name(field), value, None, out)
    };
    let (base_interval, max_interval) = back_off(path, policy, out);
    let at = path.name("retriable_status_codes");
    let code = |(i, code): (usize, &u32)| {
        u16::try_from(within(&at.index(i), *code, 100, 999, out)).unwrap_or_default()
    };
    let status_codes = policy.retriable_status_codes.iter().enumerate().map(code).collect();
    RetryPolicy {
        on: conditions(&path.name("retry_on"), &policy.retry_on, out),
        retries: policy.num_retries.unwrap_or(1),
        per_try_timeout: limit("per_try_timeout", policy.per_try_timeout.as_ref(), out),
        per_try_idle_timeout: limit("per_try_idle_timeout", policy.per_try_idle_timeout.as_ref(), out),
        default_back_off: policy.retry_back_off.is_none(),
        base_interval,
        max_interval,
        status_codes,
        headers: headers(&path.name("retriable_headers"), &policy.retriable_headers, out),
        request_headers: headers(
            &path.name("retriable_request_headers"),
            &policy.retriable_request_headers,
            out,
        ),
        previous_hosts_attempts: previous_hosts(path, policy, out),
        rate_limited: policy
            .rate_limited_retry_back_off
            .as_ref()
            .map(|asked| rate_limited(&path.name("rate_limited_retry_back_off"), asked, out)),
    }
}

fn rate_limited(
    path: &Path<'_>,
    asked: &pb::retry_policy::RateLimitedRetryBackOff,
    out: &mut Findings,
) -> RateLimitedBackOff {
    use pb::retry_policy::ResetHeaderFormat as Format;
    let at = path.name("reset_headers");
    if asked.reset_headers.is_empty() {
        out.bad(&at, "", "at least one header");
    }
    let header = |(i, header): (usize, &pb::retry_policy::ResetHeader)| {
        let at = at.index(i);
        let format = match enumeration(&at.name("format"), header.format, out) {
            Some(Format::UnixTimestamp) => ResetFormat::UnixTimestamp,
            Some(Format::Seconds) | None => ResetFormat::Seconds,
        };
        (not_empty(&at.name("name"), &header.name, out).to_ascii_lowercase(), format)
    };
    RateLimitedBackOff {
        headers: asked.reset_headers.iter().enumerate().map(header).collect(),
        max_interval: positive(&path.name("max_interval"), asked.max_interval.as_ref(), LONGEST_ASKED, out),
    }
}

fn back_off(path: &Path<'_>, policy: &pb::RetryPolicy, out: &mut Findings) -> (Duration, Duration) {
    let Some(config) = &policy.retry_back_off else { return (BASE_INTERVAL, BASE_INTERVAL * 10) };
    let at = path.name("retry_back_off");
    if config.base_interval.is_none() {
        out.bad(&at.name("base_interval"), "", "is required");
    }
    let base = positive(&at.name("base_interval"), config.base_interval.as_ref(), BASE_INTERVAL, out);
    let max = positive(&at.name("max_interval"), config.max_interval.as_ref(), base.saturating_mul(10), out);
    if max < base {
        let why = format!("must not be less than base_interval (nearest valid {base:?})");
        out.bad(&at.name("max_interval"), format_args!("{max:?}"), why);
    }
    (base, max)
}

/// How often to pick again for a host that was not tried. Predicates are known by type; others do nothing.
fn previous_hosts(path: &Path<'_>, policy: &pb::RetryPolicy, out: &mut Findings) -> u32 {
    use pb::retry_policy::retry_host_predicate::ConfigType;
    let list = path.name("retry_host_predicate");
    let mut wanted = false;
    for (i, predicate) in policy.retry_host_predicate.iter().enumerate() {
        match &predicate.config_type {
            Some(ConfigType::TypedConfig(any))
                if message_name(&any.type_url) == PreviousHostsPredicate::full_name() =>
            {
                wanted = true;
            }
            _ => out.note(&list.index(i)),
        }
    }
    // Absent and zero are one on the wire; Envoy takes either as one pick.
    let attempts = u32::try_from(policy.host_selection_retry_max_attempts.max(1)).unwrap_or(u32::MAX);
    if wanted { attempts } else { 0 }
}

/// The words of `retry_on`. One that is unknown does nothing, as in Envoy.
fn conditions(path: &Path<'_>, text: &str, out: &mut Findings) -> RetryOn {
    let mut on = RetryOn::default();
    for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        if !on.add(word) {
            out.note(&path.key(word));
        }
    }
    on
}
