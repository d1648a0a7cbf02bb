//! HTTP/2 → bolt.

use super::BridgeError;
use super::layout::{Entry, Mark, Reader, sum};
use super::names::{Field, KEY_PREFIX, Role, is_plain_value, is_value_char, role, spelled_key, unescape};
use crate::protocol::bolt::{self, Head, headers::put_pair, wire};
use crate::protocol::rpc::Frame;
use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode};
use smallvec::SmallVec;
use std::borrow::Cow;

/// An HTTP/2 request as a call. Fields without a header have the value an ordinary call has, so that any
/// HTTP/2 client can call a bolt service; `content` is copied once, into the frame.
///
/// `accept_side_channel`: whether the peer may say how the header map looked. If not, every pair is as its
/// flat header is, and headers of the bridge's own are dropped.
///
/// # Errors
/// A field's header is wrong or there twice, or the headers do not fit a frame.
pub fn http2_request_to_bolt(
    headers: &HeaderMap,
    content: impl Buf,
    accept_side_channel: bool,
) -> Result<Frame, BridgeError> {
    let flat = Flat::sort(headers, accept_side_channel)?;
    let mut head = flat.head(Head { timeout_ms: 0, ..Head::REQUEST })?;
    if head.is_response() {
        return Err(BridgeError::Field(Field::CmdType.as_str()));
    }
    if let Some(text) = flat.field(Field::Timeout) {
        head.timeout_ms = timeout(text).ok_or(BridgeError::Field(Field::Timeout.as_str()))?;
    }
    flat.frame(head, content)
}

/// An HTTP/2 response as an answer. The HTTP status counts if it is a failure and `respstatus` says nothing
/// or success; the caller sets the request id.
///
/// # Errors
/// As [`http2_request_to_bolt`].
pub fn http2_response_to_bolt(
    status: StatusCode,
    headers: &HeaderMap,
    content: impl Buf,
    accept_side_channel: bool,
) -> Result<Frame, BridgeError> {
    let flat = Flat::sort(headers, accept_side_channel)?;
    let mut head = flat.head(Head::RESPONSE)?;
    if !head.is_response() {
        return Err(BridgeError::Field(Field::CmdType.as_str()));
    }
    head.status = flat.number(Field::RespStatus, 0)?;
    if head.status == 0 {
        head.status = bolt::Status::from_http(status.as_u16()).code();
    }
    flat.frame(head, content)
}

/// One header that belongs to the bolt map.
struct FlatPair<'a> {
    role: Role,
    name: &'a str,
    value: &'a [u8],
    used: bool,
}

impl FlatPair<'_> {
    /// Whether the layout's key is this header's.
    fn is_of(&self, key: Option<&[u8]>) -> bool {
        match (self.role, key) {
            (Role::NullKey, None) => true,
            (Role::User, Some(key)) => self.name.as_bytes().eq_ignore_ascii_case(key) && !key.contains(&b'%'),
            (Role::Spelled, Some(key)) => self
                .name
                .as_bytes()
                .strip_prefix(KEY_PREFIX.as_bytes())
                .is_some_and(|spelled| spelled.eq_ignore_ascii_case(key)),
            _ => false,
        }
    }

    /// Writes the pair as the flat header alone tells it.
    fn put(&self, out: &mut BytesMut) {
        self.put_as(b"", Some(self.value), out);
    }

    /// Writes the pair with the key as the layout spells it (empty: as the header does).
    fn put_as(&self, key: &[u8], value: Option<&[u8]>, out: &mut BytesMut) {
        let name = self.name.as_bytes();
        match self.role {
            Role::NullKey => put_pair(out, (None, value)),
            Role::Spelled => {
                let spelled = || name.strip_prefix(KEY_PREFIX.as_bytes()).and_then(spelled_key);
                // A spelling that stands for no key is nobody's header.
                if let Some(key) = spelled_key(key).filter(|key| !key.is_empty()).or_else(spelled) {
                    put_pair(out, (Some(&key), value));
                }
            }
            _ => put_pair(out, (Some(if key.is_empty() { name } else { key }), value)),
        }
    }
}

