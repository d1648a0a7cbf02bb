//! What is kept of a stream until it is over: for its log lines and for the record of why it went as it did.
//!
//! Owns [`Record`], its pool, and writing the lines. Takes in a stream's steps from the drivers; gives out lines
//! to the worker's [`Outlet`](crate::telemetry::files::Outlet). Of a head only what the logs ask for is copied,
//! into one buffer that goes from stream to stream: a stream under way holds no route table and no read buffer.

mod attributes;
mod ended;
mod judge;
mod replies;
mod why;

pub(super) use attributes::{Plain, uri_names};

use super::{Bound, Handle, Local};
use crate::cluster::{Cluster, Host};
use crate::filter::mesh::Report;
use crate::message::{Fact, Flags, Head, Metadata, Reason};
use crate::model::{AccessLogs, Block, LogFormat, LogKind, LogMoments};
use crate::router::{RouteSpec, RouteTable};
use crate::telemetry::files;
use crate::telemetry::why::{self as records, Rejected, Short};
use crate::tls::Session;
use ended::Ended;
use http::{HeaderMap, HeaderName};
pub use replies::Rewritten;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// Records kept for later streams, per worker.
const POOL: usize = 64;
/// A buffer that grew beyond this is not kept.
const LARGEST: usize = 16 * 1024;

/// The logs of a connection's next stream, shared within the worker.
pub type Logs = Option<Rc<Arc<AccessLogs>>>;

/// Rejected routes kept.
const REJECTED: usize = 8;

/// Gives the values of a header, by its name, one by one.
type Values<'v> = &'v dyn Fn(&str, &mut dyn FnMut(&[u8]));

/// A part of a record's text.
type Span = Option<(u32, u32)>;

/// See the module.
pub struct Record {
    logs: Logs,
    kind: LogKind,
    protocol: &'static str,
    begin: Instant,
    text: Vec<u8>,
    /// Values of the headers the logs ask for, in their order; of request, response, trailers.
    wanted: [Vec<Span>; 3],
    route: Span,
    /// Tells the route from others while the stream has a snapshot; never followed.
    route_at: Option<*const RouteSpec>,
    host: Span,
    id: Span,
    method: Span,
    authority: Span,
    path: Span,
    /// The body of an answer of our own, where somebody asks.
    own_body: Span,
    /// The failure that ended it.
    reason: Option<Reason>,
    /// The routes before the one that matched.
    rejected: Vec<Rejected>,
    /// The connection's ends, where it has no handle.
    pub ends: (Option<SocketAddr>, Option<SocketAddr>),
    /// Whom trusted headers name as the client.
    pub client: Option<IpAddr>,
    /// What went wrong.
    pub flags: Flags,
    /// Who decided on the status, and why.
    pub details: &'static str,
    /// The status sent; 0: none.
    pub status: u16,
    /// Tries made.
    pub attempts: u32,
    /// Body bytes of the request.
    pub received: u64,
    /// Body bytes of the response.
    pub sent: u64,
    /// Bytes of names and values, where a log asks for them.
    request_head: u32,
    response_head: u32,
    trailers: u32,
    /// Our address towards the upstream.
    pub upstream_local: Option<SocketAddr>,
    /// What the upstream is spoken to in.
    pub upstream_protocol: &'static str,
    /// The client had sent the whole request.
    pub request_end: Option<Instant>,
    /// The first try had a connection.
    pub upstream_begin: Option<Instant>,
    /// The upstream's response began.
    pub response_begin: Option<Instant>,
    /// The response's head was sent.
    pub send_begin: Option<Instant>,
    /// A filter answered it as a health check.
    pub health_check: bool,
    /// `details` where they name something configured.
    pub named_details: Option<Box<str>>,
    /// What filters left.
    pub metadata: Metadata,
    /// Who is told of it by label sets when it is over.
    pub report: Option<Box<Report>>,
    /// Somebody counts its bytes, and asks who is at the upstream.
    pub measured: bool,
    /// What is known of the upstream's encryption, if somebody asks.
    pub upstream_tls: Option<Arc<Session>>,
    /// It was shown the fields of the request.
    has_fields: bool,
    /// The status of a gRPC call.
    grpc_status: Option<u32>,
}

/// The request as far as the record keeps it.
impl Head for Record {
    fn authority(&self) -> Option<&[u8]> {
        self.text(self.authority)
    }

    fn path_and_query(&self) -> Option<&[u8]> {
        self.text(self.path)
    }

