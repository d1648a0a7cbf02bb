//! Measures the rows of speed: each proxy under the same load, round after round in turn, so that what the
//! machine does meanwhile hits all of them alike.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::os::{self, Proc};
use crate::peers::{LOAD_CPU, Peer, Setup};
use crate::rows::{Entrant, Measure, ROWS, Row, Target, Than};
use crate::stats::{Spread, digits, table};

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
    entrant: Entrant,
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
    for entrant in row.entrants.iter().copied().filter(|entrant| setup.has(entrant.peer)) {
        match setup.start(entrant.peer, entrant.role, entrant.workers, backend_port) {
            Ok((process, port)) => runners.push(Runner { entrant, process, port, rounds: Vec::new() }),
            Err(error) => println!("{}: {} did not start: {error:#}", row.name, entrant.label),
        }
    }
    for _ in 0..rounds {
        for runner in &mut runners {
            match load(setup, row, runner, window) {
                Ok(result) => runner.rounds.push(result),
                Err(error) => println!("{}: {}: {error:#}", row.name, runner.entrant.label),
            }
        }
    }
    runners.retain(|runner| !runner.rounds.is_empty());
    print_row(row, &runners);
    Ok(())
}

fn load(setup: &Setup, row: &Row, runner: &Runner, window: Duration) -> Result<Value> {
    let (host, path) = runner.entrant.role.place();
    let args = [
        "load".to_owned(),
        row.load.to_owned(),
        format!("port={}", runner.port),
        format!("connections={}", row.connections),
        format!("in_flight={}", row.in_flight),
        format!("size={}", row.size),
        format!("fields={}", row.fields),
        format!("extra={}", runner.entrant.extra),
        format!("host={host}"),
        format!("path={path}"),
        format!("ms={}", window.as_millis()),
        format!("pid={}", runner.process.pid()),
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

fn spread(runner: &Runner, read: impl Fn(&Value) -> f64) -> Spread {
    Spread::of(runner.rounds.iter().map(read).collect())
}

fn print_row(row: &Row, runners: &[Runner]) {
    let mut lines = Vec::new();
    for runner in runners {
        let cpu = spread(runner, cpu_per_request);
        let rate = spread(runner, |result| number(result, "requests") / number(result, "seconds"));
        let failed: f64 = runner.rounds.iter().map(|result| number(result, "failed")).sum();
        let median = |key: &str| digits(spread(runner, |result| number(result, key)).median);
        lines.push(vec![
            runner.entrant.label.to_owned(),
            digits(cpu.median),
            format!("{}–{}", digits(cpu.low), digits(cpu.high)),
            median("p50"),
            median("p99"),
            median("p999"),
            digits(rate.median / 1000.0),
            digits(spread(runner, |result| number(result, "rss_kib") / 1024.0).median),
            digits(failed),
            runner.rounds.len().to_string(),
        ]);
    }
    println!("{}", row.name);
    let head = [
        "",
        "CPU µs/req",
        "quartiles",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "k req/s",
        "RSS MB",
        "failed",
        "rounds",
    ];
    table(&head, &lines);
    for target in row.targets {
        print_target(target, runners);
    }
    let Some(ours) = find(runners, "mizzen") else { return println!() };
    let aimed = |runner: &&Runner| {
        let label = Than::One(runner.entrant.label);
        row.targets.iter().any(|target| target.than == label && target.measure == Measure::Cpu)
    };
    for other in runners.iter().filter(|runner| runner.entrant.peer != Peer::Mizzen && !aimed(runner)) {
        let ratio = pairs(ours, other, |a, b| cpu_per_request(a) / cpu_per_request(b));
        println!("  mizzen / {}: {}", other.entrant.label, shown(ratio));
    }
    println!();
}

fn find<'r>(runners: &'r [Runner], label: &str) -> Option<&'r Runner> {
    runners.iter().find(|runner| runner.entrant.label == label)
}

/// Rounds are paired: the same minute of the machine for both.
fn pairs(ours: &Runner, other: &Runner, measure: impl Fn(&Value, &Value) -> f64) -> Spread {
    Spread::of(ours.rounds.iter().zip(&other.rounds).map(|(a, b)| measure(a, b)).collect())
}

fn shown(spread: Spread) -> String {
    format!("{} ({}–{})", digits(spread.median), digits(spread.low), digits(spread.high))
}

fn print_target(target: &Target, runners: &[Runner]) {
    let other = match target.than {
        Than::One(label) => find(runners, label),
        Than::Best => runners
            .iter()
            .filter(|runner| !matches!(runner.entrant.peer, Peer::Mizzen | Peer::Relay | Peer::SmallRelay))
            .min_by(|a, b| {
                let cpu = |runner: &Runner| spread(runner, cpu_per_request).median;
                cpu(a).total_cmp(&cpu(b))
            }),
    };
    let (Some(ours), Some(other)) = (find(runners, target.label), other) else { return };
    let (value, what) = match target.measure {
        Measure::Cpu => (pairs(ours, other, |a, b| cpu_per_request(a) / cpu_per_request(b)), "/"),
        Measure::P50 => (pairs(ours, other, |a, b| number(a, "p50") / number(b, "p50")), "/ p50 of"),
        Measure::Added => (pairs(ours, other, |a, b| cpu_per_request(a) - cpu_per_request(b)), "−"),
    };
    let verdict = if value.median <= target.most { "met" } else { "MISSED" };
    println!(
        "  {} {what} {}: {}   target ≤ {}: {verdict}",
        target.label,
        other.entrant.label,
        shown(value),
        target.most
    );
}
