//! The fields of a head: into a map those that travel on, apart what concerns this connection.

use super::case::NameCase;
use super::connection::Connection;
use super::framing::Said;
use super::scan::{Slot, at};
use super::{Fault, Limits};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, COOKIE, TE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// Fields a proxy adds to most heads: grown for them, a map is built twice.
const ADDED: usize = 4;
/// Fields a map has room for from the beginning at most; far below what a map can hold at all.
const ROOM: usize = 1024;

/// The fields of one head.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) map: HeaderMap,
    pub(super) case: NameCase,
    pub(super) said: Said,
    pub(super) connection: Connection,
    /// Where the value of Host is.
    pub(super) host: Option<(u32, u32)>,
    /// `Expect: 100-continue`.
    pub(super) expect: bool,
    /// What `Keep-Alive: timeout=` promises.
    pub(super) keep_alive: Option<Duration>,
    h2c: bool,
    /// There is an `upgrade`.
    upgrades: bool,
    /// There is a cookie.
    crumbs: bool,
    cookies: Option<BytesMut>,
    /// Fields, all cookies counting as one.
    count: usize,
}

/// Fields that need a look. Told apart by length first: most fields are none of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Host,
    Te,
    Cookie,
    Expect,
    Upgrade,
    Connection,
    KeepAlive,
    ContentLength,
    TransferEncoding,
    /// Dropped without a look.
    Hop,
}

fn kind(name: &[u8]) -> Kind {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        2 if is("te") => Kind::Te,
        4 if is("host") => Kind::Host,
        6 if is("cookie") => Kind::Cookie,
        6 if is("expect") => Kind::Expect,
        7 if is("upgrade") => Kind::Upgrade,
        10 if is("connection") => Kind::Connection,
        10 if is("keep-alive") => Kind::KeepAlive,
        14 if is("content-length") => Kind::ContentLength,
        14 if is("http2-settings") => Kind::Hop,
        16 if is("proxy-connection") => Kind::Hop,
        17 if is("transfer-encoding") => Kind::TransferEncoding,
        _ => Kind::Other,
    }
}

impl Fields {
    /// None yet, with room for `count` and for what the proxy adds to a head.
    #[inline]
    pub(super) fn new(count: usize) -> Self {
        // In full, not from a default: that would make a map to throw away, and move everything once more.
        Fields {
            map: room(count + ADDED),
            case: NameCase::default(),
            said: Said::default(),
            connection: Connection::default(),
            host: None,
            expect: false,
            keep_alive: None,
            h2c: false,
            upgrades: false,
            crumbs: false,
            cookies: None,
            count: 0,
        }
    }

    /// Reads the fields of `head`.
    ///
    /// # Errors
    /// One of them is refused, or there are too many.
    pub(super) fn read(&mut self, head: &Bytes, slots: &[Slot], limits: &Limits) -> Result<(), Fault> {
        for slot in slots {
            self.add(head, slot, limits)?;
        }
        if let Some(cookies) = self.cookies.take() {
            let joined = HeaderValue::from_maybe_shared(cookies.freeze()).map_err(|_| Fault::CHARACTERS)?;
            self.map.insert(COOKIE, joined);
        }
        self.connection.strip(&mut self.map);
        self.said = self.said.check()?;
        Ok(())
    }

