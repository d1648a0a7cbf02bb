//! Envoy's paths.

use super::certs;
use super::clusters::Clusters;
use super::config_dump::{Dump, Wanted};
use super::query::Params;
use super::reply::{self, Reply};
use super::server::Context;
use super::source::{Command, Kind, ServerState};
use super::{init_dump, listeners, memory, redact, runtime};
use crate::proto;
use crate::proto::json::generated_to_json;
use crate::telemetry::logging::{self, Level};
use crate::telemetry::{prometheus, text};
use http::{Method, StatusCode};
use serde_json::{Value as Json, json};
use std::fmt::Write as _;

/// Paths that change something, for POST only.
const MUTATING: &[&str] = &[
    "/drain_listeners",
    "/healthcheck/fail",
    "/healthcheck/ok",
    "/logging",
    "/quitquitquit",
    "/reset_counters",
    "/runtime_modify",
];

/// Every path with a line of help.
const HELP: &[(&str, &str)] = &[
    ("/", "this list"),
    (
        "/api/v1/config_dump",
        "configuration as MOSN prints it (mosnconfig, allrouters, allclusters, alllisteners, router=, cluster=, listener=)",
    ),
    ("/api/v1/disable_log", "write no log lines (POST: the log's path)"),
    ("/api/v1/enable_log", "write log lines again (POST: the log's path)"),
    ("/api/v1/env", "environment variables (key=, repeatable)"),
    ("/api/v1/features", "feature gates (key=)"),
    ("/api/v1/get_loglevel", "the process log's level"),
    ("/api/v1/states", "process id and state"),
    ("/api/v1/stats", "metrics as MOSN prints them (key=)"),
    ("/api/v1/stats_glob", "sums over all listeners as MOSN prints them"),
    ("/api/v1/update_loglevel", "change the level (POST JSON: log_path, log_level)"),
    ("/api/v1/version", "version"),
    ("/certs", "certificates in use"),
    ("/clusters", "clusters and hosts (format=json)"),
    ("/config_dump", "all resources with versions and errors (include_eds, resource=, mask=, name_regex=)"),
    ("/contention", "lock contention: not traced, as in an Envoy that was not told to"),
    ("/drain_listeners", "stop accepting (POST; inboundonly, graceful, skip_exit)"),
    ("/explain", "how a request would be routed (method=, host=, path=, header=name:value, listener=)"),
    ("/healthcheck/fail", "make /ready fail (POST)"),
    ("/healthcheck/ok", "make /ready pass again (POST)"),
    ("/help", "this list"),
    ("/hot_restart_version", "hot restart compatibility"),
    ("/init_dump", "what is still waiting, and for what (mask=listener)"),
    ("/listeners", "open and draining listeners (format=json)"),
    ("/logging", "show or change log levels (POST; level=, paths=, <logger>=)"),
    ("/memory", "memory in use"),
    ("/quitquitquit", "end the process (POST)"),
    ("/ready", "200 once live"),
    ("/reset_counters", "count from zero again (POST)"),
    ("/runtime", "runtime values by layer"),
    ("/runtime_modify", "set keys of the admin layer, unset those without a value (POST; key=value)"),
    ("/server_info", "version, state, command line, node"),
    ("/stats", "metrics (usedonly, filter=, type=, format=json|prometheus)"),
    ("/stats/prometheus", "metrics for Prometheus (usedonly, filter=)"),
    ("/why", "what became of a request that failed or was slow (id=)"),
    ("/why/recent", "the last of them (limit=)"),
];

