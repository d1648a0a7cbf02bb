//! Both directions between two connections.
//!
//! Each direction ends on its own (half-close is kept), reads only what the other side takes, and holds no
//! buffer while nothing waits: both directions of all connections read into the worker's one buffer, and
//! only what could not be written at once is kept by the connection.

use crate::model::TcpProxy;
use crate::net::{Conn, Sleep, Wheel, poll_splice};
use crate::stream::{Drain, Handle, Local};
use crate::telemetry::{ClusterStats, TcpStats};
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The worker's copy buffer. 128 KiB: one read empties what a fast peer sends while we were away.
const BUFFER: usize = 128 * 1024;
/// Parts of this size are moved without being copied.
const LARGE: usize = 32 * 1024;
/// Reads in a row before other tasks get their turn.
const READS_PER_TURN: usize = 4;

/// How long a raw connection must be silent before a leaving process closes it.
const QUIET: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// How a pair of connections ended.
pub(super) enum Ended {
    /// Both directions finished.
    Done,
    /// A socket broke.
    Broken,
    /// Nothing moved for the idle timeout.
    Idle,
    /// The age limit passed.
    Old,
    /// The process leaves.
    Cut,
}

/// Both directions and their timers.
pub(super) struct Pump {
    pub(super) up: Half,
    pub(super) down: Half,
    idle: Option<Duration>,
    timer: Option<Sleep>,
    last_move: Instant,
    end: Option<Instant>,
    wheel: Rc<Wheel>,
    leaving: bool,
}

impl Pump {
    pub(super) fn new(local: &Local, config: &TcpProxy, begin: Instant) -> Self {
        let now = Instant::now();
        let end = config.max_connection_duration.map(|age| begin + age);
        let first = config.idle_timeout.map(|idle| now + idle).into_iter().chain(end).min();
        Pump {
            up: Half::default(),
            down: Half::default(),
            idle: config.idle_timeout,
            timer: first.map(|at| local.env.wheel.sleep_until(at)),
            last_move: now,
            end,
            wheel: local.env.wheel.clone(),
            leaving: false,
        }
    }

    pub(super) fn poll(
        &mut self,
        client: &mut Conn,
        upstream: &mut Conn,
        handle: &Handle,
        cx: &mut Context<'_>,
    ) -> Poll<Ended> {
        let before = self.up.moved + self.down.moved;
        let up = self.up.poll(client, upstream, cx);
        let down = self.down.poll(upstream, client, cx);
        if self.up.peer_lost || self.down.peer_lost {
            // The peer that broke takes nothing more; what it sent before still goes out.
            let survivor = if self.up.peer_lost { &up } else { &down };
            if survivor.is_ready() {
                return Poll::Ready(Ended::Broken);
            }
        }
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ended::Done);
        }
        if self.up.moved + self.down.moved != before && self.idle.is_some() {
            self.last_move = Instant::now();
        }
        handle.register(cx.waker());
        match handle.draining() {
            Drain::Now => return Poll::Ready(Ended::Cut),
            Drain::Leaving if !self.leaving => self.leave(),
            _ => {}
        }
        // The timer is moved only when it fires: a busy connection does not touch the wheel.
        while let Some(timer) = &mut self.timer
            && Pin::new(&mut *timer).poll(cx).is_ready()
        {
            let due = self.idle.map(|idle| self.last_move + idle).into_iter().chain(self.end).min();
            match due {
                Some(at) if at > Instant::now() => timer.reset(at),
                _ if self.leaving => return Poll::Ready(Ended::Cut),
                _ if self.end.is_some_and(|end| end <= Instant::now()) => return Poll::Ready(Ended::Old),
                _ => return Poll::Ready(Ended::Idle),
            }
        }
        Poll::Pending
    }

    /// Counts what has moved since the last time.
    pub(super) fn count(&mut self, stats: &TcpStats, cluster: &ClusterStats) {
        let (up, down) = (self.up.news(), self.down.news());
        stats.downstream_cx_rx_bytes_total.add(up.moved);
        cluster.upstream_cx_tx_bytes_total.add(up.moved);
        stats.downstream_cx_tx_bytes_total.add(down.moved);
        cluster.upstream_cx_rx_bytes_total.add(down.moved);
        if up.buffered != 0 {
            stats
                .downstream_cx_rx_bytes_buffered
                .set(stats.downstream_cx_rx_bytes_buffered.get() + up.buffered);
        }
        if down.buffered != 0 {
            stats
                .downstream_cx_tx_bytes_buffered
                .set(stats.downstream_cx_tx_bytes_buffered.get() + down.buffered);
        }
        match up.paused {
            Some(true) => {
                stats.downstream_flow_control_paused_reading_total.inc();
                cluster.upstream_flow_control_backed_up_total.inc();
            }
            Some(false) => {
                stats.downstream_flow_control_resumed_reading_total.inc();
                cluster.upstream_flow_control_drained_total.inc();
            }
            None => {}
        }
        match down.paused {
            Some(true) => cluster.upstream_flow_control_paused_reading_total.inc(),
            Some(false) => cluster.upstream_flow_control_resumed_reading_total.inc(),
            None => {}
        }
    }

    /// What is still kept goes with the connection.
    pub(super) fn forget(&self, stats: &TcpStats) {
        for (gauge, half) in [
            (&stats.downstream_cx_rx_bytes_buffered, &self.up),
            (&stats.downstream_cx_tx_bytes_buffered, &self.down),
        ] {
            if half.told_buffered != 0 {
                gauge.set(gauge.get() - half.told_buffered);
            }
        }
    }

    /// The process ends: from now on a connection on which nothing moves is closed soon.
    fn leave(&mut self) {
        self.leaving = true;
        self.idle = Some(self.idle.map_or(QUIET, |idle| idle.min(QUIET)));
        self.last_move = Instant::now();
        self.timer = Some(self.wheel.sleep_until(self.last_move + QUIET));
    }
}

