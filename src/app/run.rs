//! `mizzen start`: from files to a serving process and out again.

use super::EXIT_BROKEN;
use super::admin;
use super::pid::PidFile;
use super::plan;
use super::proxy::Proxy;
use super::signals::{Signals, Wish};
use crate::admin::{Command, Server};
use crate::bootstrap::{self, Bootstrap, NodeOverride};
use crate::cli::{LogLevel, Mode, RunArgs};
use crate::model::Address;
use crate::net::options;
use crate::stream::Drain;
use crate::telemetry::{files, logging, panics, why};
use anyhow::{Context, anyhow};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often the control task looks whether a thread has died.
const WATCH: Duration = Duration::from_secs(5);

/// How long the end of the process waits for what is to be written.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Serves until told to leave.
///
/// # Errors
/// The configuration, the log or the admin address cannot be used.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let mut bootstrap = load(args)?;
    if args.mode != Mode::Serve {
        println!("configuration OK");
        return Ok(ExitCode::SUCCESS);
    }
    start_log(args, &bootstrap)?;
    why::configure(why::Settings { slow: args.why_slow, error_reasons: args.error_reasons });
    files::configure(files::Settings {
        interval: Some(args.file_flush_interval),
        roller: bootstrap.log_roller.clone(),
    });
    panics::watch();
    for warning in &bootstrap.warnings {
        tracing::warn!("{warning}");
    }
    options::raise_nofile();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(serve(args, &mut bootstrap));
    files::flush(LAST_WRITE);
    logging::flush(LAST_WRITE);
    code
}

fn load(args: &RunArgs) -> anyhow::Result<Bootstrap> {
    let overlay = args.config_yaml.as_deref();
    let loaded = match (&args.config, overlay) {
        (Some(path), overlay) => bootstrap::load(path, overlay),
        (None, Some(text)) => bootstrap::load_text(text),
        (None, None) => return Err(anyhow!("no configuration given")),
    };
    let mut bootstrap = loaded.map_err(|findings| anyhow!("{}", bootstrap::one_line(&findings)))?;
    bootstrap.override_node(&NodeOverride {
        id: args.node.id.as_deref(),
        cluster: args.node.cluster.as_deref(),
        metadata: &args.node.metadata,
        labels: &args.node.labels,
    });
    Ok(bootstrap)
}

fn start_log(args: &RunArgs, bootstrap: &Bootstrap) -> anyhow::Result<()> {
    let from_file = bootstrap.log_level.as_deref().and_then(LogLevel::parse);
    let level = args.log_level.or(from_file).unwrap_or(LogLevel::Info);
    let parse = |level: LogLevel| level.as_str().parse().unwrap_or(logging::Level::Info);
    let path =
        args.log_path.as_ref().map(|path| path.display().to_string()).or_else(|| bootstrap.log_path.clone());
    let mut options = logging::Options { level: parse(level), ..logging::Options::default() };
    if let Some(path) = path {
        options.destination = destination(&path);
    }
    // Unknown component names must not stop a start: images name components we do not have.
    let components = args.component_log_levels.iter();
    options.components = components
        .filter(|(name, _)| logging::levels().iter().any(|(known, _)| known == name))
        .map(|(name, level)| (name.clone(), parse(*level)))
        .collect();
    logging::init(options).context("process log")
}

/// `/dev/stdout` means the descriptor: opening the path anew fails when another user owns it.
fn destination(path: &str) -> logging::Destination {
    match path {
        "" | "stderr" | "/dev/stderr" => logging::Destination::Stderr,
        "stdout" | "/dev/stdout" => logging::Destination::Stdout,
        path => logging::Destination::File(path.into()),
    }
}

