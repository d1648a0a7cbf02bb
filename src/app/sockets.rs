//! Keeps the listening sockets in step with what the builder wants.

use super::lifecycle::Lifecycle;
use crate::model::{Address, Listener, NetworkFilter, Protocol};
use crate::net::sockets::{SocketRegistry, SocketStyle, Spread};
use crate::snapshot::builder::{Builder, Rejection, Socket};
use crate::worker::{Command, Sender};
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Pause before an address that was refused is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Pause before an address is tried again that the workers are about to close.
const SOON: Duration = Duration::from_millis(5);

/// Sockets of this process. Lives on the build thread; the workers accept on them.
pub struct Sockets {
    registry: SocketRegistry,
    workers: Vec<Sender>,
    version: Option<u64>,
    retry_at: Option<Instant>,
    /// Refused addresses that were reported already.
    refused: BTreeSet<Address>,
    /// Addresses the workers were told to close; they are free once the token is gone.
    closing: Vec<(Address, Weak<()>)>,
    closed: bool,
    lifecycle: Arc<Lifecycle>,
}

impl Sockets {
    /// No socket yet.
    pub fn new(workers: Vec<Sender>, lifecycle: Arc<Lifecycle>) -> Self {
        Sockets {
            registry: SocketRegistry::default(),
            workers,
            version: None,
            retry_at: None,
            refused: BTreeSet::new(),
            closing: Vec::new(),
            closed: false,
            lifecycle,
        }
    }

    /// When refused addresses are tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Binds what is new. Gives the listeners the machine refused.
    pub fn bind(&mut self, builder: &mut Builder, now: Instant) -> Vec<Rejection> {
        let again = self.retry_at.is_some_and(|at| at <= now);
        if self.closed || (self.version == Some(builder.sockets_version()) && !again) {
            return Vec::new();
        }
        self.retry_at = None;
        self.closing.retain(|(_, open)| open.strong_count() > 0);
        let mut rejections = Vec::new();
        for Socket { address, listener, .. } in builder.sockets() {
            if self.closing.iter().any(|(own, _)| *own == address) {
                // Our own socket of a listener just removed is not a foreign process.
                self.retry_at = Some(self.retry_at.map_or(now + SOON, |at| at.min(now + SOON)));
                continue;
            }
            if self.refused.contains(&address) && !again {
                self.retry_at = self.retry_at.or(Some(now + RETRY));
                continue;
            }
            match self.registry.bind(&address, style(&listener), self.workers.len()) {
                Ok(()) => {
                    if self.refused.remove(&address) {
                        tracing::info!("listener {}: {address} is free now", listener.name);
                    }
                    builder.on_bound(&listener.name, &address, now);
                }
                Err(error) => {
                    self.retry_at = self.retry_at.or(Some(now + RETRY));
                    if self.refused.insert(address.clone()) {
                        self.lifecycle.sockets.failed.inc();
                        tracing::error!("listener {}: cannot bind {address}: {error}", listener.name);
                        rejections.extend(builder.on_bind_failed(&listener.name, &address, &reason(&error)));
                    }
                }
            }
        }
        rejections
    }

    /// Opens and closes sockets as the snapshot just published wants. Workers see the snapshot first.
    pub fn follow(&mut self, builder: &Builder) {
        if self.closed || self.version == Some(builder.sockets_version()) {
            return;
        }
        self.version = Some(builder.sockets_version());
        let wanted = builder.sockets();
        let keep: BTreeSet<Address> = wanted.iter().map(|socket| socket.address.clone()).collect();
        let lost: Vec<Address> = self.registry.held().filter(|held| !keep.contains(held)).cloned().collect();
        for address in lost {
            self.registry.release(&address);
            self.refused.remove(&address);
            let open = Arc::new(());
            for worker in &self.workers {
                worker.send(Command::Close(address.clone(), open.clone()));
            }
            self.closing.push((address, Arc::downgrade(&open)));
        }
        for socket in wanted.into_iter().filter(|socket| socket.open) {
            self.open(&socket);
        }
    }

    fn open(&mut self, socket: &Socket) {
        let address = &socket.address;
        match self.registry.open(address, socket.listener.backlog) {
            Ok(Some(sockets)) => {
                let shared = sockets.len() == 1 && self.workers.len() > 1;
                for (worker, socket) in self.workers.iter().zip(sockets) {
                    worker.send(Command::Open { address: address.clone(), socket, shared });
                }
            }
            Ok(None) => {}
            Err(error) => {
                self.lifecycle.sockets.failed.inc();
                tracing::error!("cannot listen on {address}: {error}");
            }
        }
    }

    /// Has every worker look at the certificates of its open connections again.
    pub fn recheck(&self) {
        for worker in &self.workers {
            worker.send(Command::Recheck);
        }
    }

    /// Closes listening sockets for good: all, or those of inbound listeners.
    pub fn stop(&mut self, builder: &Builder, inbound_only: bool) {
        let inbound = |socket: &Socket| socket.listener.direction == crate::model::Direction::Inbound;
        let told: BTreeSet<String> = builder
            .sockets()
            .iter()
            .filter(|socket| !self.closed && (!inbound_only || inbound(socket)))
            .map(|socket| socket.listener.name.clone())
            .collect();
        self.lifecycle.sockets.stopped.add(told.len() as u64);
        if !inbound_only {
            self.closed = true;
            for worker in &self.workers {
                worker.send(Command::CloseAll);
            }
            return;
        }
        for socket in builder.sockets().iter().filter(|socket| inbound(socket)) {
            for worker in &self.workers {
                worker.send(Command::Close(socket.address.clone(), Arc::default()));
            }
        }
    }
}

/// What a refused address means to whoever configured it.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => format!("in use by another process ({error})"),
        std::io::ErrorKind::AddrNotAvailable => format!("not an address of this machine ({error})"),
        std::io::ErrorKind::PermissionDenied => format!("not permitted to this user ({error})"),
        _ => error.to_string(),
    }
}

fn style(listener: &Listener) -> SocketStyle {
    let Listener { transparent, freebind, .. } = *listener;
    SocketStyle { spread: spread(listener), transparent, freebind }
}

/// One accepting worker where single connections carry much (bolt), where asked for, and on Unix sockets;
/// the kernel spreads the rest.
fn spread(listener: &Listener) -> Spread {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    let is_bolt = |filter: &NetworkFilter| matches!(filter, NetworkFilter::Rpc(rpc) if rpc.downstream != Protocol::Http2);
    if listener.exact_balance || chains.into_iter().any(|chain| is_bolt(&chain.filter)) {
        Spread::Balance
    } else {
        Spread::ReusePort
    }
}
