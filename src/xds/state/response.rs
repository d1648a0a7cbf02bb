//! Responses in, verdicts in, answers out.

use super::super::held::{Compared, Reading};
use super::super::message::{Now, RawResource, Rejected, Rejection, RequestBody, Response, Ticket, Update};
use super::super::nack::error_text;
use super::super::repeat::Bad;
use super::super::requests::{delta_answer, request};
use super::super::types::ResourceType;
use super::{AdsState, Variant};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

impl AdsState {
    /// Reads a response against what is held. `None` when it is not for us: an unknown type or one that was
    /// not asked for; such a response gets no answer.
    pub fn on_response(&mut self, now: Now, mut response: Response) -> Option<Update> {
        let stream = self.stream?;
        if !response.control_plane.is_empty() {
            self.stats.identifier.set(Arc::from(std::mem::take(&mut response.control_plane)));
        }
        let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
            self.stats.unknown_type.add(1);
            return None;
        };
        let state = self.types.get_mut(kind);
        if !state.subscribed {
            self.stats.unsolicited.add(1);
            return None;
        }
        let stats = self.stats.of(kind);
        stats.update_attempt.add(1);
        stats.last_contact_ms.set(now.unix_ms);
        let (nonce, version) = (Arc::from(response.nonce.as_str()), Arc::from(response.version.as_str()));
        state.nonce = Arc::clone(&nonce);
        state.pending += 1;
        state.restored = false;
        let reading = Reading {
            absence_removes: self.config.variant == Variant::Sotw,
            first_answer: std::mem::take(&mut state.unconfirmed),
            wanted: (!kind.is_wildcard()).then_some(&state.interest),
            now,
        };
        let Compared { changed, removed, withdrawn, refused, unchanged } =
            state.store.compare(response, &reading);
        stats.unchanged.add(unchanged);
        self.refresh_gauges(kind);
        Some(Update {
            kind,
            changed,
            removed,
            withdrawn,
            ticket: Ticket { stream, nonce, version, refused, at: now.instant, unchanged, unready: false },
        })
    }

    /// Takes the verdicts on an update: what `rejections` does not name is accepted and held from now on.
    /// Queues the ACK, or the NACK that names what is bad.
    pub fn on_verdicts(&mut self, now: Now, mut update: Update, rejections: Vec<Rejection>) {
        let kind = update.kind;
        let (stream, nonce, version) =
            (update.ticket.stream, update.ticket.nonce.clone(), update.ticket.version.clone());
        let bad = Bad::of(&update, &rejections);
        let state = self.types.get_mut(kind);
        if !kind.is_wildcard() {
            // The interest may have moved on while the verdict was out.
            update.changed.retain(|raw| state.interest.contains(&raw.name));
        }
        let began = update.ticket.at;
        let bad_names: BTreeSet<&str> = rejections.iter().map(|rejection| &*rejection.name).collect();
        let reloads =
            !update.removed.is_empty() || update.changed.iter().any(|raw| !bad_names.contains(&*raw.name));
        drop(bad_names);
        // Of a set that is taken as a whole or not at all, some parts may be good: they serve.
        let partly = kind.is_wildcard() && (reloads || update.ticket.unchanged > 0) && !update.ticket.unready;
        let lines = state.store.commit(update, rejections, now);
        let delay = state.repeat.note(bad, &mut self.random);
        let stats = self.stats.of(kind);
        let took = now.instant.saturating_duration_since(began);
        stats.update_duration.record(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        if reloads {
            stats.config_reload.add(1);
            stats.last_reload_ms.set(now.unix_ms);
        }
        if bad.is_some() {
            stats.update_rejected.add(1);
            stats.update_success.add(usize::from(partly));
        } else {
            stats.update_success.add(1);
            stats.last_update_ms.set(now.unix_ms);
            stats.version.set(version.clone());
            state.accepted = version;
        }
        self.refresh_gauges(kind);
        if self.stream == Some(stream) {
            self.answer(now, kind, nonce, &lines, delay);
        }
        self.cds_known |= kind == ResourceType::Cluster;
        self.advance(now);
    }

    fn answer(
        &mut self,
        now: Now,
        kind: ResourceType,
        nonce: Arc<str>,
        lines: &[Arc<str>],
        delay: Option<Duration>,
    ) {
        let state = self.types.get_mut(kind);
        state.pending = state.pending.saturating_sub(1);
        let mut answer = match self.config.variant {
            Variant::Delta => delta_answer(kind, nonce),
            Variant::Sotw => {
                let body = RequestBody::Sotw { version: state.accepted.clone(), names: state.sent.clone() };
                request(kind, nonce, body)
            }
        };
        answer.error = (!lines.is_empty()).then(|| error_text(lines.iter().map(|line| &**line)));
        let renew = state.dirty && state.pending == 0;
        match delay {
            None => self.push(answer),
            Some(delay) => {
                if let Some((_, earlier)) = state.delayed.replace((now.instant + delay, answer)) {
                    self.out.push_back(earlier);
                }
                self.stats.of(kind).delayed_answers.add(1);
            }
        }
        if renew {
            self.push_names(kind);
        }
    }

    /// Whether the newest version of a resource was refused, and neither replaced nor taken back since.
    #[must_use]
    pub fn is_rejected(&self, kind: ResourceType, name: &str) -> bool {
        self.of(kind).store.rejected.contains_key(name)
    }

    /// Counts a success that no response of the control plane stands for: what was restored, or became good by
    /// itself.
    pub fn count_success(&self, kind: ResourceType) {
        self.stats.of(kind).update_success.add(1);
    }

    /// A resource that was rejected for a cause outside of it is good after all: its refused bytes become
    /// the held ones. `false` if no such rejection is remembered.
    pub fn accept_late(&mut self, now: Now, kind: ResourceType, name: &str) -> bool {
        let store = &mut self.types.get_mut(kind).store;
        let Some(rejected) = store.rejected.remove(name).filter(|rejected| !rejected.bytes.is_empty()) else {
            return false;
        };
        let Rejected { name, bytes, version, wire_name, .. } = rejected;
        store.insert(RawResource { name, bytes, version, wire_name, ttl: None }, now.unix_ms);
        self.refresh_gauges(kind);
        true
    }
}
