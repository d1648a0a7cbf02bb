//! `/clusters`: every cluster that serves, its limits and its hosts.

use super::body::Producer;
use super::derived::stat_name;
use super::json::pretty;
use crate::cluster::{ClusterEntry, ClusterSlot};
use crate::model::{Address, Discovery, Endpoint, Health, Locality, Thresholds};
use crate::snapshot::Snapshot;
use crate::telemetry::{Readings, Registry, Scope, Value};
use serde_json::{Value as Json, json};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

const PIECE: usize = 32 * 1024;

/// What both forms are made from.
pub struct Clusters {
    pub snapshot: Arc<Snapshot>,
    pub registry: Registry,
    /// Names of the clusters that are not from the control plane.
    pub statics: HashSet<Arc<str>>,
}

/// A host's numbers, in the order of the text form.
const HOST_STATS: [&str; 9] = [
    "cx_active",
    "cx_connect_fail",
    "cx_total",
    "rq_active",
    "rq_error",
    "rq_pending_active",
    "rq_success",
    "rq_timeout",
    "rq_total",
];

impl Clusters {
    fn ready(&self) -> impl Iterator<Item = &ClusterEntry> {
        self.snapshot.clusters.iter().filter_map(|slot| match slot {
            ClusterSlot::Ready(entry) => Some(entry),
            ClusterSlot::Absent | ClusterSlot::Warming => None,
        })
    }

    fn added_via_api(&self, entry: &ClusterEntry) -> bool {
        !self.statics.contains(entry.spec.model.name.as_str())
    }

    fn host_readings(&self, entry: &ClusterEntry, endpoint: &Endpoint) -> Readings {
        self.registry.scope(&Scope::host(&entry.spec.model.name, &shown(&endpoint.address)))
    }

    /// `name::key::value` lines.
    pub fn write_text(&self, out: &mut Producer) {
        let mut piece = String::new();
        for entry in self.ready() {
            self.text_head(&mut piece, entry);
            for locality in &entry.endpoints.localities {
                for endpoint in &locality.endpoints {
                    let readings = self.host_readings(entry, endpoint);
                    text_host(&mut piece, &entry.spec.model.name, locality, endpoint, &readings);
                    if piece.len() >= PIECE && !out.send(std::mem::take(&mut piece)) {
                        return;
                    }
                }
            }
            if piece.len() >= PIECE && !out.send(std::mem::take(&mut piece)) {
                return;
            }
        }
        out.send(piece);
    }

    fn text_head(&self, out: &mut String, entry: &ClusterEntry) {
        let model = &entry.spec.model;
        let name = &model.name;
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{name}::observability_name::{}", stat_name(entry));
        for (priority, limits) in [("default", &model.breakers.default), ("high", &model.breakers.high)] {
            for (key, value) in [
                ("max_connections", limits.max_connections),
                ("max_pending_requests", limits.max_pending_requests),
                ("max_requests", limits.max_requests),
                ("max_retries", limits.max_retries),
            ] {
                let _ = writeln!(out, "{name}::{priority}_priority::{key}::{value}");
            }
        }
        let _ = writeln!(out, "{name}::added_via_api::{}", self.added_via_api(entry));
        if let Some(service) = eds_name(entry) {
            let _ = writeln!(out, "{name}::eds_service_name::{service}");
        }
    }

    /// `{"cluster_statuses": […]}`.
    pub fn write_json(&self, out: &mut Producer) {
        let mut piece = "{\n \"cluster_statuses\": [".to_owned();
        let mut comma = "";
        for entry in self.ready() {
            piece.push_str(comma);
            comma = ",";
            piece.push_str("\n  ");
            piece.push_str(&pretty(&self.status(entry), 2));
            if piece.len() >= PIECE && !out.send(std::mem::take(&mut piece)) {
                return;
            }
        }
        piece.push_str("\n ]\n}\n");
        out.send(piece);
    }

    fn status(&self, entry: &ClusterEntry) -> Json {
        let model = &entry.spec.model;
        let mut status = json!({ "name": model.name });
        let Some(fields) = status.as_object_mut() else { return status };
        if self.added_via_api(entry) {
            fields.insert("added_via_api".into(), true.into());
        }
        let hosts: Vec<Json> = entry
            .endpoints
            .localities
            .iter()
            .flat_map(|locality| locality.endpoints.iter().map(move |endpoint| (locality, endpoint)))
            .map(|(locality, endpoint)| host_json(locality, endpoint, &self.host_readings(entry, endpoint)))
            .collect();
        if !hosts.is_empty() {
            fields.insert("host_statuses".into(), hosts.into());
        }
        let mut high = thresholds(&model.breakers.high);
        if let Some(high) = high.as_object_mut() {
            high.insert("priority".into(), "HIGH".into());
        }
        let both = [thresholds(&model.breakers.default), high];
        fields.insert("circuit_breakers".into(), json!({ "thresholds": both }));
        fields.insert("observability_name".into(), stat_name(entry).into());
        if let Some(service) = eds_name(entry) {
            fields.insert("eds_service_name".into(), service.into());
        }
        status
    }
}

