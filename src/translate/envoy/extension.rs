//! Extension points: what an `Any` holds, by type URL.

use std::borrow::Cow;

use prost::{Message, Name};
use prost_types::{Any, Struct, value::Kind};
use serde_json::{Map, Value as Json};

use crate::proto::envoy::config::core::v3::ExtensionConfigSource;
use crate::proto::{json, message_name, udpa, xds};
use crate::translate::finding::{Findings, Path};
use crate::translate::locate::locate;

/// HTTP filters that admit or deny.
const RESTRICTING: &[&str] = &[
    "api_key_auth",
    "basic_auth",
    "csrf",
    "ext_authz",
    "jwt_authn",
    "local_ratelimit",
    "oauth2",
    "ratelimit",
    "rbac",
];

/// An extension's configuration, taken out of its envelope.
pub(super) struct Extension<'a> {
    /// The type that counts: a `TypedStruct` is replaced by what it describes.
    pub type_url: Cow<'a, str>,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Extension<'a> {
    /// Opens an `Any`. A `TypedStruct` of a known type is converted; its faults are findings.
    pub(super) fn open(path: &Path<'_>, any: &'a Any, out: &mut Findings) -> Option<Extension<'a>> {
        let name = message_name(&any.type_url);
        let (type_url, value) = if name == udpa::r#type::v1::TypedStruct::full_name() {
            let inner = decode::<udpa::r#type::v1::TypedStruct>(path, &any.value, out)?;
            (inner.type_url, inner.value)
        } else if name == xds::r#type::v3::TypedStruct::full_name() {
            let inner = decode::<xds::r#type::v3::TypedStruct>(path, &any.value, out)?;
            (inner.type_url, inner.value)
        } else {
            let type_url = Cow::Borrowed(any.type_url.as_str());
            return Some(Extension { type_url, bytes: Cow::Borrowed(&any.value) });
        };
        let json = struct_to_json(value.as_ref());
        let bytes = match json::decode_json(&type_url, &json) {
            Ok(bytes) => bytes,
            // Whoever asked refuses it by its type.
            Err(json::Error::UnknownType(_)) => Vec::new(),
            Err(error) => {
                // The reader of JSON does not say where: the field that is refused by itself is the one.
                let fault = locate(&type_url, &json, &error.to_string());
                let value = if fault.value.is_empty() { &type_url } else { &fault.value };
                let at = path.name("value");
                let field = at.name(&fault.path);
                out.bad(if fault.path.is_empty() { &at } else { &field }, value, fault.message);
                return None;
            }
        };
        Some(Extension { type_url: type_url.into(), bytes: bytes.into() })
    }

    /// One of this type that says nothing.
    pub(super) fn named(type_url: &'a str) -> Extension<'a> {
        Extension { type_url: Cow::Borrowed(type_url), bytes: Cow::Borrowed(&[]) }
    }

    /// The same, on its own.
    pub(super) fn into_owned(self) -> Extension<'static> {
        let Extension { type_url, bytes } = self;
        Extension { type_url: type_url.into_owned().into(), bytes: bytes.into_owned().into() }
    }

    /// Whether it is an `M`.
    pub(super) fn is<M: Name>(&self) -> bool {
        message_name(&self.type_url) == M::full_name()
    }

    /// Whether it admits or denies requests, or counts them to deny some: never skipped, optional or not.
    pub(super) fn restricts(&self) -> bool {
        let name = message_name(&self.type_url);
        let filter = name.strip_prefix("envoy.extensions.filters.http.").and_then(|n| n.split('.').next());
        filter.is_some_and(|filter| RESTRICTING.contains(&filter))
    }

    /// The message inside; bytes that do not decode are a finding.
    pub(super) fn decode<M: Message + Default>(&self, path: &Path<'_>, out: &mut Findings) -> Option<M> {
        decode(path, &self.bytes, out)
    }
}

/// Why extensions of this type are never served, if somebody may expect that they are.
pub(super) fn why_never(type_url: &str) -> Option<&'static str> {
    let name = message_name(type_url);
    if name.contains(".wasm.") {
        Some("WebAssembly is not run here")
    } else if name.contains(".lua.") {
        Some("Lua is not run here")
    } else {
        None
    }
}

/// Refuses an extension to be discovered that could not be served: at once, so that nobody waits for it.
pub(super) fn refuse_discovery(path: &Path<'_>, source: &ExtensionConfigSource, out: &mut Findings) {
    let at = path.name("config_discovery");
    let types = source.type_urls.iter().map(|url| message_name(url)).collect::<Vec<_>>().join(", ");
    let never: Option<Vec<_>> = source.type_urls.iter().map(|url| why_never(url)).collect();
    match never.as_deref() {
        Some([why, ..]) => {
            out.bad(&at.name("type_urls"), types, format_args!("none of these can be served: {why}"))
        }
        _ => out.bad(&at.name("type_urls"), types, "none of these types can be served"),
    }
}

fn decode<M: Message + Default>(path: &Path<'_>, bytes: &[u8], out: &mut Findings) -> Option<M> {
    match M::decode(bytes) {
        Ok(message) => Some(message),
        Err(error) => {
            out.bad(path, "", error);
            None
        }
    }
}

fn struct_to_json(value: Option<&Struct>) -> Json {
    let fields = value.map(|s| &s.fields).into_iter().flatten();
    Json::Object(fields.map(|(k, v)| (k.clone(), value_to_json(v))).collect::<Map<_, _>>())
}

/// A value in JSON.
pub(super) fn value_to_json(value: &prost_types::Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::NumberValue(n)) => number(*n),
        Some(Kind::StringValue(s)) => s.as_str().into(),
        Some(Kind::BoolValue(b)) => (*b).into(),
        Some(Kind::StructValue(s)) => struct_to_json(Some(s)),
        Some(Kind::ListValue(list)) => list.values.iter().map(value_to_json).collect(),
    }
}

/// A Struct has doubles only: whole ones become integers again, which integer fields want.
fn number(n: f64) -> Json {
    if n.fract() == 0.0 && n.abs() < 9.0e15 { Json::from(n as i64) } else { Json::from(n) }
}
