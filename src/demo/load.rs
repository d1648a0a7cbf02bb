//! The client: a steady load, and long calls that are in flight while something changes.
//!
//! Owns the callers and their count. A call counts as failed when it was sent and no successful answer came,
//! or when it was due and no connection could be had for [`PATIENCE`]. A connection refused while another one
//! still serves, or within that time, is no failed call: it is counted as `refused`, and the time it took is
//! part of the next call's.

use crate::protocol::bolt::Status;
use crate::protocol::rpc::Frame;
use crate::sample::{CallError, Client, DELAY_KEY, SERVER_KEY};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// Connections with a steady load, and the pause between the calls of each.
const CALLERS: u64 = 8;
const PACE: Duration = Duration::from_millis(10);
/// Calls in flight at every change.
pub const LONG_CALLS: usize = 24;
/// How long a caller tries to connect before its call counts as failed.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);
/// Limit of one call.
const LIMIT: Duration = Duration::from_secs(5);
/// Header that the demo's routes may add; the server's echo shows it.
pub const CHAIN_KEY: &str = "demo_chain";
/// Failures kept word for word.
const EXAMPLES: usize = 5;

/// What an answer shows.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Name of the server that gave it.
    pub server: String,
    /// Value of [`CHAIN_KEY`].
    pub chain: Option<String>,
    /// When its connection was made.
    pub connected: Instant,
}

/// Counts of the steady load.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub sent: u64,
    pub failed: u64,
    /// Connections refused and tried again.
    pub refused: u64,
    /// Connections made.
    pub connects: u64,
    /// Microseconds of each answered call.
    pub times: Vec<u32>,
    /// The first failures.
    pub examples: Vec<String>,
}

impl Tally {
    /// The time below which this share (0–1) of the calls stayed, in milliseconds.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let mut times = self.times.clone();
        let last = times.len().checked_sub(1)?;
        let at = (last as f64 * share).round() as usize;
        let (_, value, _) = times.select_nth_unstable(at.min(last));
        Some(f64::from(*value) / 1e3)
    }
}

/// Shared by the callers and whoever looks at them.
pub struct Board {
    tally: Mutex<Tally>,
    latest: watch::Sender<Option<Answer>>,
}

impl Board {
    /// The counts since the last [`take`](Self::take).
    pub fn tally(&self) -> Tally {
        self.lock().clone()
    }

    /// The counts; they start again from nothing.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut *self.lock())
    }

    /// Waits for an answer that shows what is looked for. `false` when none did in time.
    pub async fn wait(&self, limit: Duration, shows: impl Fn(&Answer) -> bool) -> bool {
        let mut latest = self.latest.subscribe();
        let seen = latest.wait_for(|answer| answer.as_ref().is_some_and(&shows));
        timeout(limit, seen).await.is_ok_and(|seen| seen.is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, why: String) {
        let mut tally = self.lock();
        tally.failed += 1;
        if tally.examples.len() < EXAMPLES {
            tally.examples.push(why);
        }
    }
}

/// The steady load. Dropping it ends it.
pub struct Load {
    pub board: Arc<Board>,
    _callers: JoinSet<()>,
}

impl Load {
    /// Starts the callers.
    pub fn start(port: u16) -> Self {
        let board = Arc::new(Board { tally: Mutex::default(), latest: watch::Sender::new(None) });
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let caller = Caller { address: format!("127.0.0.1:{port}"), board: board.clone(), link: None };
            callers.spawn(async move {
                // Spread over the pace, so that calls do not come in bursts.
                sleep(PACE.mul_f64(number as f64 / CALLERS as f64)).await;
                caller.run().await;
            });
        }
        Load { board, _callers: callers }
    }
}

struct Caller {
    address: String,
    board: Arc<Board>,
    link: Option<(Client, Instant)>,
}