/// Answers `path`, or `None` if it is not one of Envoy's.
pub async fn answer(context: &Context, method: &Method, path: &str, params: &Params) -> Option<Reply> {
    if MUTATING.contains(&path) {
        if method != Method::POST {
            let refusal = format!("Method {method} not allowed, POST required.");
            return Some(reply::text(StatusCode::METHOD_NOT_ALLOWED, refusal));
        }
        return Some(match path {
            "/runtime_modify" => runtime::modify(context, params).await,
            _ => mutate(context, path, params),
        });
    }
    if !matches!(*method, Method::GET | Method::HEAD | Method::POST) {
        return Some(reply::text(StatusCode::METHOD_NOT_ALLOWED, format!("Method {method} not allowed.\n")));
    }
    Some(match path {
        "/" | "/help" => reply::text(StatusCode::OK, help()),
        "/ready" => ready(context),
        "/server_info" => server_info(context),
        "/stats" => stats(context, params),
        "/stats/prometheus" => stats_prometheus(context, params),
        "/clusters" => clusters(context, params).await,
        "/listeners" => listener_list(context, params).await,
        "/config_dump" => config_dump(context, params).await,
        "/init_dump" => init_dump::answer(context, params).await,
        "/memory" => reply::json(StatusCode::OK, &memory_json()),
        "/certs" => reply::json(StatusCode::OK, &certs::json(&context.source.secrets)),
        "/runtime" => reply::json(StatusCode::OK, &runtime::json(&context.source.store.load().layers)),
        "/contention" => reply::text(StatusCode::OK, "Mutex contention tracing is not enabled.\n"),
        "/hot_restart_version" => reply::text(StatusCode::OK, "disabled"),
        _ => return None,
    })
}

/// The list of paths.
pub fn help() -> String {
    let mut out = "admin commands are:\n".to_owned();
    for (path, what) in HELP {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "  {path}: {what}");
    }
    out
}

fn mutate(context: &Context, path: &str, params: &Params) -> Reply {
    let source = &context.source;
    match path {
        "/logging" => change_logging(params),
        "/healthcheck/fail" | "/healthcheck/ok" => {
            source.lifecycle.set_failed(path.ends_with("fail"));
            reply::ok()
        }
        "/reset_counters" => {
            source.registry.reset_counters();
            reply::ok()
        }
        "/drain_listeners" if params.flag("skip_exit") && !params.flag("graceful") => {
            reply::text(StatusCode::BAD_REQUEST, "skip_exit requires graceful\n")
        }
        "/drain_listeners" => command(
            context,
            Command::DrainListeners {
                inbound_only: params.flag("inboundonly"),
                graceful: params.flag("graceful"),
                skip_exit: params.flag("skip_exit"),
            },
        ),
        _ => command(context, Command::Quit),
    }
}

fn command(context: &Context, command: Command) -> Reply {
    match context.source.commands.try_send(command) {
        Ok(()) => reply::ok(),
        Err(_) => reply::text(StatusCode::SERVICE_UNAVAILABLE, "busy\n"),
    }
}

fn ready(context: &Context) -> Reply {
    let state = context.source.lifecycle.shown();
    let status = if state == ServerState::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::text(status, format!("{}\n", state.word()))
}

