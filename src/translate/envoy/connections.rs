//! Filters of connections before the last one: what limits them, and where it sends them.

use super::extension::Extension;
use super::http_filters::{bucket, network_authz, network_rbac, network_state};
use super::values::{duration, not_empty};
use crate::model::{Compiled, ConnectionLimit, ConnectionRate, Guard, Switch};
use crate::proto::envoy::config::core::v3::RuntimeFeatureFlag;
use crate::proto::envoy::extensions::filters::network as pb;
use crate::translate::finding::{Findings, Path};
use std::sync::Arc;

/// `None`: none of these; `Some(None)`: one whose configuration is bad, which was said.
pub(super) fn guard(path: &Path<'_>, extension: &Extension<'_>, out: &mut Findings) -> Option<Option<Guard>> {
    /// Decodes the configuration if it is a `$kind`, and gives it to `$read`.
    macro_rules! filters {
        ($($kind:ty => $read:expr;)*) => {
            $(if extension.is::<$kind>() {
                let config = extension.decode::<$kind>(path, out);
                return Some(config.and_then(|config: $kind| $read(path, &config, out)));
            })*
        };
    }
    filters! {
        pb::rbac::v3::Rbac => |path: &Path<'_>, config: &_, out: &mut Findings| {
            network_rbac(path, config, out).map(Guard::Rbac)
        };
        pb::ext_authz::v3::ExtAuthz => |path: &Path<'_>, config: &_, out: &mut Findings| {
            network_authz(path, config, out).map(|guard| Guard::Authz(Box::new(guard)))
        };
        pb::connection_limit::v3::ConnectionLimit => limit;
        pb::local_ratelimit::v3::LocalRateLimit => rate;
        pb::sni_cluster::v3::SniCluster => |_: &Path<'_>, _: &_, _: &mut Findings| Some(Guard::SniCluster);
        pb::set_filter_state::v3::Config => |path: &Path<'_>, config: &_, out: &mut Findings| {
            Some(Guard::State(Arc::new(network_state(path, config, out))))
        };
    }
    None
}

fn limit(
    path: &Path<'_>,
    config: &pb::connection_limit::v3::ConnectionLimit,
    out: &mut Findings,
) -> Option<Guard> {
    let at = path.name("max_connections");
    let Some(max) = config.max_connections else {
        out.bad(&at, "", "is required");
        return None;
    };
    if max == 0 {
        out.bad(&at, max, "must be at least 1 (nearest valid 1)");
    }
    let delay = config.delay.as_ref();
    Some(Guard::Limit(Arc::new(ConnectionLimit {
        stat_prefix: not_empty(&path.name("stat_prefix"), &config.stat_prefix, out),
        max,
        delay: delay.map(|delay| duration(&path.name("delay"), delay, out)).unwrap_or_default(),
        enabled: switch(path, config.runtime_enabled.as_ref(), out),
        compiled: Compiled::default(),
    })))
}

fn rate(
    path: &Path<'_>,
    config: &pb::local_ratelimit::v3::LocalRateLimit,
    out: &mut Findings,
) -> Option<Guard> {
    let at = path.name("token_bucket");
    let Some(given) = &config.token_bucket else {
        out.bad(&at, "", "is required");
        return None;
    };
    if !config.share_key.is_empty() {
        let why = "not supported: each filter has a bucket of its own (leave it out)";
        out.bad(&path.name("share_key"), &config.share_key, why);
    }
    Some(Guard::Rate(Arc::new(ConnectionRate {
        stat_prefix: not_empty(&path.name("stat_prefix"), &config.stat_prefix, out),
        bucket: bucket(&at, given, out)?,
        enabled: switch(path, config.runtime_enabled.as_ref(), out),
        compiled: Compiled::default(),
    })))
}

/// `runtime_enabled`; on if absent.
fn switch(path: &Path<'_>, given: Option<&RuntimeFeatureFlag>, out: &mut Findings) -> Switch {
    let Some(given) = given else { return true.into() };
    let at = path.name("runtime_enabled");
    if given.default_value.is_none() {
        out.bad(&at.name("default_value"), "", "is required");
    }
    let key = not_empty(&at.name("runtime_key"), &given.runtime_key, out);
    Switch { on: given.default_value.unwrap_or(true), runtime_key: key }
}
