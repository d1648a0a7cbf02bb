//! Listening sockets, by address.
//!
//! Sockets belong to addresses, not to listeners: a listener renamed or changed on the same address keeps
//! them. All sockets of one address open and close together, since closing one of several resets the
//! connections waiting in its queue.

use crate::model::Address;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt;

/// How the connections of an address reach the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// A socket per worker; the kernel spreads.
    ReusePort,
    /// One socket; the accepting worker hands each connection to the worker with the fewest.
    Balance,
}

/// What the sockets of an address are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketStyle {
    /// How many there are.
    pub spread: Spread,
    /// They take connections to addresses that are not the machine's.
    pub transparent: bool,
    /// Their own address need not be the machine's.
    pub freebind: bool,
}

impl From<Spread> for SocketStyle {
    fn from(spread: Spread) -> Self {
        SocketStyle { spread, transparent: false, freebind: false }
    }
}

/// The bound sockets of one address, not yet listening.
pub struct Bound {
    address: Address,
    sockets: Vec<Socket>,
}

/// All addresses this process holds.
#[derive(Default)]
pub struct SocketRegistry {
    bound: BTreeMap<Address, Bound>,
    open: BTreeMap<Address, Spread>,
}

impl SocketRegistry {
    /// Makes sure `address` is bound, by us alone. Known addresses are left as they are.
    ///
    /// # Errors
    /// The system's reason, e.g. that another process holds the address.
    pub fn bind(
        &mut self,
        address: &Address,
        style: impl Into<SocketStyle>,
        workers: usize,
    ) -> io::Result<()> {
        let style = style.into();
        if self.bound.contains_key(address) || self.open.contains_key(address) {
            return Ok(());
        }
        let sockets = match style.spread {
            Spread::Balance => vec![bind_one(address, style, false)?],
            Spread::ReusePort if workers <= 1 || address.ip().is_none() => {
                vec![bind_one(address, style, false)?]
            }
            Spread::ReusePort => bind_shared(address, style, workers)?,
        };
        self.bound.insert(address.clone(), Bound { address: address.clone(), sockets });
        Ok(())
    }

    /// Starts listening on a bound address and gives its sockets to the caller; `None` when it is open
    /// already or was never bound.
    ///
    /// # Errors
    /// `listen()` failed: the address is released.
    pub fn open(&mut self, address: &Address, backlog: u32) -> io::Result<Option<Vec<Socket>>> {
        let Some(bound) = self.bound.remove(address) else { return Ok(None) };
        let spread = if bound.sockets.len() > 1 { Spread::ReusePort } else { Spread::Balance };
        for socket in &bound.sockets {
            socket.listen(backlog.min(i32::MAX as u32) as i32)?;
        }
        self.open.insert(bound.address, spread);
        Ok(Some(bound.sockets))
    }

    /// Forgets an address: bound sockets close here, open ones are the workers' to close.
    pub fn release(&mut self, address: &Address) {
        self.bound.remove(address);
        self.open.remove(address);
    }

    /// Addresses that are bound or listening.
    pub fn held(&self) -> impl Iterator<Item = &Address> {
        self.bound.keys().chain(self.open.keys())
    }
}

/// One socket per worker. The first is bound without SO_REUSEPORT: it alone tells whether a foreign process
/// has the port, since two processes with the option would share it silently.
fn bind_shared(address: &Address, style: SocketStyle, workers: usize) -> io::Result<Vec<Socket>> {
    let mut resolved = address.clone();
    let probe = bind_one(address, style, false)?;
    if let (Address::Ip(wanted), Some(actual)) = (address, probe.local_addr()?.as_socket())
        && wanted.port() == 0
    {
        resolved = Address::Ip(actual);
    }
    drop(probe);
    (0..workers).map(|_| bind_one(&resolved, style, true)).collect()
}

fn bind_one(address: &Address, style: SocketStyle, reuse_port: bool) -> io::Result<Socket> {
    match address {
        Address::Ip(addr) => {
            let socket = Socket::new(Domain::for_address(*addr), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            socket.set_reuse_address(true)?;
            if reuse_port {
                socket.set_reuse_port(true)?;
            }
            if addr.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            if style.transparent {
                transparent(&socket, addr.is_ipv6())?;
            }
            match addr.is_ipv6() {
                _ if !style.freebind => {}
                true => socket.set_freebind_v6(true)?,
                false => socket.set_freebind_v4(true)?,
            }
            socket.bind(&(*addr).into())?;
            Ok(socket)
        }
        Address::Unix(path) => {
            let text = path.as_os_str().as_encoded_bytes();
            // A socket file nobody listens on is a leftover of a process that is gone.
            if text.first() != Some(&b'@') && is_stale(path) {
                let _ = std::fs::remove_file(path);
            }
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::unix(unix_name(path))?)?;
            Ok(socket)
        }
        Address::Name(..) | Address::Internal(_) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "a listener needs an IP address"))
        }
    }
}

/// Lets a socket have, and take connections to, addresses that are not the machine's.
pub(super) fn transparent(socket: &Socket, is_v6: bool) -> io::Result<()> {
    if is_v6 { socket.set_ip_transparent_v6(true) } else { socket.set_ip_transparent_v4(true) }
}

fn unix_name(path: &std::path::Path) -> std::path::PathBuf {
    let text = path.as_os_str().to_string_lossy();
    match text.strip_prefix('@') {
        Some(name) => format!("\0{name}").into(),
        None => path.to_owned(),
    }
}

fn is_stale(path: &std::path::Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket && std::os::unix::net::UnixStream::connect(path).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> Address {
        Address::Ip("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn a_foreign_process_on_the_port_is_an_error() {
        let foreign = bind_one(&any(), Spread::ReusePort.into(), true).unwrap();
        foreign.listen(1).unwrap();
        let taken = Address::Ip(foreign.local_addr().unwrap().as_socket().unwrap());
        let mut registry = SocketRegistry::default();
        assert_eq!(registry.bind(&taken, Spread::ReusePort, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn opens_one_socket_per_worker_on_one_port() {
        let mut registry = SocketRegistry::default();
        registry.bind(&any(), Spread::ReusePort, 2).unwrap();
        let sockets = registry.open(&any(), 16).unwrap().unwrap();
        let port = |s: &Socket| s.local_addr().unwrap().as_socket().unwrap().port();
        let ports: Vec<u16> = sockets.iter().map(port).collect();
        assert!(ports.len() == 2 && ports[0] == ports[1]);
        assert!(registry.open(&any(), 16).unwrap().is_none());
    }
}
