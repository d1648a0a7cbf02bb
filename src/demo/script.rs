//! The changes, one by one, and what each has to show.

use super::load::CHAIN_KEY;
use super::resources::{RpcListener, bad_cluster, cluster, endpoints, inline, routes};
use super::stage::{CLIENT, HOP, SERVER, Stage};
use super::table::Table;
use crate::xds::types::ResourceType;
use anyhow::Context;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};

/// How long the load goes on without a control plane before anything else happens.
const ALONE: Duration = Duration::from_secs(1);
/// How long after a push its snapshot may take to be on disk.
const SAVED: Duration = Duration::from_secs(10);
/// How long a sidecar that was told to leave may take once its last call has ended.
const LEFT: Duration = Duration::from_secs(6);
/// How long a sidecar may take to find the control plane again: its pauses have doubled meanwhile.
const RECONNECT: Duration = Duration::from_secs(12);
/// Name of the cluster that is wrong.
const BAD: &str = "echo-broken";

/// Plays it.
///
/// # Errors
/// What stands in the way of the next change; smaller things are noted on the stage.
pub async fn play(stage: &mut Stage, table: &mut Table) -> anyhow::Result<()> {
    table.head();
    switch_route(stage, table).await?;
    swap_endpoint(stage, table).await?;
    let last_push = change_chain(stage, table).await?;
    push_bad_cluster(stage, table).await?;
    kill_control_plane(stage, table).await?;
    restart_sidecar(stage, table, last_push).await?;
    revive_control_plane(stage, table).await
}

async fn switch_route(stage: &mut Stage, table: &mut Table) -> anyhow::Result<()> {
    let change = stage.begin("route v1 -> v2", table).await?;
    stage.server_resources.set(&routes("service", "echo-v2"))?;
    let version = stage.plane.publish(SERVER, stage.server_resources.clone());
    let applied = stage.applied(&change, SERVER, version, |answer| answer.server == "v2").await;
    stage.current = "v2";
    stage.end(change, applied, "first answer by v2", table).await;
    Ok(())
}

async fn swap_endpoint(stage: &mut Stage, table: &mut Table) -> anyhow::Result<()> {
    let change = stage.begin("endpoint of v2 swapped for v2-b", table).await?;
    let [_, _, other] = stage.ports;
    stage.server_resources.set(&endpoints("echo-v2", other))?;
    let version = stage.plane.publish(SERVER, stage.server_resources.clone());
    let applied = stage.applied(&change, SERVER, version, |answer| answer.server == "v2-b").await;
    stage.current = "v2-b";
    stage.end(change, applied, "first answer by v2-b", table).await;
    Ok(())
}

/// The client's listener gets another chain, whose routes add a header. It has to show on connections that
/// were open before: none may be closed for it. Gives the time of the push, the last one to that sidecar.
async fn change_chain(stage: &mut Stage, table: &mut Table) -> anyhow::Result<SystemTime> {
    let change = stage.begin("new filter chain (adds a header)", table).await?;
    let before = Instant::now();
    let listener = RpcListener {
        name: "calls",
        port: stage.client.port,
        chain: "second",
        downstream: "bolt",
        upstream: HOP,
        routes: inline("calls-2", "server-sidecar", (CHAIN_KEY, "second")),
    };
    stage.client_resources.set(&listener.json())?;
    let pushed = SystemTime::now();
    let version = stage.plane.publish(CLIENT, stage.client_resources.clone());
    let shows =
        |answer: &super::load::Answer| answer.chain.as_deref() == Some("second") && answer.connected < before;
    let applied = stage.applied(&change, CLIENT, version, shows).await;
    stage.end(change, applied, "the header, on an open connection", table).await;
    Ok(pushed)
}

