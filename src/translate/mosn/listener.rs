//! Listeners and their chains.

use super::access_log;
use super::filter::{self, ChainInfo};
use super::read::{Context, Object, brief};
use super::route::Routers;
use super::stream_filter;
use crate::model::{Address, ChainMatch, Direction, FilterChain, Inspectors, Listener, NetworkFilter};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const NOT_YET_TLS: &str = "TLS comes later; a listener that says so must not serve plain text";

/// `servers[0].listeners`, with the routers of the server and of their own filters.
pub(super) fn listeners(ctx: &mut Context<'_>, server: &mut Object<'_>) -> Vec<Listener> {
    let mut routers = Routers::default();
    for router in server.objects(ctx, "routers") {
        routers.add(ctx, router);
    }
    let listeners = server.objects(ctx, "listeners");
    // `connection_manager` of any listener names a table for all: read before the first proxy asks.
    let mut read: Vec<(Object<'_>, Vec<Object<'_>>)> = Vec::new();
    for mut listener in listeners {
        let chains = listener.objects(ctx, "filter_chains");
        if chains.len() != 1 {
            let path = listener.at("filter_chains");
            ctx.error(&path, chains.len(), "expected exactly one filter chain");
        }
        read.push((listener, chains));
    }
    let mut prepared = Vec::new();
    for (listener, chains) in read {
        let filters = chains.into_iter().take(1).map(|chain| chain_filters(ctx, chain, &mut routers)).next();
        prepared.push((listener, filters.unwrap_or_default()));
    }
    let mut names = BTreeSet::new();
    let mut out = Vec::new();
    for (listener, filters) in prepared {
        let path = listener.at("name");
        let Some(made) = one(ctx, listener, filters, &routers) else { continue };
        if names.insert(made.name.clone()) {
            out.push(made);
        } else {
            ctx.error(&path, &made.name, "another listener has this name");
        }
    }
    out
}

/// Reads a chain down to its filters; `connection_manager` filters go to `routers`.
fn chain_filters<'a>(
    ctx: &mut Context<'_>,
    mut chain: Object<'a>,
    routers: &mut Routers,
) -> Vec<(String, Object<'a>)> {
    if let Some(tls) = chain.object(ctx, "tls_context") {
        refuse_tls(ctx, tls);
    }
    for tls in chain.objects(ctx, "tls_context_set") {
        refuse_tls(ctx, tls);
    }
    chain.no_effect(ctx, "match", "MOSN does not use it either");
    let mut filters = Vec::new();
    for mut filter in chain.objects(ctx, "filters") {
        let kind = filter.text(ctx, "type").unwrap_or_default().to_owned();
        filter.no_effect(ctx, "go_plugin_config", "Go plugins are not supported");
        let config = filter.object(ctx, "config");
        filter.skip(ctx, &["name"]);
        match config {
            Some(config) if kind == "connection_manager" => routers.add(ctx, config),
            Some(config) => filters.push((kind, config)),
            None => ctx.error(&filter.at("config"), "", "expected an object"),
        }
        filter.finish(ctx);
    }
    chain.finish(ctx);
    filters
}

/// A `tls_context` that is switched on.
pub(super) fn refuse_tls(ctx: &mut Context<'_>, mut tls: Object<'_>) {
    if tls.flag(ctx, "status") == Some(true) {
        ctx.error(&tls.at("status"), true, NOT_YET_TLS);
    }
}

