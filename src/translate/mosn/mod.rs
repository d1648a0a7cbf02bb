//! MOSN's JSON → model: today's form and that of 2018.
//!
//! Takes in a parsed document and a way to read split folders; gives out listeners, clusters, process
//! settings and findings. Where MOSN skips silently or crashes, there is a warning or an error with its field
//! path. What encrypts or restricts traffic and is not built is an error: a proxy that starts without it
//! would be open.

mod access_log;
mod action;
mod balance;
mod check;
mod cluster;
mod filter;
mod headers;
mod listener;
mod read;
mod route;
mod stream_filter;

pub use super::fault::{Finding, Severity, join};
pub use read::ReadFolder;

use crate::model::{Address, Cluster, Listener, LogRoller, NetworkFilter, RouteSource};
use read::{Context, Object, brief};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A translated document. With an error among the findings it is not to be served.
#[derive(Debug, Default)]
pub struct Translated {
    pub listeners: Vec<Listener>,
    pub clusters: Vec<Cluster>,
    pub settings: Settings,
    pub findings: Vec<Finding>,
}

/// Settings of the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// File, `stdout` or `stderr`; `None` is MOSN's default file.
    pub log_path: Option<String>,
    /// As written: `DEBUG`, `INFO` …
    pub log_level: Option<String>,
    /// `graceful_timeout`.
    pub graceful_timeout: Option<Duration>,
    /// `processor`: number of workers.
    pub workers: Option<usize>,
    pub admin: Option<Address>,
    pub pid_file: Option<PathBuf>,
    /// `global_log_roller`.
    pub log_roller: Option<LogRoller>,
}

/// Translates a document that has `servers`. `mixed`: clusters may also come by xDS, so that a name unknown
/// here is no finding. The Envoy sections of such a document are not looked at.
pub fn translate(doc: &Value, folder: &ReadFolder<'_>, mixed: bool) -> Translated {
    let mut ctx = Context { findings: Vec::new(), folder, file: String::new() };
    let mut out = Translated::default();
    if let Some(mut root) = Object::of(&mut ctx, doc, String::new()) {
        if let Some(manager) = root.object(&mut ctx, "cluster_manager") {
            out.clusters = cluster::manager(&mut ctx, manager);
        }
        server(&mut ctx, &mut root, &mut out);
        process(&mut ctx, &mut root, &mut out.settings);
        root.finish(&mut ctx);
    }
    if !mixed {
        unknown_clusters(&mut ctx, &out);
    }
    out.findings = ctx.findings;
    out
}

fn server(ctx: &mut Context<'_>, root: &mut Object<'_>, out: &mut Translated) {
    let mut servers = root.objects(ctx, "servers").into_iter();
    let (Some(mut server), None) = (servers.next(), servers.next()) else {
        ctx.error("servers", "", "expected exactly one server");
        return;
    };
    let settings = &mut out.settings;
    settings.log_path = server.text(ctx, "default_log_path").map(str::to_owned);
    settings.log_level = server.text(ctx, "default_log_level").map(str::to_owned);
    settings.graceful_timeout = server.duration(ctx, "graceful_timeout");
    settings.workers = workers(ctx, &mut server);
    server.skip(ctx, &["mosn_server_name", "use_netpoll_mode"]);
    settings.log_roller = Some(access_log::roller(ctx, &mut server));
    out.listeners = listener::listeners(ctx, &mut server);
    server.finish(ctx);
}

fn workers(ctx: &mut Context<'_>, server: &mut Object<'_>) -> Option<usize> {
    match server.value(ctx, "processor")? {
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            number.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
        }
        Value::String(text) => {
            if text != "auto" {
                ctx.warn(&server.at("processor"), text, "taken as \"auto\"");
            }
            None
        }
        other => {
            ctx.error(&server.at("processor"), brief(other), "expected an integer or \"auto\"");
            None
        }
    }
}

fn process(ctx: &mut Context<'_>, root: &mut Object<'_>, settings: &mut Settings) {
    settings.pid_file = root.text(ctx, "pid").filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(mut admin) = root.object(ctx, "admin") {
        settings.admin = admin_address(ctx, &mut admin);
        admin.skip(ctx, &["access_log_path", "access_log", "profile_path"]);
        admin.finish(ctx);
    }
    root.skip(
        ctx,
        &[
            "dynamic_resources",
            "static_resources",
            "node",
            "mizzen",
            "disable_upgrade",
            "close_graceful",
            "inherit_old_mosnconfig",
            "uds_dir",
            "branch",
            "flush_interval",
            "tracing_config",
        ],
    );
    for (key, why) in [
        ("tracing", "tracing comes later"),
        ("metrics", "metrics are served by the admin at /stats/prometheus; sinks come later"),
        ("pprof", "Go's profiler has no counterpart"),
        ("plugin", "process plugins are not supported"),
        ("extends", "extensions come later"),
        ("wasm_global_plugins", "WebAssembly comes later"),
        ("service_registry", "MOSN has dropped it as well"),
        ("stream_filters", "stand-alone stream filters are not supported"),
    ] {
        root.no_effect(ctx, key, why);
    }
    if let Some(mut codecs) = root.object(ctx, "third_part_codec") {
        for mut codec in codecs.objects(ctx, "codecs") {
            codec.refuse(ctx, "enable", "codecs from Go plugins or WebAssembly are not supported");
        }
        codecs.finish(ctx);
    }
}

fn admin_address(ctx: &mut Context<'_>, admin: &mut Object<'_>) -> Option<Address> {
    let mut address = admin.object(ctx, "address")?;
    let mut socket = address.object(ctx, "socket_address")?;
    let host = socket.text(ctx, "address").unwrap_or("0.0.0.0");
    let port = socket.number(ctx, "port_value").unwrap_or(0);
    socket.skip(ctx, &["protocol"]);
    let path = socket.at("address");
    let ip: Option<IpAddr> =
        if host == "localhost" { Some([127, 0, 0, 1].into()) } else { host.parse().ok() };
    let Some(ip) = ip else {
        ctx.error(&path, format!("{host:?}"), "expected an IP address");
        return None;
    };
    let Ok(port) = u16::try_from(port) else {
        ctx.error(&socket.at("port_value"), port, "expected a port, at most 65535");
        return None;
    };
    socket.finish(ctx);
    address.finish(ctx);
    Some(Address::Ip(SocketAddr::new(ip, port)))
}

/// Clusters that are named and nowhere configured: MOSN answers 404 for them, request by request.
fn unknown_clusters(ctx: &mut Context<'_>, out: &Translated) {
    let known: BTreeSet<&str> = out.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    for listener in &out.listeners {
        let mut missing = BTreeSet::new();
        for chain in &listener.filter_chains {
            match &chain.filter {
                NetworkFilter::Tcp(tcp) => {
                    missing.extend(tcp.clusters.iter().map(|share| share.name.as_str()))
                }
                NetworkFilter::Rpc(rpc) => {
                    let RouteSource::Inline(table) = &rpc.routes else { continue };
                    missing.extend(table.virtual_hosts.iter().flat_map(|host| host.clusters()));
                }
                NetworkFilter::Http(_) => {}
            }
        }
        for name in missing.difference(&known) {
            let message =
                format!("listener {:?} names this cluster and cluster_manager has none", listener.name);
            ctx.warn("cluster_manager.clusters", name, message);
        }
    }
}

#[cfg(test)]
mod tests;
