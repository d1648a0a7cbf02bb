//! Load over TCP: what was sent has to come back.

use super::{Plan, Shared, connect, count};
use std::time::Instant;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Sends `size` bytes and waits until as many came back; writing and reading at once, as large ones need it.
pub async fn closed(plan: &Plan, shared: &Shared) -> Result<()> {
    let mut socket = connect(plan.port).await?;
    let (mut reader, mut writer) = socket.split();
    let data = vec![b'z'; plan.size];
    let mut buf = vec![0; plan.size.min(256 * 1024)];
    loop {
        let began = Instant::now();
        let reading = async {
            let mut left = plan.size;
            while left > 0 {
                let most = left.min(buf.len());
                match reader.read(&mut buf[..most]).await? {
                    0 => bail!("closed by the proxy"),
                    read => left -= read,
                }
            }
            Ok(())
        };
        let writing = async { Ok(writer.write_all(&data).await?) };
        tokio::try_join!(reading, writing)?;
        count(shared, true, began);
    }
}
