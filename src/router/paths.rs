//! Routes by path: exact ones and prefixes in one sorted list.

use smallvec::SmallVec;
use std::collections::BTreeMap;

/// No parent.
const NONE: u32 = u32::MAX;

/// Lists of route numbers, each ascending.
pub(super) type Candidates<'a> = SmallVec<[&'a [u32]; 8]>;

/// Paths and prefixes, sorted. The prefixes of a path are the last key not greater than the path, if it is
/// one, and its ancestors: found by one binary search and a walk up.
#[derive(Default)]
pub(super) struct Paths(Box<[Key]>);

struct Key {
    text: Box<[u8]>,
    /// The longest other key that this one begins with.
    parent: u32,
    /// Routes for exactly this path.
    exact: Box<[u32]>,
    /// Routes for what begins with it.
    prefix: Box<[u32]>,
}

/// What [`Paths`] is made of.
#[derive(Default)]
pub(super) struct Builder(BTreeMap<Vec<u8>, (Vec<u32>, Vec<u32>)>);

impl Builder {
    /// Route `number`, not lower than any before it, is for `text`, or for what begins with it.
    pub(super) fn add(&mut self, text: Vec<u8>, is_prefix: bool, number: u32) {
        let (exact, prefix) = self.0.entry(text).or_default();
        if is_prefix { prefix.push(number) } else { exact.push(number) }
    }

    pub(super) fn build(self) -> Paths {
        let mut keys: Vec<Key> = Vec::with_capacity(self.0.len());
        for (text, (exact, prefix)) in self.0 {
            // The key before is the parent, or one of its ancestors is.
            let mut parent = u32::try_from(keys.len()).unwrap_or(NONE).checked_sub(1).unwrap_or(NONE);
            while let Some(key) = keys.get(parent as usize) {
                if text.starts_with(&key.text) {
                    break;
                }
                parent = key.parent;
            }
            keys.push(Key { text: text.into(), parent, exact: exact.into(), prefix: prefix.into() });
        }
        Paths(keys.into())
    }
}

impl Paths {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the lists of every route that `path` could belong to.
    pub(super) fn find<'a>(&'a self, path: &[u8], out: &mut Candidates<'a>) {
        let end = self.0.partition_point(|key| *key.text <= *path);
        let mut at = end.checked_sub(1);
        let mut inside = false;
        while let Some(key) = at.and_then(|at| self.0.get(at)) {
            inside = inside || path.starts_with(&key.text);
            if inside {
                if !key.exact.is_empty() && key.text.len() == path.len() {
                    out.push(&key.exact);
                }
                if !key.prefix.is_empty() {
                    out.push(&key.prefix);
                }
            }
            at = usize::try_from(key.parent).ok();
        }
    }
}
