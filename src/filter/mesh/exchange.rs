//! Peers tell each other who they are in headers, which nobody behind them sees.

use super::{Mesh, Peers};
use crate::filter::World;
use crate::message::{Headers, Request};
use crate::model::PeerMetadata;

const ID: &str = "x-envoy-peer-metadata-id";
const VALUE: &str = "x-envoy-peer-metadata";
/// Outside the mesh, whatever its metadata says.
const PASSTHROUGH: &str = "PassthroughCluster";

/// A request: whom is it from, and who are we?
pub(in crate::filter) fn on_request(
    config: &PeerMetadata,
    request: &mut dyn Request,
    world: &World<'_>,
    peers: &mut Peers,
) {
    if config.of_clients {
        let (id, value) = (request.value(ID).map(|id| id.into_owned()), request.value(VALUE));
        peers.asked = (id.is_some(), value.is_some());
        let heard = value.and_then(|value| world.mesh.heard(id.as_deref().unwrap_or_default(), &value));
        peers.client = peers.client.take().or(heard);
        request.remove(ID);
        request.remove(VALUE);
    }
    if config.tell_servers && !is_untold(config.skip_external, world) {
        tell(config, world.mesh, request, (true, true));
    }
}

/// Its response: who answered?
pub(in crate::filter) fn on_response(
    config: &PeerMetadata,
    headers: &mut dyn Headers,
    world: &World<'_>,
    peers: &mut Peers,
) {
    if config.of_servers {
        let (id, value) = (headers.value(ID).map(|id| id.into_owned()), headers.value(VALUE));
        let heard = value.and_then(|value| world.mesh.heard(id.as_deref().unwrap_or_default(), &value));
        peers.server = peers.server.take().or(heard);
        headers.remove(ID);
        headers.remove(VALUE);
    }
    if config.tell_clients && !is_untold(false, world) {
        tell(config, world.mesh, headers, peers.asked);
    }
}

/// Whether the hosts of the request's cluster are told nothing.
fn is_untold(skip_external: bool, world: &World<'_>) -> bool {
    let Some((name, _)) = world.cluster else { return false };
    let external = name == PASSTHROUGH || world.cluster_mesh.is_some_and(|mesh| mesh.external);
    (skip_external && external) || world.cluster_mesh.is_some_and(|mesh| mesh.disable_exchange)
}

fn tell<H: Headers + ?Sized>(config: &PeerMetadata, mesh: &Mesh, headers: &mut H, (id, value): (bool, bool)) {
    if id {
        headers.set(ID, mesh.registry.node().id.as_bytes());
    }
    if value {
        headers.set(VALUE, &mesh.told(&config.labels));
    }
}
