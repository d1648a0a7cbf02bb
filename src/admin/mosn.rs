//! MOSN's paths.

use super::clusters::shown;
use super::config_dump::any_json;
use super::query::Params;
use super::redact::redact;
use super::reply::{self, Reply};
use super::server::Context;
use super::source::{DumpState, Kind, ServerState};
use crate::model::{LogSink, NetworkFilter};
use crate::snapshot::{ListenerSpec, Snapshot};
use crate::telemetry::Scope;
use crate::telemetry::files;
use crate::telemetry::logging::{self, Level};
use crate::telemetry::mosn::{self, ListenerNames};
use http::{Method, StatusCode};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

/// Answers `path`, or `None` if it is not one of MOSN's. `body` is the request's, for the calls that read it.
pub async fn answer(
    context: &Context,
    method: &Method,
    path: &str,
    params: &Params,
    body: impl AsyncFnOnce() -> Option<Vec<u8>>,
) -> Option<Reply> {
    let allowed: &[Method] = match path {
        "/api/v1/version" => &[Method::GET, Method::HEAD, Method::POST],
        "/api/v1/update_loglevel" | "/api/v1/enable_log" | "/api/v1/disable_log" => &[Method::POST],
        "/api/v1/features" | "/api/v1/env" | "/api/v1/stats_glob" => &[Method::GET, Method::HEAD],
        "/api/v1/config_dump" | "/api/v1/stats" | "/api/v1/get_loglevel" | "/api/v1/states" => {
            &[Method::GET, Method::HEAD]
        }
        _ => return None,
    };
    if !allowed.contains(method) {
        return Some(reply::text(StatusCode::METHOD_NOT_ALLOWED, ""));
    }
    Some(match path {
        "/api/v1/version" => {
            reply::text(StatusCode::OK, format!("mosn version: {}", context.source.process.version))
        }
        "/api/v1/config_dump" => config_dump(context, params).await,
        "/api/v1/stats" => stats(context, params),
        "/api/v1/get_loglevel" => get_loglevel(context),
        "/api/v1/states" => states(context),
        "/api/v1/features" => features(context, params),
        "/api/v1/env" => env(params),
        "/api/v1/stats_glob" => stats_glob(context),
        "/api/v1/enable_log" => switch_log(context, body().await, true),
        "/api/v1/disable_log" => switch_log(context, body().await, false),
        _ => update_loglevel(context, body().await),
    })
}

fn states(context: &Context) -> Reply {
    // MOSN's codes: 4 starting, 6 running, 8 stopping gracefully.
    let code = match context.source.lifecycle.discovery() {
        ServerState::Live => 6,
        ServerState::Draining => 8,
        ServerState::PreInitializing | ServerState::Initializing => 4,
    };
    reply::text(StatusCode::OK, format!("pid={}&state={code}\n", std::process::id()))
}

fn get_loglevel(context: &Context) -> Reply {
    let level = main_level().mosn_word();
    let path = context.source.process.log_path.clone();
    reply::json_text(StatusCode::OK, json!({ path: level }).to_string())
}

fn main_level() -> Level {
    logging::levels().into_iter().find(|(name, _)| *name == "main").map_or(Level::Info, |(_, level)| level)
}

fn update_loglevel(context: &Context, body: Option<Vec<u8>>) -> Reply {
    let request: Option<Json> = body.and_then(|b| serde_json::from_slice(&b).ok());
    let field = |name: &str| request.as_ref().and_then(|r| r.get(name)).and_then(Json::as_str);
    let ours = field("log_path").is_some_and(|path| path == context.source.process.log_path);
    let level = field("log_level").and_then(|level| level.parse::<Level>().ok());
    match (ours, level) {
        (true, Some(level)) => {
            logging::set_all(level);
            reply::text(StatusCode::OK, "update logger success\n")
        }
        _ => {
            reply::json_text(StatusCode::BAD_REQUEST, json!({ "error": "update logger failed" }).to_string())
        }
    }
}

