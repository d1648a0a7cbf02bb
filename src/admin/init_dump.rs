//! `/init_dump`: what is not ready yet, and what each of it waits for.

use super::query::Params;
use super::reply::{self, Reply};
use super::server::Context;
use super::source::{Kind, Resource};
use http::StatusCode;
use serde_json::{Value as Json, json};

/// Envoy's shape: the process first, then every resource that waits. `mask=listener`: listeners alone.
pub(super) async fn answer(context: &Context, params: &Params) -> Reply {
    let state = match context.ask(&context.source.dump).await {
        Ok(state) => state,
        Err(unavailable) => return unavailable,
    };
    let mask = params.get("mask").filter(|mask| !mask.is_empty());
    let wanted = |kind: Kind| mask.is_none_or(|mask| mask == "listener" && kind == Kind::Listener);
    let server = context.source.lifecycle.waits();
    let server = (mask.is_none() && !server.is_empty()).then(|| dump("Server", &server));
    let types = state.types.iter().filter(|of_type| wanted(of_type.kind));
    let resources = types.flat_map(|of_type| of_type.resources.iter().map(|one| (of_type.kind, one)));
    let waiting = resources.filter(|(_, one)| !one.blocked_by.is_empty());
    let waiting = waiting.map(|(kind, one)| of_resource(kind, one));
    let dumps: Vec<Json> = server.into_iter().chain(waiting).collect();
    reply::json(StatusCode::OK, &json!({ "unready_targets_dumps": dumps }))
}

fn of_resource(kind: Kind, resource: &Resource) -> Json {
    let kind = match kind {
        Kind::Cluster => "Cluster",
        Kind::Endpoint => "ClusterLoadAssignment",
        Kind::Listener => "Listener",
        Kind::Route => "RouteConfiguration",
        Kind::Extension => "TypedExtensionConfig",
        Kind::ScopedRoute => "ScopedRouteConfiguration",
        Kind::Secret => "Secret",
    };
    dump(&format!("{kind} {}", resource.name), &resource.blocked_by)
}

fn dump(name: &str, targets: &[String]) -> Json {
    let targets: Vec<Json> = targets.iter().map(|target| format!("target {target}").into()).collect();
    json!({ "name": format!("init manager {name}"), "target_names": targets })
}
