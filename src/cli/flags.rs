//! The flags, as clap sees them.

use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::path::PathBuf;

#[derive(Parser)]
#[command(
    name = "mizzen",
    version,
    about = "A data plane for Istio and SOFA meshes: bolt, HTTP/2 and TCP, driven by xDS",
    long_about = "A data plane for Istio and SOFA meshes: bolt, HTTP/2 and TCP, driven by xDS.\n\n\
        `mizzen start -c FILE` reads MOSN or Envoy configuration, whichever the file holds. Without a \
        subcommand the flags are those a pilot-agent passes to Envoy: `mizzen -c FILE --concurrency 2 …`.",
    args_override_self = true,
    disable_help_subcommand = true
)]
pub(super) struct Root {
    #[command(subcommand)]
    pub command: Option<Sub>,
    #[command(flatten)]
    pub run: RunFlags,
}

#[derive(Subcommand)]
pub(super) enum Sub {
    /// Serve
    #[command(args_override_self = true)]
    Start(RunFlags),
    /// End the process named by the configuration's pid file
    #[command(args_override_self = true)]
    Stop(RunFlags),
    /// Accepted, does nothing: configuration changes arrive by xDS
    #[command(args_override_self = true)]
    Reload(RunFlags),
    /// Validate a configuration file and print every finding
    Check(CheckFlags),
    /// The bolt sample: a server, a client and a control plane
    Sample {
        #[command(subcommand)]
        which: SampleSub,
    },
    /// Ask a running proxy how it would route a request; no traffic is sent
    Explain(ExplainFlags),
    /// A tour on real sockets: a control plane, two sidecars, pushes under load
    Demo {
        /// Stay up afterwards and print addresses to try
        #[arg(long)]
        hold: bool,
    },
}

#[derive(Args)]
pub(super) struct CheckFlags {
    /// File to validate [env: MOSN_CONFIG] [default: configs/mosn_config.json]
    #[arg(short, long, alias = "config-path", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// YAML or JSON merged over the file
    #[arg(long, value_name = "TEXT")]
    pub config_yaml: Option<String>,
    /// `text` or `json`
    #[arg(long, value_parser = ["text", "json"], default_value = "text")]
    pub format: String,
}

#[derive(Args)]
pub(super) struct ExplainFlags {
    /// The request's method
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// The host it asks for
    #[arg(long, default_value = "")]
    pub host: String,
    /// Its path, with the query
    #[arg(long, default_value = "/")]
    pub path: String,
    /// `name:value`, repeatable
    #[arg(long, value_name = "N:V")]
    pub header: Vec<String>,
    /// Only this listener, by name or port
    #[arg(long, default_value = "", value_name = "NAME")]
    pub listener: String,
    /// The proxy's admin
    #[arg(long, default_value = "127.0.0.1:15000", value_name = "IP:PORT")]
    pub admin: String,
    /// `text` or `json`
    #[arg(long, value_parser = ["text", "json"], default_value = "text")]
    pub format: String,
}

#[derive(Subcommand)]
pub(super) enum SampleSub {
    /// Answers bolt requests
    Server {
        /// Address to listen on
        #[arg(long, default_value = "127.0.0.1")]
        host: String,
        /// Port to listen on, 0 for a free one
        #[arg(short, long, default_value_t = 8080)]
        port: u16,
        /// Milliseconds to wait before each answer
        #[arg(short, long, default_value_t = 0, value_name = "MS")]
        delay: u64,
        /// Told in each answer
        #[arg(short, long, default_value = "server")]
        name: String,
    },
    /// Calls a bolt server
    Client {
        /// Where to call
        #[arg(short, long, default_value = "127.0.0.1:2045")]
        addr: String,
        /// Go on until interrupted
        #[arg(short = 't', long = "loop")]
        repeat: bool,
        /// Milliseconds between calls
        #[arg(short, long, default_value_t = 1000, value_name = "MS")]
        interval: u64,
        /// Milliseconds one call may take
        #[arg(long, default_value_t = 3000, value_name = "MS")]
        timeout: u64,
        /// The `service` header
        #[arg(short, long, default_value = "com.alipay.test.TestService:1.0")]
        service: String,
    },
    /// Serves a folder of resources by ADS and pushes what changes in it
    ControlPlane {
        /// Address to listen on
        #[arg(long, default_value = "127.0.0.1")]
        host: String,
        /// Port to listen on, 0 for a free one
        #[arg(short, long, default_value_t = 18000)]
        port: u16,
        /// Folder with one NODE_ID.json per proxy
        #[arg(short, long, default_value = "configs/ads/resources", value_name = "DIR")]
        resources: PathBuf,
    },
}

