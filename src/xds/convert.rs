//! Between the generated messages and the plain values of `message`.
//!
//! The only file of the client that names discovery messages. Runs on the build thread.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::{DecodeError, Message as _};

use super::message::{Item, Request, RequestBody, Response};
use super::name::field;
use super::state::Variant;
use super::types::ResourceType;
use crate::proto::envoy::config::core::v3::{ControlPlane, Node};
use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest, ResourceName};
use crate::proto::google::rpc::Status;

/// The wrapper a state-of-the-world server may put around a resource, to give it a name and a TTL.
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";
/// `google.rpc.Code.INTERNAL`, the code Envoy sends with a NACK. Servers read the text.
const NACK_CODE: i32 = 13;

/// `DiscoveryResponse` as it lies on the wire: resources are found, not read. A control plane that repeats
/// 10,000 of them for one that changed then costs a comparison each and no copy.
#[derive(Clone, PartialEq, prost::Message)]
struct Sotw {
    #[prost(string, tag = "1")]
    version_info: String,
    /// Each a `google.protobuf.Any`.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(message, optional, tag = "6")]
    control_plane: Option<ControlPlane>,
}

/// `DeltaDiscoveryResponse` in the same manner.
#[derive(Clone, PartialEq, prost::Message)]
struct Delta {
    #[prost(string, tag = "1")]
    system_version_info: String,
    /// Each a `Resource`.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(string, repeated, tag = "6")]
    removed_resources: Vec<String>,
    #[prost(message, optional, tag = "7")]
    control_plane: Option<ControlPlane>,
    #[prost(message, repeated, tag = "8")]
    removed_resource_names: Vec<ResourceName>,
}

/// `Resource`, its body not read.
#[derive(Clone, PartialEq, prost::Message)]
struct Wrapped {
    #[prost(string, tag = "1")]
    version: String,
    /// A `google.protobuf.Any`.
    #[prost(bytes = "bytes", optional, tag = "2")]
    resource: Option<Bytes>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(message, optional, tag = "6")]
    ttl: Option<prost_types::Duration>,
    #[prost(message, optional, tag = "8")]
    resource_name: Option<ResourceName>,
}

/// Decodes one response of `variant`. Bodies are slices of `message`: whoever keeps one copies it.
///
/// # Errors
/// The bytes are not such a message.
pub fn decode(variant: Variant, message: impl Buf) -> Result<Response, DecodeError> {
    match variant {
        Variant::Sotw => from_sotw(Sotw::decode(message)?),
        Variant::Delta => from_delta(Delta::decode(message)?),
    }
}

fn from_sotw(response: Sotw) -> Result<Response, DecodeError> {
    let item = |any: Bytes| {
        let (type_url, body) = open(any)?;
        if type_url == WRAPPER
            && let Ok(item) = from_resource(body.clone())
        {
            return Ok(item);
        }
        Ok(Item { type_url, body: Some(body), ..Item::default() })
    };
    Ok(Response {
        type_url: response.type_url,
        nonce: response.nonce,
        version: response.version_info,
        items: response.resources.into_iter().map(item).collect::<Result<_, DecodeError>>()?,
        removed: Vec::new(),
        control_plane: identifier(response.control_plane),
    })
}

fn from_delta(response: Delta) -> Result<Response, DecodeError> {
    let mut removed = response.removed_resources;
    removed.extend(response.removed_resource_names.into_iter().map(|resource| resource.name));
    Ok(Response {
        type_url: response.type_url,
        nonce: response.nonce,
        version: response.system_version_info,
        items: response.resources.into_iter().map(from_resource).collect::<Result<_, _>>()?,
        removed,
        control_plane: identifier(response.control_plane),
    })
}

fn from_resource(bytes: Bytes) -> Result<Item, DecodeError> {
    let resource = Wrapped::decode(bytes)?;
    let name = match resource.resource_name {
        Some(given) if resource.name.is_empty() => given.name,
        _ => resource.name,
    };
    let (type_url, body) = match resource.resource {
        Some(any) => open(any).map(|(type_url, body)| (type_url, Some(body)))?,
        None => (Cow::Borrowed(""), None),
    };
    // A negative time to live is over at once.
    let ttl = resource.ttl.map(|ttl| Duration::try_from(ttl).unwrap_or_default());
    Ok(Item { name, version: resource.version, type_url, body, ttl })
}

/// The type URL and the body of an encoded `Any`.
fn open(any: Bytes) -> Result<(Cow<'static, str>, Bytes), DecodeError> {
    if let Some((url, value)) = parts(&any) {
        let url = match ResourceType::from_type_url(url) {
            Some(kind) => Cow::Borrowed(kind.type_url()),
            None => Cow::Owned(url.to_owned()),
        };
        return Ok((url, any.slice_ref(value)));
    }
    let any = prost_types::Any::decode(any)?;
    Ok((any.type_url.into(), any.value.into()))
}

