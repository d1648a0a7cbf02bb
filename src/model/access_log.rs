//! Access logs: where a line goes, what it looks like, and which streams get one.

use super::runtime::number_now;
use super::{Block, Expr, Format, Fraction, HeaderMatch, MetadataMatch};
use crate::message::{Fact, Flags};
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;
use std::time::Duration;

mod json;
mod replies;
mod roller;

pub(super) use json::end_string;
pub use json::{JsonNode, JsonTemplate};
pub use replies::{LocalReplies, ReplyFormat, ReplyMapper};
pub use roller::{LogRoller, RollerError};

/// One log of a listener or filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccessLog {
    /// Where its lines go.
    pub sink: LogSink,
    /// What a line looks like.
    pub format: LogFormat,
    /// Which streams get one; `None` all.
    pub filter: Option<LogFilter>,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum LogSink {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
    /// Appended to; folders on the way are made.
    File(String),
}

impl LogSink {
    /// By path; those of the standard streams mean the descriptors: opening them anew fails where another user
    /// owns them.
    pub fn of(path: &str) -> LogSink {
        match path {
            "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => LogSink::Stdout,
            "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => LogSink::Stderr,
            path => LogSink::File(path.to_owned()),
        }
    }
}

/// What a line looks like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum LogFormat {
    /// Text, line end included. `omit_empty`: what is not known is nothing, else `-`.
    Text { format: Format, omit_empty: bool },
    /// One JSON object a line.
    Json(JsonTemplate),
}

/// Which streams get a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum LogFilter {
    /// By the response's status, 0 if there was none.
    Status(Comparison),
    /// By the stream's milliseconds.
    Duration(Comparison),
    /// Not health checks that a filter answered.
    NotHealthCheck,
    /// Those that are traced.
    Traceable,
    /// A share; `independent`: drawn anew, else by the request's id, the same on every hop.
    Runtime { share: Fraction, independent: bool },
    /// All of these.
    And(Vec<LogFilter>),
    /// One of these.
    Or(Vec<LogFilter>),
    /// By a header of the request.
    Header(HeaderMatch),
    /// Those with one of these flags; of an empty set, any flag.
    Flags(#[serde(serialize_with = "flag_names")] Flags),
    /// By gRPC status: bit `n` stands for status `n`. `exclude`: none of these.
    GrpcStatus { codes: u32, exclude: bool },
    /// By what filters left; `absent`: what holds where they left nothing.
    Metadata { matcher: Option<MetadataMatch>, absent: bool },
    /// By the kind of line.
    Kinds { kinds: Vec<LogKind>, exclude: bool },
    /// By an expression that has to be true.
    Expression(Expr),
}

/// A number compared with a configured one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// How.
    pub op: Op,
    /// With what.
    pub value: u32,
    /// What runtime says for this key holds instead; empty: none.
    pub runtime_key: String,
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Op {
    Equal,
    AtLeast,
    AtMost,
    NotEqual,
}

impl Comparison {
    /// Whether `number` satisfies it.
    pub fn holds(&self, number: u64) -> bool {
        let said = if self.runtime_key.is_empty() { None } else { number_now(&self.runtime_key) };
        let value = said.filter(|said| *said >= 0.0).map_or(u64::from(self.value), |said| said as u64);
        match self.op {
            Op::Equal => number == value,
            Op::AtLeast => number >= value,
            Op::AtMost => number <= value,
            Op::NotEqual => number != value,
        }
    }
}

/// The kinds of lines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum LogKind {
    /// A connection's, from its listener.
    NotSet,
    /// The end of a raw connection.
    TcpConnectionEnd,
    /// The end of a stream.
    DownstreamEnd,
    /// The head of a request has come.
    DownstreamStart,
    /// A stream goes on.
    DownstreamPeriodic,
    /// An upstream has agreed to another protocol.
    DownstreamTunnelSuccessfullyEstablished,
}

impl LogKind {
    /// Envoy's word.
    pub fn word(self) -> &'static str {
        match self {
            LogKind::NotSet => "NotSet",
            LogKind::TcpConnectionEnd => "TcpConnectionEnd",
            LogKind::DownstreamEnd => "DownstreamEnd",
            LogKind::DownstreamStart => "DownstreamStart",
            LogKind::DownstreamPeriodic => "DownstreamPeriodic",
            LogKind::DownstreamTunnelSuccessfullyEstablished => "DownstreamTunnelSuccessfullyEstablished",
        }
    }
}

/// The logs of one listener or filter, and the headers they ask for; nothing else is kept of a head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessLogs {
    logs: Box<[AccessLog]>,
    /// What becomes of answers of the proxy's own; asks for headers as the logs do.
    replies: Option<Box<LocalReplies>>,
    /// When there are lines before the last.
    more: LogMoments,
    request: Box<[Box<str>]>,
    response: Box<[Box<str>]>,
    trailers: Box<[Box<str>]>,
    /// Some name of a request's header has an upper-case letter.
    mixed: bool,
    /// A bit for each fact that is asked for.
    facts: u128,
}

impl AccessLogs {
    /// Collects the names `logs` ask for.
    pub fn new(logs: Vec<AccessLog>) -> Self {
        AccessLogs::of_manager(logs, None, LogMoments::default())
    }

