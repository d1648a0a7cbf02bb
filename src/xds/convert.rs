//! Between the generated messages and the plain values of `message`.
//!
//! The only file of the client that names discovery messages. Runs on the build thread.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::Message as _;

use super::message::{Item, Request, RequestBody, Response};
use super::state::Variant;
use crate::proto::envoy::config::core::v3::{ControlPlane, Node};
use crate::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use crate::proto::google::rpc::Status;

/// The wrapper a state-of-the-world server may put around a resource, to give it a name and a TTL.
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";
/// `google.rpc.Code.INTERNAL`, the code Envoy sends with a NACK. Servers read the text.
const NACK_CODE: i32 = 13;

/// Decodes one response of `variant`. Every resource gets memory of its own.
///
/// # Errors
/// The bytes are not such a message.
pub fn decode(variant: Variant, message: impl Buf) -> Result<Response, prost::DecodeError> {
    match variant {
        Variant::Sotw => DiscoveryResponse::decode(message).map(from_sotw),
        Variant::Delta => DeltaDiscoveryResponse::decode(message).map(from_delta),
    }
}

fn from_sotw(response: DiscoveryResponse) -> Response {
    let item = |any: prost_types::Any| {
        if any.type_url == WRAPPER
            && let Ok(resource) = Resource::decode(any.value.as_slice())
        {
            return from_resource(resource);
        }
        Item { type_url: any.type_url, body: Some(Bytes::from(any.value)), ..Item::default() }
    };
    Response {
        type_url: response.type_url,
        nonce: response.nonce,
        version: response.version_info,
        items: response.resources.into_iter().map(item).collect(),
        removed: Vec::new(),
        control_plane: identifier(response.control_plane),
    }
}

fn from_delta(response: DeltaDiscoveryResponse) -> Response {
    let mut removed = response.removed_resources;
    removed.extend(response.removed_resource_names.into_iter().map(|resource| resource.name));
    Response {
        type_url: response.type_url,
        nonce: response.nonce,
        version: response.system_version_info,
        items: response.resources.into_iter().map(from_resource).collect(),
        removed,
        control_plane: identifier(response.control_plane),
    }
}

fn from_resource(resource: Resource) -> Item {
    let name = match resource.resource_name {
        Some(given) if resource.name.is_empty() => given.name,
        _ => resource.name,
    };
    let (type_url, body) = match resource.resource {
        Some(any) => (any.type_url, Some(Bytes::from(any.value))),
        None => (String::new(), None),
    };
    // A negative time to live is over at once.
    let ttl = resource.ttl.map(|ttl| Duration::try_from(ttl).unwrap_or_default());
    Item { name, version: resource.version, type_url, body, ttl }
}

fn identifier(control_plane: Option<ControlPlane>) -> String {
    control_plane.map(|control_plane| control_plane.identifier).unwrap_or_default()
}

/// Encodes a request; `node` goes into the first of a stream.
#[must_use]
pub fn encode(request: Request, node: &Node) -> Vec<u8> {
    let node = request.with_node.then(|| node.clone());
    let type_url = request.kind.type_url().to_owned();
    let response_nonce = request.nonce.to_string();
    let error_detail = request.error.map(|message| Status { code: NACK_CODE, message, ..Status::default() });
    match request.body {
        RequestBody::Sotw { version, names } => DiscoveryRequest {
            version_info: version.to_string(),
            node,
            resource_names: texts(&names),
            type_url,
            response_nonce,
            error_detail,
        }
        .encode_to_vec(),
        RequestBody::Delta { subscribe, unsubscribe, initial_versions } => DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe: texts(&subscribe),
            resource_names_unsubscribe: texts(&unsubscribe),
            initial_resource_versions: initial_versions
                .into_iter()
                .map(|(name, version)| (name.to_string(), version.to_string()))
                .collect(),
            response_nonce,
            error_detail,
        }
        .encode_to_vec(),
    }
}

fn texts(names: &[Arc<str>]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::types::ResourceType;

    #[test]
    fn wrapped_state_of_the_world_resource_is_unwrapped() {
        let cluster = prost_types::Any {
            type_url: ResourceType::Cluster.type_url().into(),
            value: vec![0x0a, 1, b'a'],
        };
        let resource = Resource {
            name: "a".into(),
            version: "7".into(),
            resource: Some(cluster.clone()),
            ..Resource::default()
        };
        let wrapped = prost_types::Any { type_url: WRAPPER.into(), value: resource.encode_to_vec() };
        let response =
            DiscoveryResponse { resources: vec![wrapped, cluster], ..DiscoveryResponse::default() };
        let items = decode(Variant::Sotw, response.encode_to_vec().as_slice()).unwrap().items;
        assert_eq!((items[0].name.as_str(), items[0].version.as_str()), ("a", "7"));
        assert_eq!((items[1].name.as_str(), items[1].version.as_str()), ("", ""));
        assert_eq!(items[0].body, items[1].body);
        assert_eq!(items[0].type_url, ResourceType::Cluster.type_url());
    }

    #[test]
    fn requests_of_the_size_the_state_allows_stay_below_four_mib() {
        use crate::xds::requests::{MAX_REQUEST_BYTES, delta_subscription};
        let names: Vec<Arc<str>> =
            (0..60_000).map(|n| Arc::from(format!("outbound|80||s{n}.ns.svc.cluster.local"))).collect();
        let versions: Vec<_> =
            names.iter().map(|name| (name.clone(), Arc::from("2026-11-20T16:23:03Z/1"))).collect();
        let (requests, written) =
            delta_subscription(ResourceType::Endpoint, &names, &versions, MAX_REQUEST_BYTES);
        assert!(written < versions.len());
        for request in requests {
            let bytes = encode(request, &Node::default()).len();
            assert!(bytes < 4 * 1024 * 1024, "{bytes}");
        }
    }
}
