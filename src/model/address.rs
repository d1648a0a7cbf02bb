//! Where a socket binds or connects.

use serde::Serialize;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// A socket address of a listener or an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Address {
    /// IP and port.
    Ip(SocketAddr),
    /// Unix stream socket. A leading `@` names the abstract namespace.
    Unix(PathBuf),
    /// Host name and port, resolved by the system resolver.
    Name(String, u16),
    /// A listener of this process that is reached from inside only; nothing connects to it yet.
    Internal(String),
}

impl Address {
    /// The IP form, if it is one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(addr) => Some(*addr),
            _ => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(addr) => addr.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Name(host, port) => write!(f, "{host}:{port}"),
            Address::Internal(name) => write!(f, "envoy://{name}/"),
        }
    }
}

/// An address prefix, host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Cidr(ipnet::IpNet);

impl Cidr {
    /// `None` when `prefix_len` exceeds the family's width.
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Self> {
        ipnet::IpNet::new(address, prefix_len).ok().map(|net| Cidr(net.trunc()))
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Length of the prefix in bits.
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }
}
