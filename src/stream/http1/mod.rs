//! HTTP/1 downstream: one connection, one request at a time.
//!
//! One task serves the connection: it reads a head, runs the exchange inline, and goes on to the next head,
//! which may be in the input already (pipelining). A response leaves with one write where it fits, a body is
//! read only as its upstream takes it, and an idle connection holds no buffer.

mod incoming;
mod outgoing;
mod responder;
#[cfg(test)]
mod tests;

pub use incoming::Incoming;
pub use outgoing::Outgoing;
pub use responder::Responder;
pub(in crate::stream) use responder::length;

use super::http::{Client, Clock, Downstream, STREAM_IDLE, Source, Version, exchange, refusal, say_why};
use super::{Drain, Handle, Local, Record};
use crate::message::Reason;
use crate::model::{HttpManager, LogKind, RequestLimits, Runtime, runtime};
use crate::net::{Conn, Filled, Line};
use crate::protocol::http1::{
    BodyLength, Fault, Framing, Limits, RequestDecoder, RequestHead, ResponseTo, encode_response, is_foreign,
};
use crate::snapshot::FilterSpec;
use bytes::BytesMut;
use http::uri::Authority;
use http::{Method, Response, StatusCode};
use responder::Conduct;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// How long a client may take to close its side after we closed ours, and to take what was written last.
const LINGER: Duration = Duration::from_secs(1);
/// How long a connection may be idle once the process is to end.
const QUIET: Duration = Duration::from_secs(1);

/// Serves an HTTP/1 connection to its end. `early`: bytes read before the protocol was known.
pub async fn serve(io: Conn, early: BytesMut, handle: Rc<Handle>, local: Rc<Local>) {
    let bound = handle.bound();
    let FilterSpec::Http { config, .. } = &bound.chain.filter else { return };
    let view = local.view();
    let (limits, generation) = (Rc::new(limits(config, &view.runtime)), view.generation);
    drop((bound, view));
    let line = Line::with(io, &local.env.reads, early);
    let incoming = Incoming::new(line.clone(), limits.clone(), Framing::Empty, None);
    let conduct = Rc::new(Conduct {
        line: line.clone(),
        handle: handle.clone(),
        incoming,
        to: Cell::default(),
        expects: Cell::new(false),
        answered: Cell::new(false),
        last: Cell::new(false),
        aborted: Cell::new(false),
        cut: Cell::new(false),
        tunnel: Cell::new(false),
    });
    let Some(down) = Downstream::open(handle, local, Version::Http1) else { return };
    let begin = Instant::now();
    let decoder = RequestDecoder::default();
    let driver = Driver { down, conduct, limits, generation, decoder, since: begin };
    let (ending, down) = driver.run(begin).await;
    let (by_peer, busy) = (ending == Ending::Gone, ending == Ending::Cut);
    down.stats.closed(Version::Http1, begin.elapsed(), line.bytes(), by_peer, busy);
    ending.close(line, &down.local, down.linger()).await;
}

