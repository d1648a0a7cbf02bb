//! Everything the script acts on: servers, sidecars, control plane, client, and the books.
//!
//! Owns setting it up, and the frame around each change: long calls before it, its effect, their end after it.

use super::control_plane::{ControlPlane, Nack};
use super::load::{Answer, Flight, LONG_CALLS, Load, LongCalls};
use super::processes::{Scratch, Sidecar, free_ports};
use super::resources::{Resources, RpcListener, cluster, endpoints, rds, routes};
use super::table::{Row, Table};
use crate::sample;
use anyhow::{Context, bail};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// What the sidecars speak to each other.
pub const HOP: &str = "http2";
/// Node ids of the two sidecars.
pub const CLIENT: &str = "client";
pub const SERVER: &str = "server";
/// Names of the sample servers; `v2-b` is another instance of v2.
pub const SERVERS: [&str; 3] = ["v1", "v2", "v2-b"];
/// How long a change may take to show.
pub const EFFECT: Duration = Duration::from_secs(6);
/// Head start of the long calls: after it they have reached their server.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long the earliest of them is held by the server.
const HELD: Duration = Duration::from_millis(900);

/// See the module.
pub struct Stage {
    pub plane: ControlPlane,
    pub client: Sidecar,
    pub server: Sidecar,
    pub load: Load,
    /// What each sidecar is served, as last published.
    pub client_resources: Resources,
    pub server_resources: Resources,
    /// Ports of [`SERVERS`].
    pub ports: [u16; 3],
    /// The server that answers now.
    pub current: &'static str,
    long: LongCalls,
    broken: Vec<String>,
    sent: u64,
    refused: u64,
    kept: usize,
    /// The tasks of the sample servers.
    _servers: JoinSet<()>,
    // Last, so that it is removed when the children are gone.
    _scratch: Scratch,
}

/// A change under way.
pub struct Change {
    name: &'static str,
    began: Instant,
    flight: Flight,
    from: &'static str,
}

impl Stage {
    /// Brings everything up and waits for the first answer through both sidecars.
    ///
    /// # Errors
    /// Something did not come up.
    pub async fn set(table: &mut Table) -> anyhow::Result<Stage> {
        let scratch = Scratch::new()?;
        let mut servers = JoinSet::new();
        let mut ports = [0; 3];
        for (name, port) in SERVERS.into_iter().zip(&mut ports) {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("sample server")?;
            *port = listener.local_addr()?.port();
            let settings = sample::Settings { name: name.to_owned(), delay: Duration::ZERO };
            servers.spawn(sample::serve(listener, settings));
        }
        let [first, second, first_admin, second_admin] = free_ports()?;
        let plane = ControlPlane::start(SocketAddr::from(([127, 0, 0, 1], 0))).context("control plane")?;
        let client_resources = Resources::default().with(&client_side(first, second))?;
        let server_resources = Resources::default().with(&server_side(second, &ports))?;
        plane.publish(CLIENT, client_resources.clone());
        plane.publish(SERVER, server_resources.clone());
        let target = plane.address().port();
        let stage = Stage {
            server: Sidecar::start(&scratch, SERVER, second, second_admin, target)?,
            client: Sidecar::start(&scratch, CLIENT, first, first_admin, target)?,
            load: Load::start(first),
            long: LongCalls::new(first),
            plane,
            client_resources,
            server_resources,
            ports,
            current: "v1",
            broken: Vec::new(),
            sent: 0,
            refused: 0,
            kept: 0,
            _servers: servers,
            _scratch: scratch,
        };
        table.note(&stage.picture());
        stage.rehearse().await?;
        Ok(stage)
    }

    /// Calls made while the sidecars start are no part of the show.
    async fn rehearse(&self) -> anyhow::Result<()> {
        let up = self.load.board.wait(Duration::from_secs(15), |answer| answer.server == "v1").await;
        if !up {
            let tally = self.load.board.take();
            bail!("no answer through the sidecars; {}; {}", tally.examples.join("; "), self.logs());
        }
        // Callers that failed before have connected by now.
        sleep(HEAD_START).await;
        self.load.board.take();
        Ok(())
    }

    fn picture(&self) -> String {
        let servers: Vec<_> =
            SERVERS.iter().zip(self.ports).map(|(name, port)| format!("{name} {port}")).collect();
        format!(
            "client -bolt-> sidecar `client` {} -{HOP}-> sidecar `server` {} -bolt-> sample servers {}\n\
             both sidecars have everything from the control plane on {} (delta ADS)\n",
            self.client.port,
            self.server.port,
            servers.join(", "),
            self.plane.address().port(),
        )
    }

    /// Sends the long calls; then it is the moment to change something.
    ///
    /// # Errors
    /// The long calls have no connection.
    pub async fn begin(&mut self, name: &'static str, table: &mut Table) -> anyhow::Result<Change> {
        table.watch(name, &self.load.board);
        let flight = self.long.start(HEAD_START + HELD).await.context("long calls")?;
        sleep(HEAD_START).await;
        Ok(Change { name, began: Instant::now(), flight, from: self.current })
    }

