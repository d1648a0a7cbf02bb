//! Both command lines.
//!
//! Owns flags, their environment names and help text: `mizzen start -c FILE` and its siblings as MOSN has
//! them, the form without subcommand that a pilot-agent passes to Envoy, and `check`, `sample`, `demo`. Takes
//! in an argument list and a look-up of environment variables; gives out a plain [`Command`]. Reads and
//! writes nothing itself.

mod argv;
mod convert;
mod flags;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Serve (or only validate, see [`RunArgs::mode`]).
    Run(Box<RunArgs>),
    /// End the process that the file's pid file names.
    Stop(Box<RunArgs>),
    /// Accepted for MOSN's sake: says that a running proxy takes configuration from its control plane.
    Reload(Box<RunArgs>),
    /// Validate a file and list every finding.
    Check(CheckArgs),
    /// The bolt sample.
    Sample(SampleArgs),
    /// How a running proxy would route a request.
    Explain(ExplainArgs),
    /// The tour on real sockets.
    Demo(DemoArgs),
}

/// Flags of a serving process. Fields without effect are not kept.
#[derive(Clone, Debug, PartialEq)]
pub struct RunArgs {
    /// Configuration file; `None` only when `config_yaml` is given.
    pub config: Option<PathBuf>,
    /// YAML or JSON text, merged over the file as protobuf merges.
    pub config_yaml: Option<String>,
    /// Number of workers; `None` follows the CPU quota.
    pub concurrency: Option<usize>,
    /// How long draining connections may go on. Default 600 s.
    pub drain_time: Duration,
    /// Whether peers are told to leave at once or spread over the drain time.
    pub drain_strategy: DrainStrategy,
    /// How long listeners go on accepting after SIGTERM. Default 0.
    pub drain_accept: Duration,
    /// `None` keeps the file's level.
    pub log_level: Option<LogLevel>,
    /// `component:level` pairs.
    pub component_log_levels: Vec<(String, LogLevel)>,
    /// Log file instead of the configured one.
    pub log_path: Option<PathBuf>,
    /// Serve or validate.
    pub mode: Mode,
    /// Overrides of the bootstrap's node.
    pub node: NodeArgs,
    /// MOSN feature gates, as given.
    pub feature_gates: Vec<(String, bool)>,
    /// Folder of the last good snapshot.
    pub state_dir: Option<PathBuf>,
    /// How long a virtual host may wait for a warming cluster. Default 15 s.
    pub route_hold: Duration,
    /// How long a removed cluster serves while a route names it; 0 not at all. Default 15 s.
    pub removed_cluster_linger: Duration,
    /// Clients may write HTTP/1 leniently on every listener. Default no.
    pub http1_lenient: bool,
    /// Error replies carry `x-mizzen-reason`.
    pub error_reasons: bool,
    /// Requests that take as long are kept for the admin. Default 1 s.
    pub why_slow: Duration,
    /// How long an access log line may wait before it is written. Default 10 s.
    pub file_flush_interval: Duration,
    /// File that receives the admin address once it is bound.
    pub admin_address_path: Option<PathBuf>,
}

impl RunArgs {
    /// Over how long the connections of a draining listener are told to leave; 0 is at once.
    pub fn drain_spread(&self) -> Duration {
        match self.drain_strategy {
            DrainStrategy::Gradual => self.drain_time,
            DrainStrategy::Immediate => Duration::ZERO,
        }
    }
}

/// Parts of the node identity given by flags; they win over the bootstrap's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeArgs {
    pub id: Option<String>,
    pub cluster: Option<String>,
    /// `key:value` pairs for the metadata.
    pub metadata: Vec<(String, String)>,
    /// `key:value` pairs for the metadata's `LABELS`.
    pub labels: Vec<(String, String)>,
}

/// `--drain-strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainStrategy {
    #[default]
    Gradual,
    Immediate,
}

/// `--mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Serve,
    /// Read the configuration, report, exit.
    Validate,
    /// As `Validate`: there is nothing to initialise that validating does not cover.
    InitOnly,
}

/// Levels of both families, from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
    Off,
}

impl LogLevel {
    /// Reads Envoy's and MOSN's words, in any case; `None` for others.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "trace" => LogLevel::Trace,
            "debug" => LogLevel::Debug,
            "info" => LogLevel::Info,
            "warn" | "warning" => LogLevel::Warn,
            "error" | "err" => LogLevel::Error,
            "critical" | "fatal" => LogLevel::Critical,
            "off" => LogLevel::Off,
            _ => return None,
        })
    }

    /// Envoy's word.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warning",
            LogLevel::Error => "error",
            LogLevel::Critical => "critical",
            LogLevel::Off => "off",
        }
    }
}

/// `mizzen explain`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainArgs {
    pub method: String,
    /// May be empty, as in bolt.
    pub host: String,
    /// With the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// Name or port; empty: every listener.
    pub listener: String,
    /// The proxy's admin.
    pub admin: SocketAddr,
    /// JSON instead of text.
    pub json: bool,
}

/// `mizzen check`.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckArgs {
    pub config: PathBuf,
    pub config_yaml: Option<String>,
    /// JSON on stdout instead of text.
    pub json: bool,
}

/// `mizzen sample`.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleArgs {
    Server(SampleServer),
    Client(SampleClient),
    ControlPlane(SampleControlPlane),
}

/// A bolt server that answers every request.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleServer {
    /// Listening address, default `127.0.0.1`.
    pub host: String,
    /// Default 8080; 0 takes a free one.
    pub port: u16,
    /// Wait before each answer.
    pub delay: Duration,
    /// Told in each answer.
    pub name: String,
}

/// A bolt client.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleClient {
    /// `host:port` to call, default `127.0.0.1:2045`.
    pub addr: String,
    /// Go on until interrupted instead of one call.
    pub repeat: bool,
    /// Pause between calls.
    pub interval: Duration,
    /// Limit of one call, sent in the frame.
    pub timeout: Duration,
    /// Value of the `service` header.
    pub service: String,
}

/// An ADS server over a folder of resources.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleControlPlane {
    /// Listening address, default `127.0.0.1`.
    pub host: String,
    /// Default 18000; 0 takes a free one.
    pub port: u16,
    /// Folder with one `NODE_ID.json` per proxy.
    pub resources: PathBuf,
}

/// `mizzen demo`.
#[derive(Clone, Debug, PartialEq)]
pub struct DemoArgs {
    /// Stay up after the tour.
    pub hold: bool,
}

/// Why there is no command: text to print and the exit code. Help and version go to stdout with 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// One line for errors.
    pub text: String,
    pub exit: u8,
}

/// Reads `args` (with the program's name first); `env` looks environment variables up.
///
/// # Errors
/// A [`Usage`] for `--help`, `--version`, and for anything that cannot be understood.
pub fn parse(
    args: impl IntoIterator<Item = String>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Command, Usage> {
    convert::parse(argv::normal(args), env)
}

#[cfg(test)]
mod tests;
