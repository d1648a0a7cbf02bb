//! Worker threads.
//!
//! Owns one OS thread with a `LocalRuntime` per worker, its command loop, and following the snapshot. Takes
//! in [`Command`]s and generations; gives out reports. Everything a request touches stays on its worker.

mod local;
mod spread;

pub use spread::Loads;

use crate::listener::{ListenerReport, Spread};
use crate::model::Address;
use crate::snapshot::Store;
use crate::stream::Drain;
use crate::telemetry::Registry;
use socket2::Socket;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What control asks of a worker. The queue is unbounded: commands are few and come from control only.
pub enum Command {
    /// Accept on this socket. `shared`: spread its connections over all workers.
    Open { address: Address, socket: Socket, shared: bool },
    /// Accept what waits, then close the socket of this address. The token is dropped once it is closed.
    Close(Address, Arc<()>),
    /// Close every socket.
    CloseAll,
    /// Serve a connection another worker accepted.
    Adopt { address: Address, stream: std::net::TcpStream },
    /// Ask connections to leave; `spread`: when those are told that are to be told only.
    Drain { how: Drain, spread: Spread, inbound_only: bool },
    /// End connections whose clients' certificates are not accepted any more.
    Recheck,
    /// Answer with a report.
    Report(oneshot::Sender<WorkerReport>),
    /// Hand log lines over, then answer.
    FlushLogs(oneshot::Sender<()>),
    /// End at once.
    Quit,
}

/// What the admin shows of one worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerReport {
    /// Listeners with their connections.
    pub listeners: Vec<ListenerReport>,
    /// Generation it serves from.
    pub generation: u64,
}

/// The way to a worker; commands to one that has ended are lost.
#[derive(Clone)]
pub struct Sender(mpsc::UnboundedSender<Command>);

impl Sender {
    /// Sends a command.
    pub fn send(&self, command: Command) {
        let _ = self.0.send(command);
    }
}

/// Handle of a running worker.
pub struct Worker {
    commands: Sender,
    thread: Option<JoinHandle<()>>,
}

/// What a worker is made with.
pub struct Settings {
    /// Its number, from 0.
    pub index: usize,
    /// Where snapshots come from.
    pub store: Arc<Store>,
    /// Where its metrics go.
    pub registry: Registry,
    /// Connection counts of all workers.
    pub loads: Arc<Loads>,
    /// Limit in bytes of unfinished frames held by all its connections.
    pub unfinished_limit: usize,
    /// Over how long connections are told that their listener changed or went; 0 is at once.
    pub drain_spread: Duration,
    /// How many connections with clients may be open, and how many are, over all workers.
    pub connection_limit: Option<(u32, Arc<AtomicU32>)>,
}

/// What all workers have in common, in the sum over all of them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of unfinished frames held by all connections.
    pub unfinished: usize,
    /// Connections with clients; `None`: any number.
    pub connections: Option<u32>,
    /// Over how long connections are told that their listener changed or went; 0 is at once.
    pub drain_spread: Duration,
}

impl Worker {
    /// Starts `count` workers.
    ///
    /// # Errors
    /// A thread could not be made.
    pub fn start_all(
        count: usize,
        store: &Arc<Store>,
        registry: &Registry,
        limits: Limits,
    ) -> std::io::Result<(Vec<Worker>, Arc<Loads>)> {
        let open = Arc::new(AtomicU32::new(0));
        let channels: Vec<_> = (0..count).map(|_| mpsc::unbounded_channel()).collect();
        let senders = channels.iter().map(|(sender, _)| sender.clone()).collect();
        let loads = Arc::new(Loads::new(senders));
        let mut workers = Vec::new();
        for (index, (commands, receiver)) in channels.into_iter().enumerate() {
            let settings = Settings {
                index,
                store: store.clone(),
                registry: registry.clone(),
                loads: loads.clone(),
                unfinished_limit: limits.unfinished / count.max(1),
                drain_spread: limits.drain_spread,
                connection_limit: limits.connections.map(|limit| (limit, open.clone())),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || local::run(settings, receiver))?;
            workers.push(Worker { commands: Sender(commands), thread: Some(thread) });
        }
        Ok((workers, loads))
    }

    /// Sends a command; lost when the worker has ended.
    pub fn send(&self, command: Command) {
        self.commands.send(command);
    }

    /// A way to it that can be handed on.
    pub fn sender(&self) -> Sender {
        self.commands.clone()
    }

    /// Whether its thread has ended.
    pub fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.send(Command::Quit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
