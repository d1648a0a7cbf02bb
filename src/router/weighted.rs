//! A draw among clusters by weight.

use crate::model::{ClusterId, HeaderEdits, WeightedCluster};

/// Clusters with cumulated weights.
#[derive(Clone, Debug, Default)]
pub struct WeightedPick {
    entries: Vec<(u64, Choice)>,
    total: u64,
}

/// One drawn cluster with the edits that belong to the draw.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The cluster.
    pub cluster: ClusterId,
    /// Request header edits of this share.
    pub request_headers: HeaderEdits,
    /// Response header edits of this share.
    pub response_headers: HeaderEdits,
}

impl WeightedPick {
    /// Compiles `clusters`, resolving names by `intern`. Shares of weight 0 are left out, unless all are 0:
    /// then the first one takes everything.
    pub fn new(clusters: &[WeightedCluster], mut intern: impl FnMut(&str) -> ClusterId) -> Self {
        let mut total = 0;
        let mut entries = Vec::with_capacity(clusters.len());
        for cluster in clusters {
            total += u64::from(cluster.weight);
            let choice = Choice {
                cluster: intern(&cluster.name),
                request_headers: cluster.request_headers.clone(),
                response_headers: cluster.response_headers.clone(),
            };
            entries.push((total, choice));
        }
        WeightedPick { entries, total }
    }

    /// The share that `random` (uniform over `u64`) falls into; `None` only for an empty list.
    pub fn draw(&self, random: u64) -> Option<&Choice> {
        if self.total == 0 {
            return self.entries.first().map(|(_, choice)| choice);
        }
        let point = random % self.total;
        let at = self.entries.partition_point(|(end, _)| *end <= point);
        self.entries.get(at).map(|(_, choice)| choice)
    }

    /// Every cluster that could be drawn.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterId> {
        self.entries.iter().map(|(_, choice)| choice.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_by_weight_and_skips_zero() {
        let list = ["a", "b", "c"].map(|name| WeightedCluster {
            name: name.into(),
            weight: match name {
                "a" => 1,
                "b" => 0,
                _ => 3,
            },
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        });
        let pick = WeightedPick::new(&list, |name| ClusterId(u32::from(name.as_bytes()[0])));
        let drawn: Vec<u32> = (0..4).map(|r| pick.draw(r).unwrap().cluster.0 - 97).collect();
        assert_eq!(drawn, [0, 2, 2, 2]);
        assert!(WeightedPick::default().draw(7).is_none());
    }
}
