//! Where a client meant to go, for clusters of original destinations.

use super::Caller;
use crate::cluster::Cluster;
use crate::message::Head;
use crate::model::{Address, Discovery};
use crate::snapshot::View;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// What a request's header says, where the cluster asks for that, else the address its client connected to
/// before it was redirected. `None` where neither is known, and for addresses this proxy listens on, which
/// would come back again and again; both are counted.
pub(super) fn destination(
    view: &View,
    cluster: &Cluster,
    head: Option<&dyn Head>,
    caller: Caller,
) -> Option<SocketAddr> {
    let state = cluster.state();
    let Discovery::OriginalDst(settings) = &state.spec.model.discovery else { return None };
    let mut named = None;
    if let (Some(header), Some(head)) = (&settings.header, head) {
        let mut invalid = false;
        head.each_value(header, &mut |value| {
            let text = std::str::from_utf8(value).unwrap_or_default().trim();
            let bare = |port| Some(SocketAddr::new(text.parse().ok()?, port));
            let address = text.parse().ok().or_else(|| settings.default_port.and_then(bare));
            invalid |= address.is_none();
            named = named.or(address);
        });
        if invalid {
            cluster.stats.original_dst_host_invalid.inc();
            return None;
        }
    }
    let mut destination = named.or(caller.destination)?;
    if let Some(port) = settings.port_override {
        destination.set_port(port);
    }
    if settings.loopback {
        destination.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    destination.set_ip(destination.ip().to_canonical());
    if is_own(view, destination) {
        cluster.stats.original_dst_own_address.inc();
        return None;
    }
    Some(destination)
}

/// Whether this proxy listens there.
fn is_own(view: &View, destination: SocketAddr) -> bool {
    let sockets = view.listeners.values().filter(|listener| listener.model.bind_to_port);
    let mut addresses = sockets.flat_map(|listener| &listener.model.addresses);
    addresses.any(|address| match address {
        Address::Ip(own) if own.port() == destination.port() => {
            let own = own.ip().to_canonical();
            own == destination.ip() || (own.is_unspecified() && is_here(destination.ip()))
        }
        _ => false,
    })
}

/// Whether `ip` is one of this machine's. Asked rarely: only for ports that are listened on everywhere.
fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback() || ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || UdpSocket::bind((ip, 0)).is_ok()
}
