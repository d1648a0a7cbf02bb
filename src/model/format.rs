//! Format strings: text with `%OPERATORS%`, as header edits, direct responses and access logs use them.
//!
//! Parsed once, where the configuration's path is known; written against [`Facts`] as often as needed. Names
//! of operators are Envoy's; one that is unknown, or misused, is a [`FormatError`].

use super::access_log::end_string;
use crate::message::{Datum, Fact, Facts, Moment, Point};
use crate::util::duration::format_go;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

mod mosn;
mod parse;
mod time;

pub use time::TimeFormat;

/// A format string that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(String);

/// A parsed format string; equal when the text is.
#[derive(Clone, Debug)]
pub struct Format {
    text: Arc<str>,
    pieces: Arc<[Piece]>,
}

#[derive(Clone, Debug)]
pub(super) enum Piece {
    Text(Box<[u8]>),
    /// And the longest value it may give, in bytes.
    Op(Op, Option<usize>),
}

/// Which header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// The request's head.
    Request,
    /// The response's head.
    Response,
    /// The response's trailers.
    Trailer,
}

/// An operator with its argument.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Fact(Fact),
    /// The first header, or the second if there is none.
    Header {
        block: Block,
        name: Box<str>,
        other: Option<Box<str>>,
        strip_query: bool,
    },
    QueryParameter(Box<str>),
    /// `%PATH(…)%`.
    Path {
        query: Part,
        from: PathFrom,
    },
    Time(Moment, TimeFormat),
    GrpcStatus(GrpcStyle),
    DynamicMetadata {
        namespace: Box<str>,
        path: Box<[Box<str>]>,
    },
    FilterState {
        key: Box<str>,
        /// As it is, and not as JSON.
        plain: bool,
    },
    /// From one point of the stream's life to another.
    Elapsed(Point, Point, Unit),
    /// MOSN's `process_time_duration`: the whole stream's time without that of its upstream.
    OwnTime,
    /// MOSN's `response_flag`: whether any is set.
    AnyFlag,
    /// The id of the trace that the request's headers tell of.
    TraceId,
    /// Nothing leaves it here.
    Absent,
}

/// How a time span is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    Microseconds,
    Nanoseconds,
    /// As Go does: `1.25ms`.
    Go,
}

/// What of a path is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    WithQuery,
    WithoutQuery,
    QueryOnly,
}

/// Which path is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathFrom {
    OriginalOrPath,
    Original,
    Path,
}

/// How `%GRPC_STATUS%` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcStyle {
    Camel,
    Snake,
    Number,
}

impl Format {
    /// Parses `text`.
    ///
    /// # Errors
    /// A `%` that begins no operator, an operator that is unknown, or an argument it does not take.
    pub fn parse(text: &str) -> Result<Format, FormatError> {
        Ok(Format { text: text.into(), pieces: parse::pieces(text)?.into() })
    }

    /// As [`parse`](Self::parse), with the operators that only make sense when a stream is over.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_log(text: &str) -> Result<Format, FormatError> {
        Ok(Format { text: text.into(), pieces: parse::log_pieces(text)?.into() })
    }

    /// Parses a format of MOSN's access logs: `%variable%`, one line each.
    ///
    /// # Errors
    /// A variable without a name, or one that does not end.
    pub fn parse_mosn(text: &str) -> Result<Format, FormatError> {
        Ok(Format { text: text.into(), pieces: mosn::pieces(text)?.into() })
    }

    /// The text if there is no operator in it.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match &*self.pieces {
            [] => Some(b""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The operators without argument in it.
    pub fn facts(&self) -> impl Iterator<Item = Fact> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Op(Op::Fact(fact), _) => Some(*fact),
            _ => None,
        })
    }

    /// Calls `want` with every header that is asked for.
    pub(super) fn each_header(&self, want: &mut dyn FnMut(Block, &str)) {
        for piece in &*self.pieces {
            if let Piece::Op(op, _) = piece {
                op.each_header(want);
            }
        }
    }

    /// Appends the value as JSON: an operator that stands alone keeps its type, anything else is a string.
    /// `false`: it stands alone and is not known; nothing was written.
    pub(super) fn write_json(&self, facts: &dyn Facts, omit_empty: bool, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let [Piece::Op(op, limit)] = &*self.pieces else {
            out.push(b'"');
            self.write(facts, if omit_empty { b"" } else { b"-" }, out);
            end_string(start + 1, out);
            return true;
        };
        let numeric = op.is_number();
        if !numeric {
            out.push(b'"');
        }
        let from = out.len();
        let written = match op {
            // What it says is put in quotes here.
            Op::FilterState { key, .. } => {
                facts.filter_state(key).map(|text| out.extend(text.bytes())).is_some()
            }
            op => op.write(facts, out),
        };
        if !written {
            out.truncate(start);
            return false;
        }
        if let Some(limit) = limit {
            out.truncate(from.saturating_add(*limit).min(out.len()));
        }
        if matches!(op, Op::DynamicMetadata { .. }) && is_json(out.get(from..).unwrap_or_default()) {
            out.remove(start);
        } else if !numeric {
            end_string(from, out);
        }
        true
    }

    /// As configured.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Appends the value; what is not known becomes `missing` (`-` in logs, nothing in headers).
    pub fn write(&self, facts: &dyn Facts, missing: &[u8], out: &mut Vec<u8>) {
        for piece in &*self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Op(op, limit) => {
                    let start = out.len();
                    if !op.write(facts, out) {
                        out.extend_from_slice(missing);
                    }
                    if let Some(limit) = limit {
                        out.truncate(start.saturating_add(*limit).min(out.len()));
                    }
                }
            }
        }
    }
}

