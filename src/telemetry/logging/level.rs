//! Levels per component, under the names Envoy's `/logging` has.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use tracing::Metadata;
use tracing::level_filters::LevelFilter;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Off,
    /// Nothing here logs above error, so this is silent; kept because operators set it.
    Critical,
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

const ALL: [Level; 7] =
    [Level::Off, Level::Critical, Level::Error, Level::Warning, Level::Info, Level::Debug, Level::Trace];

impl Level {
    /// Envoy's word.
    pub fn word(self) -> &'static str {
        match self {
            Level::Off => "off",
            Level::Critical => "critical",
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }

    /// MOSN's word.
    pub fn mosn_word(self) -> &'static str {
        match self {
            Level::Off | Level::Critical => "FATAL",
            Level::Error => "ERROR",
            Level::Warning => "WARN",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
            Level::Trace => "TRACE",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Level::Off | Level::Critical => LevelFilter::OFF,
            Level::Error => LevelFilter::ERROR,
            Level::Warning => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl From<&tracing::Level> for Level {
    fn from(level: &tracing::Level) -> Self {
        match *level {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::TRACE => Level::Trace,
        }
    }
}

/// A text that is no level.
#[derive(Debug, thiserror::Error)]
#[error("unknown log level {0:?} (trace, debug, info, warning, error, critical, off)")]
pub struct UnknownLevel(String);

impl FromStr for Level {
    type Err = UnknownLevel;

    /// Envoy's and MOSN's words, in any case.
    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        match text.to_ascii_lowercase().as_str() {
            "off" => Ok(Level::Off),
            "critical" | "fatal" => Ok(Level::Critical),
            "error" | "err" => Ok(Level::Error),
            "warning" | "warn" => Ok(Level::Warning),
            "info" => Ok(Level::Info),
            "debug" => Ok(Level::Debug),
            "trace" => Ok(Level::Trace),
            _ => Err(UnknownLevel(text.to_owned())),
        }
    }
}

/// A name that is no component.
#[derive(Debug, thiserror::Error)]
#[error("unknown logger {0:?}")]
pub struct UnknownComponent(pub String);

/// Component names and the start of the targets that belong to them; the longest start wins. Names without a
/// target are accepted because operators' scripts set them.
const COMPONENTS: &[(&str, &[&str])] = &[
    ("access", &[]),
    ("admin", &["mizzen::admin"]),
    ("assert", &[]),
    ("backtrace", &[]),
    ("cache_filter", &[]),
    ("client", &[]),
    ("compression", &[]),
    (
        "config",
        &["mizzen::xds", "mizzen::translate", "mizzen::bootstrap", "mizzen::snapshot", "mizzen::model"],
    ),
    ("conn_handler", &["mizzen::listener"]),
    ("connection", &["mizzen::net"]),
    ("decompression", &[]),
    ("dns", &["mizzen::control::dns"]),
    ("dubbo", &["mizzen::protocol::dubbo"]),
    ("ext_authz", &["mizzen::filter::ext_authz"]),
    ("ext_proc", &[]),
    ("failure", &["failure"]),
    ("file", &[]),
    ("filter", &["mizzen::filter"]),
    ("forward_proxy", &[]),
    ("grpc", &["tonic"]),
    ("happy_eyeballs", &[]),
    ("hc", &["mizzen::control::health"]),
    ("health_checker", &[]),
    ("http", &["mizzen::stream::http", "mizzen::protocol::http1", "hyper"]),
    ("http2", &["mizzen::stream::http2", "h2"]),
    ("init", &[]),
    ("io", &[]),
    ("jwt", &["mizzen::filter::jwt"]),
    ("key_value_store", &[]),
    ("lua", &[]),
    ("main", &["mizzen"]),
    ("matcher", &[]),
    ("misc", &[""]),
    ("mongo", &[]),
    ("pool", &["mizzen::cluster::pool"]),
    ("quic", &[]),
    ("rate_limit_quota", &[]),
    ("rbac", &["mizzen::filter::rbac"]),
    ("redis", &[]),
    ("router", &["mizzen::router", "mizzen::stream"]),
    ("rpc", &["mizzen::stream::rpc", "mizzen::protocol"]),
    ("runtime", &["mizzen::worker"]),
    ("secret", &["mizzen::control::secrets", "mizzen::xds::sds", "mizzen::tls", "rustls"]),
    ("stats", &["mizzen::telemetry"]),
    ("tap", &[]),
    ("thrift", &[]),
    ("tracing", &[]),
    ("udp", &[]),
    ("upstream", &["mizzen::cluster"]),
    ("wasm", &[]),
    ("websocket", &[]),
];

static LEVELS: [AtomicU8; COMPONENTS.len()] = [const { AtomicU8::new(Level::Info as u8) }; COMPONENTS.len()];

fn get(cell: &AtomicU8) -> Level {
    ALL.get(usize::from(cell.load(Relaxed))).copied().unwrap_or(Level::Info)
}

/// Sets every component's level.
pub fn set_all(level: Level) {
    LEVELS.iter().for_each(|cell| cell.store(level as u8, Relaxed));
    tracing::callsite::rebuild_interest_cache();
}

/// Sets one component's level.
///
/// # Errors
/// No component has the name; nothing changes.
pub fn set_level(component: &str, level: Level) -> Result<(), UnknownComponent> {
    let index = COMPONENTS.iter().position(|(name, _)| *name == component);
    let cell = index.and_then(|i| LEVELS.get(i)).ok_or_else(|| UnknownComponent(component.to_owned()))?;
    cell.store(level as u8, Relaxed);
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

/// Every component with its level, by name.
pub fn levels() -> Vec<(&'static str, Level)> {
    COMPONENTS.iter().zip(&LEVELS).map(|((name, _), cell)| (*name, get(cell))).collect()
}

/// The component a target belongs to.
fn component(target: &str) -> Option<usize> {
    let starts =
        COMPONENTS.iter().enumerate().flat_map(|(i, (_, starts))| starts.iter().map(move |s| (i, *s)));
    starts
        .filter(|(_, start)| {
            let rest = target.strip_prefix(start);
            rest.is_some_and(|rest| start.is_empty() || rest.is_empty() || rest.starts_with("::"))
        })
        .max_by_key(|(_, start)| start.len())
        .map(|(i, _)| i)
}

/// The component's name for log lines.
pub(super) fn component_name(target: &str) -> &'static str {
    component(target).and_then(|i| COMPONENTS.get(i)).map_or("misc", |c| c.0)
}

pub(super) fn enabled(metadata: &Metadata<'_>) -> bool {
    let level = component(metadata.target()).and_then(|i| LEVELS.get(i)).map_or(Level::Info, get);
    *metadata.level() <= level.filter()
}

pub(super) fn most_verbose() -> LevelFilter {
    LEVELS.iter().map(get).max().unwrap_or(Level::Info).filter()
}
