//! A stream that is over, as expressions and label sets see it.

use super::ended::Ended;
use crate::filter::mesh::{Mesh, Report, Seen};
use crate::message::{Fact, Facts, Head};
use crate::model::expr::{Attribute, Attributes, Value};
use crate::model::{Block, Node, SanKind, Workload};
use crate::tls::Session;
use std::time::Duration;

/// The first URI names of the peer's certificate, if it was checked, and of ours.
pub(in crate::stream) fn uri_names(session: Option<&Session>) -> (&str, &str) {
    let Some(session) = session else { return ("", "") };
    let peer = session.verified_peer().and_then(|peer| peer.info());
    let local = session.local.as_ref().and_then(|identity| identity.infos.first());
    let their = peer.and_then(|info| info.names(SanKind::Uri).next());
    let our = local.and_then(|info| info.names(SanKind::Uri).next());
    (their.unwrap_or_default(), our.unwrap_or_default())
}

/// What an expression is evaluated over.
pub(super) struct Over<'a> {
    pub ended: &'a Ended<'a>,
    /// What filters found.
    pub report: Option<&'a Report>,
}

impl Ended<'_> {
    /// Counts the stream where its filters want it counted.
    pub(super) fn count(&self, report: &Report, mesh: &Mesh) {
        let record = self.record;
        let over = Over { ended: self, report: Some(report) };
        let mut flags = Vec::new();
        self.fact(Fact::ResponseFlags, &mut flags);
        let endpoint = self.host.and_then(|host| host.workload());
        let cluster = self.cluster.map(|cluster| (cluster.name.as_str(), cluster.mesh()));
        let nothing = crate::model::ClusterMesh::default();
        let own = cluster.as_ref().map(|(name, said)| (*name, said.as_deref().unwrap_or(&nothing)));
        let seen = Seen {
            client: report.peers.client.as_ref(),
            server: report.peers.server.as_ref(),
            endpoint: endpoint.as_ref(),
            cluster: own.or_else(|| report.cluster(&nothing)),
            route: record
                .text(record.route)
                .and_then(|name| std::str::from_utf8(name).ok())
                .unwrap_or_default(),
            host: record.authority().unwrap_or_default(),
            downstream: uri_names(self.handle.and_then(|handle| handle.tls()).map(|session| &**session)),
            upstream: uri_names(record.upstream_tls.as_deref()),
            protocol: if report.grpc { "grpc" } else { "http" },
            code: record.status,
            grpc: if report.grpc { record.grpc_status.or_else(|| of_http(record.status)) } else { None },
            flags: &flags,
        };
        let time = self.now.saturating_duration_since(record.begin).as_millis();
        let numbers = [
            1,
            u64::try_from(time).unwrap_or(u64::MAX),
            record.received + u64::from(record.request_head),
            record.sent + u64::from(record.response_head) + u64::from(record.trailers),
            report.messages.as_ref().map_or(0, |messages| messages.requests.get()),
            report.messages.as_ref().map_or(0, |messages| messages.responses.get()),
        ];
        for stats in report.reporters() {
            for which in report.parts() {
                for metrics in mesh.metrics(stats, which, &seen, &over).iter() {
                    numbers.iter().enumerate().for_each(|(at, number)| metrics.note(at, *number));
                }
            }
        }
    }
}

/// A raw connection, as far as expressions can ask of one.
pub(in crate::stream) struct Plain<'a> {
    pub node: &'a Node,
    pub seen: &'a Seen<'a>,
}