    fn add(&mut self, head: &Bytes, slot: &Slot, limits: &Limits) -> Result<(), Fault> {
        let (name, value) = (at(head, slot.name), at(head, slot.value));
        let kind = kind(name);
        let joins = kind == Kind::Cookie && std::mem::replace(&mut self.crumbs, true);
        if !joins {
            self.count += 1;
            if self.count > limits.max_headers {
                return Err(Fault::TOO_MANY_HEADERS);
            }
        }
        let mut nth = 0;
        match kind {
            Kind::Cookie if joins => {
                self.add_cookie(value);
                return Ok(());
            }
            Kind::Cookie => nth = self.append(head, slot, COOKIE)?,
            Kind::Other => nth = self.append(head, slot, parse_name(name)?)?,
            Kind::Host => {
                if self.host.replace(slot.value).is_some() {
                    return Err(Fault::HOST);
                }
            }
            Kind::Te => {
                if has_token(value, b"trailers") {
                    self.map.insert(TE, HeaderValue::from_static("trailers"));
                }
            }
            Kind::Expect => {
                self.expect |= value.eq_ignore_ascii_case(b"100-continue");
                nth = self.append(head, slot, http::header::EXPECT)?;
            }
            Kind::Upgrade => {
                self.h2c |= has_token(value, b"h2c");
                self.upgrades = true;
                nth = self.append(head, slot, UPGRADE)?;
            }
            Kind::Connection => self.connection.add(value)?,
            Kind::KeepAlive => self.keep_alive = keep_alive(value),
            Kind::ContentLength => self.add_length(head, slot, limits)?,
            Kind::TransferEncoding => self.said.add_coding(value)?,
            Kind::Hop => {}
        }
        self.case.note(name, slot.name.0 as usize, nth);
        Ok(())
    }

    /// Returns how many fields of the name there were before.
    fn append(&mut self, head: &Bytes, slot: &Slot, name: HeaderName) -> Result<usize, Fault> {
        let value = parse_value(head, slot)?;
        if !self.map.try_append(name, value).map_err(|_| Fault::TOO_MANY_HEADERS)? {
            return Ok(0);
        }
        let name = std::str::from_utf8(at(head, slot.name)).unwrap_or_default();
        Ok(self.map.get_all(name).iter().count().saturating_sub(1))
    }

    fn add_length(&mut self, head: &Bytes, slot: &Slot, limits: &Limits) -> Result<(), Fault> {
        let text = at(head, slot.value);
        self.said.add_length(text, limits.lenient)?;
        let value = match self.said.length {
            // In one form, so that no reader takes it for octal.
            Some(length) if text.len() > 1 && text.starts_with(b"0") => HeaderValue::from(length),
            _ => parse_value(head, slot)?,
        };
        self.map.try_insert(CONTENT_LENGTH, value).map_err(|_| Fault::TOO_MANY_HEADERS)?;
        Ok(())
    }

    /// Joins a further cookie to those before.
    fn add_cookie(&mut self, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        let first = self.map.get(COOKIE).map(HeaderValue::as_bytes).unwrap_or_default();
        let joined = self.cookies.get_or_insert_with(|| BytesMut::from(first));
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value);
    }

    /// Settles whether the sender asks for another protocol; `false`: its `upgrade` means nothing and goes.
    pub(super) fn take_upgrade(&mut self, possible: bool) -> bool {
        if !self.upgrades {
            return false;
        }
        let asks = self.connection.upgrade && !self.h2c && self.map.contains_key(UPGRADE);
        if !asks || !possible {
            self.map.remove(UPGRADE);
        }
        asks && possible
    }
}

/// A map with room for `count` fields, as far as that is reasonable.
pub(super) fn room(count: usize) -> HeaderMap {
    HeaderMap::with_capacity(count.min(ROOM))
}

pub(super) fn parse_name(name: &[u8]) -> Result<HeaderName, Fault> {
    HeaderName::from_bytes(name).map_err(|_| Fault::CHARACTERS)
}

pub(super) fn parse_value(head: &Bytes, slot: &Slot) -> Result<HeaderValue, Fault> {
    let (start, end) = (slot.value.0 as usize, slot.value.1 as usize);
    HeaderValue::from_maybe_shared(head.slice(start..end)).map_err(|_| Fault::CHARACTERS)
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    let element = |part: &[u8]| {
        let word = part.split(|byte| *byte == b';').next().unwrap_or_default();
        word.trim_ascii().eq_ignore_ascii_case(token)
    };
    list.split(|byte| *byte == b',').any(element)
}

/// Seconds of `timeout=` in a Keep-Alive field.
fn keep_alive(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?;
    let seconds = text.split(',').find_map(|part| {
        let (name, seconds) = part.trim().split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| seconds.trim().parse::<u32>().ok())?
    });
    seconds.map(|seconds| Duration::from_secs(seconds.into()))
}
