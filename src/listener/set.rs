//! The listeners of one worker, by address.

use super::Spread;
use super::active::{Active, ListenerReport};
use crate::model::{Address, Direction};
use crate::snapshot::{ListenerSpec, View};
use crate::stream::{Drain, Local};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_local;

/// How long a listener that is gone still takes connections: those that waited in a socket's queue, or were on
/// their way from the worker that accepted them.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Listeners in service, and those that are gone but still have connections. Keyed by address: a listener
/// that is renamed on its address is the same one to its connections.
pub struct Listeners {
    local: Rc<Local>,
    spread: Duration,
    serving: RefCell<HashMap<Address, Rc<Active>>>,
    gone: RefCell<Vec<Rc<Active>>>,
}

impl Listeners {
    /// None yet. `spread`: over how long connections are told that their listener changed or went.
    pub fn new(local: Rc<Local>, spread: Duration) -> Rc<Self> {
        Rc::new(Listeners { local, spread, serving: RefCell::default(), gone: RefCell::default() })
    }

    /// Follows from `old` to `new`. Nothing is done when no listener changed.
    pub fn sync(self: &Rc<Self>, old: &View, new: &View) {
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
                self.gone.borrow_mut().push(active.clone());
                spawn_local(self.clone().see_off(active));
            }
        }
        for (address, spec) in wanted {
            match serving.get(&address) {
                Some(active) => active.update(spec),
                None => {
                    let shared = serving.values().find(|active| active.spec().model.name == spec.model.name);
                    let active = match shared {
                        Some(active) => active.clone(),
                        None => Active::new(spec, self.local.clone(), self.spread),
                    };
                    serving.insert(address, active);
                }
            }
        }
    }

    /// Forgets a listener that is gone, and with it the snapshot it was served from, after its last
    /// connection.
    async fn see_off(self: Rc<Self>, active: Rc<Active>) {
        self.local.env.wheel.sleep(LAST_CALL).await;
        active.emptied().await;
        let gone: Vec<_> =
            self.gone.borrow_mut().extract_if(.., |other| Rc::ptr_eq(other, &active)).collect();
        drop(gone);
    }

    /// The listener serving `address`, or the one that did until just now: for a connection already accepted.
    pub fn at_or_gone(&self, address: &Address) -> Option<Rc<Active>> {
        self.at(address).or_else(|| {
            let gone = self.gone.borrow();
            gone.iter().rev().find(|active| active.spec().model.addresses.contains(address)).cloned()
        })
    }

    /// The listener serving `address`.
    pub fn at(&self, address: &Address) -> Option<Rc<Active>> {
        self.serving.borrow().get(address).cloned()
    }

    /// Asks connections to leave, telling them by `spread`; `inbound_only`: only of listeners declared inbound.
    pub fn drain(&self, how: Drain, spread: Spread, inbound_only: bool) {
        for active in self.each() {
            if !inbound_only || active.direction() == Direction::Inbound {
                active.drain(how, spread);
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
