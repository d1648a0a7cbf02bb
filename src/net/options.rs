//! Socket options, one place for each decision.

use crate::model::TcpKeepalive;
use socket2::SockRef;
use std::os::fd::AsFd;
use std::time::Duration;

/// How long sent data may stay unacknowledged before the kernel gives an upstream connection up. Linux's
/// default is about 15 minutes.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of every upstream TCP connection: keepalive (60 s idle, 3 probes of 10 s unless configured) and
/// [`TCP_USER_TIMEOUT`]. A refused option is not worth a failed request.
pub fn upstream(socket: &impl AsFd, keepalive: Option<&TcpKeepalive>) {
    let socket = SockRef::from(socket);
    let default = TcpKeepalive::default();
    let wanted = keepalive.unwrap_or(&default);
    let settings = socket2::TcpKeepalive::new()
        .with_time(wanted.time.unwrap_or(Duration::from_secs(60)))
        .with_interval(wanted.interval.unwrap_or(Duration::from_secs(10)))
        .with_retries(wanted.probes.unwrap_or(3));
    let _ = socket.set_tcp_keepalive(&settings);
    let _ = socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
}

/// Options of every accepted TCP connection.
pub fn downstream(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_nodelay(true);
}

/// Raises the soft limit of open files to the hard one. Returns the limit now in force.
pub fn raise_nofile() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}
