//! What format strings may ask about a stream that is under way.

use super::Handle;
use super::around::NoHead;
use super::exchange::Attempt;
use crate::message::{Fact, Facts, Head, Metadata, Moment};
use crate::net::PeerAddress;
use crate::router::RouteSpec;
use http::HeaderMap;
use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::time::SystemTime;
use tokio::time::Instant;

/// A stream as far as it has come; what is not there yet is `None`.
pub struct StreamFacts<'a> {
    /// `HTTP/2`, `bolt` …
    pub protocol: &'static str,
    /// The request's head.
    pub request: &'a dyn Head,
    /// When it came.
    pub begin: Instant,
    /// The connection it came on.
    pub handle: Option<&'a Handle>,
    /// The route that matched.
    pub route: Option<&'a RouteSpec>,
    /// The try that was answered.
    pub attempt: Option<&'a Attempt>,
    /// The response's status and headers.
    pub response: Option<(u16, &'a HeaderMap)>,
    /// What filters left.
    pub metadata: Option<&'a Metadata>,
}

impl<'a> StreamFacts<'a> {
    /// Of a connection on which nothing was read yet.
    pub fn of_connection(handle: &'a Handle, metadata: &'a Metadata) -> Self {
        StreamFacts {
            protocol: "",
            request: &NoHead,
            begin: Instant::now(),
            handle: Some(handle),
            route: None,
            attempt: None,
            response: None,
            metadata: Some(metadata),
        }
    }
}

impl StreamFacts<'_> {
    fn peer(&self) -> Option<SocketAddr> {
        match self.handle?.peer {
            PeerAddress::Ip(address) => Some(address),
            PeerAddress::Unix => None,
        }
    }

    fn local(&self) -> Option<SocketAddr> {
        self.handle?.local
    }
}

impl Facts for StreamFacts<'_> {
    fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut first = None;
        self.request.each_value(name, &mut |value| {
            first.get_or_insert_with(|| value.to_vec());
        });
        first.map(Cow::Owned)
    }

    fn response_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let (_, headers) = self.response?;
        headers.get(name).map(|value| value.as_bytes().into())
    }

    fn fact(&self, fact: Fact, out: &mut Vec<u8>) -> bool {
        let mut put = |value: Option<&dyn Display>| {
            // Writing to a vector cannot fail.
            value.map(|value| write!(out, "{value}").is_ok()).unwrap_or_default()
        };
        let ip = |address: Option<SocketAddr>| address.map(|address| address.ip());
        let port = |address: Option<SocketAddr>| address.map(|address| address.port());
        match fact {
            Fact::Protocol => put(Some(&self.protocol)),
            Fact::DownstreamRemoteAddress | Fact::DownstreamDirectRemoteAddress => {
                put(self.peer().as_ref().map(|v| v as _))
            }
            Fact::DownstreamRemoteAddressWithoutPort | Fact::DownstreamDirectRemoteAddressWithoutPort => {
                put(ip(self.peer()).as_ref().map(|v| v as _))
            }
            Fact::DownstreamRemotePort | Fact::DownstreamDirectRemotePort => {
                put(port(self.peer()).as_ref().map(|v| v as _))
            }
            Fact::DownstreamLocalAddress => put(self.local().as_ref().map(|v| v as _)),
            Fact::DownstreamLocalAddressWithoutPort => put(ip(self.local()).as_ref().map(|v| v as _)),
            Fact::DownstreamLocalPort => put(port(self.local()).as_ref().map(|v| v as _)),
            Fact::UpstreamHost | Fact::UpstreamRemoteAddress => {
                put(self.attempt.map(|attempt| &attempt.host.address as _))
            }
            Fact::UpstreamCluster | Fact::UpstreamClusterRaw => {
                put(self.attempt.map(|attempt| &attempt.cluster.name as _))
            }
            Fact::ResponseCode => put(self.response.as_ref().map(|(status, _)| status as _)),
            Fact::RouteName => {
                put(self.route.map(|route| &route.model().name).filter(|n| !n.is_empty()).map(|v| v as _))
            }
            Fact::VirtualHostName => put(self.route.map(|route| &route.host().name as _)),
            _ => match self.handle.and_then(|handle| handle.tls()) {
                Some(session) => super::tls_facts::fact(session, fact, out),
                None => false,
            },
        }
    }

    fn dynamic_metadata(&self, namespace: &str, path: &[Box<str>], out: &mut Vec<u8>) -> bool {
        self.metadata.is_some_and(|metadata| metadata.write(namespace, path, out))
    }

    fn filter_state(&self, key: &str) -> Option<&str> {
        let own = self.metadata.and_then(|metadata| metadata.state.get(key));
        own.or_else(|| self.handle?.state()?.get(key))
    }

    fn time(&self, moment: Moment) -> Option<SystemTime> {
        let now = SystemTime::now();
        match moment {
            Moment::Start => now.checked_sub(self.begin.elapsed()),
            Moment::Emit => Some(now),
        }
    }
}
