//! `--hold`: everything stays up, and the reader may try things.

use super::resources::routes;
use super::stage::{EFFECT, SERVER, Stage};
use super::table::Table;
use std::io::BufRead;
use tokio::sync::mpsc;

/// Prints what there is to try and serves until a signal ends the demo. Lines on stdin push routes.
pub async fn hold(mut stage: Stage, table: &mut Table) {
    let program = std::env::args().next().unwrap_or_else(|| "mizzen".to_owned());
    let (client, server) = (stage.client.admin, stage.server.admin);
    let (pid, port) = (stage.client.process().id(), stage.client.port);
    let plane = stage.plane.address();
    table.note(&format!(
        "\neverything stays up until Ctrl-C; the control plane is {plane}. To try:\n  \
         {program} sample client -a 127.0.0.1:{port} -t -i 100\n  \
         curl -s 127.0.0.1:{client}/config_dump\n  \
         curl -s 127.0.0.1:{client}/clusters\n  \
         curl -s 127.0.0.1:{server}/listeners\n  \
         curl -s 127.0.0.1:{server}/stats/prometheus | grep mizzen\n  \
         kill -TERM {pid}    # sidecar `client` leaves; nothing takes its place\n\
         type v1 or v2 and Enter to push that route"
    ));
    let mut lines = lines();
    while let Some(line) = lines.recv().await {
        let target = match line.trim() {
            "v1" => "echo-v1",
            "v2" => "echo-v2",
            "" => continue,
            other => {
                table.note(&format!("`{other}`: expected v1 or v2"));
                continue;
            }
        };
        match stage.server_resources.set(&routes("service", target)) {
            Ok(()) => {
                let version = stage.plane.publish(SERVER, stage.server_resources.clone());
                let applied = stage.answered(SERVER, version, EFFECT).await;
                table.note(if applied { "pushed and acknowledged" } else { "pushed, no answer yet" });
            }
            Err(error) => table.note(&format!("{error:#}")),
        }
    }
    // Stdin has ended; a signal is what is left.
    std::future::pending::<()>().await;
}

/// Lines of stdin. Read on a thread: a blocking read must not hold up the runtime, nor its end.
fn lines() -> mpsc::Receiver<String> {
    let (out, lines) = mpsc::channel(4);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if out.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