async fn serve(args: &RunArgs, bootstrap: &mut Bootstrap) -> anyhow::Result<ExitCode> {
    // Before anything that takes time: a signal during start must not kill the process half made.
    let mut signals = Signals::new().context("signals")?;
    let plan = plan::plan(bootstrap, args);
    let workers = plan.workers;
    let proxy = Arc::new(Proxy::start(plan).context("threads")?);
    if let Some(stats) = bootstrap.stats.take() {
        proxy.registry.configure(stats);
    }
    let (wishes, mut commands) = mpsc::channel(8);
    start_admin(args, bootstrap, &proxy, wishes).await?;
    // The bootstrap has been read and kept for the admin: no more JSON until someone asks for a dump.
    crate::proto::release_descriptor_pool();
    let _pid = PidFile::write(&bootstrap.pid_file);
    tracing::info!("mizzen {} serves with {workers} workers", env!("CARGO_PKG_VERSION"));
    let code = wait(args, &proxy, &mut signals, &mut commands).await;
    // Also where somebody still holds the proxy, and its workers are not ended in order.
    let _ = tokio::time::timeout(LAST_WRITE, proxy.flush_logs()).await;
    if let Ok(proxy) = Arc::try_unwrap(proxy) {
        proxy.finish().await;
    }
    Ok(code)
}

/// Binds the admin address, if there is one, and serves it for as long as the process lives.
async fn start_admin(
    args: &RunArgs,
    bootstrap: &Bootstrap,
    proxy: &Arc<Proxy>,
    wishes: mpsc::Sender<Command>,
) -> anyhow::Result<()> {
    let address = match &bootstrap.admin {
        None => return Ok(()),
        Some(Address::Ip(address)) => *address,
        Some(other) => return Err(anyhow!("admin address {other}: expected an IP address and port")),
    };
    let source = admin::source(proxy, bootstrap, args, wishes);
    let server = Server::bind(address, None, source).await?;
    if let Some(path) = &args.admin_address_path {
        let written = std::fs::write(path, server.local_addr().to_string());
        written.with_context(|| format!("--admin-address-path {}", path.display()))?;
    }
    tokio::spawn(server.serve());
    Ok(())
}

/// What `/drain_listeners` does.
async fn drain_listeners(
    proxy: Arc<Proxy>,
    inbound_only: bool,
    spread: Duration,
    close_after: Option<Duration>,
) {
    proxy.ask_to_leave(Drain::Told, spread, inbound_only);
    if let Some(after) = close_after {
        tokio::time::sleep(after).await;
        proxy.stop_accepting(inbound_only).await;
    }
}

/// Opens every log file anew.
fn reopen() {
    logging::reopen();
    files::reopen();
}

/// Waits for the end and leads there.
async fn wait(
    args: &RunArgs,
    proxy: &Arc<Proxy>,
    signals: &mut Signals,
    commands: &mut mpsc::Receiver<Command>,
) -> ExitCode {
    let mut watch = tokio::time::interval(WATCH);
    loop {
        tokio::select! {
            wish = signals.next() => match wish {
                Wish::Leave => break,
                Wish::End => return ExitCode::SUCCESS,
                Wish::Reopen => reopen(),
            },
            Some(command) = commands.recv() => match command {
                Command::Quit => return ExitCode::SUCCESS,
                Command::DrainListeners { inbound_only, graceful, skip_exit } => {
                    let close_after = match (graceful, skip_exit) {
                        (true, true) => None,
                        (true, false) => Some(args.drain_time),
                        (false, _) => Some(Duration::ZERO),
                    };
                    let spread = if graceful { args.drain_spread() } else { Duration::ZERO };
                    tokio::spawn(drain_listeners(proxy.clone(), inbound_only, spread, close_after));
                }
            },
            _ = watch.tick() => if proxy.is_broken() {
                tracing::error!("a thread has died: exiting");
                return ExitCode::from(EXIT_BROKEN);
            },
        }
    }
    tracing::info!("leaving: {} connections open", proxy.connections());
    let mut drain = std::pin::pin!(proxy.drain(args.drain_accept, args.drain_time));
    loop {
        tokio::select! {
            () = &mut drain => return ExitCode::SUCCESS,
            wish = signals.next() => match wish {
                Wish::Leave | Wish::End => return ExitCode::SUCCESS,
                Wish::Reopen => reopen(),
            },
        }
    }
}
