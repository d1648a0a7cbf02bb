//! The bodies of an exchange whose response has begun.

use super::clock::Clock;
use super::flow::{Broken, Flow};
use super::sink::{Gone, Sink};
use super::source::Fault;
use super::stats::Stats;
use super::upstream::Way;
use crate::message::Reason;
use crate::stream::exchange::Attempt;
use crate::stream::{Local, Record};
use bytes::Bytes;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Two flows and what they hold upstream; no configuration.
pub(super) struct Relay {
    up: Flow,
    pub(super) down: Flow,
    attempt: Attempt,
    _way: Way,
}

/// How a relay ended.
pub(super) enum End {
    Done,
    /// The client went away or gave up.
    Client,
    Upstream(Fault),
    Late(Reason),
}

impl Relay {
    /// The rest of the request by `up`, the response by `down`.
    pub(super) fn new(up: Flow, down: Flow, attempt: Attempt, way: Way) -> Self {
        Relay { up, down, attempt, _way: way }
    }

    /// Moves both bodies until the response is whole. A request that goes on after it is given up: its client
    /// has all it will get.
    pub(super) async fn run(&mut self, clock: &mut Clock) -> End {
        let mut broken = false;
        poll_fn(|cx| {
            match self.down.poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(End::Done),
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(End::Upstream(error)),
                Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(End::Client),
                Poll::Pending => {}
            }
            if !broken && !self.up.is_done() {
                match self.up.poll(cx) {
                    Poll::Ready(Err(Broken::Source(_))) => return Poll::Ready(End::Client),
                    // The server wants no more of the request; its response goes on.
                    Poll::Ready(Err(Broken::Sink)) => broken = true,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                if self.up.has_ended() {
                    clock.request_ended();
                }
            }
            // A request that still comes tells of its client. To ask for resets too has h2 wake this task whenever
            // the response gets room, which is with every frame of it.
            let told = !broken && self.up.listens();
            if self.down.sink().is_none_or(|sink| !sink.is_told(told) && sink.poll_reset(cx).is_ready()) {
                return Poll::Ready(End::Client);
            }
            clock.poll(cx, self.up.moved() + self.down.moved()).map(End::Late)
        })
        .await
    }

    /// As [`run`](Self::run); `note` is called this often meanwhile.
    pub(super) async fn run_noted(
        &mut self,
        clock: &mut Clock,
        every: Duration,
        local: &Local,
        mut note: impl FnMut(&Relay),
    ) -> End {
        loop {
            let mut timer = pin!(local.env.wheel.sleep(every));
            // What is moved is kept in the flows: a run that is given up goes on where it was.
            let ended = {
                let mut run = pin!(self.run(clock));
                poll_fn(|cx| match run.as_mut().poll(cx) {
                    Poll::Ready(end) => Poll::Ready(Some(end)),
                    Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
                })
                .await
            };
            match ended {
                Some(end) => return end,
                None => note(self),
            }
        }
    }

    /// Tells `record` what was moved.
    pub(super) fn tell(&self, record: &mut Record) {
        record.received = self.up.bytes();
        record.sent = self.down.bytes();
        if let Some(trailers) = self.down.noted_trailers() {
            record.ended_with(trailers);
        }
    }

    /// Counts how often one side waited for the other.
    pub(super) fn count(&self, downstream: &Stats) {
        let cluster = &self.attempt.cluster.stats;
        let (held, freed) = self.up.held_up();
        downstream.held_up((held, freed));
        cluster.upstream_flow_control_backed_up_total.add(held.into());
        cluster.upstream_flow_control_drained_total.add(freed.into());
        if self.up.dropped_trailers() {
            cluster.upstream_rq_dropped_trailers.inc();
        }
        if self.down.dropped_trailers() {
            downstream.dropped_trailers();
        }
        let (held, freed) = self.down.held_up();
        cluster.upstream_flow_control_paused_reading_total.add(held.into());
        cluster.upstream_flow_control_resumed_reading_total.add(freed.into());
    }

    /// Tells both sides how it ended. What is dropped unfinished is reset with CANCEL by h2, and closed where
    /// it is HTTP/1.
    pub(super) fn finish(&mut self, end: &End) {
        let cluster = &self.attempt.cluster.stats;
        let reason = match end {
            End::Done => return,
            End::Client => return cluster.upstream_rq_cancelled.inc(),
            End::Upstream(error) => {
                cluster.failure.inc(error.failure().reason);
                cluster.upstream_rq_rx_reset.inc();
                error.carried()
            }
            End::Late(reason) => {
                cluster.failure.inc(*reason);
                cluster.upstream_rq_tx_reset.inc();
                h2::Reason::INTERNAL_ERROR
            }
        };
        if let Some(sink) = self.down.sink() {
            sink.reset(reason);
        }
    }
}

/// Sends a body of our own as the client takes it.
pub(super) async fn send_whole(sink: &mut Sink, mut body: Bytes, clock: &mut Clock) -> End {
    poll_fn(|cx| match poll_whole(sink, &mut body, cx) {
        Poll::Ready(Ok(())) => Poll::Ready(End::Done),
        Poll::Ready(Err(Gone)) => Poll::Ready(End::Client),
        Poll::Pending => clock.poll(cx, body.len() as u64).map(|reason| {
            sink.reset(h2::Reason::CANCEL);
            End::Late(reason)
        }),
    })
    .await
}

fn poll_whole(sink: &mut Sink, body: &mut Bytes, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
    while !body.is_empty() {
        let Poll::Ready(room) = sink.poll_room(cx, body.len())? else {
            let _ = sink.poll_flush(cx)?;
            return Poll::Pending;
        };
        let part = body.split_to(room.min(body.len()));
        sink.send(part, body.is_empty())?;
    }
    sink.poll_flush(cx)
}
