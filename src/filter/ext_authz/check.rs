//! `envoy.service.auth.v3.CheckRequest`: what an authorization service is told (field numbers are the API's).

use crate::filter::ask::{Ask, Retries};
use crate::filter::rbac::Peer;
use crate::message::{Datum, Fact, Facts, Metadata};
use crate::model::GrpcTarget;
use crate::util::protobuf::Message;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// Where calls go.
const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";

/// A request, as the service sees it.
pub(super) struct HttpPart {
    pub method: Vec<u8>,
    pub path: Vec<u8>,
    pub host: Vec<u8>,
    pub scheme: Vec<u8>,
    /// By name, several values of one joined.
    pub headers: BTreeMap<String, Vec<u8>>,
    /// Bytes of the body, where that is known.
    pub size: Option<i64>,
    /// The body, and whether it is sent as bytes.
    pub body: Option<(Bytes, bool)>,
}

/// What the service is told of a connection or of a request on it.
pub(super) struct Check<'a> {
    pub peer: &'a Peer<'a>,
    pub facts: &'a dyn Facts,
    pub http: Option<HttpPart>,
    /// What calls itself the client's service.
    pub service: Vec<u8>,
    pub certificate: bool,
    pub tls_session: bool,
    pub context: BTreeMap<String, String>,
    pub metadata: &'a Metadata,
    pub namespaces: &'a [String],
}

impl Check<'_> {
    /// The message.
    pub(super) fn encode(self) -> Vec<u8> {
        let text = |fact| {
            let mut out = Vec::new();
            if self.facts.fact(fact, &mut out) { out } else { Vec::new() }
        };
        let principal = self.peer.principals.and_then(|names| names.first()).cloned().unwrap_or_default();
        let mut source = address(self.peer.direct).text(2, &self.service).text(4, principal.as_bytes());
        if self.certificate {
            source = source.text(5, &text(Fact::DownstreamPeerCert));
        }
        let own = match text(Fact::DownstreamLocalUriSan) {
            uri if uri.is_empty() => text(Fact::DownstreamLocalSubject),
            // The first of a list.
            uri => uri.split(|byte| *byte == b',').next().unwrap_or_default().to_vec(),
        };
        let destination = address(self.peer.local).text(4, &own);
        let mut attributes = Message::new().message(1, source).message(2, destination);
        if let Some(http) = self.http {
            let id = text(Fact::StreamId);
            attributes = attributes.message(4, request(http, &id, &text(Fact::Protocol)));
        }
        for (key, value) in &self.context {
            attributes = attributes.entry(10, key, value.as_bytes());
        }
        let mut metadata = Message::new();
        for namespace in self.namespaces {
            if let Some(values) = self.metadata.namespace(namespace) {
                let entry = Message::new().text(1, namespace.as_bytes()).message(2, structure(values));
                metadata = metadata.message(1, entry);
            }
        }
        attributes = attributes.message(11, metadata);
        if self.tls_session && !self.peer.server_name.is_empty() {
            attributes = attributes.message(12, Message::new().text(1, self.peer.server_name.as_bytes()));
        }
        Message::new().message(1, attributes).into_bytes()
    }
}

/// A `Peer` at this address.
fn address(address: Option<SocketAddr>) -> Message {
    let Some(address) = address else { return Message::new() };
    let socket = Message::new()
        .text(2, address.ip().to_canonical().to_string().as_bytes())
        .choice(3, address.port().into());
    Message::new().message(1, Message::new().message(1, socket))
}

fn request(http: HttpPart, id: &[u8], protocol: &[u8]) -> Message {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = Message::new().number(1, now.as_secs()).number(2, now.subsec_nanos().into());
    let mut message = Message::new().text(1, id).text(2, &http.method);
    for (name, value) in &http.headers {
        message = message.entry(3, name, value);
    }
    message = message
        .text(4, &http.path)
        .text(5, &http.host)
        .text(6, &http.scheme)
        .signed(9, http.size.unwrap_or(-1))
        .text(10, protocol);
    message = match &http.body {
        Some((body, true)) => message.bytes(12, body),
        Some((body, false)) => message.text(11, body),
        None => message,
    };
    Message::new().message(1, time).message(2, message)
}

/// A `google.protobuf.Struct`.
pub(super) fn structure(map: &BTreeMap<String, Datum>) -> Message {
    map.iter().fold(Message::new(), |all, (key, item)| {
        all.message(1, Message::new().text(1, key.as_bytes()).message(2, value(item)))
    })
}

/// A `google.protobuf.Value`.
fn value(datum: &Datum) -> Message {
    match datum {
        Datum::Null => Message::new().choice(1, 0),
        Datum::Number(number) => Message::new().double(2, *number),
        Datum::Text(text) => Message::new().item(3, text.as_bytes()),
        Datum::Bool(flag) => Message::new().choice(4, u64::from(*flag)),
        Datum::Map(map) => Message::new().message(5, structure(map)),
        Datum::List(list) => {
            let list = list.iter().fold(Message::new(), |all, item| all.message(1, value(item)));
            Message::new().message(6, list)
        }
    }
}

/// The call with this message.
pub(super) fn call(target: &GrpcTarget, message: &[u8]) -> Ask {
    let mut body = BytesMut::with_capacity(message.len() + 5);
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    body.extend_from_slice(message);
    let mut headers = vec![
        ("te".to_owned(), b"trailers".to_vec()),
        ("content-type".to_owned(), b"application/grpc".to_vec()),
    ];
    if let Some(limit) = target.timeout {
        headers.push(("grpc-timeout".to_owned(), grpc_timeout(limit)));
    }
    headers.extend(target.metadata.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())));
    Ask {
        cluster: target.cluster.clone(),
        http2: true,
        method: "POST".to_owned(),
        authority: target.authority.clone(),
        path: METHOD.to_owned(),
        headers,
        body: body.freeze(),
        timeout: target.timeout,
        most: target.most.saturating_add(5),
        retries: Retries::default(),
    }
}

/// Of at most eight digits.
fn grpc_timeout(limit: Duration) -> Vec<u8> {
    let millis = limit.as_millis();
    if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", limit.as_secs().min(99_999_999)) }
        .into_bytes()
}