impl Caller {
    async fn run(mut self) {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let began = pace.tick().await;
            let Some((mut client, connected)) = self.connection().await else {
                self.board.lock().sent += 1;
                self.board.failed(format!("no connection for {PATIENCE:?}"));
                continue;
            };
            self.board.lock().sent += 1;
            match succeed(client.call(&[("service", "demo")], b"steady", LIMIT).await) {
                Ok(answer) => {
                    let micros = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
                    self.board.lock().times.push(micros);
                    self.board.latest.send_replace(Some(shown(&answer, connected)));
                    self.link = Some((client, connected));
                }
                Err(error) => self.board.failed(error.to_string()),
            }
        }
    }

    /// A connection to call on: the one held, unless there is none or its peer wants to be left. Then a new
    /// one, and the old one serves on until that is made.
    async fn connection(&mut self) -> Option<(Client, Instant)> {
        let held = self.link.take();
        if held.as_ref().is_some_and(|(client, _)| !client.is_told_to_leave()) {
            return held;
        }
        let end = Instant::now() + PATIENCE;
        loop {
            match Client::connect(&self.address).await {
                Ok(client) => {
                    self.board.lock().connects += 1;
                    return Some((client, Instant::now()));
                }
                Err(_) => self.board.lock().refused += 1,
            }
            if held.is_some() {
                return held;
            }
            if Instant::now() > end {
                return None;
            }
            sleep(RETRY).await;
        }
    }
}

fn succeed(called: Result<Frame, CallError>) -> Result<Frame, CallError> {
    let answer = called?;
    match answer.status() {
        code if code == Status::Success.code() => Ok(answer),
        code => Err(CallError::Status(code)),
    }
}

fn header(answer: &Frame, key: &str) -> Option<String> {
    answer.header(key.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
}

fn shown(answer: &Frame, connected: Instant) -> Answer {
    let server = header(answer, SERVER_KEY).unwrap_or_default();
    Answer { server, chain: header(answer, CHAIN_KEY), connected }
}

/// Connections for long calls, one call on each. They are kept from one change to the next.
pub struct LongCalls {
    address: String,
    links: Vec<Client>,
}

impl LongCalls {
    /// None yet.
    pub fn new(port: u16) -> Self {
        LongCalls { address: format!("127.0.0.1:{port}"), links: Vec::new() }
    }

    /// Sends [`LONG_CALLS`] calls whose answers come after `hold` at the earliest.
    ///
    /// # Errors
    /// No connection.
    pub async fn start(&mut self, hold: Duration) -> Result<Flight, CallError> {
        let mut calls = JoinSet::new();
        self.links.retain(|link| !link.is_told_to_leave());
        for number in 0..LONG_CALLS {
            let mut link = match self.links.pop() {
                Some(link) => link,
                None => Client::connect(&self.address).await?,
            };
            // A call at a time comes to its end, not all at once.
            let delay = (hold + PACE * u32::try_from(number).unwrap_or(0)).as_millis().to_string();
            calls.spawn(async move {
                let headers = [("service", "demo"), (DELAY_KEY, delay.as_str())];
                let called = succeed(link.call(&headers, b"long", hold + LIMIT).await);
                called.map(|answer| (link, header(&answer, SERVER_KEY).unwrap_or_default()))
            });
        }
        Ok(Flight { calls })
    }
}

/// Long calls under way.
pub struct Flight {
    calls: JoinSet<Result<(Client, String), CallError>>,
}

/// How they ended.
#[derive(Clone, Debug, Default)]
pub struct Landed {
    /// Calls with a successful answer.
    pub kept: usize,
    /// By server, how many answered.
    pub servers: BTreeMap<String, usize>,
    /// Why others failed.
    pub lost: Vec<String>,
}

impl Flight {
    /// Waits for the last answer.
    pub async fn land(mut self, links: &mut LongCalls) -> Landed {
        let mut landed = Landed::default();
        while let Some(ended) = self.calls.join_next().await {
            match ended {
                Ok(Ok((link, server))) => {
                    landed.kept += 1;
                    *landed.servers.entry(server).or_default() += 1;
                    links.links.push(link);
                }
                Ok(Err(error)) => landed.lost.push(error.to_string()),
                Err(error) => landed.lost.push(error.to_string()),
            }
        }
        landed
    }
}
