//! `/listeners`: what is open, and what still drains.

use super::reply::{self, Reply};
use super::source::ListenerStatus;
use http::StatusCode;
use serde_json::{Value as Json, json};
use std::fmt::Write as _;
use std::net::SocketAddr;

/// `name::address` lines; draining generations follow with their numbers.
pub fn text(listeners: &[ListenerStatus]) -> Reply {
    let mut out = String::new();
    for listener in listeners.iter().filter(|l| !l.draining) {
        let addresses = listener.addresses.iter().map(SocketAddr::to_string);
        for address in addresses.chain(listener.paths.iter().cloned()) {
            // Writing into a string cannot fail.
            let _ = writeln!(out, "{}::{address}", listener.name);
        }
        if is_internal(listener) {
            let _ = writeln!(out, "{0}::envoy://{0}/", listener.name);
        }
    }
    for listener in listeners.iter().filter(|l| l.draining) {
        let _ = writeln!(
            out,
            "{}::draining::generation={} connections={} streams={} age_s={}",
            listener.name,
            listener.generation,
            listener.connections,
            listener.streams,
            listener.age.as_secs()
        );
    }
    reply::text(StatusCode::OK, out)
}

/// Envoy's `listener_statuses`, and `draining_listeners` beside it if there are any.
pub fn json(listeners: &[ListenerStatus]) -> Reply {
    let open: Vec<Json> = listeners.iter().filter(|l| !l.draining).map(status).collect();
    let draining: Vec<Json> = listeners.iter().filter(|l| l.draining).map(drain_status).collect();
    let mut all = json!({ "listener_statuses": open });
    if let (false, Some(fields)) = (draining.is_empty(), all.as_object_mut()) {
        fields.insert("draining_listeners".into(), draining.into());
    }
    reply::json(StatusCode::OK, &all)
}

/// Whether it is reached from inside the process only.
fn is_internal(listener: &ListenerStatus) -> bool {
    listener.addresses.is_empty() && listener.paths.is_empty()
}

fn status(listener: &ListenerStatus) -> Json {
    let sockets = listener
        .addresses
        .iter()
        .map(|a| json!({ "socket_address": { "address": a.ip().to_string(), "port_value": a.port() } }));
    let paths = listener.paths.iter().map(|path| json!({ "pipe": { "path": path } }));
    let inner = is_internal(listener)
        .then(|| json!({ "envoy_internal_address": { "server_listener_name": listener.name } }));
    let mut all = sockets.chain(paths).chain(inner);
    let mut status = json!({ "name": listener.name });
    if let Some(fields) = status.as_object_mut() {
        if let Some(first) = all.next() {
            fields.insert("local_address".into(), first);
        }
        let rest: Vec<Json> = all.collect();
        if !rest.is_empty() {
            fields.insert("additional_local_addresses".into(), rest.into());
        }
    }
    status
}

fn drain_status(listener: &ListenerStatus) -> Json {
    json!({
        "name": listener.name,
        "generation": listener.generation,
        "connections": listener.connections,
        "streams": listener.streams,
        "age": format!("{}s", listener.age.as_secs()),
    })
}
