//! Host name → virtual host.

use super::CompiledHost;
use foldhash::fast::FixedState;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

type Fixed = HashMap<Box<[u8]>, u32, FixedState>;

/// Domains of one table. Precedence is Envoy's: exact, longest `*suffix`, longest `prefix*`, `*`. A wildcard
/// stands for at least one character. The first virtual host that lists a domain has it.
#[derive(Default)]
pub(super) struct Domains {
    exact: Exact,
    /// Fixed parts by length, longest first.
    suffixes: Vec<(usize, Fixed)>,
    prefixes: Vec<(usize, Fixed)>,
    any: Option<u32>,
    ignore_port: bool,
}

impl Domains {
    /// The domains of `hosts`, in configured order.
    pub(super) fn new(hosts: &[Arc<CompiledHost>], ignore_port: bool) -> Self {
        let mut index = Domains { ignore_port, ..Domains::default() };
        let whole = |domain: &&String| !domain.starts_with('*') && !domain.ends_with('*');
        let count = hosts.iter().flat_map(|host| &host.model.domains).filter(whole).count();
        index.exact = Exact::with_room(count);
        for (at, host) in (0u32..).zip(hosts) {
            for (number, domain) in (0u32..).zip(&host.model.domains) {
                let domain = normal(domain);
                if domain == "*" {
                    index.any.get_or_insert(at);
                } else if let Some(suffix) = domain.strip_prefix('*') {
                    insert_wildcard(&mut index.suffixes, suffix.as_bytes(), at);
                } else if let Some(prefix) = domain.strip_suffix('*') {
                    insert_wildcard(&mut index.prefixes, prefix.as_bytes(), at);
                } else {
                    index.exact.insert(domain.as_bytes(), (at, number), hosts);
                }
            }
        }
        index.suffixes.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        index.prefixes.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        index
    }

    /// Whether hosts are compared without their port.
    pub(super) fn ignores_port(&self) -> bool {
        self.ignore_port
    }

    /// The index among `hosts`, those that this was made of, for `authority`. A request without one belongs to
    /// `*`.
    pub(super) fn find(&self, authority: Option<&[u8]>, hosts: &[Arc<CompiledHost>]) -> Option<u32> {
        let Some(authority) = authority else { return self.any };
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let lower: SmallVec<[u8; 128]>;
        let mut host = authority;
        if authority.iter().any(u8::is_ascii_uppercase) {
            lower = authority.iter().map(u8::to_ascii_lowercase).collect();
            host = &lower;
        }
        if self.ignore_port {
            host = without_port(host);
        }
        if let Some(found) = self.exact.get(host, hosts) {
            return Some(found);
        }
        let by_suffix = self.suffixes.iter().find_map(|(length, set)| {
            let start = host.len().checked_sub(*length).filter(|start| *start > 0)?;
            set.get(host.get(start..)?).copied()
        });
        let by_prefix = || {
            self.prefixes.iter().find_map(|(length, set)| {
                (host.len() > *length).then(|| set.get(host.get(..*length)?).copied()).flatten()
            })
        };
        by_suffix.or_else(by_prefix).or(self.any)
    }
}

/// Domains without wildcard, by hash. Their text is not copied: it is where the virtual hosts have it.
#[derive(Default)]
struct Exact {
    /// As many as a power of two, at least a quarter of them free: 0, else 1 + the number of an entry.
    slots: Box<[u32]>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    /// A part of the hash that does not choose the slot.
    tag: u32,
    /// Virtual host, and which of its domains.
    place: (u32, u32),
}

impl Exact {
    fn with_room(count: usize) -> Self {
        if count == 0 {
            return Exact::default();
        }
        let slots = (count + count / 3 + 1).next_power_of_two();
        Exact { slots: vec![0; slots].into(), entries: Vec::with_capacity(count) }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn get(&self, name: &[u8], hosts: &[Arc<CompiledHost>]) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        self.slot(name, hash(name), hosts).1.map(|entry| entry.place.0)
    }

    /// The first virtual host that lists a domain has it.
    fn insert(&mut self, name: &[u8], place: (u32, u32), hosts: &[Arc<CompiledHost>]) {
        let hash = hash(name);
        if let (slot, None) = self.slot(name, hash, hosts)
            && let Some(slot) = self.slots.get_mut(slot)
        {
            self.entries.push(Entry { tag: tag(hash), place });
            *slot = u32::try_from(self.entries.len()).unwrap_or(0);
        }
    }

    /// Where `name` is, or the free slot where it would be.
    fn slot(&self, name: &[u8], hash: u64, hosts: &[Arc<CompiledHost>]) -> (usize, Option<&Entry>) {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        // Ends: some are free.
        while let Some(number) = self.slots.get(at).copied().filter(|number| *number != 0) {
            let entry = self.entries.get(number as usize - 1);
            if entry.is_some_and(|entry| {
                entry.tag == tag(hash) && entry.text(hosts).is_some_and(|text| is(text, name))
            }) {
                return (at, entry);
            }
            at = (at + 1) & mask;
        }
        (at, None)
    }
}

impl Entry {
    fn text<'h>(&self, hosts: &'h [Arc<CompiledHost>]) -> Option<&'h str> {
        let host = hosts.get(self.place.0 as usize)?;
        host.model.domains.get(self.place.1 as usize).map(String::as_str)
    }
}

fn hash(name: &[u8]) -> u64 {
    FixedState::default().hash_one(name)
}

const fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Whether `domain` is the lower-case `name`. Tables of MOSN's form may hold capitals.
fn is(domain: &str, name: &[u8]) -> bool {
    domain.as_bytes() == name || domain.as_bytes().eq_ignore_ascii_case(name)
}

fn insert_wildcard(sets: &mut Vec<(usize, Fixed)>, fixed: &[u8], host: u32) {
    let at = sets.iter().position(|(length, _)| *length == fixed.len()).unwrap_or_else(|| {
        sets.push((fixed.len(), Fixed::default()));
        sets.len() - 1
    });
    if let Some((_, set)) = sets.get_mut(at) {
        set.entry(fixed.into()).or_insert(host);
    }
}

/// `host:port` without what follows the last colon, be it a port or not. A colon inside brackets is an IPv6
/// address's.
pub fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|b| *b == b':' || *b == b']') {
        Some(at) if host.get(at) == Some(&b':') => host.get(..at).unwrap_or(host),
        _ => host,
    }
}

/// A domain in the form tables hold it.
fn normal(domain: &str) -> Cow<'_, str> {
    if domain.bytes().any(|b| b.is_ascii_uppercase()) {
        domain.to_ascii_lowercase().into()
    } else {
        domain.into()
    }
}
