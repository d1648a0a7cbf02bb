//! `cluster_manager`.

use super::check;
use super::listener::refuse_tls;
use super::read::{Context, Object};
use crate::model::{
    Address, BindConfig, Breakers, Cluster, Discovery, DnsFamily, DnsPace, Endpoint, Endpoints, Fallback,
    LbPolicy, Locality, OriginalDst, Selector, SlowStart, Subsets, Thresholds, UpstreamProtocol,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// MOSN's connection buffers (16 and 32 KiB) suit its copies; batched writes need room for one batch.
pub(super) const MIN_BUFFER: usize = 64 << 10;
const UNLIMITED: Thresholds = Thresholds {
    max_connections: u32::MAX,
    max_pending_requests: u32::MAX,
    max_requests: u32::MAX,
    max_retries: u32::MAX,
    retry_budget: None,
    track_remaining: false,
};

/// Reads every cluster, inline or from the folder `clusters_configs`. Of two with one name the later wins.
pub(super) fn manager(ctx: &mut Context<'_>, mut manager: Object<'_>) -> Vec<Cluster> {
    let mut clusters: Vec<Cluster> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut add = |ctx: &mut Context<'_>, path: &str, cluster: Cluster| match places.get(&cluster.name) {
        Some(place) => {
            ctx.warn(path, &cluster.name, "given twice: the last one is used");
            if let Some(held) = clusters.get_mut(*place) {
                *held = cluster;
            }
        }
        None => {
            places.insert(cluster.name.clone(), clusters.len());
            clusters.push(cluster);
        }
    };
    let inline = manager.objects(ctx, "clusters");
    let any_inline = !inline.is_empty();
    for of in inline {
        let path = of.at("name");
        if let Some(made) = one(ctx, of) {
            add(ctx, &path, made);
        }
    }
    if let Some(folder) = manager.text(ctx, "clusters_configs").filter(|folder| !folder.is_empty()) {
        let path = manager.at("clusters_configs");
        if any_inline {
            ctx.error(&path, folder, "give either clusters or clusters_configs");
        }
        for (file, document) in ctx.split(folder, &path) {
            ctx.file = file;
            let made = Object::of(ctx, &document, String::new()).and_then(|of| one(ctx, of));
            if let Some(made) = made {
                add(ctx, "name", made);
            }
            ctx.file.clear();
        }
    }
    if let Some(tls) = manager.object(ctx, "tls_context") {
        refuse_tls(ctx, tls);
    }
    manager.skip(ctx, &["cluster_pool_enable", "auto_discovery", "registry_use_health_check"]);
    manager.finish(ctx);
    clusters
}

fn one(ctx: &mut Context<'_>, mut of: Object<'_>) -> Option<Cluster> {
    let name = of.text(ctx, "name").unwrap_or_default().to_owned();
    let (lb, weights) = load_balancing(ctx, &mut of);
    let endpoints = hosts(ctx, &mut of, &name, weights);
    let discovery = match original_dst(ctx, &mut of) {
        Some(settings) => Discovery::OriginalDst(settings),
        None => discovery(ctx, &mut of, endpoints),
    };
    let mut cluster = Cluster::new(name, discovery);
    cluster.lb = lb;
    cluster.slow_start = slow_start(ctx, &mut of).map(Box::new);
    cluster.subsets = subsets(ctx, &mut of).map(Arc::new);
    cluster.protocol = UpstreamProtocol::Http2;
    cluster.panic_threshold = 0;
    cluster.connect_timeout =
        of.duration(ctx, "connect_timeout").filter(|t| !t.is_zero()).unwrap_or(Duration::from_secs(10));
    cluster.idle_timeout = of.duration(ctx, "idle_timeout").filter(|timeout| !timeout.is_zero());
    if let Some(limit) = of.number(ctx, "conn_buffer_limit_bytes").filter(|limit| *limit > 0) {
        cluster.buffer_limit = (limit as usize).max(MIN_BUFFER);
    }
    if let Some(mut keepalive) = of.object(ctx, "keepalive") {
        let interval = keepalive.duration(ctx, "interval").filter(|interval| !interval.is_zero());
        let timeout = keepalive.duration(ctx, "timeout").filter(|timeout| !timeout.is_zero());
        if let Some(interval) = interval {
            cluster.heartbeat = Some((interval, timeout.unwrap_or(Duration::from_secs(1))));
        }
        keepalive.finish(ctx);
    }
    cluster.breakers = breakers(ctx, &mut of);
    let mark = of.number(ctx, "mark").filter(|mark| *mark != 0);
    cluster.bind = mark.map(|mark| Arc::new(BindConfig { mark: Some(mark), ..BindConfig::default() }));
    cluster.health_checks = check::health_check(ctx, &mut of).map(Arc::new).into_iter().collect();
    refused(ctx, &mut of);
    of.skip(ctx, &["sub_type", "spec", "max_request_per_conn", "cluster_pool_enable"]);
    let empty = cluster.name.is_empty().then(|| of.at("name"));
    of.finish(ctx);
    if let Some(path) = empty {
        ctx.error(&path, "", "missing");
        return None;
    }
    Some(cluster)
}

