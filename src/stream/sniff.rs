//! Which protocol a connection speaks, told by configuration or its first bytes.

use super::{Handle, Local, rpc};
use crate::model::{Codec, Protocol};
use crate::net::Conn;
use crate::snapshot::FilterSpec;
use bytes::BytesMut;
use std::rc::Rc;

/// Serves a connection of an HTTP or RPC filter to its end.
pub async fn serve_sniffed(io: Conn, handle: Rc<Handle>, local: Rc<Local>) {
    let bound = handle.bound();
    let protocol = match &bound.chain.filter {
        FilterSpec::Rpc { config, .. } => config.downstream,
        FilterSpec::Http { config, .. } if config.codec == Codec::Http2 => Protocol::Http2,
        _ => Protocol::Auto,
    };
    let stats = match &bound.chain.filter {
        FilterSpec::Rpc { config, .. } => local.rpc_stats(&config.stat_prefix),
        _ => return,
    };
    drop(bound);
    match protocol {
        Protocol::Bolt => rpc::serve(io, BytesMut::new(), handle, local, stats).await,
        Protocol::Http2 | Protocol::Auto => {}
    }
}
