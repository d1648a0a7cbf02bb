//! Access logs: sinks, formats and filters.

use super::extension::{Extension, value_to_json};
use super::http_filters::dynamic_metadata;
use super::values::{enumeration, not_empty, positive};
use super::{local_reply, matchers};
use crate::message::Flags;
use crate::model::{
    AccessLog, AccessLogs, Comparison, Expr, Format, Fraction, JsonNode, JsonTemplate, LogFilter, LogFormat,
    LogKind, LogMoments, LogSink, Op,
};
use crate::proto::envoy::config::accesslog::v3 as pb;
use crate::proto::envoy::config::core::v3::{SubstitutionFormatString, data_source};
use crate::proto::envoy::data::accesslog::v3::AccessLogType;
use crate::proto::envoy::extensions::access_loggers::file::v3 as file;
use crate::proto::envoy::extensions::access_loggers::filters::cel::v3 as cel;
use crate::proto::envoy::extensions::access_loggers::stream::v3 as stream;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use crate::proto::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use crate::proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use crate::proto::message_name;
use crate::telemetry::files;
use crate::translate::finding::{Findings, Path};
use prost_types::Struct;
use serde_json::Value as Json;
use std::sync::Arc;
use std::time::Duration;

/// Envoy's own.
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Loggers that send lines to other services: accepted, and left for later.
const REMOTE: &[&str] = &[
    "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
    "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
    "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
];

/// The logs of a listener or filter.
pub(super) fn logs(path: &Path<'_>, list: &[pb::AccessLog], out: &mut Findings) -> Arc<AccessLogs> {
    let read = list.iter().enumerate().filter_map(|(i, log)| one(&path.index(i), log, out));
    Arc::new(AccessLogs::new(read.collect()))
}

/// Those of a connection manager, and what its own answers become.
pub(super) fn of_manager(
    path: &Path<'_>,
    manager: &hcm::HttpConnectionManager,
    out: &mut Findings,
) -> Arc<AccessLogs> {
    let at = path.name("access_log");
    let list = manager.access_log.iter().enumerate();
    let logs = list.filter_map(|(i, log)| one(&at.index(i), log, out)).collect();
    let replies = manager.local_reply_config.as_ref();
    let replies =
        replies.and_then(|config| local_reply::replies(&path.name("local_reply_config"), config, out));
    let more = match &manager.access_log_options {
        None => LogMoments::default(),
        Some(options) => {
            let at = path.name("access_log_options");
            let every = options.access_log_flush_interval.as_ref();
            LogMoments {
                start: options.flush_access_log_on_new_request,
                every: every
                    .map(|_| positive(&at.name("access_log_flush_interval"), every, Duration::MAX, out)),
                tunnel: options.flush_log_on_tunnel_successfully_established,
            }
        }
    };
    Arc::new(AccessLogs::of_manager(logs, replies, more))
}

fn one(path: &Path<'_>, log: &pb::AccessLog, out: &mut Findings) -> Option<AccessLog> {
    let filter = match &log.filter {
        Some(filter) => Some(log_filter(&path.name("filter"), filter, out)?),
        None => None,
    };
    let at = path.name("typed_config");
    let Some(pb::access_log::ConfigType::TypedConfig(any)) = &log.config_type else {
        out.bad(&at, &log.name, "access loggers are known by type, but there is none");
        return None;
    };
    let extension = Extension::open(&at, any, out)?;
    let (sink, format) = if extension.is::<file::FileAccessLog>() {
        let config: file::FileAccessLog = extension.decode(&at, out)?;
        let name = not_empty(&at.name("path"), &config.path, out);
        let sink = LogSink::of(&name);
        // Whether a file can be opened is for the machine to say.
        out.looked_outside();
        if let Err(error) = files::probe(&sink) {
            out.bad(&at.name("path"), &name, format_args!("cannot be opened: {error}"));
        }
        (sink, file_format(&at, &config, out)?)
    } else if extension.is::<stream::StdoutAccessLog>() {
        use stream::stdout_access_log::AccessLogFormat::LogFormat;
        let config: stream::StdoutAccessLog = extension.decode(&at, out)?;
        let format = config.access_log_format.as_ref().map(|LogFormat(format)| format);
        (LogSink::Stdout, substitution(&at.name("log_format"), format, out)?)
    } else if extension.is::<stream::StderrAccessLog>() {
        use stream::stderr_access_log::AccessLogFormat::LogFormat;
        let config: stream::StderrAccessLog = extension.decode(&at, out)?;
        let format = config.access_log_format.as_ref().map(|LogFormat(format)| format);
        (LogSink::Stderr, substitution(&at.name("log_format"), format, out)?)
    } else if REMOTE.contains(&message_name(&extension.type_url)) {
        out.note(path);
        return None;
    } else {
        let why = "this access logger is not supported (nearest valid: FileAccessLog, StdoutAccessLog)";
        out.bad(&at, &extension.type_url, why);
        return None;
    };
    Some(AccessLog { sink, format, filter })
}