impl Op {
    fn write(&self, facts: &dyn Facts, out: &mut Vec<u8>) -> bool {
        let some = |value: Option<Cow<'_, [u8]>>, out: &mut Vec<u8>| match value {
            Some(value) => {
                out.extend_from_slice(&value);
                true
            }
            None => false,
        };
        match self {
            Op::Fact(fact) => facts.fact(*fact, out),
            Op::Header { block, name, other, strip_query } => {
                let read = |name: &str| block.header(facts, name);
                let value = read(name).or_else(|| other.as_deref().and_then(read));
                let value = value.map(|value| if *strip_query { without_query(value) } else { value });
                some(value, out)
            }
            Op::QueryParameter(name) => match facts.request_header(":path") {
                Some(path) => some(query_parameter(&path, name).map(Cow::Borrowed), out),
                None => false,
            },
            Op::Path { query, from } => {
                let original = || facts.request_header("x-envoy-original-path");
                let path = || facts.request_header(":path");
                let value = match from {
                    PathFrom::OriginalOrPath => original().or_else(path),
                    PathFrom::Original => original(),
                    PathFrom::Path => path(),
                };
                let value = match (value, query) {
                    (Some(value), Part::WithoutQuery) => Some(without_query(value)),
                    (Some(value), Part::QueryOnly) => query_only(&value),
                    (value, _) => value,
                };
                some(value, out)
            }
            Op::Time(moment, format) => match facts.time(*moment) {
                Some(time) => {
                    format.write(time, out);
                    true
                }
                None => false,
            },
            Op::GrpcStatus(style) => grpc_status(facts, *style, out),
            Op::DynamicMetadata { namespace, path } => facts.dynamic_metadata(namespace, path, out),
            Op::FilterState { key, plain } => match facts.filter_state(key) {
                Some(text) if *plain => {
                    out.extend_from_slice(text.as_bytes());
                    true
                }
                Some(text) => {
                    Datum::Text(text.to_owned()).write_json(out);
                    true
                }
                None => false,
            },
            Op::Elapsed(from, to, unit) => match (facts.elapsed(*from), facts.elapsed(*to)) {
                (Some(from), Some(to)) => {
                    unit.write(to.saturating_sub(from), out);
                    true
                }
                _ => false,
            },
            Op::OwnTime => {
                let Some(whole) = facts.elapsed(Point::SendEnd) else { return false };
                let upstream = facts.elapsed(Point::ResponseStart).zip(facts.elapsed(Point::RequestEnd));
                let upstream = upstream.map_or(Duration::ZERO, |(to, from)| to.saturating_sub(from));
                Unit::Go.write(whole.saturating_sub(upstream), out);
                true
            }
            Op::AnyFlag => {
                let start = out.len();
                let any = facts.fact(Fact::ResponseFlags, out) && out.get(start..) != Some(b"-");
                out.truncate(start);
                out.extend_from_slice(if any { b"true" } else { b"false" });
                true
            }
            Op::TraceId => trace_id(facts, out),
            Op::Absent => false,
        }
    }

    /// Whether its value is a number in JSON.
    fn is_number(&self) -> bool {
        match self {
            Op::Fact(fact) => fact.is_number(),
            Op::GrpcStatus(style) => *style == GrpcStyle::Number,
            Op::Elapsed(_, _, unit) => *unit != Unit::Go,
            _ => false,
        }
    }

    fn each_header(&self, want: &mut dyn FnMut(Block, &str)) {
        match self {
            Op::Header { block, name, other, .. } => {
                want(*block, name);
                other.iter().for_each(|other| want(*block, other));
            }
            Op::QueryParameter(_) => want(Block::Request, ":path"),
            Op::Path { .. } => {
                want(Block::Request, ":path");
                want(Block::Request, "x-envoy-original-path");
            }
            Op::GrpcStatus(_) => {
                want(Block::Request, "content-type");
                want(Block::Response, "grpc-status");
                want(Block::Trailer, "grpc-status");
            }
            Op::TraceId => {
                want(Block::Request, "traceparent");
                want(Block::Request, "x-b3-traceid");
            }
            Op::Fact(_)
            | Op::Time(..)
            | Op::DynamicMetadata { .. }
            | Op::FilterState { .. }
            | Op::Elapsed(..)
            | Op::OwnTime
            | Op::AnyFlag
            | Op::Absent => {}
        }
    }
}

