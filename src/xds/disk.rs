//! The last good snapshot on disk: what a restarted proxy serves while its control plane is away.
//!
//! Takes in the accepted resources as raw bytes, gives them back after a restart. One file per folder,
//! replaced atomically, written only when content changed. [`Writer`] decides when; the write itself runs on
//! a thread of the caller's. Never on the request path, never secrets: only the four types of
//! [`ResourceType`] have a tag in the file.
//!
//! A file is trusted when it is a regular file of ours, whole, unchanged and written for the same node,
//! control plane and static resources; everything else is refused with its own [`LoadError`].

mod format;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};

pub use format::{FORMAT, parse};
pub use writer::{Job, Writer};

use super::message::RawResource;
use super::types::ResourceType;

/// Name of the file inside the state folder.
pub const FILE_NAME: &str = "xds.snapshot";

/// Largest file that is read: 1 GiB. Four times the resources of the largest mesh measured.
pub const MAX_BYTES: u64 = 1 << 30;

/// An unfinished file of a process that died is removed once it is this old.
const STALE_TEMP: Duration = Duration::from_secs(60);

/// Whom a file belongs to. All of it has to match, else the file is foreign.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// `node.id`.
    pub node_id: String,
    /// `node.cluster`.
    pub node_cluster: String,
    /// What the ADS stream connects to, as text; it names the control plane.
    pub ads_target: String,
    /// Hash of the static resources ([`crate::util::hash::xxh64`]): resources from the control plane may
    /// rely on them, and a static name shadows one of theirs.
    pub static_hash: u64,
}

/// One accepted resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its type.
    pub kind: ResourceType,
    /// Its own name.
    pub name: Arc<str>,
    /// The delta wrapper's name, only where it differs from `name`.
    pub wire_name: Option<Arc<str>>,
    /// Version as received, may be empty.
    pub version: Arc<str>,
    /// The encoded message, as received.
    pub bytes: Bytes,
}

impl Entry {
    /// The entry of an accepted resource.
    #[must_use]
    pub fn new(kind: ResourceType, raw: RawResource) -> Self {
        let RawResource { name, bytes, version, wire_name, ttl: _ } = raw;
        Self { kind, name, wire_name, version, bytes }
    }

    /// The resource as the stream would have delivered it.
    #[must_use]
    pub fn into_raw(self) -> RawResource {
        let Self { name, bytes, version, wire_name, .. } = self;
        RawResource { name, bytes, version, wire_name, ttl: None }
    }
}

/// A file that was read and trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The resources, by type in request order, then by name.
    pub entries: Vec<Entry>,
    /// When the file was written.
    pub saved_at: SystemTime,
    /// Hash of the content, for [`Writer::new`]: an equal answer of the control plane is not written again.
    pub digest: u64,
}

/// Why a file is not used. Every text names the snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is there but cannot be read.
    #[error("snapshot {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A symbolic link, a folder, a pipe.
    #[error("snapshot {path}: not a regular file")]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Someone else could have written it.
    #[error("snapshot {path}: owned by user {found}, expected {expected}")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// The user of this process.
        expected: u32,
    },
    /// Larger than is read at start.
    #[error("snapshot has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// Largest size accepted.
        limit: u64,
    },
    /// It does not begin as a snapshot does.
    #[error("snapshot is damaged: not a file of this kind")]
    NotASnapshot,
    /// Written by another release.
    #[error("snapshot has format {found}, {age} than {FORMAT}, the one of this release", age = if *found < FORMAT { "older" } else { "newer" })]
    Format {
        /// The file's format number.
        found: u32,
    },
    /// It ends before its stated length.
    #[error("snapshot is truncated: {found} of {expected} bytes")]
    Truncated {
        /// Bytes in the file.
        found: u64,
        /// Bytes it states.
        expected: u64,
    },
    /// Right length, wrong content.
    #[error("snapshot is damaged: {what}")]
    Damaged {
        /// What does not fit.
        what: &'static str,
    },
    /// Whole, but of another node, control plane or configuration.
    #[error("snapshot is foreign: its {field} is {found:?}, expected {expected:?}")]
    Foreign {
        /// Which part of the header differs.
        field: &'static str,
        /// The file's.
        found: String,
        /// Ours.
        expected: String,
    },
}

