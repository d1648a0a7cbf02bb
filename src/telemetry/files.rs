//! Log files: lines from the workers to one writer thread.
//!
//! Owns what a worker has not handed over ([`Outlet`]), the writer with its open files, and their rotation. A
//! worker appends to a buffer of its own and hands it over when it is large or has waited for the flush
//! interval; at most [`QUEUE`] such chunks wait for the writer. When it cannot keep up, chunks are dropped and
//! their lines counted: a worker never waits for a disk or a pipe.

mod rolling;
mod writer;

pub use writer::{FileStats, flush, reopen, set_enabled};

use crate::model::{LogRoller, LogSink};
use foldhash::fast::FixedState;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// Bytes at which a worker hands its lines over.
pub const CHUNK: usize = 64 * 1024;
/// Chunks that may wait for the writer.
pub const QUEUE: usize = 256;
/// Envoy's default of `--file-flush-interval-msec`.
const INTERVAL: Duration = Duration::from_secs(10);

/// How log files are kept.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Longest time a line waits in its worker. Default 10 s.
    pub interval: Option<Duration>,
    /// When files are rotated; `None` never.
    pub roller: Option<LogRoller>,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// Sets how log files are kept; once per process, before the first line.
pub fn configure(settings: Settings) {
    // A second configuration in one process comes too late for files that are open.
    let _ = SETTINGS.set(settings);
}

/// Longest time a line waits in its worker.
pub fn interval() -> Duration {
    SETTINGS.get().and_then(|settings| settings.interval).unwrap_or(INTERVAL)
}

/// Whether the file of `sink` could be opened now. Changes nothing.
///
/// # Errors
/// Why not.
pub fn probe(sink: &LogSink) -> io::Result<()> {
    let LogSink::File(path) = sink else { return Ok(()) };
    let mut at = Path::new(path);
    loop {
        match access(at, Access::WRITE_OK) {
            Ok(()) if at == Path::new(path) && at.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(()) if at != Path::new(path) && !at.is_dir() => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            Ok(()) => return Ok(()),
            // It will be made, with the folders on the way.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        at = match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            // A relative path stands in the folder the process works in.
            _ => return Ok(access(".", Access::WRITE_OK)?),
        };
    }
}

fn roller() -> Option<&'static LogRoller> {
    SETTINGS.get()?.roller.as_ref()
}

/// One worker's lines that are not handed over. What is left is when it is dropped.
#[derive(Default)]
pub struct Outlet {
    buffers: RefCell<HashMap<LogSink, Buffer, FixedState>>,
    /// Somebody will call [`flush`](Outlet::flush).
    awaited: Cell<bool>,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u32,
}

impl Outlet {
    /// Appends what `line` writes. `true`: these are the first since the last [`flush`](Self::flush), which has
    /// to be called after [`interval`].
    pub fn append(&self, sink: &LogSink, line: impl FnOnce(&mut Vec<u8>)) -> bool {
        // Taken out meanwhile: `line` is somebody else's code.
        let (mut bytes, lines) = match self.buffers.borrow_mut().get_mut(sink) {
            Some(buffer) => (std::mem::take(&mut buffer.bytes), buffer.lines),
            None => (Vec::new(), 0),
        };
        line(&mut bytes);
        let mut full = Buffer { bytes, lines: lines + 1 };
        let mut next = Buffer::default();
        if full.bytes.len() < CHUNK {
            std::mem::swap(&mut full, &mut next);
        } else {
            // Room for as much again, and for the line that will make it too large.
            next.bytes = Vec::with_capacity(CHUNK + CHUNK / 8);
        }
        let mut buffers = self.buffers.borrow_mut();
        match buffers.get_mut(sink) {
            Some(buffer) => *buffer = next,
            None => drop(buffers.insert(sink.clone(), next)),
        }
        drop(buffers);
        if full.lines > 0 {
            writer::send(sink.clone(), full.bytes, full.lines);
        }
        !self.awaited.replace(true)
    }

    /// Hands everything over; `by_timer`: since the interval has passed.
    pub fn flush(&self, by_timer: bool) {
        self.awaited.set(false);
        for (sink, buffer) in self.buffers.borrow_mut().iter_mut().filter(|(_, buffer)| buffer.lines > 0) {
            let full = std::mem::take(buffer);
            writer::send(sink.clone(), full.bytes, full.lines);
            if by_timer {
                writer::STATS.flushed_by_timer.inc();
            }
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.flush(false);
    }
}

#[cfg(test)]
mod tests;
