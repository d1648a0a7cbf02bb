//! What connections to one host differ in beside what is configured.

use super::{Cluster, Host};
use crate::message::FilterState;
use crate::message::state::key;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Kept for one host; the oldest goes for a new one, and closes its connections after their last stream.
const MOST: usize = 1024;

/// What the requests ask for of a connection: each variant has pools of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Server name sent in place of the transport socket's.
    pub sni: Option<Arc<str>>,
    /// Names or addresses with `,` between them: the certificate must be for one of them, beside what the transport
    /// socket asks for.
    pub san: Option<Arc<str>>,
    /// Where it comes from, and its mark (0: none).
    pub source: Option<(IpAddr, u32)>,
    /// Protocols offered in place of those of the transport socket.
    pub alpn: Option<Arc<[String]>>,
}

impl Variant {
    /// What of it counts where nothing is encrypted.
    fn plain(&self) -> Variant {
        Variant { source: self.source, ..Variant::default() }
    }

    /// Takes over what filters said, where nothing is asked for yet.
    pub fn take(&mut self, state: &FilterState) {
        let text = |key| state.get(key).filter(|text| !text.is_empty());
        if self.sni.is_none() {
            self.sni = text(key::SERVER_NAME).map(Arc::from);
        }
        if self.san.is_none() {
            self.san = text(key::SUBJECT_ALT_NAMES).map(Arc::from);
        }
        if self.alpn.is_none() {
            self.alpn = text(key::APPLICATION_PROTOCOLS)
                .map(|list| list.split(',').map(|name| name.trim().to_owned()).collect());
        }
    }

    /// Nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Variant::default()
    }
}

/// The hosts with pools of their own that one host has.
#[derive(Default)]
pub(super) struct Variants {
    held: HashMap<Variant, Rc<Host>, foldhash::fast::RandomState>,
    order: VecDeque<Variant>,
}

impl Variants {
    fn add(&mut self, variant: Variant, host: Rc<Host>) -> Option<Rc<Host>> {
        let oldest = if self.held.len() >= MOST { self.order.pop_front() } else { None };
        self.order.push_back(variant.clone());
        self.held.insert(variant, host);
        oldest.and_then(|oldest| self.held.remove(&oldest))
    }

    pub(super) fn all(&self) -> Vec<Rc<Host>> {
        self.held.values().cloned().collect()
    }
}

impl Host {
    /// The host with connections of their own for what `wanted` asks for. What only encryption has is left out
    /// where nothing is encrypted; it is the host itself where nothing is left.
    pub fn towards(self: &Rc<Self>, wanted: &Variant, cluster: &Cluster) -> Rc<Self> {
        let plain = self.tls().is_none().then(|| wanted.plain());
        let wanted = plain.as_ref().unwrap_or(wanted);
        if wanted.is_default() {
            return self.clone();
        }
        if let Some(found) = self.variants.borrow().as_ref().and_then(|all| all.held.get(wanted)) {
            return found.clone();
        }
        let new = self.with_variant(wanted.clone(), cluster);
        let mut variants = self.variants.borrow_mut();
        let oldest = variants.get_or_insert_default().add(wanted.clone(), new.clone());
        drop(variants);
        // Outside the borrow: retiring wakes connection tasks.
        oldest.into_iter().for_each(|host| host.retire());
        new
    }
}
