//! `/clusters`: every cluster that serves, its limits and its hosts.

use super::body::Producer;
use super::derived::stat_name;
use super::json::pretty;
use crate::cluster::{
    ACTIVE_TIMEOUT, ClusterEntry, ClusterSlot, DEGRADED_ACTIVE, EXCLUDED_IMMEDIATE, FAILED_ACTIVE,
    FAILED_OUTLIER, PENDING_ACTIVE,
};
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
                    let known = Known::of(entry, endpoint);
                    text_host(&mut piece, &entry.spec.model.name, locality, endpoint, &known, &readings);
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
            .map(|(locality, endpoint)| {
                let (known, readings) = (Known::of(entry, endpoint), self.host_readings(entry, endpoint));
                host_json(locality, endpoint, &known, &readings)
            })
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

/// What the workers' shared state says of a host; nothing where nobody uses it.
struct Known {
    flags: u32,
    success_rate: Option<f64>,
    local_success_rate: Option<f64>,
}

impl Known {
    fn of(entry: &ClusterEntry, endpoint: &Endpoint) -> Known {
        match entry.spec.shared.host(&endpoint.address) {
            Some(state) => Known {
                flags: state.flags(),
                success_rate: state.success_rate(false),
                local_success_rate: state.success_rate(true),
            },
            None => Known {
                flags: entry.spec.first_flags(endpoint),
                success_rate: None,
                local_success_rate: None,
            },
        }
    }

    /// The flags in Envoy's order and words.
    fn words(&self, health: Health) -> String {
        let words = [
            (self.flags & FAILED_ACTIVE != 0, "/failed_active_hc"),
            (self.flags & FAILED_OUTLIER != 0, "/failed_outlier_check"),
            (health == Health::Unhealthy, "/failed_eds_health"),
            (self.flags & DEGRADED_ACTIVE != 0, "/degraded_active_hc"),
            (health == Health::Degraded, "/degraded_eds_health"),
            (self.flags & PENDING_ACTIVE != 0, "/pending_active_hc"),
            (self.flags & EXCLUDED_IMMEDIATE != 0, "/excluded_via_immediate_hc_fail"),
            (self.flags & ACTIVE_TIMEOUT != 0, "/active_hc_timeout"),
            (health == Health::Draining, "/eds_status_draining"),
        ];
        let set: String = words.into_iter().filter(|(set, _)| *set).map(|(_, word)| word).collect();
        if set.is_empty() { "healthy".to_owned() } else { set }
    }

    /// `HostHealthStatus`: what is false is left out.
    fn json(&self, health: Health) -> Json {
        let flags = [
            (FAILED_ACTIVE, "failed_active_health_check"),
            (FAILED_OUTLIER, "failed_outlier_check"),
            (DEGRADED_ACTIVE, "failed_active_degraded_check"),
            (PENDING_ACTIVE, "pending_active_hc"),
            (EXCLUDED_IMMEDIATE, "excluded_via_immediate_hc_fail"),
            (ACTIVE_TIMEOUT, "active_hc_timeout"),
        ];
        let mut status = json!({ "eds_health_status": health_word(health) });
        if let Some(fields) = status.as_object_mut() {
            let set = flags.into_iter().filter(|(mask, _)| self.flags & mask != 0);
            fields.extend(set.map(|(_, name)| (name.to_owned(), true.into())));
        }
        status
    }
}

fn text_host(
    out: &mut String,
    cluster: &str,
    locality: &Locality,
    endpoint: &Endpoint,
    known: &Known,
    readings: &Readings,
) {
    let host = format!("{cluster}::{}", shown(&endpoint.address));
    for name in HOST_STATS {
        let _ = writeln!(out, "{host}::{name}::{}", number(readings, name));
    }
    let flags = known.words(endpoint.health);
    let rate = |rate: Option<f64>| rate.unwrap_or(-1.0);
    let _ = write!(
        out,
        "{host}::hostname::{}\n{host}::health_flags::{flags}\n{host}::weight::{}\n{host}::region::{}\n\
         {host}::zone::{}\n{host}::sub_zone::{}\n{host}::canary::false\n{host}::priority::{}\n\
         {host}::success_rate::{}\n{host}::local_origin_success_rate::{}\n",
        endpoint.hostname,
        endpoint.weight,
        locality.region,
        locality.zone,
        locality.sub_zone,
        locality.priority,
        rate(known.success_rate),
        rate(known.local_success_rate)
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
        Address::Internal(name) => json!({ "envoy_internal_address": { "server_listener_name": name } }),
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

fn host_json(locality: &Locality, endpoint: &Endpoint, known: &Known, readings: &Readings) -> Json {
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
        "health_status": known.json(endpoint.health),
        "weight": endpoint.weight,
        "locality": locality_json(locality),
    });
    if let Some(fields) = host.as_object_mut() {
        if !endpoint.hostname.is_empty() {
            fields.insert("hostname".into(), endpoint.hostname.as_str().into());
        }
        for (name, rate) in
            [("success_rate", known.success_rate), ("local_origin_success_rate", known.local_success_rate)]
        {
            if let Some(rate) = rate {
                fields.insert(name.into(), json!({ "value": rate }));
            }
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
