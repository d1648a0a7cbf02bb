//! Copies of requests for other clusters, whose answers nobody sees.
//!
//! A copy leaves when its request has come whole, in a task of its own: it keeps nobody waiting, has the limits
//! of its own cluster, and tells outlier detection nothing.

use super::STREAM_IDLE;
use super::bodies::Held;
use super::head::with_authority;
use super::own;
use super::tap::Tap;
use crate::cluster::{Cluster, PickContext};
use crate::message::{Failure, Reason};
use crate::model::{AlpnOverride, Mirror, UpstreamProtocol};
use crate::stream::Local;
use crate::stream::exchange::{Attempt, Forward, Tries, within};
use http::header::EXPECT;
use http::request;
use http::uri::Authority;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// One copy on its way.
struct Copy {
    local: Rc<Local>,
    cluster: Rc<Cluster>,
    head: request::Parts,
    version: UpstreamProtocol,
    /// What its hosts are offered in TLS, if not what their cluster says.
    alpn: Option<Rc<AlpnOverride>>,
    limit: Duration,
}

/// Has the request with this head copied as `to` says: its body is kept up to `room` bytes. `timeout`: that of
/// the request; `client`: what its client speaks; `alpn`: what hosts are offered.
pub(super) fn tap(
    local: &Rc<Local>,
    to: &Forward<'_>,
    head: &request::Parts,
    timeout: Option<Duration>,
    room: usize,
    (client, alpn): (UpstreamProtocol, Option<&Rc<AlpnOverride>>),
) -> Option<Tap> {
    let wish = to.wish.as_ref().filter(|wish| !wish.mirrors.is_empty())?;
    let copy = |(spec, cluster): &(&Mirror, Rc<Cluster>)| Copy {
        local: local.clone(),
        cluster: cluster.clone(),
        head: shadow(head, spec),
        version: match cluster.state().spec.model.protocol {
            UpstreamProtocol::Downstream => client,
            other => other,
        },
        alpn: alpn.filter(|_| !cluster.mesh().is_some_and(|mesh| mesh.keeps_alpn)).cloned(),
        limit: timeout.unwrap_or(STREAM_IDLE),
    };
    let copies: Vec<Copy> = wish.mirrors.iter().map(copy).collect();
    let cluster = to.cluster.clone();
    Some(Tap::new(room, move |whole| match whole {
        Some(whole) => copies.into_iter().for_each(|copy| {
            spawn_local(copy.run(whole.clone()));
        }),
        None => cluster.stats.retry_or_shadow_abandoned.inc(),
    }))
}

/// The head that the copy has.
fn shadow(head: &request::Parts, spec: &Mirror) -> request::Parts {
    let mut head = head.clone();
    head.headers.remove(EXPECT);
    let name = match (&spec.host_rewrite, head.uri.authority()) {
        (Some(name), _) => Some(name.clone()),
        (None, Some(authority)) if !spec.keep_host => Some(match authority.port() {
            Some(port) => format!("{}-shadow:{port}", authority.host()),
            None => format!("{}-shadow", authority.host()),
        }),
        _ => None,
    };
    let authority = name.and_then(|name| Authority::try_from(name).ok());
    if let Some(uri) = authority.and_then(|authority| with_authority(&head.uri, authority)) {
        head.uri = uri;
    }
    head
}

impl Copy {
    async fn run(self, whole: Held) {
        let mut tries = Tries::default();
        let attempt = Attempt::begin(&self.cluster, PickContext::default(), &mut tries);
        // Counted where it is refused; nobody is told.
        let Ok(attempt) = attempt.map(Attempt::unjudged) else { return };
        let deadline = Instant::now() + self.limit;
        let sending = self.send(&attempt, whole);
        let result = within(&self.local, Some(deadline), Reason::Timeout, sending).await;
        attempt.count(&result);
    }

    /// Sends it and reads the answer to its end.
    async fn send(&self, attempt: &Attempt, whole: Held) -> Result<(), Failure> {
        let mut sent =
            own::send(attempt, (self.version, self.alpn.as_deref()), &self.head, whole, false).await?;
        self.cluster.stats.upstream_rq.record(sent.head.status.as_u16());
        sent.answer(&mut |_| Ok(())).await.map(drop)
    }
}
