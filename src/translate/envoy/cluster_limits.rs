//! Circuit breakers, and the sockets towards hosts.

use std::net::IpAddr;

use super::values::{enumeration, percent, port};
use crate::model::{BindConfig, Cluster, RetryBudget, SocketOption, SocketState, Thresholds};
use crate::proto::envoy::config::cluster::v3 as pb;
use crate::proto::envoy::config::core::v3::{self as core, RoutingPriority};
use crate::translate::finding::{Findings, Path};

/// Applies both.
pub(super) fn apply(message: &pb::Cluster, model: &mut Cluster, out: &mut Findings) {
    let root = Path::ROOT;
    if let Some(breakers) = &message.circuit_breakers {
        let path = root.name("circuit_breakers");
        if !breakers.per_host_thresholds.is_empty() {
            out.bad(&path.name("per_host_thresholds"), "", "not supported (nearest valid: thresholds)");
        }
        let at = path.name("thresholds");
        for (i, limits) in breakers.thresholds.iter().enumerate() {
            let at = at.index(i);
            let read = thresholds(&at, limits, out);
            match enumeration(&at.name("priority"), limits.priority, out) {
                Some(RoutingPriority::Default) => model.breakers.default = read,
                Some(RoutingPriority::High) => model.breakers.high = read,
                None => {}
            }
        }
    }
    if let Some(config) = &message.upstream_bind_config {
        let read = bind(&root.name("upstream_bind_config"), config, out);
        model.bind = (read != BindConfig::default()).then(|| read.into());
    }
}

fn thresholds(path: &Path<'_>, limits: &pb::circuit_breakers::Thresholds, out: &mut Findings) -> Thresholds {
    let default = Thresholds::default();
    let retry_budget = limits.retry_budget.as_ref().map(|budget| {
        let share = budget.budget_percent.as_ref().map_or(20.0, |percent| percent.value);
        percent(&path.name("retry_budget").name("budget_percent"), share, out);
        RetryBudget {
            // Between 0 and 10,000: the cast keeps hundredths.
            budget_permyriad: (share.clamp(0.0, 100.0) * 100.0) as u32,
            min_concurrency: budget.min_retry_concurrency.unwrap_or(3),
        }
    });
    Thresholds {
        max_connections: limits.max_connections.unwrap_or(default.max_connections),
        max_pending_requests: limits.max_pending_requests.unwrap_or(default.max_pending_requests),
        max_requests: limits.max_requests.unwrap_or(default.max_requests),
        max_retries: limits.max_retries.unwrap_or(default.max_retries),
        retry_budget,
        track_remaining: limits.track_remaining,
    }
}

fn bind(path: &Path<'_>, config: &core::BindConfig, out: &mut Findings) -> BindConfig {
    let mut model = BindConfig { freebind: config.freebind.unwrap_or(false), ..BindConfig::default() };
    let mut add = |path: &Path<'_>, address: Option<&core::SocketAddress>, out: &mut Findings| {
        let Some(address) = address else { return };
        source(path, address, &mut model.source, out);
    };
    add(&path.name("source_address"), config.source_address.as_ref(), out);
    let at = path.name("extra_source_addresses");
    for (i, extra) in config.extra_source_addresses.iter().enumerate() {
        let at = at.index(i);
        add(&at.name("address"), extra.address.as_ref(), out);
        if extra.socket_options.is_some() {
            out.bad(
                &at.name("socket_options"),
                "",
                "not supported here (nearest valid: those of the bind config)",
            );
        }
    }
    let at = path.name("socket_options");
    for (i, option) in config.socket_options.iter().enumerate() {
        let at = at.index(i);
        let Some(read) = socket_option(&at, option, out) else { continue };
        model.options.push(read);
    }
    model
}

fn source(
    path: &Path<'_>,
    address: &core::SocketAddress,
    sources: &mut Vec<(IpAddr, u16)>,
    out: &mut Findings,
) {
    use core::socket_address::PortSpecifier;
    let number = match &address.port_specifier {
        None => 0,
        Some(PortSpecifier::PortValue(value)) => port(&path.name("port_value"), *value, out),
        Some(PortSpecifier::NamedPort(name)) => {
            out.bad(&path.name("named_port"), name, "not supported (use port_value)");
            return;
        }
    };
    match address.address.parse::<IpAddr>() {
        // The unspecified address leaves the choice to the system, as no address does.
        Ok(ip) if ip.is_unspecified() && number == 0 => {}
        Ok(ip) => sources.push((ip, number)),
        Err(_) => out.bad(&path.name("address"), &address.address, "must be an IP address"),
    }
}

fn socket_option(path: &Path<'_>, option: &core::SocketOption, out: &mut Findings) -> Option<SocketOption> {
    use core::socket_option::{SocketState as State, Value};
    if option.r#type.as_ref().is_some_and(|kind| kind.stream.is_none() && kind.datagram.is_some()) {
        // For other sockets than these.
        return None;
    }
    let state = match enumeration(&path.name("state"), option.state, out)? {
        State::StatePrebind => SocketState::Prebind,
        State::StateBound => SocketState::Bound,
        State::StateListening => SocketState::Listening,
    };
    let value = match &option.value {
        Some(Value::IntValue(value)) => *value,
        Some(Value::BufValue(bytes)) => match bytes.as_slice().try_into() {
            Ok(bytes) => i64::from(i32::from_ne_bytes(bytes)),
            Err(_) => {
                let why = "only values of four bytes are supported (nearest valid: int_value)";
                out.bad(&path.name("buf_value"), format_args!("{} bytes", bytes.len()), why);
                return None;
            }
        },
        None => {
            out.bad(path, "", "no value (nearest valid: int_value)");
            return None;
        }
    };
    let option = SocketOption { level: option.level, name: option.name, value, state };
    if option.word().is_none() {
        let why = "this socket option is not supported (nearest valid: SO_MARK, SO_KEEPALIVE, SO_SNDBUF, SO_RCVBUF, \
                   SO_REUSEADDR, IP_TOS, IP_FREEBIND, TCP_NODELAY, TCP_KEEP…, TCP_USER_TIMEOUT)";
        out.bad(&path.name("name"), format_args!("level {} name {}", option.level, option.name), why);
        return None;
    }
    Some(option)
}
