//! `stats_config` of a bootstrap: which metrics are shown, which parts of their names become labels, and the
//! bounds of histogram buckets.
//!
//! Applied where metrics are read: counting costs the same whatever is configured.

use crate::model::StringMatch;
use regex_automata::meta::Regex;
use std::fmt::Write as _;

/// Largest compiled pattern, in bytes.
const PATTERN: usize = 1 << 20;

/// See the module.
#[derive(Clone, Debug)]
pub struct StatsConfig {
    /// Envoy's own tags are extracted as well. Default yes.
    pub default_tags: bool,
    /// Tags in configured order.
    pub tags: Vec<Tag>,
    /// Which metrics are shown.
    pub shown: Shown,
    /// Bucket bounds, in tenths, of the histograms whose full name matches; the first match counts.
    pub buckets: Vec<(StringMatch, Vec<u64>)>,
}

impl Default for StatsConfig {
    fn default() -> Self {
        StatsConfig { default_tags: true, tags: Vec::new(), shown: Shown::All, buckets: Vec::new() }
    }
}

/// Which metrics are shown, by their full names.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// Every one.
    All,
    /// None.
    Nothing,
    /// Those that none of these matches.
    Except(Vec<StringMatch>),
    /// Those that one of these matches.
    Only(Vec<StringMatch>),
}

/// A label.
#[derive(Clone, Debug)]
pub enum Tag {
    /// The same for all metrics: name and value.
    Fixed(String, String),
    /// From the metric's name: what group 1 hits is cut out of it, what group 2 hits (group 1 if there is none)
    /// is the value.
    Extracted(String, Regex),
}

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(String);

impl Tag {
    /// A tag by pattern. `true`: a look-ahead was left out of it.
    ///
    /// # Errors
    /// Bad syntax, or no group 1.
    pub fn extracted(name: &str, pattern: &str) -> Result<(Tag, bool), BadPattern> {
        let (compiled, loosened) = match compile(pattern) {
            Ok(regex) => (regex, false),
            Err(error) => match without_look_ahead(pattern) {
                Some(looser) => (compile(&looser)?, true),
                None => return Err(error),
            },
        };
        if compiled.captures_len() < 2 {
            return Err(BadPattern("has no group, which would be the tag's value".to_owned()));
        }
        Ok((Tag::Extracted(name.to_owned(), compiled), loosened))
    }
}

fn compile(pattern: &str) -> Result<Regex, BadPattern> {
    let config = Regex::config().nfa_size_limit(Some(PATTERN)).utf8_empty(true);
    let built = Regex::builder().configure(config).build(pattern);
    built.map_err(|error| BadPattern(error.to_string().lines().next_back().unwrap_or_default().to_owned()))
}

/// The pattern without its look-ahead groups. What such a group demands is, in the patterns control planes send,
/// what the text around it demands anyway.
fn without_look_ahead(pattern: &str) -> Option<String> {
    let mut rest = pattern;
    let mut out = String::with_capacity(pattern.len());
    while let Some(at) = rest.find("(?=").or_else(|| rest.find("(?!")) {
        let (before, group) = rest.split_at(at);
        out.push_str(before);
        let (mut depth, mut escaped, mut end) = (0u32, false, None);
        for (place, c) in group.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '(' => depth += 1,
                ')' => {
                    depth -= 1;
                    if depth == 0 {
                        end = Some(place + 1);
                        break;
                    }
                }
                _ => {}
            }
        }
        rest = group.get(end?..)?;
    }
    out.push_str(rest);
    (out.len() < pattern.len()).then_some(out)
}

/// A name with its tags taken out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// What is left of the name.
    pub name: String,
    /// `key="value",…`
    pub labels: String,
}

impl StatsConfig {
    /// Whether the metric of this name is shown.
    pub fn admits(&self, name: &str) -> bool {
        let hit = |list: &[StringMatch]| list.iter().any(|one| one.matches(name.as_bytes()));
        match &self.shown {
            Shown::All => true,
            Shown::Nothing => false,
            Shown::Except(list) => !hit(list),
            Shown::Only(list) => hit(list),
        }
    }

    /// The bounds of a histogram, in tenths.
    pub(super) fn bounds(&self, name: &str) -> Option<&[u64]> {
        let found = self.buckets.iter().find(|(matcher, _)| matcher.matches(name.as_bytes()));
        found.map(|(_, bounds)| bounds.as_slice())
    }