fn file_format(path: &Path<'_>, config: &file::FileAccessLog, out: &mut Findings) -> Option<LogFormat> {
    use file::file_access_log::AccessLogFormat as Kind;
    match &config.access_log_format {
        None => substitution(path, None, out),
        Some(Kind::LogFormat(format)) => substitution(&path.name("log_format"), Some(format), out),
        Some(Kind::Format(text)) => plain(&path.name("format"), text, false, out),
        Some(Kind::JsonFormat(fields)) => json(&path.name("json_format"), fields, false, out),
        Some(Kind::TypedJsonFormat(fields)) => json(&path.name("typed_json_format"), fields, false, out),
    }
}

pub(super) fn substitution(
    path: &Path<'_>,
    format: Option<&SubstitutionFormatString>,
    out: &mut Findings,
) -> Option<LogFormat> {
    use crate::proto::envoy::config::core::v3::substitution_format_string::Format as Kind;
    let Some(format) = format else { return plain(path, DEFAULT, false, out) };
    let at = path.name("formatters");
    for (i, formatter) in format.formatters.iter().enumerate() {
        let at = at.index(i);
        let at = at.name("typed_config");
        let Some(any) = &formatter.typed_config else { continue };
        if let Some(extension) = Extension::open(&at, any, out)
            && !extension.is::<ReqWithoutQuery>()
        {
            let why = "this formatter is not supported (nearest valid: ReqWithoutQuery)";
            out.bad(&at, &extension.type_url, why);
        }
    }
    let omit = format.omit_empty_values;
    match &format.format {
        Some(Kind::TextFormat(text)) => plain(&path.name("text_format"), text, omit, out),
        Some(Kind::JsonFormat(fields)) => json(&path.name("json_format"), fields, omit, out),
        Some(Kind::TextFormatSource(source)) => {
            let at = path.name("text_format_source");
            let text = match &source.specifier {
                Some(data_source::Specifier::InlineString(text)) => text.clone(),
                Some(data_source::Specifier::InlineBytes(bytes)) => {
                    String::from_utf8_lossy(bytes).into_owned()
                }
                _ => {
                    out.bad(&at, "", "must be written here (nearest valid: inline_string)");
                    return None;
                }
            };
            plain(&at, &text, omit, out)
        }
        None => {
            out.bad(path, "", "no format (one of text_format_source, json_format)");
            None
        }
    }
}

fn plain(path: &Path<'_>, text: &str, omit_empty: bool, out: &mut Findings) -> Option<LogFormat> {
    format(path, text, out).map(|format| LogFormat::Text { format, omit_empty })
}

fn format(path: &Path<'_>, text: &str, out: &mut Findings) -> Option<Format> {
    Format::parse_log(text).map_err(|error| out.bad(path, text, error)).ok()
}

fn json(path: &Path<'_>, fields: &Struct, omit_empty: bool, out: &mut Findings) -> Option<LogFormat> {
    let read = object(path, fields, omit_empty, out)?;
    Some(LogFormat::Json(read))
}