    /// Waits until the sidecar has answered a publication and the client sees its effect. Gives milliseconds
    /// since the change began.
    pub async fn applied(
        &mut self,
        change: &Change,
        node: &str,
        version: u64,
        shows: impl Fn(&Answer) -> bool,
    ) -> Option<f64> {
        let answered = self.answered(node, version, EFFECT).await;
        let shown = self.load.board.wait(EFFECT, shows).await;
        let took = change.began.elapsed().as_secs_f64() * 1e3;
        if !answered {
            self.broke(format!("{}: sidecar `{node}` did not answer the push", change.name));
        }
        if !shown {
            self.broke(format!("{}: no answer shows its effect", change.name));
        }
        (answered && shown).then_some(took)
    }

    /// Waits until a sidecar has answered everything up to a publication; `false` when it has not in time.
    pub async fn answered(&self, node: &str, version: u64, limit: Duration) -> bool {
        let mut ledger = self.plane.ledger();
        let answered =
            ledger.wait_for(|all| all.get(node).is_some_and(|standing| standing.has_answered(version)));
        tokio::time::timeout(limit, answered).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Waits for the long calls and writes the row.
    pub async fn end(&mut self, change: Change, applied: Option<f64>, shown: &str, table: &mut Table) {
        let landed = change.flight.land(&mut self.long).await;
        let tally = self.load.board.take();
        let total = landed.kept + landed.lost.len();
        for why in landed.lost.iter().take(3) {
            self.broke(format!("{}: a call in flight was lost: {why}", change.name));
        }
        if landed.servers.keys().any(|server| server != change.from) {
            let answered = &landed.servers;
            self.broke(format!(
                "{}: calls in flight at {} were answered by {answered:?}",
                change.name, change.from
            ));
        }
        if total != LONG_CALLS {
            self.broke(format!("{}: {total} calls in flight ended, not {LONG_CALLS}", change.name));
        }
        for why in &tally.examples {
            self.broke(format!("{}: a call failed: {why}", change.name));
        }
        self.sent += tally.sent + total as u64;
        self.kept += landed.kept;
        self.refused += tally.refused;
        let mut shown = shown.to_owned();
        if tally.refused > 0 {
            shown.push_str(&format!("; {} connects refused and retried", tally.refused));
        }
        table.row(&Row {
            push: change.name.to_owned(),
            applied,
            sent: tally.sent,
            failed: tally.failed,
            kept: (landed.kept, total),
            p50: tally.quantile(0.5),
            p99: tally.quantile(0.99),
            shown,
        });
        for sidecar in [&mut self.client, &mut self.server] {
            if let Some(status) = sidecar.process().ended() {
                let node = sidecar.node;
                self.broken.push(format!("sidecar `{node}` ended by itself: {status}"));
            }
        }
    }

    /// Refusals of a sidecar so far.
    pub fn nacks(&self, node: &str) -> Vec<Nack> {
        self.plane.ledger().borrow().get(node).map(|standing| standing.nacks.clone()).unwrap_or_default()
    }

    /// Something is not as it should be.
    pub fn broke(&mut self, what: String) {
        self.broken.push(what);
    }

    /// The last lines of both logs.
    fn logs(&self) -> String {
        let of = |sidecar: &Sidecar| format!("log of `{}`:\n{}", sidecar.node, sidecar.log(8).join("\n"));
        format!("{}\n{}", of(&self.client), of(&self.server))
    }

    /// The last line. Whether nothing broke.
    pub fn sum_up(&mut self, table: &mut Table, took: Duration) -> bool {
        let good = self.broken.is_empty();
        if good {
            let (sent, kept, refused) = (self.sent, self.kept, self.refused);
            let text = format!(
                "nothing broke: {sent} calls, 0 failed, {kept} of them in flight across a change, all kept; \
                 {refused} connects refused and retried; {:.1} s",
                took.as_secs_f64()
            );
            table.verdict(true, &text);
        } else {
            table.verdict(false, "broken:");
            for what in &self.broken {
                table.note(&format!("  {what}"));
            }
            table.note(&self.logs());
        }
        good
    }
}

/// What the first sidecar starts with: bolt in, over the hop to the second.
fn client_side(port: u16, next: u16) -> [Value; 4] {
    let listener = RpcListener {
        name: "calls",
        port,
        chain: "first",
        downstream: "bolt",
        upstream: HOP,
        routes: rds("calls"),
    };
    [
        cluster("server-sidecar", HOP == "http2"),
        endpoints("server-sidecar", next),
        listener.json(),
        routes("calls", "server-sidecar"),
    ]
}

/// What the second sidecar starts with: from the hop to the sample server v1, and v2 known.
fn server_side(port: u16, servers: &[u16; 3]) -> [Value; 6] {
    let [v1, v2, _] = *servers;
    let listener = RpcListener {
        name: "service",
        port,
        chain: "first",
        downstream: HOP,
        upstream: "bolt",
        routes: rds("service"),
    };
    [
        cluster("echo-v1", false),
        endpoints("echo-v1", v1),
        cluster("echo-v2", false),
        endpoints("echo-v2", v2),
        listener.json(),
        routes("service", "echo-v1"),
    ]
}
