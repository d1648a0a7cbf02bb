//! Retry policies.

use std::time::Duration;

use prost::Name;

use super::values::{positive, timeout, within};
use crate::model::{RetryOn, RetryPolicy};
use crate::proto::envoy::config::route::v3 as pb;
use crate::proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use crate::proto::message_name;
use crate::translate::finding::{Findings, Path};

const BASE_INTERVAL: Duration = Duration::from_millis(25);

pub(super) fn policy(path: &Path<'_>, policy: &pb::RetryPolicy, out: &mut Findings) -> RetryPolicy {
    if !policy.retriable_request_headers.is_empty() {
        let at = path.name("retriable_request_headers");
        out.bad(&at, "", "not supported: without it more requests would be retried (leave it out)");
    }
    let per_try_timeout = timeout(&path.name("per_try_timeout"), policy.per_try_timeout.as_ref(), None, out);
    let (base_interval, max_interval) = back_off(path, policy, out);
    let at = path.name("retriable_status_codes");
    let code = |(i, code): (usize, &u32)| {
        u16::try_from(within(&at.index(i), *code, 100, 999, out)).unwrap_or_default()
    };
    let status_codes = policy.retriable_status_codes.iter().enumerate().map(code).collect();
    RetryPolicy {
        on: conditions(&path.name("retry_on"), &policy.retry_on, out),
        retries: policy.num_retries.unwrap_or(1),
        per_try_timeout,
        base_interval,
        max_interval,
        status_codes,
        previous_hosts_attempts: previous_hosts(path, policy, out),
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
        match word {
            "5xx" => on.five_xx = true,
            "gateway-error" => on.gateway_error = true,
            "reset" => on.reset = true,
            "reset-before-request" => on.reset_before_request = true,
            "connect-failure" => on.connect_failure = true,
            "refused-stream" => on.refused_stream = true,
            "retriable-4xx" => on.retriable_4xx = true,
            "retriable-status-codes" => on.retriable_status_codes = true,
            "cancelled" => on.grpc_codes |= 1 << 1,
            "deadline-exceeded" => on.grpc_codes |= 1 << 4,
            "resource-exhausted" => on.grpc_codes |= 1 << 8,
            "internal" => on.grpc_codes |= 1 << 13,
            "unavailable" => on.grpc_codes |= 1 << 14,
            other => out.note(&path.key(other)),
        }
    }
    on
}