    fn method(&self) -> Option<&[u8]> {
        self.text(self.method)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name {
            ":path" => self.path_and_query(),
            ":method" => self.method(),
            ":authority" => self.authority(),
            name => self.value(Block::Request, name),
        }
        .map(Cow::Borrowed)
    }
}

impl Record {
    fn new(begin: Instant) -> Self {
        Record {
            logs: None,
            kind: LogKind::NotSet,
            protocol: "",
            begin,
            text: Vec::new(),
            wanted: Default::default(),
            route: None,
            route_at: None,
            host: None,
            id: None,
            method: None,
            authority: None,
            path: None,
            own_body: None,
            reason: None,
            rejected: Vec::new(),
            ends: (None, None),
            client: None,
            flags: Flags::default(),
            details: "",
            status: 0,
            attempts: 0,
            received: 0,
            sent: 0,
            request_head: 0,
            response_head: 0,
            trailers: 0,
            upstream_local: None,
            upstream_protocol: "",
            request_end: None,
            upstream_begin: None,
            response_begin: None,
            send_begin: None,
            health_check: false,
            named_details: None,
            metadata: Metadata::default(),
            report: None,
            measured: false,
            upstream_tls: None,
            grpc_status: None,
            has_fields: false,
        }
    }

    /// A stream begins.
    pub fn begin(local: &Local, kind: LogKind, protocol: &'static str, begin: Instant) -> Box<Record> {
        let pooled = local.records.borrow_mut().pop();
        let mut record = pooled.unwrap_or_else(|| Box::new(Record::new(begin)));
        let (mut text, mut wanted) = (std::mem::take(&mut record.text), std::mem::take(&mut record.wanted));
        text.clear();
        wanted.iter_mut().for_each(Vec::clear);
        *record = Record { kind, protocol, text, wanted, ..Record::new(begin) };
        record
    }

    /// What serves it decides on its logs.
    pub fn follow(&mut self, bound: &Bound) {
        self.logs.clone_from(&bound.logs);
    }

    /// Its logs, where no filter serves it.
    pub fn log_to(&mut self, logs: Logs) {
        self.logs = logs;
    }

    /// The request as it came, in its common form, and its `x-request-id`. `later`: its fields are shown at once
    /// when they have the form they leave with.
    pub fn arrived(&mut self, head: &dyn Head, id: Option<&[u8]>, later: bool) {
        let text = &mut self.text;
        self.method = head.method().and_then(|method| keep(text, method));
        self.authority = head.authority().and_then(|authority| keep(text, authority));
        self.path = head.path_and_query().and_then(|path| keep(text, path));
        self.id = id.and_then(|id| keep(text, id));
        if !later {
            self.request(head);
        }
    }

    /// Whether it was shown the fields of the request.
    pub fn has_fields(&self) -> bool {
        self.has_fields
    }

    /// Its id has become another one.
    pub fn identify(&mut self, id: Option<&[u8]>) {
        self.id = id.and_then(|id| keep(&mut self.text, id));
    }

    /// The id of a call.
    pub fn call(&mut self, id: u32) {
        self.id = keep(&mut self.text, id.to_string().as_bytes());
    }

    /// Whether it was answered here because it failed.
    pub fn has_failed(&self) -> bool {
        self.reason.is_some()
    }

    /// Why the routes before the one that matched did not.
    pub fn explain(&mut self, table: Option<&RouteTable>) {
        let Some(table) = table else { return };
        let rejected = table.explain(&*self, 0, self.route_at).rejected;
        self.rejected = rejected
            .into_iter()
            .take(REJECTED)
            .map(|(index, route, why)| Rejected {
                index,
                route: Short::new(route.name().as_bytes()),
                why: Short::new(why.as_bytes()),
            })
            .collect();
    }

    /// The request, in the form it has now.
    pub fn request(&mut self, head: &dyn Head) {
        self.has_fields = true;
        if self.capture_listed(head) {
            return;
        }
        self.capture(Block::Request, &|name, take| head.each_value(name, take));
    }

    /// The response's status and head as they are sent.
    pub fn response(&mut self, status: u16, headers: &HeaderMap) {
        self.status = status;
        if self.logs.is_none() && !self.measured {
            return;
        }
        self.grpc_status = grpc_status(headers);
        self.send_begin = Some(Instant::now());
        if self.asks(Fact::ResponseHeadersBytes) {
            self.response_head = size_of_head(headers);
        }
        self.capture(Block::Response, &|name, take| {
            headers.get(name).into_iter().for_each(|value| take(value.as_bytes()));
        });
    }

