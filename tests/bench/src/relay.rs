//! The measure of all rows: a TCP relay that does nothing but read and write, one buffer each way, one thread.

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// `relay PORT BACKEND_PORT BUFFER_KIB`
pub async fn run(args: &[String]) -> Result<()> {
    let [port, backend, buffer] = args else { bail!("relay PORT BACKEND_PORT BUFFER_KIB") };
    let (backend, buffer): (u16, usize) = (backend.parse()?, buffer.parse::<usize>()? * 1024);
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    println!("ready");
    loop {
        let (client, _) = listener.accept().await?;
        tokio::task::spawn_local(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", backend)).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            tokio::task::spawn_local(copy(server_in, client_out, buffer));
            copy(client_in, server_out, buffer).await;
        });
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, buffer: usize) {
    let mut buf = vec![0; buffer];
    while let Ok(read @ 1..) = from.read(&mut buf).await {
        if to.write_all(&buf[..read]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
