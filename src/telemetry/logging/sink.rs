//! The writer thread and its queue.

use super::Error;
use crate::telemetry::SharedCounter;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

/// Lines that may wait for the writer; a line is at most a few hundred bytes.
pub const QUEUE: usize = 4096;

/// Lines that found the queue full.
pub static DROPPED: SharedCounter = SharedCounter::new();

static SENDER: OnceLock<SyncSender<Order>> = OnceLock::new();

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Stderr,
    Stdout,
    /// Appended to; folders on the way are made.
    File(PathBuf),
}

enum Order {
    Line(String),
    Reopen,
    Flush(SyncSender<()>),
}

pub(super) fn start(destination: Destination) -> Result<(), Error> {
    let out = open(&destination)?;
    let (sender, receiver) = sync_channel(QUEUE);
    SENDER.set(sender).map_err(|_| Error::Running)?;
    let thread =
        std::thread::Builder::new().name("log".into()).spawn(move || run(&receiver, &destination, out));
    thread.map(drop).map_err(|source| Error::Open { path: "log thread".into(), source })
}

/// Whether lines are written at all.
static ENABLED: AtomicBool = AtomicBool::new(true);

/// Writes lines, or throws them away from here on, whatever their level.
pub fn set_enabled(enabled: bool) {
    ENABLED.store(enabled, Relaxed);
}

pub(super) fn send(line: String) {
    if !ENABLED.load(Relaxed) {
        return;
    }
    if let Some(sender) = SENDER.get()
        && sender.try_send(Order::Line(line)).is_err()
    {
        DROPPED.inc();
    }
}

/// Opens the log file again, after it was renamed away.
pub fn reopen() {
    if let Some(sender) = SENDER.get()
        && sender.try_send(Order::Reopen).is_err()
    {
        DROPPED.inc();
    }
}

/// Waits, at most `limit`, until what was logged before is written. For the end of the process.
pub fn flush(limit: Duration) {
    let Some(sender) = SENDER.get() else { return };
    let (done, wait) = sync_channel(1);
    if sender.try_send(Order::Flush(done)).is_ok() {
        // The sender's end drops or answers; past the limit the rest is lost.
        let _ = wait.recv_timeout(limit);
    }
}

fn open(destination: &Destination) -> Result<Box<dyn Write + Send>, Error> {
    match destination {
        Destination::Stderr => Ok(Box::new(io::stderr())),
        Destination::Stdout => Ok(Box::new(io::stdout())),
        Destination::File(path) => {
            let file =
                append(path).map_err(|source| Error::Open { path: path.display().to_string(), source })?;
            Ok(Box::new(file))
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

fn run(receiver: &Receiver<Order>, destination: &Destination, mut out: Box<dyn Write + Send>) {
    let mut pending = Vec::with_capacity(8192);
    while let Ok(first) = receiver.recv() {
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Line(line) => pending.extend_from_slice(line.as_bytes()),
                Order::Reopen => {
                    write(&mut out, &mut pending);
                    // On failure the old file goes on: better a renamed log than none.
                    if let Ok(new) = open(destination) {
                        out = new;
                    }
                }
                Order::Flush(done) => {
                    write(&mut out, &mut pending);
                    let _ = done.send(());
                }
            }
            next = match receiver.try_recv() {
                Ok(order) if pending.len() < 64 * 1024 => Some(order),
                Ok(order) => {
                    write(&mut out, &mut pending);
                    Some(order)
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
            };
        }
        write(&mut out, &mut pending);
    }
}

fn write(out: &mut Box<dyn Write + Send>, pending: &mut Vec<u8>) {
    // A full disk or a closed pipe must not end the proxy; there is nowhere left to say it.
    let _ = out.write_all(pending).and_then(|()| out.flush());
    pending.clear();
}
