//! What is held of one resource type: last good bytes, and what was refused since.
//!
//! Takes in a response's items, gives out which of them differ from what is held, which are refused before
//! anyone decodes them, and what is gone; `keep` later takes in the verdicts and stores. Bytes decide, not
//! versions: istiod leaves versions empty and repeats everything.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use foldhash::fast::RandomState;
use slab::Slab;

use super::message::{Item, Now, RawResource, Rejected, Response};
use super::name::read_name;
use super::names::{Key, NameStats, Names};
use super::ttl::Ttls;
use super::types::ResourceType;

mod keep;

type Map<V> = HashMap<Arc<str>, V, RandomState>;

/// Limits on what one type may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Resources of one type. Default 100,000.
    pub resources: usize,
    /// Bytes of one encoded resource. Default 64 MB.
    pub resource_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { resources: 100_000, resource_bytes: 64_000_000 }
    }
}

/// A resource whose last good version is held.
#[derive(Debug)]
pub(super) struct Held {
    pub bytes: Bytes,
    pub version: Arc<str>,
    /// The wrapper's name where it differs.
    pub wire_name: Option<Arc<str>>,
    pub updated_ms: u64,
    /// EDS, RDS: dropped by the server, kept while referred to.
    pub withdrawn: bool,
    /// The server was not told, or not with a version, that this is held: the first answer has to bring it.
    pub unconfirmed: bool,
    /// Number of the response that last named it, and its place there.
    seen: u32,
    at: u32,
    /// Its record among the [`Names`].
    key: Key,
}

/// How a response reads against what is held.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub changed: Vec<RawResource>,
    pub removed: Vec<Arc<str>>,
    pub withdrawn: Vec<Arc<str>>,
    pub refused: Vec<Rejected>,
    pub unchanged: usize,
}

/// How a response is to be read.
pub(super) struct Reading<'a> {
    /// State of the world: what is absent from a complete type is gone.
    pub absence_removes: bool,
    /// The first answer since a restore, or since a request that could not list everything.
    pub first_answer: bool,
    /// The subscribed names of a type that is not a complete list.
    pub wanted: Option<&'a BTreeSet<Arc<str>>>,
    pub now: Now,
}

/// Bytes to keep: in memory of their own, so that one kept resource does not hold the response it came in.
fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// The resources of one type.
#[derive(Debug)]
pub(super) struct Store {
    kind: ResourceType,
    limits: Limits,
    /// Boxed: half of a map's places are empty.
    pub held: Map<Box<Held>>,
    pub rejected: Map<Rejected>,
    /// Wrapper name → own name, only where they differ.
    aliases: Map<Arc<str>>,
    sequence: u32,
    names: Arc<Names>,
    /// Records of names that are not held.
    loose: Map<Key>,
    pub ttls: Ttls,
}

/// One pass over a response.
struct Pass<'a> {
    reading: &'a Reading<'a>,
    /// Both shared by every resource of the response.
    version: Arc<str>,
    no_version: Arc<str>,
    /// Of the last resource: servers that number their answers give all the same.
    last_version: Arc<str>,
    out: Compared,
    /// Names in this response that are not held, and their places.
    present: Map<u32>,
    nameless: bool,
    names: MutexGuard<'a, Slab<NameStats>>,
}

impl Store {
    pub fn new(kind: ResourceType, limits: Limits, names: Arc<Names>) -> Self {
        Self {
            kind,
            limits,
            held: Map::default(),
            rejected: Map::default(),
            aliases: Map::default(),
            sequence: 0,
            names,
            loose: Map::default(),
            ttls: Ttls::default(),
        }
    }

    /// Reads `response` against what is held. Changes no held bytes: that waits for [`Self::commit`].
    pub fn compare(&mut self, response: Response, reading: &Reading<'_>) -> Compared {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.rejected.remove("");
        let names = self.names.clone();
        let mut pass = Pass {
            reading,
            version: Arc::from(response.version),
            no_version: Arc::from(""),
            last_version: Arc::from(""),
            out: Compared::default(),
            present: Map::default(),
            nameless: false,
            names: names.lock(),
        };
        for (index, item) in response.items.into_iter().enumerate() {
            self.compare_item(&mut pass, index, item);
        }
        for name in response.removed {
            self.compare_removal(&mut pass, &name);
        }
        self.find_absent(&mut pass);
        pass.out
    }

