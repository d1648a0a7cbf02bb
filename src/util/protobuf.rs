//! The wire form of protocol buffers, for the few messages that workers write and read themselves.

/// A message being written: fields in the order they are put. Empty texts, zeros and empty messages that stand for
/// absent ones are left out, as proto3 wants it.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// Nothing yet.
    pub fn new() -> Self {
        Message::default()
    }

    /// Its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A number.
    #[must_use]
    pub fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.tag(field, 0);
            self.varint(value);
        }
        self
    }

    /// A signed number of 64 bits.
    #[must_use]
    pub fn signed(self, field: u32, value: i64) -> Self {
        self.number(field, value as u64)
    }

    /// A member of a oneof, or an item of a list: written whatever it is.
    #[must_use]
    pub fn item(mut self, field: u32, bytes: &[u8]) -> Self {
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A text or bytes.
    #[must_use]
    pub fn bytes(self, field: u32, bytes: &[u8]) -> Self {
        if bytes.is_empty() { self } else { self.item(field, bytes) }
    }

    /// A text; what is none in UTF-8 becomes one.
    #[must_use]
    pub fn text(self, field: u32, text: &[u8]) -> Self {
        self.bytes(field, String::from_utf8_lossy(text).as_bytes())
    }

    /// A message that is there, empty or not.
    #[must_use]
    pub fn message(self, field: u32, message: Message) -> Self {
        self.item(field, &message.0)
    }

    /// An entry of a map of texts.
    #[must_use]
    pub fn entry(self, field: u32, key: &str, value: &[u8]) -> Self {
        self.message(field, Message::new().text(1, key.as_bytes()).text(2, value))
    }

    /// A number of 64 bits with a point.
    #[must_use]
    pub fn double(mut self, field: u32, value: f64) -> Self {
        self.tag(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A member of a oneof that is a number.
    #[must_use]
    pub fn choice(mut self, field: u32, value: u64) -> Self {
        self.tag(field, 0);
        self.varint(value);
        self
    }

    fn tag(&mut self, field: u32, kind: u32) {
        self.varint(u64::from(field << 3 | kind));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Number(u64),
    Double(f64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Its bytes; none if it has another form.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    /// Its number; 0 if it has another form.
    pub fn number(self) -> u64 {
        match self {
            Value::Number(number) => number,
            _ => 0,
        }
    }

    /// Its text; what is none in UTF-8 becomes one.
    pub fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// All fields of a message, with their numbers.
///
/// # Errors
/// The bytes are no message.
pub fn fields(mut rest: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Malformed> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let field = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => Value::Double(f64::from_le_bytes(*take(&mut rest, 8)?.first_chunk().ok_or(Malformed)?)),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).map_err(|_| Malformed)?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => Value::Bytes(take(&mut rest, 4)?),
            _ => return Err(Malformed),
        };
        fields.push((field, value));
    }
    Ok(fields)
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = left;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first().ok_or(Malformed)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::new().text(1, b"a\xff").number(2, 300);
        let bytes = Message::new()
            .message(3, inner)
            .signed(4, -1)
            .double(5, 1.5)
            .entry(6, "k", b"v")
            .number(7, 0)
            .choice(8, 0)
            .into_bytes();
        let read = fields(&bytes).unwrap();
        let numbers: Vec<u32> = read.iter().map(|(field, _)| *field).collect();
        assert_eq!(numbers, [3, 4, 5, 6, 8]);
        let inner = fields(read[0].1.bytes()).unwrap();
        assert_eq!((inner[0].1.text().as_str(), inner[1].1.number()), ("a\u{fffd}", 300));
        assert_eq!((read[1].1.number() as i64, read[2].1), (-1, Value::Double(1.5)));
        assert_eq!(fields(b"\x0a\x05ab"), Err(Malformed));
        assert_eq!(fields(b"\x0b"), Err(Malformed), "a group");
        assert_eq!(
            fields(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            Err(Malformed)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = fields(&bytes);
        }
    }
}