/// A received head, sorted by whom its headers belong to.
struct Flat<'a> {
    fields: [Option<&'a [u8]>; Field::COUNT],
    pairs: SmallVec<[FlatPair<'a>; 24]>,
    side: Reader<'a>,
}

impl<'a> Flat<'a> {
    fn sort(headers: &'a HeaderMap, accept_side_channel: bool) -> Result<Self, BridgeError> {
        let mut flat = Flat { fields: [None; Field::COUNT], pairs: SmallVec::new(), side: Reader::default() };
        let (mut layout, mut sums): (&[u8], &[u8]) = (b"", b"");
        for (name, value) in headers {
            let (name, value) = (name.as_str(), HeaderValue::as_bytes(value));
            match role(name) {
                Role::Transport => {}
                // MOSN let a user's own `protocol` entry overwrite the field.
                Role::Field(Field::Protocol) if !value.iter().all(u8::is_ascii_digit) => {
                    flat.pairs.push(FlatPair { role: Role::User, name, value, used: false });
                }
                Role::Field(field) => {
                    let slot = flat.fields.get_mut(field as usize);
                    if slot.is_none_or(|slot| slot.replace(value).is_some()) {
                        return Err(BridgeError::Field(field.as_str()));
                    }
                }
                role @ Role::User => flat.pairs.push(FlatPair { role, name, value, used: false }),
                _ if !accept_side_channel => {}
                Role::Layout => layout = value,
                Role::Sums => sums = value,
                role @ (Role::NullKey | Role::Spelled) => {
                    flat.pairs.push(FlatPair { role, name, value, used: false });
                }
            }
        }
        flat.side = Reader::new(layout, sums);
        Ok(flat)
    }

    fn field(&self, field: Field) -> Option<&'a [u8]> {
        self.fields.get(field as usize).copied().flatten()
    }

    /// A decimal field; `missing` if it is not there.
    fn number<N: TryFrom<u64>>(&self, field: Field, missing: N) -> Result<N, BridgeError> {
        match self.field(field) {
            None => Ok(missing),
            Some(text) => decimal(text)
                .and_then(|number| N::try_from(number).ok())
                .ok_or(BridgeError::Field(field.as_str())),
        }
    }

    /// The fields both directions have.
    fn head(&self, usual: Head) -> Result<Head, BridgeError> {
        if self.number(Field::Protocol, wire::PROTOCOL_V1)? != wire::PROTOCOL_V1 {
            return Err(BridgeError::Field(Field::Protocol.as_str()));
        }
        let head = Head {
            cmd_type: self.number(Field::CmdType, usual.cmd_type)?,
            cmd_code: self.number(Field::CmdCode, usual.cmd_code)?,
            version: self.number(Field::Version, usual.version)?,
            request_id: self.number(Field::RequestId, 0)?,
            codec: self.number(Field::Codec, usual.codec)?,
            ..usual
        };
        if head.cmd_type > wire::TYPE_ONEWAY {
            return Err(BridgeError::Field(Field::CmdType.as_str()));
        }
        Ok(head)
    }

    fn frame(mut self, head: Head, content: impl Buf) -> Result<Frame, BridgeError> {
        let class = self.field(Field::ClassName).unwrap_or_default();
        let class = match self.side.class_escaped {
            true => unescaped(class).unwrap_or(Cow::Borrowed(class)),
            false => Cow::Borrowed(class),
        };
        Ok(bolt::encode_with(head, &class, content, |out| {
            self.restore(out);
            self.pairs.iter().filter(|pair| !pair.used).for_each(|pair| pair.put(out));
        })?)
    }

    /// Writes the pairs the layout names, in its order. Headers of one name are used up in the order they came
    /// in, so that which of them is the first is not the sender's to say twice.
    fn restore(&mut self, out: &mut BytesMut) {
        let mut next = 0;
        for (entry, sent) in self.side {
            let Some(at) = self.find(entry.key, next) else { continue };
            next = at + 1;
            let Some(pair) = self.pairs.get_mut(at) else { continue };
            pair.used = true;
            if entry.needs_sum() && sent != Some(sum(pair.value)) {
                pair.put(out);
                continue;
            }
            let value = match entry {
                Entry { mark: Mark::Null, .. } if pair.value.is_empty() => None,
                Entry { mark: Mark::Escaped, .. } => {
                    Some(unescaped(pair.value).unwrap_or(Cow::Borrowed(pair.value)))
                }
                _ => Some(Cow::Borrowed(pair.value)),
            };
            pair.put_as(entry.key.unwrap_or_default(), value.as_deref(), out);
        }
    }

    /// The first unused header of this key. A header map holds those of one name together, so looking from
    /// the last hit onwards and then from the front finds them in order.
    fn find(&self, key: Option<&[u8]>, next: usize) -> Option<usize> {
        let here = |at: &usize| self.pairs.get(*at).is_some_and(|pair| !pair.used && pair.is_of(key));
        (next..self.pairs.len()).find(here).or_else(|| (0..next).find(here))
    }
}

/// The bytes an escaped value stands for; `None` unless they had to be escaped, in exactly this way.
fn unescaped(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let value = unescape(text, is_value_char)?;
    (!is_plain_value(&value)).then_some(Cow::Owned(value))
}

fn decimal(text: &[u8]) -> Option<u64> {
    // `parse` takes a sign, which no field but the timeout may have.
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Milliseconds. MOSN writes −1 as an unsigned number of 64 bits, in its first release of 32.
fn timeout(text: &[u8]) -> Option<i32> {
    if let Some(negative) = text.strip_prefix(b"-") {
        let number = i64::try_from(decimal(negative)?).ok()?;
        return i32::try_from(-number).ok();
    }
    let number = decimal(text)?;
    match number {
        0..=0x7fff_ffff => i32::try_from(number).ok(),
        0x8000_0000..=0xffff_ffff => Some(number as u32 as i32),
        _ => i32::try_from(number as i64).ok(),
    }
}
