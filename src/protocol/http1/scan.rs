//! From bytes to the lines of a head.
//!
//! The outcome depends on the bytes only, never on how they were cut: an error counts once its line is whole,
//! and a head longer than allowed is refused even when it came in one piece. A head that comes in small parts
//! is parsed again only when it has another line.

use super::{Fault, Limits};
use bytes::{Buf, BytesMut};
use httparse::Header;
use smallvec::SmallVec;
use std::mem::MaybeUninit;

/// Fields read without asking for memory.
const FIELDS: usize = 128;
/// Cookie lines, which count as one field once they are joined, beyond the limit of fields.
const CRUMBS: usize = 1024;

/// Where a field's name and value are in the head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) name: (u32, u32),
    pub(super) value: (u32, u32),
}

/// The fields of a head, in its order. Filled in place: it is large, and would be copied on every way out.
pub(super) type Slots = SmallVec<[Slot; 24]>;

/// What a head is apart from its fields.
#[derive(Debug)]
pub(super) struct Lines<L> {
    /// The first line.
    pub(super) line: L,
    /// Bytes of the whole head.
    pub(super) len: usize,
}

/// Where `part`, a slice of `whole`, begins and ends.
pub(super) fn place(whole: &[u8], part: &[u8]) -> (u32, u32) {
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    (start as u32, start.wrapping_add(part.len()) as u32)
}

/// The bytes at a place; empty for one that is not within.
pub(super) fn at(whole: &[u8], (start, end): (u32, u32)) -> &[u8] {
    whole.get(start as usize..end as usize).unwrap_or_default()
}

/// What reads the first line: the fields by way of the given array into `slots`; `Ok(None)` when the head is not
/// whole.
pub(super) trait Grammar {
    /// What the first line comes to.
    type Line;
    /// Parses a head.
    fn parse<'b>(
        bytes: &'b [u8],
        fields: &mut [MaybeUninit<Header<'b>>],
        slots: &mut Slots,
    ) -> Result<Option<Lines<Self::Line>>, httparse::Error>;
    /// What an error of the parser is called.
    fn fault(error: httparse::Error, bytes: &[u8]) -> Fault;
}

/// Finds a head at the front of `buf` and notes its fields in `slots`. `seen` belongs to the connection: how much of `buf` was looked at.
///
/// # Errors
/// The head cannot be read or is too large.
pub(super) fn head<G: Grammar>(
    seen: &mut usize,
    buf: &mut BytesMut,
    limits: &Limits,
    lenient: bool,
    slots: &mut Slots,
) -> Result<Option<Lines<G::Line>>, Fault> {
    if !skip_blank_lines(buf, lenient)? {
        return Ok(None);
    }
    let over = buf.len() > limits.head_bytes;
    if *seen > 0 && !over && !buf.get(*seen..).unwrap_or_default().contains(&b'\n') {
        *seen = buf.len();
        return Ok(None);
    }
    let window = buf.get(..buf.len().min(limits.head_bytes)).unwrap_or_default();
    let parsed = match parse::<G>(window, limits, slots) {
        Err(_) => parse_lines::<G>(buf, limits, lenient, slots)?,
        Ok(parsed) => parsed,
    };
    if let Some(lines) = parsed {
        *seen = 0;
        if !lenient {
            check_ends(buf, &lines, slots)?;
        }
        return Ok(Some(lines));
    }
    if over {
        let window = buf.get(..limits.head_bytes).unwrap_or_default();
        return Err(if window.contains(&b'\n') { Fault::HEADERS_TOO_LARGE } else { Fault::URI_TOO_LONG });
    }
    *seen = buf.len();
    Ok(None)
}

/// After an error: as above on the lines that are whole, unfolded if that is permitted.
fn parse_lines<G: Grammar>(
    buf: &mut BytesMut,
    limits: &Limits,
    lenient: bool,
    slots: &mut Slots,
) -> Result<Option<Lines<G::Line>>, Fault> {
    let within = buf.len().min(limits.head_bytes);
    let window = buf.get_mut(..within).unwrap_or_default();
    let end = window.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let whole = window.get_mut(..end).unwrap_or_default();
    if lenient {
        unfold(whole);
    }
    parse::<G>(whole, limits, slots).map_err(|error| G::fault(error, whole))
}

fn parse<G: Grammar>(
    bytes: &[u8],
    limits: &Limits,
    slots: &mut Slots,
) -> Result<Option<Lines<G::Line>>, httparse::Error> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    match G::parse(bytes, &mut fields, slots) {
        Err(httparse::Error::TooManyHeaders) => {}
        done => return done,
    }
    let mut many = vec![MaybeUninit::uninit(); limits.max_headers.saturating_add(CRUMBS).min(bytes.len())];
    G::parse(bytes, &mut many, slots)
}

/// Notes where the fields are.
pub(super) fn note(bytes: &[u8], fields: &[Header<'_>], slots: &mut Slots) {
    let slot = |field: &Header<'_>| Slot {
        name: place(bytes, field.name.as_bytes()),
        value: place(bytes, field.value),
    };
    slots.clear();
    slots.extend(fields.iter().map(slot));
}

/// Empty lines before a head mean nothing (RFC 9112, 2.2). `false`: there is nothing else yet.
fn skip_blank_lines(buf: &mut BytesMut, lenient: bool) -> Result<bool, Fault> {
    loop {
        match (buf.first(), buf.get(1)) {
            (None, _) | (Some(b'\r'), None) => return Ok(false),
            (Some(b'\r'), Some(b'\n')) => buf.advance(2),
            (Some(b'\n'), _) if lenient => buf.advance(1),
            (Some(b'\r' | b'\n'), _) => return Err(Fault::CHARACTERS),
            _ => return Ok(true),
        }
    }
}

/// Every line must end with CR LF: the parser takes LF alone.
fn check_ends<L>(buf: &[u8], lines: &Lines<L>, slots: &Slots) -> Result<(), Fault> {
    // Trailers begin without a line before them.
    let ends_at = |end: usize| end == 0 || end >= 2 && buf.get(end - 2..end) == Some(b"\r\n");
    let whole = slots.iter().all(|slot| ends_at(slot.name.0 as usize))
        && ends_at(lines.len)
        && ends_at(lines.len.saturating_sub(2));
    if whole { Ok(()) } else { Err(Fault::CHARACTERS) }
}

/// Makes folded fields one line: the line end before a blank becomes blanks. The first line of a head and the
/// one after it are never folded, and nothing after the head is touched.
fn unfold(head: &mut [u8]) {
    let (mut from, mut start, mut line) = (0, 0, 0);
    while let Some(length) = head.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
        let next = from + length + 1;
        let text = head.get(start..next - 1).unwrap_or_default();
        if text.is_empty() || text == b"\r" {
            return;
        }
        if line > 0 && matches!(head.get(next), Some(b' ' | b'\t')) {
            let begin = if text.ends_with(b"\r") { next - 2 } else { next - 1 };
            head.get_mut(begin..next).unwrap_or_default().fill(b' ');
        } else {
            start = next;
        }
        from = next;
        line += 1;
    }
}