impl Unit {
    fn write(self, time: Duration, out: &mut Vec<u8>) {
        match self {
            Unit::Milliseconds => push_number(time.as_millis(), out),
            Unit::Microseconds => push_number(time.as_micros(), out),
            Unit::Nanoseconds => push_number(time.as_nanos(), out),
            Unit::Go => out.extend_from_slice(format_go(time).as_bytes()),
        }
    }
}

fn push_number(number: u128, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{number}");
}

/// Whether filters left a value with a structure.
fn is_json(text: &[u8]) -> bool {
    matches!(text.first(), Some(b'{' | b'[')) && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

/// The second field of `traceparent` (W3C), else B3's header.
fn trace_id(facts: &dyn Facts, out: &mut Vec<u8>) -> bool {
    if let Some(parent) = facts.request_header("traceparent")
        && let Some(id) = parent.split(|byte| *byte == b'-').nth(1)
    {
        out.extend_from_slice(id);
        return true;
    }
    facts.request_header("x-b3-traceid").is_some_and(|id| {
        out.extend_from_slice(&id);
        true
    })
}

impl Block {
    fn header<'f>(self, facts: &'f dyn Facts, name: &str) -> Option<Cow<'f, [u8]>> {
        match self {
            Block::Request => facts.request_header(name),
            Block::Response => facts.response_header(name),
            Block::Trailer => facts.response_trailer(name),
        }
    }
}

fn without_query(value: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match value.iter().position(|b| *b == b'?') {
        Some(at) => value.get(..at).unwrap_or_default().to_vec().into(),
        None => value,
    }
}

fn query_only(value: &[u8]) -> Option<Cow<'static, [u8]>> {
    let at = value.iter().position(|b| *b == b'?')?;
    Some(value.get(at + 1..).unwrap_or_default().to_vec().into())
}

/// The first value of a parameter in a path with query, undecoded; empty for one without `=`.
pub(crate) fn query_parameter<'p>(path: &'p [u8], name: &str) -> Option<&'p [u8]> {
    let at = path.iter().position(|b| *b == b'?')?;
    let mut parts = path.get(at + 1..)?.split(|b| *b == b'&');
    parts.find_map(|part| {
        let end = part.iter().position(|b| *b == b'=').unwrap_or(part.len());
        (part.get(..end)? == name.as_bytes()).then(|| part.get(end + 1..).unwrap_or_default())
    })
}

const GRPC_NAMES: &[(&str, &str)] = &[
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// From trailers, else from a head that has it. Only of gRPC requests.
fn grpc_status(facts: &dyn Facts, style: GrpcStyle, out: &mut Vec<u8>) -> bool {
    let kind = facts.request_header("content-type");
    if !kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return false;
    }
    let name = "grpc-status";
    let Some(text) = facts.response_trailer(name).or_else(|| facts.response_header(name)) else {
        return false;
    };
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<usize>().ok());
    match (style, number.and_then(|number| GRPC_NAMES.get(number))) {
        (GrpcStyle::Camel, Some((camel, _))) => out.extend_from_slice(camel.as_bytes()),
        (GrpcStyle::Snake, Some((_, snake))) => out.extend_from_slice(snake.as_bytes()),
        _ => out.extend_from_slice(&text),
    }
    true
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
