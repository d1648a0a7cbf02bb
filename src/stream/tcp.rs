//! Raw bytes between a client and one host: picks it, connects, and counts what the [`Pump`] moves.

mod pump;

use self::pump::{Ended, Pump};
use super::exchange::{Caller, Trail, Tries, raw_destination, sign_of};
use super::state::Steered;
use super::tcp_told::Told;
use super::{Handle, Local, Record};
use crate::cluster::pool::connect;
use crate::cluster::{Cluster, Level, PickContext, Sign};
use crate::message::{Failure, Flags, Reason};
use crate::model::{LogKind, Priority, TcpProxy};
use crate::net::Conn;
use crate::snapshot::FilterSpec;
use crate::telemetry::{Registration, TcpStats};
use crate::util::hash::xxh64;
use bytes::BytesMut;
use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::time::Instant;

/// Serves a raw connection to its end. `early`: what was read of it already.
pub async fn serve(
    mut client: Conn,
    early: BytesMut,
    handle: Rc<Handle>,
    local: Rc<Local>,
    stats: Rc<Registration<TcpStats>>,
) {
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    let begin = Instant::now();
    // Everything taken from the snapshot is owned by the end of `dial`: a long connection pins no tables.
    let logs = handle.bound().logs.clone();
    let mut record = None;
    let mut trail = Trail::default();
    let mut told = Told::of(&handle, &local);
    let dialled = dial(&handle, &local, &mut trail).await;
    let mut note =
        |failure: Option<Reason>, flags: Flags, moved: (u64, u64), upstream: Option<SocketAddr>| {
            record = (logs.is_some() || failure.is_some()).then(|| {
                let mut record = Record::begin(&local, LogKind::TcpConnectionEnd, "", begin);
                record.log_to(logs.clone());
                failure.into_iter().for_each(|reason| record.unconnected(reason));
                record.flags = flags;
                (record.received, record.sent) = moved;
                record.upstream_local = upstream;
                record
            });
        };
    match dialled {
        Ok((mut upstream, config, guards)) => {
            let own = upstream.local();
            let mut pump = Pump::new(&local, &config, begin);
            pump.up.moved = early.len() as u64;
            pump.up.rest = early;
            let cluster = &guards.2.cluster;
            if let Some(told) = &mut told {
                told.connected(&trail, &upstream);
            }
            let end = poll_fn(|cx| {
                let end = pump.poll(&mut client, &mut upstream, &handle, cx);
                pump.count(&stats, &cluster.stats);
                if let Some(told) = &mut told {
                    told.poll((&client, &upstream), (pump.up.moved, pump.down.moved), cx);
                }
                end
            })
            .await;
            pump.forget(&stats);
            guards.2.by_peer.set(matches!(end, Ended::Done | Ended::Broken));
            let flags = if matches!(end, Ended::Old) { Flags::DurationTimeout } else { Flags::default() };
            note(None, flags, (pump.up.moved, pump.down.moved), own);
            if let Some(told) = &mut told {
                told.end((&client, Some(&upstream)), (pump.up.moved, pump.down.moved), flags, &trail);
            }
            match end {
                Ended::Idle => stats.idle_timeout.inc(),
                Ended::Old => stats.max_downstream_connection_duration.inc(),
                Ended::Done | Ended::Broken | Ended::Cut => {}
            }
        }
        Err(failure) => {
            stats.failure.inc(failure.reason);
            let mut flags = failure.reason.flags();
            if flags.meets(Flags::UpstreamConnectionFailure) {
                flags.add(Flags::UpstreamRetryLimitExceeded);
            }
            note(Some(failure.reason), flags, (0, 0), None);
            if let Some(told) = &mut told {
                told.end((&client, None), (0, 0), flags, &trail);
            }
            if failure.reason == Reason::UnknownCluster {
                stats.downstream_cx_no_route.inc();
            }
        }
    }
    stats.downstream_cx_active.dec();
    stats.downstream_cx_length_ms.record(begin.elapsed().as_millis() as u64);
    if let Some(record) = record {
        record.finish(&local, Some(&handle), trail.upstream());
    }
}

type Guards = (Option<crate::cluster::Permit>, crate::cluster::ActiveGuard, ConnGauge);

/// Picks a host and connects, as often as configured.
async fn dial(
    handle: &Handle,
    local: &Rc<Local>,
    trail: &mut Trail,
) -> Result<(Conn, TcpProxy, Guards), Failure> {
    let bound = handle.bound();
    let FilterSpec::Tcp { config, clusters } = &bound.chain.filter else {
        return Err(Failure::before(Reason::LocalReset));
    };
    let view = bound.pinned.clone().unwrap_or_else(|| local.view());
    let draw = clusters.draw(local.env.random.next()).ok_or(Failure::before(Reason::UnknownCluster))?;
    let steered = Steered::by(handle);
    let id = steered.cluster(&view).unwrap_or(Ok(draw.cluster)).map_err(Failure::before)?;
    let cluster = local.cluster(id, &view).map_err(Failure::before)?;
    let caller = Caller::of(handle);
    let original_dst = raw_destination(&view, &cluster, caller);
    drop(view);
    trail.enter(&cluster);
    let client = if config.hash_source_ip { caller.ip } else { None };
    let hash = client.map(|ip| xxh64(ip.to_string().as_bytes(), 0));
    let context = PickContext { hash, criteria: &draw.criteria, original_dst, ..PickContext::default() };
    let mut tries = Tries::default();
    loop {
        let state = cluster.state();
        let permit = state.spec.acquire(Level::Connections, Priority::Default);
        let permit = permit.map_err(|_full| {
            cluster.stats.upstream_cx_overflow.inc();
            Failure::before(Reason::OverflowConnections)
        })?;
        let host = tries.pick(&cluster, context)?;
        trail.reach(&host);
        let dialled = host.towards(&steered.variant, &cluster);
        let connected = connect(&dialled, &cluster, &state, &[]).await.map_err(Failure::before);
        let sign =
            connected.as_ref().map_or_else(|failure| sign_of(failure.reason), |_| Some(Sign::Connected));
        if let Some(sign) = sign {
            state.report(&host, sign);
        }
        match connected {
            Ok(io) => {
                if let Some((context, session)) = host.tls().zip(io.session()) {
                    handle.set_upstream(context.clone(), session.clone());
                }
                let config = steered.config(config);
                return Ok((io, config, (permit, host.enter(), ConnGauge::new(&cluster))));
            }
            Err(failure) if tries.made() >= config.max_connect_attempts => {
                cluster.stats.failure.inc(failure.reason);
                cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
                return Err(failure);
            }
            Err(_) => {}
        }
    }
}

/// Counts an upstream connection while it lives.
struct ConnGauge {
    cluster: Rc<Cluster>,
    begin: Instant,
    /// One of the two peers ended it.
    by_peer: Cell<bool>,
}

impl ConnGauge {
    fn new(cluster: &Rc<Cluster>) -> Self {
        cluster.stats.upstream_cx_total.inc();
        cluster.stats.upstream_cx_active.inc();
        ConnGauge { cluster: cluster.clone(), begin: Instant::now(), by_peer: Cell::new(false) }
    }
}

impl Drop for ConnGauge {
    fn drop(&mut self) {
        self.cluster.stats.closed(self.begin.elapsed(), self.by_peer.get(), false);
    }
}