fn one(
    ctx: &mut Context<'_>,
    mut listener: Object<'_>,
    filters: Vec<(String, Object<'_>)>,
    routers: &Routers,
) -> Option<Listener> {
    let network = listener.text(ctx, "network").unwrap_or("tcp").to_ascii_lowercase();
    let text = listener.text(ctx, "address").unwrap_or_default();
    let address = address(ctx, &listener.at("address"), text, &network);
    let name = listener.text(ctx, "name").filter(|name| !name.is_empty()).unwrap_or(text).to_owned();
    let direction = match listener.text(ctx, "type") {
        Some("ingress") => Direction::Inbound,
        Some("egress") => Direction::Outbound,
        _ => Direction::Unspecified,
    };
    let bind_to_port = listener.flag(ctx, "bind_port").unwrap_or(false);
    let idle = listener.duration(ctx, "connection_idle_timeout").unwrap_or(Duration::from_secs(90));
    let buffer = listener.number(ctx, "per_conn_buffer_limit_bytes").filter(|limit| *limit > 0);
    original_destination(ctx, &mut listener);
    let (filters_of_streams, amplification) = stream_filter::stream_filters(ctx, &mut listener);
    if listener.flag(ctx, "inspector") == Some(true) {
        ctx.warn(&listener.at("inspector"), true, "has a meaning with TLS only, which comes later");
    }
    let logs = access_log::logs(ctx, &mut listener, &name);
    listener.no_effect(ctx, "log_path", "MOSN has dropped it as well: use servers[0].default_log_path");
    listener.no_effect(ctx, "log_level", "MOSN has dropped it as well: use servers[0].default_log_level");
    listener.skip(ctx, &["reuseport", "default_read_buffer_size"]);
    let info = ChainInfo {
        listener: &name,
        idle_timeout: (!idle.is_zero()).then_some(idle),
        logs,
        filters: filters_of_streams,
        amplification,
    };
    let filter = terminal(ctx, &listener.at("filter_chains[0].filters"), filters, &info, routers);
    listener.finish(ctx);
    let chain = FilterChain {
        name: String::new(),
        matcher: ChainMatch::default(),
        tls: None,
        guards: Vec::new(),
        mesh: None,
        filter: filter?,
    };
    Some(Listener {
        name,
        addresses: vec![address?],
        bind_to_port,
        direction,
        stat_prefix: String::new(),
        filter_chains: vec![chain],
        default_filter_chain: None,
        transparent: false,
        freebind: false,
        buffer_limit: buffer.map_or(1 << 20, |limit| (limit as usize).max(super::cluster::MIN_BUFFER)),
        backlog: 1024,
        use_original_dst: false,
        internal: false,
        unlimited: false,
        exact_balance: false,
        access_log: Default::default(),
        inspectors: Inspectors::default(),
    })
}

/// The one filter that serves; further ones could only take over from a proxy that gives up.
fn terminal(
    ctx: &mut Context<'_>,
    path: &str,
    filters: Vec<(String, Object<'_>)>,
    info: &ChainInfo<'_>,
    routers: &Routers,
) -> Option<NetworkFilter> {
    let mut served: Option<Option<NetworkFilter>> = None;
    for (kind, config) in filters {
        let at = config.path.clone();
        let made = match kind.as_str() {
            "proxy" => filter::proxy(ctx, config, info, routers),
            "tcp_proxy" => filter::tcp_proxy(ctx, config, info),
            "udp_proxy" | "tunnel" | "grpc" => {
                ctx.error(&at, &kind, "this network filter comes later");
                None
            }
            _ => {
                ctx.error(&at, &kind, "unknown network filter; expected proxy or tcp_proxy");
                None
            }
        };
        match served {
            None => served = Some(made),
            Some(_) => ctx.warn(&at, &kind, "ignored: the filter before it serves every connection"),
        }
    }
    served.unwrap_or_else(|| {
        ctx.error(path, "", "expected a proxy or tcp_proxy filter: without one every connection is closed");
        None
    })
}

fn address(ctx: &mut Context<'_>, path: &str, text: &str, network: &str) -> Option<Address> {
    match network {
        "unix" if !text.is_empty() => return Some(Address::Unix(text.into())),
        "tcp" | "unix" => {}
        "udp" => {
            ctx.error(path, network, "UDP listeners come later");
            return None;
        }
        other => {
            ctx.error(path, other, "unknown network; expected tcp or unix");
            return None;
        }
    }
    let parsed = match text.rsplit_once(':') {
        Some(("", port)) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        Some(("localhost", port)) => {
            port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        }
        _ => text.parse().ok(),
    };
    if parsed.is_none() {
        ctx.error(path, format!("{text:?}"), "expected ip:port or :port");
    }
    parsed.map(Address::Ip)
}

fn original_destination(ctx: &mut Context<'_>, listener: &mut Object<'_>) {
    const LATER: &str = "transparent capture comes later";
    for key in ["use_original_dst", "handoff_restoreddestination"] {
        match listener.value(ctx, key) {
            None | Some(Value::Bool(false)) => {}
            Some(Value::String(text)) if text.is_empty() => {}
            Some(other) => ctx.error(&listener.at(key), brief(other), LATER),
        }
    }
    for mut filter in listener.objects(ctx, "listener_filters") {
        match filter.text(ctx, "type") {
            Some("original_dst") => ctx.error(&filter.at("type"), "original_dst", LATER),
            other => {
                ctx.warn(&filter.at("type"), other.unwrap_or_default(), "unknown listener filter, skipped")
            }
        }
    }
}
