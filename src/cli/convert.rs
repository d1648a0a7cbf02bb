//! Flags → [`Command`].

use super::flags::{ExplainFlags, Root, RunFlags, SampleSub, Sub};
use super::{
    CheckArgs, Command, DemoArgs, DrainStrategy, ExplainArgs, LogLevel, Mode, NodeArgs, RunArgs, SampleArgs,
    SampleClient, SampleControlPlane, SampleServer, Usage,
};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use std::path::PathBuf;
use std::time::Duration;

const DEFAULT_CONFIG: &str = "configs/mosn_config.json";

pub(super) fn parse(args: Vec<String>, env: &dyn Fn(&str) -> Option<String>) -> Result<Command, Usage> {
    if args.len() <= 1 {
        return Err(Usage { text: Root::command().render_long_help().to_string(), exit: 0 });
    }
    let root = Root::try_parse_from(args).map_err(|error| usage(&error))?;
    let run = root.run;
    match root.command {
        None => run_args(run, None, env).map(|args| Command::Run(Box::new(args))),
        Some(Sub::Start(flags)) => finish(flags, run, env).map(Command::Run),
        Some(Sub::Stop(flags)) => finish(flags, run, env).map(Command::Stop),
        Some(Sub::Reload(flags)) => finish(flags, run, env).map(Command::Reload),
        Some(Sub::Check(flags)) => {
            let config = flags.config.or(run.config).or_else(|| env("MOSN_CONFIG").map(PathBuf::from));
            // As `start`: MOSN's default file.
            let config = config.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
            let json = flags.format == "json";
            Ok(Command::Check(CheckArgs { config, config_yaml: flags.config_yaml, json }))
        }
        Some(Sub::Explain(flags)) => explain(flags),
        Some(Sub::Sample { which }) => Ok(Command::Sample(sample(which))),
        Some(Sub::Demo { hold }) => Ok(Command::Demo(DemoArgs { hold })),
    }
}

fn explain(flags: ExplainFlags) -> Result<Command, Usage> {
    let admin = flags.admin.parse();
    Ok(Command::Explain(ExplainArgs {
        admin: admin.map_err(|_| bad(format!("--admin: `{}` is not `ip:port`", flags.admin)))?,
        headers: pairs("--header", &flags.header)?,
        method: flags.method,
        host: flags.host,
        path: flags.path,
        listener: flags.listener,
        json: flags.format == "json",
    }))
}

