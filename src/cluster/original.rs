//! Hosts that nobody configured: each is where a client meant to go.

use super::{ClusterSpec, Env, Host};
use crate::message::Reason;
use crate::model::{Address, Endpoint, OriginalDst};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::time::Instant;

/// The hosts of one worker and cluster: made when first asked for, dropped when nobody has asked for the
/// cleanup time.
#[derive(Default)]
pub(super) struct Originals {
    hosts: RefCell<HashMap<SocketAddr, Entry, foldhash::fast::RandomState>>,
    swept: Cell<Option<Instant>>,
}

struct Entry {
    host: Rc<Host>,
    /// Asked for since the last sweep.
    used: Cell<bool>,
}

impl Originals {
    /// The host at `destination`.
    ///
    /// # Errors
    /// It is not known where the client meant to go.
    pub(super) fn pick(
        &self,
        destination: Option<SocketAddr>,
        spec: &ClusterSpec,
        settings: &OriginalDst,
        env: &Env,
    ) -> Result<Rc<Host>, Reason> {
        let destination = destination.ok_or(Reason::NoEndpoints)?;
        self.sweep(settings);
        let endpoint = Endpoint::at(Address::Ip(destination));
        // What encrypts is the cluster's, and may change while the host stays.
        let socket = spec.sockets.of(&endpoint);
        if let Some(entry) =
            self.hosts.borrow().get(&destination).filter(|entry| entry.host.has_socket(socket))
        {
            entry.used.set(true);
            return Ok(entry.host.clone());
        }
        let health = spec.shared.hosts(&[(&endpoint.address, 0)]).pop().ok_or(Reason::NoEndpoints)?;
        let (name, socket) = (&spec.model.name, socket.cloned());
        let host = Host::new(name, endpoint.address, String::new(), health, socket, &env.registry);
        let entry = Entry { host: host.clone(), used: Cell::new(true) };
        let old = self.hosts.borrow_mut().insert(destination, entry);
        if let Some(old) = old {
            old.host.retire();
        }
        Ok(host)
    }

    /// Drops those that nobody asked for since the sweep before.
    fn sweep(&self, settings: &OriginalDst) {
        let now = Instant::now();
        let last = self.swept.get().unwrap_or_else(|| {
            self.swept.set(Some(now));
            now
        });
        // A huge time never comes.
        if last.checked_add(settings.cleanup).is_none_or(|due| now < due) {
            return;
        }
        self.swept.set(Some(now));
        let mut gone = Vec::new();
        self.hosts.borrow_mut().retain(|_, entry| {
            let kept = entry.used.replace(false) || entry.host.active.get() > 0;
            if !kept {
                gone.push(entry.host.clone());
            }
            kept
        });
        // Outside the borrow: retiring wakes connection tasks.
        gone.iter().for_each(|host| host.retire());
    }

    /// Takes all out of service: their connections close after their last stream.
    pub(super) fn retire(&self) {
        for entry in self.hosts.take().into_values() {
            entry.host.retire();
        }
    }

    /// All hosts.
    pub(super) fn all(&self) -> Vec<Rc<Host>> {
        self.hosts.borrow().values().map(|entry| entry.host.clone()).collect()
    }
}
