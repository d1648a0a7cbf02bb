//! Prometheus text exposition 0.0.4.
//!
//! Names are Envoy's: the scope's family, then the metric's name with every other character as `_`; the
//! scope's own name, response codes and causes become labels. Samples of a family are held compactly (a name
//! is stored once) because the format wants all series of one name together.

use super::histogram::{HistogramData, PROMETHEUS_TENTHS};
use super::metric::Value;
use super::registry::Registry;
use super::scope::Scope;
use super::stats_config::StatsConfig;
use super::text::{Kinds, Out, Query};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

const PIECE: usize = 32 * 1024;
/// Label sets of one family; what comes after them is summed under `overflow`.
const LABEL_SETS: usize = 10_000;

/// Content type of the output.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One series: which scope's labels, which own label, what value.
struct Series {
    labels: Arc<str>,
    own: Arc<str>,
    /// Bucket bounds, in tenths, that are not Envoy's.
    bounds: Option<Arc<[u64]>>,
    value: Value,
}

/// A metric name taken apart: what stays of it, and a label for what was cut out.
#[derive(PartialEq, Eq, Debug)]
struct Named {
    name: String,
    label: String,
}

/// Kinds in the order of output; each of them its names, each name its series.
type Families = BTreeMap<(u8, Arc<str>), Family>;

/// The series of one name.
#[derive(Default)]
struct Family {
    series: Vec<Series>,
    /// The sum of those that found it full, and how many.
    overflow: Option<(Value, u64)>,
}

impl Family {
    fn push(&mut self, series: Series) {
        if self.series.len() < LABEL_SETS {
            self.series.push(series);
            return;
        }
        match &mut self.overflow {
            Some((sum, count)) => {
                sum.add(series.value);
                *count += 1;
            }
            None => self.overflow = Some((series.value, 1)),
        }
    }
}

/// Writes everything `query` wants. Texts have no place in the format.
pub fn write(registry: &Registry, query: &Query, out: Out<'_>) {
    let mut families = gather(registry, query);
    let overflowed = families.values().filter_map(|family| Some(family.overflow.as_ref()?.1)).sum();
    registry.set_overflowed(overflowed);
    if overflowed > 0 {
        let value = Value::Gauge(Some(i64::try_from(overflowed).unwrap_or(i64::MAX)));
        let (labels, own): (Arc<str>, Arc<str>) = ("".into(), "".into());
        families.entry((1, "mizzen_metrics_label_sets_overflowed".into())).or_default().push(Series {
            labels,
            own,
            bounds: None,
            value,
        });
    }
    let mut piece = String::new();
    for ((kind, name), series) in families {
        let word = match kind {
            0 => "counter",
            1 => "gauge",
            _ => "histogram",
        };
        // Writing into a string cannot fail.
        let _ = writeln!(piece, "# TYPE {name} {word}");
        let overflow = series.overflow.map(|(value, _)| Series {
            labels: "overflow=\"true\"".into(),
            own: "".into(),
            bounds: None,
            value,
        });
        for one in series.series.into_iter().chain(overflow) {
            write_series(&mut piece, &name, &one);
            if piece.len() >= PIECE && !out(std::mem::take(&mut piece)) {
                return;
            }
        }
    }
    if !piece.is_empty() {
        out(piece);
    }
}