impl Attributes for Plain<'_> {
    fn attribute<'a>(&'a self, attribute: &'a Attribute) -> Option<Value<'a>> {
        let of = |name: &'_ str| (!name.is_empty()).then(|| Value::Text(name.as_bytes().to_vec().into()));
        match attribute {
            Attribute::Named("connection.mtls") => Some(Value::Bool(!self.seen.downstream.0.is_empty())),
            Attribute::Named("connection.uri_san_peer_certificate") => of(self.seen.downstream.0),
            Attribute::Named("connection.uri_san_local_certificate") => of(self.seen.downstream.1),
            Attribute::Named("upstream.uri_san_peer_certificate") => of(self.seen.upstream.0),
            Attribute::Named("upstream.uri_san_local_certificate") => of(self.seen.upstream.1),
            Attribute::Named("xds.cluster_name") => of(self.seen.cluster?.0),
            Attribute::Named("node.id") => of(&self.node.id),
            Attribute::Named("node.cluster") => of(&self.node.cluster),
            Attribute::Node(path) => of(self.node.metadata.get(&path.join("\0"))?),
            Attribute::Peer(upstream, name) => {
                let peer = if *upstream { self.seen.server } else { self.seen.client };
                field(&peer?.workload, name).and_then(of)
            }
            _ => None,
        }
    }
}

/// What a call without a status of its own came to.
fn of_http(status: u16) -> Option<u32> {
    match status {
        0 => None,
        400 => Some(13),
        401 => Some(16),
        403 => Some(7),
        404 => Some(12),
        429 | 502 | 503 | 504 => Some(14),
        _ => Some(2),
    }
}

impl Over<'_> {
    fn text(&self, fact: Fact) -> Option<Value<'static>> {
        let mut out = Vec::new();
        self.ended.fact(fact, &mut out).then(|| Value::Text(out.into()))
    }

    fn number(&self, fact: Fact) -> Option<Value<'static>> {
        let mut out = Vec::new();
        let told = self.ended.fact(fact, &mut out);
        let number = std::str::from_utf8(&out).ok().and_then(|text| text.parse().ok());
        number.filter(|_| told).map(Value::Int)
    }

    fn named(&self, name: &str) -> Option<Value<'_>> {
        let (ended, record) = (self.ended, self.ended.record);
        let text = |bytes: Option<&'_ [u8]>| bytes.map(|bytes| Value::Text(bytes.to_vec().into()));
        let header = |name: &str| text(record.value(Block::Request, name));
        let tls = ended.handle.and_then(|handle| handle.tls()).map(|session| &**session);
        let of = |name: &str| (!name.is_empty()).then(|| Value::Text(name.as_bytes().to_vec().into()));
        let size = |number: u64| Some(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)));
        match name {
            "request.path" => text(record.path_and_query()),
            "request.url_path" => text(
                record.path_and_query().map(|path| path.split(|b| *b == b'?').next().unwrap_or_default()),
            ),
            "request.host" => text(record.authority()),
            "request.method" => text(record.method()),
            "request.protocol" => self.text(Fact::Protocol),
            "request.scheme" => of(if tls.is_some() { "https" } else { "http" }),
            "request.id" => header("x-request-id").or_else(|| text(record.text(record.id))),
            "request.referer" => header("referer"),
            "request.useragent" => header("user-agent"),
            "request.size" => size(record.received),
            "request.total_size" => size(record.received + u64::from(record.request_head)),
            "request.duration" => of(&seconds(ended.now.saturating_duration_since(record.begin))),
            "response.code" => Some(Value::Int(record.status.into())),
            "response.code_details" => self.text(Fact::ResponseCodeDetails),
            "response.flags" => {
                let bits = record.flags.bits();
                (bits != 0).then_some(Value::Int(i64::try_from(bits).unwrap_or(i64::MAX)))
            }
            "response.grpc_status" => record.grpc_status.map(|status| Value::Int(status.into())),
            "response.size" => size(record.sent),
            "response.total_size" => {
                size(record.sent + u64::from(record.response_head) + u64::from(record.trailers))
            }
            "source.address" => self.text(Fact::DownstreamRemoteAddress),
            "source.port" => self.number(Fact::DownstreamRemotePort),
            "destination.address" => self.text(Fact::DownstreamLocalAddress),
            "destination.port" => self.number(Fact::DownstreamLocalPort),
            "connection.mtls" => Some(Value::Bool(tls.is_some_and(|tls| tls.verified_peer().is_some()))),
            "connection.requested_server_name" => self.text(Fact::RequestedServerName),
            "connection.tls_version" => self.text(Fact::DownstreamTlsVersion),
            "connection.subject_local_certificate" => self.text(Fact::DownstreamLocalSubject),
            "connection.subject_peer_certificate" => self.text(Fact::DownstreamPeerSubject),
            "connection.uri_san_local_certificate" => of(uri_names(tls).1),
            "connection.uri_san_peer_certificate" => of(uri_names(tls).0),
            "upstream.address" => self.text(Fact::UpstreamRemoteAddress),
            "upstream.port" => self.number(Fact::UpstreamRemotePort),
            "upstream.local_address" => self.text(Fact::UpstreamLocalAddress),
            "upstream.request_attempt_count" => self.number(Fact::UpstreamRequestAttemptCount),
            "upstream.transport_failure_reason" => self.text(Fact::UpstreamTransportFailureReason),
            "upstream.tls_version" => of(record.upstream_tls.as_ref().map_or("", |tls| tls.version)),
            "upstream.uri_san_local_certificate" => of(uri_names(record.upstream_tls.as_deref()).1),
            "upstream.uri_san_peer_certificate" => of(uri_names(record.upstream_tls.as_deref()).0),
            "xds.cluster_name" => self.text(Fact::UpstreamClusterRaw),
            "xds.route_name" => self.text(Fact::RouteName),
            "xds.virtual_host_name" => self.text(Fact::VirtualHostName),
            "xds.filter_chain_name" => self.text(Fact::FilterChainName),
            "node.id" => of(&ended.node.id),
            "node.cluster" => of(&ended.node.cluster),
            _ => None,
        }
    }
}

