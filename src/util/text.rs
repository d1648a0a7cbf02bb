//! Numbers and addresses as text, without the machinery of formatting: for lines written per request.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// Appends `number` in decimal.
pub fn push_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut left = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
        used += 1;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

/// Appends `number` in decimal.
fn push_byte(number: u8, out: &mut Vec<u8>) {
    let [hundreds, tens, ones] = [b'0' + number / 100, b'0' + number / 10 % 10, b'0' + number % 10];
    match number {
        100.. => out.extend_from_slice(&[hundreds, tens, ones]),
        10.. => out.extend_from_slice(&[tens, ones]),
        _ => out.push(ones),
    }
}

/// Appends `ip`.
pub fn push_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            out.reserve(15);
            for part in [a, b, c] {
                push_byte(part, out);
                out.push(b'.');
            }
            push_byte(d, out);
        }
        // Writing to a vector cannot fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

/// Appends `address`; IPv6 in brackets.
pub fn push_address(address: SocketAddr, out: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(_) => push_ip(address.ip(), out),
        SocketAddr::V6(_) => {
            out.push(b'[');
            push_ip(address.ip(), out);
            out.push(b']');
        }
    }
    out.push(b':');
    push_number(address.port().into(), out);
}

/// Appends a UUID of version 4 made of `bits`.
pub fn push_uuid(bits: [u64; 2], out: &mut Vec<u8>) {
    let (high, low) = ((bits[0] & !0xf000) | 0x4000, (bits[1] & !(0x3 << 62)) | (2 << 62));
    let (second, third) = (hex(high as u32), hex((low >> 32) as u32));
    out.extend_from_slice(&hex((high >> 32) as u32));
    for four in [second.split_at(4), third.split_at(4)] {
        for part in [four.0, four.1] {
            out.push(b'-');
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(&hex(low as u32));
}

/// Eight digits at once: each nibble in a byte of its own, then made a digit or a letter.
fn hex(number: u32) -> [u8; 8] {
    const ONES: u64 = u64::MAX / 255;
    let mut spread = u64::from(number);
    spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
    spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((spread + 6 * ONES) >> 4) & ONES;
    (spread + u64::from(b'0') * ONES + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_display_has_it() {
        for number in [0, 7, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_number(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
        for address in ["127.0.0.1:80", "10.250.0.255:65535", "9.99.100.199:1", "[::1]:0", "[fe80::1]:443"] {
            let mut out = Vec::new();
            push_address(address.parse().unwrap(), &mut out);
            assert_eq!(out, address.as_bytes());
        }
    }

    #[test]
    fn ids_have_the_form_of_version_4() {
        assert_eq!((&hex(0x0123_4567), &hex(0x89ab_cdef)), (b"01234567", b"89abcdef"));
        let mut out = Vec::new();
        push_uuid([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210], &mut out);
        assert_eq!(out, b"01234567-89ab-4def-bedc-ba9876543210");
    }
}