fn object(path: &Path<'_>, fields: &Struct, omit: bool, out: &mut Findings) -> Option<JsonTemplate> {
    let mut read = Vec::with_capacity(fields.fields.len());
    for (key, value) in &fields.fields {
        read.push((key.clone(), node(&path.key(key), value, omit, out)?));
    }
    Some(JsonTemplate::new(read, omit))
}

fn node(path: &Path<'_>, value: &prost_types::Value, omit: bool, out: &mut Findings) -> Option<JsonNode> {
    use prost_types::value::Kind;
    Some(match &value.kind {
        Some(Kind::StructValue(fields)) => JsonNode::Object(object(path, fields, omit, out)?),
        Some(Kind::ListValue(list)) => {
            let items = list.values.iter().enumerate().map(|(i, item)| node(&path.index(i), item, omit, out));
            JsonNode::List(items.collect::<Option<_>>()?)
        }
        Some(Kind::StringValue(text)) => {
            let format = format(path, text, out)?;
            match format.as_literal().map(String::from_utf8_lossy) {
                Some(text) => JsonNode::text(&text),
                None => JsonNode::Format(format),
            }
        }
        _ => {
            let fixed: Json = value_to_json(value);
            JsonNode::Fixed(fixed.to_string().into_bytes().into())
        }
    })
}

pub(super) fn log_filter(
    path: &Path<'_>,
    filter: &pb::AccessLogFilter,
    out: &mut Findings,
) -> Option<LogFilter> {
    use pb::access_log_filter::FilterSpecifier as Kind;
    let unsupported = |name: &str, out: &mut Findings| {
        out.bad(&path.name(name), "", "this access log filter is not supported (leave it out)");
        None
    };
    Some(match &filter.filter_specifier {
        Some(Kind::StatusCodeFilter(filter)) => {
            LogFilter::Status(comparison(&path.name("status_code_filter"), filter.comparison.as_ref(), out)?)
        }
        Some(Kind::DurationFilter(filter)) => {
            LogFilter::Duration(comparison(&path.name("duration_filter"), filter.comparison.as_ref(), out)?)
        }
        Some(Kind::NotHealthCheckFilter(_)) => LogFilter::NotHealthCheck,
        Some(Kind::TraceableFilter(_)) => LogFilter::Traceable,
        Some(Kind::RuntimeFilter(filter)) => runtime(&path.name("runtime_filter"), filter, out)?,
        Some(Kind::AndFilter(list)) => LogFilter::And(all(&path.name("and_filter"), &list.filters, out)?),
        Some(Kind::OrFilter(list)) => LogFilter::Or(all(&path.name("or_filter"), &list.filters, out)?),
        Some(Kind::HeaderFilter(filter)) => {
            let at = path.name("header_filter");
            let Some(header) = &filter.header else {
                out.bad(&at.name("header"), "", "is required");
                return None;
            };
            LogFilter::Header(matchers::header(&at.name("header"), header, out)?)
        }
        Some(Kind::ResponseFlagFilter(filter)) => {
            flags(&path.name("response_flag_filter"), &filter.flags, out)
        }
        Some(Kind::GrpcStatusFilter(filter)) => {
            let codes =
                filter.statuses.iter().filter_map(|code| 1u32.checked_shl(u32::try_from(*code).ok()?));
            LogFilter::GrpcStatus { codes: codes.fold(0, |set, bit| set | bit), exclude: filter.exclude }
        }
        Some(Kind::LogTypeFilter(filter)) => kinds(&path.name("log_type_filter"), filter, out),
        Some(Kind::ExtensionFilter(filter)) => {
            let at = path.name("extension_filter");
            let at = at.name("typed_config");
            let Some(pb::extension_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
                return unsupported("extension_filter", out);
            };
            let extension = Extension::open(&at, any, out)?;
            if !extension.is::<cel::ExpressionFilter>() {
                let why = "this access log filter is not supported (nearest valid: ExpressionFilter)";
                out.bad(&at, &extension.type_url, why);
                return None;
            }
            let config: cel::ExpressionFilter = extension.decode(&at, out)?;
            let read = Expr::parse(&config.expression);
            let said = |why| out.bad(&at.name("expression"), &config.expression, why);
            LogFilter::Expression(read.map_err(said).ok()?)
        }
        Some(Kind::MetadataFilter(filter)) => {
            let at = path.name("metadata_filter");
            let matcher = match &filter.matcher {
                Some(matcher) => Some(dynamic_metadata(&at.name("matcher"), matcher, out)?),
                None => None,
            };
            LogFilter::Metadata { matcher, absent: filter.match_if_key_not_found.unwrap_or(true) }
        }
        None => {
            out.bad(path, "", "no filter in it (leave it out for every stream)");
            return None;
        }
    })
}

