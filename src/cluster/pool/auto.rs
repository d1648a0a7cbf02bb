//! Connections to hosts that choose the version of HTTP themselves, by ALPN.
//!
//! Both versions are offered with every connection. What a host chose is known after the handshake: the connection
//! then goes to the pool of that version, whichever of the two dialled it, and so do those who waited for it. Until a
//! host has chosen they wait as for HTTP/2, many for one connection.

use super::dial::{Miss, Offer};
use super::{http1, http2};
use crate::cluster::{Cluster, Host, State};
use crate::message::Failure;
use crate::model::{Priority, UpstreamProtocol};
use crate::net::Conn;
use std::rc::Rc;

/// A version of HTTP towards a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cluster) enum Version {
    Http1,
    #[default]
    Http2,
}

/// A connection, or a place on one.
pub enum Lease {
    Http1(http1::Lease),
    Http2(http2::Lease),
}

/// A connection of the version the host chose, dialling one when needed. `fresh`: over HTTP/1, one that has carried
/// nothing yet. Without TLS nothing is negotiated, and it is HTTP/1.
///
/// # Errors
/// Connect failure or timeout, or a limit of connections or waiting requests.
pub async fn acquire(
    host: &Rc<Host>,
    cluster: &Rc<Cluster>,
    state: &Rc<State>,
    priority: Priority,
    fresh: bool,
) -> Result<Lease, Failure> {
    loop {
        if let Some(lease) = ready(host, fresh) {
            return Ok(lease);
        }
        let outcome = if host.tls().is_some() && host.version.get() == Version::Http2 {
            http2::Pool::obtain(host, cluster, state, priority).await.map(Lease::Http2)
        } else {
            http1::Pool::obtain(host, cluster, state, priority, fresh).await.map(Lease::Http1)
        };
        match outcome {
            Ok(lease) => return Ok(lease),
            Err(Miss::Other) => {}
            Err(miss) => return Err(miss.failure()),
        }
    }
}

/// A connection that is there.
pub fn ready(host: &Host, fresh: bool) -> Option<Lease> {
    match host.http2.ready() {
        Some(lease) => Some(Lease::Http2(lease)),
        None if fresh => None,
        None => host.http1.ready().map(Lease::Http1),
    }
}

/// What is offered by who would offer `only` if the cluster had one version.
pub(super) fn offer(state: &State, only: Offer) -> Offer {
    match state.spec.model.protocol {
        UpstreamProtocol::Auto => &["h2", "http/1.1"],
        _ => only,
    }
}

/// Whether the host chose another version on `io` than the one it was dialled for.
pub(super) fn is_other(dialled: Version, io: &Conn, host: &Host, state: &State) -> bool {
    let (UpstreamProtocol::Auto, Some(session)) = (state.spec.model.protocol, io.session()) else {
        return false;
    };
    let chosen = if session.is_http2() { Version::Http2 } else { Version::Http1 };
    host.version.set(chosen);
    chosen != dialled
}
