//! One question to one host.

use super::session::{self, Session, Split};
use crate::model::{Address, Check, HealthCheck, HttpCheck};
use crate::protocol::bolt;
use crate::tls::{Client, Wish};
use bytes::{Bytes, BytesMut};
use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, Version};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of an answer that are kept while looking for the expected ones.
const MAX_ANSWER: usize = 64 * 1024;
/// What the requests call themselves: known to those who filter logs.
const AGENT: &str = "Envoy/HC";

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Passed,
    /// It passed, and says that it is in trouble.
    Degraded,
    /// It answered, but not as it should.
    Refused,
    /// The same, with a status that does not count at once.
    Retriable,
    /// No connection, or it broke.
    Lost,
    /// No answer in time.
    Late,
}

impl Finding {
    pub(super) fn passed(self) -> bool {
        matches!(self, Finding::Passed | Finding::Degraded)
    }

    pub(super) fn is_network(self) -> bool {
        matches!(self, Finding::Lost | Finding::Late)
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Finding::Lost => "NETWORK",
            Finding::Late => "NETWORK_TIMEOUT",
            _ => "ACTIVE",
        }
    }
}

impl Check {
    /// The word of the event log.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Check::Http(_) => "HTTP",
            Check::Tcp { .. } => "TCP",
            Check::Grpc { .. } => "GRPC",
            Check::Bolt => "BOLT",
        }
    }
}

/// Where and as whom a host is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: Address,
    /// The host name of requests.
    pub(super) host: String,
    /// What encrypts; `None`: nothing.
    pub(super) secure: Option<Secure>,
}

/// TLS towards a host.
#[derive(Clone, Debug)]
pub(super) struct Secure {
    pub(super) context: Arc<Client>,
    pub(super) wish: Wish,
}

impl PartialEq for Secure {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.context, &other.context) && self.wish == other.wish
    }
}

impl Eq for Secure {}

/// Asks, on the connection of `session` if it has one.
pub(super) async fn ask(check: &HealthCheck, target: &Target, session: &mut Session) -> Finding {
    let asked = match &check.check {
        Check::Http(http) => ask_http(http, target, session).await,
        Check::Grpc { service, metadata, .. } => ask_grpc(service, metadata, target, session).await,
        Check::Tcp { send, receive } => ask_tcp(send, receive, target).await,
        Check::Bolt => ask_bolt(target, session).await,
    };
    asked.unwrap_or(Finding::Lost)
}