/// The body names the process log, or the file of access logs.
fn switch_log(context: &Context, body: Option<Vec<u8>>, on: bool) -> Reply {
    let word = if on { "enable" } else { "disable" };
    let named = body.and_then(|body| String::from_utf8(body).ok()).unwrap_or_default();
    let named = named.trim();
    let done = if named == context.source.process.log_path {
        logging::set_enabled(on);
        true
    } else {
        let snapshot = context.source.store.load();
        let mut sinks = snapshot.listeners.values().flat_map(|spec| spec.model.access_logs());
        sinks.any(|log| matches!(&log.sink, LogSink::File(path) if path == named))
            && files::set_enabled(named, on)
    };
    if !done {
        let error = json!({ "error": format!("{word} logger failed") });
        return reply::json_text(StatusCode::BAD_REQUEST, error.to_string());
    }
    reply::text(StatusCode::OK, format!("{word} logger success\n"))
}

/// The gates MOSN has, off unless set; a name it has not is off.
fn features(context: &Context, params: &Params) -> Reply {
    const GATES: [&str; 4] = ["MultiTenantMode", "PayLoadLimitEnable", "XdsMtlsEnable", "auto_config"];
    let set = &context.source.process.features;
    let is_on = |name: &str| set.iter().rev().find(|(gate, _)| gate == name).is_some_and(|(_, on)| *on);
    match params.get("key") {
        Some(name) => reply::text(StatusCode::OK, is_on(name).to_string()),
        None => {
            let all: Map<String, Json> =
                GATES.iter().map(|name| ((*name).into(), is_on(name).into())).collect();
            reply::json_text(StatusCode::OK, Json::Object(all).to_string())
        }
    }
}

/// Variables whose names say that their values are nobody's business.
const SECRET: [&str; 5] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY"];

fn env(params: &Params) -> Reply {
    let (mut found, mut missing) = (Map::new(), Vec::new());
    for (_, name) in params.iter().filter(|(key, _)| *key == "key") {
        let upper = name.to_ascii_uppercase();
        match std::env::var(name) {
            Ok(_) if SECRET.iter().any(|word| upper.contains(word)) => {
                found.insert(name.into(), "[redacted]".into());
            }
            Ok(value) => drop(found.insert(name.into(), value.into())),
            Err(_) => missing.push(Json::from(name)),
        }
    }
    if found.is_empty() && missing.is_empty() {
        return reply::json_text(StatusCode::BAD_REQUEST, json!({ "error": "no env key" }).to_string());
    }
    // As MOSN: what is empty is null.
    let found = if found.is_empty() { Json::Null } else { found.into() };
    let missing = if missing.is_empty() { Json::Null } else { missing.into() };
    let all = json!({ "env": found, "not_found": missing });
    reply::json_text(StatusCode::OK, super::json::pretty(&all, 0))
}

/// The sums over all listeners, one `key:value` a line.
fn stats_glob(context: &Context) -> Reply {
    let tree = mosn::tree(&context.source.registry, &[]);
    let global = tree.get("downstream").and_then(|labels| labels.get("proxy.global"));
    let lines = global.into_iter().flatten().map(|(key, value)| format!("{key}:{value}\n"));
    reply::text(StatusCode::OK, lines.collect::<String>())
}

fn stats(context: &Context, params: &Params) -> Reply {
    let registry = context.source.registry.clone();
    let snapshot = context.source.store.load();
    let key = params.get("key").map(str::to_owned);
    reply::stream_json(move |out| {
        let mut tree = mosn::tree(&registry, &listener_names(&snapshot));
        if let Some(key) = key {
            let (kind, labels) = key.split_once('.').unwrap_or((&key, ""));
            tree.retain(|k, _| *k == kind);
            tree.values_mut().for_each(|of_kind| of_kind.retain(|l, _| l == labels));
            tree.retain(|_, of_kind| !of_kind.is_empty());
            if tree.is_empty() {
                out.send(format!("no metrics key: {key}"));
                return;
            }
        }
        // Maps of texts serialise without fail.
        out.send(serde_json::to_string(&tree).unwrap_or_default());
    })
}

