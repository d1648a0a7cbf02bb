//! What stands behind the proxies: a bolt server, an h2c server, a TCP echo. One thread each.

use anyhow::{Result, bail};
use bytes::{Bytes, BytesMut};
use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::bolt;

/// `backend bolt|h2c|echo PORT`
pub async fn run(args: &[String]) -> Result<()> {
    let [kind, port] = args else { bail!("backend bolt|h2c|echo PORT") };
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    println!("ready");
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        match kind.as_str() {
            "bolt" => tokio::task::spawn_local(async move { drop(serve_bolt(socket).await) }),
            "h2c" => tokio::task::spawn_local(async move { drop(serve_h2c(socket).await) }),
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

async fn serve_h2c(socket: TcpStream) -> Result<()> {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(1000)
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Bytes>(socket)
        .await?;
    let body = Bytes::from(vec![b'y'; 256]);
    while let Some(request) = connection.accept().await {
        let (request, mut reply) = request?;
        drop(request);
        let head = Response::builder().header("content-type", "application/octet-stream").body(())?;
        let mut stream = reply.send_response(head, false)?;
        stream.send_data(body.clone(), true)?;
    }
    Ok(())
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