fn add_headers(request: &mut Request<()>, headers: &[(String, String)]) {
    for (name, value) in headers {
        let name = HeaderName::try_from(name.as_str());
        let value = HeaderValue::try_from(value.as_str());
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
}

fn http_request(http: &HttpCheck, target: &Target) -> io::Result<Request<()>> {
    let method = Method::from_bytes(http.method.as_bytes()).map_err(io::Error::other)?;
    let uri = match http.http2 {
        true => format!("http://{}{}", target.host, http.path),
        false => http.path.clone(),
    };
    let version = if http.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let request = Request::builder().method(method).uri(uri).version(version);
    let mut request = request.header(USER_AGENT, AGENT).body(()).map_err(io::Error::other)?;
    if !http.http2 {
        let host = HeaderValue::try_from(target.host.as_str()).map_err(io::Error::other)?;
        request.headers_mut().insert(HOST, host);
    }
    add_headers(&mut request, &http.headers);
    for name in &http.remove_headers {
        request.headers_mut().remove(name.as_str());
    }
    Ok(request)
}

async fn ask_http(http: &HttpCheck, target: &Target, session: &mut Session) -> io::Result<Finding> {
    let request = http_request(http, target)?;
    let limit = match usize::try_from(http.body_limit) {
        Ok(0) | Err(_) => MAX_ANSWER,
        Ok(limit) => limit.min(MAX_ANSWER),
    };
    let (head, body, reusable) = if http.http2 {
        session.http2(target, request, Bytes::new(), limit).await?
    } else {
        session.http1(target, request, limit).await?
    };
    if !reusable {
        *session = Session::default();
    }
    Ok(judge_http(http, &head, &body))
}

fn judge_http(http: &HttpCheck, head: &Response<()>, body: &[u8]) -> Finding {
    let status = head.status().as_u16();
    let expected = match http.expected.is_empty() {
        true => status == 200,
        false => http.expected.iter().any(|range| range.contains(status)),
    };
    if !expected {
        let retriable = http.retriable.iter().any(|range| range.contains(status));
        return if retriable { Finding::Retriable } else { Finding::Refused };
    }
    if !contains_all(body, &http.receive) {
        return Finding::Refused;
    }
    if head.headers().contains_key("x-envoy-degraded") { Finding::Degraded } else { Finding::Passed }
}

/// Whether `wanted` occur in `bytes`, one after the other.
fn contains_all(mut bytes: &[u8], wanted: &[Vec<u8>]) -> bool {
    wanted.iter().filter(|part| !part.is_empty()).all(|part| {
        let found = bytes.windows(part.len()).position(|window| window == part.as_slice());
        let rest = found.and_then(|at| bytes.get(at + part.len()..));
        bytes = rest.unwrap_or_default();
        rest.is_some()
    })
}

/// `grpc.health.v1.HealthCheckRequest { string service = 1 }` with its length before it.
fn grpc_message(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 10);
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

async fn ask_grpc(
    service: &str,
    metadata: &[(String, String)],
    target: &Target,
    session: &mut Session,
) -> io::Result<Finding> {
    let request = Request::post(format!("http://{}/grpc.health.v1.Health/Check", target.host))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(USER_AGENT, AGENT);
    let mut request = request.body(()).map_err(io::Error::other)?;
    add_headers(&mut request, metadata);
    let (head, body, _) = session.http2(target, request, grpc_message(service), MAX_ANSWER).await?;
    // Trailers are among the headers by now.
    let ok = head.headers().get("grpc-status").is_some_and(|status| status == "0");
    if head.status() != 200 || !ok {
        return Ok(Finding::Refused);
    }
    // `HealthCheckResponse { ServingStatus status = 1 }`: SERVING is 1.
    Ok(if body.get(5..) == Some(&[0x08, 0x01][..]) { Finding::Passed } else { Finding::Refused })
}

async fn ask_tcp(send: &[u8], receive: &[Vec<u8>], target: &Target) -> io::Result<Finding> {
    let mut conn = session::connect(target, &[]).await?;
    conn.write_all(send).await?;
    conn.flush().await?;
    let mut got = BytesMut::new();
    while !contains_all(&got, receive) {
        if got.len() > MAX_ANSWER {
            return Ok(Finding::Refused);
        }
        if conn.read_buf(&mut got).await? == 0 {
            return Ok(Finding::Lost);
        }
    }
    Ok(Finding::Passed)
}

/// A heartbeat and its answer.
async fn ask_bolt(target: &Target, session: &mut Session) -> io::Result<Finding> {
    let Split { conn, id } = session.raw(target).await?;
    *id = id.wrapping_add(1);
    conn.write_all(&bolt::heartbeat(*id)).await?;
    conn.flush().await?;
    let mut decoder = crate::protocol::rpc::Decoder::default();
    let mut got = BytesMut::new();
    loop {
        match decoder.decode(&mut got) {
            Ok(Some(frame)) if frame.request_id() == *id => {
                return Ok(if frame.status() == 0 { Finding::Passed } else { Finding::Refused });
            }
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(_) => return Ok(Finding::Refused),
        }
        if conn.read_buf(&mut got).await? == 0 {
            return Ok(Finding::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_in_order() {
        let parts = |list: &[&str]| list.iter().map(|part| part.as_bytes().to_vec()).collect::<Vec<_>>();
        assert!(contains_all(b"abcabc", &parts(&["bc", "a"])));
        assert!(!contains_all(b"abc", &parts(&["bc", "a"])));
        assert!(contains_all(b"", &parts(&[])) && contains_all(b"", &parts(&[""])));
    }

    #[test]
    fn grpc_requests_as_protobuf_has_them() {
        assert_eq!(&grpc_message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(grpc_message(&"x".repeat(300))[5..8], [0x0a, 0xac, 0x02]);
    }
}
