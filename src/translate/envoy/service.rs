//! Services that filters ask: where they are, and how often they are asked.

use super::values::{duration, not_empty, positive, timeout};
use crate::proto::envoy::config::core::v3 as core;
use crate::translate::finding::{Findings, Path};
use http::Uri;
use std::time::Duration;

/// First pause between tries, if absent; the longest is ten times as long.
const PAUSE: Duration = Duration::from_secs(1);

/// An `HttpUri`.
pub(super) struct HttpTarget {
    pub cluster: String,
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// `None` for ever.
    pub timeout: Option<Duration>,
}

pub(super) fn http_uri(
    path: &Path<'_>,
    given: Option<&core::HttpUri>,
    out: &mut Findings,
) -> Option<HttpTarget> {
    use core::http_uri::HttpUpstreamType as Kind;
    let Some(given) = given else {
        out.bad(path, "", "is required");
        return None;
    };
    let Some(Kind::Cluster(cluster)) = &given.http_upstream_type else {
        out.bad(&path.name("cluster"), "", "is required");
        return None;
    };
    let cluster = not_empty(&path.name("cluster"), cluster, out);
    let at = path.name("uri");
    // A host alone is a URI too, as Envoy reads them.
    let uri: Option<Uri> = match given.uri.contains("://") {
        true => given.uri.parse().ok(),
        false => format!("http://{}", given.uri).parse().ok(),
    };
    let Some((uri, authority)) = uri.and_then(|uri| Some((uri.clone(), uri.authority()?.to_string()))) else {
        out.bad(&at, &given.uri, "is no URI with a host (nearest valid: http://host/path)");
        return None;
    };
    let target = uri.path_and_query().map_or("/", |path| path.as_str());
    Some(HttpTarget {
        cluster,
        authority,
        path: target.to_owned(),
        timeout: timeout(&path.name("timeout"), given.timeout.as_ref(), None, out),
    })
}

/// How often more, and the shortest and longest pause before that. What failed or was answered with 5xx is
/// tried again, which is what Envoy does where `retry_on` is empty.
pub(super) fn retries(
    path: &Path<'_>,
    given: Option<&core::RetryPolicy>,
    out: &mut Findings,
) -> (u32, Duration, Duration) {
    let Some(given) = given else { return (0, PAUSE, PAUSE) };
    for (field, set) in [
        ("retry_on", !given.retry_on.is_empty()),
        ("retry_priority", given.retry_priority.is_some()),
        ("retry_host_predicate", !given.retry_host_predicate.is_empty()),
        ("host_selection_retry_max_attempts", given.host_selection_retry_max_attempts != 0),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported here (leave it out)");
        }
    }
    let (base, most) = match &given.retry_back_off {
        None => (PAUSE, PAUSE * 10),
        Some(pauses) => {
            let at = path.name("retry_back_off");
            let base = positive(&at.name("base_interval"), pauses.base_interval.as_ref(), PAUSE, out);
            let most = pauses.max_interval.as_ref();
            let most = most.map_or(base * 10, |most| duration(&at.name("max_interval"), most, out));
            if most < base {
                out.bad(&at.name("max_interval"), format!("{most:?}"), "must not be below base_interval");
            }
            (base, most)
        }
    };
    (given.num_retries.unwrap_or(1), base, most)
}
