//! Load, in a process of its own: closed loops over bolt, h2c and TCP, bolt at a fixed rate, bolt that idles.
//!
//! The generator reads the proxy's CPU clock itself, right at the edges of its window, so that starting and
//! stopping cost nothing in the figures. The result is one line of JSON.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until};

use crate::{bolt, os};

/// How to load: from the command line `load KIND PORT CONNECTIONS IN_FLIGHT SIZE MILLISECONDS PID [RATE]`.
pub struct Plan {
    pub kind: String,
    pub port: u16,
    pub connections: usize,
    pub in_flight: usize,
    /// Bytes of content of one request.
    pub size: usize,
    pub window: Duration,
    /// Process whose CPU time counts.
    pub pid: u32,
    /// Requests per second over all connections, `open` only.
    pub rate: u64,
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self> {
        let number = |at: usize| -> Result<u64> {
            args.get(at)
                .with_context(|| format!("load: argument {at} is missing"))?
                .parse()
                .context("load: a number")
        };
        Ok(Self {
            kind: args.first().context("load KIND …")?.clone(),
            port: number(1)? as u16,
            connections: number(2)? as usize,
            in_flight: number(3)? as usize,
            size: number(4)? as usize,
            window: Duration::from_millis(number(5)?),
            pid: number(6)? as u32,
            rate: number(7).unwrap_or(1000),
        })
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
    if plan.kind == "idle" {
        return idle(&plan).await;
    }
    for index in 0..plan.connections {
        let (plan, shared) = (plan.clone(), shared.clone());
        tokio::task::spawn_local(async move {
            let outcome = match plan.kind.as_str() {
                "bolt" => closed_bolt(&plan, &shared).await,
                "open" => open_bolt(&plan, &shared, index).await,
                "h2c" => closed_h2c(&plan, &shared).await,
                "tcp" => closed_tcp(&plan, &shared).await,
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

const SERVICE: &str = "com.alipay.test.TestService:1.0";

/// Keeps `in_flight` requests going: as many answers as one read brings, so many requests one write carries.
async fn closed_bolt(plan: &Plan, shared: &Shared) -> Result<()> {
    let mut socket = connect(plan.port).await?;
    let mut frame = bolt::request(SERVICE, plan.size);
    let mut sent = vec![Instant::now(); plan.in_flight];
    let mut output = Vec::new();
    let mut input = BytesMut::with_capacity(64 * 1024);
    for slot in 0..plan.in_flight {
        bolt::set_id(&mut frame, slot as u32 + 1);
        output.extend_from_slice(&frame);
    }
    loop {
        socket.write_all(&output).await?;
        output.clear();
        while output.is_empty() {
            input.reserve(64 * 1024);
            if socket.read_buf(&mut input).await? == 0 {
                bail!("closed by the proxy");
            }
            let now = Instant::now();
            while let Some(head) = bolt::take(&mut input) {
                let slot = sent.get_mut(head.id as usize - 1).context("an answer nobody asked for")?;
                count(shared, head.status == 0 && head.content == plan.size, *slot);
                *slot = now;
                bolt::set_id(&mut frame, head.id);
                output.extend_from_slice(&frame);
            }
        }
    }
}

/// Sends at its times whether answers came or not; latency counts from when a request was due.
async fn open_bolt(plan: &Plan, shared: &Shared, index: usize) -> Result<()> {
    let (mut reader, mut writer) = connect(plan.port).await?.into_split();
    let pending: Rc<RefCell<std::collections::HashMap<u32, Instant>>> = Rc::default();
    let (waiting, counts, size) = (pending.clone(), shared.clone(), plan.size);
    tokio::task::spawn_local(async move {
        let mut input = BytesMut::with_capacity(64 * 1024);
        while let Ok(1..) = reader.read_buf(&mut input).await {
            while let Some(head) = bolt::take(&mut input) {
                if let Some(due) = waiting.borrow_mut().remove(&head.id) {
                    count(&counts, head.status == 0 && head.content == size, due);
                }
            }
            input.reserve(64 * 1024);
        }
    });
    let mut frame = bolt::request(SERVICE, plan.size);
    let gap = Duration::from_nanos(1_000_000_000 * plan.connections as u64 / plan.rate);
    let mut due = Instant::now() + gap * index as u32 / plan.connections as u32;
    for id in 1.. {
        sleep_until(due.into()).await;
        bolt::set_id(&mut frame, id);
        pending.borrow_mut().insert(id, due);
        writer.write_all(&frame).await?;
        due += gap;
    }
    Ok(())
}

async fn closed_h2c(plan: &Rc<Plan>, shared: &Shared) -> Result<()> {
    let socket = connect(plan.port).await?;
    let (client, connection) = h2::client::Builder::new()
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Bytes>(socket)
        .await?;
    for _ in 0..plan.in_flight {
        let (client, shared) = (client.clone(), shared.clone());
        tokio::task::spawn_local(async move {
            loop {
                let began = Instant::now();
                match one_h2c(client.clone()).await {
                    Ok(ok) => count(&shared, ok, began),
                    Err(error) => {
                        eprintln!("h2c: {error:#}");
                        shared.borrow_mut().failed += 1;
                        return;
                    }
                }
            }
        });
    }
    connection.await?;
    bail!("closed by the proxy")
}

async fn one_h2c(client: h2::client::SendRequest<Bytes>) -> Result<bool> {
    let request = http::Request::get("http://bench.local/x").body(())?;
    let (answer, _) = client.ready().await?.send_request(request, true)?;
    let answer = answer.await?;
    let ok = answer.status() == 200;
    let mut body = answer.into_body();
    let mut size = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        size += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok(ok && size == 256)
}

/// Sends `size` bytes and waits until as many came back; writing and reading at once, as large ones need it.
async fn closed_tcp(plan: &Plan, shared: &Shared) -> Result<()> {
    let mut socket = connect(plan.port).await?;
    let (mut reader, mut writer) = socket.split();
    let data = vec![b'z'; plan.size];
    let mut buf = vec![0; plan.size.min(256 * 1024)];
    loop {
        let began = Instant::now();
        let reading = async {
            let mut left = plan.size;
            while left > 0 {
                let most = left.min(buf.len());
                match reader.read(&mut buf[..most]).await? {
                    0 => bail!("closed by the proxy"),
                    read => left -= read,
                }
            }
            Ok(())
        };
        let writing = async { Ok(writer.write_all(&data).await?) };
        tokio::try_join!(reading, writing)?;
        count(shared, true, began);
    }
}

/// Opens connections, makes one request on each, then holds them until told to end.
async fn idle(plan: &Plan) -> Result<()> {
    let mut held = Vec::with_capacity(plan.connections);
    let mut frame = bolt::request(SERVICE, plan.size);
    bolt::set_id(&mut frame, 1);
    for _ in 0..plan.connections {
        let mut socket = connect(plan.port).await?;
        socket.write_all(&frame).await?;
        let mut input = BytesMut::with_capacity(2048);
        let status = loop {
            if socket.read_buf(&mut input).await? == 0 {
                bail!("closed by the proxy");
            }
            if let Some(head) = bolt::take(&mut input) {
                break head.status;
            }
        };
        if status != 0 {
            bail!("bolt status {status}");
        }
        held.push(socket);
    }
    println!("held {}", held.len());
    std::future::pending().await
}
