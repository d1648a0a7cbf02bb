//! `proxy` and `tcp_proxy`.

use super::read::{Context, Object, brief};
use super::route::{self, Routers};
use crate::model::{
    AccessLogs, Criteria, HttpFilter, NetworkFilter, Protocol, RouteConfig, RouteSource, RpcProxy, TcpProxy,
    WeightedCluster,
};
use std::sync::Arc;
use std::time::Duration;

/// What a filter takes from its listener.
pub(super) struct ChainInfo<'a> {
    pub listener: &'a str,
    pub idle_timeout: Option<Duration>,
    pub logs: Arc<AccessLogs>,
    /// Its stream filters.
    pub filters: Vec<HttpFilter>,
    /// How many copies of a request its mirrors get.
    pub amplification: usize,
}

pub(super) fn proxy(
    ctx: &mut Context<'_>,
    mut config: Object<'_>,
    info: &ChainInfo<'_>,
    routers: &Routers,
) -> Option<NetworkFilter> {
    let mut extend = config.object(ctx, "extend_config");
    let sub = extend.as_mut().and_then(|extend| extend.text(ctx, "sub_protocol"));
    let bolt = extend.map_or_else(Bolt::default, |extend| bolt(ctx, extend));
    let downstream = match config.text(ctx, "downstream_protocol") {
        Some(text) => protocol(ctx, &config.at("downstream_protocol"), text, sub),
        None => {
            ctx.error(&config.at("downstream_protocol"), "", "missing; expected bolt, Http2 or Auto");
            None
        }
    };
    let upstream = config.text(ctx, "upstream_protocol").filter(|text| !text.is_empty());
    let upstream_path = config.at("upstream_protocol");
    let upstream = match upstream {
        None => Some(None),
        Some(text) => match protocol(ctx, &upstream_path, text, sub) {
            Some(Protocol::Auto) if downstream != Some(Protocol::Auto) => {
                ctx.error(&upstream_path, text, "expected one protocol");
                None
            }
            // The same on both sides, or whatever came in.
            Some(Protocol::Auto) => Some(None),
            Some(protocol) => Some((downstream != Some(protocol)).then_some(protocol)),
            None => None,
        },
    };
    let routes = routes(ctx, &mut config, info, routers);
    if config.flag(ctx, "fallback_for_unknown_protocol") == Some(true) {
        let path = config.at("fallback_for_unknown_protocol");
        ctx.error(&path, true, "falling back to another filter comes later");
    }
    match config.text(ctx, "router_handler_name") {
        None | Some("" | "default") => {}
        Some(other) => {
            ctx.warn(&config.at("router_handler_name"), other, "unknown handler, the default one is used");
        }
    }
    config.skip(
        ctx,
        &[
            "name",
            "validate_clusters",
            "concurrency_num",
            "support_dynamic_route",
            "basic_routes",
            "stat_prefix",
        ],
    );
    config.finish(ctx);
    Some(NetworkFilter::Rpc(RpcProxy {
        stat_prefix: info.listener.to_owned(),
        downstream: downstream?,
        upstream: upstream?,
        routes: RouteSource::Inline(route::with_mirrors(routes?, info.amplification)),
        idle_timeout: info.idle_timeout,
        drain_goaway: bolt.goaway,
        max_frame: bolt.max_frame.unwrap_or(RpcProxy::MAX_FRAME),
        access_log: info.logs.clone(),
        filters: info.filters.clone(),
        application_errors: bolt.application_errors,
    }))
}

fn routes(
    ctx: &mut Context<'_>,
    config: &mut Object<'_>,
    info: &ChainInfo<'_>,
    routers: &Routers,
) -> Option<Arc<RouteConfig>> {
    let inline = config.value(ctx, "virtual_hosts").is_some();
    match config.text(ctx, "router_config_name").filter(|name| !name.is_empty()) {
        Some(name) => {
            if inline {
                let path = config.at("virtual_hosts");
                ctx.warn(&path, "", "ignored: router_config_name is given as well");
            }
            let found = routers.get(name);
            if found.is_none() {
                let known = routers.names();
                let known = if known.is_empty() { "none".to_owned() } else { known };
                let message = format!("no router configuration has this name (known: {known})");
                ctx.error(&config.at("router_config_name"), name, message);
            }
            found
        }
        None if inline => Some(Arc::new(route::table(ctx, config, info.listener.to_owned()))),
        None => {
            let message = "missing, and no virtual_hosts either: every request would meet no route";
            ctx.error(&config.at("router_config_name"), "", message);
            None
        }
    }
}

/// What `extend_config` says about bolt.
#[derive(Default)]
struct Bolt {
    goaway: bool,
    application_errors: bool,
    max_frame: Option<usize>,
}

impl Bolt {
    fn read(&mut self, ctx: &mut Context<'_>, from: &mut Object<'_>) {
        self.goaway |= from.flag(ctx, "enable_bolt_goaway").unwrap_or(false);
        self.application_errors |= from.flag(ctx, "application_errors").unwrap_or(false);
        let Some(bytes) = from.number(ctx, "max_frame_bytes") else { return };
        let (least, most) = RpcProxy::MAX_FRAME_RANGE;
        if !(least..=most).contains(&bytes) {
            ctx.error(&from.at("max_frame_bytes"), bytes, format!("expected {least} to {most}"));
        }
        self.max_frame = Some(bytes as usize);
    }
}

