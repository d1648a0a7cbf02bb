//! Chains of HTTP filters before a cluster `c`.

use super::http1::Server;
use super::world::{World, cluster, host, http, merged, router, to};
use serde_json::{Value, json};

const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";

/// A filter's configuration, by package and message.
pub fn typed(kind: &str, config: &Value) -> Value {
    merged(json!({"@type": format!("{HTTP}.{kind}")}), config)
}

/// A filter of a chain.
pub fn filter(name: &str, kind: &str, config: &Value) -> Value {
    json!({"name": name, "typed_config": typed(kind, config)})
}

/// The chain of these filters and the router.
pub fn chain(filters: &[Value]) -> Value {
    let mut all = filters.to_vec();
    all.push(router(&json!({})));
    json!({"http_filters": all})
}

/// A chain of these filters before the cluster `c`, which is `server`; and further clusters.
pub async fn world(server: &Server, routes: &Value, filters: &[Value], more: &[Value]) -> World {
    let mut clusters = vec![cluster("c", &[host(server.address)], &json!({}))];
    clusters.extend_from_slice(more);
    World::start(&http(routes, &chain(filters)), &clusters).await
}

/// One route, to `c`.
pub fn everything() -> Value {
    json!([to(&json!({"cluster": "c"}))])
}

/// A route for a path, with what it says of filters.
pub fn at(path: &str, cluster: &str, filters: &Value) -> Value {
    json!({"match": {"path": path}, "route": {"cluster": cluster}, "typed_per_filter_config": filters})
}
