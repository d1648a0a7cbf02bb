//! Sending a request on an HTTP/1 connection of its own.

use super::exchange::Exchange;
use super::flow::Flow;
use super::head::Change;
use super::sink::Sink;
use super::source::Source;
use super::upstream::{Way, target};
use crate::cluster::Host;
use crate::cluster::pool::http1::{Lease, Pool};
use crate::message::{Failure, Reason};
use crate::protocol::http1::ResponseHead;
use crate::stream::exchange::{Attempt, Forward};
use crate::stream::http1::length;
use crate::util::base64;
use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, HeaderName, UPGRADE};
use http::{HeaderValue, Method, Response, request};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

impl Exchange {
    /// Sends the request until the response's head is there.
    pub(super) async fn send_http1(
        &mut self,
        to: &Forward<'_>,
        attempt: &Attempt,
        (host, lease): (&Rc<Host>, Option<Lease>),
        head: &request::Parts,
        up: &mut Flow,
    ) -> Result<(Response<Source>, Way), Failure> {
        if head.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0") {
            // HTTP/1 has this request whole with its head, which must not go before its sender kept the promise.
            self.watched(poll_fn(|cx| up.poll_empty(cx))).await?;
        }
        let lease = match lease {
            Some(lease) => lease,
            None => self.lease(attempt, host).await?,
        };
        let reused = lease.is_reused();
        self.record.connected(lease.session(), || lease.local());
        let changed = self.changed(to, attempt, head);
        let head = changed.as_deref().unwrap_or(head);
        let upgrade = matches!(self.change, Some(Change::Upgrade | Change::Extended));
        let parked = self.change.is_some();
        let bare = parked || up.is_empty();
        let body = length(&head.headers, bare);
        let (sender, mut receiver) = lease.send(head, up.case().as_deref(), body, upgrade);
        up.start(Sink::Http1Request(sender), bare);
        let response = self
            .answered(up, parked, |this, cx| {
                loop {
                    match receiver.poll_head(cx) {
                        Poll::Ready(Ok(head)) if head.is_interim() => {
                            this.pass_interim(head.parts.status, &head.parts.headers);
                        }
                        other => return other,
                    }
                }
            })
            .await
            .inspect_err(|failure| {
                // A server that closes instead of answering did so, most likely, before it saw the request.
                self.stale = reused && failure.reason == Reason::UpstreamClosed;
            })?;
        let ResponseHead { parts, case, tunnel, .. } = response;
        self.case = case;
        if tunnel {
            self.switched = true;
            up.switch();
        }
        Ok((Response::from_parts(parts, Source::Http1Response(receiver)), Way::Http1))
    }

    async fn lease(&mut self, attempt: &Attempt, host: &Rc<Host>) -> Result<Lease, Failure> {
        let Attempt { cluster, state, priority, .. } = attempt;
        if self.fresh {
            return self.watched(Box::pin(Pool::acquire_new(host, cluster, state, *priority))).await;
        }
        match host.http1.ready() {
            Some(lease) => Ok(lease),
            None => self.watched(Box::pin(Pool::acquire(host, cluster, state, *priority))).await,
        }
    }

    /// The head as this host gets it, if it differs.
    fn changed(
        &self,
        to: &Forward<'_>,
        attempt: &Attempt,
        head: &request::Parts,
    ) -> Option<Box<request::Parts>> {
        let uri = target(to, attempt, head);
        if uri.is_none() && self.change != Some(Change::Extended) {
            return None;
        }
        let mut head = Box::new(head.clone());
        if let Some(uri) = uri {
            head.uri = uri;
        }
        if self.change == Some(Change::Extended) {
            self.shrink(&mut head);
        }
        Some(head)
    }

    /// Asks for the other protocol as HTTP/1 does.
    fn shrink(&self, head: &mut request::Parts) {
        const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
        let Some(protocol) = head.extensions.get::<Protocol>() else { return };
        head.method = Method::GET;
        if let Ok(name) = HeaderValue::from_str(protocol.as_str()) {
            head.headers.insert(UPGRADE, name);
        }
        // HTTP/2 has no use for the key (RFC 8441, 5.1), every HTTP/1 server insists on one.
        if protocol.as_str().eq_ignore_ascii_case("websocket") && !head.headers.contains_key(KEY) {
            let random = &self.down.local.env.random;
            let bits = (u128::from(random.next()) << 64) | u128::from(random.next());
            let mut key = Vec::with_capacity(24);
            base64::encode(&bits.to_be_bytes(), &mut key);
            if let Ok(key) = HeaderValue::from_maybe_shared(Bytes::from(key)) {
                head.headers.insert(KEY, key);
            }
        }
    }
}
