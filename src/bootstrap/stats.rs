//! `stats_config` of a bootstrap.

use super::Finding;
use crate::model::{Regex, StringMatch};
use crate::proto::envoy::config::metrics::v3::{self as pb, stats_matcher, tag_specifier::TagValue};
use crate::proto::envoy::r#type::matcher::v3::{ListStringMatcher, StringMatcher, string_matcher};
use crate::telemetry::stats_config::{Shown, StatsConfig, Tag};

/// What the section asks for. Envoy's own tags by their names are all known; others without a pattern are told.
pub(super) fn read(config: &pb::StatsConfig, findings: &mut Vec<Finding>) -> StatsConfig {
    let mut tags = Vec::new();
    for (i, tag) in config.stats_tags.iter().enumerate() {
        let at = format!("stats_config.stats_tags[{i}]");
        match &tag.tag_value {
            Some(TagValue::FixedValue(value)) => tags.push(Tag::Fixed(tag.tag_name.clone(), value.clone())),
            Some(TagValue::Regex(pattern)) => match Tag::extracted(&tag.tag_name, pattern) {
                Ok((made, loosened)) => {
                    if loosened {
                        let why = "look-ahead is left out: what it demands is not checked";
                        findings.push(Finding::warning(format!("{at}.regex"), pattern, why));
                    }
                    tags.push(made);
                }
                Err(error) => {
                    findings.push(Finding::error(format!("{at}.regex"), pattern, error.to_string()));
                }
            },
            None if tag.tag_name.starts_with("envoy.") => {}
            None => {
                let why = "not one of Envoy's own tags, and no regex or fixed_value";
                findings.push(Finding::error(format!("{at}.tag_name"), &tag.tag_name, why));
            }
        }
    }
    let shown = match config.stats_matcher.as_ref().and_then(|matcher| matcher.stats_matcher.as_ref()) {
        None | Some(stats_matcher::StatsMatcher::RejectAll(false)) => Shown::All,
        Some(stats_matcher::StatsMatcher::RejectAll(true)) => Shown::Nothing,
        Some(stats_matcher::StatsMatcher::ExclusionList(list)) => Shown::Except(list_of(list, findings)),
        Some(stats_matcher::StatsMatcher::InclusionList(list)) => Shown::Only(list_of(list, findings)),
    };
    let mut buckets = Vec::new();
    for (i, settings) in config.histogram_bucket_settings.iter().enumerate() {
        let at = format!("stats_config.histogram_bucket_settings[{i}]");
        let matcher = settings.r#match.as_ref().and_then(|matcher| text(&at, matcher, findings));
        let mut bounds: Vec<u64> =
            settings.buckets.iter().map(|bound| (bound * 10.0).round() as u64).collect();
        bounds.sort_unstable();
        if let Some(matcher) = matcher.filter(|_| !bounds.is_empty()) {
            buckets.push((matcher, bounds));
        }
    }
    StatsConfig { default_tags: config.use_all_default_tags.unwrap_or(true), tags, shown, buckets }
}

fn list_of(list: &ListStringMatcher, findings: &mut Vec<Finding>) -> Vec<StringMatch> {
    list.patterns.iter().filter_map(|matcher| text("stats_config.stats_matcher", matcher, findings)).collect()
}

fn text(at: &str, matcher: &StringMatcher, findings: &mut Vec<Finding>) -> Option<StringMatch> {
    use string_matcher::MatchPattern as Pattern;
    let ignore_case = matcher.ignore_case;
    Some(match matcher.match_pattern.as_ref()? {
        Pattern::Exact(value) => StringMatch::Exact { value: value.clone(), ignore_case },
        Pattern::Prefix(value) => StringMatch::Prefix { value: value.clone(), ignore_case },
        Pattern::Suffix(value) => StringMatch::Suffix { value: value.clone(), ignore_case },
        Pattern::Contains(value) => StringMatch::Contains { value: value.clone(), ignore_case },
        Pattern::SafeRegex(regex) => match Regex::full(&regex.regex) {
            Ok(regex) => StringMatch::Regex(regex),
            Err(error) => {
                findings.push(Finding::error(at, &regex.regex, error.to_string()));
                return None;
            }
        },
        #[expect(unreachable_patterns, reason = "whatever is added to the message")]
        _ => return None,
    })
}