/// By family and metric: its Prometheus name and its own label.
type Names = HashMap<(&'static str, String), (Arc<str>, Arc<str>)>;

fn gather(registry: &Registry, query: &Query) -> Families {
    let mut families = Families::new();
    let mut kinds: HashMap<Arc<str>, u8> = HashMap::new();
    let mut names: Names = HashMap::new();
    let mut full = String::new();
    registry.for_each(&mut |scope, readings| {
        if scope.hidden() {
            return true;
        }
        let labels: Arc<str> = label_text(scope).into();
        for (rest, value) in readings {
            let kind = match &value {
                Value::Counter(_) => 0,
                Value::Gauge(_) => 1,
                Value::Histogram(_) => 2,
                Value::Text(_) => continue,
            };
            if !query.wants(&value) || unset_own_gauge(scope, &value) {
                continue;
            }
            let config = registry.config();
            if query.filter.is_some() || config.is_some() {
                full.clear();
                scope.push_full(&rest, &mut full);
                if !query.wants_name(&full) || !registry.shows(&full) {
                    continue;
                }
            }
            let bounds = match (&value, config) {
                (Value::Histogram(_), Some(config)) => config.bounds(&full).map(Arc::from),
                _ => None,
            };
            if let Some(config) = config.filter(|config| !config.tags.is_empty() || !config.default_tags)
                && !is_own(scope)
            {
                let (name, labels) = tagged(config, scope, &full, &rest);
                let (name, own): (Arc<str>, Arc<str>) = (name.into(), "".into());
                if *kinds.entry(name.clone()).or_insert(kind) == kind {
                    let series = Series { labels: labels.into(), own, bounds, value };
                    families.entry((kind, name)).or_default().push(series);
                }
                continue;
            }
            let (name, own) = names
                .entry((scope.family(), rest))
                .or_insert_with_key(|(family, rest)| {
                    let named = take_apart(family, rest);
                    (named.name.into(), named.label.into())
                })
                .clone();
            // A name has one type; a series of another kind under it would make the whole text invalid.
            if *kinds.entry(name.clone()).or_insert(kind) == kind {
                let series = Series { labels: labels.clone(), own, bounds, value };
                families.entry((kind, name)).or_default().push(series);
            }
        }
        true
    });
    families
}

/// What Envoy has no name for, and what comes with its labels.
fn is_own(scope: &Scope) -> bool {
    scope.family().starts_with("mizzen") || scope.family() == "istio"
}

/// Name and labels of a metric where tags are configured.
fn tagged(config: &StatsConfig, scope: &Scope, full: &str, rest: &str) -> (String, String) {
    let taken = config.take(full);
    if !config.default_tags {
        return (clean(&format!("envoy_{}", taken.name)), taken.labels);
    }
    // Envoy's own tags and the configured ones: what the latter cut out of the scope's name, the former cut too.
    let kept = taken.name.strip_prefix(scope.prefix()).unwrap_or(rest);
    let named = take_apart(scope.family(), kept);
    let parts = [named.label, label_text(scope), taken.labels];
    let labels: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    (named.name, labels.join(","))
}

/// Gauges of our own are absent until they mean something: an age of 0 would say "just now".
fn unset_own_gauge(scope: &Scope, value: &Value) -> bool {
    scope.family().starts_with("mizzen") && matches!(value, Value::Gauge(None))
}

/// Finds response codes and causes in a name.
fn take_apart(family: &str, rest: &str) -> Named {
    let (stem, label) = match rest.rsplit_once('_') {
        Some((stem, code)) if stem.ends_with("_rq") && code.len() == 3 => match code.as_bytes() {
            [class @ b'1'..=b'5', b'x', b'x'] => {
                (format!("{stem}_xx"), format!("envoy_response_code_class=\"{}\"", char::from(*class)))
            }
            [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
                (stem.to_owned(), format!("envoy_response_code=\"{code}\""))
            }
            _ => (rest.to_owned(), String::new()),
        },
        _ => match rest.strip_prefix("failure.") {
            Some(word) => ("failure".to_owned(), format!("reason=\"{word}\"")),
            None => (rest.to_owned(), String::new()),
        },
    };
    let name = format!("{family}_{stem}");
    Named { name: clean(&name), label }
}

/// A name as the format has them.
pub(super) fn clean(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "_")
}

fn label_text(scope: &Scope) -> String {
    let mut text = String::new();
    for (key, value) in scope.labels() {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{key}=\"{}\"", escaped(value));
    }
    text
}

pub(super) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn write_series(out: &mut String, name: &str, series: &Series) {
    let (labels, own) = (&series.labels, &series.own);
    let comma = if labels.is_empty() || own.is_empty() { "" } else { "," };
    let _ = match &series.value {
        Value::Counter(n) => writeln!(out, "{name}{{{own}{comma}{labels}}} {n}"),
        Value::Gauge(n) => writeln!(out, "{name}{{{own}{comma}{labels}}} {}", n.unwrap_or(0)),
        Value::Histogram(data) => {
            let bounds = series.bounds.as_deref().unwrap_or(&PROMETHEUS_TENTHS);
            histogram(out, name, &format!("{own}{comma}{labels}"), data, bounds);
            Ok(())
        }
        Value::Text(_) => Ok(()),
    };
}