/// `extend_config`: flat, or under the protocol's name.
fn bolt(ctx: &mut Context<'_>, mut extend: Object<'_>) -> Bolt {
    let mut read = Bolt::default();
    read.read(ctx, &mut extend);
    if let Some(mut bolt) = extend.object(ctx, "bolt") {
        read.read(ctx, &mut bolt);
        bolt.finish(ctx);
    }
    if let Some(mut http2) = extend.object(ctx, "Http2") {
        http2.skip(ctx, &["http2_use_stream"]);
        http2.finish(ctx);
    }
    extend.skip(ctx, &["sub_protocol", "http2_use_stream", "Http1"]);
    extend.finish(ctx);
    read
}

/// A protocol by today's name or that of 2018; a list of known ones is `Auto`.
pub(super) fn protocol(ctx: &mut Context<'_>, path: &str, text: &str, sub: Option<&str>) -> Option<Protocol> {
    let names = if text.eq_ignore_ascii_case("x") { sub.unwrap_or(text) } else { text };
    let mut found: Option<Protocol> = None;
    for name in names.split(',') {
        let protocol = match name.trim().to_ascii_lowercase().as_str() {
            "bolt" | "sofarpc" => Protocol::Bolt,
            "http2" => Protocol::Http2,
            "auto" => Protocol::Auto,
            "http1" | "boltv2" | "dubbo" | "dubbo-thrift" | "tars" => {
                ctx.error(
                    path,
                    format!("{text:?}"),
                    format!("{} comes later; bolt, Http2 and Auto work", name.trim()),
                );
                return None;
            }
            _ => {
                ctx.error(
                    path,
                    format!("{text:?}"),
                    "unknown protocol; expected bolt (SofaRpc), Http2 or Auto",
                );
                return None;
            }
        };
        found = Some(match found {
            Some(held) if held != protocol => Protocol::Auto,
            _ => protocol,
        });
    }
    found
}

pub(super) fn tcp_proxy(
    ctx: &mut Context<'_>,
    mut config: Object<'_>,
    info: &ChainInfo<'_>,
) -> Option<NetworkFilter> {
    let cluster = match config.text(ctx, "cluster").filter(|name| !name.is_empty()) {
        Some(name) => Some(name.to_owned()),
        None => sole_route(ctx, &mut config),
    };
    config.skip(ctx, &["stat_prefix", "max_connect_attempts", "idle_timeout", "routes"]);
    config.finish(ctx);
    let share = WeightedCluster { name: cluster?, weight: 1, ..WeightedCluster::default() };
    Some(NetworkFilter::Tcp(TcpProxy {
        stat_prefix: info.listener.to_owned(),
        clusters: vec![share],
        idle_timeout: info.idle_timeout,
        // MOSN tries up to three hosts whatever is written.
        max_connect_attempts: 3,
        max_connection_duration: None,
        hash_source_ip: true,
        criteria: Criteria::new(),
        // As in MOSN, calls only.
        access_log: Arc::default(),
    }))
}

/// One route whose four conditions take every connection names the cluster as well as `cluster` does.
fn sole_route(ctx: &mut Context<'_>, config: &mut Object<'_>) -> Option<String> {
    let path = config.at("routes");
    let mut routes = config.objects(ctx, "routes");
    let (Some(mut route), true) = (routes.pop(), routes.is_empty()) else {
        ctx.error(&config.at("cluster"), "", "missing; several routes by address come later");
        return None;
    };
    let mut open = true;
    for key in ["SourceAddrs", "DestinationAddrs"] {
        let mut ranges = route.objects(ctx, key);
        open &= ranges.iter_mut().any(|range| range.number(ctx, "Length") == Some(0));
    }
    for key in ["SourcePort", "DestinationPort"] {
        let ports = route.text(ctx, key).unwrap_or_default();
        open &= ports.split(',').any(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let bound = |text: &str| text.trim().parse::<u32>().ok();
            bound(from).is_some_and(|from| from <= 1) && bound(to).is_some_and(|to| to >= 65535)
        });
    }
    let Some(cluster) = route.text(ctx, "Cluster").filter(|name| !name.is_empty()) else {
        ctx.error(&route.at("cluster"), "", "missing");
        return None;
    };
    if !open {
        ctx.error(&path, cluster, "routes by address come later: give `cluster` beside `routes`");
        return None;
    }
    route.finish(ctx);
    Some(cluster.to_owned())
}

/// Whether route-level `upstream_protocol` says the same as its listener can.
pub(super) fn refuse_route_protocol(ctx: &mut Context<'_>, route: &mut Object<'_>) {
    if let Some(value) = route.value(ctx, "upstream_protocol").filter(|value| value.as_str() != Some("")) {
        let message = "set upstream_protocol on the proxy filter: a route cannot change it";
        ctx.error(&route.at("upstream_protocol"), brief(value), message);
    }
}