/// A duration as CEL writes it.
fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs_f64())
}

/// A field of what a workload tells of itself.
fn field<'w>(workload: &'w Workload, name: &str) -> Option<&'w str> {
    let text = match name {
        "app" => &workload.app,
        "cluster" => &workload.cluster,
        "identity" => &workload.identity,
        "name" => &workload.instance,
        "namespace" => &workload.namespace,
        "revision" => &workload.revision,
        "service" => &workload.service,
        "type" => &workload.kind,
        "version" => &workload.version,
        "workload" => &workload.name,
        name => return workload.labels.get(name.strip_prefix("labels.")?).map(String::as_str),
    };
    Some(text.as_str()).filter(|text| !text.is_empty())
}

impl Attributes for Over<'_> {
    fn attribute<'a>(&'a self, attribute: &'a Attribute) -> Option<Value<'a>> {
        let record = self.ended.record;
        let kept = |block, name: &str| record.value(block, name).map(|value| Value::Text(value.into()));
        let captured = || {
            let report = self.report?;
            report.captured(attribute).map(|value| Value::Text(value.into()))
        };
        match attribute {
            Attribute::Named(name) => self.named(name),
            Attribute::RequestHeader(name) => match name.as_str() {
                ":path" => self.named("request.path"),
                ":method" => self.named("request.method"),
                ":authority" => self.named("request.host"),
                name => captured().or_else(|| kept(Block::Request, name)),
            },
            Attribute::ResponseHeader(name) => captured().or_else(|| kept(Block::Response, name)),
            Attribute::ResponseTrailer(name) => kept(Block::Trailer, name),
            Attribute::Peer(upstream, name) => {
                let peers = &self.report?.peers;
                let peer = if *upstream { &peers.server } else { &peers.client };
                field(&peer.as_ref()?.workload, name).map(|text| Value::Text(text.as_bytes().into()))
            }
            Attribute::Metadata(path) => {
                let (namespace, rest) = path.split_first()?;
                let mut out = Vec::new();
                let told = self.ended.dynamic_metadata(namespace, rest, &mut out);
                told.then(|| Value::Text(out.into()))
            }
            Attribute::Node(path) => {
                let text = self.ended.node.metadata.get(&path.join("\0"))?;
                Some(Value::Text(text.as_bytes().into()))
            }
        }
    }
}
