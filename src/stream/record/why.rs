//! The record of why a stream went as it did.

use super::ended::Ended;
use crate::message::{Fact, Facts, Point, Reason};
use crate::model::LbPolicy;
use crate::telemetry::clock;
use crate::telemetry::why::{Short, WhyRecord};

impl Ended<'_> {
    /// See the module.
    pub(super) fn why(&self) -> WhyRecord {
        let record = self.record;
        let short = |text: Option<&[u8]>| Short::new(text.unwrap_or_default());
        let fact = |fact| {
            let mut text = Vec::new();
            self.fact(fact, &mut text);
            Short::new(&text)
        };
        let millis =
            |point| self.elapsed(point).map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        WhyRecord {
            at_unix_ms: clock::millis_of(self.wall),
            id: short(record.text(record.id)),
            protocol: if record.protocol.is_empty() { "TCP" } else { record.protocol },
            method: short(record.text(record.method)),
            authority: short(record.text(record.authority)),
            path: short(record.text(record.path)),
            listener: fact(Fact::ListenerName),
            filter_chain: fact(Fact::FilterChainName),
            virtual_host: short(record.text(record.host)),
            route: short(record.text(record.route)),
            rejected: record.rejected.clone(),
            cluster: fact(Fact::UpstreamClusterRaw),
            host: fact(Fact::UpstreamHost),
            picked_by: self
                .cluster
                .filter(|_| self.host.is_some())
                .map_or("", |cluster| policy(&cluster.state().spec.model.lb)),
            status: record.status,
            flags: fact(Fact::ResponseFlags),
            reason: record.reason.map_or("", Reason::word),
            details: record.details,
            closed_by: record.reason.map_or("", closed_by),
            attempts: record.attempts,
            request_ms: millis(Point::RequestEnd),
            response_ms: millis(Point::ResponseStart),
            total_ms: millis(Point::SendEnd).unwrap_or_default(),
        }
    }
}

fn policy(policy: &LbPolicy) -> &'static str {
    match policy {
        LbPolicy::RoundRobin => "round_robin",
        LbPolicy::Random => "random",
        LbPolicy::LeastRequest { .. } => "least_request",
        LbPolicy::RingHash { .. } => "ring_hash",
        LbPolicy::Maglev { .. } => "maglev",
        LbPolicy::ClusterProvided => "original_dst",
    }
}

/// Who broke it off.
fn closed_by(reason: Reason) -> &'static str {
    match reason {
        Reason::DownstreamReset => "client",
        Reason::ConnectFailed
        | Reason::UpstreamClosed
        | Reason::UpstreamReset
        | Reason::UpstreamRefused
        | Reason::UpstreamProtocol => "upstream",
        _ => "proxy",
    }
}
