//! What is kept after the verdict: last good bytes, refusals, what is counted by name, times to live.

use super::{Held, Map, Store};
use crate::xds::message::{Now, RawResource, Rejected, Rejection, Update};
use crate::xds::names::{Key, NameStats};
use std::sync::Arc;

impl Store {
    /// Starts to count what happens to `names`; `failures` is what the type has counted of them so far.
    pub fn watch<'n>(&mut self, names: impl Iterator<Item = &'n Arc<str>>, failures: u64) {
        let failures_before = u32::try_from(failures).unwrap_or(u32::MAX);
        let mut table = self.names.lock();
        let mut record =
            |name: &Arc<str>| Key::new(table.insert(NameStats::new(name.clone(), failures_before)));
        for name in names {
            match self.held.get_mut(name) {
                Some(held) if held.key == Key::NONE => held.key = record(name),
                None if !self.loose.contains_key(name) => drop(self.loose.insert(name.clone(), record(name))),
                _ => {}
            }
        }
    }

    fn key_of(&self, name: &str) -> Key {
        let held = self.held.get(name).map(|held| held.key).filter(|key| *key != Key::NONE);
        held.or_else(|| self.loose.get(name).copied()).unwrap_or(Key::NONE)
    }

    /// Stores what was accepted and remembers what was not. Gives back the lines of the NACK, none for an ACK.
    pub fn commit(&mut self, update: Update, rejections: Vec<Rejection>, now: Now) -> Vec<Arc<str>> {
        let mut verdicts: Map<Arc<str>> =
            rejections.into_iter().map(|r| (r.name, Arc::from(r.text))).collect();
        let mut lines = Vec::new();
        let took = now.instant.saturating_duration_since(update.ticket.at);
        let each = took / u32::try_from(update.changed.len()).unwrap_or(u32::MAX).max(1);
        let names = self.names.clone();
        let mut names = names.lock();
        for raw in update.changed {
            let key = self.key_of(&raw.name).index();
            match verdicts.remove(&raw.name) {
                Some(text) => {
                    lines.push(text.clone());
                    self.remember(Rejected::of(raw, text, now.unix_ms));
                    if let Some(stats) = names.get_mut(key) {
                        stats.rejected += 1;
                    }
                }
                None => {
                    if let Some(stats) = names.get_mut(key) {
                        stats.changed(&raw.version, now.unix_ms, each);
                    }
                    self.ttls.set(&raw.name, raw.ttl, now.instant);
                    self.insert(raw, now.unix_ms);
                }
            }
        }
        for refused in update.ticket.refused {
            lines.push(refused.text.clone());
            if let Some(stats) = names.get_mut(self.key_of(&refused.name).index()) {
                stats.rejected += 1;
            }
            self.remember(refused);
        }
        lines.extend(verdicts.into_values());
        for name in &update.withdrawn {
            if let Some(stats) = names.get_mut(self.key_of(name).index()) {
                stats.emptied(now.unix_ms);
            }
        }
        drop(names);
        for name in update.removed {
            self.forget(&name);
        }
        for name in update.withdrawn {
            self.withdraw(&name);
        }
        lines
    }

    /// Holds `raw` as the last good version of its name.
    pub fn insert(&mut self, raw: RawResource, updated_ms: u64) {
        let RawResource { name, bytes, version, wire_name, .. } = raw;
        self.rejected.remove(&name);
        let loose = self.loose.remove(&name);
        if self.loose.is_empty() {
            // Every name was here before its resource came.
            self.loose.shrink_to_fit();
        }
        let old = self.held.get(&name);
        let key = old.map(|old| old.key).filter(|key| *key != Key::NONE).or(loose).unwrap_or(Key::NONE);
        let at = old.map_or(0, |old| old.at);
        let alias = old.and_then(|old| old.wire_name.clone());
        if alias != wire_name {
            self.rename(alias, wire_name.clone(), &name);
        }
        let seen = self.sequence;
        let held = Held {
            bytes,
            version,
            wire_name,
            updated_ms,
            withdrawn: false,
            unconfirmed: false,
            seen,
            at,
            key,
        };
        self.held.insert(name, Box::new(held));
    }

    fn remember(&mut self, rejected: Rejected) {
        if self.rejected.len() < self.limits.resources || self.rejected.contains_key(&rejected.name) {
            self.rejected.insert(rejected.name.clone(), rejected);
        }
    }

    /// EDS, RDS: the server has it no more; what is held stays.
    fn withdraw(&mut self, name: &str) {
        self.ttls.clear(name);
        if let Some(held) = self.held.get_mut(name) {
            held.withdrawn = true;
        }
    }

    /// Names whose time to live is over by `now`: CDS and LDS forget them, EDS and RDS mark them withdrawn.
    pub fn expire(&mut self, now: Now) -> Vec<Arc<str>> {
        let over = self.ttls.take_due(now.instant);
        for name in &over {
            if self.kind.is_wildcard() {
                self.forget(name);
            } else {
                self.withdraw(name);
            }
        }
        over
    }

    /// Drops everything known about `name`.
    pub fn forget(&mut self, name: &str) {
        self.rejected.remove(name);
        self.ttls.clear(name);
        let held = self.held.remove(name);
        let loose = self.loose.remove(name);
        let key = held.as_ref().map(|held| held.key).filter(|key| *key != Key::NONE).or(loose);
        if let Some(key) = key {
            self.names.lock().try_remove(key.index());
        }
        if let Some(wire_name) = held.and_then(|held| held.wire_name) {
            self.aliases.remove(&wire_name);
        }
    }
}