/// What is not built: errors where traffic would be open or go elsewhere, warnings for the rest.
fn refused(ctx: &mut Context<'_>, of: &mut Object<'_>) {
    if let Some(tls) = of.object(ctx, "tls_context") {
        refuse_tls(ctx, tls);
    }
    of.skip(ctx, &["cluster_manager_tls"]);
    of.no_effect(ctx, "dns_resolvers", "the system's resolver is used");
    of.no_effect(ctx, "dns_resolver_file", "the system's resolver is used");
    of.no_effect(ctx, "dns_resolver_port", "the system's resolver is used");
}

/// The policy, and whether host weights count in it.
fn load_balancing(ctx: &mut Context<'_>, of: &mut Object<'_>) -> (LbPolicy, bool) {
    let (mut choices, mut bias) = (None, None);
    if let Some(mut config) = of.object(ctx, "lbconfig") {
        choices = config.number(ctx, "choice_count").filter(|n| *n >= 2);
        bias = config.float(ctx, "active_request_bias").filter(|bias| *bias >= 0.0);
        config.skip(ctx, &["client_error_bias", "server_error_bias"]);
        config.finish(ctx);
    }
    let least =
        LbPolicy::LeastRequest { choices: choices.unwrap_or(2), bias: bias.unwrap_or(1.0), full_scan: false };
    let Some(text) = of.text(ctx, "lb_type").filter(|text| !text.is_empty()) else {
        return (LbPolicy::RoundRobin, false);
    };
    let path = of.at("lb_type");
    match text {
        "LB_RANDOM" => (LbPolicy::Random, false),
        "LB_ROUNDROBIN" => (LbPolicy::RoundRobin, false),
        "LB_WEIGHTED_ROUNDROBIN" => (LbPolicy::RoundRobin, true),
        "LB_LEAST_REQUEST" => (least, true),
        "LB_MAGLEV" => (LbPolicy::Maglev { table_size: 65_537 }, false),
        "LB_LEAST_CONNECTION" | "LB_PEAK_EWMA" => {
            ctx.warn(&path, text, "served as LB_LEAST_REQUEST");
            (least, true)
        }
        "LB_REQUEST_ROUNDROBIN" => {
            ctx.warn(&path, text, "served as LB_ROUNDROBIN");
            (LbPolicy::RoundRobin, false)
        }
        // What decides is where requests are meant to go.
        "LB_ORIGINAL_DST" => (LbPolicy::RoundRobin, false),
        other => {
            ctx.warn(&path, other, "unknown, LB_ROUNDROBIN is used");
            (LbPolicy::RoundRobin, false)
        }
    }
}

/// Where requests of a cluster with `LB_ORIGINAL_DST` go.
fn original_dst(ctx: &mut Context<'_>, of: &mut Object<'_>) -> Option<OriginalDst> {
    let config = of.object(ctx, "original_dst_lb_config");
    if of.text(ctx, "lb_type") != Some("LB_ORIGINAL_DST") {
        return None;
    }
    let path = of.at("original_dst_lb_config");
    let (mut by_header, mut header, mut loopback) = (false, None, false);
    if let Some(mut config) = config {
        by_header = config.flag(ctx, "use_header").unwrap_or(false);
        header = config.text(ctx, "header_name").filter(|name| !name.is_empty()).map(str::to_ascii_lowercase);
        loopback = config.flag(ctx, "replace_local").unwrap_or(false);
        config.finish(ctx);
    }
    if !by_header {
        let why = "addresses of redirected connections come later (nearest valid: use_header)";
        ctx.error(&path, "", why);
    }
    of.skip(ctx, &["type", "hosts", "dns_refresh_rate", "dns_lookup_family", "respect_dns_ttl"]);
    Some(OriginalDst {
        header: Some(header.unwrap_or_else(|| "host".to_owned())),
        port_override: None,
        default_port: Some(80),
        loopback,
        cleanup: Duration::from_secs(5),
    })
}