/// One direction.
#[derive(Default)]
pub(super) struct Half {
    /// Read but not yet written.
    pub(super) rest: BytesMut,
    ended: bool,
    shut: bool,
    /// Reading failed: the connection we read from is gone as a whole.
    peer_lost: bool,
    /// The last read brought much: the next is spliced.
    large: bool,
    /// Its connections cannot be spliced.
    plain: bool,
    /// Bytes in all.
    pub(super) moved: u64,
    /// What was counted of `moved` and of the length of `rest`.
    told_moved: u64,
    told_buffered: i64,
}

/// What happened to one direction since it was counted last.
struct News {
    moved: u64,
    buffered: i64,
    /// Reading stopped (`true`) or went on.
    paused: Option<bool>,
}

impl Half {
    fn news(&mut self) -> News {
        let moved = self.moved - self.told_moved;
        self.told_moved = self.moved;
        let buffered = i64::try_from(self.rest.len()).unwrap_or(i64::MAX);
        let before = std::mem::replace(&mut self.told_buffered, buffered);
        let paused = ((before == 0) != (buffered == 0)).then_some(buffered != 0);
        News { moved, buffered: buffered - before, paused }
    }

    /// Ready when this direction has nothing more to do.
    fn poll(&mut self, from: &mut Conn, to: &mut Conn, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..READS_PER_TURN {
            if self.shut {
                return Poll::Ready(());
            }
            if std::task::ready!(self.flush(to, cx)).is_err() {
                // It takes nothing more, but may still have sent something the other direction delivers.
                self.rest = BytesMut::new();
                self.shut = true;
                return Poll::Ready(());
            }
            if self.ended {
                let _ = std::task::ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.shut = true;
                return Poll::Ready(());
            }
            let turn = SCRATCH.with(|scratch| self.turn(&mut scratch.borrow_mut(), from, to, cx));
            if let Err(_lost) = std::task::ready!(turn) {
                self.ended = true;
                self.peer_lost = true;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn flush(&mut self, to: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut *to).poll_write(cx, &self.rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.rest.advance(written),
            }
        }
        if self.rest.capacity() > 0 {
            self.rest = BytesMut::new();
        }
        Pin::new(to).poll_flush(cx)
    }

    /// One read, and as much writing as the other side takes. An error is one of reading.
    fn turn(
        &mut self,
        scratch: &mut [u8],
        from: &mut Conn,
        to: &mut Conn,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.large && !self.plain {
            match poll_splice(from, to, &mut self.rest, cx) {
                Some(moved) => {
                    let moved = std::task::ready!(moved)?;
                    self.ended = moved == 0;
                    self.large = moved >= LARGE;
                    self.moved += moved as u64;
                    return Poll::Ready(Ok(()));
                }
                None => self.plain = true,
            }
        }
        let mut buffer = ReadBuf::new(scratch);
        std::task::ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        let mut filled = buffer.filled();
        if filled.is_empty() {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        self.moved += filled.len() as u64;
        self.large = filled.len() >= LARGE;
        while !filled.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, filled) {
                Poll::Ready(Ok(n)) if n > 0 => filled = filled.get(n..).unwrap_or_default(),
                // The next flush meets the same error and ends this direction.
                Poll::Ready(_) | Poll::Pending => {
                    self.rest.extend_from_slice(filled);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
