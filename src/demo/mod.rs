//! `mizzen demo`: the main job on real sockets, in one process tree.
//!
//! ```text
//! client ─bolt─► sidecar `client` ─HTTP/2─► sidecar `server` ─bolt─► sample servers v1, v2
//!                        ▲───── ADS (delta) ─────▲
//!                          control plane (here)
//! ```
//!
//! Owns the script: what is pushed, in which order, and what counts as broken. The client, the servers and the
//! control plane live in this process, the sidecars are children. Gives out a table and an exit code: 0 only
//! if no call failed, none in flight was lost, and every push had the effect it was to have.

mod control_plane;
mod hold;
mod load;
mod processes;
mod resources;
mod script;
mod serve;
mod stage;
mod table;

pub use serve::serve;

use crate::cli::DemoArgs;
use anyhow::Context;
use std::process::ExitCode;
use std::time::Duration;
use table::Table;
use tokio::signal::unix::{SignalKind, signal};

/// The demo ends within this time, broken or not.
const LIMIT: Duration = Duration::from_secs(29);

/// Runs the demo.
///
/// # Errors
/// It could not be set up.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).context("signals")?;
        let mut int = signal(SignalKind::interrupt()).context("signals")?;
        // Whoever ends it, the children end with it: they are dropped with the future.
        tokio::select! {
            code = tour(args) => code,
            _ = term.recv() => Ok(ExitCode::from(143)),
            _ = int.recv() => Ok(ExitCode::from(130)),
        }
    })
}

async fn tour(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let began = tokio::time::Instant::now();
    let mut table = Table::new();
    let mut stage = tokio::time::timeout(LIMIT, stage::Stage::set(&mut table))
        .await
        .context("the sidecars did not come up in time")??;
    let left = LIMIT.saturating_sub(began.elapsed());
    match tokio::time::timeout(left, script::play(&mut stage, &mut table)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => stage.broke(format!("{error:#}")),
        Err(_) => stage.broke(format!("not done after {LIMIT:?}")),
    }
    let good = stage.sum_up(&mut table, began.elapsed());
    if args.hold {
        hold::hold(stage, &mut table).await;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
