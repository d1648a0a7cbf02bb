//! Host name → virtual host.

use foldhash::fast::FixedState;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashMap;

type Exact = HashMap<Box<[u8]>, u32, FixedState>;

/// Domains of one table. Precedence is Envoy's: exact, longest `*suffix`, longest `prefix*`, `*`. A wildcard
/// stands for at least one character. The first virtual host that lists a domain has it.
#[derive(Default)]
pub(super) struct Domains {
    exact: Exact,
    /// Fixed parts by length, longest first.
    suffixes: Vec<(usize, Exact)>,
    prefixes: Vec<(usize, Exact)>,
    any: Option<u32>,
    ignore_port: bool,
}

impl Domains {
    /// From `(domain, host index)` pairs in configured order; domains are lower-case already.
    pub(super) fn new<'a>(domains: impl Iterator<Item = (&'a str, u32)>, ignore_port: bool) -> Self {
        let mut index = Domains { ignore_port, ..Domains::default() };
        for (domain, host) in domains {
            if domain == "*" {
                index.any.get_or_insert(host);
            } else if let Some(suffix) = domain.strip_prefix('*') {
                insert_wildcard(&mut index.suffixes, suffix.as_bytes(), host);
            } else if let Some(prefix) = domain.strip_suffix('*') {
                insert_wildcard(&mut index.prefixes, prefix.as_bytes(), host);
            } else {
                index.exact.entry(domain.as_bytes().into()).or_insert(host);
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

    /// The host index for `authority`. A request without one belongs to `*`.
    pub(super) fn find(&self, authority: Option<&[u8]>) -> Option<u32> {
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
        if let Some(found) = self.exact.get(host) {
            return Some(*found);
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

fn insert_wildcard(sets: &mut Vec<(usize, Exact)>, fixed: &[u8], host: u32) {
    let at = sets.iter().position(|(length, _)| *length == fixed.len()).unwrap_or_else(|| {
        sets.push((fixed.len(), Exact::default()));
        sets.len() - 1
    });
    if let Some((_, set)) = sets.get_mut(at) {
        set.entry(fixed.into()).or_insert(host);
    }
}

/// `host:port` without what follows the last colon, be it a port or not. A colon inside brackets is an IPv6
/// address's.
pub(super) fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|b| *b == b':' || *b == b']') {
        Some(at) if host.get(at) == Some(&b':') => host.get(..at).unwrap_or(host),
        _ => host,
    }
}

/// A domain in the form tables hold it.
pub(super) fn normal(domain: &str) -> Cow<'_, str> {
    if domain.bytes().any(|b| b.is_ascii_uppercase()) {
        domain.to_ascii_lowercase().into()
    } else {
        domain.into()
    }
}
