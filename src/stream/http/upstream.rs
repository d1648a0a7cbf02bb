//! Sending a request to a picked host, in whatever it speaks.

use super::client::Client;
use super::exchange::Exchange;
use super::flow::Flow;
use super::head::{joined, with_authority};
use super::sink::Sink;
use super::source::Source;
use crate::cluster::pool::auto::{self, Lease};
use crate::cluster::pool::http2::{self, failure_of};
use crate::cluster::{Host, Variant};
use crate::message::{Failure, Reason};
use crate::model::{AlpnOverride, AutoNames, UpstreamProtocol};
use crate::router::without_port;
use crate::stream::exchange::{Attempt, Forward};
use h2::ext::Protocol;
use http::header::UPGRADE;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, request};
use std::borrow::Cow;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

/// What is held of an upstream connection until the response is whole.
pub(super) enum Way {
    /// A stream's place.
    Http2(#[expect(dead_code, reason = "held, not read")] http2::Lease),
    /// The connection goes back by itself once both messages are whole.
    Http1,
}

/// Where `head` goes at the picked host, if not where it says.
pub(super) fn target(to: &Forward<'_>, attempt: &Attempt, head: &request::Parts) -> Option<Uri> {
    if !to.action.auto_host_rewrite {
        return None;
    }
    let authority = Authority::try_from(attempt.host.hostname.as_str()).ok()?;
    with_authority(&head.uri, authority)
}

/// The picked host with connections such as this request needs: the protocols are offered that `rules` say for
/// this version, and the names are those of `variant`, else those of `head` where its cluster wants that.
pub(super) fn offering(
    mut variant: Variant,
    rules: Option<&AlpnOverride>,
    attempt: &Attempt,
    version: UpstreamProtocol,
    head: &request::Parts,
) -> Rc<Host> {
    let wanted = rules.and_then(|rules| match version {
        UpstreamProtocol::Http2 | UpstreamProtocol::Auto => rules.http2.as_ref(),
        UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => rules.http11.as_ref(),
    });
    if let Some(wanted) = wanted {
        variant.alpn = Some(wanted.clone());
    }
    if let Some(auto) = &attempt.state.spec.model.auto_names {
        name(auto, head, &mut variant);
    }
    attempt.host.towards(&variant, &attempt.cluster)
}

/// Takes the names from `head` that TLS is to have. No server name is an address.
fn name(auto: &AutoNames, head: &request::Parts, variant: &mut Variant) {
    let given = auto.header.as_deref().and_then(|name| joined(&head.headers, name));
    let given = given.filter(|value| !value.is_empty());
    let authority = || head.uri.authority().map(|authority| Cow::Borrowed(authority.as_str().as_bytes()));
    let Some(whole) = given.or_else(authority) else { return };
    let Ok(name) = std::str::from_utf8(without_port(&whole)) else { return };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_address = name.parse::<IpAddr>().is_ok();
    let name: Option<Arc<str>> = Some(name).filter(|name| !name.is_empty()).map(Arc::from);
    if auto.san && variant.san.is_none() {
        variant.san.clone_from(&name);
    }
    if auto.sni && !is_address && variant.sni.is_none() {
        variant.sni = name;
    }
}

impl Exchange {
    /// Sends the request until the response's head is there.
    pub(super) async fn send(
        &mut self,
        to: &Forward<'_>,
        attempt: &Attempt,
        head: &request::Parts,
        up: &mut Flow,
    ) -> Result<(Response<Source>, Way), Failure> {
        let version = match attempt.state.spec.model.protocol {
            _ if self.always_http2 => UpstreamProtocol::Http2,
            UpstreamProtocol::Downstream if matches!(self.client, Client::Http2(_)) => {
                UpstreamProtocol::Http2
            }
            other => other,
        };
        let host = offering(self.variant(), self.alpn.as_deref(), attempt, version, head);
        let known = match version {
            UpstreamProtocol::Auto => Some(self.lease_any(attempt, &host).await?),
            _ => None,
        };
        let (http1, http2) = match known {
            Some(Lease::Http1(lease)) => (Some(lease), None),
            Some(Lease::Http2(lease)) => (None, Some(lease)),
            None => (None, None),
        };
        if http2.is_some() || version == UpstreamProtocol::Http2 {
            self.record.upstream_protocol = "HTTP/2";
            return self.send_http2(to, attempt, (&host, http2), head, up).await;
        }
        self.record.upstream_protocol = "HTTP/1.1";
        self.send_http1(to, attempt, (&host, http1), head, up).await
    }

