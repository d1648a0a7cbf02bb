//! Active health checks of one cluster.
//!
//! One task per host asks the host; what it finds out goes into the host's shared bits. The first round is
//! reported to the builder, which lets the cluster serve then.

mod judge;
mod probe;
mod session;
#[cfg(test)]
mod tests;

use super::{Task, Tools};
use crate::cluster::{
    ACTIVE_TIMEOUT, ClusterSpec, DEGRADED_ACTIVE, EXCLUDED_IMMEDIATE, FAILED_ACTIVE, FAILED_OUTLIER,
    HostState, PENDING_ACTIVE,
};
use crate::model::{Address, Check, CheckTarget, Endpoint, HealthCheck};
use crate::snapshot::builder::{Report, Watched};
use crate::stat_group;
use crate::telemetry::{Gauge, Registration, Scope, SharedCounter};
use crate::tls::Wish;
use crate::util::random::Random;
use judge::{Judge, Pace, Verdict};
use probe::{Finding, Secure, Target};
use session::Session;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

stat_group! {
    /// `cluster.<name>.health_check.`
    pub struct HealthStats {
        attempt: SharedCounter = "health_check.attempt",
        success: SharedCounter = "health_check.success",
        failure: SharedCounter = "health_check.failure",
        passive_failure: SharedCounter = "health_check.passive_failure",
        network_failure: SharedCounter = "health_check.network_failure",
        verify_cluster: SharedCounter = "health_check.verify_cluster",
        healthy: Gauge = "health_check.healthy",
        degraded: Gauge = "health_check.degraded",
    }
}

/// What all hosts of a cluster share.
struct Ctx {
    check: Arc<HealthCheck>,
    current: watch::Receiver<Watched>,
    stats: Arc<Registration<HealthStats>>,
    /// Told after each check.
    checked: mpsc::UnboundedSender<()>,
}

/// A host under check.
struct Checked {
    state: Arc<HostState>,
    target: Target,
    _task: Task,
}

/// Works until aborted.
pub(super) async fn run(mut current: watch::Receiver<Watched>, tools: Arc<Tools>) {
    let watched = current.borrow_and_update().clone();
    let model = &watched.spec.model;
    let Some(check) = model.health_checks.first().cloned() else { return };
    let name = model.alt_stat_name.as_deref().unwrap_or(&model.name);
    let stats = Arc::new(tools.registry.register(Scope::cluster(name), HealthStats::default()));
    let (checked, mut rounds) = mpsc::unbounded_channel();
    let ctx = Arc::new(Ctx { check, current: current.clone(), stats, checked });
    let mut hosts: HashMap<Address, Checked> = HashMap::new();
    let mut reported = false;
    follow(&ctx, &mut hosts, &watched);
    drop(watched);
    loop {
        let flags = |mask| hosts.values().filter(|host| host.state.flags() & mask != 0).count() as i64;
        ctx.stats.healthy.set(hosts.len() as i64 - flags(FAILED_ACTIVE | PENDING_ACTIVE));
        ctx.stats.degraded.set(flags(DEGRADED_ACTIVE));
        if !reported && flags(PENDING_ACTIVE) == 0 {
            reported = true;
            let (cluster, model) = {
                let watched = current.borrow();
                (watched.spec.id, watched.spec.model.clone())
            };
            let _ = tools.reports.send(Report::Checked { cluster, model });
        }
        tokio::select! {
            changed = current.changed() => {
                if changed.is_err() {
                    return;
                }
                let watched = current.borrow_and_update().clone();
                follow(&ctx, &mut hosts, &watched);
            }
            Some(()) = rounds.recv() => {}
        }
    }
}

/// The cluster is not checked any more: no host may stay failed for it.
pub(super) fn forget(watched: &Watched) {
    let shared = &watched.spec.shared;
    for endpoint in watched.endpoints.iter() {
        if let Some(state) = shared.host(&endpoint.address) {
            state.update(
                0,
                FAILED_ACTIVE | PENDING_ACTIVE | DEGRADED_ACTIVE | ACTIVE_TIMEOUT | EXCLUDED_IMMEDIATE,
            );
        }
    }
    shared.changed();
}

/// Begins to check new hosts and leaves off those that are gone. Hosts that stay go on as they are.
fn follow(ctx: &Arc<Ctx>, hosts: &mut HashMap<Address, Checked>, watched: &Watched) {
    let spec = &watched.spec;
    let wanted: Vec<&Endpoint> =
        watched.endpoints.iter().filter(|endpoint| spec.first_flags(endpoint) != 0).collect();
    let addresses: Vec<_> = wanted.iter().map(|e| (&e.address, spec.first_flags(e))).collect();
    let states = spec.shared.hosts(&addresses);
    let mut old = std::mem::take(hosts);
    for (endpoint, state) in wanted.into_iter().zip(states) {
        let target = Target::of(endpoint, &ctx.check, spec);
        let held = old.remove(&endpoint.address);
        let held = held.filter(|held| Arc::ptr_eq(&held.state, &state) && held.target == target);
        hosts.entry(endpoint.address.clone()).or_insert_with(|| {
            held.unwrap_or_else(|| {
                if state.flags() & FAILED_ACTIVE == 0 && !state.is_checked() {
                    // It served unchecked until now: it goes on until the first check says otherwise.
                    state.update(PENDING_ACTIVE, 0);
                }
                let task = Task::spawn(check_host(
                    ctx.clone(),
                    endpoint.address.clone(),
                    target.clone(),
                    state.clone(),
                ));
                Checked { state, target, _task: task }
            })
        });
    }
}

fn random_part(limit: Duration) -> Duration {
    limit.mul_f64(f64::from(Random::default().below(1 << 16)) / 65_536.0)
}

