//! Text of a format string → pieces.

use super::time::TimeFormat;
use super::{Block, FormatError, GrpcStyle, Op, Part, PathFrom, Piece, Unit};
use crate::message::{Fact, Moment, Point};

/// An operator as it stands in the text.
struct Call<'t> {
    name: &'t str,
    argument: Option<&'t str>,
    limit: Option<usize>,
}

pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, FormatError> {
    read(text, op)
}

/// With the operators that only make sense when a stream is over.
pub(super) fn log_pieces(text: &str) -> Result<Vec<Piece>, FormatError> {
    read(text, |call| match log_op(call)? {
        Some(op) => Ok(Made::Op(op)),
        None => op(call),
    })
}

fn read(text: &str, op: impl Fn(&Call<'_>) -> Result<Made, FormatError>) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        plain.push_str(before);
        let after = from.get(1..).unwrap_or_default();
        if let Some(after) = after.strip_prefix('%') {
            plain.push('%');
            rest = after;
            continue;
        }
        let (call, after) = call(after)
            .ok_or_else(|| FormatError(format!("no operator begins at {:?} (%% is a percent sign)", from)))?;
        flush(&mut plain, &mut pieces);
        match op(&call)? {
            Made::Op(op) => pieces.push(Piece::Op(op, call.limit)),
            Made::Text(value) => {
                let limit = call.limit.unwrap_or(usize::MAX);
                plain.extend(value.chars().take(limit));
            }
        }
        rest = after;
    }
    plain.push_str(rest);
    flush(&mut plain, &mut pieces);
    Ok(pieces)
}

fn flush(plain: &mut String, pieces: &mut Vec<Piece>) {
    if !plain.is_empty() {
        pieces.push(Piece::Text(std::mem::take(plain).into_bytes().into()));
    }
}

/// `NAME%`, `NAME(argument)%`, `NAME:limit%`, `NAME(argument):limit%`, and what follows it.
fn call(text: &str) -> Option<(Call<'_>, &str)> {
    let word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let end = text.find(|c| !word(c)).filter(|end| *end > 0)?;
    let (name, mut rest) = text.split_at(end);
    let mut argument = None;
    if let Some(inner) = rest.strip_prefix('(') {
        let (inside, after) = inner.split_once(')')?;
        argument = Some(inside);
        rest = after;
    }
    let mut limit = None;
    if let Some(inner) = rest.strip_prefix(':') {
        let (digits, _) = inner.split_once('%')?;
        limit = Some(digits.parse().ok()?);
        rest = inner.get(digits.len()..)?;
    }
    Some((Call { name, argument, limit }, rest.strip_prefix('%')?))
}

enum Made {
    Op(Op),
    /// Known already.
    Text(String),
}

fn op(call: &Call<'_>) -> Result<Made, FormatError> {
    let wrong = |why: &str| Err(FormatError(format!("%{}%: {why}", call.name)));
    let argument = call.argument.unwrap_or_default();
    let made = match call.name {
        "REQ" => header(Block::Request, argument, false),
        "REQ_WITHOUT_QUERY" => header(Block::Request, argument, true),
        "RESP" => header(Block::Response, argument, false),
        "TRAILER" => header(Block::Trailer, argument, false),
        "QUERY_PARAM" if !argument.is_empty() => Some(Op::QueryParameter(argument.into())),
        "PATH" => return path(argument).map(Made::Op),
        "START_TIME" => Some(Op::Time(Moment::Start, TimeFormat::parse(argument)?)),
        "EMIT_TIME" => Some(Op::Time(Moment::Emit, TimeFormat::parse(argument)?)),
        "GRPC_STATUS" => Some(Op::GrpcStatus(match argument {
            "" | "CAMEL_STRING" => GrpcStyle::Camel,
            "SNAKE_STRING" => GrpcStyle::Snake,
            "NUMBER" => GrpcStyle::Number,
            _ => return wrong("expected CAMEL_STRING, SNAKE_STRING or NUMBER"),
        })),
        "GRPC_STATUS_NUMBER" if call.argument.is_none() => Some(Op::GrpcStatus(GrpcStyle::Number)),
        "DYNAMIC_METADATA" => metadata(argument),
        "FILTER_STATE" => filter_state(argument)?,
        "ENVIRONMENT" if !argument.is_empty() => {
            return Ok(Made::Text(std::env::var(argument).unwrap_or_else(|_| "-".to_owned())));
        }
        name => match Fact::named(name) {
            Some(fact) if call.argument.is_none() => Some(Op::Fact(fact)),
            Some(_) => return wrong("takes no argument"),
            None => return wrong("no such operator here"),
        },
    };
    match made {
        Some(op) => Ok(Made::Op(op)),
        None => wrong("expected an argument, such as (name)"),
    }
}