    fn compare_item(&mut self, pass: &mut Pass<'_>, index: usize, item: Item) {
        // A bare state-of-the-world resource has the version of its response.
        let version = match item.version {
            version if version.is_empty() && pass.reading.absence_removes => pass.version.clone(),
            version if version.is_empty() => pass.no_version.clone(),
            version => {
                if *pass.last_version != *version {
                    pass.last_version = Arc::from(version);
                }
                pass.last_version.clone()
            }
        };
        let Some(body) = item.body else {
            // A heartbeat: it keeps what is held and says nothing about its content.
            let name = self.own_name(&item.name);
            self.ttls.set(
                &name,
                item.ttl.filter(|_| self.held.contains_key(&name)),
                pass.reading.now.instant,
            );
            self.mark_present(pass, index, name);
            return;
        };
        let problem = if item.type_url != self.kind.type_url() {
            let (got, wanted) = (&item.type_url, self.kind.type_url());
            Err(format!("type_url: {got}: expected {wanted}"))
        } else {
            read_name(&body).map_err(|error| format!("name: {error}"))
        };
        let name = match problem {
            Ok(name) => name,
            Err(why) => return self.refuse_unnamed(pass, index, &item.name, version, own(&body), &why),
        };
        let wire_name = Some(item.name.as_str()).filter(|wire| !wire.is_empty() && *wire != name);
        if item.ttl.is_none() && self.is_unchanged(pass, index, name, wire_name, &version, &body) {
            return;
        }
        if pass.reading.wanted.is_some_and(|wanted| !wanted.contains(name)) {
            return;
        }
        if body.len() > self.limits.resource_bytes {
            let limit = self.limits.resource_bytes;
            let why = format!(
                "resources[{index}]: {} bytes: larger than a resource may be (nearest valid {limit} bytes)",
                body.len()
            );
            let name: Arc<str> = Arc::from(name);
            let refused = RawResource::new(name.clone(), Bytes::new(), version);
            self.refuse(pass, refused, &why);
            self.mark_present(pass, index, name);
            return;
        }
        let (name, wire_name) = (Arc::from(name), wire_name.map(Arc::from));
        let raw = RawResource { name, bytes: own(&body), version, wire_name, ttl: item.ttl };
        self.compare_body(pass, index, raw);
    }

    /// The common case, without a copy: what is held already, under the same names. What is held is wanted.
    fn is_unchanged(
        &mut self,
        pass: &mut Pass<'_>,
        index: usize,
        name: &str,
        wire_name: Option<&str>,
        version: &Arc<str>,
        body: &Bytes,
    ) -> bool {
        let Some(held) = self.held.get_mut(name) else { return false };
        let known = !held.withdrawn && held.seen != self.sequence && held.wire_name.as_deref() == wire_name;
        if !known || held.bytes != *body {
            return false;
        }
        (held.seen, held.at) = (self.sequence, u32::try_from(index).unwrap_or(u32::MAX));
        if let Some(stats) = pass.names.get_mut(held.key.index()) {
            stats.confirmed(version, pass.reading.now.unix_ms);
        }
        held.version = version.clone();
        held.unconfirmed = false;
        pass.out.unchanged += 1;
        self.ttls.clear(name);
        // A good copy ends the memory of a bad one.
        if !self.rejected.is_empty() {
            self.rejected.remove(name);
        }
        true
    }

    fn compare_body(&mut self, pass: &mut Pass<'_>, index: usize, mut raw: RawResource) {
        let room = self.limits.resources.saturating_sub(self.held.len() + pass.present.len());
        let at = u32::try_from(index).unwrap_or(u32::MAX);
        let now = pass.reading.now;
        let Some(held) = self.held.get_mut(&raw.name) else {
            if let Some(first) = pass.present.get(&raw.name).copied() {
                return self.refuse_second(pass, index, first, raw);
            }
            pass.present.insert(raw.name.clone(), at);
            if room == 0 {
                let (field, limit) = (self.kind.name_field(), self.limits.resources);
                let why = format!(
                    "{field}: {}: more than {limit} resources of this type (nearest valid {limit})",
                    raw.name
                );
                return self.refuse(pass, raw, &why);
            }
            return pass.out.changed.push(raw);
        };
        if held.seen == self.sequence {
            let first = held.at;
            return self.refuse_second(pass, index, first, raw);
        }
        (held.seen, held.at) = (self.sequence, at);
        if !held.withdrawn && held.bytes == raw.bytes {
            if let Some(stats) = pass.names.get_mut(held.key.index()) {
                stats.confirmed(&raw.version, now.unix_ms);
            }
            held.version = raw.version;
            held.unconfirmed = false;
            pass.out.unchanged += 1;
            if held.wire_name != raw.wire_name {
                // The same resource under another wrapper, which removals will name.
                let old = std::mem::replace(&mut held.wire_name, raw.wire_name.clone());
                self.rename(old, raw.wire_name, &raw.name);
            }
            self.ttls.set(&raw.name, raw.ttl, now.instant);
            // A good copy ends the memory of a bad one.
            self.rejected.remove(&raw.name);
            return;
        }
        if std::mem::take(&mut held.unconfirmed) {
            // Named, so not gone; but its version on disk means nothing to this server.
            held.version = Arc::from("");
        }
        if let Some((key, _)) = self.held.get_key_value(&raw.name) {
            raw.name = key.clone();
        }
        pass.out.changed.push(raw);
    }

