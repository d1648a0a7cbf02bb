//! Reading MOSN's JSON objects as MOSN does: keys without regard to case, `null` as absent.
//!
//! Every object remembers which keys were asked for; what is left over is a warning, where MOSN says nothing.

use super::Finding;
use crate::util::duration::parse_go;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

/// Reads every file of a folder: `(file name, document)` in name order.
///
/// # Errors
/// A finding for each file (or the folder) that cannot be read.
pub type ReadFolder<'a> = dyn Fn(&str) -> Result<Vec<(String, Value)>, Vec<Finding>> + 'a;

/// What a translation collects, and its way to split files.
pub(super) struct Context<'a> {
    pub findings: Vec<Finding>,
    pub folder: &'a ReadFolder<'a>,
    /// Name of the split file being read; empty in the main file.
    pub file: String,
}

impl Context<'_> {
    pub fn error(&mut self, path: &str, value: impl Display, message: impl Into<String>) {
        self.push(Finding::error(path, value, message));
    }

    pub fn warn(&mut self, path: &str, value: impl Display, message: impl Into<String>) {
        self.push(Finding::warning(path, value, message));
    }

    fn push(&mut self, mut finding: Finding) {
        finding.file.clone_from(&self.file);
        self.findings.push(finding);
    }

    /// The documents of a split folder; none if it cannot be read.
    pub fn split(&mut self, folder: &str, path: &str) -> Vec<(String, Value)> {
        (self.folder)(folder).unwrap_or_else(|found| {
            self.findings.extend(found.into_iter().map(|mut finding| {
                if finding.path.is_empty() && finding.file.is_empty() {
                    path.clone_into(&mut finding.path);
                }
                finding
            }));
            Vec::new()
        })
    }
}

/// One object with the path that leads to it.
pub(super) struct Object<'a> {
    pub path: String,
    map: &'a Map<String, Value>,
    seen: BTreeSet<&'a str>,
}

