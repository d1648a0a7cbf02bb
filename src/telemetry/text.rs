//! `/stats` as text and as JSON, in Envoy's shapes.
//!
//! Takes in a [`Query`]; gives out pieces of at most a few dozen KB, so that a reader of a large mesh is served
//! while the rest is still being read. Order as Envoy's: texts, then numbers, then histograms, each by name.

use super::histogram::{HistogramData, QUANTILES};
use super::metric::Value;
use super::registry::Registry;
use regex_automata::meta::Regex;
use std::fmt::Write as _;

/// Size at which a piece is handed out.
const PIECE: usize = 32 * 1024;

/// Takes a piece of output; false ends the writing (the reader has gone).
pub type Out<'a> = &'a mut dyn FnMut(String) -> bool;

/// Which kinds of metrics are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kinds {
    #[default]
    All,
    Counters,
    Gauges,
    Histograms,
    TextReadouts,
}

/// Which metrics are wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Leave out what was never touched.
    pub used_only: bool,
    /// Only names in which this matches somewhere.
    pub filter: Option<Regex>,
    /// Only these kinds.
    pub kinds: Kinds,
}

impl Query {
    /// Whether a metric of this kind and state is wanted; the name is checked by [`Query::wants_name`].
    pub(super) fn wants(&self, value: &Value) -> bool {
        let kind = matches!(
            (self.kinds, value),
            (Kinds::All, _)
                | (Kinds::Counters, Value::Counter(_))
                | (Kinds::Gauges, Value::Gauge(_))
                | (Kinds::Histograms, Value::Histogram(_))
                | (Kinds::TextReadouts, Value::Text(_))
        );
        kind && (!self.used_only || value.used())
    }

    pub(super) fn wants_name(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|f| f.is_match(name))
    }
}

/// The three parts of the output, in order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Texts,
    Numbers,
    Histograms,
}

fn part(value: &Value) -> Part {
    match value {
        Value::Text(_) => Part::Texts,
        Value::Counter(_) | Value::Gauge(_) => Part::Numbers,
        Value::Histogram(_) => Part::Histograms,
    }
}

/// Calls `each` with the full name and value of everything wanted in `part`, by name; false if the reader has
/// gone.
///
/// Scopes come in order of their prefixes. Names of one scope whose prefix begins another's (`cluster_manager.`,
/// `cluster_manager.cds.`) mix, so these few are sorted together; no others can.
fn walk(
    registry: &Registry,
    query: &Query,
    wanted: Part,
    each: &mut dyn FnMut(&str, &Value) -> bool,
) -> bool {
    let mut mixed: Vec<(String, Value)> = Vec::new();
    let mut root = String::new();
    let mut going = true;
    registry.for_each(&mut |scope, readings| {
        if scope.hidden() {
            return true;
        }
        if root.is_empty() || !scope.prefix().starts_with(&root) {
            going = hand_out(&mut mixed, each);
            scope.prefix().clone_into(&mut root);
        }
        for (rest, value) in readings {
            if part(&value) == wanted && query.wants(&value) {
                let name = scope.full(&rest);
                if query.wants_name(&name) && registry.shows(&name) {
                    mixed.push((name, value));
                }
            }
        }
        going
    });
    going && hand_out(&mut mixed, each)
}

fn hand_out(mixed: &mut Vec<(String, Value)>, each: &mut dyn FnMut(&str, &Value) -> bool) -> bool {
    mixed.sort_by(|a, b| a.0.cmp(&b.0));
    mixed.drain(..).all(|(name, value)| each(&name, &value))
}

/// A piece under construction.
struct Pieces<'a, 'b> {
    piece: String,
    out: &'a mut (dyn FnMut(String) -> bool + 'b),
}

impl Pieces<'_, '_> {
    fn handed_out(&mut self) -> bool {
        self.piece.len() < PIECE || (self.out)(std::mem::take(&mut self.piece))
    }

    fn finish(mut self) {
        if !self.piece.is_empty() {
            (self.out)(std::mem::take(&mut self.piece));
        }
    }
}

