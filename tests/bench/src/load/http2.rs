//! Load over HTTP/2: plain requests, and gRPC's two common shapes.

use super::{Plan, Shared, connect, count};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};

/// What each of the `in_flight` loops of a connection does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// GET, and `size` bytes back.
    Plain,
    /// A gRPC call: one message there, one back, and trailers.
    Unary,
    /// A gRPC stream for ever: a request is one message there and one back.
    Streaming,
}

/// Keeps `in_flight` requests going on one connection.
pub(super) async fn closed(plan: &Rc<Plan>, shared: &Shared, shape: Shape) -> Result<()> {
    let socket = connect(plan.port).await?;
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(4 << 20)
        .initial_connection_window_size(64 << 20)
        .max_frame_size(64 << 10)
        .handshake::<_, Bytes>(socket)
        .await?;
    for _ in 0..plan.in_flight {
        let (client, shared, plan) = (client.clone(), shared.clone(), plan.clone());
        tokio::task::spawn_local(async move {
            let outcome = match shape {
                Shape::Streaming => stream(client, &plan, &shared).await,
                _ => calls(client, &plan, &shared, shape).await,
            };
            if let Err(error) = outcome {
                eprintln!("{}: {error:#}", plan.kind);
                shared.borrow_mut().failed += 1;
            }
        });
    }
    connection.await?;
    bail!("closed by the proxy")
}

async fn calls(client: SendRequest<Bytes>, plan: &Plan, shared: &Shared, shape: Shape) -> Result<()> {
    let message = message(plan.size);
    loop {
        let began = Instant::now();
        let ok = match shape {
            Shape::Plain => get(client.clone(), plan).await?,
            _ => unary(client.clone(), message.clone()).await?,
        };
        count(shared, ok, began);
    }
}

async fn get(client: SendRequest<Bytes>, plan: &Plan) -> Result<bool> {
    let request = http::Request::get(format!("http://{}{}", plan.host, plan.target())).body(())?;
    let (answer, _) = client.ready().await?.send_request(request, true)?;
    let answer = answer.await?;
    let ok = answer.status() == 200;
    let mut body = answer.into_body();
    Ok(ok && read(&mut body).await? == plan.size)
}

async fn unary(client: SendRequest<Bytes>, message: Bytes) -> Result<bool> {
    let (answer, mut sink) = client.ready().await?.send_request(call("Unary")?, false)?;
    let size = message.len();
    sink.send_data(message, true)?;
    let answer = answer.await?;
    let ok = answer.status() == 200;
    let mut body = answer.into_body();
    let got = read(&mut body).await?;
    let trailers = body.trailers().await?;
    let good = trailers.is_some_and(|trailers| trailers.get("grpc-status").is_some_and(|code| code == "0"));
    Ok(ok && good && got == size)
}

async fn stream(client: SendRequest<Bytes>, plan: &Plan, shared: &Shared) -> Result<()> {
    let message = message(plan.size);
    let (answer, mut sink) = client.ready().await?.send_request(call("Stream")?, false)?;
    let mut began = Instant::now();
    send(&mut sink, message.clone())?;
    let mut body = answer.await?.into_body();
    loop {
        let mut left = message.len();
        while left > 0 {
            let Some(data) = body.data().await else { bail!("the stream has ended") };
            let data = data?;
            let _ = body.flow_control().release_capacity(data.len());
            left = left.saturating_sub(data.len());
        }
        count(shared, true, began);
        began = Instant::now();
        send(&mut sink, message.clone())?;
    }
}

fn send(sink: &mut SendStream<Bytes>, message: Bytes) -> Result<()> {
    Ok(sink.send_data(message, false)?)
}

/// A gRPC message: not compressed, its length, `size` bytes.
pub fn message(size: usize) -> Bytes {
    let mut message = BytesMut::with_capacity(size + 5);
    message.put_u8(0);
    message.put_u32(size as u32);
    message.put_bytes(b'x', size);
    message.freeze()
}

fn call(method: &str) -> Result<http::Request<()>> {
    Ok(http::Request::post(format!("http://bench.local/bench.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "30S")
        .body(())?)
}

/// Reads a body to its end and gives its size.
async fn read(body: &mut RecvStream) -> Result<usize> {
    let mut size = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        size += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok(size)
}
