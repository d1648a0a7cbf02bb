//! Names under a paused clock.

use super::*;
use crate::cluster::{BreakerState, ClusterSpec};
use crate::model::ClusterId;
use crate::telemetry::Registry;
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::mpsc;

/// Answers in order; the last one for ever.
struct Script(Mutex<VecDeque<Result<Answer, Lookup>>>, Mutex<Vec<Instant>>);

impl Resolve for Script {
    fn resolve<'a>(&'a self, _: &'a str, _: DnsFamily) -> resolver::Looking<'a> {
        self.1.lock().unwrap().push(Instant::now());
        let mut left = self.0.lock().unwrap();
        let answer = if left.len() > 1 { left.pop_front() } else { left.front().cloned() };
        Box::pin(async move { answer.unwrap() })
    }
}

fn answer(ips: &[&str], ttl: u64) -> Result<Answer, Lookup> {
    let addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    Ok(Answer { addresses, ttl: Duration::from_secs(ttl) })
}

struct World {
    reports: mpsc::UnboundedReceiver<Report>,
    script: Arc<Script>,
    begin: Instant,
    _current: watch::Sender<Watched>,
    _task: super::super::Task,
}

fn start(logical: bool, pace: DnsPace, answers: Vec<Result<Answer, Lookup>>) -> World {
    let endpoints = Arc::new(Endpoints::of("c", [Address::Name("example.org".into(), 80)]));
    let refresh = Duration::from_secs(5);
    let discovery =
        Discovery::Dns { endpoints: endpoints.clone(), logical, refresh, family: DnsFamily::Auto, pace };
    let model = Arc::new(Cluster::new("c", discovery));
    let breakers = Arc::new(BreakerState::default());
    let spec = Arc::new(ClusterSpec {
        id: ClusterId(0),
        model,
        breakers,
        shared: Arc::default(),
        sockets: Default::default(),
    });
    let current = watch::Sender::new(Watched { spec, endpoints });
    let script = Arc::new(Script(Mutex::new(answers.into()), Mutex::default()));
    let (sender, reports) = mpsc::unbounded_channel();
    let tools = Tools { registry: Registry::new(), resolver: script.clone(), reports: sender };
    let task = super::super::Task::spawn(run(current.subscribe(), Arc::new(tools)));
    World { reports, script, begin: Instant::now(), _current: current, _task: task }
}

impl World {
    /// The next set of hosts, and when it came.
    async fn next(&mut self) -> (Vec<String>, u64) {
        let Some(Report::Resolved { endpoints, .. }) = self.reports.recv().await else { panic!() };
        let hosts = endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        (hosts, self.begin.elapsed().as_secs())
    }

    fn asked(&self) -> Vec<u64> {
        self.script.1.lock().unwrap().iter().map(|at| at.duration_since(self.begin).as_secs()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_and_failures_keep_hosts() {
    let failed = || Err(Lookup::Failed("down".into()));
    let answers = vec![
        answer(&["10.0.0.1"], 60),
        failed(),
        answer(&["10.0.0.1"], 60),
        answer(&["10.0.0.2", "10.0.0.3"], 60),
    ];
    let mut world = start(false, DnsPace::default(), answers);
    assert_eq!(world.next().await, (vec!["10.0.0.1:80".into()], 0));
    assert_eq!(world.next().await, (vec!["10.0.0.2:80".into(), "10.0.0.3:80".into()], 15));
    assert_eq!(world.asked(), [0, 5, 10, 15]);
}

#[tokio::test(start_paused = true)]
async fn a_first_failure_is_an_answer_without_hosts() {
    let failed = || Err(Lookup::Failed("down".into()));
    let pace =
        DnsPace { failure: Some((Duration::from_secs(1), Duration::from_secs(3))), ..DnsPace::default() };
    let mut world = start(false, pace, vec![failed(), failed(), failed(), failed(), answer(&["::1"], 1)]);
    assert_eq!(world.next().await, (vec![], 0));
    assert_eq!(world.next().await, (vec!["[::1]:80".into()], 9));
    assert_eq!(world.asked(), [0, 1, 3, 6, 9]);
}

#[tokio::test(start_paused = true)]
async fn time_to_live_counts_where_asked_for_and_logical_keeps_one() {
    let pace = DnsPace { respect_ttl: true, ..DnsPace::default() };
    let mut world = start(
        true,
        pace,
        vec![answer(&["10.0.0.1", "10.0.0.2"], 30), answer(&["10.0.0.2"], 0), answer(&["10.0.0.9"], 7)],
    );
    assert_eq!(world.next().await, (vec!["10.0.0.1:80".into()], 0));
    assert_eq!(world.next().await, (vec!["10.0.0.2:80".into()], 30));
    assert_eq!(world.next().await, (vec!["10.0.0.9:80".into()], 31));
}
