//! The rows of speed: each proxy under the same load, round after round in turn, so that what the machine does
//! meanwhile hits all of them alike.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::config::Role;
use crate::os::{self, Proc};
use crate::peers::{LOAD_CPU, Peer, Setup};
use crate::stats::{Spread, digits, table};

struct Row {
    name: &'static str,
    role: Role,
    backend: &'static str,
    load: &'static str,
    connections: usize,
    in_flight: usize,
    size: usize,
    peers: &'static [Peer],
    /// What Mizzen's ratio is held against.
    targets: &'static [(Peer, f64)],
}

const ALL: &[Peer] = &[Peer::Relay, Peer::Mizzen, Peer::HaProxy, Peer::Envoy];
const HTTP: &[Peer] = &[Peer::Mizzen, Peer::HaProxy, Peer::Envoy];
const H2_TARGETS: &[(Peer, f64)] = &[(Peer::HaProxy, 1.1), (Peer::Envoy, 0.45)];
const TCP_TARGETS: &[(Peer, f64)] = &[(Peer::Relay, 1.1)];

const fn bolt(
    name: &'static str,
    connections: usize,
    in_flight: usize,
    targets: &'static [(Peer, f64)],
) -> Row {
    Row {
        name,
        role: Role::Bolt,
        backend: "bolt",
        load: "bolt",
        connections,
        in_flight,
        size: 256,
        peers: &[Peer::Relay, Peer::Mizzen],
        targets,
    }
}

const fn h2c(name: &'static str, connections: usize, in_flight: usize) -> Row {
    Row {
        name,
        role: Role::H2c,
        backend: "h2c",
        load: "h2c",
        connections,
        in_flight,
        size: 256,
        peers: HTTP,
        targets: H2_TARGETS,
    }
}

const fn tcp(name: &'static str, connections: usize, size: usize) -> Row {
    Row {
        name,
        role: Role::Tcp,
        backend: "echo",
        load: "tcp",
        connections,
        in_flight: 1,
        size,
        peers: ALL,
        targets: TCP_TARGETS,
    }
}

const ROWS: &[Row] = &[
    bolt("bolt 64×1×256", 64, 1, &[(Peer::Relay, 0.75)]),
    bolt("bolt 16×16×256", 16, 16, &[(Peer::Relay, 1.8)]),
    Row { role: Role::TwoHops, ..bolt("bolt→h2→bolt 64×1×256", 64, 1, &[(Peer::Relay, 2.2)]) },
    h2c("h2c 8×8", 8, 8),
    h2c("h2c 4×25", 4, 25),
    h2c("h2c 8×1", 8, 1),
    tcp("tcp 64×1×256", 64, 256),
    tcp("tcp 8×64 KiB", 8, 64 * 1024),
    tcp("tcp 4×1 MiB", 4, 1024 * 1024),
];

/// Runs the rows whose names contain `filter`.
pub fn run(setup: &Setup, rounds: usize, window: Duration, filter: &str) -> Result<()> {
    for row in ROWS.iter().filter(|row| row.name.contains(filter)) {
        if let Err(error) = run_row(setup, row, rounds, window) {
            println!("{}: not measured: {error:#}\n", row.name);
        }
    }
    Ok(())
}

/// One proxy of a row, and what its rounds gave.
struct Runner {
    peer: Peer,
    process: Proc,
    port: u16,
    rounds: Vec<Value>,
}

fn run_row(setup: &Setup, row: &Row, rounds: usize, window: Duration) -> Result<()> {
    let backend_port = os::free_port()?;
    let args = ["backend".to_owned(), row.backend.to_owned(), backend_port.to_string()];
    let mut backend = Proc::own(&args, LOAD_CPU, &setup.log("backend"))?;
    backend.expect("ready", Duration::from_secs(5))?;
    let mut runners = Vec::new();
    for peer in row.peers.iter().copied().filter(|peer| setup.has(*peer)) {
        match setup.start(peer, row.role, backend_port) {
            Ok((process, port)) => runners.push(Runner { peer, process, port, rounds: Vec::new() }),
            Err(error) => println!("{}: {} did not start: {error:#}", row.name, peer.name()),
        }
    }
    for _ in 0..rounds {
        for runner in &mut runners {
            match load(setup, row, runner, window) {
                Ok(result) => runner.rounds.push(result),
                Err(error) => println!("{}: {}: {error:#}", row.name, runner.peer.name()),
            }
        }
    }
    print_row(row, &runners);
    Ok(())
}

fn load(setup: &Setup, row: &Row, runner: &Runner, window: Duration) -> Result<Value> {
    let args = [
        "load".to_owned(),
        row.load.to_owned(),
        runner.port.to_string(),
        row.connections.to_string(),
        row.in_flight.to_string(),
        row.size.to_string(),
        window.as_millis().to_string(),
        runner.process.pid().to_string(),
    ];
    let mut load = Proc::own(&args, LOAD_CPU, &setup.log("load"))?;
    let line = load.expect("result", window + Duration::from_secs(20))?;
    let result: Value = serde_json::from_str(&line).context("the load's result")?;
    anyhow::ensure!(number(&result, "requests") > 0.0, "no request succeeded");
    Ok(result)
}

fn number(result: &Value, key: &str) -> f64 {
    result[key].as_f64().unwrap_or(f64::NAN)
}

fn cpu_per_request(result: &Value) -> f64 {
    number(result, "cpu_us") / number(result, "requests")
}

fn print_row(row: &Row, runners: &[Runner]) {
    let spread =
        |runner: &Runner, read: &dyn Fn(&Value) -> f64| Spread::of(runner.rounds.iter().map(read).collect());
    let mut lines = Vec::new();
    for runner in runners.iter().filter(|runner| !runner.rounds.is_empty()) {
        let cpu = spread(runner, &cpu_per_request);
        let rate = spread(runner, &|result| number(result, "requests") / number(result, "seconds"));
        let failed: f64 = runner.rounds.iter().map(|result| number(result, "failed")).sum();
        lines.push(vec![
            runner.peer.name().to_owned(),
            digits(cpu.median),
            format!("{}–{}", digits(cpu.low), digits(cpu.high)),
            digits(spread(runner, &|result| number(result, "p50")).median),
            digits(spread(runner, &|result| number(result, "p99")).median),
            digits(rate.median / 1000.0),
            digits(spread(runner, &|result| number(result, "rss_kib") / 1024.0).median),
            digits(failed),
            runner.rounds.len().to_string(),
        ]);
    }
    println!("{}", row.name);
    table(
        &["", "CPU µs/req", "quartiles", "p50 µs", "p99 µs", "k req/s", "RSS MB", "failed", "rounds"],
        &lines,
    );
    let Some(ours) = runners.iter().find(|runner| runner.peer == Peer::Mizzen) else { return };
    for other in runners.iter().filter(|runner| runner.peer != Peer::Mizzen) {
        // Rounds are paired: the same minute of the machine for both.
        let pairs = ours.rounds.iter().zip(&other.rounds);
        let ratio = Spread::of(pairs.map(|(a, b)| cpu_per_request(a) / cpu_per_request(b)).collect());
        let target = row.targets.iter().find(|(peer, _)| *peer == other.peer);
        let verdict = target.map_or_else(String::new, |(_, most)| {
            format!("   target ≤ {most}: {}", if ratio.median <= *most { "met" } else { "MISSED" })
        });
        println!(
            "  mizzen / {}: {} ({}–{}){verdict}",
            other.peer.name(),
            digits(ratio.median),
            digits(ratio.low),
            digits(ratio.high)
        );
    }
    println!();
}