/// The codec's limits, as `config` and the switches among `values` set them.
fn limits(config: &HttpManager, values: &Runtime) -> Limits {
    let default = Limits::default();
    Limits {
        head_bytes: config.limits.head_bytes,
        max_headers: config.limits.max_headers.unwrap_or(default.max_headers),
        accept_http_10: config.http1.accept_http_10,
        default_host_10: Authority::try_from(config.http1.default_host.as_str()).ok(),
        allow_absolute_url: config.http1.allow_absolute_url,
        reject_fragment: values.flag(runtime::REJECT_FRAGMENT, true),
        lenient: config.http1.lenient || values.flag(runtime::LENIENT_HTTP1, false),
        custom_methods: config.http1.custom_methods,
        ..default
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The client is gone, or has to be.
    Gone,
    /// After what was written.
    Gentle,
    /// So that what was sent does not look whole.
    Cut,
}

impl Ending {
    async fn close(self, line: Rc<Line>, local: &Local, linger: Duration) {
        if self == Ending::Gentle {
            let mut limit = pin!(local.env.wheel.sleep(linger.max(LINGER)));
            let flushed = poll_fn(|cx| match line.poll_flush(cx) {
                Poll::Ready(result) => Poll::Ready(result.is_ok()),
                Poll::Pending => limit.as_mut().poll(cx).map(|()| false),
            });
            if flushed.await
                && let Some(io) = line.into_conn()
            {
                io.close_gently(linger).await;
            }
        } else if self == Ending::Cut
            && let Some(io) = line.into_conn()
        {
            io.reset();
        }
    }
}

/// What comes before a request's body, or instead of it.
#[expect(clippy::large_enum_variant, reason = "one at a time, and mostly the large one")]
enum Next {
    Request(RequestHead),
    Refused(Fault),
    /// It did not come in time.
    Late,
    /// No request comes any more.
    Over(Ending),
}

/// What the connection's task keeps between requests.
struct Driver {
    down: Rc<Downstream>,
    conduct: Rc<Conduct>,
    limits: Rc<Limits>,
    /// The snapshot whose switches `limits` has.
    generation: u64,
    decoder: RequestDecoder,
    since: Instant,
}

/// Time limits of waiting for a head.
struct Patience {
    idle: Option<Duration>,
    /// From a head's first byte to its last.
    head: Option<Duration>,
    /// When the connection has been open for long enough.
    age: Option<Instant>,
}

impl Driver {
    /// How it ended, and who counts it.
    async fn run(mut self, begin: Instant) -> (Ending, Rc<Downstream>) {
        let ending = self.serve(begin).await;
        (ending, self.down)
    }

    async fn serve(&mut self, begin: Instant) -> Ending {
        let mut clock = Clock::new(&self.down.local.env.wheel, begin);
        let mut served = 0u32;
        loop {
            let head = match self.next(&mut clock).await {
                Next::Request(head) => head,
                Next::Refused(_) if served == 0 && is_foreign(&self.conduct.line.input()) => {
                    self.down.stats.protocol_error();
                    self.note(Reason::BadRequest, None, None);
                    return Ending::Gentle;
                }
                Next::Refused(fault) => return self.refuse(fault.status, Reason::BadRequest),
                Next::Late => return self.refuse(StatusCode::REQUEST_TIMEOUT, Reason::RequestTimeout),
                Next::Over(ending) => return ending,
            };
            served += 1;
            if let Some(down) = self.down.follow(Version::Http1) {
                self.down = down;
            }
            let begin = Instant::now();
            self.prepare(&head, served, begin);
            clock.restart(begin);
            let body = Source::Http1Request(self.conduct.incoming.clone());
            let client = Client::Http1(Responder::new(self.conduct.clone()));
            let open = self.down.handle.enter_inline();
            clock = exchange::run(self.down.clone(), head.parts, body, client, clock, begin).await;
            drop(open);
            if let Some(ending) = self.ending() {
                return ending;
            }
        }
    }

    /// What the response needs to know of its request.
    fn prepare(&self, head: &RequestHead, served: u32, now: Instant) {
        let conduct = &self.conduct;
        conduct.incoming.restart(head.framing, head.case.clone());
        conduct.to.set(ResponseTo {
            head: head.parts.method == Method::HEAD,
            connect: head.parts.method == Method::CONNECT,
            http_10: head.parts.version == http::Version::HTTP_10,
            keep_alive: head.keep_alive,
        });
        conduct.expects.set(head.expect_continue);
        conduct.answered.set(false);
        let bound = self.down.handle.bound();
        if let FilterSpec::Http { config, .. } = &bound.chain.filter {
            let spent = config.limits.per_connection.is_some_and(|max| served >= max);
            let old = config.max_connection_duration.is_some_and(|max| now >= self.since + max);
            conduct.last.set(spent || old);
        }
    }

    /// How the connection ends after a request; `None`: it goes on.
    fn ending(&self) -> Option<Ending> {
        let conduct = &self.conduct;
        if !conduct.answered.get() {
            return Some(match (conduct.cut.get(), conduct.aborted.get()) {
                (true, _) => Ending::Cut,
                (false, true) => Ending::Gentle,
                (false, false) => Ending::Gone,
            });
        }
        if conduct.tunnel.get() || conduct.last.get() || !conduct.incoming.skim() {
            if self.down.handle.draining() >= Drain::Told {
                self.down.stats.drain_close();
            }
            return Some(Ending::Gentle);
        }
        None
    }

    /// Takes the limits anew where configuration has changed since the last request.
    fn follow(&mut self) {
        let view = self.down.local.view();
        if view.generation == self.generation {
            return;
        }
        self.generation = view.generation;
        if let FilterSpec::Http { config, .. } = &self.down.handle.bound().chain.filter {
            self.limits = Rc::new(limits(config, &view.runtime));
        }
    }

    /// Waits for the next request's head.
    async fn next(&mut self, clock: &mut Clock) -> Next {
        let patience = self.patience();
        let now = Instant::now();
        clock.restart(now);
        let mut begun = None;
        self.limit(clock, &patience, begun);
        let mut leaving = None;
        poll_fn(|cx| {
            loop {
                if !self.conduct.line.input().is_empty() {
                    if begun.is_none() {
                        self.follow();
                    }
                    match self.decoder.decode(&mut self.conduct.line.input(), &self.limits) {
                        Ok(Some(head)) => return Poll::Ready(Next::Request(head)),
                        Ok(None) => {}
                        Err(fault) => return Poll::Ready(Next::Refused(fault)),
                    }
                    // Most heads come in one part, and need no limit.
                    if begun.is_none() {
                        begun = Some(Instant::now());
                        self.limit(clock, &patience, begun);
                    }
                }
                match self.conduct.line.poll_fill(cx) {
                    Poll::Ready(Ok(Filled::Bytes(_))) => {}
                    Poll::Ready(Ok(Filled::End)) if self.decoder.has_begun() => {
                        self.down.stats.protocol_error();
                        self.note(Reason::DownstreamReset, None, begun);
                        return Poll::Ready(Next::Over(Ending::Gone));
                    }
                    Poll::Ready(Ok(Filled::OverLimit)) => {
                        return Poll::Ready(Next::Refused(Fault::HEADERS_TOO_LARGE));
                    }
                    Poll::Ready(Ok(Filled::End) | Err(_)) => return Poll::Ready(Next::Over(Ending::Gone)),
                    Poll::Pending => break,
                }
            }
            self.conduct.line.settle();
            self.poll_over(cx, clock, begun.is_some(), &mut leaving)
        })
        .await
    }

    /// Ready when there is no use in waiting for a head.
    fn poll_over(
        &self,
        cx: &mut Context<'_>,
        clock: &mut Clock,
        begun: bool,
        leaving: &mut Option<Instant>,
    ) -> Poll<Next> {
        let handle = &self.down.handle;
        handle.register(cx.waker());
        match handle.draining() {
            Drain::Now => return Poll::Ready(Next::Over(Ending::Gentle)),
            Drain::Leaving if !begun => {
                let at = *leaving.get_or_insert_with(|| Instant::now() + QUIET);
                clock.limit(None, None, Some(at));
            }
            _ => {}
        }
        match clock.poll(cx, 0) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) if begun => Poll::Ready(Next::Late),
            Poll::Ready(reason) => {
                if reason == Reason::StreamIdle {
                    self.down.stats.idle_timeout();
                }
                Poll::Ready(Next::Over(Ending::Gentle))
            }
        }
    }

    fn limit(&self, clock: &mut Clock, patience: &Patience, begun: Option<Instant>) {
        match begun {
            None => clock.limit(patience.idle, None, patience.age),
            Some(begun) => clock.limit(None, None, patience.head.map(|limit| begun + limit)),
        }
    }

    fn patience(&self) -> Patience {
        let bound = self.down.handle.bound();
        let FilterSpec::Http { config, .. } = &bound.chain.filter else {
            return Patience { idle: Some(STREAM_IDLE), head: Some(STREAM_IDLE), age: None };
        };
        let RequestLimits { headers_timeout, request_timeout, .. } = config.limits;
        let whole = [headers_timeout, request_timeout, config.stream_idle_timeout];
        Patience {
            idle: config.idle_timeout,
            head: whole.into_iter().flatten().min(),
            age: config.max_connection_duration.map(|max| self.since + max),
        }
    }

    /// One log line for what is no request.
    fn note(&self, reason: Reason, answer: Option<(&Response<()>, usize)>, begun: Option<Instant>) {
        let Downstream { local, handle, .. } = &*self.down;
        let begin = begun.unwrap_or_else(Instant::now);
        let mut record = Record::begin(local, LogKind::DownstreamEnd, "HTTP/1.1", begin);
        record.follow(&handle.bound());
        record.failed(reason);
        if let Some((response, length)) = answer {
            record.response(response.status().as_u16(), response.headers());
            record.sent = length as u64;
        }
        record.finish(local, Some(handle), (None, None));
    }

    /// Answers what is no request; the connection ends with it.
    fn refuse(&self, status: StatusCode, reason: Reason) -> Ending {
        if reason == Reason::BadRequest {
            self.down.stats.protocol_error();
        }
        let (mut response, body) = refusal(status, &self.down);
        say_why(&mut response, reason);
        self.note(reason, Some((&response, body.len())), None);
        let parts = response.into_parts().0;
        let output = &mut *self.conduct.line.output();
        let length = BodyLength::Known(body.len() as u64);
        let mut encoder = encode_response(&parts, None, length, ResponseTo::default(), output);
        // The length is that of the body.
        let _ = encoder.data(body, output).and_then(|()| encoder.end(None, output));
        Ending::Gentle
    }
}
