//! The scopes of SRDS, and their tables.
//!
//! A scope holds the table it names, so that the table is asked for and stays. One that names another table
//! keeps the old one until the new one has come. Keys are unique: a scope whose key another one has is refused.

use super::Builder;
use super::change::{Kind, Rejection, Why};
use super::tables::TableKey;
use crate::model::{RouteId, ScopeTable, ScopedRoute};
use crate::router::{Scopes, scope_key};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// All of them.
#[derive(Default)]
pub(super) struct ScopeStates {
    states: BTreeMap<Arc<str>, ScopeState>,
    /// Whose a key is.
    by_key: HashMap<Box<[u8]>, Arc<str>>,
    /// Those whose next table has not come.
    switching: BTreeSet<Arc<str>>,
    /// Some listener has, or had, use for them.
    pub(super) wanted: bool,
    /// The control plane has answered for them.
    pub(super) answered: bool,
    /// Listeners that are not open yet and look at them.
    pub(super) waiting: BTreeSet<Arc<str>>,
    dirty: bool,
}

struct ScopeState {
    model: Arc<ScopedRoute>,
    serving: Held,
    next: Option<Held>,
}

/// A table that a scope, or a chain, holds.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) table: RouteId,
    pub(super) rds: Option<Arc<str>>,
}

impl ScopeStates {
    /// Names of the tables that are asked for by RDS.
    pub(super) fn rds_names(&self) -> impl Iterator<Item = &str> {
        self.states.values().filter_map(|state| match &state.model.routes {
            ScopeTable::Rds(name) => Some(name.as_str()),
            ScopeTable::Inline(_) => None,
        })
    }

    /// The scopes as accepted.
    pub(super) fn models(&self) -> impl Iterator<Item = &Arc<ScopedRoute>> {
        self.states.values().map(|state| &state.model)
    }

    /// The tables that serve.
    pub(super) fn tables(&self) -> impl Iterator<Item = RouteId> {
        self.states.values().map(|state| state.serving.table)
    }

    /// Takes the key of `name` back.
    fn free_key(&mut self, name: &str) {
        if let Some(state) = self.states.get(name) {
            let key = scope_key(&state.model);
            if self.by_key.get(&key).is_some_and(|owner| **owner == *name) {
                self.by_key.remove(&key);
            }
        }
    }
}

impl Builder {
    /// The control plane has answered for scopes, whatever it said.
    pub(super) fn scopes_answered(&mut self) {
        if !std::mem::replace(&mut self.scopes.answered, true) {
            self.touch_scoped();
        }
    }

    /// Some listener has use for the scopes of SRDS.
    pub(super) fn want_scopes(&mut self) {
        self.tables.interest_changed |= !std::mem::replace(&mut self.scopes.wanted, true);
    }

    /// Applies a set: a scope may take over the key of one that goes, or that gets another, in the same set.
    pub(super) fn change_scopes(&mut self, set: Vec<(Arc<str>, Option<Arc<ScopedRoute>>)>) -> Vec<Rejection> {
        let mut changed = Vec::new();
        for (name, model) in set {
            let old = self.scopes.states.get(&name).map(|state| &state.model);
            match model {
                Some(model) if old == Some(&model) => {}
                Some(model) => {
                    self.scopes.free_key(&name);
                    changed.push((name, model));
                }
                None => {
                    self.scopes.free_key(&name);
                    self.scopes.switching.remove(&name);
                    if let Some(state) = self.scopes.states.remove(&name) {
                        self.scopes.dirty = true;
                        self.drop_held(state.serving);
                        state.next.into_iter().for_each(|next| self.drop_held(next));
                    }
                }
            }
        }
        let mut rejections = Vec::new();
        for (name, model) in changed {
            let key = scope_key(&model);
            if let Some(owner) = self.scopes.by_key.get(&key) {
                let why = Why::SameScope { key: model.key.clone(), owner: owner.clone() };
                rejections.push(Rejection { kind: Kind::ScopedRoute, name: name.to_string(), why });
                continue;
            }
            self.scopes.by_key.insert(key, name.clone());
            self.place_scope(name, model);
        }
        for refused in &rejections {
            // The version before goes on, unless its key was given away.
            if let Some((name, state)) = self.scopes.states.get_key_value(refused.name.as_str()) {
                self.scopes.by_key.entry(scope_key(&state.model)).or_insert_with(|| name.clone());
            }
        }
        self.scopes.dirty |= !rejections.is_empty();
        if self.scopes.dirty {
            self.touch_scoped();
        }
        rejections
    }

    fn touch_scoped(&mut self) {
        let waiting = self.scopes.waiting.iter().map(|listener| (listener.clone(), true));
        self.listeners.dirty.extend(waiting);
    }

    fn place_scope(&mut self, name: Arc<str>, model: Arc<ScopedRoute>) {
        let held = self.hold_table(&model.routes, || TableKey::Scope(name.clone()));
        self.scopes.dirty = true;
        let Some(state) = self.scopes.states.get_mut(&name) else {
            self.scopes.states.insert(name, ScopeState { model, serving: held, next: None });
            return;
        };
        state.model = model;
        let mut spare = state.next.take();
        if held.table == state.serving.table {
            self.scopes.switching.remove(&name);
            let more = spare.replace(held);
            more.into_iter().for_each(|held| self.drop_held(held));
        } else {
            state.next = Some(held);
            self.scopes.switching.insert(name);
        }
        spare.into_iter().for_each(|held| self.drop_held(held));
    }

    /// One more user of a scope's table; `key` names it if it is written in its scope.
    pub(super) fn hold_table(&mut self, routes: &ScopeTable, key: impl FnOnce() -> TableKey) -> Held {
        match routes {
            ScopeTable::Rds(name) => {
                let name: Arc<str> = name.as_str().into();
                self.tables.add_rds_ref(&name);
                let table = self.tables.acquire(TableKey::Rds(name.clone()));
                Held { table, rds: Some(name) }
            }
            ScopeTable::Inline(config) => {
                let table = self.tables.acquire(key());
                if let Some(state) = self.tables.get_mut(table) {
                    state.wanted = Some(config.clone());
                    self.tables.touch(table);
                }
                Held { table, rds: None }
            }
        }
    }

    /// The opposite of [`Builder::hold_table`].
    pub(super) fn drop_held(&mut self, held: Held) {
        self.tables.release(held.table);
        if let Some(rds) = held.rds {
            self.tables.drop_rds_ref(&rds);
        }
    }

    /// Brings what is published up to date; whether there was anything to do.
    pub(super) fn settle_scopes(&mut self) -> bool {
        for name in self.scopes.switching.clone() {
            let Some(state) = self.scopes.states.get_mut(&name) else { continue };
            let here =
                state.next.as_ref().is_some_and(|next| self.next.get().route_table(next.table).is_some());
            // What serves nothing is not worth waiting with.
            let empty = self.next.get().route_table(state.serving.table).is_none();
            if here || empty {
                self.scopes.switching.remove(&name);
                if let Some(next) = state.next.take() {
                    let old = std::mem::replace(&mut state.serving, next);
                    self.drop_held(old);
                    self.scopes.dirty = true;
                }
            }
        }
        if !std::mem::take(&mut self.scopes.dirty) {
            return false;
        }
        let states = &self.scopes.states;
        let tables = self
            .scopes
            .by_key
            .iter()
            .filter_map(|(key, name)| Some((key.clone(), states.get(name)?.serving.table)));
        self.next.set_scopes(Arc::new(Scopes::new(tables)));
        true
    }
}
