//! Listeners whose filters come by resources of their own, and what they wait for.
//!
//! Owns the extensions that are here and the listeners that name any. Takes in both as they come; gives out
//! listeners that are complete. One that is not yet is acknowledged and kept here: the builder has its last
//! version, if any, as long as it waits.

use crate::model::Listener;
use crate::translate::{Rejection, Translated, envoy};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Extensions {
    held: envoy::Extensions,
    /// Listeners that name any, by name.
    users: HashMap<Arc<str>, User>,
}

#[derive(Clone)]
struct User {
    bytes: Bytes,
    found: envoy::Wants,
    /// It was waited for long enough.
    late: bool,
    /// When that is.
    due: Option<Instant>,
}

impl User {
    fn is_waiting(&self) -> bool {
        !self.found.missing.is_empty()
    }
}

impl Extensions {
    /// Translates a listener, and says whether it waits: it is not complete then.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn listener(
        &mut self,
        name: &Arc<str>,
        bytes: &Bytes,
        now: Instant,
    ) -> Result<(Translated<Listener>, bool), Rejection> {
        let (translated, found) = envoy::listener_with(bytes, &self.held, false)?;
        if found.wanted.is_empty() {
            self.users.remove(name);
            return Ok((translated, false));
        }
        let waits = !found.missing.is_empty();
        let limits = found.wanted.iter().filter(|(name, _)| found.missing.contains(name));
        // Whoever may be waited for longest decides; `None`: for ever.
        let limit = limits.map(|(_, limit)| *limit).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
        let due = limit.filter(|_| waits).and_then(|limit| now.checked_add(limit));
        let user = User { bytes: bytes.clone(), found, late: false, due };
        self.users.insert(name.clone(), user);
        Ok((translated, waits))
    }

    /// A listener is gone.
    pub(super) fn forget(&mut self, listener: &str) {
        self.users.remove(listener);
    }

    /// An extension came. Gives the listeners that name it, as they are with it.
    ///
    /// # Errors
    /// It is bad, or some listener is with it: nothing changes.
    pub(super) fn arrived(
        &mut self,
        name: &str,
        bytes: &[u8],
    ) -> Result<Vec<Translated<Listener>>, Rejection> {
        let held = self.held.with(bytes)?;
        let (mut complete, mut users) = (Vec::new(), Vec::new());
        for (listener, user) in &self.users {
            if !user.found.wanted.iter().any(|(wanted, _)| wanted == name) {
                continue;
            }
            let made = envoy::listener_with(&user.bytes, &held, user.late);
            let (translated, found) = made.map_err(|rejection| within(name, listener, rejection))?;
            if found.missing.is_empty() {
                complete.push(translated);
            }
            users.push((listener.clone(), found));
        }
        self.held = held;
        for (listener, found) in users {
            if let Some(user) = self.users.get_mut(&listener) {
                user.due = user.due.filter(|_| !found.missing.is_empty());
                user.found = found;
            }
        }
        Ok(complete)
    }

    /// Listeners that have waited long enough, as they are with defaults. What has none goes on waiting.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Translated<Listener>> {
        let mut complete = Vec::new();
        for (name, user) in &mut self.users {
            if user.due.is_none_or(|due| due > now) {
                continue;
            }
            (user.due, user.late) = (None, true);
            match envoy::listener_with(&user.bytes, &self.held, true) {
                Ok((translated, found)) => {
                    user.found = found;
                    match user.is_waiting() {
                        true => tracing::warn!("listener {name} waits on for {:?}", user.found.missing),
                        false => complete.push(translated),
                    }
                }
                Err(rejection) => tracing::warn!("defaults of extensions: {rejection}"),
            }
        }
        complete
    }

    /// When [`expired`](Self::expired) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.users.values().filter_map(|user| user.due).min()
    }

    /// All that are named. What nobody names any more is forgotten.
    pub(super) fn wanted(&mut self) -> BTreeSet<Arc<str>> {
        let names = self.users.values().flat_map(|user| &user.found.wanted);
        let names: BTreeSet<Arc<str>> = names.map(|(name, _)| Arc::from(name.as_str())).collect();
        self.held.retain(|name| names.contains(name));
        names
    }

    /// Listeners that wait, and for what.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (&Arc<str>, &[String])> {
        let waiting = self.users.iter().filter(|(_, user)| user.is_waiting());
        waiting.map(|(name, user)| (name, user.found.missing.as_slice()))
    }

    /// The versions of these listeners that came last are refused after all: as they were in `before`.
    pub(super) fn take_back<'a>(&mut self, before: &Extensions, refused: impl Iterator<Item = &'a str>) {
        for name in refused {
            match before.users.get_key_value(name) {
                Some((name, user)) => drop(self.users.insert(name.clone(), user.clone())),
                None => drop(self.users.remove(name)),
            }
        }
    }
}

/// What is wrong with a listener because of an extension.
fn within(name: &str, listener: &str, rejection: Rejection) -> Rejection {
    let place = |finding: crate::translate::Finding| finding.within(&format!("listener {listener}"));
    Rejection {
        resource_type: "TypedExtensionConfig",
        name: Some(name.to_owned()),
        findings: rejection.findings.into_iter().map(place).collect(),
    }
}