fn all(path: &Path<'_>, list: &[pb::AccessLogFilter], out: &mut Findings) -> Option<Vec<LogFilter>> {
    let at = path.name("filters");
    if list.len() < 2 {
        out.bad(&at, list.len(), "must be two at least");
    }
    list.iter().enumerate().map(|(i, filter)| log_filter(&at.index(i), filter, out)).collect()
}

/// Its value is what holds while runtime does not say otherwise.
fn comparison(
    path: &Path<'_>,
    filter: Option<&pb::ComparisonFilter>,
    out: &mut Findings,
) -> Option<Comparison> {
    use pb::comparison_filter::Op as Kind;
    let at = path.name("comparison");
    let Some(filter) = filter else {
        out.bad(&at, "", "is required");
        return None;
    };
    let op = match enumeration(&at.name("op"), filter.op, out)? {
        Kind::Eq => Op::Equal,
        Kind::Ge => Op::AtLeast,
        Kind::Le => Op::AtMost,
        Kind::Ne => Op::NotEqual,
    };
    let value = filter.value.as_ref();
    let runtime_key = value.map(|value| value.runtime_key.clone()).unwrap_or_default();
    Some(Comparison { op, value: value.map_or(0, |value| value.default_value), runtime_key })
}

fn runtime(path: &Path<'_>, filter: &pb::RuntimeFilter, out: &mut Findings) -> Option<LogFilter> {
    let runtime_key = not_empty(&path.name("runtime_key"), &filter.runtime_key, out);
    let percent = filter.percent_sampled.unwrap_or_default();
    let at = path.name("percent_sampled");
    let denominator = match enumeration(&at.name("denominator"), percent.denominator, out)? {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    let share = Fraction { numerator: percent.numerator, denominator, runtime_key };
    Some(LogFilter::Runtime { share, independent: filter.use_independent_randomness })
}

fn flags(path: &Path<'_>, names: &[String], out: &mut Findings) -> LogFilter {
    let mut set = Flags::default();
    for (i, name) in names.iter().enumerate() {
        match Flags::named(name) {
            Some(flag) => set.add(flag),
            None => out.bad(&path.name("flags").index(i), name, "no such response flag"),
        }
    }
    LogFilter::Flags(set)
}

fn kinds(path: &Path<'_>, filter: &pb::LogTypeFilter, out: &mut Findings) -> LogFilter {
    let mut kinds = Vec::new();
    for (i, kind) in filter.types.iter().enumerate() {
        match enumeration(&path.name("types").index(i), *kind, out) {
            Some(AccessLogType::NotSet) => kinds.push(LogKind::NotSet),
            Some(AccessLogType::TcpConnectionEnd) => kinds.push(LogKind::TcpConnectionEnd),
            Some(AccessLogType::DownstreamEnd) => kinds.push(LogKind::DownstreamEnd),
            Some(AccessLogType::DownstreamStart) => kinds.push(LogKind::DownstreamStart),
            Some(AccessLogType::DownstreamPeriodic) => kinds.push(LogKind::DownstreamPeriodic),
            Some(AccessLogType::DownstreamTunnelSuccessfullyEstablished) => {
                kinds.push(LogKind::DownstreamTunnelSuccessfullyEstablished);
            }
            // Lines of these kinds are never written.
            Some(_) | None => {}
        }
    }
    LogFilter::Kinds { kinds, exclude: filter.exclude }
}