    /// The response of an RPC.
    pub fn answer(&mut self, status: u16, head: &dyn Head) {
        self.status = status;
        self.send_begin = Some(Instant::now());
        self.capture(Block::Response, &|name, take| head.each_value(name, take));
    }

    /// The response's trailers.
    pub fn ended_with(&mut self, trailers: &HeaderMap) {
        self.grpc_status = grpc_status(trailers).or(self.grpc_status);
        if self.asks(Fact::ResponseTrailersBytes) {
            self.trailers = size_of_head(trailers);
        }
        self.capture(Block::Trailer, &|name, take| {
            trailers.get(name).into_iter().for_each(|value| take(value.as_bytes()));
        });
    }

    /// Whether trailers have to be shown to [`ended_with`](Self::ended_with).
    pub fn wants_trailers(&self) -> bool {
        let any = |logs: &Rc<Arc<AccessLogs>>| !logs.wanted(Block::Trailer).is_empty();
        let counted = self.report.as_ref().is_some_and(|report| report.grpc);
        counted || self.logs.as_ref().is_some_and(any) || self.asks(Fact::ResponseTrailersBytes)
    }

    /// When its logs get lines before the last.
    pub fn moments(&self) -> LogMoments {
        self.logs.as_ref().map(|logs| logs.moments()).unwrap_or_default()
    }

    /// Whether answers of our own may become others.
    pub fn rewrites(&self) -> bool {
        self.logs.as_ref().is_some_and(|logs| logs.replies().is_some())
    }

    /// The size of the request's head.
    pub fn request_size(&mut self, headers: &HeaderMap) {
        if self.asks(Fact::RequestHeadersBytes) {
            self.request_head = size_of_head(headers);
        }
    }

    fn asks(&self, fact: Fact) -> bool {
        let heads = [Fact::RequestHeadersBytes, Fact::ResponseHeadersBytes, Fact::ResponseTrailersBytes];
        if self.measured && heads.contains(&fact) {
            return true;
        }
        self.logs.as_ref().is_some_and(|logs| logs.asks(fact))
    }

    /// Copies what the logs want of a head; `value` gives the values of a header, of which the first counts.
    fn capture(&mut self, block: Block, value: Values<'_>) {
        let Some(logs) = &self.logs else { return };
        let Some(spans) = self.wanted.get_mut(block as usize) else { return };
        spans.clear();
        for name in logs.wanted(block) {
            let mut span = None;
            value(name, &mut |value| span = span.or_else(|| keep(&mut self.text, value)));
            spans.push(span);
        }
    }

    /// As [`capture`](Self::capture), in one pass over the fields of a request; `false`: it gives no list of them.
    fn capture_listed(&mut self, head: &dyn Head) -> bool {
        let Some(logs) = self.logs.clone() else { return true };
        let (wanted, text) = (logs.wanted(Block::Request), &mut self.text);
        let [spans, ..] = &mut self.wanted;
        spans.clear();
        spans.resize(wanted.len(), None);
        let place = |name: &str| wanted.binary_search_by(|wanted| (**wanted).cmp(name)).ok();
        if !logs.names_are_lower() {
            return false;
        }
        let listed = wanted.is_empty()
            || head.each_field(&mut |name, value| {
                if let Some(span) = place(name).and_then(|at| spans.get_mut(at))
                    && span.is_none()
                {
                    *span = keep(text, value);
                }
            });
        if !listed {
            return false;
        }
        // What stands in no list, and what has its value elsewhere.
        for (name, span) in wanted.iter().zip(spans.iter_mut()) {
            if name.starts_with(':') || **name == *"host" {
                *span = None;
                head.each_value(name, &mut |value| *span = span.or_else(|| keep(text, value)));
            }
        }
        true
    }

    /// The route that matched.
    pub fn route(&mut self, route: &RouteSpec) {
        self.route_at = Some(route);
        self.route = keep(&mut self.text, route.name().as_bytes());
        self.host = keep(&mut self.text, route.host().name.as_bytes());
    }

    /// A try has a connection, of which `local` tells our address.
    pub fn connected(&mut self, session: Option<&Arc<Session>>, local: impl FnOnce() -> Option<SocketAddr>) {
        const OUR_ADDRESS: &[Fact] =
            &[Fact::UpstreamLocalAddress, Fact::UpstreamLocalAddressWithoutPort, Fact::UpstreamLocalPort];
        let asks = |facts| self.logs.as_ref().is_some_and(|logs| logs.asks_any(facts));
        if session.is_some() && (self.measured || asks(Fact::OF_UPSTREAM_TLS)) {
            self.upstream_tls = session.cloned();
        }
        if self.logs.is_none() {
            return;
        }
        self.upstream_begin.get_or_insert_with(Instant::now);
        if asks(OUR_ADDRESS) {
            self.upstream_local = local();
        }
    }