fn server_info(context: &Context) -> Reply {
    let process = &context.source.process;
    let uptime = format!("{}s", process.started.elapsed().unwrap_or_default().as_secs());
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    let mut info = json!({
        "version": format!("mizzen/{}/Clean/{build}/none", process.version),
        "state": context.source.lifecycle.shown().word(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": process.command_line,
        "node": generated_to_json(&*process.node),
    });
    proto::release_descriptor_pool();
    redact(&mut info);
    reply::json(StatusCode::OK, &info)
}

fn stats(context: &Context, params: &Params) -> Reply {
    let query = match params.stats() {
        Ok(query) => query,
        Err(why) => return reply::text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    };
    let registry = context.source.registry.clone();
    match params.get("format") {
        None | Some("" | "text") => {
            reply::stream_text(move |out| text::write_text(&registry, &query, &mut |piece| out.send(piece)))
        }
        Some("json") => {
            reply::stream_json(move |out| text::write_json(&registry, &query, &mut |piece| out.send(piece)))
        }
        Some("prometheus") => stats_prometheus(context, params),
        Some(other) => {
            let why = format!("usage: /stats?format=(json|prometheus|text), not {other}\n");
            reply::text(StatusCode::BAD_REQUEST, why)
        }
    }
}

fn stats_prometheus(context: &Context, params: &Params) -> Reply {
    match params.stats() {
        Ok(query) => {
            let registry = context.source.registry.clone();
            reply::stream_as(prometheus::CONTENT_TYPE, move |out| {
                prometheus::write(&registry, &query, &mut |piece| out.send(piece));
            })
        }
        Err(why) => reply::text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    }
}

async fn clusters(context: &Context, params: &Params) -> Reply {
    let permit = match context.dump_permit().await {
        Ok(permit) => permit,
        Err(busy) => return busy,
    };
    let state = match context.ask(&context.source.dump).await {
        Ok(state) => state,
        Err(unavailable) => return unavailable,
    };
    let known = state.types.iter().filter(|t| t.kind == Kind::Cluster).flat_map(|t| &t.resources);
    let statics = known.filter(|r| r.is_static).map(|r| r.name.clone()).collect();
    let all = Clusters {
        snapshot: context.source.store.load(),
        registry: context.source.registry.clone(),
        statics,
    };
    let json = params.get("format") == Some("json");
    let write = move |out: &mut super::body::Producer| {
        if json {
            all.write_json(out)
        } else {
            all.write_text(out)
        }
        drop(permit);
    };
    if json { reply::stream_json(write) } else { reply::stream_text(write) }
}

async fn listener_list(context: &Context, params: &Params) -> Reply {
    match context.ask(&context.source.listeners).await {
        Ok(all) if params.get("format") == Some("json") => listeners::json(&all),
        Ok(all) => listeners::text(&all),
        Err(unavailable) => unavailable,
    }
}

async fn config_dump(context: &Context, params: &Params) -> Reply {
    let wanted = match Wanted::parse(params) {
        Ok(wanted) => wanted,
        Err(why) => {
            let missing = why.ends_with("not found in config dump");
            let status = if missing { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
            return reply::text(status, format!("{why}\n"));
        }
    };
    let permit = match context.dump_permit().await {
        Ok(permit) => permit,
        Err(busy) => return busy,
    };
    match context.ask(&context.source.dump).await {
        Ok(state) => {
            let dump = Dump { state, snapshot: context.source.store.load(), wanted };
            reply::stream_json(move |out| {
                dump.write(out);
                drop(permit);
            })
        }
        Err(unavailable) => unavailable,
    }
}

fn memory_json() -> Json {
    let memory = memory::read();
    json!({
        "allocated": memory.anonymous.to_string(),
        "heap_size": memory.data.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": memory.resident.to_string(),
    })
}

fn change_logging(params: &Params) -> Reply {
    let mut changes: Vec<(Option<&str>, &str)> = Vec::new();
    for (key, value) in params.iter() {
        match key {
            "level" => changes.push((None, value)),
            "paths" => {
                let pairs = value.split(',').filter_map(|pair| pair.split_once(':'));
                changes.extend(pairs.map(|(logger, level)| (Some(logger), level)));
            }
            logger => changes.push((Some(logger), value)),
        }
    }
    for (logger, level) in changes {
        let done = level.parse::<Level>().map_err(|e| e.to_string()).and_then(|level| match logger {
            None => {
                logging::set_all(level);
                Ok(())
            }
            Some(logger) => logging::set_level(logger, level).map_err(|e| e.to_string()),
        });
        if let Err(why) = done {
            return reply::text(StatusCode::BAD_REQUEST, format!("error: {why}\n"));
        }
    }
    let mut out = "active loggers:\n".to_owned();
    for (logger, level) in logging::levels() {
        let _ = writeln!(out, "  {logger}: {level}");
    }
    out.push('\n');
    reply::text(StatusCode::OK, out)
}
