//! The thread of one worker.

use super::spread::Place;
use super::{Command, Settings, WorkerReport};
use crate::cluster::Env;
use crate::listener::{Acceptor, Ceiling, Listeners, Spread};
use crate::model::Address;
use crate::net::{Conn, ReadPool, Wheel};
use crate::snapshot::{Store, View};
use crate::stream::Local;
use crate::util::random::Random;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

/// Runs a worker until it is told to quit.
pub(super) fn run(settings: Settings, commands: mpsc::UnboundedReceiver<Command>) {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    match built {
        Ok(runtime) => runtime.block_on(serve(settings, commands)),
        Err(error) => tracing::error!("worker {}: no runtime: {error}", settings.index),
    }
}

struct Running {
    local: Rc<Local>,
    listeners: Rc<Listeners>,
    place: Rc<Place>,
    acceptors: HashMap<Address, Acceptor>,
    store: Arc<Store>,
    draining: Option<(crate::stream::Drain, Spread, bool)>,
}

async fn serve(settings: Settings, mut commands: mpsc::UnboundedReceiver<Command>) {
    let published = settings.store.watch();
    let env = Rc::new(Env {
        wheel: Wheel::new(),
        random: Random::default(),
        reads: ReadPool::new(settings.unfinished_limit),
        registry: settings.registry,
    });
    spawn_local(env.wheel.clone().run());
    // The empty snapshot first: following the current one is a change like any other.
    let local = Local::new(env, View::new(Default::default()));
    let ceiling = settings.connection_limit.map(|(limit, open)| Ceiling::new(limit, open));
    let listeners = Listeners::new(local.clone(), settings.drain_spread, ceiling);
    let place = Rc::new(Place { index: settings.index, loads: settings.loads });
    let mut running =
        Running { local, listeners, place, acceptors: HashMap::new(), store: settings.store, draining: None };
    running.follow();
    loop {
        tokio::select! {
            // Snapshots before commands: a socket opens only after its listener is known.
            biased;
            () = published.notified() => running.follow(),
            command = commands.recv() => match command {
                None | Some(Command::Quit) => return,
                Some(command) => {
                    running.follow();
                    running.obey(command);
                }
            },
        }
    }
}

impl Running {
    /// Replaces the view and brings listeners and clusters to it.
    fn follow(&mut self) {
        let (old, new) = (self.local.view(), self.store.load());
        if new.generation == old.generation {
            return;
        }
        let new = View::new(new);
        // The view first: a connection that is rebound must find its routes.
        self.local.set_view(new.clone());
        self.listeners.sync(&old, &new);
        if let Some((how, spread, inbound_only)) = self.draining {
            self.listeners.drain(how, spread, inbound_only);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open { address, socket, shared } => {
                let started = Acceptor::start(
                    address.clone(),
                    socket,
                    shared,
                    self.listeners.clone(),
                    self.place.clone(),
                    self.local.env.wheel.clone(),
                );
                match started {
                    Ok(acceptor) => drop(self.acceptors.insert(address, acceptor)),
                    Err(error) => tracing::error!("cannot accept on {address}: {error}"),
                }
            }
            Command::Close(address, closed) => {
                if let Some(acceptor) = self.acceptors.remove(&address) {
                    acceptor.close(Some(closed));
                }
            }
            Command::CloseAll => {
                for (_, acceptor) in self.acceptors.drain() {
                    acceptor.close(None);
                }
            }
            Command::Adopt { address, stream } => self.adopt(&address, stream),
            Command::Drain { how, spread, inbound_only } => {
                self.draining = Some((how, spread, inbound_only));
                self.listeners.drain(how, spread, inbound_only);
            }
            Command::Recheck => {
                self.listeners.recheck();
                self.local.clusters.iter().iter().for_each(|cluster| cluster.recheck());
            }
            Command::FlushLogs(done) => {
                self.local.outlet.flush(false);
                let _ = done.send(());
            }
            Command::Report(answer) => drop(answer.send(self.report())),
            Command::Quit => {}
        }
    }

    fn adopt(&self, address: &Address, stream: std::net::TcpStream) {
        let counted = self.place.adopted();
        let found = self.listeners.at_or_gone(address);
        let (Some(active), Ok(stream)) = (found, TcpStream::from_std(stream)) else {
            return;
        };
        active.stats().rebalanced.inc();
        let io = Conn::Tcp(stream);
        if let Some(arrival) = self.listeners.arrive(active, &io) {
            spawn_local(async move {
                arrival.active.clone().serve(io, arrival.restored).await;
                drop((arrival, counted));
            });
        }
    }

    fn report(&self) -> WorkerReport {
        WorkerReport { listeners: self.listeners.report(), generation: self.local.view().generation }
    }
}