#[derive(Args)]
pub(super) struct RunFlags {
    /// Configuration, MOSN or Envoy, JSON or YAML [env: MOSN_CONFIG] [start: configs/mosn_config.json]
    #[arg(short, long, alias = "config-path", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// YAML or JSON merged over the file as protobuf merges
    #[arg(long, value_name = "TEXT")]
    pub config_yaml: Option<String>,
    /// Worker threads [default: the CPU quota rounded up]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Seconds draining connections may go on
    #[arg(long, default_value_t = 600, value_name = "S")]
    pub drain_time_s: u64,
    /// `gradual` or `immediate`: when peers of a draining listener are told to leave
    #[arg(long, value_parser = ["gradual", "immediate"], default_value = "gradual")]
    pub drain_strategy: String,
    /// Seconds listeners go on accepting after SIGTERM
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub drain_accept_s: u64,
    /// trace, debug, info, warning, error, critical or off [env: LOG_LEVEL]
    #[arg(short = 'l', long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Levels by component: `a:debug,b:error`; unknown components are accepted
    #[arg(long, value_name = "LIST")]
    pub component_log_level: Option<String>,
    /// Log file instead of the configured one
    #[arg(long, value_name = "FILE")]
    pub log_path: Option<PathBuf>,
    /// `serve`, `validate` or `init_only`
    #[arg(long, value_parser = ["serve", "validate", "init_only"], default_value = "serve")]
    pub mode: String,
    /// node.cluster [env: SERVICE_CLUSTER]
    #[arg(short = 's', long, value_name = "NAME")]
    pub service_cluster: Option<String>,
    /// node.id [env: SERVICE_NODE]
    #[arg(short = 'n', long, value_name = "ID")]
    pub service_node: Option<String>,
    /// `sidecar` or `router`: node.id from the pod's name, namespace and address [env: SERVICE_TYPE]
    #[arg(short = 'p', long, value_name = "TYPE")]
    pub service_type: Option<String>,
    /// node metadata, `key:value`, repeatable; also -sm [env: SERVICE_META]
    #[arg(long, value_name = "K:V", value_delimiter = ',')]
    pub service_meta: Vec<String>,
    /// node labels, `key:value`, repeatable; also -sl [env: SERVICE_LAB]
    #[arg(long = "service-lables", alias = "service-labels", value_name = "K:V", value_delimiter = ',')]
    pub service_labels: Vec<String>,
    /// Last part of a node.id made by --service-type; also -domain [env: CLUSTER_DOMAIN]
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// For --service-type; also -pns [env: POD_NAMESPACE]
    #[arg(long, value_name = "NAME")]
    pub pod_namespace: Option<String>,
    /// For --service-type; also -pn [env: POD_NAME]
    #[arg(long, value_name = "NAME")]
    pub pod_name: Option<String>,
    /// For --service-type; also -pi [env: POD_IP]
    #[arg(long, value_name = "IP")]
    pub pod_ip: Option<String>,
    /// `A=true,B=false`: auto_config, XdsMtlsEnable, PayLoadLimitEnable, MultiTenantMode; checked, no effect
    /// [env: FEATURE_GATES]
    #[arg(short = 'f', long, value_name = "LIST")]
    pub feature_gates: Option<String>,
    /// Folder of the last good snapshot [default: off]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Seconds a virtual host may wait for a cluster that is warming
    #[arg(long, default_value_t = 15, value_name = "N")]
    pub route_hold_s: u64,
    /// Seconds a removed cluster serves while a route names it, 0 not at all
    #[arg(long, default_value_t = 15, value_name = "N")]
    pub removed_cluster_linger_s: u64,
    /// Permits bare LF, folded lines, equal repeated Content-Length, and HTTP/1.0 without Host from clients
    #[arg(long)]
    pub http1_lenient: bool,
    /// Error replies carry x-mizzen-reason
    #[arg(long)]
    pub error_reasons: bool,
    /// Requests that take as many milliseconds are kept for the admin's /why
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub why_slow_ms: u64,
    /// Milliseconds a log line may wait before it is written
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub file_flush_interval_msec: u64,
    /// File that receives the admin address once it is bound
    #[arg(long, value_name = "FILE")]
    pub admin_address_path: Option<PathBuf>,
    #[command(flatten)]
    pub ignored: Ignored,
}

/// Flags of Envoy and MOSN that mean nothing here: name, and whether a value follows.
const IGNORED: &[(&str, bool)] = &[
    ("allow-unknown-fields", false),
    ("allow-unknown-static-fields", false),
    ("base-id", true),
    ("base-id-path", true),
    ("bootstrap-version", true),
    ("cpuset-threads", false),
    ("disable-extensions", true),
    ("disable-hot-restart", false),
    ("enable-core-dump", false),
    ("enable-fine-grain-logging", false),
    ("enable-mutex-tracing", false),
    ("file-flush-min-size-kb", true),
    ("hot-restart-version", false),
    ("ignore-unknown-dynamic-fields", false),
    ("local-address-ip-version", true),
    ("log-format", true),
    ("log-format-escaped", false),
    ("log-format-prefix-with-location", false),
    ("max-obj-name-len", true),
    ("max-stats", true),
    ("parent-shutdown-time-s", true),
    ("reject-unknown-dynamic-fields", false),
    ("restart-epoch", true),
    ("service-zone", true),
    ("skip-deprecated-logs", false),
    ("skip-hot-restart-on-no-parent", false),
    ("skip-hot-restart-parent-stats", false),
    ("socket-mode", true),
    ("socket-path", true),
    ("stats-tag", true),
    ("use-dynamic-base-id", false),
];

pub(super) struct Ignored;

impl FromArgMatches for Ignored {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Ignored)
    }
    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

impl Args for Ignored {
    fn augment_args(command: clap::Command) -> clap::Command {
        IGNORED.iter().fold(command, |command, (name, valued)| {
            let arg = Arg::new(*name).long(*name).help("Accepted, no effect").action(ArgAction::Append);
            // Go's flags may be written `--flag=false`, Envoy's never are.
            command.arg(match valued {
                true => arg.num_args(1).value_name("V").allow_hyphen_values(true),
                false => arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
                    .hide_possible_values(true),
            })
        })
    }
    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// Whether `name` is a long flag of a serving process.
pub(super) fn is_run_flag(name: &str) -> bool {
    Root::command().get_arguments().any(|arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|list| list.contains(&name))
    })
}
