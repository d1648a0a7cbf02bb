//! The process log.
//!
//! Owns the levels per component, the line forms and the writer thread. Takes in `tracing` events from every
//! thread; a line is formatted where it happens and queued, at most [`QUEUE`] lines: when the writer cannot
//! keep up lines are dropped and counted, a worker never waits for a disk or a pipe.
//! Gives out the level table the admin shows and changes. At the default level a disabled event costs one
//! load: call sites are told anew whenever a level changes.

mod flood;
mod form;
mod level;
mod sink;

pub use form::Form;
pub use level::{Level, UnknownComponent, levels, set_all, set_level};
pub use sink::{DROPPED, Destination, QUEUE, flush, reopen, set_enabled};

use super::metric::{Sample, StatGroup, Value};
use std::fmt::Write as _;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// How the process log starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where lines go.
    pub destination: Destination,
    /// What a line looks like.
    pub form: Form,
    /// Level of every component …
    pub level: Level,
    /// … but for these.
    pub components: Vec<(String, Level)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            destination: Destination::Stderr,
            form: Form::default(),
            level: Level::Info,
            components: Vec::new(),
        }
    }
}

/// Why the log cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error("log file {path}: {source}")]
    Open { path: String, source: std::io::Error },
    /// A level was given for something that is no component.
    #[error(transparent)]
    Component(#[from] UnknownComponent),
    /// It has been started before.
    #[error("the process log is already running")]
    Running,
}

/// Starts the log; once per process.
///
/// # Errors
/// The file cannot be opened, a component is unknown, or the log already runs.
pub fn init(options: Options) -> Result<(), Error> {
    set_all(options.level);
    for (component, level) in &options.components {
        set_level(component, *level)?;
    }
    sink::start(options.destination)?;
    let subscriber = tracing_subscriber::registry().with(Lines { form: options.form });
    tracing::subscriber::set_global_default(subscriber).map_err(|_| Error::Running)
}

/// Turns events into lines.
struct Lines {
    form: Form,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if level::enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        level::enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(level::most_verbose())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut left_out = 0;
        // Who asks for debug lines wants all of them; what the writer cannot take is counted there.
        if *event.metadata().level() <= tracing::Level::INFO {
            match flood::admit(event.metadata().callsite(), std::time::Instant::now()) {
                Some(count) => left_out = count,
                None => return,
            }
        }
        let mut message = Message(String::with_capacity(128));
        event.record(&mut message);
        if left_out > 0 {
            // Writing into a string cannot fail.
            let _ = write!(message.0, " ({left_out} like it left out)");
        }
        sink::send(self.form.line(event.metadata(), std::time::SystemTime::now(), &message.0));
    }
}

/// The message, then ` name=value` per field, on one line whatever the values hold.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut out = OneLine(&mut self.0);
        // Writing into a string cannot fail; a Debug that fails leaves a shorter line.
        let _ = match field.name() {
            "message" => write!(out, "{value:?}"),
            name => write!(out, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(OneLine(&mut self.0), " {}={value}", field.name());
    }
}

struct OneLine<'a>(&'a mut String);

impl std::fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if !text.contains(|c: char| c.is_control()) {
            self.0.push_str(text);
            return Ok(());
        }
        for c in text.chars() {
            if c.is_control() { self.0.extend(c.escape_default()) } else { self.0.push(c) }
        }
        Ok(())
    }
}

/// Readings about the log itself, for the scope `server.`.
#[derive(Debug, Default)]
pub struct LogStats;

impl StatGroup for LogStats {
    fn visit(&self, out: &mut dyn FnMut(&str, Sample)) {
        out("log_dropped", Value::Counter(DROPPED.get()));
    }
}

/// Held by tests that change levels, which all tests share.
#[cfg(test)]
pub(crate) static TESTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[cfg(test)]
mod tests;
