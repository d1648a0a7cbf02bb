//! Who may use which address, decided for a set of listeners at once.
//!
//! A *claim* belongs to the listener whose accepted version wants the address; an address is *open* for the
//! listener that serves on it now. Both differ while a change waits.

use super::Builder;
use super::change::{Event, Kind, Origin, Rejection, Why};
use crate::model::{Address, Listener};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An address in one of the two spaces: bound, or known for hand-off only. With port 0 everyone gets a port
/// of his own, so the name is part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) bind: bool,
    pub(super) address: Address,
    own: Option<Arc<str>>,
}

/// A socket the application should hold.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Where.
    pub address: Address,
    /// The newest accepted version of the listener that claims it, or the open one if none does.
    pub listener: Arc<Listener>,
    /// Whether a published listener serves on it: time to `listen()`. Otherwise bind only.
    pub open: bool,
}

/// Claims and sockets.
#[derive(Default)]
pub(super) struct Addresses {
    pub(super) claims: BTreeMap<Claim, Arc<str>>,
    pub(super) open: BTreeMap<Claim, Arc<str>>,
    pub(super) bound: BTreeSet<Claim>,
    pub(super) failed: BTreeMap<Claim, String>,
    pub(super) version: u64,
}

/// The addresses `listener` wants.
pub(super) fn claims_of(listener: &Listener) -> impl Iterator<Item = Claim> {
    listener.addresses.iter().map(|address| {
        let own = address.ip().is_some_and(|ip| ip.port() == 0).then(|| listener.name.as_str().into());
        Claim { bind: listener.bind_to_port, address: address.clone(), own }
    })
}

impl Addresses {
    fn release(&mut self, listener: &Listener) {
        for claim in claims_of(listener) {
            if self.claims.get(&claim).is_some_and(|owner| **owner == *listener.name) {
                self.claims.remove(&claim);
                self.version += 1;
            }
        }
    }

    fn claim(&mut self, name: &Arc<str>, listener: &Listener) -> Result<(), Why> {
        for (at, claim) in claims_of(listener).enumerate() {
            if let Some(owner) = self.claims.get(&claim).filter(|owner| *owner != name) {
                return Err(Why::AddressTaken { at, address: claim.address, owner: owner.clone() });
            }
        }
        for claim in claims_of(listener) {
            self.claims.insert(claim, name.clone());
        }
        self.version += 1;
        Ok(())
    }

    /// Forgets sockets that nobody wants.
    pub(super) fn prune(&mut self) {
        let wanted = |claim: &Claim| self.claims.contains_key(claim) || self.open.contains_key(claim);
        self.bound.retain(wanted);
        self.failed.retain(|claim, _| wanted(claim));
    }
}

/// A listener version that asks for its addresses.
type Candidate = (Origin, Arc<str>, Arc<Listener>);

impl Builder {
    /// Takes in the listener changes of one set.
    pub(super) fn change_listeners(
        &mut self,
        set: Vec<(Origin, Arc<str>, Option<Arc<Listener>>)>,
    ) -> Vec<Rejection> {
        if set.is_empty() {
            return Vec::new();
        }
        let mut rejections = Vec::new();
        let mut candidates = Vec::new();
        for (origin, name, model) in set {
            match model {
                None => self.remove_listener(origin, &name, &mut candidates),
                Some(model) => match self.propose(origin, &name, &model) {
                    Ok(true) => candidates.push((origin, name, model)),
                    Ok(false) => {}
                    Err(why) => {
                        rejections.push(Rejection { kind: Kind::Listener, name: name.to_string(), why });
                    }
                },
            }
        }
        self.arbitrate(candidates, &mut rejections);
        self.retry_blocked();
        rejections
    }