/// What [`save`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Hash of the content.
    pub digest: u64,
    /// False when the content equals `last` and the file is still there.
    pub written: bool,
}

/// Puts `entries` on disk in `dir`, unless their content equals `last`, the digest of what is there.
/// Versions alone are not content: servers count them up without changing anything. When this returns, the
/// file survives a power cut. Blocks for as long as the disk takes.
///
/// # Errors
/// Whatever the system refused; the former file is then still in place.
pub fn save(dir: &Path, header: &Header, mut entries: Vec<Entry>, last: Option<u64>) -> io::Result<Saved> {
    entries.sort_unstable_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let digest = format::digest(header, &entries)?;
    let target = dir.join(FILE_NAME);
    if last == Some(digest) && std::fs::symlink_metadata(&target).is_ok_and(|found| found.is_file()) {
        return Ok(Saved { digest, written: false });
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    remove_stale(dir);
    let temp = dir.join(temp_name());
    let outcome = write_file(&temp, header, &entries).and_then(|()| std::fs::rename(&temp, &target));
    if let Err(error) = outcome {
        let _ = std::fs::remove_file(&temp);
        return Err(error);
    }
    sync_folder(dir)?;
    Ok(Saved { digest, written: true })
}

/// Two processes on one folder (an old one draining beside its successor) must not share a temporary file.
fn temp_name() -> String {
    format!("{FILE_NAME}.{}.tmp", std::process::id())
}

fn write_file(temp: &Path, header: &Header, entries: &[Entry]) -> io::Result<()> {
    match std::fs::remove_file(temp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(temp, flags, Mode::RUSR | Mode::WUSR)?);
    let mut out = io::BufWriter::with_capacity(64 * 1024, file);
    format::write(&mut out, header, entries, SystemTime::now())?;
    out.flush()?;
    out.get_ref().sync_all()
}

/// Without this the rename itself may be lost in a power cut.
fn sync_folder(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some network file systems have no such operation.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        outcome => outcome,
    }
}

/// Best effort: what processes that died in a write left behind.
fn remove_stale(dir: &Path) {
    let Ok(listing) = std::fs::read_dir(dir) else { return };
    for found in listing.flatten() {
        let name = found.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(FILE_NAME) && name.ends_with(".tmp"));
        let age = found.metadata().and_then(|data| data.modified()).ok().and_then(|at| at.elapsed().ok());
        if ours && age.is_some_and(|age| age > STALE_TEMP) {
            let _ = std::fs::remove_file(found.path());
        }
    }
}

/// Reads the file of `dir`, at most [`MAX_BYTES`]. `None` when there is none.
///
/// # Errors
/// [`LoadError`] for a file that is there and must not be used.
pub fn load(dir: &Path, header: &Header) -> Result<Option<Loaded>, LoadError> {
    load_within(dir, header, MAX_BYTES)
}

/// [`load`] with a size limit of the caller's.
///
/// # Errors
/// As [`load`].
pub fn load_within(dir: &Path, header: &Header, limit: u64) -> Result<Option<Loaded>, LoadError> {
    let path = dir.join(FILE_NAME);
    // Not blocking, so that a pipe in its place is looked at instead of waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return Err(LoadError::NotRegular { path }),
        Err(error) => return Err(LoadError::Io { path, source: error.into() }),
    };
    let data = match file.metadata() {
        Ok(data) => data,
        Err(source) => return Err(LoadError::Io { path, source }),
    };
    if !data.is_file() {
        return Err(LoadError::NotRegular { path });
    }
    check_owner(&path, data.uid(), rustix::process::geteuid().as_raw())?;
    let bytes = data.len();
    if bytes > limit {
        return Err(LoadError::TooLarge { bytes, limit });
    }
    match parse(io::BufReader::with_capacity(64 * 1024, file), bytes, header) {
        Err(LoadError::Io { source, .. }) => Err(LoadError::Io { path, source }),
        outcome => outcome.map(Some),
    }
}

fn check_owner(path: &Path, found: u32, expected: u32) -> Result<(), LoadError> {
    if found == expected {
        return Ok(());
    }
    Err(LoadError::Owner { path: path.to_path_buf(), found, expected })
}
