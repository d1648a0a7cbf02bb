//! `mizzen check`.

use super::{Bootstrap, Dialect, Finding, load};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// The outcome of reading a file without serving it.
#[derive(Debug)]
pub struct Report {
    /// Errors first.
    pub findings: Vec<Finding>,
    /// What was read, when nothing is wrong.
    pub summary: Option<Summary>,
}

/// What a valid file holds.
#[derive(Debug, PartialEq)]
pub struct Summary {
    pub dialect: Dialect,
    pub listeners: usize,
    pub clusters: usize,
    pub ads: bool,
    pub unknown_fields: usize,
}

/// Reads the file at `path` with everything it refers to.
pub fn check(path: &Path, overlay: Option<&str>) -> Report {
    let (mut findings, summary) = match load(path, overlay) {
        Ok(bootstrap) => {
            let summary = summary(&bootstrap);
            (bootstrap.warnings, Some(summary))
        }
        Err(findings) => (findings, None),
    };
    findings.sort_by_key(|finding| finding.severity);
    Report { findings, summary }
}

fn summary(bootstrap: &Bootstrap) -> Summary {
    Summary {
        dialect: bootstrap.dialect,
        listeners: bootstrap.listeners.len(),
        clusters: bootstrap.clusters.len(),
        ads: bootstrap.ads.is_some(),
        unknown_fields: bootstrap.unknown_fields,
    }
}

impl Report {
    /// Whether the file can be served.
    pub fn ok(&self) -> bool {
        self.summary.is_some()
    }

    /// The process's exit code: 0 or 1.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.ok())
    }

    /// One line per finding and one for the verdict.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for finding in &self.findings {
            let severity = if finding.is_error() { "error" } else { "warning" };
            let _ = writeln!(out, "{severity}: {finding}");
        }
        let errors = self.findings.iter().filter(|finding| finding.is_error()).count();
        let warnings = self.findings.len() - errors;
        let _ = match &self.summary {
            Some(s) => writeln!(
                out,
                "ok: {} dialect, {} listeners, {} clusters, {}, {warnings} warnings",
                s.dialect.name(),
                s.listeners,
                s.clusters,
                if s.ads { "ADS" } else { "static only" },
            ),
            None => writeln!(out, "failed: {errors} errors, {warnings} warnings"),
        };
        out
    }

    /// The same as one JSON document.
    pub fn json(&self) -> Value {
        let summary = self.summary.as_ref().map(|s| {
            json!({
                "dialect": s.dialect.name(),
                "listeners": s.listeners,
                "clusters": s.clusters,
                "ads": s.ads,
                "unknown_fields": s.unknown_fields,
            })
        });
        json!({ "ok": self.ok(), "findings": self.findings, "summary": summary })
    }
}

impl Dialect {
    /// In lower case.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Mosn => "mosn",
            Dialect::Envoy => "envoy",
            Dialect::Mix => "mix",
        }
    }
}
