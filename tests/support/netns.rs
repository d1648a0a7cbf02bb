//! A network namespace for one test: fixed ports are free there, and rules for packets harm nobody.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

/// Keeps a new namespace for as long as it runs.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Why a namespace cannot be had here, or its file.
fn make() -> Result<(Holder, File), String> {
    let script = "ip link set lo up && echo up && exec sleep 600";
    let child = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut holder = Holder(child.map_err(|error| format!("unshare: {error}"))?);
    let mut line = String::new();
    let out = holder.0.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).map_err(|error| error.to_string())?;
    if line.trim() != "up" {
        return Err("no network namespace without root, unshare and ip".to_owned());
    }
    let file = File::open(format!("/proc/{}/ns/net", holder.0.id()));
    Ok((holder, file.map_err(|error| error.to_string())?))
}

/// Runs `test` in a namespace of its own, programs that it starts included. Where there can be none the test is
/// skipped, and says so.
pub fn run<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F + Send + 'static) {
    let (holder, file) = match make() {
        Ok(made) => made,
        Err(why) => {
            eprintln!("{name}: skipped: {why}");
            return;
        }
    };
    let thread = std::thread::spawn(move || {
        if let Err(error) = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)) {
            eprintln!("skipped: cannot enter a network namespace: {error}");
            return;
        }
        // Threads made from here on are in the namespace too.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(test());
    });
    let outcome = thread.join();
    drop(holder);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