    /// What is known of connections to hosts: where they come from, and what filters said.
    fn variant(&self) -> Variant {
        let mut variant = Variant { source: self.down.handle.seen.source, ..Variant::default() };
        variant.take(&self.record.metadata.state);
        self.down.handle.state().into_iter().for_each(|state| variant.take(state));
        variant
    }

    /// A connection of the version of HTTP its host chose.
    async fn lease_any(&mut self, attempt: &Attempt, host: &Rc<Host>) -> Result<Lease, Failure> {
        let Attempt { cluster, state, priority, .. } = attempt;
        match auto::ready(host, self.fresh) {
            Some(lease) => Ok(lease),
            None => {
                let acquired = Box::pin(auto::acquire(host, cluster, state, *priority, self.fresh));
                self.watched(acquired).await
            }
        }
    }

    async fn send_http2(
        &mut self,
        to: &Forward<'_>,
        attempt: &Attempt,
        (host, lease): (&Rc<Host>, Option<http2::Lease>),
        head: &request::Parts,
        up: &mut Flow,
    ) -> Result<(Response<Source>, Way), Failure> {
        let lease = match lease.or_else(|| host.http2.ready()) {
            Some(lease) => lease,
            None => {
                let Attempt { cluster, state, priority, .. } = attempt;
                let acquired = Box::pin(http2::Pool::acquire(host, cluster, state, *priority));
                self.watched(acquired).await?
            }
        };
        self.record.connected(lease.session(), || lease.local());
        let mut request = Request::new(());
        *request.method_mut() = head.method.clone();
        *request.headers_mut() = head.headers.clone();
        *request.uri_mut() = target(to, attempt, head).unwrap_or_else(|| head.uri.clone());
        let upgraded = match self.change {
            Some(_) => extend(&mut request, head),
            None => None,
        };
        let parked = self.change.is_some();
        let bare = up.is_empty() && !parked;
        let (mut response, sink) = lease.send(request, bare)?;
        up.start(Sink::Http2(sink.into()), bare || parked);
        let response = self
            .answered(up, parked, |this, cx| {
                if this.passes_100 {
                    while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
                        this.pass_interim(interim.status(), interim.headers());
                    }
                }
                Pin::new(&mut response).poll(cx).map_err(|error| failure_of(&error))
            })
            .await?;
        // Converted calls have as many as a bolt frame can carry.
        if !self.always_http2 && response.headers().len() > attempt.state.spec.model.response_headers {
            return Err(Failure::after(Reason::UpstreamProtocol));
        }
        let mut response = response.map(Source::Http2);
        if self.change.is_some() && response.status().is_success() {
            self.switched = true;
            up.switch();
            if let Some(protocol) = upgraded {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert(UPGRADE, protocol);
            }
        }
        Ok((response, Way::Http2(lease)))
    }
}

/// Asks for the other protocol as HTTP/2 does; returns what an HTTP/1 client has to be told it got.
fn extend(request: &mut Request<()>, head: &request::Parts) -> Option<HeaderValue> {
    if let Some(protocol) = head.extensions.get::<Protocol>() {
        request.extensions_mut().insert(protocol.clone());
        return None;
    }
    let name = request.headers_mut().remove(UPGRADE)?;
    let protocol = Protocol::from(name.to_str().ok()?);
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(protocol);
    Some(name)
}