    fn rename(&mut self, old: Option<Arc<str>>, new: Option<Arc<str>>, name: &Arc<str>) {
        if let Some(old) = old {
            self.aliases.remove(&old);
        }
        if let Some(new) = new {
            self.aliases.insert(new, name.clone());
        }
    }

    fn refuse_second(&self, pass: &mut Pass<'_>, index: usize, first: u32, raw: RawResource) {
        let why = format!(
            "resources[{index}].name: {}: given twice in one response (first as resources[{first}])",
            raw.name
        );
        self.refuse(pass, raw, &why);
    }

    fn compare_removal(&mut self, pass: &mut Pass<'_>, wire_name: &str) {
        let name = self.own_name(wire_name);
        // A response is a set: a name both removed and given is given.
        if pass.present.contains_key(&name) {
            return;
        }
        match self.held.get_mut(&name) {
            Some(held) if held.seen == self.sequence => return,
            Some(held) if self.kind.is_wildcard() => {
                held.seen = self.sequence;
                pass.out.removed.push(name.clone());
            }
            Some(held) if !held.withdrawn => {
                held.seen = self.sequence;
                pass.out.withdrawn.push(name.clone());
            }
            _ => {}
        }
        self.rejected.remove(&name);
    }

    fn find_absent(&mut self, pass: &mut Pass<'_>) {
        if !self.kind.is_wildcard() || pass.nameless {
            return;
        }
        let everything = pass.reading.absence_removes;
        if everything || pass.reading.first_answer {
            let sequence = self.sequence;
            let absent = self
                .held
                .iter()
                .filter(|(_, held)| held.seen != sequence && (everything || held.unconfirmed));
            pass.out.removed.extend(absent.map(|(name, _)| name.clone()));
        }
        if everything {
            let (held, sequence) = (&self.held, self.sequence);
            self.rejected.retain(|name, _| {
                pass.present.contains_key(name) || held.get(name).is_some_and(|held| held.seen == sequence)
            });
        }
    }

    fn refuse_unnamed(
        &mut self,
        pass: &mut Pass<'_>,
        index: usize,
        wire_name: &str,
        version: Arc<str>,
        bytes: Bytes,
        why: &str,
    ) {
        if wire_name.is_empty() {
            pass.nameless = true;
            let text = Arc::from(format!("{} #{index}: {why}", self.kind.noun()));
            let unix_ms = pass.reading.now.unix_ms;
            let name = Arc::from("");
            let refused = Rejected { name, version, text, unix_ms, bytes, wire_name: None };
            return pass.out.refused.push(refused);
        }
        let name = self.own_name(wire_name);
        if pass.reading.wanted.is_some_and(|wanted| !wanted.contains(&name)) {
            return;
        }
        self.mark_present(pass, index, name.clone());
        self.refuse(pass, RawResource::new(name, bytes, version), why);
    }

    fn refuse(&self, pass: &mut Pass<'_>, raw: RawResource, why: &str) {
        let text = Arc::from(format!("{} {}: {why}", self.kind.noun(), raw.name));
        pass.out.refused.push(Rejected::of(raw, text, pass.reading.now.unix_ms));
    }

    fn mark_present(&mut self, pass: &mut Pass<'_>, index: usize, name: Arc<str>) {
        let at = u32::try_from(index).unwrap_or(u32::MAX);
        if let Some(held) = self.held.get_mut(&name) {
            (held.seen, held.at) = (self.sequence, at);
            held.unconfirmed = false;
        } else {
            pass.present.insert(name, at);
        }
    }

    fn own_name(&self, wire_name: &str) -> Arc<str> {
        self.aliases.get(wire_name).cloned().unwrap_or_else(|| Arc::from(wire_name))
    }
}
