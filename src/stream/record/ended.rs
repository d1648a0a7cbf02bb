//! What log formats may ask about a stream that is over.

use super::Record;
use crate::cluster::{Cluster, Host};
use crate::message::{Fact, Facts, Moment, Point, Reason};
use crate::model::{Address, Block, Node};
use crate::net::PeerAddress;
use crate::stream::Handle;
use crate::stream::tls_facts;
use crate::util::random::Random;
use crate::util::text::{push_address, push_ip, push_number};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// A stream that is over.
pub(super) struct Ended<'a> {
    pub record: &'a Record,
    pub handle: Option<&'a Handle>,
    pub cluster: Option<&'a Cluster>,
    pub host: Option<&'a Host>,
    pub now: Instant,
    pub wall: SystemTime,
    pub random: &'a Random,
    pub node: &'a Node,
}

/// Appends a value of one kind; `false`: there is none.
trait Put {
    fn put(self, out: &mut Vec<u8>) -> bool;
}

impl Put for u64 {
    fn put(self, out: &mut Vec<u8>) -> bool {
        push_number(self, out);
        true
    }
}

impl Put for Option<Duration> {
    fn put(self, out: &mut Vec<u8>) -> bool {
        self.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).put(out)
    }
}

impl Put for Option<u64> {
    fn put(self, out: &mut Vec<u8>) -> bool {
        self.is_some_and(|number| number.put(out))
    }
}

impl Put for Option<SocketAddr> {
    fn put(self, out: &mut Vec<u8>) -> bool {
        self.map(|address| push_address(address, out)).is_some()
    }
}

impl Put for Option<&[u8]> {
    fn put(self, out: &mut Vec<u8>) -> bool {
        self.filter(|text| !text.is_empty()).map(|text| out.extend_from_slice(text)).is_some()
    }
}

impl Put for &str {
    fn put(self, out: &mut Vec<u8>) -> bool {
        Some(self.as_bytes()).put(out)
    }
}

fn ip(address: Option<SocketAddr>, out: &mut Vec<u8>) -> bool {
    address.map(|address| push_ip(address.ip(), out)).is_some()
}

fn port(address: Option<SocketAddr>) -> Option<u64> {
    address.map(|address| address.port().into())
}

