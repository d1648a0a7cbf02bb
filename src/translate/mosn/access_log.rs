//! `access_logs` of a listener, and when log files are rotated.

use super::read::{Context, Object};
use crate::model::{AccessLog, AccessLogs, Format, LogFormat, LogRoller, LogSink};
use std::sync::Arc;

/// MOSN's own.
const DEFAULT: &str = "%start_time% %trace_id%  %connection_id% %upstream_connection_id% \
    %request_received_duration% %response_received_duration% %bytes_sent% %bytes_received% %protocol% \
    %response_code% %duration% %response_flag% %response_code% %upstream_local_address% \
    %downstream_local_address% %downstream_remote_address% %upstream_host%";

/// The logs of `listener`, whose name is `name`.
pub(super) fn logs(ctx: &mut Context<'_>, listener: &mut Object<'_>, name: &str) -> Arc<AccessLogs> {
    let mut read = Vec::new();
    for mut log in listener.objects(ctx, "access_logs") {
        let path = log.text(ctx, "log_path").filter(|path| !path.is_empty());
        let sink = match path {
            Some(path) => sink(ctx, &log.at("log_path"), path),
            None => Some(LogSink::File(format!("logs/{name}_access.log"))),
        };
        let at = log.at("log_format");
        let text = log.text(ctx, "log_format").filter(|text| !text.is_empty()).unwrap_or(DEFAULT);
        let format = match Format::parse_mosn(text) {
            Ok(format) => Some(LogFormat::Text { format, omit_empty: false }),
            Err(error) => {
                ctx.error(&at, format!("{text:?}"), error.to_string());
                None
            }
        };
        log.finish(ctx);
        if let (Some(sink), Some(format)) = (sink, format) {
            read.push(AccessLog { sink, format, filter: None });
        }
    }
    Arc::new(AccessLogs::new(read))
}

fn sink(ctx: &mut Context<'_>, at: &str, path: &str) -> Option<LogSink> {
    match path {
        "stdout" => Some(LogSink::Stdout),
        "stderr" => Some(LogSink::Stderr),
        path if path == "syslog" || path.starts_with("syslog:") || path.starts_with("syslog+") => {
            ctx.error(at, path, "syslog comes later; expected a file, stdout or stderr");
            None
        }
        path => Some(LogSink::of(path)),
    }
}

/// `global_log_roller`; once a day if absent.
pub(super) fn roller(ctx: &mut Context<'_>, server: &mut Object<'_>) -> LogRoller {
    let text = server.text(ctx, "global_log_roller").unwrap_or_default();
    LogRoller::parse(text).unwrap_or_else(|error| {
        ctx.error(&server.at("global_log_roller"), format!("{text:?}"), error.to_string());
        LogRoller::default()
    })
}
