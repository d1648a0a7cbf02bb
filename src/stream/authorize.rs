//! Asking an authorization service about a connection.

use super::facts::StreamFacts;
use super::{Drain, Handle, Local, http};
use crate::filter::{ConnectionCheck, Peer, Ruling, counters};
use crate::message::Metadata;
use crate::model::NetworkAuthz;
use crate::snapshot::View;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

/// Whether the service lets a connection in. Nothing of the connection is read meanwhile; a process that ends
/// waits for no answer.
pub async fn authorize(
    local: &Rc<Local>,
    view: &View,
    handle: &Handle,
    guard: &NetworkAuthz,
    (peer, metadata): (&Peer<'_>, &Metadata),
) -> bool {
    let stats = local.authz_stats(guard);
    let facts = StreamFacts::of_connection(handle, metadata);
    let Some(question) = (ConnectionCheck { peer, facts: &facts, metadata }).ask(guard) else {
        stats.inc(DISABLED);
        return true;
    };
    stats.inc(TOTAL);
    let mut asked = pin!(http::ask(local, view, &question));
    let heard = poll_fn(|cx| {
        if let Poll::Ready(heard) = asked.as_mut().poll(cx) {
            return Poll::Ready(Some(heard));
        }
        handle.register(cx.waker());
        if handle.draining() >= Drain::Now { Poll::Ready(None) } else { Poll::Pending }
    });
    let Some(heard) = heard.await else { return false };
    let admitted = match Ruling::of(heard) {
        Ruling::Allowed => {
            stats.inc(OK);
            true
        }
        Ruling::Denied => {
            stats.inc(DENIED);
            false
        }
        Ruling::Failed => {
            stats.inc(ERROR);
            if guard.failure_mode_allow {
                stats.inc(FAILURE_MODE);
            }
            guard.failure_mode_allow
        }
    };
    if !admitted {
        stats.inc(CLOSED);
    }
    admitted
}

// What is counted.
counters! {
    pub(super) NAMES:
    "total" = TOTAL,
    "ok" = OK,
    "denied" = DENIED,
    "error" = ERROR,
    "failure_mode_allowed" = FAILURE_MODE,
    "disabled" = DISABLED,
    "cx_closed" = CLOSED,
}