/// `name: value` lines.
pub fn write_text(registry: &Registry, query: &Query, out: Out<'_>) {
    let mut pieces = Pieces { piece: String::new(), out };
    for wanted in [Part::Texts, Part::Numbers, Part::Histograms] {
        let going = walk(registry, query, wanted, &mut |name, value| {
            line(&mut pieces.piece, name, value);
            pieces.handed_out()
        });
        if !going {
            return;
        }
    }
    pieces.finish();
}

fn line(out: &mut String, name: &str, value: &Value) {
    // Writing into a string cannot fail.
    let _ = match value {
        Value::Counter(n) => writeln!(out, "{name}: {n}"),
        Value::Gauge(n) => writeln!(out, "{name}: {}", n.unwrap_or(0)),
        Value::Text(t) => {
            let text = t.as_deref().map_or("", String::as_str);
            writeln!(out, "{name}: \"{}\"", text.escape_debug())
        }
        Value::Histogram(h) => {
            let _ = write!(out, "{name}:");
            quantiles(out, h);
            writeln!(out)
        }
    };
}

/// ` P0(interval,total) …`. No interval is kept, so its place reads `nan`, as Envoy's does without values.
fn quantiles(out: &mut String, data: &HistogramData) {
    if data.count() == 0 {
        out.push_str(" No recorded values");
        return;
    }
    for q in QUANTILES {
        let value = data.quantile(q).unwrap_or(0.0);
        let _ = write!(out, " P{}(nan,{})", trimmed(q * 100.0), trimmed(value));
    }
}

/// A number with at most three decimals and no trailing zeros.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `{"stats":[{"name":…,"value":…},…,{"histograms":{…}}]}`.
pub fn write_json(registry: &Registry, query: &Query, out: Out<'_>) {
    let mut pieces = Pieces { piece: "{\"stats\":[".to_owned(), out };
    let mut first = true;
    for wanted in [Part::Texts, Part::Numbers] {
        let going = walk(registry, query, wanted, &mut |name, value| {
            if !std::mem::take(&mut first) {
                pieces.piece.push(',');
            }
            let _ = write!(pieces.piece, "{{\"name\":{},\"value\":{}}}", quoted(name), json_value(value));
            pieces.handed_out()
        });
        if !going {
            return;
        }
    }
    let mut any = false;
    let going = walk(registry, query, Part::Histograms, &mut |name, value| {
        let Value::Histogram(data) = value else { return true };
        match (std::mem::replace(&mut any, true), first) {
            (true, _) => pieces.piece.push(','),
            (false, first) => open_histograms(&mut pieces.piece, first),
        }
        json_histogram(&mut pieces.piece, name, data);
        pieces.handed_out()
    });
    if !going {
        return;
    }
    pieces.piece.push_str(if any { "]}}]}\n" } else { "]}\n" });
    pieces.finish();
}

fn open_histograms(out: &mut String, first: bool) {
    if !first {
        out.push(',');
    }
    out.push_str("{\"histograms\":{\"supported_quantiles\":[");
    for (i, q) in QUANTILES.iter().enumerate() {
        let _ = write!(out, "{}{}", if i == 0 { "" } else { "," }, trimmed(q * 100.0));
    }
    out.push_str("],\"computed_quantiles\":[");
}

fn json_histogram(out: &mut String, name: &str, data: &HistogramData) {
    let _ = write!(out, "{{\"name\":{},\"values\":[", quoted(name));
    for (i, q) in QUANTILES.iter().enumerate() {
        let value = data.quantile(*q).map_or_else(|| "null".to_owned(), trimmed);
        let _ = write!(out, "{}{{\"cumulative\":{value},\"interval\":null}}", if i == 0 { "" } else { "," });
    }
    out.push_str("]}");
}

fn json_value(value: &Value) -> String {
    match value {
        Value::Counter(n) => n.to_string(),
        Value::Gauge(n) => n.unwrap_or(0).to_string(),
        Value::Text(t) => quoted(t.as_deref().map_or("", String::as_str)),
        Value::Histogram(_) => "null".to_owned(),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
