//! Headers, trailers and query parameters, rewritten in order.

use super::body::{Body, Pipeline};
use super::chain::{Outgoing, Verdict};
use super::context::{Context, World};
use super::facts::With;
use crate::message::{Facts, Failure, Head, Headers, Metadata};
use crate::model::{
    EditValue, FilterConfig, HeaderEdit, HeaderMutation, HttpFilter, Mutation, ParameterMutation,
};
use crate::router::{Edit, EditPlan};
use bytes::Bytes;

/// The chain's changes, then those of the route's levels: the most specific first, so that the table has the
/// last word, or in the reverse.
fn levels<'a>(filter: &'a HttpFilter, world: &World<'a>) -> Vec<&'a HeaderMutation> {
    let FilterConfig::HeaderMutation(own) = &filter.rule.config else { return Vec::new() };
    let mutation = |rule: &'a crate::model::FilterRule| match &rule.config {
        FilterConfig::HeaderMutation(mutation) => Some(mutation),
        _ => None,
    };
    let mut all: Vec<_> = world.route_rules(&filter.name).filter_map(mutation).collect();
    if own.most_specific_wins {
        all.reverse();
    }
    all.insert(0, own);
    all
}

pub(super) fn on_request(filter: &HttpFilter, ctx: &mut Context<'_>, bodies: &mut Pipeline) -> Verdict {
    let levels = levels(filter, &ctx.world);
    for mutation in levels.iter().flat_map(|level| &level.request) {
        let value = value_of(mutation, &ctx.facts());
        mutate(ctx.request, mutation, value);
    }
    if levels.iter().any(|level| !level.query.is_empty())
        && let Some(target) = ctx.request.path_and_query()
    {
        let facts = ctx.facts();
        let target =
            levels.iter().fold(target.to_vec(), |target, level| with_query(target, &level.query, &facts));
        ctx.request.set(":path", &target);
    }
    trailers(levels.iter().flat_map(|level| &level.request_trailers), bodies);
    Verdict::Continue
}

pub(super) fn on_response(
    filter: &HttpFilter,
    (request, metadata): (&dyn Head, &Metadata),
    response: &mut Outgoing<'_>,
    world: &World<'_>,
    bodies: &mut Pipeline,
) {
    let levels = levels(filter, world);
    for mutation in levels.iter().flat_map(|level| &level.response) {
        let value = {
            let facts = With {
                base: world.facts,
                request,
                response: Some(&*response.headers),
                status: Some(response.status),
                metadata,
            };
            value_of(mutation, &facts)
        };
        mutate(response.headers, mutation, value);
    }
    trailers(levels.iter().flat_map(|level| &level.response_trailers), bodies);
}

/// `None`: it writes nothing.
fn value_of(mutation: &Mutation, facts: &dyn Facts) -> Option<Vec<u8>> {
    let Mutation::Write(edit) = mutation else { return None };
    resolve(edit.value(), facts)
}

fn resolve(value: &EditValue, facts: &dyn Facts) -> Option<Vec<u8>> {
    match value {
        EditValue::Text(text) => Some(text.to_vec()),
        EditValue::Format { format, keep_empty } => {
            let mut out = Vec::new();
            format.write(facts, b"", &mut out);
            (*keep_empty || !out.is_empty()).then_some(out)
        }
    }
}

fn mutate(headers: &mut dyn Headers, mutation: &Mutation, value: Option<Vec<u8>>) {
    match mutation {
        Mutation::Remove(name) => drop(headers.remove(name)),
        Mutation::RemoveMatching(pattern) => {
            let mut names = Vec::new();
            headers.each(&mut |name, _| {
                if pattern.matches(name.as_bytes()) {
                    names.push(name.to_owned());
                }
            });
            for name in names {
                headers.remove(&name);
            }
        }
        Mutation::Write(edit) => {
            if let Some(value) = value {
                put(headers, edit, &value);
            }
        }
    }
}

fn put(headers: &mut dyn Headers, edit: &HeaderEdit, value: &[u8]) {
    let name = edit.name();
    match edit {
        HeaderEdit::Append { .. } => headers.append(name, value),
        HeaderEdit::AddIfAbsent { .. } if headers.value(name).is_none() => headers.append(name, value),
        HeaderEdit::Set { .. } => headers.set(name, value),
        HeaderEdit::ReplaceIfPresent { .. } if headers.value(name).is_some() => headers.set(name, value),
        HeaderEdit::AddIfAbsent { .. } | HeaderEdit::ReplaceIfPresent { .. } => {}
    }
}

/// Applies a plan whose values are known.
pub(super) fn write(headers: &mut (impl Headers + ?Sized), plan: &EditPlan) {
    for step in plan.iter() {
        match step {
            Edit::Remove(name) => drop(headers.remove(name)),
            Edit::Write(edit) => match edit {
                HeaderEdit::Append { .. } => headers.append(edit.name(), edit.value().as_bytes()),
                _ => headers.set(edit.name(), edit.value().as_bytes()),
            },
        }
    }
}

