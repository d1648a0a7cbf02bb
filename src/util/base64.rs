//! Base64 (RFC 4648, 4 and 5).

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn digit(value: u32) -> u8 {
    DIGITS.get((value & 63) as usize).copied().unwrap_or(b'A')
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

/// Appends `bytes` in base64, padded.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = (at(0) << 16) | (at(1) << 8) | at(2);
        out.push(digit(bits >> 18));
        out.push(digit(bits >> 12));
        out.push(if group.len() > 1 { digit(bits >> 6) } else { b'=' });
        out.push(if group.len() > 2 { digit(bits) } else { b'=' });
    }
}

/// The bytes of `text`, in which every four digits may end with padding; `None`: it is not base64.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (groups, rest) = text.as_chunks::<4>();
    for [a, b, c, d] in groups {
        let head = (value(*a)? << 18) | (value(*b)? << 12);
        let (bits, length) = match (*c, *d) {
            (b'=', b'=') => (head, 1),
            (c, b'=') => (head | (value(c)? << 6), 2),
            (c, d) => (head | (value(c)? << 6) | value(d)?, 3),
        };
        // What padding hides is zero: one text for the same bytes.
        let [_, bytes @ ..] = bits.to_be_bytes();
        if bytes.iter().skip(length).any(|byte| *byte != 0) {
            return None;
        }
        out.extend(bytes.iter().take(length));
    }
    rest.is_empty().then_some(out)
}

/// The bytes of `text` in the alphabet for URLs, padded or not; `None`: it is not that.
pub fn decode_url(text: &[u8]) -> Option<Vec<u8>> {
    let plain = match text {
        [rest @ .., b'=', b'='] | [rest @ .., b'='] if text.len().is_multiple_of(4) => rest,
        other => other,
    };
    let mut digits = Vec::with_capacity(plain.len() + 3);
    for digit in plain {
        digits.push(match digit {
            b'-' => b'+',
            b'_' => b'/',
            b'+' | b'/' | b'=' => return None,
            other => *other,
        });
    }
    while !digits.len().is_multiple_of(4) {
        digits.push(b'=');
    }
    decode(&digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            let mut out = Vec::new();
            encode(plain.as_bytes(), &mut out);
            assert_eq!((out.as_slice(), decode(coded.as_bytes()).unwrap()), (coded.as_bytes(), plain.into()));
        }
        assert_eq!(decode(b"Zg==Zm8=").unwrap(), b"ffo", "padding within");
        for bad in ["Z", "Zg=", "Zh==", "=Zg=", "Zg=a", "Zm9_"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_alphabet_for_urls_needs_no_padding() {
        assert_eq!(decode_url(b"-_-_").unwrap(), [0xfb, 0xff, 0xbf]);
        for (text, plain) in [("Zg", "f"), ("Zg==", "f"), ("Zm8", "fo"), ("Zm8=", "fo"), ("", "")] {
            assert_eq!(decode_url(text.as_bytes()).unwrap(), plain.as_bytes(), "{text}");
        }
        for bad in ["Z", "Zg=", "Zh", "+_-_", "Zg==Zg", "Z=g", "Zm9v="] {
            assert_eq!(decode_url(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut text = Vec::new();
            encode(&bytes, &mut text);
            prop_assert_eq!(decode(&text), Some(bytes));
        }
    }
}
