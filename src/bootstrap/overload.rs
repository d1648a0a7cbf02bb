//! The one resource monitor that is obeyed: how many connections with clients may be open.

use super::Finding;
use crate::proto::envoy::config::bootstrap::v3::Bootstrap;
use crate::proto::envoy::config::overload::v3::resource_monitor::ConfigType;
use crate::proto::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use crate::proto::message_name;
use prost::{Message, Name};

/// From here on a limit is none: Istio's default for "any number".
const UNLIMITED: i64 = i32::MAX as i64;

/// The limit, if there is one; other monitors are told to have no effect.
pub(super) fn read(message: &Bootstrap, findings: &mut Vec<Finding>) -> Option<u32> {
    let mut limit = None;
    let monitors = message.overload_manager.iter().flat_map(|manager| &manager.resource_monitors);
    for (i, monitor) in monitors.enumerate() {
        let at = format!("overload_manager.resource_monitors[{i}]");
        let Some(ConfigType::TypedConfig(any)) = &monitor.config_type else { continue };
        if message_name(&any.type_url) != DownstreamConnectionsConfig::full_name() {
            findings.push(Finding::warning(at, &monitor.name, "this resource monitor has no effect"));
            continue;
        }
        let most = match DownstreamConnectionsConfig::decode(any.value.as_slice()) {
            Ok(config) => config.max_active_downstream_connections,
            Err(error) => {
                findings.push(Finding::error(at, &monitor.name, error.to_string()));
                continue;
            }
        };
        let at = format!("{at}.typed_config.max_active_downstream_connections");
        match u32::try_from(most) {
            Ok(most) if most > 0 => limit = (i64::from(most) < UNLIMITED).then_some(most),
            _ if most >= UNLIMITED => limit = None,
            _ => findings.push(Finding::error(at, most, "expected more than zero")),
        }
    }
    limit
}
