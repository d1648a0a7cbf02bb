//! The listeners of one worker, by address.

use super::limits::Seat;
use super::{Active, Ceiling, ListenerReport, Spread};
use crate::model::{Address, Direction};
use crate::net::Conn;
use crate::snapshot::{ListenerSpec, View};
use crate::stream::{Drain, Local};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_local;

/// How long a listener that is gone still takes connections: those that waited in a socket's queue, or were on
/// their way from the worker that accepted them.
const LAST_CALL: Duration = Duration::from_secs(1);

/// An address, and whether it is bound or known for hand-off only: each is a space of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    bound: bool,
    address: Address,
}

/// Listeners in service, and those that are gone but still have connections. Keyed by address: a listener
/// that is renamed on its address is the same one to its connections.
pub struct Listeners {
    local: Rc<Local>,
    spread: Duration,
    /// Connections of all listeners and workers that are not exempt.
    ceiling: Option<Ceiling>,
    serving: RefCell<HashMap<Place, Rc<Active>>>,
    gone: RefCell<Vec<Rc<Active>>>,
}

/// A connection that may be served.
pub struct Arrival {
    /// By whom.
    pub active: Rc<Active>,
    /// Where its client meant to go, if it was redirected here.
    pub restored: Option<SocketAddr>,
    /// To be kept as long as it is open.
    pub seats: [Option<Seat>; 2],
}

impl Listeners {
    /// None yet. `spread`: over how long connections are told that their listener changed or went. `ceiling`: how
    /// many may be open over all listeners; `None`: any number.
    pub fn new(local: Rc<Local>, spread: Duration, ceiling: Option<Ceiling>) -> Rc<Self> {
        Rc::new(Listeners { local, spread, ceiling, serving: RefCell::default(), gone: RefCell::default() })
    }

    /// Whose a connection is that `active` accepted; `None`: it is one too many, and was counted so.
    pub fn arrive(&self, active: Rc<Active>, io: &Conn) -> Option<Arrival> {
        let exempt = active.spec().model.unlimited;
        let global = match self.ceiling.as_ref().filter(|_| !exempt).map(Ceiling::enter) {
            Some(None) => {
                active.stats().downstream_global_cx_overflow.inc();
                return None;
            }
            seat => seat.flatten(),
        };
        let restored = active.restored(io);
        let active = self.heir(active, restored);
        match active.enter() {
            Some(own) => Some(Arrival { active, restored, seats: [global, own] }),
            None => {
                active.stats().downstream_cx_overflow.inc();
                None
            }
        }
    }

    /// Who serves what `from` accepted. A listener that hands connections on gives one to the listener of the
    /// address its client meant, else to that of every address of the family with its port; where there is
    /// neither, it stays. Whoever gets it keeps it.
    fn heir(&self, from: Rc<Active>, meant: Option<SocketAddr>) -> Rc<Active> {
        let Some(meant) = meant.filter(|_| from.spec().model.use_original_dst) else { return from };
        let any = match meant.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let serving = self.serving.borrow();
        let at = |ip, bound| {
            serving.get(&Place { bound, address: Address::Ip(SocketAddr::new(ip, meant.port())) })
        };
        let exact = at(meant.ip(), false).or_else(|| at(meant.ip(), true));
        let heir = exact.or_else(|| at(any, false)).or_else(|| at(any, true));
        heir.cloned().unwrap_or(from)
    }

    /// Follows from `old` to `new`. Nothing is done when no listener changed.
    pub fn sync(self: &Rc<Self>, old: &View, new: &View) {
        if old.listeners.ptr_eq(&new.listeners) {
            return;
        }
        let mut wanted: HashMap<Place, Arc<ListenerSpec>> = HashMap::new();
        for spec in new.listeners.values() {
            for address in &spec.model.addresses {
                let place = Place { bound: spec.model.bind_to_port, address: address.clone() };
                wanted.insert(place, spec.clone());
            }
        }
        let mut serving = self.serving.borrow_mut();
        let lost: Vec<Place> = serving.keys().filter(|place| !wanted.contains_key(*place)).cloned().collect();
        for place in lost {
            let Some(active) = serving.remove(&place) else { continue };
            // A listener with several addresses may have kept another one.
            if !serving.values().any(|other| Rc::ptr_eq(other, &active)) {
                active.retire(old);
                self.gone.borrow_mut().push(active.clone());
                spawn_local(self.clone().see_off(active));
            }
        }
        for (place, spec) in wanted {
            match serving.get(&place) {
                Some(active) => active.update(spec),
                None => {
                    let shared = serving.values().find(|active| active.spec().model.name == spec.model.name);
                    let active = match shared {
                        Some(active) => active.clone(),
                        None => Active::new(spec, self.local.clone(), self.spread),
                    };
                    serving.insert(place, active);
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

    /// The listener whose sockets are at `address`, or the one that had them until just now: for a connection
    /// already accepted.
    pub fn at_or_gone(&self, address: &Address) -> Option<Rc<Active>> {
        self.at(address).or_else(|| {
            let gone = self.gone.borrow();
            let had = |active: &&Rc<Active>| {
                let spec = active.spec();
                spec.model.bind_to_port && spec.model.addresses.contains(address)
            };
            gone.iter().rev().find(had).cloned()
        })
    }

    /// The listener whose sockets are at `address`.
    pub fn at(&self, address: &Address) -> Option<Rc<Active>> {
        self.serving.borrow().get(&Place { bound: true, address: address.clone() }).cloned()
    }

    /// Asks connections to leave, telling them by `spread`; `inbound_only`: only of listeners declared inbound.
    pub fn drain(&self, how: Drain, spread: Spread, inbound_only: bool) {
        for active in self.each() {
            if !inbound_only || active.direction() == Direction::Inbound {
                active.drain(how, spread);
            }
        }
    }

    /// Ends connections whose clients' certificates are not accepted any more.
    pub fn recheck(&self) {
        self.each().iter().for_each(|active| active.recheck());
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

    /// What the admin shows: also of listeners that are reached from inside only.
    pub fn report(&self) -> Vec<ListenerReport> {
        let view = self.local.view();
        let inner = view.listeners.values().filter(|spec| spec.model.internal);
        let inner = inner.map(|spec| ListenerReport::idle(spec));
        self.each().iter().map(|active| active.report()).chain(inner).collect()
    }
}

#[cfg(test)]
mod tests;
