//! What is held of one resource type: last good bytes, and what was refused since.
//!
//! Takes in a response's items, gives out which of them differ from what is held, which are refused before
//! anyone decodes them, and what is gone; later takes in the verdicts and stores. Bytes decide, not
//! versions: istiod leaves versions empty and repeats everything.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::message::{Item, RawResource, Rejected, Rejection, Response, Update};
use super::name::read_name;
use super::types::ResourceType;

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
    /// Number of the response that last named it.
    seen: u64,
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
    pub unix_ms: u64,
}

/// The resources of one type.
#[derive(Debug)]
pub(super) struct Store {
    kind: ResourceType,
    limits: Limits,
    pub held: Map<Held>,
    pub rejected: Map<Rejected>,
    /// Wrapper name → own name, only where they differ.
    aliases: Map<Arc<str>>,
    sequence: u64,
}

/// One pass over a response.
struct Pass<'a> {
    reading: &'a Reading<'a>,
    /// Both shared by every resource of the response.
    version: Arc<str>,
    no_version: Arc<str>,
    out: Compared,
    /// Names in this response that are not held.
    present: HashSet<Arc<str>, RandomState>,
    nameless: bool,
}

impl Store {
    pub fn new(kind: ResourceType, limits: Limits) -> Self {
        Self {
            kind,
            limits,
            held: Map::default(),
            rejected: Map::default(),
            aliases: Map::default(),
            sequence: 0,
        }
    }

    /// Reads `response` against what is held. Changes no held bytes: that waits for [`Self::commit`].
    pub fn compare(&mut self, response: Response, reading: &Reading<'_>) -> Compared {
        self.sequence += 1;
        self.rejected.remove("");
        let mut pass = Pass {
            reading,
            version: Arc::from(response.version),
            no_version: Arc::from(""),
            out: Compared::default(),
            present: HashSet::default(),
            nameless: false,
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
            version => Arc::from(version),
        };
        let Some(body) = item.body else {
            // A heartbeat: it keeps what is held and says nothing about its content.
            let name = self.own_name(&item.name);
            self.mark_present(pass, name);
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
            Err(why) => return self.refuse_unnamed(pass, index, &item.name, version, body, &why),
        };
        if pass.reading.wanted.is_some_and(|wanted| !wanted.contains(name)) {
            return;
        }
        let wire_name = (!item.name.is_empty() && item.name != name).then(|| Arc::from(item.name.as_str()));
        if body.len() > self.limits.resource_bytes {
            let why = format!(
                "{} bytes: larger than the limit of {} bytes",
                body.len(),
                self.limits.resource_bytes
            );
            let name: Arc<str> = Arc::from(name);
            self.refuse(pass, name.clone(), version, Bytes::new(), &why);
            self.mark_present(pass, name);
            return;
        }
        self.compare_body(pass, name, wire_name, version, &body);
    }

    fn compare_body(
        &mut self,
        pass: &mut Pass<'_>,
        name: &str,
        wire_name: Option<Arc<str>>,
        version: Arc<str>,
        body: &Bytes,
    ) {
        let room = self.limits.resources.saturating_sub(self.held.len() + pass.present.len());
        let Some((key, held)) = self.held.get_key_value(name) else {
            let name: Arc<str> = Arc::from(name);
            if !pass.present.insert(name.clone()) {
                return self.refuse(pass, name, version, body.clone(), "name: given twice in one response");
            }
            if room == 0 {
                let why = format!("more than {} resources of this type", self.limits.resources);
                return self.refuse(pass, name, version, body.clone(), &why);
            }
            return pass.out.changed.push(RawResource { name, bytes: body.clone(), version, wire_name });
        };
        let key = key.clone();
        if held.seen == self.sequence {
            return self.refuse(pass, key, version, body.clone(), "name: given twice in one response");
        }
        let same = !held.withdrawn && held.bytes == *body;
        if let Some(held) = self.held.get_mut(name) {
            held.seen = self.sequence;
            if same {
                held.version = version;
                held.unconfirmed = false;
                pass.out.unchanged += 1;
                // A good copy ends the memory of a bad one.
                self.rejected.remove(name);
                return;
            }
            if std::mem::take(&mut held.unconfirmed) {
                // Named, so not gone; but its version on disk means nothing to this server.
                held.version = Arc::from("");
            }
        }
        pass.out.changed.push(RawResource { name: key, bytes: body.clone(), version, wire_name });
    }

