//! Measures Mizzen beside a raw relay, HAProxy, nginx and Envoy. See Cargo.toml for the command.
//!
//! Without a subcommand it is the suite: it starts everything else, this program again among it, as processes
//! of their own, each on its CPU. It ends only processes that it started.

mod ads;
mod backend;
mod bolt;
mod config;
mod files;
mod load;
mod mesh;
mod os;
mod peers;
mod relay;
mod rows;
mod sidecar;
mod speed;
mod stats;
mod xds;

use std::time::Duration;

use anyhow::{Result, bail};

const USAGE: &str = "mizzen-bench [--quick] [--rounds N] [--window MS] [speed|memory|mesh] [NAME]
  speed   CPU per request, latency, memory under load, ratios to the peers
  memory  idle size and wake-ups, 10,000 idle bolt connections, 5,000 idle HTTP/1 connections
  mesh    10,000 clusters by ADS, endpoint changes, repeated pushes
  NAME    only the speed rows whose name contains it
Environment: MIZZEN, ENVOY: binaries to use; KEEP: keep configuration files and logs";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    match args.first().map(String::as_str) {
        Some("pinned") => os::exec_pinned(rest),
        Some("backend") => local(backend::run(rest)),
        Some("relay") => local(relay::run(rest)),
        Some("load") => local(load::run(rest)),
        Some("ads") => local(ads::run(rest)),
        Some("steady") => sidecar::steady::run(rest),
        Some("handshakes") => local(sidecar::handshakes::run(rest)),
        Some("tls-relay") => local(sidecar::relay::run(rest)),
        _ => suite(&args),
    }
}

/// Runs a part on one thread, until it ends.
fn local(part: impl Future<Output = Result<()>>) -> Result<()> {
    os::raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, part)
}

fn suite(args: &[String]) -> Result<()> {
    let (mut rounds, mut window) = (10, Duration::from_millis(1500));
    let (mut parts, mut filter) = (Vec::new(), String::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => (rounds, window) = (3, Duration::from_millis(800)),
            "--rounds" => rounds = args.next().map_or(Ok(rounds), |n| n.parse())?,
            "--window" => window = Duration::from_millis(args.next().map_or(Ok(1500), |n| n.parse())?),
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            "speed" | "memory" | "mesh" => parts.push(arg.as_str()),
            other if other.starts_with('-') => bail!("unknown flag {other}\n{USAGE}"),
            other => other.clone_into(&mut filter),
        }
    }
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two CPUs are needed: one for the proxy, one for load and backends");
    }
    let setup = peers::Setup::find()?;
    println!("mizzen: {}", setup.mizzen.display());
    for (name, found) in [("haproxy", &setup.haproxy), ("nginx", &setup.nginx), ("envoy", &setup.envoy)] {
        println!(
            "{name}: {}",
            found
                .as_ref()
                .map_or("not installed, its columns are left out".into(), |p| p.display().to_string())
        );
    }
    println!(
        "{rounds} rounds of {window:?}, one worker, proxy on CPU {}, load on CPU {}\n",
        peers::PROXY_CPU,
        peers::LOAD_CPU
    );
    let wanted =
        |part: &str| parts.is_empty() && (filter.is_empty() || part == "speed") || parts.contains(&part);
    if wanted("speed") {
        speed::run(&setup, rounds, window, &filter)?;
    }
    if wanted("memory") {
        mesh::memory(&setup)?;
    }
    if wanted("mesh") {
        mesh::clusters(&setup)?;
    }
    Ok(())
}
