//! HTTP/1.0 and 1.1: heads and bodies from bytes, and back.
//!
//! Takes in the bytes of a connection as they come, gives out heads in the proxy's common form and bodies in
//! pieces; the other way round it fills an [`Out`]. The common form is that of HTTP/2: the host is the
//! target's authority and no `host` field is beside it, names are lower case (how they were written is kept in
//! [`NameCase`]), and fields that concern one connection only are gone: `connection` and what it names,
//! `keep-alive`, `proxy-connection`, `transfer-encoding`, `http2-settings`, `te` other than `trailers`, and
//! `upgrade` where there is nothing to upgrade to. Cookie lines are joined. Values are slices of the input.
//!
//! Strict: whatever two readers could understand differently is refused (RFC 9112, 11.2). [`Limits::lenient`]
//! permits bare LF, obs-fold, equal repeated Content-Length, and HTTP/1.0 without Host, in heads; nothing else.

mod body;
mod case;
mod chunked;
mod connection;
mod encode;
mod fault;
mod fields;
mod framing;
mod request;
mod response;
mod scan;
mod target;
mod write;

#[cfg(test)]
mod tests;

pub use body::{BodyDecoder, Piece};
pub use case::NameCase;
pub use encode::{
    BodyEncoder, BodyLength, Out, ResponseTo, WrongLength, request as encode_request,
    response as encode_response,
};
pub use fault::Fault;
pub use framing::Framing;
pub use request::{RequestDecoder, RequestHead, is_foreign};
pub use response::{Asked, ResponseDecoder, ResponseHead};

use http::uri::Authority;

/// What heads and trailers may be. One per listener or cluster.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a head, request line included, and of trailers. Default 60 KiB.
    pub head_bytes: usize,
    /// Fields of a head or of trailers, all cookie lines counting as one. Default 100.
    pub max_headers: usize,
    /// Serve HTTP/1.0 requests. Default no, as Envoy: they get 426.
    pub accept_http_10: bool,
    /// Host of HTTP/1.0 requests that name none.
    pub default_host_10: Option<Authority>,
    /// Accept absolute-form targets from clients. Default yes.
    pub allow_absolute_url: bool,
    /// Accept methods that nobody has registered. Default yes.
    pub custom_methods: bool,
    /// Refuse targets with a fragment; otherwise it is cut off. Default yes.
    pub reject_fragment: bool,
    /// See the module. Default no.
    pub lenient: bool,
    /// The connection is encrypted: targets get the scheme `https`. Default no.
    pub tls: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes: 60 * 1024,
            max_headers: 100,
            accept_http_10: false,
            default_host_10: None,
            allow_absolute_url: true,
            custom_methods: true,
            reject_fragment: true,
            lenient: false,
            tls: false,
        }
    }
}