/// `None` for what only a decoder can judge.
fn parts(any: &[u8]) -> Option<(&str, &[u8])> {
    let (mut rest, mut url, mut value) = (any, &[][..], &[][..]);
    while !rest.is_empty() {
        match field(rest)? {
            (1, Some(found), after) => (url, rest) = (found, after),
            (2, Some(found), after) => (value, rest) = (found, after),
            _ => return None,
        }
    }
    Some((std::str::from_utf8(url).ok()?, value))
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
        RequestBody::Sotw { version, names } => {
            let fields = DiscoveryRequest {
                version_info: version.to_string(),
                node,
                resource_names: Vec::new(),
                type_url,
                response_nonce,
                error_detail,
            };
            with_names(&fields, &names)
        }
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

/// `request` with its names. Every state-of-the-world answer repeats all of them: written straight from where
/// they are held. The order of fields means nothing.
fn with_names(request: &DiscoveryRequest, names: &[Arc<str>]) -> Vec<u8> {
    /// Field 3, length-delimited.
    const KEY: u8 = 3 << 3 | 2;
    let size: usize = names.iter().map(|name| 1 + prost::length_delimiter_len(name.len()) + name.len()).sum();
    let mut out = Vec::with_capacity(request.encoded_len() + size);
    // Neither can fail: a vector has room for anything.
    let _ = request.encode(&mut out);
    for name in names {
        out.push(KEY);
        let _ = prost::encode_length_delimiter(name.len(), &mut out);
        out.extend_from_slice(name.as_bytes());
    }
    out
}

fn texts(names: &[Arc<str>]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};

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
    fn responses_read_as_the_generated_messages_do() {
        let any = |url: &str, value: &[u8]| prost_types::Any { type_url: url.into(), value: value.to_vec() };
        let known = ResourceType::Endpoint.type_url();
        let control_plane = Some(ControlPlane { identifier: "cp".into() });
        let response = DiscoveryResponse {
            version_info: "v".into(),
            resources: vec![any(known, b"one"), any("x.Y", b""), any("", b"two")],
            canary: true,
            type_url: known.into(),
            nonce: "n".into(),
            control_plane: control_plane.clone(),
        };
        let read = decode(Variant::Sotw, response.encode_to_vec().as_slice()).unwrap();
        let items = read.items.iter().map(|item| (&*item.type_url, item.body.as_deref().unwrap()));
        let wanted = [(known, &b"one"[..]), ("x.Y", b""), ("", b"two")];
        assert_eq!(items.collect::<Vec<_>>(), wanted);
        assert_eq!((&*read.version, &*read.nonce, &*read.control_plane), ("v", "n", "cp"));

        let named = |name: &str| ResourceName { name: name.into() };
        let heartbeat = Resource { resource_name: Some(named("h")), ..Resource::default() };
        let full = Resource {
            name: "a".into(),
            version: "1".into(),
            resource: Some(any(known, b"one")),
            aliases: vec!["ignored".into()],
            ..Resource::default()
        };
        let response = DeltaDiscoveryResponse {
            resources: vec![full, heartbeat],
            removed_resources: vec!["r".into()],
            removed_resource_names: vec![named("s")],
            control_plane,
            ..DeltaDiscoveryResponse::default()
        };
        let read = decode(Variant::Delta, response.encode_to_vec().as_slice()).unwrap();
        let items = read.items.iter().map(|item| (&*item.name, &*item.version, item.body.as_deref()));
        assert_eq!(items.collect::<Vec<_>>(), [("a", "1", Some(&b"one"[..])), ("h", "", None)]);
        assert_eq!(read.removed, ["r", "s"]);
    }

    #[test]
    fn damaged_resource_is_a_damaged_response() {
        // An Any whose value claims more bytes than there are, and one whose type URL is not text.
        for any in [&b"\x12\x05ab"[..], b"\x0a\x01\xff"] {
            let response = Sotw { resources: vec![Bytes::copy_from_slice(any)], ..Sotw::default() };
            assert!(decode(Variant::Sotw, response.encode_to_vec().as_slice()).is_err(), "{any:?}");
        }
        // A field of a later release is stepped over.
        let any = Bytes::from_static(b"\x18\x01\x12\x01x");
        let response = Sotw { resources: vec![any], ..Sotw::default() };
        let read = decode(Variant::Sotw, response.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read.items[0].body.as_deref(), Some(&b"x"[..]));
    }

    #[test]
    fn names_of_a_request_are_read_back() {
        let long = "n".repeat(300);
        let names: Arc<[Arc<str>]> = Arc::from([Arc::from("a"), Arc::from(""), Arc::from(long.as_str())]);
        let body = RequestBody::Sotw { version: "7".into(), names };
        let request =
            Request { kind: ResourceType::Route, with_node: true, nonce: "n".into(), error: None, body };
        let node = Node { id: "id".into(), ..Node::default() };
        let read = DiscoveryRequest::decode(encode(request, &node).as_slice()).unwrap();
        assert_eq!(read.resource_names, ["a", "", long.as_str()]);
        assert_eq!((read.version_info.as_str(), read.response_nonce.as_str()), ("7", "n"));
        assert_eq!(read.node.unwrap().id, "id");
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
