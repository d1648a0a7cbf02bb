//! What stands behind the proxies: servers of bolt, HTTP/1, HTTP/2 and gRPC, a TCP echo. One thread each.
//!
//! An HTTP request's target ends in `/` and the size of the body that answers it. The target `/head` is answered
//! with the request's own head.

use anyhow::{Result, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use std::rc::Rc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::bolt;
use crate::load::http2::message;

/// `backend bolt|h1|h2c|grpc|echo PORT [ADDRESS]`
pub async fn run(args: &[String]) -> Result<()> {
    let [kind, port, address @ ..] = args else { bail!("backend bolt|h1|h2c|grpc|echo PORT [ADDRESS]") };
    let address = address.first().map_or("127.0.0.1", String::as_str);
    let listener = TcpListener::bind((address, port.parse()?)).await?;
    println!("ready");
    let bodies = Rc::new(Bytes::from(vec![b'y'; 1 << 20]));
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let bodies = bodies.clone();
        match kind.as_str() {
            "bolt" => tokio::task::spawn_local(async move { drop(serve_bolt(socket).await) }),
            "h1" => tokio::task::spawn_local(async move { drop(serve_h1(socket, &bodies).await) }),
            "h2c" => tokio::task::spawn_local(async move { drop(serve_h2c(socket, bodies).await) }),
            "grpc" => tokio::task::spawn_local(async move { drop(serve_grpc(socket).await) }),
            "echo" => tokio::task::spawn_local(async move { drop(serve_echo(socket).await) }),
            other => bail!("no backend {other}"),
        };
    }
}

/// Answers every request of one read with one write.
async fn serve_bolt(mut socket: TcpStream) -> Result<()> {
    let mut input = BytesMut::with_capacity(64 * 1024);
    let mut output = Vec::new();
    let mut answer = (0, bolt::response(0));
    loop {
        input.reserve(64 * 1024);
        if socket.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        while let Some(head) = bolt::take(&mut input) {
            if answer.0 != head.content {
                answer = (head.content, bolt::response(head.content));
            }
            bolt::set_id(&mut answer.1, head.id);
            output.extend_from_slice(&answer.1);
        }
        socket.write_all(&output).await?;
        output.clear();
    }
}

/// The number at the end of a target.
fn wanted(target: &str) -> usize {
    target.rsplit('/').next().and_then(|size| size.parse().ok()).unwrap_or(0)
}

/// Bodies of requests are passed over; they have a length.
async fn serve_h1(mut socket: TcpStream, body: &Bytes) -> Result<()> {
    let mut input = BytesMut::with_capacity(8 * 1024);
    let mut output = Vec::new();
    let mut unread = 0;
    loop {
        while let Some(head) = next_head(&mut input, &mut unread) {
            let line = head[..].split(|byte| *byte == b'\r').next().unwrap_or_default();
            let target = std::str::from_utf8(line)?.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = if target == "/head" { &head } else { &body[..wanted(&target).min(body.len())] };
            output.extend_from_slice(
                format!(
                    "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: application/octet-stream\r\n\
                     Content-Length: {}\r\n\r\n",
                    answer.len()
                )
                .as_bytes(),
            );
            output.extend_from_slice(answer);
        }
        if !output.is_empty() {
            socket.write_all(&output).await?;
            output.clear();
        }
        input.reserve(8 * 1024);
        if socket.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// The next head, if it is there and what belongs to the request before has come. `unread`: bytes of that body which
/// are still to come.
fn next_head(input: &mut BytesMut, unread: &mut usize) -> Option<BytesMut> {
    let here = input.len().min(*unread);
    input.advance(here);
    *unread -= here;
    if *unread > 0 {
        return None;
    }
    let end = input.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = input.split_to(end + 4);
    *unread = crate::load::content_length(&head).unwrap_or(0);
    Some(head)
}

fn server() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1000).initial_connection_window_size(16 << 20).max_frame_size(64 << 10);
    builder
}

async fn serve_h2c(socket: TcpStream, body: Rc<Bytes>) -> Result<()> {
    let mut connection = server().max_send_buffer_size(4 << 20).handshake::<_, Bytes>(socket).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut reply) = request?;
        let size = wanted(request.uri().path()).min(body.len());
        drop(request);
        let head = Response::builder().header("content-type", "application/octet-stream").body(())?;
        let mut stream = reply.send_response(head, false)?;
        stream.send_data(body.slice(..size), true)?;
    }
    Ok(())
}

async fn serve_grpc(socket: TcpStream) -> Result<()> {
    let mut connection = server().handshake::<_, Bytes>(socket).await?;
    while let Some(request) = connection.accept().await {
        let (request, reply) = request?;
        tokio::task::spawn_local(async move { drop(answer(request, reply).await) });
    }
    Ok(())
}

/// Sends back what comes, and trailers where it ends.
async fn answer(request: Request<h2::RecvStream>, mut reply: SendResponse<Bytes>) -> Result<()> {
    let head = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut stream = reply.send_response(head, false)?;
    let mut body = request.into_body();
    let mut made = Bytes::new();
    while let Some(data) = body.data().await {
        let size = data?.len();
        let _ = body.flow_control().release_capacity(size);
        if made.len() != size {
            made = message(size.saturating_sub(5));
        }
        stream.send_data(made.clone(), false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(stream.send_trailers(trailers)?)
}

async fn serve_echo(mut socket: TcpStream) -> Result<()> {
    let mut buf = vec![0; 256 * 1024];
    loop {
        let read = socket.read(&mut buf).await?;
        if read == 0 {
            return Ok(());
        }
        socket.write_all(&buf[..read]).await?;
    }
}
