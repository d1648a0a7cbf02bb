//! Secrets by discovery as the dump shows them: certificates as they are, keys never.

use crate::admin::{Body, Failed, Kind, Resource, TypeState, Version};
use crate::proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use crate::proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use crate::tls::{SecretState, SecretStatus, Secrets};
use prost::Message;
use std::time::SystemTime;

/// All of them, those that have not come included.
pub(super) fn state(secrets: &Secrets) -> TypeState {
    let status = secrets.status();
    let resources = status.iter().filter(|status| status.secret.is_some()).map(resource).collect();
    TypeState { kind: Kind::Secret, version: "".into(), resources }
}

fn resource(status: &SecretStatus) -> Resource {
    let data = |bytes: &[u8]| {
        Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())), ..DataSource::default() })
    };
    let content = match &status.state {
        SecretState::Missing => None,
        SecretState::Certificate { pem, .. } => Some(pb::secret::Type::TlsCertificate(pb::TlsCertificate {
            certificate_chain: data(pem),
            private_key: data(b"[redacted]"),
            ..pb::TlsCertificate::default()
        })),
        SecretState::Trust { pem, .. } => {
            Some(pb::secret::Type::ValidationContext(pb::CertificateValidationContext {
                trusted_ca: data(pem),
                ..pb::CertificateValidationContext::default()
            }))
        }
    };
    let here = content.is_some();
    let message = pb::Secret { name: status.name.clone(), r#type: content };
    let version = Version {
        version: if here { status.version.as_str() } else { "uninitialized" }.into(),
        updated: status.updated.unwrap_or_else(SystemTime::now),
        body: Body::Proto(message.encode_to_vec().into()),
    };
    let mut resource = Resource::active(&status.name, false, version);
    if !here {
        resource.warming = resource.active.take();
        resource.blocked_by = vec![format!("SDS {}", status.name)];
    }
    resource.failed = status.error.as_ref().map(|error| Failed {
        at: SystemTime::now(),
        version: "".into(),
        details: error.clone(),
        body: None,
        acked: false,
    });
    resource
}