impl Ended<'_> {
    fn direct_peer(&self) -> Option<SocketAddr> {
        match self.handle.map(|handle| &handle.peer) {
            Some(PeerAddress::Ip(address)) => Some(*address),
            Some(PeerAddress::Unix) => None,
            None => self.record.ends.0,
        }
    }

    /// Whom trusted headers name has no port that anyone knows.
    fn peer(&self) -> Option<SocketAddr> {
        let direct = self.direct_peer();
        match self.record.client {
            Some(ip) if direct.is_none_or(|peer| peer.ip().to_canonical() != ip) => {
                Some(SocketAddr::new(ip, 0))
            }
            _ => direct,
        }
    }

    fn local(&self) -> Option<SocketAddr> {
        self.handle.map_or(self.record.ends.1, |handle| handle.local)
    }

    fn upstream(&self) -> Option<SocketAddr> {
        match self.host?.address {
            Address::Ip(address) => Some(address),
            _ => None,
        }
    }

    fn host_name(&self) -> Option<&str> {
        let host = self.host?;
        Some(if host.hostname.is_empty() { host.shown() } else { &host.hostname })
    }

    fn body_and_head(&self, body: u64, heads: &[u32]) -> u64 {
        body + heads.iter().map(|size| u64::from(*size)).sum::<u64>()
    }

    fn cluster_name(&self, alternative: bool, out: &mut Vec<u8>) -> bool {
        let Some(cluster) = self.cluster else { return false };
        let state = cluster.state();
        match state.spec.model.alt_stat_name.as_deref() {
            Some(name) if alternative => name.put(out),
            _ => cluster.name.as_str().put(out),
        }
    }

    /// What is known of the connection and the client.
    fn downstream(&self, fact: Fact, out: &mut Vec<u8>) -> Option<bool> {
        Some(match fact {
            Fact::DownstreamRemoteAddress => self.peer().put(out),
            Fact::DownstreamRemoteAddressWithoutPort => ip(self.peer(), out),
            Fact::DownstreamRemotePort => port(self.peer()).put(out),
            Fact::DownstreamDirectRemoteAddress => self.direct_peer().put(out),
            Fact::DownstreamDirectRemoteAddressWithoutPort => ip(self.direct_peer(), out),
            Fact::DownstreamDirectRemotePort => port(self.direct_peer()).put(out),
            Fact::DownstreamLocalAddress => self.local().put(out),
            Fact::DownstreamLocalAddressWithoutPort => ip(self.local(), out),
            Fact::DownstreamLocalPort | Fact::ListenerPort => port(self.local()).put(out),
            Fact::ConnectionId => self.handle.map(|handle| handle.id).put(out),
            Fact::ListenerName => self.handle.map(|handle| handle.listener.as_bytes()).put(out),
            Fact::FilterChainName => {
                self.handle.is_some_and(|handle| handle.bound().chain.model.name.as_str().put(out))
            }
            _ => return None,
        })
    }

    /// What is known of the host and the way to it.
    fn upstream_fact(&self, fact: Fact, out: &mut Vec<u8>) -> Option<bool> {
        Some(match fact {
            Fact::UpstreamProtocol => self.record.upstream_protocol.put(out),
            Fact::UpstreamHost | Fact::UpstreamRemoteAddress | Fact::UpstreamHostsAttempted => {
                self.host.map(|host| host.shown().as_bytes()).put(out)
            }
            Fact::UpstreamHostName => self.host_name().map(str::as_bytes).put(out),
            Fact::UpstreamHostNameWithoutPort => {
                let name = self.host_name().unwrap_or_default();
                let (bare, port) = name.rsplit_once(':').unwrap_or((name, ""));
                if port.bytes().all(|b| b.is_ascii_digit()) { bare.put(out) } else { name.put(out) }
            }
            Fact::UpstreamCluster => self.cluster_name(true, out),
            Fact::UpstreamClusterRaw => self.cluster_name(false, out),
            Fact::UpstreamLocalAddress => self.record.upstream_local.put(out),
            Fact::UpstreamLocalAddressWithoutPort => ip(self.record.upstream_local, out),
            Fact::UpstreamLocalPort => port(self.record.upstream_local).put(out),
            Fact::UpstreamRemoteAddressWithoutPort => ip(self.upstream(), out),
            Fact::UpstreamRemotePort => port(self.upstream()).put(out),
            Fact::UpstreamTransportFailureReason => self.connect_error(out),
            Fact::UpstreamRequestAttemptCount => u64::from(self.record.attempts).put(out),
            _ => return None,
        })
    }

    /// What the system said, as Envoy words it.
    fn connect_error(&self, out: &mut Vec<u8>) -> bool {
        let said = self.host.map_or(0, |host| host.connect_error.get());
        if self.record.reason != Some(Reason::ConnectFailed) || said == 0 {
            return false;
        }
        let text = std::io::Error::from_raw_os_error(said).to_string();
        let text = text.split(" (os error").next().unwrap_or_default().replace(' ', "_");
        out.extend_from_slice(b"delayed_connect_error:_");
        out.extend_from_slice(text.as_bytes());
        true
    }

    fn flags(&self, long: bool, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        for (short, name) in self.record.flags.names() {
            if out.len() > start {
                out.push(b',');
            }
            out.extend_from_slice(if long { name } else { short }.as_bytes());
        }
        if out.len() == start {
            out.push(b'-');
        }
        true
    }

    /// A random UUID.
    fn uuid(&self, out: &mut Vec<u8>) -> bool {
        crate::util::text::push_uuid([self.random.next(), self.random.next()], out);
        true
    }
}

