//! The file's bytes: a stream of length-prefixed records under a running xxHash64. All numbers little-endian.
//!
//! ```text
//! prefix   8 magic  4 format  8 length of the whole file
//! header   8 hash of the static resources, then node id, node cluster, ADS target: each 4 length + text
//!          8 checksum
//! record   1 tag (1 CDS, 2 EDS, 3 LDS, 4 RDS, 5 RTDS, 6 SRDS)  4×4 lengths of name, wire name, version, bytes, then these
//! …        (wire name 0xFFFF_FFFF long: none)
//! end      1 tag 0  8 number of records  8 digest of the content  8 written at, ms since 1970
//!          8 checksum
//! ```
//!
//! Each checksum covers everything before it ([`Sum`]). The digest is xxHash64 of header, then of type, name
//! and bytes of every record, each seeded with the value so far. Both are functions with a fixed definition,
//! so a file outlives the binary that wrote it.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::{Entry, Header, LoadError, Loaded};
use crate::util::hash::xxh64;
use crate::xds::types::ResourceType;

/// Number of this layout. A change of any meaning adds one.
pub const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"MZNSNAP\n";
const PREFIX: u64 = 8 + 4 + 8;
const END: u64 = 1 + 8 + 8 + 8 + 8;
const BLOCK: usize = 4096;
const RECORD: u64 = 1 + 4 * 4;
const NO_NAME: u32 = u32::MAX;

/// What a type is called in the file; the exhaustive match is where a type that must not be stored stops.
const fn tag(kind: ResourceType) -> u8 {
    match kind {
        ResourceType::Cluster => 1,
        ResourceType::Endpoint => 2,
        ResourceType::Listener => 3,
        ResourceType::Route => 4,
        ResourceType::Runtime => 5,
        ResourceType::ScopedRoute => 6,
        ResourceType::Extension => 7,
    }
}

fn kind(found: u8) -> Option<ResourceType> {
    ResourceType::ALL.into_iter().find(|kind| tag(*kind) == found)
}

/// Hash of what matters after a restart: header, types, names, bytes. Versions are left out.
pub(super) fn digest(header: &Header, entries: &[Entry]) -> io::Result<u64> {
    let start = xxh64(&header_bytes(header)?, 0);
    Ok(entries.iter().fold(start, |so_far, entry| {
        let so_far = xxh64(&[tag(entry.kind)], so_far);
        xxh64(&entry.bytes, xxh64(entry.name.as_bytes(), so_far))
    }))
}

fn header_bytes(header: &Header) -> io::Result<Vec<u8>> {
    let mut out = header.static_hash.to_le_bytes().to_vec();
    for text in [&header.node_id, &header.node_cluster, &header.ads_target] {
        out.extend(size(text.len())?);
        out.extend(text.as_bytes());
    }
    Ok(out)
}

/// The running checksum: xxHash64 of each [`BLOCK`] bytes, seeded with the hash of the block before.
#[derive(Default)]
struct Sum {
    blocks: u64,
    partial: Vec<u8>,
}

impl Sum {
    fn add(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (now, rest) = data.split_at(data.len().min(BLOCK - self.partial.len()));
            self.partial.extend_from_slice(now);
            data = rest;
            if self.partial.len() == BLOCK {
                self.blocks = xxh64(&self.partial, self.blocks);
                self.partial.clear();
            }
        }
    }

    fn value(&self) -> u64 {
        xxh64(&self.partial, self.blocks)
    }
}

/// Writes a whole file.
pub(super) fn write(
    out: &mut impl Write,
    header: &Header,
    entries: &[Entry],
    now: SystemTime,
) -> io::Result<()> {
    let head = header_bytes(header)?;
    let records: u64 = entries.iter().map(record_len).sum();
    let total = PREFIX + head.len() as u64 + 8 + records + END;
    let mut out = Summed { out, sum: Sum::default() };
    out.put(&[&MAGIC, &FORMAT.to_le_bytes(), &total.to_le_bytes(), &head])?;
    out.put_sum()?;
    for entry in entries {
        let wire_name = entry.wire_name.as_deref().map(str::as_bytes);
        out.put(&[
            &[tag(entry.kind)],
            &size(entry.name.len())?,
            &wire_name.map_or(Ok(NO_NAME.to_le_bytes()), |name| size(name.len()))?,
            &size(entry.version.len())?,
            &size(entry.bytes.len())?,
            entry.name.as_bytes(),
            wire_name.unwrap_or_default(),
            entry.version.as_bytes(),
            &entry.bytes,
        ])?;
    }
    let at = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let at = u64::try_from(at).unwrap_or(u64::MAX);
    let (count, digest) = (entries.len() as u64, digest(header, entries)?);
    out.put(&[&[0], &count.to_le_bytes(), &digest.to_le_bytes(), &at.to_le_bytes()])?;
    out.put_sum()
}

fn record_len(entry: &Entry) -> u64 {
    let wire_name = entry.wire_name.as_ref().map_or(0, |name| name.len());
    RECORD + (entry.name.len() + wire_name + entry.version.len() + entry.bytes.len()) as u64
}

fn size(len: usize) -> io::Result<[u8; 4]> {
    let fits = u32::try_from(len).ok().filter(|len| *len != NO_NAME).map(u32::to_le_bytes);
    let why = "a snapshot holds no resource of 4 GiB or more";
    fits.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Counts every byte into the checksum on its way out.
struct Summed<'a, W> {
    out: &'a mut W,
    sum: Sum,
}