    fn remove_listener(&mut self, origin: Origin, name: &Arc<str>, candidates: &mut Vec<Candidate>) {
        let Some(state) = self.listeners.states.get_mut(name) else { return };
        if state.blocked.as_ref().is_some_and(|blocked| blocked.0 == origin) {
            state.blocked = None;
        }
        let before = state.model.current().cloned();
        *state.model.slot(origin) = None;
        let after = state.model.current().cloned();
        if let Some(before) = before
            && after.as_ref() != Some(&before)
        {
            self.let_go(&before);
            match after {
                // The ADS version that was kept aside comes to the light.
                Some(after) => {
                    if let Some(state) = self.listeners.states.get_mut(name) {
                        *state.model.slot(Origin::Ads) = None;
                    }
                    candidates.push((Origin::Ads, name.clone(), after));
                }
                None => {
                    self.counts.listener_removed += 1;
                    self.listeners.configured -= 1;
                }
            }
        }
        self.listeners.touch(name);
    }

    /// Gives up the claims of `listener` and lets those look again who wait for them.
    fn let_go(&mut self, listener: &Listener) {
        self.addresses.release(listener);
        for claim in claims_of(listener) {
            if let Some(holder) = self.addresses.open.get(&claim) {
                self.listeners.dirty.insert(holder.clone(), true);
            }
        }
    }

    /// Whether the version must ask for addresses; checks what needs no neighbour.
    fn propose(&mut self, origin: Origin, name: &Arc<str>, model: &Arc<Listener>) -> Result<bool, Why> {
        let (found, limit) = (model.filter_chains.len(), self.options.max_chains);
        if found > limit {
            return Err(Why::TooLarge { field: "filter_chains", parts: "chains", found, limit });
        }
        let limit = self.options.max_resources;
        if !self.listeners.states.contains_key(name) && self.listeners.states.len() >= limit {
            return Err(Why::TooMany { field: "name", name: name.to_string(), limit });
        }
        let state = self.listeners.states.entry(name.clone()).or_default();
        if origin == Origin::Ads && state.model.current().is_some() && state.model.origin() == Origin::Static
        {
            *state.model.slot(Origin::Ads) = Some(model.clone());
            self.counts.shadowed_by_static += 1;
            return Ok(false);
        }
        state.blocked = None;
        Ok(state.model.slot(origin).as_ref() != Some(model))
    }

    /// Gives the addresses: all candidates let go of what they had, then each takes what it wants, in order.
    /// One that cannot keeps its last version, and that version's addresses go before any candidate.
    fn arbitrate(&mut self, candidates: Vec<Candidate>, rejections: &mut Vec<Rejection>) {
        let mut losers: BTreeMap<Arc<str>, Why> = BTreeMap::new();
        loop {
            for (_, name, model) in &candidates {
                self.addresses.release(model);
                if let Some(last) = self.listeners.accepted(name) {
                    self.addresses.release(&last);
                }
            }
            for name in losers.keys() {
                if let Some(last) = self.listeners.accepted(name) {
                    // Cannot fail: these had their addresses together before.
                    let _ = self.addresses.claim(name, &last);
                }
            }
            let mut again = false;
            for (_, name, model) in &candidates {
                if losers.contains_key(name) {
                    continue;
                }
                if let Err(why) = self.addresses.claim(name, model) {
                    again |= self.listeners.accepted(name).is_some();
                    losers.insert(name.clone(), why);
                }
            }
            if !again {
                break;
            }
        }
        for (origin, name, model) in candidates {
            match losers.remove(&name) {
                None => self.accept(origin, &name, model),
                Some(why) => {
                    rejections.push(Rejection {
                        kind: Kind::Listener,
                        name: name.to_string(),
                        why: why.clone(),
                    });
                    if let Some(state) = self.listeners.states.get_mut(&name) {
                        state.blocked = Some((origin, model, why));
                    }
                    self.listeners.blocked.insert(name);
                }
            }
        }
    }

