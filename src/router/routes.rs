//! The routes of one virtual host, indexed.
//!
//! Most tables are told apart by an exact path or by one header (`service` in bolt). Routes with such a
//! condition are found by hash; the few others are scanned. Candidates are tried in configured order, so the
//! result is that of a plain scan.

use super::RouteSpec;
use super::matcher::{Target, matches};
use crate::message::Head;
use crate::model::{HeaderMatchKind, PathMatch, RouteMatch, StringMatch};
use foldhash::fast::FixedState;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

type Lists = HashMap<Box<[u8]>, Vec<u32>, FixedState>;

/// Fewer routes than this are scanned: a scan costs less than the hashes.
const INDEX_FROM: usize = 8;

#[derive(Default)]
pub(super) struct Routes {
    all: Vec<Arc<RouteSpec>>,
    index: Option<Index>,
}

struct Index {
    /// Routes with an exact, case-sensitive path.
    paths: Lists,
    /// The header most routes name with an exact value, and the routes by that value.
    header: String,
    values: Lists,
    /// Every other route.
    rest: Vec<u32>,
}

impl Routes {
    pub(super) fn new(all: Vec<Arc<RouteSpec>>) -> Self {
        let index = (all.len() >= INDEX_FROM).then(|| Index::new(&all));
        Routes { all, index }
    }

    pub(super) fn all(&self) -> &[Arc<RouteSpec>] {
        &self.all
    }

    /// The first route that matches.
    pub(super) fn find<H: Head + ?Sized>(&self, head: &H, target: &Target<'_>) -> Option<&Arc<RouteSpec>> {
        match &self.index {
            None => self.all.iter().find(|route| matches(route.matcher(), head, target)),
            Some(index) => self.find_indexed(index, head, target),
        }
    }

    fn find_indexed<H: Head + ?Sized>(
        &self,
        index: &Index,
        head: &H,
        target: &Target<'_>,
    ) -> Option<&Arc<RouteSpec>> {
        let by_path = target.path.and_then(|path| index.paths.get(path));
        let value = if index.values.is_empty() { None } else { head.header(&index.header) };
        let by_value = value.and_then(|value| index.values.get(&*value));
        let mut lists = [list(by_path), list(by_value), &index.rest];
        loop {
            // The smallest head of three ascending lists is the next route in configured order.
            let next = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first())?;
            let (number, rest) = next.split_first()?;
            *next = rest;
            let route = self.all.get(*number as usize)?;
            if matches(route.matcher(), head, target) {
                return Some(route);
            }
        }
    }
}

fn list(found: Option<&Vec<u32>>) -> &[u32] {
    found.map_or(&[], Vec::as_slice)
}

impl Index {
    fn new(all: &[Arc<RouteSpec>]) -> Self {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for route in all.iter().filter(|route| exact_path(route.matcher()).is_none()) {
            for (name, _) in exact_headers(route.matcher()) {
                *counts.entry(name).or_default() += 1;
            }
        }
        let header = counts.iter().max_by_key(|(_, count)| **count).map_or("", |(name, _)| *name).to_owned();
        let mut index = Index { paths: Lists::default(), header, values: Lists::default(), rest: Vec::new() };
        for (number, route) in (0u32..).zip(all) {
            let matcher = route.matcher();
            if let Some(path) = exact_path(matcher) {
                index.paths.entry(path.into()).or_default().push(number);
            } else if let Some((_, value)) = exact_headers(matcher).find(|(name, _)| *name == index.header) {
                index.values.entry(value.into()).or_default().push(number);
            } else {
                index.rest.push(number);
            }
        }
        index
    }
}

fn exact_path(matcher: &RouteMatch) -> Option<&[u8]> {
    match &matcher.path {
        PathMatch::Exact { value, ignore_case: false } => Some(value.as_bytes()),
        _ => None,
    }
}

/// Headers that must be present with exactly one value. One that counts as empty when absent is no such
/// condition: its route can match a request the header's value would not lead to.
fn exact_headers(matcher: &RouteMatch) -> impl Iterator<Item = (&str, &[u8])> {
    matcher.headers.iter().filter(|header| !header.invert && !header.treat_missing_as_empty).filter_map(
        |header| match &header.kind {
            HeaderMatchKind::Text(StringMatch::Exact { value, ignore_case: false }) => {
                Some((header.name.as_str(), value.as_bytes()))
            }
            _ => None,
        },
    )
}
