//! HTTP/1.1 at a fixed rate, whatever the answers take: a thread per connection, because a runtime's timers are a
//! millisecond wide. A request that waits for the answer before it counts from when it was due.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{pids, settings};
use crate::os;

/// The same load before the window, so that connections and caches are warm.
const WARM_UP: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Plan {
    address: SocketAddr,
    request: Vec<u8>,
    /// Bytes of a body, both ways.
    size: usize,
    /// Between two requests of one connection.
    gap: Duration,
    /// When the window opens, and when it closes.
    window: (Instant, Instant),
}

#[derive(Default)]
struct Counts {
    failed: u64,
    /// Nanoseconds of each request of the window that was answered as it should be.
    latency: Vec<u64>,
}

/// `steady ADDRESS HOST PIDS [connections=16] [rate=1000] [size=1024] [ms=60000]`
pub fn run(args: &[String]) -> Result<()> {
    let [address, host, processes, rest @ ..] = args else { bail!("steady ADDRESS HOST PIDS NAME=VALUE…") };
    let [connections, rate, size, ms] =
        settings(rest, [("connections", 16), ("rate", 1000), ("size", 1024), ("ms", 60_000)])?;
    let processes = pids(processes)?;
    let began = Instant::now() + Duration::from_millis(50);
    let window = (began + WARM_UP, began + WARM_UP + Duration::from_millis(ms));
    let mut request = format!(
        "POST /{size} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + size as usize, b'x');
    let gap = Duration::from_nanos(1_000_000_000 * connections / rate);
    let plan = Plan { address: address.parse()?, request, size: size as usize, gap, window };
    let threads: Vec<_> = (0..connections)
        .map(|index| {
            let (plan, first) = (plan.clone(), began + gap * index as u32 / connections as u32);
            thread::spawn(move || keep_asking(&plan, first))
        })
        .collect();
    sleep_until(window.0);
    let before: Vec<Duration> = processes.iter().map(|pid| os::cpu_time(*pid)).collect();
    let opened = Instant::now();
    sleep_until(window.1);
    let after: Vec<Duration> = processes.iter().map(|pid| os::cpu_time(*pid)).collect();
    let seconds = opened.elapsed().as_secs_f64();
    let cpu: Vec<f64> =
        after.iter().zip(&before).map(|(a, b)| a.saturating_sub(*b).as_secs_f64() * 1e6).collect();
    let rss: Vec<u64> = processes.iter().map(|pid| os::rss_kib(*pid)).collect();
    let mut all = Counts::default();
    for thread in threads {
        let counts = thread.join().map_err(|_| anyhow::anyhow!("a connection's thread died"))?;
        all.failed += counts.failed;
        all.latency.extend(counts.latency);
    }
    all.latency.sort_unstable();
    let at = |share: f64| {
        let index = (all.latency.len() as f64 * share) as usize;
        all.latency.get(index.min(all.latency.len().saturating_sub(1))).map_or(0.0, |ns| *ns as f64 / 1e3)
    };
    let line = json!({
        "requests": all.latency.len(), "failed": all.failed, "seconds": seconds, "cpu_us": cpu, "rss_kib": rss,
        "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0),
    });
    println!("result {line}");
    Ok(())
}

fn sleep_until(moment: Instant) {
    sleep(moment.saturating_duration_since(Instant::now()));
}

fn keep_asking(plan: &Plan, mut due: Instant) -> Counts {
    // By default the kernel may wake a thread 50 µs late, to save power.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let mut counts = Counts::default();
    let mut connection = None;
    while due < plan.window.1 {
        let began = if Instant::now() > due {
            due
        } else {
            sleep_until(due);
            Instant::now()
        };
        let outcome = ask(plan, &mut connection);
        match outcome {
            Ok(()) if due >= plan.window.0 => {
                counts.latency.push(began.elapsed().as_nanos().min(u128::from(u64::MAX)) as u64);
            }
            Ok(()) => {}
            Err(error) => {
                eprintln!("steady: {error:#}");
                counts.failed += 1;
                connection = None;
            }
        }
        due += plan.gap;
    }
    counts
}

fn ask(plan: &Plan, connection: &mut Option<TcpStream>) -> Result<()> {
    let socket = match connection {
        Some(socket) => socket,
        None => connection.insert(connect(plan.address)?),
    };
    socket.write_all(&plan.request).context("send")?;
    let mut input = Vec::with_capacity(plan.size + 2048);
    let mut buf = [0; 16 * 1024];
    let end = loop {
        let read = socket.read(&mut buf).context("answer")?;
        if read == 0 {
            bail!("closed before the answer");
        }
        input.extend_from_slice(&buf[..read]);
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    if !input.starts_with(b"HTTP/1.1 200") {
        bail!("answer {}", String::from_utf8_lossy(&input[..end]));
    }
    let mut left = (end + plan.size).saturating_sub(input.len());
    while left > 0 {
        match socket.read(&mut buf).context("body")? {
            0 => bail!("closed within the body"),
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}
