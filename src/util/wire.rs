//! Protobuf's wire format, as far as workers need it: fields of a message one by one, and how they are written.

/// One field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint.
    Number(u64),
    /// Eight bytes.
    Fixed64([u8; 8]),
    /// Text, bytes or a message.
    Bytes(&'a [u8]),
    /// Four bytes.
    Fixed32([u8; 4]),
}

/// Takes the next field off `rest`: its number and value. `None`: there is none, or the bytes are no message.
pub fn next<'a>(rest: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Number(varint(rest)?),
        1 => Value::Fixed64(take(rest, 8)?.try_into().ok()?),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(take(rest, length)?)
        }
        5 => Value::Fixed32(take(rest, 4)?.try_into().ok()?),
        _ => return None,
    };
    Some((u32::try_from(key >> 3).ok()?, value))
}

/// Calls `each` with every field that is text, bytes or a message. `false`: the bytes are no message.
pub fn each<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u32, &'a [u8])) -> bool {
    while !bytes.is_empty() {
        match next(&mut bytes) {
            Some((number, Value::Bytes(value))) => each(number, value),
            Some(_) => {}
            None => return false,
        }
    }
    true
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, left) = rest.split_first()?;
        *rest = left;
        number |= u64::from(first & 127) << shift;
        if first & 128 == 0 {
            return Some(number);
        }
    }
    None
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 128 {
        out.push((number & 127) as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a field that is text, bytes or a message.
pub fn put(number: u32, value: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, out);
    put_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(
            fields in proptest::collection::vec((1u32..5000, proptest::collection::vec(any::<u8>(), 0..300)), 0..9),
        ) {
            let mut bytes = Vec::new();
            fields.iter().for_each(|(number, value)| put(*number, value, &mut bytes));
            let mut read = Vec::new();
            prop_assert!(each(&bytes, |number, value| read.push((number, value.to_vec()))));
            prop_assert_eq!(read, fields);
        }

        #[test]
        fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            each(&bytes, |_, _| {});
        }
    }

    #[test]
    fn other_kinds_are_passed_over() {
        let mut bytes: &[u8] = &[8, 150, 1, 17, 1, 2, 3, 4, 5, 6, 7, 8, 29, 1, 2, 3, 4, 34, 1, b'a'];
        assert_eq!(next(&mut bytes), Some((1, Value::Number(150))));
        assert_eq!(next(&mut bytes), Some((2, Value::Fixed64([1, 2, 3, 4, 5, 6, 7, 8]))));
        assert_eq!(next(&mut bytes), Some((3, Value::Fixed32([1, 2, 3, 4]))));
        assert_eq!(next(&mut bytes), Some((4, Value::Bytes(b"a"))));
        assert_eq!(next(&mut bytes), None);
        assert!(!each(&[10, 5, 1], |_, _| {}), "cut short");
    }
}
