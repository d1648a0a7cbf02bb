//! Metrics of a mesh, under the names its dashboards know.

use super::histogram::Histogram;
use super::metric::{Counter, Sample, SharedCounter, StatGroup, Value};
use super::registry::Registry;
use super::scope::Scope;
use crate::stat_group;

stat_group! {
    /// `metadata_exchange.`; all workers and both sides together.
    pub struct ExchangeStats {
        alpn_protocol_found: SharedCounter,
        alpn_protocol_not_found: SharedCounter,
        initial_header_not_found: SharedCounter,
        header_not_found: SharedCounter,
        metadata_added: SharedCounter,
    }
}

/// The metrics of one label set; not every one has all of them.
#[derive(Debug, Default)]
pub struct MeshMetrics {
    /// A bit for each of [`crate::model::MESH_METRICS`].
    mask: u16,
    counters: [Counter; 10],
    /// Duration, bytes of requests, bytes of responses.
    histograms: [Histogram; 3],
}

impl MeshMetrics {
    /// Those of `mask`.
    pub fn new(mask: u16) -> Self {
        MeshMetrics { mask, ..MeshMetrics::default() }
    }

    /// Adds `n` to, or records `n` in, the metric at this place of [`crate::model::MESH_METRICS`], if it is one of
    /// these.
    pub fn note(&self, at: usize, n: u64) {
        if self.mask & (1 << at) == 0 {
            return;
        }
        match at.checked_sub(1).and_then(|at| self.histograms.get(at)) {
            Some(histogram) => histogram.record(n),
            None => self.counters.get(at).into_iter().for_each(|counter| counter.add(n)),
        }
    }
}

impl StatGroup for MeshMetrics {
    fn visit(&self, out: &mut dyn FnMut(&str, Sample)) {
        for (at, name) in crate::model::MESH_METRICS.iter().enumerate() {
            if self.mask & (1 << at) == 0 {
                continue;
            }
            // What never happened is not told of: a label set of connections has no requests.
            let value = match at.checked_sub(1).and_then(|at| self.histograms.get(at)) {
                Some(histogram) => Value::Histogram(Box::new(histogram.read())),
                None => Value::Counter(self.counters.get(at).map_or(0, Counter::get)),
            };
            out(name, value);
        }
    }
}

/// Who this process is, as a gauge, and the counts of exchanges once there are any.
pub(super) fn provide(registry: &Registry) {
    let held = registry.downgrade();
    registry.provide(Box::new(move || {
        let mut groups: Vec<(Scope, Box<dyn StatGroup>)> = Vec::new();
        let Some(registry) = held() else { return groups };
        let version = registry.node().version.clone();
        if !version.is_empty() {
            let labels = vec![("component".into(), "proxy".to_owned()), ("tag".into(), version)];
            groups.push((
                Scope::mesh(labels),
                Box::new(super::Computed(|out: &mut dyn FnMut(&str, Sample)| {
                    out("build", Value::Gauge(Some(1)));
                })),
            ));
        }
        let mut counts = Vec::new();
        registry.exchange().visit(&mut |name, value| counts.push((name.to_owned(), value)));
        if counts.iter().any(|(_, value)| value.used()) {
            let group = super::Computed(move |out: &mut dyn FnMut(&str, Sample)| {
                counts.iter().for_each(|(name, value)| out(name, value.clone()));
            });
            groups.push((Scope::metadata_exchange(), Box::new(group)));
        }
        groups
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Node;
    use crate::telemetry::{prometheus, stats_config, text};
    use std::sync::Arc;

    fn labels(code: &str) -> Vec<(std::borrow::Cow<'static, str>, String)> {
        vec![
            ("reporter".into(), "source".into()),
            ("source_principal".into(), "spiffe://a/ns/b/sa/c".into()),
            ("response_code".into(), code.into()),
        ]
    }

    fn shown(registry: &Registry) -> String {
        let mut shown = String::new();
        text::write_text(registry, &text::Query::default(), &mut |piece| {
            shown.push_str(&piece);
            true
        });
        shown
    }

    #[test]
    fn names_and_labels_are_those_of_the_dashboards() {
        let registry = Registry::new();
        registry.introduce(Arc::new(Node { version: "1.31.0".into(), ..Node::default() }));
        let tag = stats_config::Tag::extracted("response_code", r"response_code\.(\d+)").unwrap().0;
        registry.configure(crate::telemetry::StatsConfig {
            default_tags: false,
            tags: vec![tag],
            ..crate::telemetry::StatsConfig::default()
        });
        let ok = registry.register(Scope::mesh(labels("200")), MeshMetrics::new(0b11));
        let bad = registry.register(Scope::mesh(labels("503")), MeshMetrics::new(0b11));
        ok.note(0, 1);
        ok.note(1, 3);
        bad.note(0, 2);
        bad.note(9, 2);
        let all = prometheus::to_string(&registry);
        let head = "reporter=\"source\",source_principal=\"spiffe://a/ns/b/sa/c\",response_code=";
        for line in [
            "# TYPE istio_requests_total counter".to_owned(),
            format!("istio_requests_total{{{head}\"200\"}} 1"),
            format!("istio_requests_total{{{head}\"503\"}} 2"),
            format!("istio_request_duration_milliseconds_bucket{{{head}\"200\",le=\"5\"}} 1"),
            format!("istio_request_duration_milliseconds_sum{{{head}\"200\"}} 3"),
            "istio_build{component=\"proxy\",tag=\"1.31.0\"} 1".to_owned(),
        ] {
            assert!(all.contains(&format!("{line}\n")), "{line} in {all}");
        }
        assert!(!all.contains("tcp_received") && !all.contains("metadata_exchange"), "{all}");
        registry.exchange().alpn_protocol_found.inc();
        let text = shown(&registry);
        let name = "istiocustom.istio_requests_total.reporter.source.source_principal.spiffe_//a/ns/b/sa/c";
        assert!(text.contains(&format!("{name}.response_code.200: 1\n")), "{text}");
        assert!(text.contains("metadata_exchange.alpn_protocol_found: 1\n"), "{text}");
        assert_eq!(registry.number(&format!("{name}.response_code.503")), 2);
    }
}
