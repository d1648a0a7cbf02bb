//! Text, header and query matchers.

use super::values::not_empty;
use crate::model::{HeaderMatch, HeaderMatchKind, QueryMatch, Regex, StringMatch};
use crate::proto::envoy::config::route::v3 as pb;
use crate::proto::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use crate::translate::finding::{Findings, Path};

/// A pattern that must match the whole text.
pub(super) fn regex(path: &Path<'_>, matcher: &RegexMatcher, out: &mut Findings) -> Option<Regex> {
    compiled(path, matcher, Regex::full, out)
}

/// A pattern that is searched for, as rewrites do.
pub(super) fn search_regex(path: &Path<'_>, matcher: &RegexMatcher, out: &mut Findings) -> Option<Regex> {
    compiled(path, matcher, Regex::search, out)
}

fn compiled<E: std::fmt::Display>(
    path: &Path<'_>,
    matcher: &RegexMatcher,
    compile: fn(&str) -> Result<Regex, E>,
    out: &mut Findings,
) -> Option<Regex> {
    let at = path.name("regex");
    if matcher.regex.is_empty() {
        out.bad(&at, "", "must not be empty");
        return None;
    }
    match compile(&matcher.regex) {
        Ok(regex) => Some(regex),
        Err(error) => {
            out.bad(&at, &matcher.regex, error);
            None
        }
    }
}

/// A text matcher.
pub(super) fn text(path: &Path<'_>, matcher: &StringMatcher, out: &mut Findings) -> Option<StringMatch> {
    use crate::proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern as Pattern;
    let ignore_case = matcher.ignore_case;
    match &matcher.match_pattern {
        None => {
            out.bad(path, "", "no pattern (one of exact, prefix, suffix, contains, safe_regex)");
            None
        }
        Some(Pattern::Exact(value)) => Some(StringMatch::Exact { value: value.clone(), ignore_case }),
        Some(Pattern::Prefix(value)) => {
            let value = not_empty(&path.name("prefix"), value, out);
            Some(StringMatch::Prefix { value, ignore_case })
        }
        Some(Pattern::Suffix(value)) => {
            let value = not_empty(&path.name("suffix"), value, out);
            Some(StringMatch::Suffix { value, ignore_case })
        }
        Some(Pattern::Contains(value)) => {
            let value = not_empty(&path.name("contains"), value, out);
            Some(StringMatch::Contains { value, ignore_case })
        }
        Some(Pattern::SafeRegex(pattern)) => {
            regex(&path.name("safe_regex"), pattern, out).map(StringMatch::Regex)
        }
    }
}

/// Header matchers of a list.
pub(super) fn headers(path: &Path<'_>, list: &[pb::HeaderMatcher], out: &mut Findings) -> Vec<HeaderMatch> {
    list.iter().enumerate().filter_map(|(i, matcher)| header(&path.index(i), matcher, out)).collect()
}

/// A header matcher, current and deprecated spellings.
pub(super) fn header(
    path: &Path<'_>,
    matcher: &pb::HeaderMatcher,
    out: &mut Findings,
) -> Option<HeaderMatch> {
    use pb::header_matcher::HeaderMatchSpecifier as Kind;
    let name = not_empty(&path.name("name"), &matcher.name, out);
    let plain = |field: &str, value: &String, out: &mut Findings| not_empty(&path.name(field), value, out);
    let ignore_case = false;
    let kind = match &matcher.header_match_specifier {
        None => HeaderMatchKind::Present(true),
        Some(Kind::PresentMatch(present)) => HeaderMatchKind::Present(*present),
        Some(Kind::StringMatch(m)) => HeaderMatchKind::Text(text(&path.name("string_match"), m, out)?),
        // Nothing to compare with is compared with nothing, in the deprecated spelling.
        Some(Kind::ExactMatch(value)) if value.is_empty() => {
            HeaderMatchKind::Text(StringMatch::Prefix { value: String::new(), ignore_case })
        }
        Some(Kind::ExactMatch(value)) => {
            HeaderMatchKind::Text(StringMatch::Exact { value: value.clone(), ignore_case })
        }
        Some(Kind::PrefixMatch(value)) => {
            let value = plain("prefix_match", value, out);
            HeaderMatchKind::Text(StringMatch::Prefix { value, ignore_case })
        }
        Some(Kind::SuffixMatch(value)) => {
            let value = plain("suffix_match", value, out);
            HeaderMatchKind::Text(StringMatch::Suffix { value, ignore_case })
        }
        Some(Kind::ContainsMatch(value)) => {
            let value = plain("contains_match", value, out);
            HeaderMatchKind::Text(StringMatch::Contains { value, ignore_case })
        }
        Some(Kind::SafeRegexMatch(m)) => {
            let regex = regex(&path.name("safe_regex_match"), m, out)?;
            HeaderMatchKind::Text(StringMatch::Regex(regex))
        }
        Some(Kind::RangeMatch(range)) => HeaderMatchKind::Range { start: range.start, end: range.end },
    };
    let treat_missing_as_empty = matcher.treat_missing_header_as_empty;
    Some(HeaderMatch { name, kind, invert: matcher.invert_match, treat_missing_as_empty })
}

/// A query parameter matcher.
pub(super) fn query(
    path: &Path<'_>,
    matcher: &pb::QueryParameterMatcher,
    out: &mut Findings,
) -> Option<QueryMatch> {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Kind;
    let name = not_empty(&path.name("name"), &matcher.name, out);
    Some(match &matcher.query_parameter_match_specifier {
        None => QueryMatch { name, value: None, present: true },
        Some(Kind::PresentMatch(present)) => QueryMatch { name, value: None, present: *present },
        Some(Kind::StringMatch(m)) => {
            let value = text(&path.name("string_match"), m, out)?;
            QueryMatch { name, value: Some(value), present: true }
        }
    })
}