impl Facts for Ended<'_> {
    fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.record.value(Block::Request, name).map(Cow::Borrowed)
    }

    fn response_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.record.value(Block::Response, name).map(Cow::Borrowed)
    }

    fn response_trailer(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.record.value(Block::Trailer, name).map(Cow::Borrowed)
    }

    fn dynamic_metadata(&self, namespace: &str, path: &[Box<str>], out: &mut Vec<u8>) -> bool {
        self.record.metadata.write(namespace, path, out)
    }

    fn filter_state(&self, key: &str) -> Option<&str> {
        self.record.metadata.state.get(key).or_else(|| self.handle?.state()?.get(key))
    }

    fn fact(&self, fact: Fact, out: &mut Vec<u8>) -> bool {
        let record = self.record;
        let (request, response, trailers) = (record.request_head, record.response_head, record.trailers);
        match fact {
            Fact::Protocol => record.protocol.put(out),
            Fact::ResponseCode => u64::from(record.status).put(out),
            Fact::ResponseCodeDetails => record.named_details.as_deref().unwrap_or(record.details).put(out),
            Fact::ResponseFlags => self.flags(false, out),
            Fact::ResponseFlagsLong => self.flags(true, out),
            Fact::BytesReceived => record.received.put(out),
            Fact::BytesSent => record.sent.put(out),
            Fact::RequestHeadersBytes
            | Fact::DownstreamHeaderBytesReceived
            | Fact::UpstreamHeaderBytesSent => u64::from(request).put(out),
            Fact::ResponseHeadersBytes
            | Fact::DownstreamHeaderBytesSent
            | Fact::UpstreamHeaderBytesReceived => u64::from(response).put(out),
            Fact::ResponseTrailersBytes => u64::from(trailers).put(out),
            Fact::DownstreamWireBytesReceived | Fact::UpstreamWireBytesSent => {
                self.body_and_head(record.received, &[request]).put(out)
            }
            Fact::DownstreamWireBytesSent | Fact::UpstreamWireBytesReceived => {
                self.body_and_head(record.sent, &[response, trailers]).put(out)
            }
            Fact::Duration => self.elapsed(Point::SendEnd).put(out),
            Fact::RequestDuration => self.elapsed(Point::RequestEnd).put(out),
            Fact::ResponseDuration => self.elapsed(Point::ResponseStart).put(out),
            Fact::ResponseTxDuration => {
                record.response_begin.map(|at| self.now.saturating_duration_since(at)).put(out)
            }
            Fact::UpstreamConnectionPoolReadyDuration => self.elapsed(Point::UpstreamSendStart).put(out),
            // An empty one is known to be empty.
            Fact::LocalReplyBody => {
                let body = record.text(record.own_body);
                body.map(|body| out.extend_from_slice(body)).is_some()
            }
            Fact::RouteName => record.text(record.route).put(out),
            Fact::VirtualHostName => record.text(record.host).put(out),
            Fact::AccessLogType => record.kind.word().put(out),
            Fact::Hostname => hostname().put(out),
            Fact::StreamId | Fact::UniqueId => self.uuid(out),
            fact => {
                let told = self.downstream(fact, out).or_else(|| self.upstream_fact(fact, out));
                told.unwrap_or_else(|| {
                    let client = self.handle.and_then(|handle| handle.tls());
                    let host = self.record.upstream_tls.as_deref();
                    client.is_some_and(|session| tls_facts::fact(session, fact, out))
                        || host.is_some_and(|session| tls_facts::upstream(session, fact, out))
                })
            }
        }
    }

    fn time(&self, moment: Moment) -> Option<SystemTime> {
        match moment {
            Moment::Start => self.wall.checked_sub(self.now.saturating_duration_since(self.record.begin)),
            Moment::Emit => Some(self.wall),
        }
    }

    fn elapsed(&self, point: Point) -> Option<Duration> {
        let record = self.record;
        let at = match point {
            Point::RequestStart => Some(record.begin),
            Point::RequestEnd | Point::UpstreamSendEnd => record.request_end,
            Point::UpstreamSendStart => record.upstream_begin,
            Point::ResponseStart => record.response_begin,
            Point::SendStart => record.send_begin,
            Point::ResponseEnd => record.response_begin.map(|_| self.now),
            Point::SendEnd => Some(self.now),
        };
        at.map(|at| at.saturating_duration_since(record.begin))
    }
}

/// The machine's name, asked for once.
fn hostname() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim_end().to_owned()
    })
}