impl<'a> Object<'a> {
    /// `value` as an object; anything else is an error.
    pub fn of(ctx: &mut Context<'_>, value: &'a Value, path: String) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Object { path, map, seen: BTreeSet::new() }),
            other => {
                ctx.error(&path, brief(other), "expected an object");
                None
            }
        }
    }

    /// The path of `key` in this object.
    pub fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of `key`: spelt exactly so, else in any case.
    pub fn value(&mut self, ctx: &mut Context<'_>, key: &str) -> Option<&'a Value> {
        let mut found = None;
        for (name, value) in self.map {
            if name == key || (name.eq_ignore_ascii_case(key) && !self.map.contains_key(key)) {
                self.seen.insert(name);
                found = Some(value);
            } else if name.eq_ignore_ascii_case(key) && self.seen.insert(name) {
                let path = self.at(name);
                ctx.warn(&path, "", format!("ignored: `{key}` is given as well"));
            }
        }
        found.filter(|value| !value.is_null())
    }

    pub fn text(&mut self, ctx: &mut Context<'_>, key: &str) -> Option<&'a str> {
        let value = self.value(ctx, key)?;
        self.fit(ctx, key, value, value.as_str(), "a string")
    }

    pub fn flag(&mut self, ctx: &mut Context<'_>, key: &str) -> Option<bool> {
        let value = self.value(ctx, key)?;
        self.fit(ctx, key, value, value.as_bool(), "true or false")
    }

    pub fn number(&mut self, ctx: &mut Context<'_>, key: &str) -> Option<u32> {
        let value = self.value(ctx, key)?;
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        self.fit(ctx, key, value, number, "an integer from 0 to 4294967295")
    }

    pub fn float(&mut self, ctx: &mut Context<'_>, key: &str) -> Option<f64> {
        let value = self.value(ctx, key)?;
        self.fit(ctx, key, value, value.as_f64(), "a number")
    }

    /// A Go duration, or as in 2018 an integer number of nanoseconds.
    pub fn duration(&mut self, ctx: &mut Context<'_>, key: &str) -> Option<Duration> {
        let value = self.value(ctx, key)?;
        let parsed = match value {
            Value::String(text) => parse_go(text.trim_matches('"')).map_err(|e| e.to_string()),
            Value::Number(number) => {
                let nanos = number.as_u64().map(Duration::from_nanos);
                nanos.ok_or_else(|| "expected whole nanoseconds, not negative".to_owned())
            }
            _ => Err("expected a duration such as \"300ms\"".to_owned()),
        };
        parsed.map_err(|why| ctx.error(&self.at(key), brief(value), why)).ok()
    }

    pub fn object(&mut self, ctx: &mut Context<'_>, key: &str) -> Option<Object<'a>> {
        let value = self.value(ctx, key)?;
        Object::of(ctx, value, self.at(key))
    }

    /// The items of a list with their paths; empty when absent.
    pub fn list(&mut self, ctx: &mut Context<'_>, key: &str) -> Vec<(&'a Value, String)> {
        let Some(value) = self.value(ctx, key) else { return Vec::new() };
        let path = self.at(key);
        let items = self.fit(ctx, key, value, value.as_array(), "a list").into_iter().flatten();
        items.enumerate().map(|(at, item)| (item, format!("{path}[{at}]"))).collect()
    }

    /// The items of a list of objects.
    pub fn objects(&mut self, ctx: &mut Context<'_>, key: &str) -> Vec<Object<'a>> {
        let items = self.list(ctx, key);
        items.into_iter().filter_map(|(item, path)| Object::of(ctx, item, path)).collect()
    }

    /// The items of a list of strings.
    pub fn texts(&mut self, ctx: &mut Context<'_>, key: &str) -> Vec<(&'a str, String)> {
        let items = self.list(ctx, key);
        let mut texts = Vec::with_capacity(items.len());
        for (item, path) in items {
            match item.as_str() {
                Some(text) => texts.push((text, path)),
                None => ctx.error(&path, brief(item), "expected a string"),
            }
        }
        texts
    }

    /// The items of a list of lists of strings.
    pub fn text_lists(&mut self, ctx: &mut Context<'_>, key: &str) -> Vec<Vec<String>> {
        let items = self.list(ctx, key);
        let mut lists = Vec::with_capacity(items.len());
        for (item, path) in items {
            let texts =
                item.as_array().map(|texts| texts.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
            match texts.flatten() {
                Some(texts) => lists.push(texts.into_iter().map(str::to_owned).collect()),
                None => ctx.error(&path, brief(item), "expected a list of strings"),
            }
        }
        lists
    }

    /// Key and value of every entry, for objects whose keys are the user's.
    pub fn entries(&mut self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.seen.extend(self.map.keys().map(String::as_str));
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Keys that mean nothing to a proxy, or are understood and have no counterpart worth a word.
    pub fn skip(&mut self, ctx: &mut Context<'_>, keys: &[&str]) {
        for key in keys {
            self.value(ctx, key);
        }
    }

    /// A key that asks for something that is not done: a warning unless it asks for nothing.
    pub fn no_effect(&mut self, ctx: &mut Context<'_>, key: &str, why: &str) {
        if let Some(value) = self.value(ctx, key).filter(|value| !is_nothing(value)) {
            ctx.warn(&self.at(key), brief(value), why);
        }
    }

    /// A key whose request must not be passed over: an error unless it asks for nothing.
    pub fn refuse(&mut self, ctx: &mut Context<'_>, key: &str, why: &str) {
        if let Some(value) = self.value(ctx, key).filter(|value| !is_nothing(value)) {
            ctx.error(&self.at(key), brief(value), why);
        }
    }

    /// Ends the reading: keys nobody asked for are named.
    pub fn finish(self, ctx: &mut Context<'_>) {
        for key in self.map.keys().filter(|key| !self.seen.contains(key.as_str())) {
            ctx.warn(&self.at(key), "", "unknown key, ignored");
        }
    }

    fn fit<T>(
        &self,
        ctx: &mut Context<'_>,
        key: &str,
        value: &Value,
        fitting: Option<T>,
        wanted: &str,
    ) -> Option<T> {
        if fitting.is_none() {
            ctx.error(&self.at(key), brief(value), format!("expected {wanted}"));
        }
        fitting
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// Scalars as they are; of larger values only the kind, for they may hold keys.
pub(super) fn brief(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains("-----BEGIN") => "a PEM text".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        scalar => scalar.to_string(),
    }
}
