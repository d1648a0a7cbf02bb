//! The pid file, and `mizzen stop`.

use crate::bootstrap;
use crate::cli::RunArgs;
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long `stop` waits for the process to end. Its own drain time may be longer.
const WAIT: Duration = Duration::from_secs(610);

/// A pid file that this process wrote; removed when dropped.
pub struct PidFile(Option<PathBuf>);

impl PidFile {
    /// Writes it where that is possible: a read-only file system is no reason not to serve.
    pub fn write(path: &Path) -> Self {
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = folder.and_then(|()| std::fs::write(path, format!("{}\n", std::process::id())));
        match written {
            Ok(()) => PidFile(Some(path.to_owned())),
            Err(error) => {
                tracing::debug!("no pid file {}: {error}", path.display());
                PidFile(None)
            }
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Tells the process of a configuration to leave, and waits until it has.
///
/// # Errors
/// No pid file, no such process, or it does not end.
pub fn stop(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.as_deref().context("stop needs -c FILE")?;
    let path = bootstrap::pid_file(config).map_err(|finding| anyhow::anyhow!("{finding}"))?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("pid file {}", path.display()))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid =
        pid.with_context(|| format!("pid file {}: `{}` is no process id", path.display(), text.trim()))?;
    kill_process(pid, Signal::TERM).with_context(|| format!("process {}", pid.as_raw_nonzero()))?;
    let end = Instant::now() + WAIT;
    while runs(pid) {
        if Instant::now() > end {
            bail!("process {} still drains after {} s", pid.as_raw_nonzero(), WAIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a process still runs. One that ended but was not waited for by its parent has left for us.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // `pid (name) state …`: the name may hold anything, so the state is looked for behind its last bracket.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    test_kill_process(pid).is_ok() && !matches!(state, Some('Z' | 'X'))
}
