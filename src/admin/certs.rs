//! `/certs`: the certificates in use, as Envoy shows them.

use crate::model::SanKind;
use crate::telemetry::clock::rfc3339;
use crate::tls::{CertInfo, SecretState, Secrets};
use serde_json::{Value as Json, json};
use std::time::SystemTime;

/// One entry for each certificate and each bundle.
pub(super) fn json(secrets: &Secrets) -> Json {
    let now = SystemTime::now();
    let entry = |state: &SecretState| {
        let list = |path: &str, infos: &[CertInfo]| -> Json {
            infos.iter().map(|info| certificate(path, info, now)).collect()
        };
        match state {
            SecretState::Missing => None,
            SecretState::Certificate { path, infos, .. } => {
                Some(json!({ "ca_cert": [], "cert_chain": list(path, infos) }))
            }
            SecretState::Trust { path, infos, .. } => {
                Some(json!({ "ca_cert": list(path, infos), "cert_chain": [] }))
            }
        }
    };
    let certificates: Vec<Json> = secrets.status().iter().filter_map(|secret| entry(&secret.state)).collect();
    json!({ "certificates": certificates })
}

fn certificate(path: &str, info: &CertInfo, now: SystemTime) -> Json {
    let san = |(kind, name): &(SanKind, String)| match kind {
        SanKind::Uri => Some(json!({ "uri": name })),
        SanKind::Dns => Some(json!({ "dns": name })),
        SanKind::Ip => Some(json!({ "ip_address": name })),
        SanKind::Email => None,
    };
    json!({
        "path": path,
        "serial_number": info.serial,
        "subject_alt_names": info.sans.iter().filter_map(san).collect::<Vec<Json>>(),
        "days_until_expiration": info.days_left(now).max(0).to_string(),
        "valid_from": rfc3339(info.not_before),
        "expiration_time": rfc3339(info.not_after),
    })
}