    fn compare_removal(&mut self, pass: &mut Pass<'_>, wire_name: &str) {
        let name = self.own_name(wire_name);
        // A response is a set: a name both removed and given is given.
        if pass.present.contains(&name) {
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
                pass.present.contains(name) || held.get(name).is_some_and(|held| held.seen == sequence)
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
            let unix_ms = pass.reading.unix_ms;
            return pass.out.refused.push(Rejected { name: Arc::from(""), version, text, unix_ms, bytes });
        }
        let name = self.own_name(wire_name);
        if pass.reading.wanted.is_some_and(|wanted| !wanted.contains(&name)) {
            return;
        }
        self.mark_present(pass, name.clone());
        self.refuse(pass, name, version, bytes, why);
    }

    fn refuse(&self, pass: &mut Pass<'_>, name: Arc<str>, version: Arc<str>, bytes: Bytes, why: &str) {
        let text = Arc::from(format!("{} {name}: {why}", self.kind.noun()));
        pass.out.refused.push(Rejected { name, version, text, unix_ms: pass.reading.unix_ms, bytes });
    }

    fn mark_present(&mut self, pass: &mut Pass<'_>, name: Arc<str>) {
        if let Some(held) = self.held.get_mut(&name) {
            held.seen = self.sequence;
            held.unconfirmed = false;
        } else {
            pass.present.insert(name);
        }
    }

    fn own_name(&self, wire_name: &str) -> Arc<str> {
        self.aliases.get(wire_name).cloned().unwrap_or_else(|| Arc::from(wire_name))
    }

    /// Stores what was accepted and remembers what was not. Gives back the lines of the NACK, none for an ACK.
    pub fn commit(&mut self, update: Update, rejections: Vec<Rejection>, unix_ms: u64) -> Vec<Arc<str>> {
        let mut verdicts: Map<Arc<str>> =
            rejections.into_iter().map(|r| (r.name, Arc::from(r.text))).collect();
        let mut lines = Vec::new();
        for raw in update.changed {
            match verdicts.remove(&raw.name) {
                Some(text) => {
                    lines.push(text.clone());
                    let RawResource { name, bytes, version, .. } = raw;
                    self.remember(Rejected { name, version, text, unix_ms, bytes });
                }
                None => self.insert(raw, unix_ms),
            }
        }
        for refused in update.ticket.refused {
            lines.push(refused.text.clone());
            self.remember(refused);
        }
        lines.extend(verdicts.into_values());
        for name in update.removed {
            self.forget(&name);
        }
        for name in update.withdrawn {
            if let Some(held) = self.held.get_mut(&name) {
                held.withdrawn = true;
            }
        }
        lines
    }

    /// Holds `raw` as the last good version of its name.
    pub fn insert(&mut self, raw: RawResource, updated_ms: u64) {
        let RawResource { name, bytes, version, wire_name } = raw;
        self.rejected.remove(&name);
        if let Some(wire_name) = &wire_name {
            self.aliases.insert(wire_name.clone(), name.clone());
        }
        let seen = self.sequence;
        self.held.insert(
            name,
            Held { bytes, version, wire_name, updated_ms, withdrawn: false, unconfirmed: false, seen },
        );
    }

    fn remember(&mut self, rejected: Rejected) {
        if self.rejected.len() < self.limits.resources || self.rejected.contains_key(&rejected.name) {
            self.rejected.insert(rejected.name.clone(), rejected);
        }
    }

    /// Drops everything known about `name`.
    pub fn forget(&mut self, name: &str) {
        self.rejected.remove(name);
        if let Some(wire_name) = self.held.remove(name).and_then(|held| held.wire_name) {
            self.aliases.remove(&wire_name);
        }
    }
}
