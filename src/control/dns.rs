//! Host names of STRICT_DNS and LOGICAL_DNS clusters.
//!
//! Each name is asked for again and again; what changed goes to the builder as a new set of hosts, so that
//! streams in flight notice nothing. A failure keeps the hosts there are.

mod resolver;

pub use resolver::{Answer, Looking, Lookup, Resolve, SystemResolver};

use super::Tools;
use crate::model::{Address, DnsFamily, DnsPace, Endpoint, Endpoints};
use crate::model::{Cluster, Discovery};
use crate::snapshot::builder::{Report, Watched};
use crate::stat_group;
use crate::telemetry::{Counter, Scope};
use crate::util::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Shortest time between two questions for one name, whatever the answer's time to live.
const SHORTEST: Duration = Duration::from_secs(1);

stat_group! {
    /// `cluster.<name>.`
    pub struct DnsStats {
        update_attempt: Counter,
        update_success: Counter,
        update_failure: Counter,
        update_no_rebuild: Counter,
        update_empty: Counter,
    }
}

/// What is known of one name.
#[derive(Default)]
struct Name {
    /// Ascending.
    addresses: Vec<IpAddr>,
    /// The one that counts where only one does.
    chosen: Option<IpAddr>,
    asked: bool,
    failures: u32,
    due: Option<Instant>,
}

/// Works until aborted.
pub(super) async fn run(mut current: watch::Receiver<Watched>, tools: Arc<Tools>) {
    let watched = current.borrow_and_update().clone();
    let id = watched.spec.id;
    let mut model = watched.spec.model.clone();
    drop(watched);
    let Discovery::Dns { endpoints, logical, refresh, family, pace } = &model.clone().discovery else {
        return;
    };
    let stat_name = model.alt_stat_name.as_deref().unwrap_or(&model.name);
    let stats = tools.registry.register(Scope::cluster(stat_name), DnsStats::default());
    let mut names: BTreeMap<String, Name> = BTreeMap::new();
    for endpoint in endpoints.iter() {
        if let Address::Name(name, _) = &endpoint.address {
            names.entry(name.clone()).or_default();
        }
    }
    let random = RandomHalf;
    let mut told: Option<Arc<Endpoints>> = None;
    loop {
        let now = Instant::now();
        let mut asking = JoinSet::new();
        for (name, _) in names.iter().filter(|(_, known)| known.due.is_none_or(|due| due <= now)) {
            stats.update_attempt.inc();
            let (tools, name, family) = (tools.clone(), name.clone(), *family);
            asking.spawn(async move {
                let outcome = tools.resolver.resolve(&name, family).await;
                (name, outcome)
            });
        }
        let asked = !asking.is_empty();
        while let Some(answered) = asking.join_next().await {
            let Ok((name, outcome)) = answered else { continue };
            let Some(known) = names.get_mut(&name) else { continue };
            let wait = known.learn(outcome, *refresh, *pace, &stats, &random);
            known.due = Instant::now().checked_add(wait);
        }
        let made = assemble(endpoints, &names, *logical);
        // A later version of the cluster with the same names asks for nothing, but wants to hear.
        let newest = current.borrow_and_update().spec.model.clone();
        let version = !Arc::ptr_eq(&newest, &model);
        model = newest;
        if told.as_deref() != Some(&made) || version {
            let endpoints = match &told {
                Some(told) if **told == made => told.clone(),
                _ => Arc::new(made),
            };
            told = Some(endpoints.clone());
            report(&tools, id, &model, endpoints);
        } else if asked {
            stats.update_no_rebuild.inc();
        }
        let due = names.values().filter_map(|known| known.due).min();
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            () = sleep_until(due) => {}
            changed = current.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

fn report(tools: &Tools, cluster: crate::model::ClusterId, model: &Arc<Cluster>, endpoints: Arc<Endpoints>) {
    let _ = tools.reports.send(Report::Resolved { cluster, model: model.clone(), endpoints });
}

/// [`Random`] is not for sharing, and tasks move between threads: each number has a generator of its own.
#[derive(Default)]
struct RandomHalf;

impl RandomHalf {
    /// Up to `limit`.
    fn up_to(&self, limit: Duration) -> Duration {
        limit.mul_f64(f64::from(Random::default().below(1 << 16)) / 65_536.0)
    }
}

impl Name {
    /// Takes in an answer; gives the time to the next question.
    fn learn(
        &mut self,
        outcome: Result<Answer, Lookup>,
        refresh: Duration,
        pace: DnsPace,
        stats: &DnsStats,
        random: &RandomHalf,
    ) -> Duration {
        let first = !std::mem::replace(&mut self.asked, true);
        let wait = match outcome {
            Ok(answer) => {
                stats.update_success.inc();
                self.failures = 0;
                let first_of_answer = answer.addresses.first().copied();
                self.addresses = answer.addresses;
                // A list that only turns around is no change, and a host that stays keeps its connections.
                self.addresses.sort_unstable();
                if !self.chosen.is_some_and(|chosen| self.addresses.contains(&chosen)) {
                    self.chosen = first_of_answer;
                }
                let wait = if pace.respect_ttl { answer.ttl.max(SHORTEST) } else { refresh };
                return wait.saturating_add(random.up_to(pace.jitter));
            }
            Err(Lookup::Empty) => {
                // The name exists without addresses: that is an answer.
                stats.update_empty.inc();
                self.addresses.clear();
                self.chosen = None;
                refresh
            }
            Err(Lookup::Failed(why)) => {
                stats.update_failure.inc();
                if first || self.failures == 0 {
                    tracing::warn!("dns: {why}");
                }
                match pace.failure {
                    Some((base, max)) => base.saturating_mul(1 << self.failures.min(16)).min(max.max(base)),
                    None => refresh,
                }
            }
        };
        self.failures = self.failures.saturating_add(1);
        wait.saturating_add(random.up_to(pace.jitter))
    }
}

/// The hosts that the names stand for now. What is no name stays as it is; addresses that two names share are
/// one host.
fn assemble(configured: &Endpoints, names: &BTreeMap<String, Name>, logical: bool) -> Endpoints {
    let mut made = configured.clone();
    let mut seen = BTreeSet::new();
    for locality in &mut made.localities {
        let of = std::mem::take(&mut locality.endpoints);
        for endpoint in of {
            let Address::Name(name, port) = &endpoint.address else {
                if seen.insert(endpoint.address.clone()) {
                    locality.endpoints.push(endpoint);
                }
                continue;
            };
            let Some(known) = names.get(name) else { continue };
            let taken = if logical { known.chosen.as_slice() } else { known.addresses.as_slice() };
            for ip in taken {
                let address = Address::Ip(SocketAddr::new(*ip, *port));
                if seen.insert(address.clone()) {
                    // Requests that take the host's name want the one that was asked for.
                    let hostname = match endpoint.hostname.as_str() {
                        "" => name.clone(),
                        given => given.to_owned(),
                    };
                    locality.endpoints.push(Endpoint { address, hostname, ..endpoint.clone() });
                }
            }
        }
    }
    made
}

/// Which of the two kinds of addresses count.
pub(super) fn choose(family: DnsFamily, v4: Vec<IpAddr>, v6: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut chosen = match family {
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::V4Preferred if v4.is_empty() => v6,
        DnsFamily::V4Preferred => v4,
        DnsFamily::Auto if v6.is_empty() => v4,
        DnsFamily::Auto => v6,
        DnsFamily::All => v6.into_iter().chain(v4).collect(),
    };
    let mut seen = BTreeSet::new();
    chosen.retain(|address| seen.insert(*address));
    chosen
}

#[cfg(test)]
mod tests;
