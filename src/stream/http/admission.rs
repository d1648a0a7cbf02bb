//! What is settled about a request before its route is looked for, and what the client is told before its
//! response.

use super::Settings;
use super::edge::{self, Arrival};
use super::exchange::{Answer, Exchange};
use super::head::{Admitted, admit, wanted};
use super::reply::Style;
use crate::message::{Failure, Reason};
use crate::snapshot::View;
use crate::stream::exchange::Forward;
use http::header::{EXPECT, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode, request};
use tokio::time::Instant;

impl Exchange {
    /// The time limits that hold before there is a route.
    pub(super) fn limit(&mut self, settings: &Settings<'_>, begin: Instant) {
        let end = settings.max_stream.map(|limit| begin + limit);
        self.clock.limit(settings.stream_idle, None, end);
        if let Some(limit) = settings.request_timeout {
            self.clock.expect_request(begin + limit);
        }
    }

    /// Settles what the request is, before anything looks for its route. This is where filters of requests
    /// begin: `head` is in its common form from here on.
    pub(super) fn arrive(
        &mut self,
        settings: &Settings<'_>,
        head: &mut request::Parts,
        arrival: &mut Arrival,
    ) -> Result<(), Failure> {
        let Admitted { expects, change, expect, names } = admit(head, settings.max_headers)?;
        let Some(edge) = settings.edge else {
            self.expect((expect, expects), false, head);
            return if change.is_some() { Err(Failure::before(Reason::BadRequest)) } else { Ok(()) };
        };
        *arrival = edge::arrive(head, names, edge, &self.down.handle, &self.down.local.env.random)?;
        self.change = change;
        self.internal = arrival.internal;
        self.caller.ip = arrival.client.or(self.caller.ip);
        self.expect((expect, expects), edge.proxy_100_continue, head);
        Ok(())
    }

    /// Takes from a request from outside what its table says only requests from inside may bring.
    pub(super) fn hide_internal(&self, view: &View, settings: &Settings<'_>, head: &mut request::Parts) {
        if settings.edge.is_none() || self.internal {
            return;
        }
        for name in view.route_table(settings.routes).iter().flat_map(|table| table.internal_only_headers()) {
            head.headers.remove(name.as_str());
        }
    }

    /// Tells a client that waits for it to go on, unless that is the upstream's to say. `there`: there is an
    /// `expect`; `expects`: and it is one for a 100.
    fn expect(&mut self, (there, expects): (bool, bool), passes: bool, head: &mut request::Parts) {
        if !there {
            return;
        }
        self.passes_100 = expects && passes;
        if self.passes_100 {
            return;
        }
        head.headers.remove(EXPECT);
        if expects {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::CONTINUE;
            self.client.send_informational(response);
        }
    }

    /// A 1xx response of the upstream: the client gets those it waits for or can do without.
    pub(super) fn pass_interim(&mut self, status: StatusCode, headers: &HeaderMap) {
        let passed = match status {
            StatusCode::CONTINUE => self.passes_100,
            StatusCode::EARLY_HINTS => true,
            _ => false,
        };
        if !passed {
            return;
        }
        self.told_100 = true;
        let mut response = Response::new(());
        *response.status_mut() = status;
        response.headers_mut().clone_from(headers);
        self.client.send_informational(response);
    }

    /// Sends the client to another path.
    pub(super) fn send_back(&self, style: Style, path: String) -> Result<Answer, Failure> {
        let (mut response, whole) = style.fixed(307, b"");
        let location = HeaderValue::try_from(path).map_err(|_| Failure::before(Reason::BadRequest))?;
        response.headers_mut().insert(LOCATION, location);
        Ok(Answer::whole(response, whole))
    }

    /// Checks that a request that asks for another protocol may have it: by its route, else by its manager.
    pub(super) fn allow_change(
        &self,
        to: &Forward<'_>,
        settings: &Settings<'_>,
        head: &request::Parts,
    ) -> Result<(), Failure> {
        let Some(change) = self.change else { return Ok(()) };
        let name = wanted(head, change);
        let of_route = to.route.options().map(|options| options.upgrades.as_slice()).unwrap_or_default();
        let of_manager = settings.edge.map(|edge| edge.upgrades.as_slice()).unwrap_or_default();
        match of_route.iter().chain(of_manager).find(|upgrade| upgrade.kind == name) {
            // Ending a CONNECT here is another thing than passing it on.
            Some(upgrade) if upgrade.enabled && upgrade.raw.is_none() => Ok(()),
            _ => Err(Failure::before(Reason::UpgradeRefused)),
        }
    }
}
