//! What the admin server reads, gathered from the running parts.

use super::build::{Dump, Input};
use super::proxy::Proxy;
use super::secret_types;
use crate::admin::{
    Ask, Body, DumpState, Failed, Kind, ListenerStatus, Modify, ProcessInfo, Resource, Source, TypeState,
    Version,
};
use crate::bootstrap::{Bootstrap, Dialect};
use crate::cli::RunArgs;
use crate::listener::ListenerReport;
use crate::model::Address;
use crate::proto::json::decode_json_lenient;
use crate::snapshot::builder::{State, Status};
use crate::tls::Secrets;
use crate::worker::{Command, Sender};
use crate::xds::dump::{DumpedResource, TypeDump};
use crate::xds::message::Rejected;
use crate::xds::types::ResourceType;
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};

/// Static resources and the bootstrap itself, as the dump shows them.
pub struct Fixed {
    document: Arc<Json>,
    since: SystemTime,
    clusters: Vec<Resource>,
    listeners: Vec<Resource>,
    routes: Vec<Resource>,
}

impl Fixed {
    /// Reads them from the bootstrap's document.
    pub fn new(bootstrap: &Bootstrap) -> Self {
        let since = SystemTime::now();
        let of = |path: &str, type_url: &str| -> Vec<Resource> {
            let list = bootstrap.document.pointer(path).and_then(Json::as_array);
            let named = list.into_iter().flatten().map(|body| {
                let name =
                    ["name", "Name", "router_config_name"].iter().find_map(|key| body.get(key)?.as_str());
                let name = name.unwrap_or_default();
                // As its own type, which tools look for; a MOSN file has none.
                let body = match decode_json_lenient(type_url, body) {
                    Ok((bytes, _)) => Body::Proto(bytes.into()),
                    Err(_) => Body::Json(Arc::new(body.clone())),
                };
                Resource::active(name, true, Version { version: "".into(), updated: since, body })
            });
            named.collect()
        };
        let all = |paths: &[&str], kind: ResourceType| -> Vec<Resource> {
            paths.iter().flat_map(|path| of(path, kind.type_url())).collect()
        };
        Fixed {
            clusters: all(
                &["/static_resources/clusters", "/cluster_manager/clusters"],
                ResourceType::Cluster,
            ),
            listeners: all(&["/static_resources/listeners", "/servers/0/listeners"], ResourceType::Listener),
            routes: all(&["/servers/0/routers"], ResourceType::Route),
            document: Arc::new(bootstrap.document.clone()),
            since,
        }
    }
}

/// Everything the admin reads. Wishes arrive at `commands`.
pub fn source(
    proxy: &Proxy,
    bootstrap: &Bootstrap,
    args: &RunArgs,
    commands: mpsc::Sender<crate::admin::Command>,
) -> Source {
    let fixed = Arc::new(Fixed::new(bootstrap));
    Source {
        store: proxy.store.clone(),
        registry: proxy.registry.clone(),
        lifecycle: proxy.lifecycle.clone(),
        process: ProcessInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: SystemTime::now(),
            command_line: command_line(args),
            node: Arc::new(bootstrap.node.clone()),
            mosn_config: (bootstrap.dialect != Dialect::Envoy).then(|| fixed.document.clone()),
            features: args.feature_gates.clone(),
            log_path: bootstrap.log_path.clone().unwrap_or_else(|| "stderr".to_owned()),
        },
        secrets: proxy.secrets.clone(),
        dump: dump(proxy.inputs(), fixed, proxy.secrets.clone()),
        listeners: listeners(proxy.senders()),
        modify_runtime: modify_runtime(proxy.inputs()),
        commands,
    }
}

fn command_line(args: &RunArgs) -> Json {
    json!({
        "config_path": args.config.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        "config_yaml": args.config_yaml.clone().unwrap_or_default(),
        "concurrency": args.concurrency.unwrap_or_default(),
        "drain_time": format!("{}s", args.drain_time.as_secs()),
        "log_level": args.log_level.map_or("info", |level| level.as_str()),
        "mode": "Serve",
        "disable_hot_restart": true,
    })
}

fn dump(inputs: mpsc::Sender<Input>, fixed: Arc<Fixed>, secrets: Arc<Secrets>) -> Ask<DumpState> {
    Box::new(move |answer| {
        let (inputs, fixed, secrets) = (inputs.clone(), fixed.clone(), secrets.clone());
        tokio::spawn(async move {
            let (ask, dump) = oneshot::channel();
            if inputs.send(Input::Dump(ask)).await.is_err() {
                return;
            }
            let Ok(dump) = dump.await else { return };
            // Joining 10,000 resources with their states takes milliseconds that `/ready` must not wait for.
            let state = tokio::task::spawn_blocking(move || state(&dump, &fixed, &secrets)).await;
            if let Ok(state) = state {
                let _ = answer.send(state);
            }
        });
    })
}

fn modify_runtime(inputs: mpsc::Sender<Input>) -> Modify {
    Box::new(move |changes, answer| {
        let inputs = inputs.clone();
        tokio::spawn(async move { inputs.send(Input::Runtime(changes, answer)).await });
    })
}

fn state(dump: &Dump, fixed: &Fixed, secrets: &Secrets) -> DumpState {
    let mut types: Vec<TypeState> =
        dump.types.iter().filter_map(|(kind, held)| type_state(*kind, held, &dump.status)).collect();
    for (kind, resources) in
        [(Kind::Cluster, &fixed.clusters), (Kind::Listener, &fixed.listeners), (Kind::Route, &fixed.routes)]
    {
        match types.iter_mut().find(|state| state.kind == kind) {
            Some(state) => state.resources.extend(resources.iter().cloned()),
            None => types.push(TypeState { kind, version: "".into(), resources: resources.clone() }),
        }
    }
    types.push(secret_types::state(secrets));
    DumpState {
        bootstrap: Some(Body::Json(fixed.document.clone())),
        bootstrap_updated: Some(fixed.since),
        types,
    }
}

