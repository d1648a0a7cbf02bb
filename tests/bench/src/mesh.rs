//! The rows of memory and configuration: what a proxy costs that does nothing, and what a mesh costs it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::config::{self, Extras, Role};
use crate::os::{self, Proc};
use crate::peers::{LOAD_CPU, Peer, Setup};
use crate::stats::{Spread, digits, table};

const SECOND: Duration = Duration::from_secs(1);

fn mb(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

fn ms(time: Duration) -> String {
    digits(time.as_secs_f64() * 1e3)
}

fn control_plane(setup: &Setup, clusters: u32, listener: u16, backend: u16) -> Result<(Proc, u16)> {
    plane(setup, clusters, listener, backend, false)
}

/// With `hosts` its listener has a route table of one virtual host for each cluster.
fn plane(setup: &Setup, clusters: u32, listener: u16, backend: u16, hosts: bool) -> Result<(Proc, u16)> {
    let port = os::free_port()?;
    let numbers = [port.to_string(), clusters.to_string(), listener.to_string(), backend.to_string()];
    let mut args = vec!["ads".to_owned()];
    args.extend(numbers);
    args.extend(hosts.then(|| "hosts".to_owned()));
    let mut plane = Proc::own(&args, LOAD_CPU, &setup.log("ads"))?;
    plane.expect("ready", 10 * SECOND)?;
    Ok((plane, port))
}

/// Idle size and wake-ups, and the size of idle connections.
pub fn memory(setup: &Setup) -> Result<()> {
    let mut rows = Vec::new();
    for peer in [Peer::Mizzen, Peer::Envoy].into_iter().filter(|peer| setup.has(*peer)) {
        let row = idle(setup, peer)
            .unwrap_or_else(|error| vec![peer.name().to_owned(), format!("not measured: {error:#}")]);
        rows.push(row);
    }
    println!("idle, ADS connected, one worker (targets: ≤ 10 MB, ≤ 1 wake-up per second)");
    table(&["", "RSS MB", "anonymous MB", "wake-ups/s", "CPU ms/s"], &rows);
    let kinds = [("bolt", Role::Bolt, "bolt", 10_000, 6), ("HTTP/1", Role::H1(Extras::None), "h1", 5_000, 8)];
    for (name, role, kind, count, most) in kinds {
        match connections(setup, role, kind, count) {
            Ok(row) => {
                println!(
                    "{count} idle {name} connections, each after one request (target: ≤ {most} KB each)"
                );
                table(&["", "RSS MB before", "after", "KB each", "MB after their end"], &[row]);
            }
            Err(error) => println!("{count} idle {name} connections: not measured: {error:#}\n"),
        }
    }
    Ok(())
}

fn idle(setup: &Setup, peer: Peer) -> Result<Vec<String>> {
    let (mut plane, port) = control_plane(setup, 1, 0, 1)?;
    let proxy =
        setup.start_bootstrap(peer, &format!("idle-{}", peer.name()), &config::dynamic(port, true))?;
    plane.expect("ack ClusterLoadAssignment", 10 * SECOND)?;
    std::thread::sleep(10 * SECOND);
    let (rss, anon) = (os::rss_kib(proxy.pid()), os::anon_kib(proxy.pid()));
    let (wakeups, cpu) = (os::wakeups(proxy.pid()), os::cpu_time(proxy.pid()));
    std::thread::sleep(10 * SECOND);
    let woken = (os::wakeups(proxy.pid()) - wakeups) as f64 / 10.0;
    let cpu = (os::cpu_time(proxy.pid()) - cpu) / 10;
    Ok(vec![peer.name().to_owned(), mb(rss), mb(anon), digits(woken), ms(cpu)])
}

fn connections(setup: &Setup, role: Role, kind: &str, count: usize) -> Result<Vec<String>> {
    let backend_port = os::free_port()?;
    let args = ["backend".to_owned(), kind.to_owned(), backend_port.to_string()];
    let mut backend = Proc::own(&args, LOAD_CPU, &setup.log("backend"))?;
    backend.expect("ready", 5 * SECOND)?;
    let (proxy, port) = setup.start(Peer::Mizzen, role, 1, backend_port)?;
    std::thread::sleep(2 * SECOND);
    let before = os::rss_kib(proxy.pid());
    let args = ["load", kind, "connections=0", &format!("port={port}"), &format!("extra={count}")];
    let mut load = Proc::own(&args.map(str::to_owned), LOAD_CPU, &setup.log("load"))?;
    load.expect("held", 60 * SECOND)?;
    std::thread::sleep(3 * SECOND);
    let after = os::rss_kib(proxy.pid());
    drop(load);
    std::thread::sleep(5 * SECOND);
    let end = os::rss_kib(proxy.pid());
    let each = after.saturating_sub(before) as f64 / count as f64;
    Ok(vec!["mizzen".to_owned(), mb(before), mb(after), digits(each), mb(end)])
}

const CLUSTERS: u32 = 10_000;

/// A mesh of 10,000 clusters: first push, one endpoint, the same again, and what requests feel of it.
pub fn clusters(setup: &Setup) -> Result<()> {
    println!(
        "{CLUSTERS} clusters with endpoints by ADS (targets: first ≤ 600 ms CPU, RSS ≤ 60 MB, peak ≤ 120 MB;"
    );
    println!("one endpoint ≤ 0.3 ms delta, ≤ 20 ms state of the world; repeated ≤ 40 ms)");
    let mut rows = Vec::new();
    for (peer, delta) in
        [(Peer::Mizzen, true), (Peer::Mizzen, false), (Peer::Envoy, true), (Peer::Envoy, false)]
    {
        if !setup.has(peer) {
            continue;
        }
        let name = format!("{} {}", peer.name(), if delta { "delta" } else { "sotw" });
        let row = mesh(setup, peer, delta)
            .unwrap_or_else(|error| vec![name.clone(), format!("not measured: {error:#}")]);
        rows.push([vec![name], row].concat());
    }
    table(
        &["", "first s", "CPU ms", "peak MB", "RSS MB 15 s after", "endpoint CPU ms", "repeat CPU ms"],
        &rows,
    );
    println!(
        "the same with a route table of {CLUSTERS} virtual hosts (targets: first ≤ 700 ms CPU, RSS ≤ 75 MB;"
    );
    println!("the table again with one change ≤ 30 ms)");
    let mut rows = Vec::new();
    for peer in [Peer::Mizzen, Peer::Envoy].into_iter().filter(|peer| setup.has(*peer)) {
        let name = peer.name().to_owned();
        let row = hosts(setup, peer).unwrap_or_else(|error| vec![format!("not measured: {error:#}")]);
        rows.push([vec![name], row].concat());
    }
    table(&["", "first s", "CPU ms", "peak MB", "RSS MB 15 s after", "route CPU ms"], &rows);
    match latency(setup) {
        Ok(rows) => {
            println!(
                "1,000 bolt requests/s through one worker while the control plane pushes (target: max + 5 ms at most)"
            );
            table(&["", "p50 µs", "p99 µs", "p99.9 µs", "max µs", "failed"], &rows);
        }
        Err(error) => println!("latency during pushes: not measured: {error:#}\n"),
    }
    Ok(())
}

/// CPU time from `began` until the process has used less than 1 ms of a 300 ms slice.
fn settled(pid: u32, began: Duration) -> Duration {
    let end = Instant::now() + 30 * SECOND;
    loop {
        let before = os::cpu_time(pid);
        std::thread::sleep(SECOND * 3 / 10);
        let after = os::cpu_time(pid);
        if after - before < Duration::from_millis(1) || Instant::now() > end {
            return after.saturating_sub(began);
        }
    }
}

fn mesh(setup: &Setup, peer: Peer, delta: bool) -> Result<Vec<String>> {
    let (mut plane, port) = control_plane(setup, CLUSTERS, 0, 1)?;
    let began = Instant::now();
    let proxy = setup.start_bootstrap(
        peer,
        &format!("mesh-{}-{delta}", peer.name()),
        &config::dynamic(port, delta),
    )?;
    let pid = proxy.pid();
    plane.expect("ack Cluster", 60 * SECOND)?;
    plane.expect("ack ClusterLoadAssignment", 60 * SECOND)?;
    let took = began.elapsed();
    let first = settled(pid, Duration::ZERO);
    std::thread::sleep(15 * SECOND);
    let (peak, rss) = (os::peak_kib(pid), os::rss_kib(pid));
    let endpoint =
        pushes(&mut plane, pid, "endpoint", "ack ClusterLoadAssignment", if delta { 100 } else { 10 })?;
    let repeat = pushes(&mut plane, pid, "repeat", "ack ClusterLoadAssignment", 5)?;
    Ok(vec![digits(took.as_secs_f64()), ms(first), mb(peak), mb(rss), ms(endpoint), ms(repeat)])
}

/// Clusters, endpoints and a table of virtual hosts, then the table again with one change.
fn hosts(setup: &Setup, peer: Peer) -> Result<Vec<String>> {
    let (mut plane, port) = plane(setup, CLUSTERS, os::free_port()?, 1, true)?;
    let began = Instant::now();
    let config = config::dynamic(port, true);
    let proxy = setup.start_bootstrap(peer, &format!("hosts-{}", peer.name()), &config)?;
    let pid = proxy.pid();
    plane.expect("ack RouteConfiguration", 60 * SECOND)?;
    let took = began.elapsed();
    let first = settled(pid, Duration::ZERO);
    std::thread::sleep(15 * SECOND);
    let (peak, rss) = (os::peak_kib(pid), os::rss_kib(pid));
    let route = pushes(&mut plane, pid, "route", "ack RouteConfiguration", 10)?;
    Ok(vec![digits(took.as_secs_f64()), ms(first), mb(peak), mb(rss), ms(route)])
}

/// Median CPU time of one push, of `count`, each waited for until `answer`.
fn pushes(plane: &mut Proc, pid: u32, command: &str, answer: &str, count: usize) -> Result<Duration> {
    let mut costs = Vec::new();
    for _ in 0..count {
        let before = os::cpu_time(pid);
        plane.tell(command)?;
        plane.expect(answer, 30 * SECOND)?;
        std::thread::sleep(Duration::from_millis(if count > 50 { 30 } else { 300 }));
        costs.push((os::cpu_time(pid) - before).as_secs_f64());
    }
    Ok(Duration::from_secs_f64(Spread::of(costs).median))
}

/// Requests at a fixed rate, first alone, then during each kind of push.
fn latency(setup: &Setup) -> Result<Vec<Vec<String>>> {
    let backend_port = os::free_port()?;
    let mut backend = Proc::own(
        &["backend".to_owned(), "bolt".to_owned(), backend_port.to_string()],
        LOAD_CPU,
        &setup.log("backend"),
    )?;
    backend.expect("ready", 5 * SECOND)?;
    let listener = os::free_port()?;
    let mut rows = Vec::new();
    for delta in [true, false] {
        let (mut plane, port) = control_plane(setup, CLUSTERS, listener, backend_port)?;
        let name = format!("latency-{delta}");
        let mut proxy = setup.start_bootstrap(Peer::Mizzen, &name, &config::dynamic(port, delta))?;
        proxy.wait_for_port(listener, 20 * SECOND)?;
        settled(proxy.pid(), Duration::ZERO);
        let variant = if delta { "delta" } else { "sotw" };
        for command in ["", "endpoint", "repeat"] {
            let mut load = start_open(setup, listener, proxy.pid())?;
            load.expect("window", 5 * SECOND)?;
            let end = Instant::now() + 4 * SECOND;
            while !command.is_empty() && Instant::now() < end {
                plane.tell(command)?;
                plane.expect("ack ClusterLoadAssignment", 20 * SECOND)?;
                std::thread::sleep(SECOND / 5);
            }
            let result: Value =
                serde_json::from_str(&load.expect("result", 20 * SECOND)?).context("result")?;
            let name = if command.is_empty() { "no push" } else { command };
            let cell = |key: &str| digits(result[key].as_f64().unwrap_or(f64::NAN));
            let cells = ["p50", "p99", "p999", "max", "failed"].map(cell);
            rows.push([vec![format!("{variant}, {name}")], cells.to_vec()].concat());
        }
    }
    Ok(rows)
}

fn start_open(setup: &Setup, port: u16, pid: u32) -> Result<Proc> {
    let (port, pid) = (format!("port={port}"), format!("pid={pid}"));
    let args = ["load", "open", &port, &pid, "connections=8", "size=256", "ms=5000", "rate=1000"];
    Proc::own(&args.map(str::to_owned), LOAD_CPU, &setup.log("load"))
}
