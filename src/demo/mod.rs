//! The tour on real sockets.

use crate::cli::DemoArgs;
use std::process::ExitCode;

/// Runs the tour.
///
/// # Errors
/// Something broke.
pub fn run(_args: &DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the demo is not part of this build yet")
}