    /// Those of a connection manager, with what its own answers become.
    pub fn of_manager(logs: Vec<AccessLog>, replies: Option<LocalReplies>, more: LogMoments) -> Self {
        let mut names = [(); 3].map(|()| BTreeSet::new());
        let mut facts = 0;
        let mut ask = |fact: Fact| facts |= 1u128 << fact as u32;
        let mut want = |block: Block, name: &str| {
            if let Some(set) = names.get_mut(block as usize) {
                set.insert(Box::<str>::from(name));
            }
        };
        for log in &logs {
            log.format.each(&mut ask, &mut want);
            if let Some(filter) = &log.filter {
                filter.each_header(&mut want);
                if filter.has_expression() {
                    ask(Fact::UpstreamTlsVersion);
                }
            }
        }
        if let Some(replies) = &replies {
            replies.each(&mut ask, &mut want);
        }
        let [request, response, trailers] = names.map(|set| set.into_iter().collect());
        let (logs, replies) = (logs.into(), replies.map(Box::new));
        let request: Box<[Box<str>]> = request;
        let mixed = request.iter().any(|name| name.bytes().any(|byte| byte.is_ascii_uppercase()));
        AccessLogs { logs, replies, more, request, response, trailers, mixed, facts }
    }

    /// Whether the names of request headers that are asked for are in lower case.
    pub fn names_are_lower(&self) -> bool {
        !self.mixed
    }

    /// What becomes of answers of the proxy's own.
    pub fn replies(&self) -> Option<&LocalReplies> {
        self.replies.as_deref()
    }

    /// When there are lines before the last.
    pub fn moments(&self) -> LogMoments {
        if self.logs.is_empty() { LogMoments::default() } else { self.more }
    }

    /// The logs, in configured order.
    pub fn iter(&self) -> impl Iterator<Item = &AccessLog> {
        self.logs.iter()
    }

    /// Whether there is nothing to keep anything for.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty() && self.replies.is_none()
    }

    /// Whether a format asks for `fact`, or for a number that has it in it.
    pub fn asks(&self, fact: Fact) -> bool {
        let own = [fact];
        let parts: &[Fact] = match fact {
            Fact::RequestHeadersBytes => &[
                Fact::RequestHeadersBytes,
                Fact::DownstreamHeaderBytesReceived,
                Fact::UpstreamHeaderBytesSent,
                Fact::DownstreamWireBytesReceived,
                Fact::UpstreamWireBytesSent,
            ],
            Fact::ResponseHeadersBytes => &[
                Fact::ResponseHeadersBytes,
                Fact::DownstreamHeaderBytesSent,
                Fact::UpstreamHeaderBytesReceived,
                Fact::DownstreamWireBytesSent,
                Fact::UpstreamWireBytesReceived,
            ],
            Fact::ResponseTrailersBytes => {
                &[Fact::ResponseTrailersBytes, Fact::DownstreamWireBytesSent, Fact::UpstreamWireBytesReceived]
            }
            _ => &own,
        };
        self.asks_any(parts)
    }

    /// Whether a format asks for one of these.
    #[inline]
    pub fn asks_any(&self, facts: &[Fact]) -> bool {
        self.facts & bits(facts) != 0
    }

    /// The headers of a block that the logs ask for, sorted.
    pub fn wanted(&self, block: Block) -> &[Box<str>] {
        match block {
            Block::Request => &self.request,
            Block::Response => &self.response,
            Block::Trailer => &self.trailers,
        }
    }
}

impl Serialize for AccessLogs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.logs.serialize(serializer)
    }
}

/// When a stream's logs get lines before the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogMoments {
    /// As soon as a request's head has come.
    pub start: bool,
    /// This often while a response is under way.
    pub every: Option<Duration>,
    /// As soon as an upstream has agreed to another protocol.
    pub tunnel: bool,
}

impl LogFormat {
    /// Calls `ask` with every fact and `want` with every header that it has.
    fn each(&self, ask: &mut dyn FnMut(Fact), want: &mut dyn FnMut(Block, &str)) {
        match self {
            LogFormat::Text { format, .. } => {
                format.facts().for_each(&mut *ask);
                format.each_header(want);
            }
            LogFormat::Json(template) => {
                template.each_fact(&mut *ask);
                template.each_header(&mut *want);
            }
        }
    }
}

#[inline]
fn bits(facts: &[Fact]) -> u128 {
    facts.iter().fold(0, |bits, fact| bits | 1 << *fact as u32)
}

impl LogFilter {
    /// Whether some part of it may ask for what no format does.
    fn has_expression(&self) -> bool {
        match self {
            LogFilter::And(all) | LogFilter::Or(all) => all.iter().any(LogFilter::has_expression),
            LogFilter::Expression(_) => true,
            _ => false,
        }
    }

    fn each_header(&self, want: &mut dyn FnMut(Block, &str)) {
        match self {
            LogFilter::And(all) | LogFilter::Or(all) => all.iter().for_each(|one| one.each_header(want)),
            LogFilter::Header(header) => want(Block::Request, &header.name),
            LogFilter::GrpcStatus { .. } => {
                want(Block::Response, "grpc-status");
                want(Block::Trailer, "grpc-status");
            }
            LogFilter::Traceable | LogFilter::Runtime { .. } => want(Block::Request, "x-request-id"),
            LogFilter::Expression(expr) => expr.each_header(want),
            LogFilter::Status(_)
            | LogFilter::Duration(_)
            | LogFilter::NotHealthCheck
            | LogFilter::Flags(_)
            | LogFilter::Metadata { .. }
            | LogFilter::Kinds { .. } => {}
        }
    }
}

fn flag_names<S: Serializer>(flags: &Flags, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(flags.names().map(|(short, _)| short))
}
