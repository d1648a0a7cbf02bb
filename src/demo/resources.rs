//! What the control plane serves: xDS resources by proxy, written as the JSON people know.
//!
//! Owns a proxy's set of resources and the demo's topology. Takes in canonical proto JSON with `@type`; gives
//! out packed resources with versions that follow from their content, so that a control plane that was away
//! names them as before.

use crate::proto::json::decode_json;
use crate::util::hash::xxh64;
use crate::xds::types::ResourceType;
use anyhow::{Context, anyhow};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A resource and its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned {
    pub version: String,
    pub any: Any,
}

/// Everything one proxy is configured by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources(BTreeMap<ResourceType, BTreeMap<String, Versioned>>);

impl Resources {
    /// Adds or replaces the resource that `json` describes; its `@type` says what it is.
    ///
    /// # Errors
    /// No such type, or the JSON does not fit it; the text names the field.
    pub fn set(&mut self, json: &Value) -> anyhow::Result<()> {
        let url = json.get("@type").and_then(Value::as_str).context("a resource without @type")?;
        let kind = ResourceType::from_type_url(url).with_context(|| format!("{url} is not served"))?;
        let key = if kind == ResourceType::Endpoint { "cluster_name" } else { "name" };
        let name = json.get(key).and_then(Value::as_str).with_context(|| format!("{url} without {key}"))?;
        let packed = decode_json("type.googleapis.com/google.protobuf.Any", json)
            .map_err(|error| anyhow!("{name}: {error}"))?;
        let any = Any::decode(packed.as_slice())?;
        let version = format!("{:016x}", xxh64(&any.value, 0));
        self.0.entry(kind).or_default().insert(name.to_owned(), Versioned { version, any });
        Ok(())
    }

    /// The set with these resources added or replaced.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn with(mut self, resources: &[Value]) -> anyhow::Result<Self> {
        for json in resources {
            self.set(json)?;
        }
        Ok(self)
    }

    /// The resources of a type, by name.
    pub fn of(&self, kind: ResourceType) -> impl Iterator<Item = (&String, &Versioned)> {
        self.0.get(&kind).into_iter().flatten()
    }
}

/// A listener whose only chain carries RPC from one protocol to another.
pub struct RpcListener<'a> {
    pub name: &'a str,
    pub port: u16,
    pub chain: &'a str,
    pub downstream: &'a str,
    pub upstream: &'a str,
    /// Where the routes come from: the filter's fields `rds` or `route_config`.
    pub routes: Value,
}

impl RpcListener<'_> {
    /// As a resource.
    pub fn json(&self) -> Value {
        let mut filter = json!({
            "@type": "type.googleapis.com/mizzen.v1.RpcProxy",
            "stat_prefix": self.name,
            "downstream_protocol": self.downstream,
            "upstream_protocol": self.upstream,
            // The demo's clients know the frame: on it they move to a new connection.
            "drain_goaway": self.downstream == "bolt",
        });
        if let (Some(filter), Value::Object(routes)) = (filter.as_object_mut(), &self.routes) {
            filter.extend(routes.clone());
        }
        json!({
            "@type": ResourceType::Listener.type_url(),
            "name": self.name,
            "address": { "socket_address": { "address": "127.0.0.1", "port_value": self.port } },
            "filter_chains": [{
                "name": self.chain,
                "filters": [{ "name": "rpc", "typed_config": filter }],
            }],
        })
    }
}

/// The filter's `rds` field.
pub fn rds(table: &str) -> Value {
    json!({ "rds": { "route_config_name": table, "config_source": ads() } })
}

/// The filter's `route_config` field: everything to `cluster`, with a header added to each request.
pub fn inline(table: &str, cluster: &str, header: (&str, &str)) -> Value {
    let (key, value) = header;
    let added = json!([{ "header": { "key": key, "value": value } }]);
    json!({ "route_config": with(table_to(table, cluster), "request_headers_to_add", added) })
}

/// A route table that sends everything to `cluster`.
pub fn routes(table: &str, cluster: &str) -> Value {
    with(table_to(table, cluster), "@type", ResourceType::Route.type_url())
}

fn table_to(table: &str, cluster: &str) -> Value {
    json!({
        "name": table,
        "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "15s" } }],
        }],
    })
}

/// A cluster whose endpoints come by EDS.
pub fn cluster(name: &str, http2: bool) -> Value {
    let cluster = json!({
        "@type": ResourceType::Cluster.type_url(),
        "name": name,
        "type": "EDS",
        "eds_cluster_config": { "eds_config": ads() },
        "connect_timeout": "1s",
    });
    if !http2 {
        return cluster;
    }
    let options = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    });
    with(cluster, "typed_extension_protocol_options", options)
}

/// A cluster nobody can serve: two fields are wrong.
pub fn bad_cluster(name: &str) -> Value {
    json!({
        "@type": ResourceType::Cluster.type_url(),
        "name": name,
        "type": "STATIC",
        "connect_timeout": "-1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [endpoint(70_000)] }],
        },
    })
}

/// The one endpoint of a cluster, on loopback.
pub fn endpoints(cluster: &str, port: u16) -> Value {
    json!({
        "@type": ResourceType::Endpoint.type_url(),
        "cluster_name": cluster,
        "endpoints": [{ "lb_endpoints": [endpoint(u32::from(port))] }],
    })
}

fn endpoint(port: u32) -> Value {
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    json!({ "endpoint": { "address": address } })
}

fn ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
}

/// The bootstrap of a proxy that has everything else from the control plane.
pub fn bootstrap(node: &str, admin: u16, control_plane: u16) -> Value {
    let assignment = without(endpoints("control-plane", control_plane), &["@type"]);
    let plane = without(cluster("control-plane", true), &["@type", "eds_cluster_config"]);
    let plane = with(with(plane, "type", "STATIC"), "load_assignment", assignment);
    json!({
        "node": { "id": node, "cluster": "demo" },
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": admin } } },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "control-plane" } }],
            },
            "cds_config": ads(),
            "lds_config": ads(),
        },
        "static_resources": { "clusters": [plane] },
    })
}

/// The object with one more field.
fn with(mut json: Value, key: &str, value: impl Into<Value>) -> Value {
    if let Some(object) = json.as_object_mut() {
        object.insert(key.to_owned(), value.into());
    }
    json
}

/// The object without some fields.
fn without(mut json: Value, keys: &[&str]) -> Value {
    if let Some(object) = json.as_object_mut() {
        object.retain(|key, _| !keys.contains(&key.as_str()));
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_follow_from_content_and_names_from_the_type() {
        let one = Resources::default().with(&[endpoints("echo", 1), cluster("echo", false)]).unwrap();
        let two = one.clone().with(&[endpoints("echo", 2)]).unwrap();
        let version = |of: &Resources| of.of(ResourceType::Endpoint).next().unwrap().1.version.clone();
        assert_ne!(version(&one), version(&two));
        assert_eq!(two.with(&[endpoints("echo", 1)]).unwrap(), one);
        assert_eq!(one.of(ResourceType::Cluster).next().unwrap().0, "echo");
    }

    #[test]
    fn what_is_no_resource_is_refused_with_its_name() {
        let error = |json: Value| Resources::default().set(&json).unwrap_err().to_string();
        assert!(error(json!({ "name": "x" })).contains("@type"));
        let mut wrong = cluster("echo", true);
        wrong["connect_timeot"] = "1s".into();
        assert!(error(wrong).contains("echo"));
    }
}
