//! The header block: pairs of length-prefixed strings without a count.
//!
//! ```text
//! ( u32 keyLen, key, u32 valueLen, value )*      length ff ff ff ff = null
//! ```
//! Keys are compared byte for byte; order and duplicates are kept. A null key or value is one of a pair like
//! any other (sofa-bolt's reading), never a reason to look for the next pair elsewhere.

use crate::protocol::rpc::HeaderEdit;
use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

/// A key and a value, either of which may be null.
pub type Pair<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Largest header block in bytes: its length field has 16 bits.
pub const MAX_BLOCK: usize = u16::MAX as usize;

const NULL: u32 = u32::MAX;

/// Walks the pairs of a header block.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
}

impl<'a> HeaderIter<'a> {
    /// Over a block that has been found well-formed; in any other it ends at the first contradiction.
    pub(in crate::protocol) fn new(block: &'a [u8]) -> Self {
        HeaderIter { rest: block }
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = Pair<'a>;

    #[inline]
    fn next(&mut self) -> Option<Pair<'a>> {
        let key = take(&mut self.rest)?;
        let value = take(&mut self.rest)?;
        Some((key, value))
    }
}

/// One string off the front: `None` if it is not all there.
#[inline]
fn take<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (len, tail) = rest.split_first_chunk::<4>()?;
    let len = u32::from_be_bytes(*len);
    if len == NULL {
        *rest = tail;
        return Some(None);
    }
    let (text, tail) = tail.split_at_checked(len as usize)?;
    *rest = tail;
    Some(Some(text))
}

/// Whether the block is pairs from its first byte to its last: one pass over the lengths.
pub(in crate::protocol) fn is_well_formed(block: &[u8]) -> bool {
    let mut pairs = HeaderIter::new(block);
    while !pairs.rest.is_empty() {
        if pairs.next().is_none() {
            return false;
        }
    }
    true
}

/// Appends one pair to a block.
pub(in crate::protocol) fn put_pair(out: &mut BytesMut, (key, value): Pair<'_>) {
    put(out, key);
    put(out, value);
}

fn put(out: &mut BytesMut, text: Option<&[u8]>) {
    match text {
        None => out.put_u32(NULL),
        Some(text) => {
            // A text longer than this cannot be in a block, whose length the encoder checks.
            out.put_u32(text.len().min(MAX_BLOCK) as u32);
            out.put_slice(text);
        }
    }
}

/// The pairs after the edits.
pub(in crate::protocol) fn apply<'a>(
    pairs: HeaderIter<'a>,
    edits: impl IntoIterator<Item = HeaderEdit<'a>>,
) -> SmallVec<[Pair<'a>; 16]> {
    let mut pairs: SmallVec<[Pair<'a>; 16]> = pairs.collect();
    let has = |pairs: &[Pair<'a>], key| pairs.iter().any(|(k, _)| *k == Some(key));
    for edit in edits {
        match edit {
            HeaderEdit::Remove(key) => pairs.retain(|(k, _)| *k != Some(key)),
            HeaderEdit::Append(key, value) => pairs.push((Some(key), Some(value))),
            HeaderEdit::AddIfAbsent(key, value) => {
                if !has(&pairs, key) {
                    pairs.push((Some(key), Some(value)));
                }
            }
            HeaderEdit::Set(key, value) => {
                if has(&pairs, key) {
                    replace(&mut pairs, key, value);
                } else {
                    pairs.push((Some(key), Some(value)));
                }
            }
            HeaderEdit::ReplaceIfPresent(key, value) => replace(&mut pairs, key, value),
        }
    }
    pairs
}

fn replace<'a>(pairs: &mut SmallVec<[Pair<'a>; 16]>, key: &'a [u8], value: &'a [u8]) {
    let mut first = true;
    pairs.retain(|(k, v)| {
        if *k != Some(key) {
            return true;
        }
        *v = Some(value);
        std::mem::replace(&mut first, false)
    });
}