/// `None`: the dump has no section for such resources.
fn type_state(kind: ResourceType, held: &TypeDump, status: &Status) -> Option<TypeState> {
    let shown_as = match kind {
        ResourceType::Runtime => return None,
        ResourceType::Cluster => Kind::Cluster,
        ResourceType::Endpoint => Kind::Endpoint,
        ResourceType::Listener => Kind::Listener,
        ResourceType::Extension => Kind::Extension,
        ResourceType::ScopedRoute => Kind::ScopedRoute,
        ResourceType::Route => Kind::Route,
    };
    let states = states(kind, status);
    let mut failed: HashMap<&str, &Rejected> =
        held.rejected.iter().map(|rejected| (&*rejected.name, rejected)).collect();
    let mut resources = Vec::with_capacity(held.resources.len() + held.rejected.len());
    for resource in &held.resources {
        let mut shown = shown(resource, states.get(&*resource.name));
        shown.failed = failed.remove(&*resource.name).map(failure).or(shown.failed);
        resources.push(shown);
    }
    for (name, rejected) in failed {
        resources.push(Resource {
            name: name.into(),
            is_static: false,
            active: None,
            warming: None,
            blocked_by: Vec::new(),
            failed: Some(failure(rejected)),
            missing: false,
        });
    }
    Some(TypeState { kind: shown_as, version: held.version.clone(), resources })
}

/// Where each resource of a type stands, and what it waits for.
fn states(kind: ResourceType, status: &Status) -> HashMap<&str, Standing<'_>> {
    match kind {
        ResourceType::Cluster => {
            status.clusters.iter().map(|c| (&*c.name, (c.state, &*c.blocked_by, c.shadowed))).collect()
        }
        ResourceType::Listener => {
            status.listeners.iter().map(|l| (&*l.name, (l.state, &*l.blocked_by, l.shadowed))).collect()
        }
        ResourceType::Route => {
            status.tables.iter().map(|t| (&*t.name, (t.state, &[][..], t.shadowed))).collect()
        }
        ResourceType::Endpoint
        | ResourceType::Extension
        | ResourceType::ScopedRoute
        | ResourceType::Runtime => HashMap::new(),
    }
}

/// State, what it waits for, and whether a static resource of the same name serves in its place.
type Standing<'a> = (State, &'a [String], bool);

fn shown(resource: &DumpedResource, state: Option<&Standing<'_>>) -> Resource {
    let version = Version {
        version: resource.version.clone(),
        updated: UNIX_EPOCH + Duration::from_millis(resource.updated_ms),
        body: Body::Proto(resource.bytes.clone()),
    };
    let mut shown = Resource::active(&resource.name, false, version);
    match state {
        // Acknowledged, but not what serves: it must not stand among the active ones.
        Some((_, _, true)) => {
            let version = shown.active.take();
            shown.failed = version.map(|version| Failed {
                at: version.updated,
                version: version.version,
                details: "shadowed_by_static: accepted and ignored, a static resource has this name"
                    .to_owned(),
                body: Some(resource.bytes.clone()),
                acked: true,
            });
        }
        Some((State::Warming | State::Updating, blocked_by, _)) => {
            shown.warming = shown.active.take();
            shown.blocked_by = blocked_by.to_vec();
        }
        _ => {}
    }
    shown
}

fn failure(rejected: &Rejected) -> Failed {
    Failed {
        at: UNIX_EPOCH + Duration::from_millis(rejected.unix_ms),
        version: rejected.version.clone(),
        details: rejected.text.to_string(),
        body: (!rejected.bytes.is_empty()).then(|| rejected.bytes.clone()),
        acked: false,
    }
}

fn listeners(workers: Vec<Sender>) -> Ask<Vec<ListenerStatus>> {
    Box::new(move |answer| {
        let workers = workers.clone();
        tokio::spawn(async move {
            let mut merged: Vec<ListenerStatus> = Vec::new();
            for worker in workers {
                let (ask, report) = oneshot::channel();
                worker.send(Command::Report(ask));
                let Ok(report) = report.await else { continue };
                for listener in report.listeners {
                    merge(&mut merged, listener);
                }
            }
            let _ = answer.send(merged);
        });
    })
}

/// Adds one worker's view of a listener.
fn merge(merged: &mut Vec<ListenerStatus>, report: ListenerReport) {
    let same = |status: &&mut ListenerStatus| {
        status.name == report.name
            && status.draining == report.draining
            && status.generation == report.generation
    };
    if let Some(status) = merged.iter_mut().find(same) {
        status.connections += report.connections as u64;
        status.streams += u64::from(report.streams);
        status.age = status.age.max(report.oldest.unwrap_or_default());
        return;
    }
    let path = |address: &Address| match address {
        Address::Unix(path) => Some(path.display().to_string()),
        _ => None,
    };
    merged.push(ListenerStatus {
        addresses: report.addresses.iter().filter_map(Address::ip).collect(),
        paths: report.addresses.iter().filter_map(path).collect(),
        name: report.name,
        generation: report.generation,
        draining: report.draining,
        connections: report.connections as u64,
        streams: u64::from(report.streams),
        age: report.oldest.unwrap_or_default(),
    });
}
