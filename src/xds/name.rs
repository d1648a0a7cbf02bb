//! Reads a resource's own name from its encoded bytes without decoding it.
//!
//! In all four resource messages the name is the string with field number 1. A walk over the top level finds
//! it: every other field is stepped over by its length. Comparing an unchanged resource therefore costs a
//! few dozen instructions and no allocation.

/// Why no name could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The message has no field 1, or it is empty.
    #[error("missing")]
    Missing,
    /// Not the wire format, before any name was found.
    #[error("cannot be read: the message is damaged")]
    Damaged,
    /// Field 1 is not text.
    #[error("cannot be read: not UTF-8")]
    NotText,
}

/// The name inside `body`. Of several the last counts, as protobuf decides it. Damage behind the name does
/// not hide it: such a resource is present, only bad.
///
/// # Errors
/// [`NameError`] when there is no usable name.
pub fn read_name(body: &[u8]) -> Result<&str, NameError> {
    let mut rest = body;
    let mut name = None;
    let mut damaged = false;
    while !rest.is_empty() {
        match field(rest) {
            Some((1, Some(value), after)) => (name, rest) = (Some(value), after),
            Some((_, _, after)) => rest = after,
            None => {
                damaged = true;
                break;
            }
        }
    }
    match name.map(std::str::from_utf8) {
        Some(Ok(text)) if !text.is_empty() => Ok(text),
        Some(Err(_)) => Err(NameError::NotText),
        _ if damaged => Err(NameError::Damaged),
        _ => Err(NameError::Missing),
    }
}

/// A field's number, its bytes when it is length-delimited, and what follows it.
pub(super) type Field<'a> = (u64, Option<&'a [u8]>, &'a [u8]);

/// The field at the start of `data`; `None` for damage.
pub(super) fn field(data: &[u8]) -> Option<Field<'_>> {
    let (key, rest) = varint(data)?;
    let number = key >> 3;
    if number == 0 {
        return None;
    }
    match key & 7 {
        0 => varint(rest).map(|(_, rest)| (number, None, rest)),
        1 => rest.get(8..).map(|rest| (number, None, rest)),
        2 => {
            let (len, rest) = varint(rest)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            Some((number, Some(value), rest))
        }
        5 => rest.get(4..).map(|rest| (number, None, rest)),
        // Groups do not occur in these messages.
        _ => None,
    }
}

fn varint(data: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in data.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return data.get(index + 1..).map(|rest| (value, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_found_wherever_it_stands() {
        assert_eq!(read_name(b"\x0a\x03web"), Ok("web"));
        // A varint, a fixed64, a message and a fixed32 in front of it.
        let before = b"\x10\x96\x01\x19\0\0\0\0\0\0\0\0\x22\x02\x0a\x00\x2d\0\0\0\0\x0a\x01x";
        assert_eq!(read_name(before), Ok("x"));
        assert_eq!(read_name(b"\x0a\x01a\x0a\x01b"), Ok("b"), "the last one counts");
    }

    #[test]
    fn no_name() {
        assert_eq!(read_name(b""), Err(NameError::Missing));
        assert_eq!(read_name(b"\x0a\x00"), Err(NameError::Missing));
        assert_eq!(read_name(b"\x12\x01a"), Err(NameError::Missing));
        assert_eq!(read_name(b"\x0a\x02\xff\xfe"), Err(NameError::NotText));
        assert_eq!(read_name(b"\x0a\x05we"), Err(NameError::Damaged));
        assert_eq!(read_name(b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"), Err(NameError::Damaged));
        assert_eq!(read_name(b"\x0b"), Err(NameError::Damaged));
        assert_eq!(read_name(b"\x02\x01a"), Err(NameError::Damaged), "field number 0");
    }

    #[test]
    fn damage_behind_the_name_leaves_it_readable() {
        assert_eq!(read_name(b"\x0a\x03web\x12\x7f"), Ok("web"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(0u8.., 0..64)) {
            let _ = read_name(&bytes);
        }
    }
}
