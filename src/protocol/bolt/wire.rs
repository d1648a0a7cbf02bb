//! The fixed header of bolt v1: 22 bytes in a request, 20 in a response, all integers big-endian.
//!
//! ```text
//! request   proto type cmdcode ver requestId codec timeout  classLen headerLen contentLen
//!             1    1     2     1      4       1      4         2        2         4
//! response  proto type cmdcode ver requestId codec status   classLen headerLen contentLen
//!             1    1     2     1      4       1      2         2        2         4
//! ```
//! Then class, header block and content, without separators. The type byte alone tells the two apart.

use crate::protocol::rpc::{Kind, Malformed};
use bytes::BufMut;
use std::ops::Range;

/// First byte of every v1 frame.
pub const PROTOCOL_V1: u8 = 1;
/// First byte of every v2 frame.
pub const PROTOCOL_V2: u8 = 2;
/// Length of a request's fixed header.
pub const REQUEST_LEN: usize = 22;
/// Length of a response's fixed header.
pub const RESPONSE_LEN: usize = 20;
/// Where the request id is, in both directions.
pub const REQUEST_ID: Range<usize> = 5..9;

/// Type byte of a response.
pub const TYPE_RESPONSE: u8 = 0;
/// Type byte of a request.
pub const TYPE_REQUEST: u8 = 1;
/// Type byte of a request that wants no response.
pub const TYPE_ONEWAY: u8 = 2;

/// Command code of heartbeats and their acks.
pub const CMD_HEARTBEAT: u16 = 0;
/// Command code of calls.
pub const CMD_REQUEST: u16 = 1;
/// Command code of answers.
pub const CMD_RESPONSE: u16 = 2;
/// Command code of the GoAway frame, known to MOSN and Mizzen only.
pub const CMD_GOAWAY: u16 = 100;

/// The fixed header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// One of the `TYPE_` constants.
    pub cmd_type: u8,
    /// One of the `CMD_` constants, or a code unknown here (then the type decides).
    pub cmd_code: u16,
    /// Command version, 1 in practice.
    pub version: u8,
    /// Pairs a response with its request.
    pub request_id: u32,
    /// Serialisation of the content, 1 = hessian2.
    pub codec: u8,
    /// Requests: milliseconds, −1 = none. Responses: 0.
    pub timeout_ms: i32,
    /// Responses: status code. Requests: 0.
    pub status: u16,
    /// Length of the class name.
    pub class_len: u16,
    /// Length of the header block.
    pub header_len: u16,
    /// Length of the content.
    pub content_len: u32,
}

/// Result of looking for a fixed header.
pub(in crate::protocol) enum Parsed {
    /// All of it is there.
    Whole(Head),
    /// At least this many bytes are missing.
    Need(usize),
}

impl Head {
    /// Header of a call without content, with no timeout.
    pub const REQUEST: Head = Head {
        cmd_type: TYPE_REQUEST,
        cmd_code: CMD_REQUEST,
        version: 1,
        request_id: 0,
        codec: 1,
        timeout_ms: -1,
        status: 0,
        class_len: 0,
        header_len: 0,
        content_len: 0,
    };

    /// Header of an empty successful answer.
    pub const RESPONSE: Head =
        Head { cmd_type: TYPE_RESPONSE, cmd_code: CMD_RESPONSE, timeout_ms: 0, ..Head::REQUEST };

    /// Reads the fixed header at the front of `buf`, judging the first two bytes as soon as they are there.
    pub(in crate::protocol) fn parse(buf: &[u8]) -> Result<Parsed, Malformed> {
        match buf.first() {
            None | Some(&PROTOCOL_V1) => {}
            Some(&PROTOCOL_V2) => return Err(Malformed::BoltV2),
            Some(&other) => return Err(Malformed::Protocol(other)),
        }
        match buf.get(1) {
            None => Ok(Parsed::Need(RESPONSE_LEN - buf.len())),
            Some(&TYPE_RESPONSE) => Ok(Self::parse_response(buf)),
            Some(&(TYPE_REQUEST | TYPE_ONEWAY)) => Ok(Self::parse_request(buf)),
            Some(&other) => Err(Malformed::Type(other)),
        }
    }