/// Checks one host for ever.
async fn check_host(ctx: Arc<Ctx>, address: Address, target: Target, state: Arc<HostState>) {
    let check = &ctx.check;
    sleep(random_part(check.initial_jitter)).await;
    let mut judge = Judge::new(check.healthy_threshold, check.unhealthy_threshold);
    let mut session = Session::default();
    loop {
        ctx.stats.attempt.inc();
        let finding = match timeout(check.timeout, probe::ask(check, &target, &mut session)).await {
            Ok(finding) => finding,
            Err(_late) => Finding::Late,
        };
        if !check.reuse_connection || !finding.passed() {
            session = Session::default();
        }
        let failed = state.flags() & FAILED_ACTIVE != 0;
        let first = state.flags() & PENDING_ACTIVE != 0;
        let verdict = judge.judge(finding, failed, first);
        apply(&ctx, &address, &state, finding, verdict, first);
        let wait = interval(&ctx, &state, verdict.pace);
        sleep(wait).await;
    }
}

/// Writes a verdict down where the workers see it.
fn apply(ctx: &Ctx, address: &Address, state: &HostState, finding: Finding, verdict: Verdict, first: bool) {
    let (spec, shared) = {
        let watched = ctx.current.borrow();
        (watched.spec.clone(), watched.spec.shared.clone())
    };
    let stats = &ctx.stats;
    let (mut set, mut clear) = (0, PENDING_ACTIVE);
    let mut bit = |mask: u32, on: bool| if on { set |= mask } else { clear |= mask };
    bit(FAILED_ACTIVE, verdict.failed);
    bit(ACTIVE_TIMEOUT, verdict.failed && finding == Finding::Late);
    if finding.passed() {
        stats.success.inc();
        bit(DEGRADED_ACTIVE, finding == Finding::Degraded);
        bit(EXCLUDED_IMMEDIATE, false);
        let unejects = spec.model.outlier.as_ref().is_some_and(|config| config.check_unejects);
        bit(FAILED_OUTLIER, (!unejects || verdict.failed) && state.flags() & FAILED_OUTLIER != 0);
    } else {
        stats.failure.inc();
        if finding.is_network() {
            stats.network_failure.inc();
        }
    }
    if verdict.turned && !verdict.failed {
        state.begin(shared.now_ms());
    }
    let changed = state.update(set, clear);
    state.set_checked();
    if changed {
        shared.changed();
    }
    let name = &spec.model.name;
    let kind = ctx.check.check.word();
    if verdict.turned && verdict.failed {
        tracing::info!(
            "health check: cluster={name} host={address} type={kind} event=eject_unhealthy failure={} first_check={first}",
            finding.word()
        );
    } else if verdict.turned {
        tracing::info!(
            "health check: cluster={name} host={address} type={kind} event=add_healthy first_check={first}"
        );
    } else if ctx.check.log_failures && !finding.passed() {
        tracing::info!(
            "health check: cluster={name} host={address} type={kind} event=failure failure={}",
            finding.word()
        );
    } else if ctx.check.log_success && finding.passed() {
        tracing::info!("health check: cluster={name} host={address} type={kind} event=success");
    }
    let _ = ctx.checked.send(());
}

/// Time to the next check.
fn interval(ctx: &Ctx, state: &HostState, pace: Pace) -> Duration {
    let check = &ctx.check;
    let healthy = state.flags() & (FAILED_ACTIVE | FAILED_OUTLIER) == 0;
    let base = if !ctx.current.borrow().spec.shared.is_used() {
        if healthy { check.no_traffic_healthy_interval } else { check.no_traffic_interval }
    } else {
        match pace {
            Pace::Healthy => check.interval,
            Pace::TurningHealthy => check.healthy_edge_interval,
            Pace::Unhealthy => check.unhealthy_interval,
            Pace::TurningUnhealthy => check.unhealthy_edge_interval,
        }
    };
    let percent = base.mul_f64(f64::from(check.interval_jitter_percent) / 100.0);
    let wait = base.saturating_add(random_part(percent)).saturating_add(random_part(check.interval_jitter));
    wait.max(check.least_interval).min(check.most_interval)
}

impl Target {
    /// Where `endpoint` is asked.
    fn of(endpoint: &Endpoint, check: &HealthCheck, spec: &ClusterSpec) -> Target {
        let none = CheckTarget::default();
        let special = endpoint.check.as_deref().unwrap_or(&none);
        let base = special.address.as_ref().unwrap_or(&endpoint.address);
        let port = match special.port {
            0 => check.alt_port,
            port => Some(port),
        };
        let address = match (base, port) {
            (Address::Ip(ip), Some(port)) => Address::Ip((ip.ip(), port).into()),
            (Address::Name(name, _), Some(port)) => Address::Name(name.clone(), port),
            _ => base.clone(),
        };
        let own = match &check.check {
            Check::Http(http) => &http.host,
            Check::Grpc { authority, .. } => authority,
            Check::Tcp { .. } | Check::Bolt => &special.hostname,
        };
        let named = [&special.hostname, own].into_iter().find(|name| !name.is_empty());
        let secure = spec.sockets.of(endpoint).map(|context| {
            let tls = context.model();
            let named = tls.host_sni && !endpoint.hostname.is_empty();
            let wish = Wish {
                alpn: check.alpn.clone(),
                sni: named.then(|| endpoint.hostname.as_str().into()),
                check_name: tls.check_sni,
                ..Wish::default()
            };
            Secure { context: context.clone(), wish }
        });
        let host = named.map_or(spec.model.name.as_str(), String::as_str).to_owned();
        Target { address, host, secure }
    }
}
