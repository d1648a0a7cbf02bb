//! Codecs: bytes to messages and back, and from one protocol to another.
//!
//! Owns every wire format. Sans-IO: no socket, no clock, no configuration; hostile bytes end in an error value.
//! [`rpc`] is the face the stream drivers use, [`bolt`] the SOFA remoting format behind it, [`bridge`] carries
//! bolt over HTTP/2 and back, [`http1`] is HTTP/1.

pub mod bolt;
pub mod bridge;
pub mod http1;
pub mod rpc;