fn eds_name(entry: &ClusterEntry) -> Option<&str> {
    match &entry.spec.model.discovery {
        Discovery::Eds { service_name, .. } => Some(service_name),
        Discovery::Static(_) | Discovery::Dns { .. } | Discovery::OriginalDst(_) => None,
    }
}

/// An address as the admin writes it: sockets of the file system by their path alone.
pub fn shown(address: &Address) -> String {
    match address {
        Address::Unix(path) => path.display().to_string(),
        other => other.to_string(),
    }
}

fn number(readings: &Readings, name: &str) -> i64 {
    match readings.get(name) {
        Some(Value::Counter(n)) => i64::try_from(*n).unwrap_or(i64::MAX),
        Some(Value::Gauge(n)) => n.unwrap_or(0),
        _ => 0,
    }
}

fn text_host(out: &mut String, cluster: &str, locality: &Locality, endpoint: &Endpoint, readings: &Readings) {
    let host = format!("{cluster}::{}", shown(&endpoint.address));
    for name in HOST_STATS {
        let _ = writeln!(out, "{host}::{name}::{}", number(readings, name));
    }
    let flags = match endpoint.health {
        Health::Healthy => "healthy",
        Health::Degraded => "/degraded_eds_health",
        Health::Unhealthy => "/failed_eds_health",
        Health::Draining => "/eds_status_draining",
    };
    let _ = write!(
        out,
        "{host}::hostname::{}\n{host}::health_flags::{flags}\n{host}::weight::{}\n{host}::region::{}\n\
         {host}::zone::{}\n{host}::sub_zone::{}\n{host}::canary::false\n{host}::priority::{}\n\
         {host}::success_rate::-1\n{host}::local_origin_success_rate::-1\n",
        endpoint.hostname,
        endpoint.weight,
        locality.region,
        locality.zone,
        locality.sub_zone,
        locality.priority
    );
}

/// An address in proto JSON.
pub fn address_json(address: &Address) -> Json {
    match address {
        Address::Ip(ip) => {
            json!({ "socket_address": { "address": ip.ip().to_string(), "port_value": ip.port() } })
        }
        Address::Unix(path) => json!({ "pipe": { "path": path.display().to_string() } }),
        Address::Name(name, port) => json!({ "socket_address": { "address": name, "port_value": port } }),
    }
}

/// A locality in proto JSON: empty parts are left out.
pub fn locality_json(locality: &Locality) -> Json {
    let parts = [("region", &locality.region), ("zone", &locality.zone), ("sub_zone", &locality.sub_zone)];
    parts
        .into_iter()
        .filter(|(_, v)| !v.is_empty())
        .map(|(k, v)| (k.to_owned(), Json::from(v.as_str())))
        .collect()
}

/// `envoy.config.core.v3.HealthStatus`.
pub fn health_word(health: Health) -> &'static str {
    match health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
    }
}

fn host_json(locality: &Locality, endpoint: &Endpoint, readings: &Readings) -> Json {
    let metric = |name: &str, gauge: bool| {
        let mut metric = serde_json::Map::new();
        if gauge {
            metric.insert("type".into(), "GAUGE".into());
        }
        match number(readings, name) {
            0 => None,
            // 64-bit numbers are strings in proto JSON.
            n => metric.insert("value".into(), n.to_string().into()),
        };
        metric.insert("name".into(), name.into());
        Json::Object(metric)
    };
    let counters = ["cx_connect_fail", "cx_total", "rq_error", "rq_success", "rq_timeout", "rq_total"];
    let gauges = ["cx_active", "rq_active", "rq_pending_active"];
    let stats: Vec<Json> =
        counters.iter().map(|n| metric(n, false)).chain(gauges.iter().map(|n| metric(n, true))).collect();
    let mut host = json!({
        "address": address_json(&endpoint.address),
        "stats": stats,
        "health_status": { "eds_health_status": health_word(endpoint.health) },
        "weight": endpoint.weight,
        "locality": locality_json(locality),
    });
    if let Some(fields) = host.as_object_mut() {
        if !endpoint.hostname.is_empty() {
            fields.insert("hostname".into(), endpoint.hostname.as_str().into());
        }
        if locality.priority != 0 {
            fields.insert("priority".into(), locality.priority.into());
        }
    }
    host
}

fn thresholds(limits: &Thresholds) -> Json {
    json!({
        "max_connections": limits.max_connections,
        "max_pending_requests": limits.max_pending_requests,
        "max_requests": limits.max_requests,
        "max_retries": limits.max_retries,
    })
}
