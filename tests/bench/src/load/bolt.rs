//! Load over bolt: closed loops, a fixed rate, and connections that idle.

use super::{Plan, Shared, connect, count};
use crate::bolt;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep_until;

const SERVICE: &str = "com.alipay.test.TestService:1.0";

/// Keeps `in_flight` requests going: as many answers as one read brings, so many requests one write carries.
pub async fn closed(plan: &Plan, shared: &Shared) -> Result<()> {
    let mut socket = connect(plan.port).await?;
    let mut frame = bolt::request(SERVICE, plan.size);
    let mut sent = vec![Instant::now(); plan.in_flight];
    let mut output = Vec::new();
    let mut input = BytesMut::with_capacity(64 * 1024);
    for slot in 0..plan.in_flight {
        bolt::set_id(&mut frame, slot as u32 + 1);
        output.extend_from_slice(&frame);
    }
    loop {
        socket.write_all(&output).await?;
        output.clear();
        while output.is_empty() {
            input.reserve(64 * 1024);
            if socket.read_buf(&mut input).await? == 0 {
                bail!("closed by the proxy");
            }
            let now = Instant::now();
            while let Some(head) = bolt::take(&mut input) {
                let slot = sent.get_mut(head.id as usize - 1).context("an answer nobody asked for")?;
                count(shared, head.status == 0 && head.content == plan.size, *slot);
                *slot = now;
                bolt::set_id(&mut frame, head.id);
                output.extend_from_slice(&frame);
            }
        }
    }
}

/// Sends at its times whether answers came or not; latency counts from when a request was due.
pub async fn open(plan: &Plan, shared: &Shared, index: usize) -> Result<()> {
    let (mut reader, mut writer) = connect(plan.port).await?.into_split();
    let pending: Rc<RefCell<std::collections::HashMap<u32, Instant>>> = Rc::default();
    let (waiting, counts, size) = (pending.clone(), shared.clone(), plan.size);
    tokio::task::spawn_local(async move {
        let mut input = BytesMut::with_capacity(64 * 1024);
        while let Ok(1..) = reader.read_buf(&mut input).await {
            while let Some(head) = bolt::take(&mut input) {
                if let Some(due) = waiting.borrow_mut().remove(&head.id) {
                    count(&counts, head.status == 0 && head.content == size, due);
                }
            }
            input.reserve(64 * 1024);
        }
    });
    let mut frame = bolt::request(SERVICE, plan.size);
    let gap = Duration::from_nanos(1_000_000_000 * plan.connections as u64 / plan.rate);
    let mut due = Instant::now() + gap * index as u32 / plan.connections as u32;
    for id in 1.. {
        sleep_until(due.into()).await;
        bolt::set_id(&mut frame, id);
        pending.borrow_mut().insert(id, due);
        writer.write_all(&frame).await?;
        due += gap;
    }
    Ok(())
}

/// Opens a connection and makes one request on it.
pub async fn one(plan: &Plan) -> Result<TcpStream> {
    let mut frame = bolt::request(SERVICE, plan.size);
    bolt::set_id(&mut frame, 1);
    let mut socket = connect(plan.port).await?;
    socket.write_all(&frame).await?;
    let mut input = BytesMut::with_capacity(2048);
    let status = loop {
        if socket.read_buf(&mut input).await? == 0 {
            bail!("closed by the proxy");
        }
        if let Some(head) = bolt::take(&mut input) {
            break head.status;
        }
    };
    anyhow::ensure!(status == 0, "bolt status {status}");
    Ok(socket)
}