    /// An upstream has answered.
    pub fn answered(&mut self, now: Instant) {
        self.details = "via_upstream";
        self.response_begin = Some(now);
    }

    /// An answer of our own, because of `reason`.
    pub fn failed(&mut self, reason: Reason) {
        self.flags.add(reason.flags());
        self.details = reason.details();
        self.reason = Some(reason);
    }

    /// No upstream took the connection. There is no response whose details could be told.
    pub fn unconnected(&mut self, reason: Reason) {
        self.reason = Some(reason);
    }

    /// The response broke off because of `reason`.
    pub fn broke(&mut self, reason: Reason) {
        self.flags.add(reason.flags());
        self.details = reason.details_after_start();
        self.reason = Some(reason);
    }

    fn is_request(&self) -> bool {
        self.kind == LogKind::DownstreamEnd
    }

    fn text(&self, span: Span) -> Option<&[u8]> {
        let (from, to) = span?;
        self.text.get(from as usize..to as usize)
    }

    fn value(&self, block: Block, name: &str) -> Option<&[u8]> {
        let at = self.logs.as_ref()?.wanted(block).iter().position(|wanted| **wanted == *name)?;
        self.text(*self.wanted.get(block as usize)?.get(at)?)
    }

    /// The stream is over: writes its lines, and goes back to the pool.
    pub fn finish(
        self: Box<Self>,
        local: &Rc<Local>,
        handle: Option<&Handle>,
        upstream: (Option<&Cluster>, Option<&Host>),
    ) {
        self.finish_at(Instant::now(), local, handle, upstream);
    }

    /// As [`finish`](Self::finish), for who has just looked at the clock.
    pub fn finish_at(
        mut self: Box<Self>,
        now: Instant,
        local: &Rc<Local>,
        handle: Option<&Handle>,
        upstream: (Option<&Cluster>, Option<&Host>),
    ) {
        // A client that gave up is no fault of ours.
        let failed = self.reason.is_some_and(|reason| reason != Reason::DownstreamReset);
        let slow = self.is_request() && now.saturating_duration_since(self.begin) >= records::slow();
        if self.logs.is_some() || failed || slow || self.report.is_some() {
            let logs = self.logs.clone();
            let ended = Ended {
                record: &self,
                handle,
                cluster: upstream.0,
                host: upstream.1,
                now,
                wall: SystemTime::now(),
                random: &local.env.random,
                node: local.env.registry.node(),
            };
            if failed || slow {
                local.env.registry.why().put(ended.why());
            }
            if let Some(report) = &self.report {
                ended.count(report, &local.mesh);
            }
            if let Some(logs) = &logs {
                write_lines(local, logs, &ended);
            }
        }
        self.logs = None;
        (self.report, self.upstream_tls) = (None, None);
        let mut pool = local.records.borrow_mut();
        if pool.len() < POOL && self.text.capacity() <= LARGEST {
            pool.push(self);
        }
    }
}

/// A line in each log that wants one.
fn write_lines(local: &Rc<Local>, logs: &AccessLogs, ended: &Ended<'_>) {
    for log in logs.iter().filter(|log| ended.passes(log.filter.as_ref())) {
        let first = local.outlet.append(&log.sink, |out| match &log.format {
            LogFormat::Text { format, omit_empty } => {
                format.write(ended, if *omit_empty { b"" } else { b"-" }, out);
            }
            LogFormat::Json(template) => {
                template.write(ended, out);
                out.push(b'\n');
            }
        });
        if first {
            flush_later(local);
        }
    }
}

/// Lines are handed over when they have waited for the interval. The task ends with the worker.
fn flush_later(local: &Rc<Local>) {
    let waiting = Rc::downgrade(local);
    let timer = local.env.wheel.sleep(files::interval());
    spawn_local(async move {
        timer.await;
        if let Some(local) = waiting.upgrade() {
            local.outlet.flush(true);
        }
    });
}

fn keep(text: &mut Vec<u8>, value: &[u8]) -> Span {
    let from = u32::try_from(text.len()).ok()?;
    text.extend_from_slice(value);
    Some((from, u32::try_from(text.len()).ok()?))
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
    headers.get(GRPC_STATUS)?.to_str().ok()?.trim().parse().ok()
}

/// Names and values, as Envoy counts a head.
fn size_of_head(headers: &HeaderMap) -> u32 {
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    u32::try_from(size).unwrap_or(u32::MAX)
}