    fn accept(&mut self, origin: Origin, name: &Arc<str>, model: Arc<Listener>) {
        let before = self.listeners.accepted(name);
        let Some(state) = self.listeners.states.get_mut(name) else { return };
        *state.model.slot(origin) = Some(model);
        match before {
            None => {
                self.counts.listener_added += 1;
                self.listeners.configured += 1;
            }
            Some(before) => {
                self.counts.listener_modified += 1;
                for claim in claims_of(&before) {
                    if let Some(holder) = self.addresses.open.get(&claim) {
                        self.listeners.dirty.insert(holder.clone(), true);
                    }
                }
            }
        }
        self.listeners.touch(name);
    }

    /// Tries those again that a neighbour kept out.
    fn retry_blocked(&mut self) {
        for name in std::mem::take(&mut self.listeners.blocked) {
            let last = self.listeners.accepted(&name);
            let Some(state) = self.listeners.states.get_mut(&name) else { continue };
            let Some((origin, model, _)) = state.blocked.take() else { continue };
            if let Some(last) = &last {
                self.addresses.release(last);
            }
            match self.addresses.claim(&name, &model) {
                Ok(()) => {
                    self.accept(origin, &name, model);
                    self.event(Event::ListenerRecovered { listener: name });
                }
                Err(why) => {
                    if let Some(last) = &last {
                        let _ = self.addresses.claim(&name, last);
                    }
                    if let Some(state) = self.listeners.states.get_mut(&name) {
                        state.blocked = Some((origin, model, why));
                    }
                    self.listeners.blocked.insert(name);
                }
            }
        }
    }

    /// Sockets the application should hold now, by address: open what is new, close what is not listed.
    /// Look again when [`Builder::sockets_version`] moves.
    pub fn sockets(&self) -> Vec<Socket> {
        let addresses = &self.addresses;
        let claims = addresses.claims.iter().filter_map(|(claim, name)| {
            Some((claim, self.listeners.accepted(name)?, addresses.open.contains_key(claim)))
        });
        let leaving = addresses.open.iter().filter(|(claim, _)| !addresses.claims.contains_key(claim));
        let leaving =
            leaving.filter_map(|(claim, name)| Some((claim, self.listeners.active(name)?.clone(), true)));
        let all = claims.chain(leaving).filter(|(claim, ..)| claim.bind);
        all.map(|(claim, listener, open)| Socket { address: claim.address.clone(), listener, open }).collect()
    }

    /// Changes whenever [`Builder::sockets`] may.
    pub fn sockets_version(&self) -> u64 {
        self.addresses.version
    }

    /// The application holds the socket of `address` for `listener`.
    pub fn on_bound(&mut self, listener: &str, address: &Address, now: std::time::Instant) {
        if let Some(claim) = self.claim_of(listener, address) {
            if self.addresses.failed.remove(&claim).is_some() {
                self.event(Event::ListenerRecovered { listener: listener.into() });
            }
            self.addresses.bound.insert(claim);
            self.listeners.touch(&listener.into());
            self.settle(now);
        }
    }

    /// The machine refused `address`. The listener's new version does not apply (the last one stays) until
    /// [`Builder::on_bound`]: the caller goes on trying while [`Builder::sockets`] lists it.
    ///
    /// Gives the rejection to put into the verdict of the set that brought it.
    pub fn on_bind_failed(&mut self, listener: &str, address: &Address, reason: &str) -> Option<Rejection> {
        let claim = self.claim_of(listener, address)?;
        self.addresses.bound.remove(&claim);
        self.addresses.failed.insert(claim, reason.to_owned());
        let model = self.listeners.accepted(listener)?;
        let at = model.addresses.iter().position(|other| other == address).unwrap_or(0);
        let why = Why::Bind { at, address: address.clone(), reason: reason.to_owned() };
        Some(Rejection { kind: Kind::Listener, name: listener.to_owned(), why })
    }

    fn claim_of(&self, listener: &str, address: &Address) -> Option<Claim> {
        let model = self.listeners.accepted(listener)?;
        claims_of(&model).find(|claim| claim.address == *address)
    }
}