/// Where the numbers of each listener stand.
fn listener_names(snapshot: &Snapshot) -> Vec<ListenerNames> {
    let names = |spec: &ListenerSpec| {
        let model = &spec.model;
        let filters =
            model.filter_chains.iter().chain(&model.default_filter_chain).map(|chain| match &chain.filter {
                NetworkFilter::Tcp(tcp) => Scope::tcp(&tcp.stat_prefix),
                NetworkFilter::Http(http) => Scope::http(&http.stat_prefix),
                NetworkFilter::Rpc(rpc) => Scope::rpc(&rpc.stat_prefix),
            });
        ListenerNames {
            name: model.name.clone(),
            addresses: model.addresses.iter().map(shown).collect(),
            connections: Some(Scope::listener(&model.stat_name())),
            filters: filters.collect(),
        }
    };
    snapshot.listeners.values().map(|spec| names(spec)).collect()
}

/// Names of one kind with what serves under them.
fn named(state: &DumpState, kind: Kind) -> Map<String, Json> {
    let resources = state.types.iter().filter(|t| t.kind == kind).flat_map(|t| &t.resources);
    resources.filter_map(|r| Some((r.name.to_string(), any_json(kind, &r.active.as_ref()?.body)))).collect()
}

/// The file as it was read.
fn file(config: Option<&Arc<Json>>) -> Json {
    let mut json = config.map_or(Json::Null, |c| (**c).clone());
    redact(&mut json);
    json
}

/// What one dump shows.
enum Part {
    Whole,
    File,
    All(Kind),
    One(Kind, String),
}

fn part(params: &Params) -> Result<Part, (StatusCode, String)> {
    if params.len() > 1 {
        return Err((StatusCode::BAD_REQUEST, "only support one parameter".to_owned()));
    }
    let Some((key, name)) = params.iter().next() else { return Ok(Part::Whole) };
    Ok(match key {
        "mosnconfig" => Part::File,
        "allrouters" => Part::All(Kind::Route),
        "allclusters" => Part::All(Kind::Cluster),
        "alllisteners" => Part::All(Kind::Listener),
        "router" => Part::One(Kind::Route, name.to_owned()),
        "cluster" => Part::One(Kind::Cluster, name.to_owned()),
        "listener" => Part::One(Kind::Listener, name.to_owned()),
        _ => {
            let error = json!({ "error": "internal error" });
            return Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
        }
    })
}

async fn config_dump(context: &Context, params: &Params) -> Reply {
    let part = match part(params) {
        Ok(part) => part,
        Err((status, why)) => return reply::text(status, why),
    };
    let permit = match context.dump_permit().await {
        Ok(permit) => permit,
        Err(busy) => return busy,
    };
    let state = match context.ask(&context.source.dump).await {
        Ok(state) => state,
        Err(unavailable) => return unavailable,
    };
    let config = context.source.process.mosn_config.clone();
    reply::stream_json(move |out| {
        let json = match &part {
            Part::Whole => json!({
                "mosn_config": file(config.as_ref()),
                "listener": named(&state, Kind::Listener),
                "routers": named(&state, Kind::Route),
                "cluster": named(&state, Kind::Cluster),
            }),
            Part::File => file(config.as_ref()),
            Part::All(kind) => Json::Object(named(&state, *kind)),
            Part::One(kind, name) => named(&state, *kind).remove(name).unwrap_or_else(|| json!({})),
        };
        // MOSN prints the whole compactly and parts with one space of indentation.
        out.send(if matches!(part, Part::Whole) { json.to_string() } else { super::json::pretty(&json, 0) });
        drop(permit);
    })
}