    fn parse_request(buf: &[u8]) -> Parsed {
        let Some(b) = buf.first_chunk::<REQUEST_LEN>() else {
            return Parsed::Need(REQUEST_LEN - buf.len());
        };
        Parsed::Whole(Head {
            cmd_type: b[1],
            cmd_code: u16::from_be_bytes([b[2], b[3]]),
            version: b[4],
            request_id: u32::from_be_bytes([b[5], b[6], b[7], b[8]]),
            codec: b[9],
            timeout_ms: i32::from_be_bytes([b[10], b[11], b[12], b[13]]),
            status: 0,
            class_len: u16::from_be_bytes([b[14], b[15]]),
            header_len: u16::from_be_bytes([b[16], b[17]]),
            content_len: u32::from_be_bytes([b[18], b[19], b[20], b[21]]),
        })
    }

    fn parse_response(buf: &[u8]) -> Parsed {
        let Some(b) = buf.first_chunk::<RESPONSE_LEN>() else {
            return Parsed::Need(RESPONSE_LEN - buf.len());
        };
        Parsed::Whole(Head {
            cmd_type: b[1],
            cmd_code: u16::from_be_bytes([b[2], b[3]]),
            version: b[4],
            request_id: u32::from_be_bytes([b[5], b[6], b[7], b[8]]),
            codec: b[9],
            timeout_ms: 0,
            status: u16::from_be_bytes([b[10], b[11]]),
            class_len: u16::from_be_bytes([b[12], b[13]]),
            header_len: u16::from_be_bytes([b[14], b[15]]),
            content_len: u32::from_be_bytes([b[16], b[17], b[18], b[19]]),
        })
    }

    /// Writes the fixed header.
    pub(in crate::protocol) fn write(&self, out: &mut impl BufMut) {
        out.put_u8(PROTOCOL_V1);
        out.put_u8(self.cmd_type);
        out.put_u16(self.cmd_code);
        out.put_u8(self.version);
        out.put_u32(self.request_id);
        out.put_u8(self.codec);
        if self.is_response() {
            out.put_u16(self.status);
        } else {
            out.put_i32(self.timeout_ms);
        }
        out.put_u16(self.class_len);
        out.put_u16(self.header_len);
        out.put_u32(self.content_len);
    }

    /// Whether this heads an answer.
    pub fn is_response(&self) -> bool {
        self.cmd_type == TYPE_RESPONSE
    }

    /// What the frame is for: the type byte decides, save for the two command codes with a meaning of their
    /// own.
    pub fn kind(&self) -> Kind {
        match (self.cmd_type, self.cmd_code) {
            (TYPE_RESPONSE, CMD_HEARTBEAT) => Kind::HeartbeatAck,
            (TYPE_RESPONSE, _) => Kind::Response,
            (_, CMD_HEARTBEAT) => Kind::Heartbeat,
            (_, CMD_GOAWAY) => Kind::GoAway,
            (TYPE_ONEWAY, _) => Kind::Oneway,
            _ => Kind::Request,
        }
    }

    /// Length of the fixed header itself.
    pub fn fixed_len(&self) -> usize {
        if self.is_response() { RESPONSE_LEN } else { REQUEST_LEN }
    }

    /// Length of the whole frame.
    pub fn frame_len(&self) -> u64 {
        self.content_start() as u64 + u64::from(self.content_len)
    }

    fn class_end(&self) -> usize {
        self.fixed_len() + usize::from(self.class_len)
    }

    fn content_start(&self) -> usize {
        self.class_end() + usize::from(self.header_len)
    }

    /// Where the class name is.
    pub fn class_range(&self) -> Range<usize> {
        self.fixed_len()..self.class_end()
    }

    /// Where the header block is.
    pub fn header_range(&self) -> Range<usize> {
        self.class_end()..self.content_start()
    }

    /// Where the content is.
    pub fn content_range(&self) -> Range<usize> {
        let start = self.content_start();
        start..start + self.content_len as usize
    }
}
