//! The messages of `proto/`: xDS v3, admin dumps and Mizzen's own, generated at build time.
//!
//! Owns the generated types, one module per package (`proto::envoy::config::listener::v3::Listener`), and the
//! descriptor pool that turns them into canonical JSON and back (`json`). Used by the code at the rim only:
//! `xds translate bootstrap admin demo`; workers never see a message.

use std::sync::{Mutex, PoisonError};

use prost::Name;
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// The descriptor set, read in place.
pub mod described;
/// Canonical JSON of messages by type URL.
pub mod json;

#[expect(
    missing_docs,
    reason = "generated from proto/, whose public counterparts are documented by the xDS API"
)]
#[allow(clippy::all, rustdoc::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
}

pub use generated::{envoy, google, io, istio, mizzen, stats, udpa, xds};

/// The serialized `FileDescriptorSet` of `proto/`, imports included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static POOL: Mutex<Option<DescriptorPool>> = Mutex::new(None);

/// Descriptors of everything in `proto/`, built on first use (some milliseconds, two megabytes).
#[expect(clippy::expect_used, reason = "the set was made by this crate's build script")]
pub fn descriptor_pool() -> DescriptorPool {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    pool.get_or_insert_with(|| {
        DescriptorPool::decode(DESCRIPTORS).expect("a descriptor set that was just compiled")
    })
    .clone()
}

/// Gives back the memory of the pool, once nobody uses it any more. To be called when JSON has been dealt
/// with for now: the next use builds it anew.
pub fn release_descriptor_pool() {
    *POOL.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The full message name inside a type URL: what follows the last `/`.
pub fn message_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// The descriptor a type URL names, if the message is one of `proto/` or a well-known type.
pub fn descriptor(type_url: &str) -> Option<MessageDescriptor> {
    descriptor_pool().get_message_by_name(message_name(type_url))
}

/// Packs a generated message under its type URL.
pub fn pack<M: Name>(message: &M) -> prost_types::Any {
    prost_types::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Unpacks an `Any` if it holds an `M`: `None` for another type.
///
/// # Errors
/// The type URL names an `M` but the bytes are none.
pub fn unpack<M: Name + Default>(any: &prost_types::Any) -> Result<Option<M>, prost::DecodeError> {
    if message_name(&any.type_url) != M::full_name() {
        return Ok(None);
    }
    M::decode(any.value.as_slice()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_type_has_a_descriptor() {
        for name in ["envoy.config.listener.v3.Listener", "mizzen.v1.RpcProxy", "google.protobuf.Any"] {
            assert!(descriptor(&format!("type.googleapis.com/{name}")).is_some(), "{name}");
        }
        assert!(descriptor("type.googleapis.com/envoy.no.Such").is_none());
    }

    /// `tests/interop/check_protos.py` runs this to get the set it compares with the official descriptors.
    #[test]
    fn descriptor_set_round_trips_and_can_be_exported() {
        assert!(descriptor_pool().files().count() > 60);
        if let Ok(path) = std::env::var("MIZZEN_DESCRIPTORS_OUT") {
            std::fs::write(&path, DESCRIPTORS).unwrap();
        }
    }
}
