//! Envoy v3 resources into the model.
//!
//! Takes in the bytes of one resource (what its `Any` holds); gives out the model with notes, or a `Rejection`
//! with every fault. An absent field means Envoy 1.40's default. Extensions are known by their type URL, also
//! inside `udpa`/`xds` `TypedStruct`, never by their name. What encrypts, restricts or redirects and is not
//! built is refused; what merely adds is noted.

use prost::{Message, Name};

use super::finding::{Findings, Note, NoteKind, Path, Rejection, Translated};
use super::unknown::{self, RemarkKind};
use crate::model;
use crate::proto::envoy::config;
use crate::proto::envoy::config::core::v3::TrafficDirection;
use crate::proto::envoy::extensions::transport_sockets::tls::v3 as tls_proto;

mod access_log;
mod chain;
mod cluster;
mod cluster_health;
mod cluster_http;
mod cluster_lb;
mod cluster_limits;
mod connections;
mod discovered;
mod endpoints;
mod extension;
mod filters;
mod headers;
mod http_edge;
mod http_filters;
mod http_manager;
mod listener;
mod listener_filters;
mod local_reply;
mod matchers;
mod mesh;
mod retry;
mod route;
mod route_action;
mod route_options;
mod route_rewrite;
pub mod runtime;
mod scopes;
mod service;
mod tables;
mod tls;
mod tls_validation;
mod values;

pub(in crate::translate) use discovered::Discovering;
pub use discovered::{Extensions, Wants};
pub use scopes::scoped_route;
pub use tables::{Known, route, route_after};

/// Largest resource, in bytes.
pub const MAX_RESOURCE: usize = 64 << 20;
/// Filter chains in one listener.
pub const MAX_CHAINS: usize = 1_000;
/// Routes in one table, over all its virtual hosts.
pub const MAX_ROUTES: usize = 100_000;

/// Translates an `envoy.config.listener.v3.Listener`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn listener(bytes: &[u8]) -> Result<Translated<model::Listener>, Rejection> {
    translate::<config::listener::v3::Listener, _>("Listener", bytes, listener::listener)
}

/// The same with extensions by discovery: those that are there. `late`: for others was waited long enough.
///
/// # Errors
/// Everything that is wrong with it.
pub fn listener_with(
    bytes: &[u8],
    held: &Extensions,
    late: bool,
) -> Result<(Translated<model::Listener>, Wants), Rejection> {
    let discovering = Discovering { held: Some(held.clone()), late, found: Wants::default() };
    let mut found = Wants::default();
    let mut out = Findings::default();
    out.discovering = discovering;
    let read = |message: &config::listener::v3::Listener, out: &mut Findings| {
        let model = listener::listener(message, out);
        found = std::mem::take(&mut out.discovering.found);
        model
    };
    let translated = translate_into(out, "Listener", bytes, read)?;
    Ok((translated, found))
}

/// Translates an `envoy.config.cluster.v3.Cluster`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn cluster(bytes: &[u8]) -> Result<Translated<model::Cluster>, Rejection> {
    translate::<config::cluster::v3::Cluster, _>("Cluster", bytes, cluster::cluster)
}

/// Translates an `envoy.config.endpoint.v3.ClusterLoadAssignment`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn endpoints(bytes: &[u8]) -> Result<Translated<model::Endpoints>, Rejection> {
    translate::<config::endpoint::v3::ClusterLoadAssignment, _>("ClusterLoadAssignment", bytes, |cla, out| {
        if cla.cluster_name.is_empty() {
            out.bad(&Path::ROOT.name("cluster_name"), "", "must not be empty");
        }
        Some(endpoints::endpoints(&Path::ROOT, cla, endpoints::Hosts::Addresses, out))
    })
}

/// Translates an `envoy.extensions.transport_sockets.tls.v3.Secret`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn secret(bytes: &[u8]) -> Result<Translated<model::Secret>, Rejection> {
    translate::<tls_proto::Secret, _>("Secret", bytes, tls::secret)
}

/// The name of a resource of any of these types, readable even if the rest does not decode.
pub fn resource_name(bytes: &[u8]) -> Option<&str> {
    unknown::top_string(bytes, 1).filter(|name| !name.is_empty())
}

/// Whether a listener, good or not, declares itself to be towards the workload's clients.
pub fn is_inbound(bytes: &[u8]) -> bool {
    let read = config::listener::v3::Listener::decode(bytes);
    read.is_ok_and(|listener| listener.traffic_direction() == TrafficDirection::Inbound)
}

fn translate<M: Message + Name + Default, T>(
    resource_type: &'static str,
    bytes: &[u8],
    read: impl FnOnce(&M, &mut Findings) -> Option<T>,
) -> Result<Translated<T>, Rejection> {
    translate_into(Findings::default(), resource_type, bytes, read)
}

fn translate_into<M: Message + Name + Default, T>(
    mut out: Findings,
    resource_type: &'static str,
    bytes: &[u8],
    read: impl FnOnce(&M, &mut Findings) -> Option<T>,
) -> Result<Translated<T>, Rejection> {
    let name = resource_name(bytes).unwrap_or_default();
    let model = if fits(bytes, &mut out) {
        open(&Path::ROOT, bytes, &mut out).and_then(|message| read(&message, &mut out))
    } else {
        None
    };
    out.verdict(resource_type, name, model)
}

/// Whether a resource is within the size limit.
fn fits(bytes: &[u8], out: &mut Findings) -> bool {
    if bytes.len() > MAX_RESOURCE {
        let why = format!("larger than {MAX_RESOURCE} bytes (the limit for one resource)");
        out.bad(&Path::ROOT, format_args!("{} bytes", bytes.len()), why);
    }
    bytes.len() <= MAX_RESOURCE
}

/// Decodes the message at `path`, and remarks on it.
fn open<M: Message + Name + Default>(path: &Path<'_>, bytes: &[u8], out: &mut Findings) -> Option<M> {
    let message = decode(path, bytes, out)?;
    remark::<M>(path, bytes, out);
    Some(message)
}

fn decode<M: Message + Default>(path: &Path<'_>, bytes: &[u8], out: &mut Findings) -> Option<M> {
    let message = M::decode(bytes);
    if let Err(error) = &message {
        out.bad(path, "", error);
    }
    message.ok()
}

/// What the protos do not know of the message at `path`, or know and nobody acts upon.
fn remark<M: Name>(path: &Path<'_>, bytes: &[u8], out: &mut Findings) {
    for remark in unknown::scan(&M::full_name(), bytes) {
        let at = path.name(&remark.path);
        let note = |kind| Note { path: at.to_string(), kind };
        match remark.kind {
            RemarkKind::Strict => out.bad(&at, "", "unknown field, which cannot be ignored here"),
            RemarkKind::Unknown => out.add_note(note(NoteKind::UnknownField)),
            RemarkKind::NoEffect => out.add_note(note(NoteKind::NoEffect)),
        }
    }
}

#[cfg(test)]
mod tests;