/// `slow_start`: only mode `duration` is one.
fn slow_start(ctx: &mut Context<'_>, of: &mut Object<'_>) -> Option<SlowStart> {
    let mut config = of.object(ctx, "slow_start")?;
    let mode = config.text(ctx, "mode").unwrap_or_default().to_owned();
    let window = config.duration(ctx, "slow_start_duration").filter(|window| !window.is_zero());
    let aggression = config.float(ctx, "aggression").filter(|value| *value > 0.0).unwrap_or(1.0);
    let min_weight = config.float(ctx, "min_weight_percent").filter(|value| *value > 0.0).unwrap_or(0.1);
    let path = config.at("mode");
    config.finish(ctx);
    if mode != "duration" {
        ctx.warn(&path, &mode, "unknown: no slow start, in MOSN neither");
        return None;
    }
    Some(SlowStart { window: window?, aggression, min_weight: min_weight.min(1.0) })
}

/// `lb_subset_config`; on where there are selectors.
fn subsets(ctx: &mut Context<'_>, of: &mut Object<'_>) -> Option<Subsets> {
    let mut config = of.object(ctx, "lb_subset_config")?;
    let path = config.at("fall_back_policy");
    let fallback = match config.number(ctx, "fall_back_policy") {
        None | Some(0) => Fallback::None,
        Some(1) => Fallback::Any,
        Some(2) => Fallback::DefaultSubset,
        Some(other) => {
            ctx.warn(&path, other.to_string(), "unknown, 0 is used");
            Fallback::None
        }
    };
    let mut default_subset = BTreeMap::new();
    if let Some(mut wanted) = config.object(ctx, "default_subset") {
        for (key, value) in wanted.entries() {
            if let Some(text) = value.as_str() {
                default_subset.insert(key.to_owned(), text.to_owned());
            }
        }
    }
    let mut selectors: Vec<Selector> = Vec::new();
    for mut keys in config.text_lists(ctx, "subset_selectors") {
        keys.sort_unstable();
        keys.dedup();
        if !keys.is_empty() && selectors.iter().all(|held| held.keys != keys) {
            let fallback_keys = Vec::new();
            selectors.push(Selector { keys, fallback: None, fallback_keys, single_host: false });
        }
    }
    config.finish(ctx);
    (!selectors.is_empty()).then_some(Subsets { fallback, default_subset, selectors, panic_mode_any: false })
}

fn hosts(ctx: &mut Context<'_>, of: &mut Object<'_>, cluster: &str, weights: bool) -> Endpoints {
    let mut endpoints = Vec::new();
    let mut known = BTreeSet::new();
    for mut host in of.objects(ctx, "hosts") {
        let text = host.text(ctx, "address").unwrap_or_default();
        let weight = host.number(ctx, "weight").unwrap_or(1).clamp(1, 128);
        let hostname = host.text(ctx, "hostname").unwrap_or_default().to_owned();
        let metadata = metadata(ctx, &mut host);
        host.skip(ctx, &["tls_disable"]);
        let path = host.at("address");
        host.finish(ctx);
        let Some(address) = host_address(text) else {
            ctx.error(&path, format!("{text:?}"), "expected ip:port, name:port or unix:/path");
            continue;
        };
        if !known.insert(address.clone()) {
            ctx.warn(&path, text, "given twice: one host is made of it");
            continue;
        }
        let weight = if weights { weight } else { 1 };
        endpoints.push(Endpoint { hostname, weight, metadata, ..Endpoint::at(address) });
    }
    Endpoints {
        name: cluster.to_owned(),
        localities: vec![Locality { endpoints, ..Locality::default() }],
        drop_millionths: 0,
        overprovisioning: 140,
    }
}

