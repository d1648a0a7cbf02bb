//! Load, in a process of its own: closed loops over bolt, HTTP and TCP, bolt at a fixed rate, connections that
//! idle.
//!
//! The generator reads the proxy's CPU clock itself, right at the edges of its window, so that starting and
//! stopping cost nothing in the figures. The result is one line of JSON.

mod bolt;
mod http1;
pub mod http2;
mod tcp;

pub use http1::content_length;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http2::Shape;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::os;

/// How to load: `load KIND NAME=VALUE …`, a value for each field that is not its default.
pub struct Plan {
    pub kind: String,
    pub port: u16,
    pub connections: usize,
    pub in_flight: usize,
    /// Bytes of content of one request, or of its answer where only that has any.
    pub size: usize,
    pub window: Duration,
    /// Process whose CPU time counts.
    pub pid: u32,
    /// Requests per second over all connections, `open` only.
    pub rate: u64,
    /// Connections beside those, that made one request and idle.
    pub extra: usize,
    /// Fields of a request beside Host.
    pub fields: usize,
    pub host: String,
    /// What the target begins with.
    pub path: String,
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self> {
        let mut plan = Self {
            kind: args.first().context("load KIND …")?.clone(),
            port: 0,
            connections: 1,
            in_flight: 1,
            size: 256,
            window: Duration::from_secs(1),
            pid: 0,
            rate: 1000,
            extra: 0,
            fields: 3,
            host: "bench.local".to_owned(),
            path: "/".to_owned(),
        };
        for arg in args.iter().skip(1) {
            let (name, value) = arg.split_once('=').context("load: NAME=VALUE")?;
            let number = || value.parse::<u64>().with_context(|| format!("load: {arg}"));
            match name {
                "port" => plan.port = number()? as u16,
                "connections" => plan.connections = number()? as usize,
                "in_flight" => plan.in_flight = number()? as usize,
                "size" => plan.size = number()? as usize,
                "ms" => plan.window = Duration::from_millis(number()?),
                "pid" => plan.pid = number()? as u32,
                "rate" => plan.rate = number()?,
                "extra" => plan.extra = number()? as usize,
                "fields" => plan.fields = number()? as usize,
                "host" => value.clone_into(&mut plan.host),
                "path" => value.clone_into(&mut plan.path),
                _ => bail!("load: no setting {name}"),
            }
        }
        Ok(plan)
    }

    /// The target of an HTTP request: its last part tells the backend how much to answer.
    pub fn target(&self) -> String {
        format!("{}{}", self.path, self.size)
    }
}

#[derive(Default)]
struct Counts {
    open: bool,
    done: u64,
    failed: u64,
    /// Microseconds of each request, while the window is open.
    latency: Vec<u32>,
}

type Shared = Rc<RefCell<Counts>>;

fn count(shared: &Shared, ok: bool, since: Instant) {
    let mut counts = shared.borrow_mut();
    if !counts.open {
        return;
    }
    if ok {
        counts.done += 1;
        counts.latency.push(since.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
    } else {
        counts.failed += 1;
    }
}

pub async fn run(args: &[String]) -> Result<()> {
    os::raise_open_files();
    let plan = Rc::new(Plan::parse(args)?);
    let shared = Shared::default();
    let held = hold(&plan).await?;
    if plan.connections == 0 {
        println!("held {}", held.len());
        return std::future::pending().await;
    }
    for index in 0..plan.connections {
        let (plan, shared) = (plan.clone(), shared.clone());
        tokio::task::spawn_local(async move {
            let outcome = match plan.kind.as_str() {
                "bolt" => bolt::closed(&plan, &shared).await,
                "open" => bolt::open(&plan, &shared, index).await,
                "h1" => http1::closed(&plan, &shared).await,
                "h2c" => http2::closed(&plan, &shared, Shape::Plain).await,
                "unary" => http2::closed(&plan, &shared, Shape::Unary).await,
                "streaming" => http2::closed(&plan, &shared, Shape::Streaming).await,
                "tcp" => tcp::closed(&plan, &shared).await,
                other => Err(anyhow::anyhow!("no load {other}")),
            };
            if let Err(error) = outcome {
                eprintln!("{} connection {index}: {error:#}", plan.kind);
                shared.borrow_mut().failed += 1;
            }
        });
    }
    sleep((plan.window / 4).clamp(Duration::from_millis(300), Duration::from_secs(1))).await;
    println!("window");
    let (began, cpu) = (Instant::now(), os::cpu_time(plan.pid));
    shared.borrow_mut().open = true;
    sleep(plan.window).await;
    shared.borrow_mut().open = false;
    let (cpu, elapsed) = (os::cpu_time(plan.pid).saturating_sub(cpu), began.elapsed());
    report(&shared, cpu, elapsed, os::rss_kib(plan.pid));
    drop(held);
    Ok(())
}

fn report(shared: &Shared, cpu: Duration, elapsed: Duration, rss: u64) {
    let mut counts = shared.borrow_mut();
    counts.latency.sort_unstable();
    let at = |share: f64| {
        let index = (counts.latency.len() as f64 * share) as usize;
        counts.latency.get(index.min(counts.latency.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    let line = json!({
        "requests": counts.done, "failed": counts.failed, "seconds": elapsed.as_secs_f64(),
        "cpu_us": cpu.as_secs_f64() * 1e6, "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": at(1.0),
        "rss_kib": rss,
    });
    println!("result {line}");
}

async fn connect(port: u16) -> Result<TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Opens the connections that idle, and makes one request on each.
async fn hold(plan: &Plan) -> Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(plan.extra);
    for _ in 0..plan.extra {
        held.push(match plan.kind.as_str() {
            "bolt" => bolt::one(plan).await?,
            "h1" => http1::one(plan).await?,
            other => bail!("no idle {other}"),
        });
    }
    Ok(held)
}
