//! Connecting from a chosen address, with chosen socket options.
//!
//! The options are a table of those that mean something to a TCP client: an option is set by a typed call, so
//! one that is not in the model's table is refused where configuration is read.

use super::Conn;
use super::sockets::transparent;
use crate::model::{Address, BindConfig, SocketOption, SocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpSocket;

/// What a connection from here failed at.
#[derive(Debug)]
pub enum BindError {
    /// The source address or an option was refused.
    Bind(io::Error),
    /// The peer.
    Connect(io::Error),
}

/// Connects to `address` as `config` says. Unix sockets have nothing to bind.
///
/// # Errors
/// See [`BindError`].
pub async fn connect_from(address: &Address, config: &BindConfig) -> Result<Conn, BindError> {
    let Address::Ip(address) = address else {
        return Conn::connect(address).await.map_err(BindError::Connect);
    };
    let socket = prepare(*address, config).map_err(BindError::Bind)?;
    let stream =
        TcpSocket::from_std_stream(socket.into()).connect(*address).await.map_err(BindError::Connect)?;
    stream.set_nodelay(true).map_err(BindError::Connect)?;
    let bound = config.options.iter().filter(|option| option.state != SocketState::Prebind);
    for option in bound {
        set(SockRef::from(&stream), option).map_err(BindError::Bind)?;
    }
    Ok(Conn::Tcp(stream))
}

fn prepare(address: SocketAddr, config: &BindConfig) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if config.freebind && address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else if config.freebind {
        socket.set_freebind_v6(true)?;
    }
    if config.transparent {
        transparent(&socket, address.is_ipv6())?;
    }
    if let Some(mark) = config.mark {
        socket.set_mark(mark)?;
    }
    for option in config.options.iter().filter(|option| option.state == SocketState::Prebind) {
        set(SockRef::from(&socket), option)?;
    }
    let own = config.source.iter().find(|(ip, _)| ip.is_ipv4() == address.is_ipv4());
    if let Some((ip, port)) = own {
        if *port != 0 {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SocketAddr::new(*ip, *port).into())?;
    }
    Ok(socket)
}

fn set(socket: SockRef<'_>, option: &SocketOption) -> io::Result<()> {
    let number = u32::try_from(option.value).unwrap_or(0);
    let (on, seconds) = (option.value != 0, Duration::from_secs(number.into()));
    let keepalive = socket2::TcpKeepalive::new();
    match option.word().unwrap_or_default() {
        "SO_REUSEADDR" => socket.set_reuse_address(on),
        "SO_SNDBUF" => socket.set_send_buffer_size(number as usize),
        "SO_RCVBUF" => socket.set_recv_buffer_size(number as usize),
        "SO_KEEPALIVE" => socket.set_keepalive(on),
        "SO_MARK" => socket.set_mark(number),
        "IP_TOS" => socket.set_tos_v4(number),
        "IP_FREEBIND" => socket.set_freebind_v4(on),
        "TCP_NODELAY" => socket.set_tcp_nodelay(on),
        "TCP_KEEPIDLE" => socket.set_tcp_keepalive(&keepalive.with_time(seconds)),
        "TCP_KEEPINTVL" => socket.set_tcp_keepalive(&keepalive.with_interval(seconds)),
        "TCP_KEEPCNT" => socket.set_tcp_keepalive(&keepalive.with_retries(number)),
        "TCP_USER_TIMEOUT" => socket.set_tcp_user_timeout(Some(Duration::from_millis(number.into()))),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[tokio::test]
    async fn connects_from_the_given_address_with_its_options() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Ip(server.local_addr().unwrap());
        let source: IpAddr = [127, 0, 0, 7].into();
        let options = vec![SocketOption { level: 1, name: 9, value: 1, state: SocketState::Prebind }];
        let config = BindConfig { source: vec![(source, 0)], options, ..BindConfig::default() };
        let conn = connect_from(&address, &config).await.unwrap();
        assert_eq!(conn.local().unwrap().ip(), source);
        let Conn::Tcp(stream) = &conn else { panic!() };
        assert!(SockRef::from(stream).keepalive().unwrap());
        // An address of another family binds nothing; one that is not ours is an error of ours.
        let other = BindConfig { source: vec![("::1".parse().unwrap(), 0)], ..BindConfig::default() };
        assert!(connect_from(&address, &other).await.is_ok());
        let foreign = BindConfig { source: vec![([192, 0, 2, 1].into(), 0)], ..BindConfig::default() };
        assert!(matches!(connect_from(&address, &foreign).await, Err(BindError::Bind(_))));
    }
}
