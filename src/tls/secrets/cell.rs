//! One certificate or trust bundle, and its version.

use super::Need;
use super::read::{Fault, Material, Spec, Stamp, files, read, stamp};
use arc_swap::ArcSwapOption;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// One certificate or trust bundle.
pub(in crate::tls) struct Cell {
    pub(super) label: String,
    pub(super) secret: Option<Need>,
    pub(super) inner: Mutex<Inner>,
    pub(super) material: ArcSwapOption<Material>,
    version: AtomicU64,
    /// A listener towards the workload's clients needs it.
    pub(super) inbound: AtomicBool,
    /// How many [`Hold`]s keep it.
    pub(super) holds: AtomicUsize,
}

/// Keeps a cell, and what came for it, while its stream is open: contexts come and go between two looks at what is
/// wanted, and a server sends a secret to a stream only once.
#[derive(Debug)]
pub struct Hold(pub(super) Arc<Cell>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Relaxed);
    }
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) spec: Option<Spec>,
    pub(super) stamps: Vec<(PathBuf, Stamp)>,
    pub(super) served: String,
    pub(super) updated: Option<SystemTime>,
    pub(super) error: Option<String>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl Cell {
    pub(super) fn empty(label: String, secret: Option<Need>) -> Cell {
        Cell {
            label,
            secret,
            inner: Mutex::default(),
            material: ArcSwapOption::empty(),
            version: AtomicU64::new(0),
            inbound: AtomicBool::new(false),
            holds: AtomicUsize::new(0),
        }
    }

    /// Whether anything but holds keeps it. `own`: how many references the caller has.
    pub(super) fn is_wanted(self: &Arc<Cell>, own: usize) -> bool {
        Arc::strong_count(self) > own + self.holds.load(Relaxed)
    }

    /// Goes up with every new content.
    pub(in crate::tls) fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// What it holds; `None`: nothing has come, or nothing that could be read.
    pub(in crate::tls) fn material(&self) -> Option<Arc<Material>> {
        self.material.load_full()
    }

    /// Whether it comes by discovery.
    pub(in crate::tls) fn is_secret(&self) -> bool {
        self.secret.is_some()
    }

    /// What people call it.
    pub(in crate::tls) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn put(&self, spec: Spec, served: &str) -> Result<bool, Fault> {
        // Before the files are read: what changes in between is seen at the next look.
        let stamps = files(&spec).into_iter().map(|path| (path.to_owned(), stamp(path))).collect();
        let result = read(&spec);
        let mut inner = lock(&self.inner);
        match result {
            Ok(material) => {
                let same = inner.spec.as_ref() == Some(&spec) && inner.stamps == stamps;
                inner.stamps = stamps;
                inner.spec = Some(spec);
                inner.error = None;
                served.clone_into(&mut inner.served);
                if same && self.material.load().is_some() {
                    return Ok(false);
                }
                inner.updated = Some(SystemTime::now());
                self.material.store(Some(Arc::new(material)));
                self.version.fetch_add(1, Relaxed);
                Ok(true)
            }
            Err(fault) => {
                inner.error = Some(fault.to_string());
                // A file may become good later; a secret that is no good is not kept.
                if self.secret.is_none() {
                    inner.spec = Some(spec);
                    inner.stamps = stamps;
                }
                Err(fault)
            }
        }
    }

    /// Reads its files again if one changed. Whether the content is new.
    pub(super) fn refresh(&self) -> bool {
        let (spec, served) = {
            let inner = lock(&self.inner);
            let Some(spec) = &inner.spec else { return false };
            let changed = inner.stamps.iter().any(|(path, seen)| stamp(path) != *seen);
            // A missing file is no reason to look at what is left.
            if !changed {
                return false;
            }
            (spec.clone(), inner.served.clone())
        };
        match self.put(spec, &served) {
            Ok(new) => {
                tracing::info!("{}: read again", self.label);
                new
            }
            Err(fault) => {
                let stamps: Vec<_> = {
                    let inner = lock(&self.inner);
                    inner.stamps.iter().map(|(path, _)| (path.clone(), stamp(path))).collect()
                };
                lock(&self.inner).stamps = stamps;
                tracing::warn!("{}: kept as it was: {fault}", self.label);
                false
            }
        }
    }
}
