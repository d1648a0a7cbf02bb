//! Looks into the state from outside: for config_dump, for the snapshot on disk, for the build thread.

use std::sync::Arc;

use bytes::Bytes;

use super::message::{RawResource, Rejected};
use super::state::AdsState;
use super::types::ResourceType;

/// A held resource, for dumps and for the snapshot on disk.
#[derive(Debug, Clone)]
pub struct DumpedResource {
    /// Its name.
    pub name: Arc<str>,
    /// Last accepted version, may be empty.
    pub version: Arc<str>,
    /// The encoded message, shared with the state.
    pub bytes: Bytes,
    /// When it was accepted, ms since 1970.
    pub updated_ms: u64,
}

/// Everything known about one type at one moment.
#[derive(Debug, Clone)]
pub struct TypeDump {
    /// The last version accepted as a whole.
    pub version: Arc<str>,
    /// What is held, in no order.
    pub resources: Vec<DumpedResource>,
    /// What was refused and not replaced since, in no order.
    pub rejected: Vec<Rejected>,
}

impl AdsState {
    /// The held resource of that name.
    #[must_use]
    pub fn held(&self, kind: ResourceType, name: &str) -> Option<RawResource> {
        let (name, held) = self.of(kind).store.held.get_key_value(name)?;
        Some(RawResource {
            name: name.clone(),
            bytes: held.bytes.clone(),
            version: held.version.clone(),
            wire_name: held.wire_name.clone(),
            ttl: None,
        })
    }

    /// Everything known about a type. Copies pointers, not resources.
    #[must_use]
    pub fn dump(&self, kind: ResourceType) -> TypeDump {
        let state = self.of(kind);
        let resources = state.store.held.iter().map(|(name, held)| DumpedResource {
            name: name.clone(),
            version: held.version.clone(),
            bytes: held.bytes.clone(),
            updated_ms: held.updated_ms,
        });
        TypeDump {
            version: state.accepted.clone(),
            resources: resources.collect(),
            rejected: state.store.rejected.values().cloned().collect(),
        }
    }
}