/// A good cluster, a broken one and a route to the good one, in one push. The good ones apply; the refusal
/// names the bad one only.
async fn push_bad_cluster(stage: &mut Stage, table: &mut Table) -> anyhow::Result<()> {
    let change = stage.begin("a bad cluster among good ones", table).await?;
    let known = stage.nacks(SERVER).len();
    let [v1, ..] = stage.ports;
    // Kept apart: what is pushed later is without the bad one.
    let good = stage.server_resources.clone().with(&[
        cluster("echo-again", false),
        endpoints("echo-again", v1),
        routes("service", "echo-again"),
    ])?;
    stage.server_resources = good.clone();
    let version = stage.plane.publish(SERVER, good.with(&[bad_cluster(BAD)])?);
    let applied = stage.applied(&change, SERVER, version, |answer| answer.server == "v1").await;
    stage.current = "v1";
    stage.end(change, applied, "first answer by the good cluster", table).await;
    let nacks = stage.nacks(SERVER).split_off(known);
    table.note("  NACK as the control plane received it:");
    for nack in &nacks {
        for line in nack.text.lines() {
            table.note(&format!("    {}: {line}", nack.kind.label()));
        }
    }
    let named = |text: &str| text.contains(BAD) && !text.contains("echo-again");
    let fits = nacks.iter().any(|nack| nack.kind == ResourceType::Cluster && named(&nack.text));
    if !fits || nacks.len() != 1 {
        stage.broke(format!("expected one NACK that names {BAD} alone, got {nacks:?}"));
    }
    Ok(())
}

async fn kill_control_plane(stage: &mut Stage, table: &mut Table) -> anyhow::Result<()> {
    let change = stage.begin("control plane killed", table).await?;
    stage.plane.kill();
    sleep(ALONE).await;
    stage.end(change, None, "traffic goes on without it", table).await;
    Ok(())
}

/// The new process finds no control plane and serves its last good snapshot. The old one finishes what it has
/// and tells its clients; each goes on calling there until it has a connection to the new one.
async fn restart_sidecar(stage: &mut Stage, table: &mut Table, since: SystemTime) -> anyhow::Result<()> {
    stage.client.saved_since(since, SAVED).await?;
    let change = stage.begin("sidecar `client` restarted", table).await?;
    let before = Instant::now();
    let old = stage.client.replace().context("restart")?;
    let up = stage.load.board.wait(Duration::from_secs(6), |answer| answer.connected > before).await;
    let took = before.elapsed().as_secs_f64() * 1e3;
    if !up {
        stage.broke("the restarted sidecar answers nobody".to_owned());
    }
    let shown = "first answer on a connection to the new process";
    stage.end(change, up.then_some(took), shown, table).await;
    if let Err(error) = old.left(LEFT).await {
        stage.broke(error.to_string());
    }
    // From its snapshot it must have the newest chain, not the one it was started with.
    let newest =
        |answer: &super::load::Answer| answer.connected > before && answer.chain.as_deref() == Some("second");
    if up && !stage.load.board.wait(Duration::from_secs(2), newest).await {
        stage.broke("the restarted sidecar does not serve the newest chain".to_owned());
    }
    Ok(())
}

async fn revive_control_plane(stage: &mut Stage, table: &mut Table) -> anyhow::Result<()> {
    let change = stage.begin("control plane back", table).await?;
    let back = Instant::now();
    stage.plane.revive().context("control plane")?;
    let mut connected = true;
    for node in [CLIENT, SERVER] {
        if !stage.answered(node, 1, RECONNECT).await {
            stage.broke(format!("sidecar `{node}` does not come back to the control plane"));
            connected = false;
        }
    }
    let took = back.elapsed().as_secs_f64() * 1e3;
    stage.end(change, connected.then_some(took), "both sidecars have answered it", table).await;

    let change = stage.begin("route v1 -> v2 by the new one", table).await?;
    stage.server_resources.set(&routes("service", "echo-v2"))?;
    let version = stage.plane.publish(SERVER, stage.server_resources.clone());
    let applied = stage.applied(&change, SERVER, version, |answer| answer.server == "v2-b").await;
    stage.current = "v2-b";
    stage.end(change, applied, "first answer by v2-b", table).await;
    Ok(())
}
