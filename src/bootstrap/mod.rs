//! Files on disk → process settings and a static model.
//!
//! Owns reading: JSON or YAML, either dialect, recognised by content, with split folders and the overlay of
//! `--config-yaml`. Takes in a path; gives out a [`Bootstrap`], or every [`Finding`] there is. `check` prints
//! the findings without starting anything.

mod ads;
mod check;
mod document;
mod envoy;
mod node;
mod overload;
mod runtime;
mod stats;

pub use crate::translate::{Finding, Severity};
pub use ads::{Ads, Fetch};
pub use check::{Report, check};
pub use node::NodeOverride;

use crate::model::{Address, Cluster, Layer, Listener, LogRoller};
use crate::proto::envoy::config::core::v3::Node;
use crate::telemetry::StatsConfig;
use crate::translate::mosn;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whose configuration a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `servers`, `cluster_manager`.
    Mosn,
    /// A v3 bootstrap.
    Envoy,
    /// MOSN's with Envoy's `static_resources`, `dynamic_resources` and `node` beside.
    Mix,
}

/// Everything a process is started with.
#[derive(Debug)]
pub struct Bootstrap {
    pub dialect: Dialect,
    /// The file after merging, for the admin's dump.
    pub document: Value,
    /// Sent to the control plane.
    pub node: Node,
    pub admin: Option<Address>,
    /// `None`: static only.
    pub ads: Option<Ads>,
    /// File, `stdout` or `stderr`; `None` leaves it to the caller.
    pub log_path: Option<String>,
    /// A word of MOSN's (`DEBUG`, `INFO` …), as written.
    pub log_level: Option<String>,
    /// MOSN's `processor`.
    pub workers: Option<usize>,
    /// MOSN's `graceful_timeout`.
    pub drain_time: Option<Duration>,
    /// MOSN's `pid`, or its default place: `logs/mosn.pid` beside the folder of the file.
    pub pid_file: PathBuf,
    /// MOSN's `global_log_roller`; `None`: log files are not rotated.
    pub log_roller: Option<LogRoller>,
    /// What is shown of the metrics; `None`: everything, with Envoy's tags.
    pub stats: Option<StatsConfig>,
    /// Folder of the last good snapshot, by `mizzen.state_dir` in a runtime layer, by the node's metadata key
    /// `MIZZEN_STATE_DIR`, or by `mizzen.state_dir` in a MOSN file.
    pub state_dir: Option<PathBuf>,
    /// The layers of `layered_runtime`, later ones over earlier ones.
    pub runtime: Vec<Layer>,
    /// How many connections with clients may be open; `None`: any number.
    pub connection_limit: Option<u32>,
    pub listeners: Vec<Listener>,
    pub clusters: Vec<Cluster>,
    /// What has no effect, or another one than its author may think.
    pub warnings: Vec<Finding>,
    /// Fields and extensions that are not known; accepted and counted.
    pub unknown_fields: usize,
}

/// Reads the file at `path` and merges `overlay` (JSON or YAML) over it.
///
/// # Errors
/// Every finding, warnings included, when one of them is an error.
pub fn load(path: &Path, overlay: Option<&str>) -> Result<Bootstrap, Vec<Finding>> {
    let base = document::read(path).map_err(|finding| vec![finding])?;
    build(path, base, overlay)
}

/// As [`load`] from the text of `--config-yaml` alone.
///
/// # Errors
/// As [`load`].
pub fn load_text(text: &str) -> Result<Bootstrap, Vec<Finding>> {
    let name = Path::new("--config-yaml");
    let base =
        document::parse(text, false).map_err(|why| vec![in_file(Finding::error("", "", why), name)])?;
    build(name, base, None)
}

/// Where the process started with `path` writes its id.
///
/// # Errors
/// The file cannot be read.
pub fn pid_file(path: &Path) -> Result<PathBuf, Finding> {
    let base = document::read(path)?;
    let given = base.get("pid").and_then(Value::as_str).filter(|pid| !pid.is_empty());
    Ok(given.map_or_else(|| default_pid_file(path), PathBuf::from))
}

/// The first error, on one line, with the number of others.
pub fn one_line(findings: &[Finding]) -> String {
    let mut errors = findings.iter().filter(|finding| finding.is_error());
    let Some(first) = errors.next() else { return "no error".to_owned() };
    match errors.count() {
        0 => first.to_string(),
        more => format!("{first} (and {more} more: see mizzen check)"),
    }
}

fn build(path: &Path, base: Value, overlay: Option<&str>) -> Result<Bootstrap, Vec<Finding>> {
    let overlay = match overlay.map(|text| document::parse(text, false)) {
        None => None,
        Some(Ok(value)) => Some(value),
        Some(Err(why)) => return Err(vec![Finding::error("--config-yaml", "", why)]),
    };
    let dialect = document::dialect(&base)
        .or_else(|| overlay.as_ref().and_then(document::dialect))
        .ok_or_else(|| vec![in_file(Finding::error("", "", document::NEITHER), path)])?;
    let mut findings = Vec::new();
    let mut document = base.clone();
    if let Some(overlay) = overlay.clone() {
        document::merge(&mut document, overlay);
    }
    let mut made = envoy::Made::default();
    if dialect != Dialect::Mosn {
        let layers = [Some(&base), overlay.as_ref()];
        made = envoy::read(layers.into_iter().flatten(), &document, dialect == Dialect::Mix, &mut findings);
    }
    let mut settings = mosn::Settings::default();
    if dialect != Dialect::Envoy {
        let folder = |name: &str| document::folder(path, name);
        let mixed = dialect == Dialect::Mix;
        let translated = mosn::translate(&document, &folder, mixed);
        findings.extend(translated.findings);
        settings = translated.settings;
        envoy::join(&mut made, translated.listeners, translated.clusters, &mut findings);
    }
    let pid_file = settings.pid_file.take().unwrap_or_else(|| default_pid_file(path));
    let findings: Vec<_> = findings.into_iter().map(|finding| in_file(finding, path)).collect();
    if findings.iter().any(Finding::is_error) {
        return Err(findings);
    }
    Ok(Bootstrap {
        dialect,
        state_dir: state_dir(&document, &made),
        document,
        runtime: made.runtime,
        connection_limit: made.connection_limit,
        node: made.node,
        admin: made.admin.or(settings.admin),
        ads: made.ads,
        log_path: settings.log_path,
        log_level: settings.log_level,
        workers: settings.workers,
        drain_time: settings.graceful_timeout,
        pid_file,
        log_roller: settings.log_roller,
        stats: made.stats,
        listeners: made.listeners,
        clusters: made.clusters,
        warnings: findings,
        unknown_fields: made.unknown_fields,
    })
}

/// A finding of the main file gets its name; one of a split file has it.
fn in_file(mut finding: Finding, path: &Path) -> Finding {
    if finding.file.is_empty() {
        finding.file = path.display().to_string();
    }
    finding
}

fn default_pid_file(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = whole.parent().and_then(Path::parent).unwrap_or_else(|| Path::new("/"));
    base.join("logs").join("mosn.pid")
}

fn state_dir(document: &Value, made: &envoy::Made) -> Option<PathBuf> {
    let own = document.pointer("/mizzen/state_dir").and_then(Value::as_str);
    let by_node = made.node.metadata.as_ref().and_then(|metadata| node::text(metadata, "MIZZEN_STATE_DIR"));
    own.or(made.state_dir.as_deref()).or(by_node).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests;