fn histogram(out: &mut String, name: &str, labels: &str, data: &HistogramData, bounds: &[u64]) {
    let comma = if labels.is_empty() { "" } else { "," };
    for tenths in bounds {
        let count = data.count_up_to_tenths(*tenths);
        let _ = match tenths % 10 {
            0 => writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {count}", tenths / 10),
            part => writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}.{part}\"}} {count}", tenths / 10),
        };
    }
    let count = data.count();
    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", data.sum());
    let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
}

/// Everything, as one string.
pub fn to_string(registry: &Registry) -> String {
    let mut all = String::new();
    write(registry, &Query { used_only: false, filter: None, kinds: Kinds::All }, &mut |piece| {
        all.push_str(&piece);
        true
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Reason;
    use crate::stat_group;
    use crate::telemetry::ClusterStats;
    use crate::telemetry::metric::{Counter, Gauge, SecondsSince};

    stat_group! {
        pub struct MembershipStats {
            membership_change: Counter,
        }

        pub struct SnapshotStats {
            snapshot_stale: Gauge,
            snapshot_age_seconds: SecondsSince,
        }

        pub struct XdsContactStats {
            seconds_since_contact: SecondsSince,
        }
    }

    #[test]
    fn series_of_a_name_stand_together_under_one_type() {
        let registry = Registry::new();
        let a = registry.register(Scope::cluster("out|80||a\"b"), ClusterStats::default());
        let b = registry.register(Scope::cluster("b"), ClusterStats::default());
        let _m = registry.register(Scope::cluster("b"), MembershipStats::default());
        a.upstream_rq_total.add(3);
        b.upstream_rq.record(204);
        b.failure.inc(Reason::Timeout);
        let all = to_string(&registry);
        assert!(all.contains(
            "# TYPE envoy_cluster_upstream_rq_total counter\n\
             envoy_cluster_upstream_rq_total{envoy_cluster_name=\"b\"} 0\n\
             envoy_cluster_upstream_rq_total{envoy_cluster_name=\"out|80||a\\\"b\"} 3\n"
        ));
        assert!(
            all.contains(
                "envoy_cluster_upstream_rq{envoy_response_code=\"204\",envoy_cluster_name=\"b\"} 1\n"
            )
        );
        assert!(all.contains(
            "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"b\"} 1\n"
        ));
        assert!(all.contains("envoy_cluster_failure{reason=\"timeout\",envoy_cluster_name=\"b\"} 1\n"));
        assert!(all.contains("envoy_cluster_http2_keepalive_timeout{envoy_cluster_name=\"b\"} 0\n"));
        let mut types: Vec<_> =
            all.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let total = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), total, "one TYPE line per name");
    }

    #[test]
    fn histograms_have_envoys_buckets() {
        let registry = Registry::new();
        let a = registry.register(Scope::cluster("a"), ClusterStats::default());
        [0, 3, 30].into_iter().for_each(|v| a.upstream_rq_time.record(v));
        let all = to_string(&registry);
        for line in [
            "bucket{envoy_cluster_name=\"a\",le=\"0.5\"} 1",
            "bucket{envoy_cluster_name=\"a\",le=\"25\"} 2",
            "bucket{envoy_cluster_name=\"a\",le=\"3600000\"} 3",
            "bucket{envoy_cluster_name=\"a\",le=\"+Inf\"} 3",
            "sum{envoy_cluster_name=\"a\"} 33",
            "count{envoy_cluster_name=\"a\"} 3",
        ] {
            assert!(all.contains(&format!("envoy_cluster_upstream_rq_time_{line}\n")), "{line}");
        }
    }

    #[test]
    fn own_gauges_keep_their_own_names() {
        let registry = Registry::new();
        let snapshot = registry.register(Scope::mizzen(), SnapshotStats::default());
        let contact = registry.register(Scope::mizzen_xds("cds"), XdsContactStats::default());
        assert!(!to_string(&registry).contains("mizzen_snapshot_stale"));
        snapshot.snapshot_stale.set(1);
        contact.seconds_since_contact.now();
        let all = to_string(&registry);
        assert!(all.contains("mizzen_snapshot_stale{} 1\n"), "{all}");
        assert!(all.contains("mizzen_xds_seconds_since_contact{type=\"cds\"} 0\n"), "{all}");
        assert!(!all.contains("snapshot_age"));
    }
}
