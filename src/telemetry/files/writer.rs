//! The writer thread.

use super::rolling::Rolling;
use super::{QUEUE, roller};
use crate::model::LogSink;
use crate::telemetry::metric::{Sample, SharedCounter, StatGroup};
use crate::telemetry::{Metric, clock};
use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long a full pipe is waited for before its chunk is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// A file that cannot be used is told of in the process log this often.
const COMPLAIN: Duration = Duration::from_secs(60);

static SENDER: OnceLock<Option<SyncSender<Order>>> = OnceLock::new();

/// What the files count, over the whole process.
pub(super) struct Stats {
    buffered: SharedCounter,
    completed: SharedCounter,
    failed: SharedCounter,
    pub flushed_by_timer: SharedCounter,
    reopen_failed: SharedCounter,
    dropped: SharedCounter,
}

pub(super) static STATS: Stats = Stats {
    buffered: SharedCounter::new(),
    completed: SharedCounter::new(),
    failed: SharedCounter::new(),
    flushed_by_timer: SharedCounter::new(),
    reopen_failed: SharedCounter::new(),
    dropped: SharedCounter::new(),
};

/// `filesystem.`: what the log files count.
#[derive(Debug, Default)]
pub struct FileStats;

impl StatGroup for FileStats {
    fn visit(&self, out: &mut dyn FnMut(&str, Sample)) {
        STATS.buffered.sample("write_buffered", out);
        STATS.completed.sample("write_completed", out);
        STATS.failed.sample("write_failed", out);
        STATS.flushed_by_timer.sample("flushed_by_timer", out);
        STATS.reopen_failed.sample("reopen_failed", out);
        STATS.dropped.sample("lines_dropped", out);
    }
}

enum Order {
    Chunk(LogSink, Vec<u8>, u32),
    Reopen,
    /// Write lines to this file, or throw them away.
    Enable(String, bool),
    Flush(SyncSender<()>),
}

/// Hands `lines` lines over, or drops and counts them.
pub(super) fn send(sink: LogSink, bytes: Vec<u8>, lines: u32) {
    STATS.buffered.inc();
    let taken = sender().is_some_and(|sender| sender.try_send(Order::Chunk(sink, bytes, lines)).is_ok());
    if !taken {
        STATS.dropped.add(lines.into());
    }
}

/// Opens all files anew, after they were renamed away.
pub fn reopen() {
    if let Some(Some(sender)) = SENDER.get()
        && sender.try_send(Order::Reopen).is_err()
    {
        STATS.reopen_failed.inc();
    }
}

/// Writes lines to the file at `path`, or throws them away from here on; whether the writer will hear of it.
pub fn set_enabled(path: &str, enabled: bool) -> bool {
    sender().is_some_and(|sender| sender.try_send(Order::Enable(path.to_owned(), enabled)).is_ok())
}

/// Waits, at most `limit`, until what was handed over before is written. For the end of the process.
pub fn flush(limit: Duration) {
    let Some(Some(sender)) = SENDER.get() else { return };
    let (done, wait) = sync_channel(1);
    let end = Instant::now() + limit;
    let mut order = Order::Flush(done);
    while let Err(refused) = sender.try_send(order) {
        if Instant::now() >= end {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
        order = match refused {
            std::sync::mpsc::TrySendError::Full(order) => order,
            std::sync::mpsc::TrySendError::Disconnected(_) => return,
        };
    }
    // Past the limit the rest is lost.
    let _ = wait.recv_timeout(end.saturating_duration_since(Instant::now()));
}

/// The way to the writer, which starts with the first chunk.
fn sender() -> Option<&'static SyncSender<Order>> {
    let sender = SENDER.get_or_init(|| {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || run(&receiver));
        thread.ok().map(|_| sender)
    });
    sender.as_ref()
}

#[derive(Default)]
struct Writer {
    files: HashMap<LogSink, Rolling>,
    /// Paths of files to which nothing is written.
    muted: HashSet<String>,
    complained: Option<Instant>,
}

fn run(orders: &Receiver<Order>) {
    let mut writer = Writer::default();
    while let Ok(order) = orders.recv() {
        match order {
            Order::Chunk(sink, bytes, lines) => match writer.write(&sink, &bytes) {
                Ok(()) => STATS.completed.inc(),
                Err(error) => {
                    STATS.failed.inc();
                    STATS.dropped.add(lines.into());
                    writer.complain(&sink, &error);
                }
            },
            Order::Reopen => writer.reopen(),
            Order::Enable(path, true) => drop(writer.muted.remove(&path)),
            Order::Enable(path, false) => drop(writer.muted.insert(path)),
            Order::Flush(done) => drop(done.send(())),
        }
    }
}

impl Writer {
    fn write(&mut self, sink: &LogSink, bytes: &[u8]) -> io::Result<()> {
        match sink {
            LogSink::Stdout => patiently(&mut io::stdout().lock(), bytes),
            LogSink::Stderr => patiently(&mut io::stderr().lock(), bytes),
            LogSink::File(path) if self.muted.contains(path) => Ok(()),
            LogSink::File(path) => {
                let file = match self.files.get_mut(sink) {
                    Some(file) => file,
                    None => self.files.entry(sink.clone()).or_insert(Rolling::open(path.as_ref())?),
                };
                file.write(bytes, roller(), clock::unix_millis())
            }
        }
    }

    fn reopen(&mut self) {
        for file in self.files.values_mut() {
            // On failure the old file goes on: better a renamed log than none.
            match Rolling::open(file.path()) {
                Ok(new) => *file = new,
                Err(_) => STATS.reopen_failed.inc(),
            }
        }
    }

    fn complain(&mut self, sink: &LogSink, error: &io::Error) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN) {
            self.complained = Some(Instant::now());
            tracing::warn!("access log {sink:?}: {error}; its lines are dropped and counted");
        }
    }
}

/// Writes everything; a descriptor that somebody made non-blocking is waited for.
fn patiently(out: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    let mut since = Instant::now();
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                since = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
    out.flush()
}
