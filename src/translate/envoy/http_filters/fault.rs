//! `HTTPFault`.

use super::share;
use crate::model::{AbortWith, Fault, FaultAbort, FaultDelay, FaultRate, FilterConfig};
use crate::proto::envoy::extensions::filters::common::fault::v3 as common;
use crate::proto::envoy::extensions::filters::http::fault::v3 as pb;
use crate::translate::envoy::matchers::headers;
use crate::translate::envoy::values::{positive, within};
use crate::translate::finding::{Findings, Path};
use std::time::Duration;

pub(super) fn fault(path: &Path<'_>, fault: &pb::HttpFault, out: &mut Findings) -> Option<FilterConfig> {
    let mut delay = match &fault.delay {
        Some(given) => Some(delay(&path.name("delay"), given, out)?),
        None => None,
    };
    let mut abort = match &fault.abort {
        Some(given) => Some(abort(&path.name("abort"), given, out)?),
        None => None,
    };
    let mut response_rate = match &fault.response_rate_limit {
        Some(given) => Some(rate(&path.name("response_rate_limit"), given, out)?),
        None => None,
    };
    if let Some(delay) = &mut delay {
        delay.share.runtime_key = key(&fault.delay_percent_runtime, "delay.fixed_delay_percent");
        delay.duration_key = key(&fault.delay_duration_runtime, "delay.fixed_duration_ms");
    }
    if let Some(abort) = &mut abort {
        abort.share.runtime_key = key(&fault.abort_percent_runtime, "abort.abort_percent");
        abort.with_key = match abort.with {
            AbortWith::Grpc(_) => key(&fault.abort_grpc_status_runtime, "abort.grpc_status"),
            _ => key(&fault.abort_http_status_runtime, "abort.http_status"),
        };
    }
    if let Some(rate) = &mut response_rate {
        let given = &fault.response_rate_limit_percent_runtime;
        rate.share.runtime_key = key(given, "rate_limit.response_percent");
    }
    Some(FilterConfig::Fault(Fault {
        delay,
        abort,
        upstream_cluster: fault.upstream_cluster.clone(),
        headers: headers(&path.name("headers"), &fault.headers, out),
        downstream_nodes: fault.downstream_nodes.clone(),
        max_active: fault.max_active_faults,
        max_active_key: key(&fault.max_active_faults_runtime, "max_active_faults"),
        response_rate,
    }))
}

/// The key that runtime may say something else by.
fn key(given: &str, default: &str) -> String {
    if given.is_empty() { format!("fault.http.{default}") } else { given.to_owned() }
}

fn delay(path: &Path<'_>, delay: &common::FaultDelay, out: &mut Findings) -> Option<FaultDelay> {
    use common::fault_delay::FaultDelaySecifier as Kind;
    let fixed = match &delay.fault_delay_secifier {
        Some(Kind::FixedDelay(time)) => {
            Some(positive(&path.name("fixed_delay"), Some(time), Duration::ZERO, out))
        }
        Some(Kind::HeaderDelay(_)) => None,
        None => {
            out.bad(path, "", "no delay (one of fixed_delay, header_delay)");
            return None;
        }
    };
    let share = share(&path.name("percentage"), delay.percentage.as_ref(), out);
    Some(FaultDelay { fixed, share, duration_key: String::new() })
}

fn abort(path: &Path<'_>, abort: &pb::FaultAbort, out: &mut Findings) -> Option<FaultAbort> {
    use pb::fault_abort::ErrorType as Kind;
    let with = match &abort.error_type {
        Some(Kind::HttpStatus(status)) => {
            let status = within(&path.name("http_status"), *status, 200, 599, out);
            AbortWith::Http(u16::try_from(status).ok()?)
        }
        Some(Kind::GrpcStatus(code)) => AbortWith::Grpc(*code),
        Some(Kind::HeaderAbort(_)) => AbortWith::Header,
        None => {
            out.bad(path, "", "no error (one of http_status, grpc_status, header_abort)");
            return None;
        }
    };
    let share = share(&path.name("percentage"), abort.percentage.as_ref(), out);
    Some(FaultAbort { with, share, with_key: String::new() })
}

fn rate(path: &Path<'_>, rate: &common::FaultRateLimit, out: &mut Findings) -> Option<FaultRate> {
    use common::fault_rate_limit::LimitType as Kind;
    let kbps = match &rate.limit_type {
        Some(Kind::FixedLimit(limit)) if limit.limit_kbps == 0 => {
            out.bad(&path.name("fixed_limit").name("limit_kbps"), 0, "must be at least 1");
            return None;
        }
        Some(Kind::FixedLimit(limit)) => Some(limit.limit_kbps),
        Some(Kind::HeaderLimit(_)) => None,
        None => {
            out.bad(path, "", "no limit (one of fixed_limit, header_limit)");
            return None;
        }
    };
    Some(FaultRate { kbps, share: share(&path.name("percentage"), rate.percentage.as_ref(), out) })
}
