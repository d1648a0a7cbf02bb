//! Earliest deadline first: picks in proportion to weights, spread evenly.

use crate::util::random::Random;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue of indexes. Each pick moves the picked one 1 / weight further.
#[derive(Default)]
pub(super) struct Edf {
    /// Deadlines as the bits of positive numbers, which order as the numbers do.
    queue: RefCell<BinaryHeap<Reverse<(u64, usize)>>>,
}

impl Edf {
    /// The next of `count` indexes. `weight` is asked for the picked one only, and is above 0.
    pub(super) fn next(&self, count: usize, weight: impl Fn(usize) -> f64, random: &Random) -> usize {
        let step = |index| 1.0 / weight(index).max(f64::MIN_POSITIVE);
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            // Spread over the first period, else all workers would start with the heaviest host.
            let begin = |index| step(index) * f64::from(random.below(1 << 20)) / f64::from(1u32 << 20);
            queue.extend((0..count).map(|index| Reverse((begin(index).to_bits(), index))));
        }
        let Some(mut first) = queue.peek_mut() else { return 0 };
        let Reverse((deadline, index)) = *first;
        *first = Reverse(((f64::from_bits(deadline) + step(index)).to_bits(), index));
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_prefix_is_in_proportion(weights in proptest::collection::vec(1u32..50, 1..12), seed in any::<u64>()) {
            let (edf, random) = (Edf::default(), Random::seeded(seed));
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            for picks in 1..=2_000u32 {
                counts[edf.next(weights.len(), |at| f64::from(weights[at]), &random)] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let wanted = f64::from(picks) * f64::from(*weight) / f64::from(total);
                    prop_assert!((f64::from(*count) - wanted).abs() <= weights.len() as f64, "{:?} {:?}", counts, weights);
                }
            }
        }
    }
}