/// An operator of logs only; `None`: it is none.
fn log_op(call: &Call<'_>) -> Result<Option<Op>, FormatError> {
    let wrong = |why: &str| Err(FormatError(format!("%{}%: {why}", call.name)));
    let argument = call.argument.unwrap_or_default();
    Ok(Some(match call.name {
        "COMMON_DURATION" => match common_duration(argument) {
            Some(op) => op,
            None => return wrong("expected (start:end:ms), with points such as DS_RX_BEG and us or ns"),
        },
        "REQUEST_HEADER" if !argument.is_empty() => return Ok(header(Block::Request, argument, false)),
        "RESPONSE_HEADER" if !argument.is_empty() => return Ok(header(Block::Response, argument, false)),
        "RESPONSE_TRAILER" if !argument.is_empty() => return Ok(header(Block::Trailer, argument, false)),
        "RESPONSE_CODE_DETAILS" if matches!(call.argument, Some("ALLOW_WHITESPACES")) => {
            Op::Fact(Fact::ResponseCodeDetails)
        }
        "TRACE_ID" if call.argument.is_none() => Op::TraceId,
        "UPSTREAM_FILTER_STATE" if !argument.is_empty() => Op::Absent,
        "METADATA" => match argument.strip_prefix("DYNAMIC:").and_then(metadata) {
            Some(op) => op,
            None => return wrong("only (DYNAMIC:namespace:key) is supported"),
        },
        _ => return Ok(None),
    }))
}

/// `DS_RX_BEG:DS_TX_END:us`.
fn common_duration(argument: &str) -> Option<Op> {
    let mut parts = argument.split(':');
    let point = |name: &str| {
        Some(match name {
            "DS_RX_BEG" => Point::RequestStart,
            "DS_RX_END" => Point::RequestEnd,
            "US_TX_BEG" => Point::UpstreamSendStart,
            "US_TX_END" => Point::UpstreamSendEnd,
            "US_RX_BEG" => Point::ResponseStart,
            "US_RX_END" => Point::ResponseEnd,
            "DS_TX_BEG" => Point::SendStart,
            "DS_TX_END" => Point::SendEnd,
            _ => return None,
        })
    };
    let (from, to) = (point(parts.next()?)?, point(parts.next()?)?);
    let unit = match parts.next() {
        None | Some("ms") => Unit::Milliseconds,
        Some("us") => Unit::Microseconds,
        Some("ns") => Unit::Nanoseconds,
        Some(_) => return None,
    };
    parts.next().is_none().then_some(Op::Elapsed(from, to, unit))
}

/// `name` or `name?other`.
fn header(block: Block, argument: &str, strip_query: bool) -> Option<Op> {
    let (name, other) = match argument.split_once('?') {
        Some((name, other)) => (name, Some(other)),
        None => (argument, None),
    };
    let lower = |name: &str| name.to_ascii_lowercase().into_boxed_str();
    (!name.is_empty()).then(|| Op::Header { block, name: lower(name), other: other.map(lower), strip_query })
}

fn path(argument: &str) -> Result<Op, FormatError> {
    let (query, from) = argument.split_once(':').unwrap_or((argument, ""));
    let query = match query {
        "" | "WQ" => Part::WithQuery,
        "NQ" => Part::WithoutQuery,
        "OQ" => Part::QueryOnly,
        other => return Err(FormatError(format!("%PATH%: {other:?}: expected WQ, NQ or OQ"))),
    };
    let from = match from {
        "" | "ORIG_OR_PATH" => PathFrom::OriginalOrPath,
        "ORIG" => PathFrom::Original,
        "PATH" => PathFrom::Path,
        other => {
            return Err(FormatError(format!("%PATH%: {other:?}: expected ORIG, PATH or ORIG_OR_PATH")));
        }
    };
    Ok(Op::Path { query, from })
}

/// `key`, `key:PLAIN`, `key:TYPED` or `key:FIELD:name`.
fn filter_state(argument: &str) -> Result<Option<Op>, FormatError> {
    let (key, form) = argument.split_once(':').unwrap_or((argument, "TYPED"));
    let plain = match form {
        "PLAIN" => true,
        "TYPED" => false,
        // Texts have no fields.
        field if field.starts_with("FIELD:") => return Ok(Some(Op::Absent)),
        other => {
            return Err(FormatError(format!("%FILTER_STATE%: {other:?}: expected PLAIN, TYPED or FIELD")));
        }
    };
    Ok((!key.is_empty()).then(|| Op::FilterState { key: key.into(), plain }))
}

/// `namespace:key:key…`
fn metadata(argument: &str) -> Option<Op> {
    let mut parts = argument.split(':');
    let namespace = parts.next().filter(|namespace| !namespace.is_empty())?;
    Some(Op::DynamicMetadata { namespace: namespace.into(), path: parts.map(Box::from).collect() })
}