/// Flags may stand before `start` as well: MOSN declares them for the program and for the command.
fn finish(
    mut flags: RunFlags,
    before: RunFlags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Box<RunArgs>, Usage> {
    flags.config = flags.config.or(before.config);
    flags.config_yaml = flags.config_yaml.or(before.config_yaml);
    flags.log_level = flags.log_level.or(before.log_level);
    flags.concurrency = flags.concurrency.or(before.concurrency);
    run_args(flags, Some(DEFAULT_CONFIG), env).map(Box::new)
}

fn run_args(
    flags: RunFlags,
    default_config: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<RunArgs, Usage> {
    let node = node_args(&flags, env)?;
    let config = flags.config.or_else(|| env("MOSN_CONFIG").map(PathBuf::from));
    let config = match (config, &flags.config_yaml, default_config) {
        (None, None, Some(path)) => Some(PathBuf::from(path)),
        (None, None, None) => return Err(bad("give a configuration: -c FILE or --config-yaml TEXT")),
        (config, _, _) => config,
    };
    Ok(RunArgs {
        config,
        config_yaml: flags.config_yaml,
        concurrency: flags.concurrency.filter(|n| *n > 0),
        drain_time: Duration::from_secs(flags.drain_time_s),
        drain_strategy: match flags.drain_strategy.as_str() {
            "immediate" => DrainStrategy::Immediate,
            _ => DrainStrategy::Gradual,
        },
        drain_accept: Duration::from_secs(flags.drain_accept_s),
        log_level: log_level(flags.log_level, env)?,
        component_log_levels: component_levels(flags.component_log_level.as_deref())?,
        log_path: flags.log_path,
        mode: match flags.mode.as_str() {
            "validate" => Mode::Validate,
            "init_only" => Mode::InitOnly,
            _ => Mode::Serve,
        },
        node,
        feature_gates: feature_gates(flags.feature_gates.or_else(|| env("FEATURE_GATES")).as_deref())?,
        state_dir: flags.state_dir,
        route_hold: Duration::from_secs(flags.route_hold_s),
        removed_cluster_linger: Duration::from_secs(flags.removed_cluster_linger_s),
        http1_lenient: flags.http1_lenient,
        error_reasons: flags.error_reasons,
        why_slow: Duration::from_millis(flags.why_slow_ms),
        file_flush_interval: Duration::from_millis(flags.file_flush_interval_msec.max(1)),
        admin_address_path: flags.admin_address_path,
    })
}

fn node_args(flags: &RunFlags, env: &dyn Fn(&str) -> Option<String>) -> Result<NodeArgs, Usage> {
    let given = |flag: &Option<String>, name: &str| flag.clone().or_else(|| env(name));
    let lists = |flag: &[String], name: &str| -> Vec<String> {
        match (flag.is_empty(), env(name)) {
            (true, Some(text)) => text.split(',').map(str::to_owned).collect(),
            _ => flag.to_vec(),
        }
    };
    let kind =
        given(&flags.service_type, "SERVICE_TYPE").filter(|kind| kind == "sidecar" || kind == "router");
    let made = kind.map(|kind| {
        let part = |flag, name| given(flag, name).unwrap_or_default();
        format!(
            "{kind}~{}~{}.{}~{}",
            part(&flags.pod_ip, "POD_IP"),
            part(&flags.pod_name, "POD_NAME"),
            part(&flags.pod_namespace, "POD_NAMESPACE"),
            part(&flags.cluster_domain, "CLUSTER_DOMAIN"),
        )
    });
    Ok(NodeArgs {
        id: given(&flags.service_node, "SERVICE_NODE").or(made),
        cluster: given(&flags.service_cluster, "SERVICE_CLUSTER"),
        metadata: pairs("--service-meta", &lists(&flags.service_meta, "SERVICE_META"))?,
        labels: pairs("--service-lables", &lists(&flags.service_labels, "SERVICE_LAB"))?,
    })
}

fn pairs(flag: &str, list: &[String]) -> Result<Vec<(String, String)>, Usage> {
    list.iter()
        .filter(|item| !item.is_empty())
        .map(|item| match item.split_once(':') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(bad(format!("{flag}: `{item}` is not `key:value`"))),
        })
        .collect()
}

/// A flag must be a level; an environment variable meant for another program is passed over.
fn log_level(flag: Option<String>, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<LogLevel>, Usage> {
    match flag {
        Some(text) => level("--log-level", &text).map(Some),
        None => Ok(env("LOG_LEVEL").and_then(|text| LogLevel::parse(&text))),
    }
}

fn level(flag: &str, text: &str) -> Result<LogLevel, Usage> {
    LogLevel::parse(text).ok_or_else(|| {
        bad(format!("{flag}: `{text}` is not trace, debug, info, warning, error, critical or off"))
    })
}

fn component_levels(list: Option<&str>) -> Result<Vec<(String, LogLevel)>, Usage> {
    let items = list.unwrap_or_default().split(',').filter(|item| !item.is_empty());
    items
        .map(|item| match item.split_once(':') {
            Some((name, text)) => Ok((name.to_owned(), level("--component-log-level", text)?)),
            None => Err(bad(format!("--component-log-level: `{item}` is not `component:level`"))),
        })
        .collect()
}

const GATES: [&str; 4] = ["auto_config", "XdsMtlsEnable", "PayLoadLimitEnable", "MultiTenantMode"];

fn feature_gates(list: Option<&str>) -> Result<Vec<(String, bool)>, Usage> {
    let items = list.unwrap_or_default().split(',').filter(|item| !item.is_empty());
    items
        .map(|item| match item.split_once('=') {
            Some((name, _)) if !GATES.contains(&name) => {
                Err(bad(format!("--feature-gates: unknown gate `{name}`, known are {}", GATES.join(", "))))
            }
            Some((name, value @ ("true" | "false"))) => Ok((name.to_owned(), value == "true")),
            _ => Err(bad(format!("--feature-gates: `{item}` is not `Gate=true` or `Gate=false`"))),
        })
        .collect()
}

fn sample(which: SampleSub) -> SampleArgs {
    match which {
        SampleSub::Server { host, port, delay, name } => {
            SampleArgs::Server(SampleServer { host, port, delay: Duration::from_millis(delay), name })
        }
        SampleSub::Client { addr, repeat, interval, timeout, service } => SampleArgs::Client(SampleClient {
            addr,
            repeat,
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(timeout),
            service,
        }),
        SampleSub::ControlPlane { host, port, resources } => {
            SampleArgs::ControlPlane(SampleControlPlane { host, port, resources })
        }
    }
}

fn bad(text: impl Into<String>) -> Usage {
    Usage { text: format!("mizzen: {}", text.into()), exit: 1 }
}

/// clap's errors span lines and may suggest; ours are one line and name the flag.
fn usage(error: &clap::Error) -> Usage {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Usage { text: error.to_string(), exit: 0 };
    }
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    match (error.kind(), named(ContextKind::InvalidArg), named(ContextKind::InvalidSubcommand)) {
        (ErrorKind::UnknownArgument, Some(arg), _) if arg.starts_with('-') => {
            bad(format!("unknown flag {arg} (see mizzen --help)"))
        }
        (ErrorKind::UnknownArgument, Some(arg), _) => {
            bad(format!("unexpected argument `{arg}` (see mizzen --help)"))
        }
        (ErrorKind::InvalidSubcommand, _, Some(name)) => {
            bad(format!("unknown command `{name}` (see mizzen --help)"))
        }
        _ => {
            let text = error.to_string();
            let head = text.split("\n\n").next().unwrap_or_default();
            let line = head.split_whitespace().collect::<Vec<_>>().join(" ");
            bad(line.strip_prefix("error: ").unwrap_or(&line))
        }
    }
}
