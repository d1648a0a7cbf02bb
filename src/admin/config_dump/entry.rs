//! One resource as an entry of a dump.

use super::sections::Form;
use crate::admin::clusters::{address_json, health_word, locality_json};
use crate::admin::redact::redact;
use crate::admin::source::{Body, Failed, Kind, Resource, Version};
use crate::cluster::ClusterEntry;
use crate::proto::json as proto_json;
use crate::telemetry::clock::rfc3339;
use serde_json::{Map, Value as Json, json};
use std::time::SystemTime;

fn field_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "cluster",
        Kind::Endpoint => "endpoint_config",
        Kind::Listener => "listener",
        Kind::Route => "route_config",
        Kind::Extension => "ecds_filter",
        Kind::ScopedRoute => "scoped_route_configs",
        Kind::Secret => "secret",
    }
}

pub(super) fn type_url(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        Kind::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
        Kind::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        Kind::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        Kind::ScopedRoute => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
        Kind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    }
}

/// A resource's body as an `Any` in JSON, redacted.
pub fn any_json(kind: Kind, body: &Body) -> Json {
    let mut json = match body {
        Body::Proto(bytes) => proto_json::any_to_json(&prost_types::Any {
            type_url: type_url(kind).into(),
            value: bytes.to_vec(),
        }),
        Body::Json(value) => {
            json!({ "@type": "type.googleapis.com/google.protobuf.Struct", "value": &**value })
        }
    };
    redact(&mut json);
    json
}

pub(super) fn entry(kind: Kind, form: Form, resource: &Resource) -> Json {
    let mut fields = Map::new();
    let named =
        matches!(kind, Kind::Secret | Kind::ScopedRoute) || (kind == Kind::Listener && form == Form::States);
    if named {
        fields.insert("name".into(), (&*resource.name).into());
    }
    match form {
        Form::States if kind == Kind::Listener => {
            for (key, version) in [("active_state", &resource.active), ("warming_state", &resource.warming)] {
                if let Some(version) = version {
                    fields.insert(key.into(), Json::Object(version_fields(kind, version)));
                }
            }
        }
        Form::Static => {
            if let Some(version) = &resource.active {
                fields.extend(version_fields(kind, version).into_iter().filter(|(k, _)| k != "version_info"));
            }
        }
        Form::Active => fields.extend(resource.active.iter().flat_map(|v| version_fields(kind, v))),
        Form::Warming => fields.extend(resource.warming.iter().flat_map(|v| version_fields(kind, v))),
        Form::States => {
            let version = resource.active.as_ref().or(resource.warming.as_ref());
            fields.extend(version.into_iter().flat_map(|v| version_fields(kind, v)));
        }
    }
    if form != Form::Static {
        if let Some(failed) = &resource.failed {
            fields.insert("error_state".into(), error_state(kind, failed));
        }
        let status = resource.client_status();
        if status != "ACKED" {
            fields.insert("client_status".into(), status.into());
        }
    }
    Json::Object(fields)
}

fn version_fields(kind: Kind, version: &Version) -> Map<String, Json> {
    let mut fields = Map::new();
    if !version.version.is_empty() {
        fields.insert("version_info".into(), (&*version.version).into());
    }
    let body = match any_json(kind, &version.body) {
        // A set that has one member here.
        one if kind == Kind::ScopedRoute => Json::Array(vec![one]),
        one => one,
    };
    fields.insert(field_of(kind).into(), body);
    fields.insert("last_updated".into(), time(version.updated));
    fields
}

fn error_state(kind: Kind, failed: &Failed) -> Json {
    let mut fields = Map::new();
    if let Some(body) = &failed.body {
        fields.insert("failed_configuration".into(), any_json(kind, &Body::Proto(body.clone())));
    }
    fields.insert("last_update_attempt".into(), time(failed.at));
    fields.insert("details".into(), failed.details.as_str().into());
    if !failed.version.is_empty() {
        fields.insert("version_info".into(), (&*failed.version).into());
    }
    Json::Object(fields)
}

fn time(at: SystemTime) -> Json {
    rfc3339(at).into()
}

/// A cluster's own hosts, as Envoy shows them among the static ones.
pub(super) fn endpoint_entry(entry: &ClusterEntry) -> Json {
    let localities: Vec<Json> = entry
        .endpoints
        .localities
        .iter()
        .map(|locality| {
            let hosts: Vec<Json> = locality
                .endpoints
                .iter()
                .map(|host| {
                    let mut endpoint = json!({ "address": address_json(&host.address) });
                    if let (false, Some(fields)) = (host.hostname.is_empty(), endpoint.as_object_mut()) {
                        fields.insert("hostname".into(), host.hostname.as_str().into());
                    }
                    json!({
                        "endpoint": endpoint,
                        "health_status": health_word(host.health),
                        "load_balancing_weight": host.weight,
                    })
                })
                .collect();
            json!({
                "locality": locality_json(locality),
                "lb_endpoints": hosts,
                "load_balancing_weight": locality.weight,
                "priority": locality.priority,
            })
        })
        .collect();
    json!({ "endpoint_config": {
        "@type": type_url(Kind::Endpoint),
        "cluster_name": entry.spec.model.name,
        "endpoints": localities,
        "policy": { "overprovisioning_factor": entry.endpoints.overprovisioning },
    }})
}
