//! The sample configurations with any parts replaced by any values: the translator never panics, says what is
//! wrong in single lines, and what it passes is fit to serve.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mizzen::translate::mosn::{Finding, translate};
use serde_json::Value;

const SAMPLES: [&str; 2] = [
    include_str!("../../../configs/sofarpc/config.json"),
    include_str!("../../../configs/sofarpc/client_config.json"),
];

/// Bytes as a source of choices; runs dry into zeros.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> usize {
        let (first, rest) = self.0.split_first().map_or((0, &[][..]), |(b, rest)| (usize::from(*b), rest));
        self.0 = rest;
        first
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.next() % if depth == 0 { 7 } else { 9 } {
            0 => Value::Null,
            1 => Value::Bool(self.next() % 2 == 0),
            2 => Value::from(self.next()),
            3 => Value::from(-((self.next() as i64) << 40)),
            4 => Value::from(self.next() as f64 / 3.0),
            5 => [
                "",
                "*",
                "*.a:*",
                "bolt",
                "1s",
                "-1h",
                ":0",
                "(",
                ".*",
                "127.0.0.1:1",
                "LB_RANDOM",
                "x,Http2",
            ][self.next() % 12]
                .into(),
            6 => {
                let length = self.next() % 16;
                String::from_utf8_lossy(&self.0[..length.min(self.0.len())]).into_owned().into()
            }
            7 => (0..self.next() % 4).map(|_| self.value(depth - 1)).collect(),
            _ => Value::Object((0..self.next() % 4).map(|_| (self.key(), self.value(depth - 1))).collect()),
        }
    }

    fn key(&mut self) -> String {
        const KEYS: [&str; 20] = [
            "name",
            "NAME",
            "match",
            "headers",
            "prefix",
            "regex",
            "route",
            "cluster_name",
            "weighted_clusters",
            "cluster",
            "weight",
            "domains",
            "type",
            "config",
            "hosts",
            "address",
            "timeout",
            "redirect",
            "direct_response",
            "request_headers_to_add",
        ];
        KEYS[self.next() % KEYS.len()].to_owned()
    }

    /// Walks into `at` and changes one place.
    fn change(&mut self, at: &mut Value) {
        let step = self.next();
        match at {
            Value::Array(items) if !items.is_empty() && step % 8 > 0 => {
                let item = step % items.len();
                self.change(&mut items[item]);
            }
            Value::Object(map) if !map.is_empty() && step % 8 > 1 => {
                let item = step % map.len();
                if let Some(inner) = map.values_mut().nth(item) {
                    self.change(inner);
                }
            }
            Value::Object(map) if step % 8 == 1 => {
                map.insert(self.key(), self.value(3));
            }
            other => *other = self.value(3),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let mut document: Value = serde_json::from_str(SAMPLES[choices.next() % 2]).unwrap();
    while !choices.0.is_empty() {
        choices.change(&mut document);
    }
    let folder = |name: &str| Err(vec![Finding::error("", name, "no folders here")]);
    let made = translate(&document, &folder, false);
    for finding in &made.findings {
        assert_eq!(finding.to_string().lines().count(), 1, "{finding:?}");
    }
    if made.findings.iter().any(Finding::is_error) {
        return;
    }
    for listener in &made.listeners {
        assert!(!listener.addresses.is_empty() && listener.filter_chains.len() == 1, "{listener:?}");
    }
    for cluster in &made.clusters {
        assert!(!cluster.name.is_empty() && !cluster.connect_timeout.is_zero(), "{cluster:?}");
    }
});