fn host_address(text: &str) -> Option<Address> {
    if let Some(path) = text.strip_prefix("unix:") {
        return (!path.is_empty()).then(|| Address::Unix(path.into()));
    }
    if let Ok(address) = text.parse() {
        return Some(Address::Ip(address));
    }
    let (name, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    (!name.is_empty() && !name.contains([':', '/', ' '])).then(|| Address::Name(name.to_owned(), port))
}

/// `metadata.filter_metadata."mosn.lb"`, or the flat `meta_data` of 2018.
fn metadata(ctx: &mut Context<'_>, host: &mut Object<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut take = |ctx: &mut Context<'_>, mut of: Object<'_>| {
        let path = of.path.clone();
        for (key, value) in of.entries() {
            match value.as_str() {
                Some(text) => {
                    found.insert(key.to_owned(), text.to_owned());
                }
                None => ctx.warn(&format!("{path}.{key}"), "", "dropped: not a string"),
            }
        }
    };
    if let Some(legacy) = host.object(ctx, "meta_data") {
        take(ctx, legacy);
    }
    let filters = host.object(ctx, "metadata").and_then(|mut of| of.object(ctx, "filter_metadata"));
    if let Some(labels) = filters.and_then(|mut of| of.object(ctx, "mosn.lb")) {
        take(ctx, labels);
    }
    found
}

fn discovery(ctx: &mut Context<'_>, of: &mut Object<'_>, endpoints: Endpoints) -> Discovery {
    let refresh = of.duration(ctx, "dns_refresh_rate").filter(|rate| !rate.is_zero());
    let family = match of.text(ctx, "dns_lookup_family") {
        None | Some("" | "V4_ONLY") => DnsFamily::V4Only,
        Some("V6_ONLY") => DnsFamily::V6Only,
        Some(other) => {
            ctx.warn(&of.at("dns_lookup_family"), other, "unknown, V4_ONLY is used");
            DnsFamily::V4Only
        }
    };
    let respect_ttl = of.flag(ctx, "respect_dns_ttl").unwrap_or(false);
    let pace = DnsPace { respect_ttl, ..DnsPace::default() };
    let kind = of.text(ctx, "type").unwrap_or_default();
    match kind {
        "" | "SIMPLE" | "STATIC" | "STRICT_DNS" => {}
        "EDS" | "DYNAMIC" | "ORIGINAL_DST" => {
            ctx.warn(&of.at("type"), kind, "taken as SIMPLE, as in MOSN: the hosts are those written here");
        }
        other => ctx.warn(&of.at("type"), other, "unknown, SIMPLE is used"),
    }
    let named = endpoints.iter().any(|endpoint| matches!(endpoint.address, Address::Name(..)));
    let endpoints = Arc::new(endpoints);
    if !named {
        return Discovery::Static(endpoints);
    }
    // MOSN keeps an answer for 15 s where the type is not STRICT_DNS.
    let held = if kind == "STRICT_DNS" {
        refresh.unwrap_or(Duration::from_secs(5))
    } else {
        Duration::from_secs(15)
    };
    Discovery::Dns { endpoints, logical: false, refresh: held, family, pace }
}

/// Only the first entry counts; 0 and absence are unlimited.
fn breakers(ctx: &mut Context<'_>, of: &mut Object<'_>) -> Breakers {
    let mut breakers = Breakers { default: UNLIMITED, high: UNLIMITED };
    for (at, mut entry) in of.objects(ctx, "circuit_breakers").into_iter().enumerate() {
        if at > 0 {
            ctx.warn(&entry.path, "", "ignored: only the first entry counts, in MOSN as well");
            continue;
        }
        let mut limit = |ctx: &mut Context<'_>, key: &str| {
            entry.number(ctx, key).filter(|limit| *limit > 0).unwrap_or(u32::MAX)
        };
        let thresholds = Thresholds {
            max_connections: limit(ctx, "max_connections"),
            max_pending_requests: limit(ctx, "max_pending_requests"),
            max_requests: limit(ctx, "max_requests"),
            max_retries: limit(ctx, "max_retries"),
            ..UNLIMITED
        };
        entry.skip(ctx, &["priority"]);
        entry.finish(ctx);
        breakers = Breakers { default: thresholds, high: thresholds };
    }
    breakers
}
