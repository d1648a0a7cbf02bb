//! The process: the only module that knows every subsystem. Builds, wires, waits, drains.

mod admin;
mod ads;
mod build;
mod explain;
mod extensions;
mod lifecycle;
mod metrics;
mod name_metrics;
mod pid;
mod plan;
mod proxy;
mod run;
mod secret_types;
mod server_metrics;
mod signals;
mod sockets;

pub use build::{Dump, SharedCounts};
pub use lifecycle::FetchLimits;
pub use proxy::{AdsPlan, Plan, Proxy};

use crate::cli::{self, Command, SampleArgs};
use crate::{bootstrap, demo, sample};
use std::process::ExitCode;

/// Exit code of a process that lost a thread it cannot serve without.
pub const EXIT_BROKEN: u8 = 70;

/// Does what the command line asks for.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let command = match cli::parse(args, &|name| std::env::var(name).ok()) {
        Ok(command) => command,
        Err(usage) => {
            if usage.exit == 0 {
                println!("{}", usage.text.trim_end());
            } else {
                eprintln!("{}", usage.text.trim_end());
            }
            return ExitCode::from(usage.exit);
        }
    };
    let done = match command {
        Command::Run(args) => run::run(&args),
        Command::Stop(args) => pid::stop(&args),
        Command::Reload(_) => {
            println!(
                "nothing to reload: a running proxy follows its control plane; restart it for a new file"
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(args) => {
            let report = bootstrap::check(&args.config, args.config_yaml.as_deref());
            match args.json {
                true => println!("{}", report.json()),
                false => print!("{}", report.text()),
            }
            Ok(ExitCode::from(report.exit_code()))
        }
        Command::Explain(args) => explain::run(&args),
        Command::Sample(SampleArgs::Server(args)) => blocking(sample::run_server(args)),
        Command::Sample(SampleArgs::Client(args)) => blocking(sample::run_client(args)),
        Command::Sample(SampleArgs::ControlPlane(args)) => demo::serve(&args),
        Command::Demo(args) => demo::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("mizzen: {}", one_line(&error));
        ExitCode::FAILURE
    })
}

/// The error and its causes, each said once: many texts hold their cause already.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&cause);
        }
    }
    line
}

/// Runs a small program to its end on this thread.
fn blocking(work: impl Future<Output = Result<(), sample::Error>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)?;
    Ok(ExitCode::SUCCESS)
}