impl<W: Write> Summed<'_, W> {
    fn put(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        for part in parts {
            self.sum.add(part);
            self.out.write_all(part)?;
        }
        Ok(())
    }

    fn put_sum(&mut self) -> io::Result<()> {
        let sum = self.sum.value().to_le_bytes();
        self.put(&[&sum])
    }
}

/// Reads a whole file of `len` bytes. Memory follows what is there, never what a length claims.
///
/// # Errors
/// [`LoadError`], its `Io` without a path.
pub fn parse(input: impl Read, len: u64, expected: &Header) -> Result<Loaded, LoadError> {
    if len < PREFIX {
        return Err(LoadError::Truncated { found: len, expected: PREFIX });
    }
    let mut input = Reader { input, sum: Sum::default(), left: len };
    if input.fixed()? != MAGIC {
        return Err(LoadError::NotASnapshot);
    }
    let found = input.u32()?;
    if found != FORMAT {
        return Err(LoadError::Format { found });
    }
    let total = input.u64()?;
    if len < total {
        return Err(LoadError::Truncated { found: len, expected: total });
    }
    if len > total {
        return Err(LoadError::Damaged { what: "there are bytes behind its end" });
    }
    let header = input.header()?;
    foreign(&header, expected)?;
    let mut entries = Vec::new();
    while let Some(entry) = input.record()? {
        entries.push(entry);
    }
    let (count, stated, at) = (input.u64()?, input.u64()?, input.u64()?);
    input.check_sum("its checksum does not match")?;
    let digest = digest(&header, &entries).map_err(io_error)?;
    if count != entries.len() as u64 || stated != digest || input.left != 0 {
        return Err(LoadError::Damaged { what: "its end does not fit its content" });
    }
    let saved_at = UNIX_EPOCH
        .checked_add(Duration::from_millis(at))
        .ok_or(LoadError::Damaged { what: "its date is out of range" })?;
    Ok(Loaded { entries, saved_at, digest })
}

fn foreign(found: &Header, expected: &Header) -> Result<(), LoadError> {
    let hex = |hash: u64| format!("{hash:016x}");
    let rows = [
        ("node id", found.node_id.clone(), expected.node_id.clone()),
        ("node cluster", found.node_cluster.clone(), expected.node_cluster.clone()),
        ("ADS target", found.ads_target.clone(), expected.ads_target.clone()),
        ("hash of the static resources", hex(found.static_hash), hex(expected.static_hash)),
    ];
    match rows.into_iter().find(|(_, found, expected)| found != expected) {
        Some((field, found, expected)) => Err(LoadError::Foreign { field, found, expected }),
        None => Ok(()),
    }
}

/// Counts every byte into the checksum on its way in.
struct Reader<R> {
    input: R,
    sum: Sum,
    /// Bytes of the file not read yet.
    left: u64,
}

impl<R: Read> Reader<R> {
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), LoadError> {
        self.left = self.left.checked_sub(out.len() as u64).ok_or(OVERRUN)?;
        self.input.read_exact(out).map_err(io_error)?;
        self.sum.add(out);
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, LoadError> {
        self.fixed().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, LoadError> {
        self.fixed().map(u64::from_le_bytes)
    }

    /// `len` bytes in memory of their own, so that a resource replaced later frees them.
    fn bytes(&mut self, len: u32) -> Result<Vec<u8>, LoadError> {
        if u64::from(len) > self.left {
            return Err(OVERRUN);
        }
        let mut out = vec![0; len as usize];
        self.fill(&mut out)?;
        Ok(out)
    }

    fn text(&mut self, len: u32) -> Result<String, LoadError> {
        let bytes = self.bytes(len)?;
        String::from_utf8(bytes).map_err(|_| LoadError::Damaged { what: "a text is not UTF-8" })
    }

    fn header(&mut self) -> Result<Header, LoadError> {
        let static_hash = self.u64()?;
        let mut texts = [const { String::new() }; 3];
        for text in &mut texts {
            let len = self.u32()?;
            *text = self.text(len)?;
        }
        self.check_sum("the checksum of its header does not match")?;
        let [node_id, node_cluster, ads_target] = texts;
        Ok(Header { node_id, node_cluster, ads_target, static_hash })
    }

    /// `None` at the end record, whose tag is then read.
    fn record(&mut self) -> Result<Option<Entry>, LoadError> {
        let [tag] = self.fixed()?;
        if tag == 0 {
            return Ok(None);
        }
        let kind = kind(tag).ok_or(LoadError::Damaged { what: "a record has an unknown type" })?;
        let (name, wire_name) = (self.u32()?, self.u32()?);
        let (version, bytes) = (self.u32()?, self.u32()?);
        let name = self.text(name)?.into();
        let wire_name = match wire_name {
            NO_NAME => None,
            len => Some(self.text(len)?.into()),
        };
        let version = self.text(version)?.into();
        let bytes = Bytes::from(self.bytes(bytes)?);
        Ok(Some(Entry { kind, name, wire_name, version, bytes }))
    }

    fn check_sum(&mut self, what: &'static str) -> Result<(), LoadError> {
        let expected = self.sum.value();
        if self.u64()? == expected { Ok(()) } else { Err(LoadError::Damaged { what }) }
    }
}

/// The stated length was checked against the file's, so a part that runs past it was not written so.
const OVERRUN: LoadError = LoadError::Damaged { what: "a length runs past its end" };

fn io_error(source: io::Error) -> LoadError {
    LoadError::Io { path: PathBuf::new(), source }
}
