//! How the names of a message were written.

use bytes::Bytes;
use http::HeaderName;
use smallvec::SmallVec;
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

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
        if !is_lower(name)
            && let (Ok(start), Ok(len), Ok(nth)) = (start.try_into(), name.len().try_into(), nth.try_into())
        {
            self.entries.push(Entry { start, len, nth });
        }
    }

    /// The finished record; `None` if every name was lower case.
    pub(super) fn finish(mut self, head: Bytes) -> Option<Rc<Self>> {
        if self.entries.is_empty() {
            return None;
        }
        self.head = head;
        Some(Rc::new(self))
    }

    /// How the `nth` field called `name` was written; `None` if in lower case or not there.
    pub fn get(&self, name: &HeaderName, nth: usize) -> Option<&[u8]> {
        self.find(name.as_str(), nth)
    }

    pub(super) fn find(&self, name: &str, nth: usize) -> Option<&[u8]> {
        let next = self.next.get();
        if let Some(written) = self.entries.get(next).and_then(|entry| self.read(entry, name, nth)) {
            self.next.set(next + 1);
            return Some(written);
        }
        let mut entries = self.entries.iter().enumerate();
        let (at, written) = entries.find_map(|(at, entry)| Some((at, self.read(entry, name, nth)?)))?;
        self.next.set(at + 1);
        Some(written)
    }

    /// Where in the head the whole line of a field is that goes on as it came, its name and its end included.
    /// Told by where the value is: what was put in its place, or is of another message, is elsewhere.
    pub(super) fn line(&self, name: &str, value: &[u8]) -> Option<Range<usize>> {
        let at = (value.as_ptr() as usize).checked_sub(self.head.as_ptr() as usize)?;
        let (start, end) = (at.checked_sub(name.len() + 2)?, at.checked_add(value.len() + 2)?);
        let line = self.head.get(start..end)?;
        let (written, rest) = line.split_at_checked(name.len())?;
        let whole = rest.starts_with(b": ") && rest.ends_with(b"\r\n");
        (whole && eq_lower(written, name.as_bytes())).then_some(start..end)
    }

    /// The bytes of lines that [`line`](Self::line) told of.
    pub(super) fn lines(&self, range: Range<usize>) -> &[u8] {
        self.head.get(range).unwrap_or_default()
    }

    /// The spelling in `entry` if it is that name's.
    fn read(&self, entry: &Entry, name: &str, nth: usize) -> Option<&[u8]> {
        if usize::from(entry.len) != name.len() || usize::from(entry.nth) != nth {
            return None;
        }
        let start = entry.start as usize;
        let written = self.head.get(start..start + name.len())?;
        eq_lower(written, name.as_bytes()).then_some(written)
    }
}

/// Eight bytes with their upper-case letters made lower.
fn lower(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let seven = word & (0x7f * ONES);
    // The high bit of each byte: at least `A`, beyond `Z`, not ASCII.
    let from_a = seven + (0x80 - u64::from(b'A')) * ONES;
    let beyond_z = seven + (0x7f - u64::from(b'Z')) * ONES;
    word | (((from_a ^ beyond_z) & !word & (0x80 * ONES)) >> 2)
}

/// Whether `eq` holds for both in words of up to eight bytes; some bytes may be looked at twice. They have the
/// same length.
fn all_words(one: &[u8], other: &[u8], eq: impl Fn(u64, u64) -> bool) -> bool {
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let half = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
    if let (Some(last), Some(other_last)) = (one.last_chunk(), other.last_chunk()) {
        let whole = one.as_chunks().0.iter().zip(other.as_chunks().0);
        return eq(word(last), word(other_last)) && whole.into_iter().all(|(a, b)| eq(word(a), word(b)));
    }
    if let (Some(last), Some(other_last)) = (one.last_chunk(), other.last_chunk())
        && let (Some(first), Some(other_first)) = (one.first_chunk(), other.first_chunk())
    {
        return eq(half(last), half(other_last)) && eq(half(first), half(other_first));
    }
    one.iter().zip(other).all(|(a, b)| eq(u64::from(*a), u64::from(*b)))
}

fn is_lower(name: &[u8]) -> bool {
    all_words(name, name, |word, _| lower(word) == word)
}

/// Whether `written` in lower case is `name`, which has the same length.
fn eq_lower(written: &[u8], name: &[u8]) -> bool {
    all_words(written, name, |written, name| lower(written) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_made_lower_as_ascii_says() {
        for byte in 0..=255u8 {
            for len in [1, 3, 4, 7, 8, 9, 20] {
                let (text, expected) = (vec![byte; len], vec![byte.to_ascii_lowercase(); len]);
                assert_eq!(is_lower(&text), !byte.is_ascii_uppercase(), "{byte} {len}");
                assert!(eq_lower(&text, &expected), "{byte} {len}");
                assert!(!eq_lower(&text, &vec![expected[0] ^ 1; len]), "{byte} {len}");
            }
        }
    }
}
