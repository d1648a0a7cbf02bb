//! `HeaderMutation`.

use super::rule;
use crate::model::{
    EditValue, FilterConfig, Format, HeaderEdit, HeaderMutation, Mutation, ParameterMutation, RouteFilter,
};
use crate::proto::envoy::config::common::mutation_rules::v3 as rules;
use crate::proto::envoy::config::core::v3::KeyValueMutation;
use crate::proto::envoy::config::core::v3::key_value_append::KeyValueAppendAction as Action;
use crate::proto::envoy::extensions::filters::http::header_mutation::v3 as pb;
use crate::translate::envoy::headers::{edit, format};
use crate::translate::envoy::matchers::text;
use crate::translate::envoy::values::{enumeration, not_empty};
use crate::translate::finding::{Findings, Path};

pub(super) fn of_chain(
    path: &Path<'_>,
    config: &pb::HeaderMutation,
    out: &mut Findings,
) -> Option<FilterConfig> {
    let mut mutations = read(&path.name("mutations"), config.mutations.as_ref(), out);
    mutations.most_specific_wins = config.most_specific_header_mutations_wins;
    Some(FilterConfig::HeaderMutation(mutations))
}

pub(super) fn of_route(
    path: &Path<'_>,
    config: &pb::HeaderMutationPerRoute,
    out: &mut Findings,
) -> Option<RouteFilter> {
    let mutations = read(&path.name("mutations"), config.mutations.as_ref(), out);
    Some(rule(FilterConfig::HeaderMutation(mutations)))
}

fn read(path: &Path<'_>, mutations: Option<&pb::Mutations>, out: &mut Findings) -> HeaderMutation {
    let Some(given) = mutations else { return HeaderMutation::default() };
    let list = |field: &str, list: &[rules::HeaderMutation], out: &mut Findings| -> Vec<Mutation> {
        let at = path.name(field);
        list.iter().enumerate().filter_map(|(i, one)| mutation(&at.index(i), one, out)).collect()
    };
    let at = path.name("query_parameter_mutations");
    let query = given.query_parameter_mutations.iter().enumerate();
    let query = query.filter_map(|(i, one)| parameter(&at.index(i), one, out)).collect();
    let read = HeaderMutation {
        request: list("request_mutations", &given.request_mutations, out),
        query,
        response: list("response_mutations", &given.response_mutations, out),
        response_trailers: list("response_trailers_mutations", &given.response_trailers_mutations, out),
        request_trailers: list("request_trailers_mutations", &given.request_trailers_mutations, out),
        most_specific_wins: false,
    };
    for (field, list) in [
        ("response_trailers_mutations", &read.response_trailers),
        ("request_trailers_mutations", &read.request_trailers),
    ] {
        let open = |one: &&Mutation| {
            matches!(one, Mutation::Write(edit)
                if matches!(edit.value(), EditValue::Format { .. }))
        };
        if list.iter().any(|one| open(&one)) {
            out.bad(&path.name(field), "", "values of trailers must not have operators");
        }
    }
    read
}

fn mutation(path: &Path<'_>, given: &rules::HeaderMutation, out: &mut Findings) -> Option<Mutation> {
    use rules::header_mutation::Action as Kind;
    match &given.action {
        Some(Kind::Remove(name)) => {
            Some(Mutation::Remove(not_empty(&path.name("remove"), name, out).to_ascii_lowercase()))
        }
        Some(Kind::Append(option)) => edit(&path.name("append"), option, out).map(Mutation::Write),
        Some(Kind::RemoveOnMatch(on)) => {
            let at = path.name("remove_on_match");
            let at = at.name("key_matcher");
            match &on.key_matcher {
                Some(matcher) => text(&at, matcher, out).map(Mutation::RemoveMatching),
                None => {
                    out.bad(&at, "", "is required");
                    None
                }
            }
        }
        None => {
            out.bad(path, "", "no action (one of remove, append, remove_on_match)");
            None
        }
    }
}

fn parameter(path: &Path<'_>, given: &KeyValueMutation, out: &mut Findings) -> Option<ParameterMutation> {
    if let Some(append) = &given.append {
        let at = path.name("append");
        let at_record = at.name("record");
        let Some(record) = &append.record else {
            out.bad(&at_record, "", "is required");
            return None;
        };
        let name = not_empty(&at_record.name("key"), &record.key, out);
        let Some(prost_types::value::Kind::StringValue(value)) =
            record.value.as_ref().and_then(|value| value.kind.as_ref())
        else {
            out.bad(&at_record.name("value"), "", "must be a string");
            return None;
        };
        let value = match format(&at_record.name("value"), &name, value, out)? {
            literal if literal.as_literal().is_some() => {
                EditValue::Text(literal.as_literal().unwrap_or_default().into())
            }
            format => EditValue::Format { format: Format::clone(&format), keep_empty: true },
        };
        return Some(ParameterMutation::Write(match enumeration(&at.name("action"), append.action, out)? {
            Action::AppendIfExistsOrAdd => HeaderEdit::Append { name, value },
            Action::AddIfAbsent => HeaderEdit::AddIfAbsent { name, value },
            Action::OverwriteIfExistsOrAdd => HeaderEdit::Set { name, value },
            Action::OverwriteIfExists => HeaderEdit::ReplaceIfPresent { name, value },
        }));
    }
    if given.remove.is_empty() {
        out.bad(path, "", "no action (one of append, remove)");
        return None;
    }
    Some(ParameterMutation::Remove(given.remove.clone()))
}
