//! The sidecars: child processes of this binary, with their folders, ports and ends.
//!
//! Owns the demo's scratch folder and every child; dropping either removes it. Takes in bootstrap documents;
//! gives out processes that can be told to leave while others take their place.

use super::resources::bootstrap;
use crate::util::random::Random;
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};

/// How often a child is looked at.
const POLL: Duration = Duration::from_millis(20);
/// What a leaving sidecar may take for its last requests.
const DRAIN_S: &str = "10";

/// Ports of loopback that are free now, all different, and below the range the system hands out: another
/// socket of this tour must not be given one before its sidecar is up.
///
/// # Errors
/// None can be had.
pub fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let random = Random::default();
    // Held until all are chosen, so that none is given twice.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let tries = (0..1000).map(|_| 10_000 + random.below(20_000) as u16);
        let free = tries.map(|port| TcpListener::bind(("127.0.0.1", port))).find_map(Result::ok);
        let socket = free.context("no free port on loopback")?;
        *port = socket.local_addr()?.port();
        held.push(socket);
    }
    Ok(ports)
}

/// A folder that is removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty one, for this process.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("mizzen-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Scratch(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running process; dropping it kills it.
pub struct Process(Child);

impl Process {
    /// Its id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Tells it to leave in good order.
    ///
    /// # Errors
    /// It is gone already.
    pub fn terminate(&self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM).context("SIGTERM")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It is still there after `limit`, or did not end in good order.
    pub async fn left(mut self, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        loop {
            match self.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the sidecar told to leave ended with {status}"),
                None if Instant::now() > end => bail!("the sidecar told to leave is still there"),
                None => sleep(POLL).await,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A place where one sidecar runs at a time.
pub struct Sidecar {
    /// Its node id.
    pub node: &'static str,
    /// Its listener's port.
    pub port: u16,
    /// Its admin's port.
    pub admin: u16,
    control_plane: u16,
    folder: PathBuf,
    process: Process,
}

impl Sidecar {
    /// Writes its bootstrap below `scratch` and starts it.
    ///
    /// # Errors
    /// Files or the process cannot be made.
    pub fn start(
        scratch: &Scratch,
        node: &'static str,
        port: u16,
        admin: u16,
        control_plane: u16,
    ) -> anyhow::Result<Self> {
        let folder = scratch.path().join(node);
        std::fs::create_dir_all(folder.join("conf"))?;
        let process = spawn(&folder, &bootstrap(node, admin, control_plane))?;
        Ok(Sidecar { node, port, admin, control_plane, folder, process })
    }

    /// Tells the process to leave and starts the next one in its place at once. Gives the leaving one. The next
    /// one's admin has a port of its own: the leaving one still answers on the old.
    ///
    /// # Errors
    /// The old one is gone already, or the new one cannot be made.
    pub fn replace(&mut self) -> anyhow::Result<Process> {
        [self.admin] = free_ports()?;
        self.process.terminate()?;
        let next = spawn(&self.folder, &bootstrap(self.node, self.admin, self.control_plane))?;
        Ok(std::mem::replace(&mut self.process, next))
    }

    /// The process now.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until a last good snapshot written after `since` lies in its folder.
    ///
    /// # Errors
    /// None does after `limit`.
    pub async fn saved_since(&self, since: SystemTime, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        let written = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.and_then(|file| file.metadata()?.modified()).is_ok_and(|at| at >= since)
        };
        while !std::fs::read_dir(self.folder.join("state")).is_ok_and(|mut files| files.any(written)) {
            if Instant::now() > end {
                bail!("{} has not saved its snapshot after {limit:?}", self.node);
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// The end of its log, for when something broke.
    pub fn log(&self, lines: usize) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let all: Vec<_> = text.lines().map(str::to_owned).collect();
        all.into_iter().rev().take(lines).rev().collect()
    }
}

fn spawn(folder: &Path, bootstrap: &Value) -> anyhow::Result<Process> {
    let config = folder.join("conf/bootstrap.json");
    std::fs::write(&config, serde_json::to_vec_pretty(bootstrap)?)?;
    let binary = std::env::current_exe().context("this program's path")?;
    let log = File::options().create(true).append(true).open(folder.join("log"))?;
    let child = Command::new(&binary)
        .arg("-c")
        .arg(&config)
        .arg("--state-dir")
        .arg(folder.join("state"))
        .args(["--concurrency", "1", "--drain-time-s", DRAIN_S, "-l", "info"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| binary.display().to_string())?;
    Ok(Process(child))
}
