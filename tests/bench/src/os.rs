//! What the kernel knows about a process: CPU time, memory, wake-ups; and children that end with us.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Confines the calling process, before it has threads, to CPUs: their numbers with commas between.
pub fn pin(cpus: &str) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus.split(',') {
        set.set(cpu.parse()?);
    }
    sched_setaffinity(None, &set).with_context(|| format!("pin to CPU {cpus}"))
}

/// As many open files as the system gives without asking anyone.
pub fn raise_open_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn tasks(pid: u32) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// CPU time of all threads so far, from the scheduler's own clock (a nanosecond apart, not a tick).
pub fn cpu_time(pid: u32) -> Duration {
    let read = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks(pid).filter_map(read).sum())
}

fn status_field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
}

/// Resident memory, in KiB.
pub fn rss_kib(pid: u32) -> u64 {
    status_field(Path::new(&format!("/proc/{pid}/status")), "VmRSS").unwrap_or(0)
}

/// Resident memory that no file backs, in KiB.
pub fn anon_kib(pid: u32) -> u64 {
    status_field(Path::new(&format!("/proc/{pid}/status")), "RssAnon").unwrap_or(0)
}

/// Most that was ever resident, in KiB.
pub fn peak_kib(pid: u32) -> u64 {
    status_field(Path::new(&format!("/proc/{pid}/status")), "VmHWM").unwrap_or(0)
}

/// Times any thread went to sleep of its own accord, and so was woken.
pub fn wakeups(pid: u32) -> u64 {
    tasks(pid).filter_map(|task| status_field(&task.join("status"), "voluntary_ctxt_switches")).sum()
}

/// A child process that dies with its owner, and whose output lines arrive in a queue.
pub struct Proc {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    pub name: String,
}

impl Proc {
    /// Starts `command` on `cpu`, or several; its standard output is read, its errors go to `log`.
    pub fn start(name: &str, mut command: Command, cpu: &str, log: &Path) -> Result<Self> {
        let mut pinned = Command::new(std::env::current_exe()?);
        pinned.arg("pinned").arg(cpu).arg(command.get_program()).args(command.get_args());
        pinned.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command = pinned;
        let errors = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let (sender, lines) = channel();
        let output = child.stdout.take().context("no output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, lines, name: name.to_owned() })
    }

    /// A subcommand of this program.
    pub fn own(args: &[String], cpu: &str, log: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args);
        Self::start(&args.join(" "), command, cpu, log)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that starts with `prefix`, without it.
    pub fn expect(&mut self, prefix: &str, within: Duration) -> Result<String> {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(prefix) {
                        return Ok(rest.trim().to_owned());
                    }
                }
                Err(_) => bail!("{}: no line `{prefix}…` within {within:?}", self.name),
            }
        }
    }

    /// Writes one line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("input closed")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// Waits until something accepts on `port`, or until this process has ended.
    pub fn wait_for_port(&mut self, port: u16, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        while Instant::now() < end {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(());
            }
            if !self.running() {
                bail!("{} has ended", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{}: nothing accepts on port {port} after {within:?}", self.name)
    }

    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.running() {
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// The body of `pinned CPU PROGRAM ARG…`: becomes that program, on that CPU.
pub fn exec_pinned(args: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    let [cpu, program, rest @ ..] = args else { bail!("pinned CPU PROGRAM ARG…") };
    pin(cpu)?;
    raise_open_files();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("exec {program}"))
}
