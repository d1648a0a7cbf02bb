//! Subsets: hosts divided by what their metadata says.

use super::{Hosts, PickContext, Picked, Ranks, Settings};
use crate::cluster::Host;
use crate::model::{Endpoint, Fallback, Selector, Subsets};
use crate::util::random::Random;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Selectors have few keys; more steps of falling back to fewer keys there cannot be.
const MAX_STEPS: usize = 16;

/// All subsets of one set of hosts. Their orders are made when first asked for.
pub(super) struct SubsetTable {
    subsets: Arc<Subsets>,
    hosts: Hosts,
    /// In the order of the selectors.
    by_selector: Vec<HashMap<String, Subset, foldhash::fast::RandomState>>,
    all: OnceCell<Ranks>,
    default: OnceCell<Ranks>,
}

#[derive(Default)]
struct Subset {
    /// Localities and places in them, ascending.
    members: Vec<(usize, usize)>,
    ranks: OnceCell<Ranks>,
}

impl SubsetTable {
    pub(super) fn new(subsets: Arc<Subsets>, settings: &Settings, hosts: &Hosts) -> Self {
        let by_selector = subsets.selectors.iter().map(|selector| divide(selector, settings)).collect();
        SubsetTable {
            subsets,
            hosts: hosts.clone(),
            by_selector,
            all: OnceCell::new(),
            default: OnceCell::new(),
        }
    }

    /// See [`super::Balancer::pick`].
    pub(super) fn pick(
        &self,
        settings: &Settings,
        ctx: &PickContext<'_>,
        random: &Random,
        avoid: &impl Fn(&Host) -> bool,
    ) -> Option<Picked<'_>> {
        let mut wanted: Vec<&(Box<str>, Box<str>)> = ctx.criteria.iter().collect();
        let mut fallback = self.subsets.fallback;
        for _ in 0..MAX_STEPS {
            let same = |selector: &Selector| {
                selector.keys.len() == wanted.len()
                    && selector.keys.iter().zip(&wanted).all(|(key, (given, _))| **key == **given)
            };
            let Some(at) = self.subsets.selectors.iter().position(same) else { break };
            let key = joined(wanted.iter().map(|(_, value)| &**value));
            if let Some(subset) = self.by_selector.get(at).and_then(|subsets| subsets.get(&key)) {
                let ranks = subset.ranks.get_or_init(|| {
                    let keep = |outer, inner| subset.members.binary_search(&(outer, inner)).is_ok();
                    Ranks::new(settings, &self.hosts, random, keep)
                });
                return ranks.pick(settings, ctx, random, avoid);
            }
            let Some(selector) = self.subsets.selectors.get(at) else { break };
            fallback = selector.fallback.unwrap_or(self.subsets.fallback);
            if fallback != Fallback::Keys {
                break;
            }
            wanted.retain(|(key, _)| selector.fallback_keys.iter().any(|kept| **kept == **key));
            fallback = self.subsets.fallback;
        }
        match fallback {
            Fallback::None | Fallback::Keys => None,
            Fallback::Any => self.all(settings, random).pick(settings, ctx, random, avoid),
            Fallback::DefaultSubset => {
                let default = self.default.get_or_init(|| self.default(settings, random));
                default.pick(settings, ctx, random, avoid).or_else(|| {
                    let any = self.subsets.panic_mode_any.then(|| self.all(settings, random))?;
                    any.pick(settings, ctx, random, avoid)
                })
            }
        }
    }

    fn all(&self, settings: &Settings, random: &Random) -> &Ranks {
        self.all.get_or_init(|| Ranks::new(settings, &self.hosts, random, |_, _| true))
    }

    fn default(&self, settings: &Settings, random: &Random) -> Ranks {
        let wanted = &self.subsets.default_subset;
        Ranks::new(settings, &self.hosts, random, |outer, inner| {
            let locality = settings.endpoints.localities.get(outer);
            let endpoint: Option<&Endpoint> = locality.and_then(|l| l.endpoints.get(inner));
            endpoint.is_some_and(|e| wanted.iter().all(|(key, value)| e.metadata.get(key) == Some(value)))
        })
    }
}

/// The hosts that have all of the selector's keys, by their values.
fn divide(selector: &Selector, settings: &Settings) -> HashMap<String, Subset, foldhash::fast::RandomState> {
    let mut subsets: HashMap<String, Subset, _> = HashMap::default();
    for (outer, locality) in settings.endpoints.localities.iter().enumerate() {
        for (inner, endpoint) in locality.endpoints.iter().enumerate() {
            let values: Option<Vec<&str>> =
                selector.keys.iter().map(|key| endpoint.metadata.get(key).map(String::as_str)).collect();
            let Some(values) = values else { continue };
            let subset = subsets.entry(joined(values.into_iter())).or_default();
            if !selector.single_host || subset.members.is_empty() {
                subset.members.push((outer, inner));
            }
        }
    }
    subsets
}

/// One text of several, in which the border between two cannot be forged.
fn joined<'a>(values: impl Iterator<Item = &'a str>) -> String {
    values.fold(String::new(), |mut all, value| {
        // Writing into a string cannot fail.
        let _ = write!(all, "{}:{value}", value.len());
        all
    })
}
