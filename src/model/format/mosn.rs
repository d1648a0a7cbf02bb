//! MOSN's access log variables → the same operators.

use super::time::TimeFormat;
use super::{Block, FormatError, Op, Piece, Unit};
use crate::message::{Fact, Moment, Point};

/// `%variable%` and text; `\%` is a percent sign. A variable that is unknown is written as `-`.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        let after = from.get(1..).unwrap_or_default();
        if let Some(before) = before.strip_suffix('\\') {
            plain.extend_from_slice(before.as_bytes());
            plain.push(b'%');
            rest = after;
            continue;
        }
        plain.extend_from_slice(before.as_bytes());
        let Some((name, after)) = after.split_once('%') else {
            return Err(FormatError(format!("no % ends the variable that begins at {from:?}")));
        };
        if name.is_empty() {
            return Err(FormatError("%% names no variable".to_owned()));
        }
        match variable(name)? {
            Some(op) => {
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
                }
                pieces.push(Piece::Op(op, None));
            }
            None => plain.push(b'-'),
        }
        rest = after;
    }
    plain.extend_from_slice(rest.as_bytes());
    plain.push(b'\n');
    pieces.push(Piece::Text(plain.into()));
    Ok(pieces)
}

fn variable(name: &str) -> Result<Option<Op>, FormatError> {
    let since = |point| Op::Elapsed(Point::RequestStart, point, Unit::Go);
    // bolt compares names with case: they stay as written.
    let header = |block, name: &str| Op::Header { block, name: name.into(), other: None, strip_query: false };
    let pseudo = |name: &str| header(Block::Request, name);
    let path =
        |name: &str| Op::Header { block: Block::Request, name: name.into(), other: None, strip_query: true };
    Ok(Some(match name {
        "start_time" => Op::Time(Moment::Start, TimeFormat::parse("%Y/%m/%d %H:%M:%S.%3f")?),
        "request_received_duration" => since(Point::RequestEnd),
        "response_received_duration" => since(Point::ResponseStart),
        "request_finished_duration" | "duration" => since(Point::SendEnd),
        "process_time_duration" => Op::OwnTime,
        "bytes_sent" => Op::Fact(Fact::BytesSent),
        "bytes_received" => Op::Fact(Fact::BytesReceived),
        "protocol" | "downstream_protocol" => Op::Fact(Fact::Protocol),
        "upstream_protocol" => Op::Fact(Fact::UpstreamProtocol),
        "response_code" | "x-mosn-status" => Op::Fact(Fact::ResponseCode),
        "response_flag" | "response_flags" => Op::AnyFlag,
        "upstream_transport_failure_reason" => Op::Fact(Fact::UpstreamTransportFailureReason),
        // MOSN means the chosen host by both.
        "upstream_local_address" => Op::Fact(Fact::UpstreamHost),
        "upstream_host" => Op::Fact(Fact::UpstreamHostName),
        "upstream_cluster" => Op::Fact(Fact::UpstreamClusterRaw),
        "downstream_local_address" => Op::Fact(Fact::DownstreamLocalAddress),
        "downstream_remote_address" => Op::Fact(Fact::DownstreamRemoteAddress),
        "connection_id" => Op::Fact(Fact::ConnectionId),
        "upstream_connection_id" => Op::Fact(Fact::UpstreamConnectionId),
        "stream_id" => Op::Fact(Fact::StreamId),
        "listener_name" => Op::Fact(Fact::ListenerName),
        "listener_port" => Op::Fact(Fact::ListenerPort),
        "trace_id" => header(Block::Request, "rpc_trace_context.sofaTraceId"),
        "x-mosn-rpc-service" => header(Block::Request, "service"),
        "x-mosn-rpc-method" => header(Block::Request, "sofa_head_method_name"),
        "request_method" | "x-mosn-method" | "Http1_request_method" => pseudo(":method"),
        "request_scheme" | "x-mosn-scheme" | "Http1_request_scheme" | "Http2_request_scheme" => {
            pseudo(":scheme")
        }
        "request_uri" | "Http1_request_uri" => pseudo(":path"),
        "request_path"
        | "x-mosn-path"
        | "Http1_request_path"
        | "Http1_request_path_original"
        | "x-mosn-path-original" => path(":path"),
        "authority" | "x-mosn-host" => pseudo(":authority"),
        _ => {
            let named = |prefixes: &[&str]| {
                let name = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
                name.filter(|name| !name.is_empty())
            };
            if let Some(name) = named(&["request_header_", "Http1_request_header_", "Http2_request_header_"])
            {
                header(Block::Request, name)
            } else if let Some(name) = named(&["response_header_"]) {
                header(Block::Response, name)
            } else if let Some(name) = named(&["request_arg_", "Http1_request_arg_"]) {
                Op::QueryParameter(name.into())
            } else {
                return Ok(None);
            }
        }
    }))
}
