//! A draw among clusters by weight.

use super::EditPlan;
use crate::model::runtime::number_now;
use crate::model::{ClusterId, Criteria, RouteFilters, WeightedCluster};
use smallvec::SmallVec;

/// Clusters with cumulated weights.
#[derive(Clone, Debug, Default)]
pub struct WeightedPick {
    entries: Vec<(u64, Choice)>,
    total: u64,
    /// Runtime keys of the weights, if they have any.
    keys: Box<[Box<str>]>,
}

/// One drawn cluster with the edits that belong to the draw.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The cluster; of no meaning where `header` names it.
    pub cluster: ClusterId,
    /// The request header that names the cluster.
    pub header: Option<Box<str>>,
    /// Replaces the authority, before the header edits; the route may have a rewrite of its own.
    pub host_rewrite: Option<Box<str>>,
    /// Filter configuration of the share alone.
    pub filters: Option<Box<RouteFilters>>,
    /// Request header edits: in a route's draw those of every level, to be used instead of the route's.
    pub request_edits: EditPlan,
    /// Response header edits, likewise.
    pub response_edits: EditPlan,
    /// What hosts must say: the share's and its route's, by key.
    pub criteria: HostCriteria,
}

/// What the metadata of a host must say, sorted by key; [`Criteria`] in the form that load balancers take.
pub type HostCriteria = Box<[(Box<str>, Box<str>)]>;

/// Those of `base`, those of `own` before them where both have a key.
pub(super) fn criteria(base: &Criteria, own: &Criteria) -> HostCriteria {
    let mut all: Vec<_> = base.iter().filter(|(key, _)| !own.contains_key(*key)).chain(own).collect();
    all.sort_unstable();
    all.into_iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

impl WeightedPick {
    /// Compiles `clusters`, resolving names by `intern`, with the edits of the shares alone (a TCP proxy has
    /// no other level). `base`: what hosts must say whichever share is drawn. When all weights are 0 the first
    /// one takes everything.
    pub fn new(
        clusters: &[WeightedCluster],
        base: &Criteria,
        mut intern: impl FnMut(&str) -> ClusterId,
    ) -> Self {
        Self::with_edits(clusters, base, &mut intern, |share| {
            let request = EditPlan::of_levels(&[&share.request_headers]);
            (request, EditPlan::of_levels(&[&share.response_headers]))
        })
    }

    /// As [`WeightedPick::new`], with the complete request and response edits of each share given by `edits`.
    pub(super) fn with_edits(
        clusters: &[WeightedCluster],
        base: &Criteria,
        intern: &mut dyn FnMut(&str) -> ClusterId,
        edits: impl Fn(&WeightedCluster) -> (EditPlan, EditPlan),
    ) -> Self {
        let mut total = 0;
        let mut entries = Vec::with_capacity(clusters.len());
        for share in clusters {
            total += u64::from(share.weight);
            let (request_edits, response_edits) = edits(share);
            let choice = Choice {
                cluster: if share.header.is_none() { intern(&share.name) } else { ClusterId(u32::MAX) },
                header: share.header.as_deref().map(Box::from),
                host_rewrite: share.host_rewrite.as_deref().map(Box::from),
                filters: (!share.filters.is_empty()).then(|| Box::new(share.filters.clone())),
                request_edits,
                response_edits,
                criteria: criteria(base, &share.criteria),
            };
            entries.push((total, choice));
        }
        let keys = clusters.iter().filter_map(|share| share.runtime_key.clone()).collect();
        WeightedPick { entries, total, keys }
    }

    /// The share that `random` (uniform over `u64`) falls into; `None` only for an empty list.
    pub fn draw(&self, random: u64) -> Option<&Choice> {
        if !self.keys.is_empty() {
            return self.draw_now(random);
        }
        if self.total == 0 {
            return self.entries.first().map(|(_, choice)| choice);
        }
        let point = random % self.total;
        let at = self.entries.partition_point(|(end, _)| *end <= point);
        self.entries.get(at).map(|(_, choice)| choice)
    }

    /// As [`WeightedPick::draw`], with the weights that runtime has at this moment.
    fn draw_now(&self, random: u64) -> Option<&Choice> {
        let mut before = 0;
        let mut weights: SmallVec<[u64; 8]> = SmallVec::new();
        for (at, (end, _)) in self.entries.iter().enumerate() {
            let own = end - std::mem::replace(&mut before, *end);
            let said = self.keys.get(at).and_then(|key| number_now(key));
            let said = said.filter(|weight| (0.0..=f64::from(u32::MAX)).contains(weight));
            weights.push(said.map_or(own, |weight| weight as u64));
        }
        let total: u64 = weights.iter().sum();
        let mut point = random.checked_rem(total).unwrap_or_default();
        let drawn = weights.iter().position(|weight| {
            let here = point < *weight;
            point = point.saturating_sub(*weight);
            here
        });
        self.entries.get(drawn.unwrap_or_default()).map(|(_, choice)| choice)
    }

    /// Every cluster that could be drawn.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterId> {
        let named = self.entries.iter().filter(|(_, choice)| choice.header.is_none());
        named.map(|(_, choice)| choice.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::runtime::go_by;
    use crate::model::{Runtime, RuntimeValue};
    use std::sync::Arc;

    #[test]
    fn draws_by_weight_and_skips_zero() {
        let list = ["a", "b", "c"].map(|name| WeightedCluster {
            name: name.into(),
            weight: match name {
                "a" => 1,
                "b" => 0,
                _ => 3,
            },
            ..WeightedCluster::default()
        });
        let pick =
            WeightedPick::new(&list, &Criteria::new(), |name| ClusterId(u32::from(name.as_bytes()[0])));
        let drawn: Vec<u32> = (0..4).map(|r| pick.draw(r).unwrap().cluster.0 - 97).collect();
        assert_eq!(drawn, [0, 2, 2, 2]);
        assert!(WeightedPick::default().draw(7).is_none());
    }

    #[test]
    fn runtime_may_have_other_weights() {
        let list = ["a", "b"].map(|name| WeightedCluster {
            name: name.into(),
            weight: 2,
            runtime_key: Some(format!("w.{name}").into()),
            ..WeightedCluster::default()
        });
        let pick =
            WeightedPick::new(&list, &Criteria::new(), |name| ClusterId(u32::from(name.as_bytes()[0])));
        let drawn = |weights: &[(&str, f64)]| -> Vec<u32> {
            let mut values = Runtime::default();
            weights.iter().for_each(|(key, weight)| values.set(*key, RuntimeValue::Number(*weight)));
            go_by(&Arc::new(values));
            (0..4).map(|number| pick.draw(number).unwrap().cluster.0 - 97).collect()
        };
        assert_eq!(drawn(&[]), [0, 0, 1, 1]);
        assert_eq!(drawn(&[("w.a", 1.0)]), [0, 1, 1, 0]);
        assert_eq!(drawn(&[("w.a", 0.0)]), [1; 4]);
        assert_eq!(drawn(&[("w.a", 0.0), ("w.b", 0.0)]), [0; 4]);
        go_by(&Arc::default());
    }

    #[test]
    fn a_share_has_the_last_word_on_the_hosts() {
        let of = |pairs: &[(&str, &str)]| -> Criteria {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let merged =
            criteria(&of(&[("version", "1"), ("zone", "a")]), &of(&[("stage", "x"), ("version", "2")]));
        let shown: Vec<_> = merged.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(shown, [("stage", "x"), ("version", "2"), ("zone", "a")]);
    }
}