    /// Takes the tags out of `name`. Every pattern sees the whole name; what several cut out goes once.
    pub(super) fn take(&self, name: &str) -> Taken {
        let mut cuts: Vec<(usize, usize)> = Vec::new();
        let mut labels = String::new();
        let mut add = |key: &str, value: &str| {
            let comma = if labels.is_empty() { "" } else { "," };
            // Writing into a string cannot fail.
            let _ = write!(
                labels,
                "{comma}{}=\"{}\"",
                super::prometheus::clean(key),
                super::prometheus::escaped(value)
            );
        };
        for tag in &self.tags {
            match tag {
                Tag::Fixed(key, value) => add(key, value),
                Tag::Extracted(key, regex) => {
                    let mut captures = regex.create_captures();
                    regex.captures(name, &mut captures);
                    let Some(cut) = captures.get_group(1) else { continue };
                    let value = captures.get_group(2).unwrap_or(cut);
                    add(key, name.get(value.range()).unwrap_or_default());
                    cuts.push((cut.start, cut.end));
                }
            }
        }
        cuts.sort_unstable();
        let mut left = String::with_capacity(name.len());
        let mut at = 0;
        for (start, end) in cuts {
            left.push_str(name.get(at..start.max(at)).unwrap_or_default());
            at = at.max(end);
        }
        left.push_str(name.get(at..).unwrap_or_default());
        Taken { name: left, labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{ClusterStats, Registry, Scope, prometheus, text};

    fn istio() -> StatsConfig {
        let tag = |name, pattern| Tag::extracted(name, pattern).unwrap();
        let (look_ahead, loosened) = tag(
            "http_conn_manager_listener_prefix",
            r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
        );
        assert!(loosened);
        let tags = vec![
            tag("cluster_name", r"^cluster(\.(.+);)").0,
            tag("response_code", r"_rq(_(\d{3}))$").0,
            tag("response_code_class", r"_rq(_(\dxx))$").0,
            tag("tag", r"(tag\.(.+?);\.)").0,
            look_ahead,
        ];
        StatsConfig { default_tags: false, tags, ..StatsConfig::default() }
    }

    #[test]
    fn group_one_is_removed_and_group_two_kept() {
        let taken = istio().take("cluster.outbound|80||a.b;.upstream_rq_503");
        assert_eq!(taken.name, "cluster.upstream_rq");
        assert_eq!(taken.labels, "cluster_name=\"outbound|80||a.b\",response_code=\"503\"");
        assert_eq!(
            istio().take("cluster.xds-grpc.upstream_rq_total").name,
            "cluster.xds-grpc.upstream_rq_total"
        );
        let taken = istio().take("listener.0.0.0.0_80.http.0.0.0.0_80.downstream_rq_2xx");
        assert_eq!(taken.name, "listener.0.0.0.0_80.http.downstream_rq");
        for bad in ["(", "no group", "(?=a"] {
            assert!(Tag::extracted("t", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_follows_the_configuration() {
        let registry = Registry::new();
        let prefix = |value: &str| StringMatch::Prefix { value: value.into(), ignore_case: false };
        let suffix = StringMatch::Suffix { value: "_ms".into(), ignore_case: false };
        registry.configure(StatsConfig {
            shown: Shown::Only(vec![prefix("cluster.in")]),
            buckets: vec![(suffix, vec![10, 25])],
            ..istio()
        });
        let cluster = registry.register(Scope::cluster("in;"), ClusterStats::default());
        let _other = registry.register(Scope::cluster("out;"), ClusterStats::default());
        cluster.upstream_cx_connect_ms.record(2);
        let all = prometheus::to_string(&registry);
        assert!(all.contains("envoy_cluster_upstream_cx_total{cluster_name=\"in\"} 0\n"), "{all}");
        assert!(!all.contains("\"out") && !all.contains("envoy_cluster_name"), "{all}");
        assert!(
            all.contains("envoy_cluster_upstream_cx_connect_ms_bucket{cluster_name=\"in\",le=\"2.5\"} 1\n"),
            "{all}"
        );
        let default = "envoy_cluster_upstream_cx_connect_ms_bucket{cluster_name=\"in\",le=\"5\"}";
        assert!(!all.contains(default), "{all}");
        let mut shown = String::new();
        text::write_text(&registry, &text::Query::default(), &mut |piece| {
            shown.push_str(&piece);
            true
        });
        assert!(
            shown.contains("cluster.in;.upstream_cx_total: 0\n") && !shown.contains("cluster.out"),
            "{shown}"
        );
    }
}
