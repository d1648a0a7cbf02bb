//! What the demo prints: a row per change, and on a terminal a line that moves while it happens.

use super::load::Board;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often the moving line is redrawn.
const REDRAW: Duration = Duration::from_millis(100);

/// One change and what it did.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub push: String,
    /// Milliseconds from the push to its effect; `None`: there is nothing to wait for.
    pub applied: Option<f64>,
    pub sent: u64,
    pub failed: u64,
    /// Long calls answered, of how many.
    pub kept: (usize, usize),
    /// Milliseconds.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// What showed the effect.
    pub shown: String,
}

/// Prints to stdout. Nobody reading it is no error.
pub struct Table {
    terminal: bool,
    moving: Option<JoinHandle<()>>,
}

impl Table {
    /// Asks whether stdout is a terminal.
    pub fn new() -> Self {
        Table { terminal: std::io::stdout().is_terminal(), moving: None }
    }

    /// The column heads.
    pub fn head(&self) {
        let text = format!(
            "{:<36} {:>10} {:>6} {:>6} {:>9} {:>8} {:>8}  {}",
            "push", "applied", "sent", "failed", "in flight", "p50", "p99", "shown by"
        );
        self.print(&self.styled("1", &text));
    }

    /// Draws the moving line until the next row.
    pub fn watch(&mut self, push: &str, board: &Arc<Board>) {
        self.still();
        if !self.terminal {
            return;
        }
        let (push, board) = (push.to_owned(), board.clone());
        self.moving = Some(tokio::spawn(async move {
            loop {
                let tally = board.tally();
                let (p50, p99) = (time(tally.quantile(0.5)), time(tally.quantile(0.99)));
                // Short enough not to wrap: a wrapped line cannot be redrawn.
                let counts = format!("{} sent, {} failed, p50 {p50}, p99 {p99}", tally.sent, tally.failed);
                write(&format!("\r\x1b[K\x1b[2m{push:<36.36} {counts}\x1b[0m"));
                tokio::time::sleep(REDRAW).await;
            }
        }));
    }

    /// A finished row.
    pub fn row(&mut self, row: &Row) {
        self.still();
        let text = line(row);
        let broken = row.failed > 0 || row.kept.0 < row.kept.1;
        self.print(&if broken { self.styled("31", &text) } else { text });
    }

    /// A line of text between rows.
    pub fn note(&mut self, text: &str) {
        self.still();
        self.print(text);
    }

    /// Green for good, red for bad.
    pub fn verdict(&mut self, good: bool, text: &str) {
        self.still();
        self.print(&self.styled(if good { "32" } else { "31" }, text));
    }

    fn still(&mut self) {
        if let Some(moving) = self.moving.take() {
            moving.abort();
            write("\r\x1b[K");
        }
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.terminal { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn print(&self, text: &str) {
        write(&format!("{text}\n"));
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.still();
    }
}

fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn time(milliseconds: Option<f64>) -> String {
    milliseconds.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"))
}

fn line(row: &Row) -> String {
    let kept = match row.kept {
        (_, 0) => "-".to_owned(),
        (kept, of) => format!("{kept}/{of}"),
    };
    format!(
        "{:<36} {:>10} {:>6} {:>6} {:>9} {:>8} {:>8}  {}",
        row.push,
        time(row.applied),
        row.sent,
        row.failed,
        kept,
        time(row.p50),
        time(row.p99),
        row.shown
    )
    .trim_end()
    .to_owned()
}
