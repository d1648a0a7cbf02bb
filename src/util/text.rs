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

/// Appends `ip`.
pub fn push_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            for (at, part) in ip.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                push_number(part.into(), out);
            }
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
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = (u128::from(bits[0]) << 64) | u128::from(bits[1]);
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (4 << 76) | (2 << 62);
    for (place, shift) in (0..32).zip((0..128).step_by(4).rev()) {
        if matches!(place, 8 | 12 | 16 | 20) {
            out.push(b'-');
        }
        out.push(HEX.get((bits >> shift) as usize & 15).copied().unwrap_or(b'0'));
    }
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
        for address in ["127.0.0.1:80", "10.250.0.255:65535", "[::1]:0", "[fe80::1]:443"] {
            let mut out = Vec::new();
            push_address(address.parse().unwrap(), &mut out);
            assert_eq!(out, address.as_bytes());
        }
    }
}
