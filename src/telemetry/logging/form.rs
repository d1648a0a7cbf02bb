//! What a log line looks like.

use super::level::{Level, component_name};
use crate::telemetry::clock;
use std::fmt::Write as _;
use std::time::SystemTime;
use tracing::Metadata;

/// Envoy's own default.
const ENVOY: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// The form of a line.
#[derive(Clone, Debug)]
pub enum Form {
    /// Envoy's `--log-format`: `%Y %m %d %H %M %S %T` time, `%e %f %F` milli-, micro-, nanoseconds, `%l` level,
    /// `%n` component, `%t` thread, `%P` process, `%g %s` file, `%#` line, `%v %j` message. Anything else stands
    /// for itself.
    Envoy(String),
    /// MOSN's error log: `2006-01-02 15:04:05,7 [LEVEL] message`.
    Mosn,
}

impl Default for Form {
    fn default() -> Self {
        Form::Envoy(ENVOY.to_owned())
    }
}

impl Form {
    /// The line for an event, with its newline.
    pub(super) fn line(&self, metadata: &Metadata<'_>, time: SystemTime, message: &str) -> String {
        let mut line = String::with_capacity(message.len() + 96);
        match self {
            Form::Envoy(format) => envoy(&mut line, format, metadata, time, message),
            Form::Mosn => {
                let c = clock::civil(clock::millis_of(time));
                let level = Level::from(metadata.level()).mosn_word();
                let _ = write!(
                    line,
                    "{:04}-{:02}-{:02} {:02}:{:02}:{:02},{} [{level}] {message}",
                    c.year, c.month, c.day, c.hour, c.minute, c.second, c.millis
                );
            }
        }
        line.push('\n');
        line
    }
}

fn envoy(line: &mut String, format: &str, metadata: &Metadata<'_>, time: SystemTime, message: &str) {
    let c = clock::civil(clock::millis_of(time));
    let nanos = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let mut chars = format.chars();
    while let Some(ch) = chars.next() {
        if ch != '%' {
            line.push(ch);
            continue;
        }
        // Writing into a string cannot fail.
        let _ = match chars.next() {
            Some('Y') => write!(line, "{:04}", c.year),
            Some('m') => write!(line, "{:02}", c.month),
            Some('d') => write!(line, "{:02}", c.day),
            Some('H') => write!(line, "{:02}", c.hour),
            Some('M') => write!(line, "{:02}", c.minute),
            Some('S') => write!(line, "{:02}", c.second),
            Some('T') => write!(line, "{:02}:{:02}:{:02}", c.hour, c.minute, c.second),
            Some('e') => write!(line, "{:03}", c.millis),
            Some('f') => write!(line, "{:06}", nanos / 1000),
            Some('F') => write!(line, "{nanos:09}"),
            Some('l') => line.write_str(Level::from(metadata.level()).word()),
            Some('L') => line.write_str(Level::from(metadata.level()).word().get(..1).unwrap_or("")),
            Some('n') => line.write_str(component_name(metadata.target())),
            Some('t') => write!(line, "{}", thread()),
            Some('P') => write!(line, "{}", std::process::id()),
            Some('g') => line.write_str(metadata.file().unwrap_or("-")),
            Some('s') => line.write_str(metadata.file().and_then(|f| f.rsplit('/').next()).unwrap_or("-")),
            Some('#') => write!(line, "{}", metadata.line().unwrap_or(0)),
            Some('v' | 'j') => line.write_str(message),
            Some('%') => line.write_char('%'),
            Some(other) => write!(line, "%{other}"),
            None => line.write_char('%'),
        };
    }
}

/// The kernel's id of the calling thread, asked for once per thread.
fn thread() -> i32 {
    thread_local!(static ID: i32 = rustix::thread::gettid().as_raw_nonzero().get());
    ID.with(|id| *id)
}
