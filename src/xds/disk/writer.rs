//! When to write: soon after content settles, never later than a bound after the first unsaved change.
//!
//! Takes in "something changed" and the time, gives out a [`Job`] for a thread to run, and learns from its
//! result what is on disk. Holds no thread and no clock of its own.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Entry, Header, Saved, save};

/// A push comes in pieces (CDS, EDS, LDS, RDS); this long after the last piece it is written.
const QUIET: Duration = Duration::from_secs(1);

/// Pushes that never pause are written this long after the first unsaved change. With the write itself this
/// stays below the ten seconds that are promised.
const AT_MOST: Duration = Duration::from_secs(5);

/// Wait after a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Decides when the snapshot of one folder is written.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    header: Header,
    /// Digest of the file as far as this process knows.
    last: Option<u64>,
    /// First and latest change that no write has taken up.
    unsaved: Option<(Instant, Instant)>,
    running: bool,
    /// No write before this: the last one failed.
    not_before: Option<Instant>,
}

/// One write, to be run on a thread that may block.
#[derive(Debug, Clone)]
pub struct Job {
    dir: PathBuf,
    header: Header,
    last: Option<u64>,
}

impl Job {
    /// Writes `entries`; see [`save`]. Hand the result to [`Writer::on_finished`].
    ///
    /// # Errors
    /// As [`save`].
    pub fn run(&self, entries: Vec<Entry>) -> io::Result<Saved> {
        save(&self.dir, &self.header, entries, self.last)
    }
}

impl Writer {
    /// For `dir`, whose file, if this process loaded one, has the digest `last`.
    #[must_use]
    pub const fn new(dir: PathBuf, header: Header, last: Option<u64>) -> Self {
        Self { dir, header, last, unsaved: None, running: false, not_before: None }
    }

    /// Accepted content differs from what the last write took up.
    pub fn mark_changed(&mut self, now: Instant) {
        let first = self.unsaved.map_or(now, |(first, _)| first);
        self.unsaved = Some((first, now));
    }

    /// Whether to write now: then call [`Self::begin`].
    #[must_use]
    pub fn due(&self, now: Instant) -> bool {
        self.next_due().is_some_and(|at| at <= now)
    }

    /// When [`Self::due`] turns true if nothing else happens. `None` while there is nothing to write or a
    /// write is running.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let (first, latest) = self.unsaved.filter(|_| !self.running)?;
        let at = (latest + QUIET).min(first + AT_MOST);
        Some(self.not_before.map_or(at, |wait| wait.max(at)))
    }

    /// Starts a write of the content as it is now. Changes marked from here on are for the next one.
    #[must_use = "the job is the write"]
    pub fn begin(&mut self) -> Job {
        self.unsaved = None;
        self.running = true;
        Job { dir: self.dir.clone(), header: self.header.clone(), last: self.last }
    }

    /// The write has ended. A failed one is tried again.
    pub fn on_finished(&mut self, now: Instant, outcome: &io::Result<Saved>) {
        self.running = false;
        match outcome {
            Ok(saved) => (self.last, self.not_before) = (Some(saved.digest), None),
            Err(_) => {
                // What is there now is the former file, or nothing.
                self.not_before = Some(now + RETRY);
                self.mark_changed(now);
            }
        }
    }
}
