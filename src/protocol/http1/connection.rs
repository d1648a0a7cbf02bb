//! What a message says about its connection.

use super::Fault;
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

/// Fields a message may name as belonging to the connection.
const NOMINATED: usize = 16;

/// What the Connection fields of a message said.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    nominated: SmallVec<[HeaderName; 2]>,
}

impl Connection {
    /// Takes in one Connection field.
    ///
    /// # Errors
    /// It names what is no field, too many fields, or a field whose removal would change what the message is
    /// or hide where it came from.
    pub(super) fn add(&mut self, value: &[u8]) -> Result<(), Fault> {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match token.len() {
                0 => {}
                5 if token.eq_ignore_ascii_case(b"close") => self.close = true,
                10 if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                7 if token.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                _ => self.nominate(token)?,
            }
        }
        Ok(())
    }

    fn nominate(&mut self, token: &[u8]) -> Result<(), Fault> {
        let name = HeaderName::from_bytes(token).map_err(|_| Fault::CONNECTION_HEADER)?;
        match name.as_str() {
            // Looked at by themselves.
            "te" | "trailer" | "transfer-encoding" | "http2-settings" | "proxy-connection" => return Ok(()),
            "host" | "content-length" | "forwarded" | "x-forwarded-for" | "x-forwarded-host"
            | "x-forwarded-proto" => return Err(Fault::CONNECTION_HEADER),
            _ => {}
        }
        if self.nominated.len() == NOMINATED {
            return Err(Fault::CONNECTION_HEADER);
        }
        self.nominated.push(name);
        Ok(())
    }

    /// Takes the named fields out.
    pub(super) fn strip(&self, fields: &mut HeaderMap) {
        for name in &self.nominated {
            fields.remove(name);
        }
    }

    /// Whether the connection may carry another message.
    pub(super) fn persists(&self, http_11: bool) -> bool {
        !self.close && (http_11 || self.keep_alive)
    }
}
