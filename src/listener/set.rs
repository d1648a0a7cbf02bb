//! The listeners of one worker, by address.

use super::active::{Active, ListenerReport};
use crate::model::{Address, Direction};
use crate::snapshot::{ListenerSpec, View};
use crate::stream::{Drain, Local};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Listeners in service, and those that are gone but still have connections. Keyed by address: a listener
/// that is renamed on its address is the same one to its connections.
pub struct Listeners {
    local: Rc<Local>,
    serving: RefCell<HashMap<Address, Rc<Active>>>,
    gone: RefCell<Vec<Rc<Active>>>,
}

impl Listeners {
    /// None yet.
    pub fn new(local: Rc<Local>) -> Rc<Self> {
        Rc::new(Listeners { local, serving: RefCell::default(), gone: RefCell::default() })
    }

    /// Follows from `old` to `new`. Nothing is done when no listener changed.
    pub fn sync(&self, old: &View, new: &View) {
        self.gone.borrow_mut().retain(|active| active.connections() > 0);
        if old.listeners.ptr_eq(&new.listeners) {
            return;
        }
        let mut wanted: HashMap<Address, Arc<ListenerSpec>> = HashMap::new();
        for spec in new.listeners.values() {
            for address in &spec.model.addresses {
                wanted.insert(address.clone(), spec.clone());
            }
        }
        let mut serving = self.serving.borrow_mut();
        let lost: Vec<Address> =
            serving.keys().filter(|address| !wanted.contains_key(*address)).cloned().collect();
        for address in lost {
            let Some(active) = serving.remove(&address) else { continue };
            // A listener with several addresses may have kept another one.
            if !serving.values().any(|other| Rc::ptr_eq(other, &active)) {
                active.retire(old);
                self.gone.borrow_mut().push(active);
            }
        }
        for (address, spec) in wanted {
            match serving.get(&address) {
                Some(active) => active.update(spec),
                None => {
                    let shared = serving.values().find(|active| active.spec().model.name == spec.model.name);
                    let active = match shared {
                        Some(active) => active.clone(),
                        None => Active::new(spec, self.local.clone()),
                    };
                    serving.insert(address, active);
                }
            }
        }
    }

    /// The listener serving `address`.
    pub fn at(&self, address: &Address) -> Option<Rc<Active>> {
        self.serving.borrow().get(address).cloned()
    }

    /// Asks connections to leave; `inbound_only`: only of listeners declared inbound.
    pub fn drain(&self, how: Drain, inbound_only: bool) {
        for active in self.each() {
            if !inbound_only || active.direction() == Direction::Inbound {
                active.drain(how);
            }
        }
    }

    /// Every listener once.
    fn each(&self) -> Vec<Rc<Active>> {
        let mut all: Vec<Rc<Active>> = Vec::new();
        for active in self.serving.borrow().values().chain(self.gone.borrow().iter()) {
            if !all.iter().any(|other| Rc::ptr_eq(other, active)) {
                all.push(active.clone());
            }
        }
        all
    }

    /// What the admin shows.
    pub fn report(&self) -> Vec<ListenerReport> {
        self.each().iter().map(|active| active.report()).collect()
    }
}