/// What a plan writes, its values being known.
pub(super) fn texts(plan: &EditPlan) -> Vec<(String, Vec<u8>)> {
    let write = |step: &Edit| match step {
        Edit::Write(edit) => Some((edit.name().to_owned(), edit.value().as_bytes().to_vec())),
        Edit::Remove(_) => None,
    };
    plan.iter().filter_map(write).collect()
}

fn with_query(target: Vec<u8>, changes: &[ParameterMutation], facts: &dyn Facts) -> Vec<u8> {
    if changes.is_empty() {
        return target;
    }
    let (path, query) = match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (target.get(..at).unwrap_or_default(), target.get(at + 1..).unwrap_or_default()),
        None => (target.as_slice(), &[][..]),
    };
    let key = |part: &[u8]| part.split(|byte| *byte == b'=').next().unwrap_or_default().to_vec();
    let mut parts: Vec<Vec<u8>> =
        query.split(|byte| *byte == b'&').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect();
    for change in changes {
        match change {
            ParameterMutation::Remove(name) => parts.retain(|part| key(part) != name.as_bytes()),
            ParameterMutation::Write(edit) => {
                let Some(value) = resolve(edit.value(), facts) else { continue };
                let name = edit.name().as_bytes();
                let there = parts.iter().position(|part| key(part) == name);
                let part = [name, b"=", &encoded(&value)].concat();
                match (edit, there) {
                    (HeaderEdit::Append { .. }, _)
                    | (HeaderEdit::AddIfAbsent { .. } | HeaderEdit::Set { .. }, None) => parts.push(part),
                    (HeaderEdit::Set { .. } | HeaderEdit::ReplaceIfPresent { .. }, Some(at)) => {
                        let mut seen = 0;
                        parts.retain(|part| key(part) != name || std::mem::replace(&mut seen, 1) == 0);
                        if let Some(held) = parts.get_mut(at) {
                            *held = part;
                        }
                    }
                    (HeaderEdit::AddIfAbsent { .. }, Some(_))
                    | (HeaderEdit::ReplaceIfPresent { .. }, None) => {}
                }
            }
        }
    }
    let mut out = path.to_vec();
    for (at, part) in parts.iter().enumerate() {
        out.push(if at == 0 { b'?' } else { b'&' });
        out.extend_from_slice(part);
    }
    out
}

/// Bytes that would end or change a query are escaped.
fn encoded(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~!$'()*,;:@/?%".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

/// Fixed changes of trailers.
struct Trailers(Vec<Mutation>);

impl Body for Trailers {
    fn data(&mut self, data: Bytes) -> Result<Bytes, Failure> {
        Ok(data)
    }

    fn end(&mut self, trailers: &mut dyn Headers) -> Result<Bytes, Failure> {
        // None came: there is nothing to change, and none are made up.
        let mut any = false;
        trailers.each(&mut |_, _| any = true);
        if any {
            for mutation in &self.0 {
                let value = match mutation {
                    Mutation::Write(edit) => Some(edit.value().as_bytes().to_vec()),
                    _ => None,
                };
                mutate(trailers, mutation, value);
            }
        }
        Ok(Bytes::new())
    }
}

fn trailers<'a>(mutations: impl Iterator<Item = &'a Mutation>, bodies: &mut Pipeline) {
    let mutations: Vec<Mutation> = mutations.cloned().collect();
    if !mutations.is_empty() {
        bodies.push(Box::new(Trailers(mutations)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Fact;
    use std::borrow::Cow;

    struct Nothing;

    impl Facts for Nothing {
        fn request_header(&self, _: &str) -> Option<Cow<'_, [u8]>> {
            None
        }
        fn fact(&self, _: Fact, _: &mut Vec<u8>) -> bool {
            false
        }
    }

    #[test]
    fn query_parameters_are_added_replaced_and_removed() {
        let set = |name: &str, value: &str| {
            ParameterMutation::Write(HeaderEdit::Set { name: name.into(), value: value.into() })
        };
        let add = |name: &str, value: &str| {
            ParameterMutation::Write(HeaderEdit::Append { name: name.into(), value: value.into() })
        };
        let change = |target: &str, changes: &[ParameterMutation]| {
            String::from_utf8(with_query(target.into(), changes, &Nothing)).unwrap()
        };
        assert_eq!(change("/a?x=1&y=2&x=3", &[set("x", "a b")]), "/a?x=a%20b&y=2");
        assert_eq!(change("/a", &[add("x", "1"), add("x", "2")]), "/a?x=1&x=2");
        assert_eq!(change("/a?x=1", &[ParameterMutation::Remove("x".into())]), "/a");
    }
}
