//! How long a body is.

use super::Fault;

/// Where a message's body ends (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk and its trailers.
    Chunked,
    /// With the connection; also what follows an accepted Upgrade or CONNECT.
    UntilClose,
}

/// What a head said about its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
}

impl Said {
    /// Takes in a Content-Length field: digits only, and once, or in equal values where that is permitted.
    pub(super) fn add_length(&mut self, value: &[u8], lenient: bool) -> Result<(), Fault> {
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(Fault::CONTENT_LENGTH);
        }
        let length = value
            .iter()
            .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
        let length = length.ok_or(Fault::CONTENT_LENGTH)?;
        match self.length.replace(length) {
            Some(before) if !lenient || before != length => Err(Fault::CONTENT_LENGTH),
            _ => Ok(()),
        }
    }

    /// Takes in a Transfer-Encoding field: exactly `chunked`, once. Other codings would have to be undone to
    /// pass the body on.
    pub(super) fn add_coding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if value.eq_ignore_ascii_case(b"chunked") && !self.chunked {
            self.chunked = true;
            return Ok(());
        }
        let mut codings = value.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let last_is_chunked = codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
        let once = !self.chunked && codings.all(|coding| !coding.eq_ignore_ascii_case(b"chunked"));
        Err(if last_is_chunked && once { Fault::UNKNOWN_CODING } else { Fault::TRANSFER_ENCODING })
    }

    /// # Errors
    /// Both were said.
    pub(super) fn check(self) -> Result<Self, Fault> {
        if self.chunked && self.length.is_some() { Err(Fault::CHUNKED_CONTENT_LENGTH) } else { Ok(self) }
    }

    /// Whether there is nothing to be read after the head.
    pub(super) fn is_nothing(self) -> bool {
        !self.chunked && self.length.unwrap_or(0) == 0
    }
}
