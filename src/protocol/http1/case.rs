//! How the names of a message were written.

use bytes::Bytes;
use http::HeaderName;
use smallvec::SmallVec;
use std::cell::Cell;

/// Spelling of the names that were not lower case, found again by name and occurrence, so that it survives
/// whatever is done to the fields in between. Keeps the head's bytes.
#[derive(Debug, Default)]
pub struct NameCase {
    head: Bytes,
    entries: SmallVec<[Entry; 16]>,
    /// Where the next look-up begins: fields are mostly written in the order in which they came.
    next: Cell<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    len: u16,
    nth: u16,
}

impl NameCase {
    /// Notes the name at `start` of the head if it is not lower case; it is the `nth` of its name.
    pub(super) fn note(&mut self, name: &[u8], start: usize, nth: usize) {
        if name.iter().any(u8::is_ascii_uppercase)
            && let (Ok(start), Ok(len), Ok(nth)) = (start.try_into(), name.len().try_into(), nth.try_into())
        {
            self.entries.push(Entry { start, len, nth });
        }
    }

    /// The finished record; `None` if every name was lower case.
    pub(super) fn finish(mut self, head: &Bytes) -> Option<Self> {
        if self.entries.is_empty() {
            return None;
        }
        self.head = head.clone();
        Some(self)
    }

    /// How the `nth` field called `name` was written; `None` if in lower case or not there.
    pub fn get(&self, name: &HeaderName, nth: usize) -> Option<&[u8]> {
        self.find(name.as_str(), nth)
    }

    pub(super) fn find(&self, name: &str, nth: usize) -> Option<&[u8]> {
        let (before, after) = self.entries.split_at_checked(self.next.get())?;
        let found = after.iter().chain(before).enumerate().find_map(|(steps, entry)| {
            if usize::from(entry.len) != name.len() || usize::from(entry.nth) != nth {
                return None;
            }
            let start = entry.start as usize;
            let written = self.head.get(start..start + name.len())?;
            written.eq_ignore_ascii_case(name.as_bytes()).then_some((steps, written))
        });
        let (steps, written) = found?;
        self.next.set((self.next.get() + steps + 1) % self.entries.len());
        Some(written)
    }
}
