//! Connecting to a host, on behalf of all who wait for the connection.
//!
//! Connections are dialled by a task of their own, so a request that gives up does not end the attempt for
//! the others.

use crate::cluster::{Cluster, Host, State, Variant};
use crate::message::{Failure, Reason};
use crate::net::{BindError, Conn, connect_from, count_handshake, options};
use crate::tls::{Client, TlsError, Wish};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use tokio::time::Instant;

/// Why there is no connection of the kind that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Miss {
    /// There is none.
    Failed(Reason),
    /// The host chose another version of HTTP: its connection is with those of that one.
    Other,
}

impl Miss {
    /// What it means to who cannot use another version.
    pub(super) fn failure(self) -> Failure {
        Failure::before(match self {
            Miss::Failed(reason) => reason,
            Miss::Other => Reason::ConnectFailed,
        })
    }
}

/// A connection being made and those who wait for it.
pub(super) struct Dial<C> {
    outcome: RefCell<Option<Result<Rc<C>, Miss>>>,
    waiting: RefCell<Vec<Waker>>,
    waiters: Cell<u32>,
    retired: Cell<bool>,
}

impl<C> Dial<C> {
    /// Nobody waits yet.
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Dial {
            outcome: RefCell::new(None),
            waiting: RefCell::default(),
            waiters: Cell::new(0),
            retired: Cell::new(false),
        })
    }

    /// Those who will use the connection once it is there.
    pub(super) fn waiters(&self) -> u32 {
        self.waiters.get()
    }

    /// The host went out of service meanwhile: the connection is for those who wait only.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Waits for the connection.
    pub(super) async fn wait(self: &Rc<Self>) -> Result<Rc<C>, Miss> {
        self.waiters.set(self.waiters.get() + 1);
        let _waiter = Waiter(self.clone());
        poll_fn(|cx| match &*self.outcome.borrow() {
            Some(Ok(connection)) => Poll::Ready(Ok(connection.clone())),
            Some(Err(miss)) => Poll::Ready(Err(*miss)),
            None => {
                self.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Tells all who wait.
    pub(super) fn resolve(&self, outcome: Result<Rc<C>, Miss>) {
        *self.outcome.borrow_mut() = Some(outcome);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

struct Waiter<C>(Rc<Dial<C>>);

impl<C> Drop for Waiter<C> {
    fn drop(&mut self) {
        self.0.waiters.set(self.0.waiters.get() - 1);
    }
}

/// Protocols offered where a TLS context names none.
pub(crate) type Offer = &'static [&'static str];

/// Connects within the cluster's connect timeout, TLS included, and sets the options of upstream connections.
pub(crate) async fn connect(
    host: &Host,
    cluster: &Cluster,
    state: &State,
    offer: Offer,
) -> Result<Conn, Reason> {
    let model = &state.spec.model;
    let begin = Instant::now();
    let mut dialling = pin!(async {
        let source = host.variant().and_then(|variant| variant.source);
        let own =
            source.map(|(ip, mark)| model.bind.as_deref().cloned().unwrap_or_default().from_client(ip, mark));
        let io = match own.as_ref().or(model.bind.as_deref()) {
            None => Conn::connect(&host.address).await.map_err(BindError::Connect)?,
            // Boxed: few clusters bind.
            Some(config) => Box::pin(connect_from(&host.address, config)).await?,
        };
        if let Conn::Tcp(stream) = &io {
            options::upstream(stream, model.tcp_keepalive.as_deref());
        }
        match host.tls() {
            None => Ok(Ok(io)),
            Some(context) => Ok(Box::pin(encrypt(io, host, context, cluster, state, offer)).await),
        }
    });
    let mut limit = pin!(cluster.env().wheel.sleep(model.connect_timeout));
    let outcome = poll_fn(|cx| match dialling.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await;
    let failed = || {
        cluster.stats.upstream_cx_connect_fail.inc();
        host.stats.cx_connect_fail.inc();
    };
    match outcome {
        Some(Ok(Ok(io))) => {
            cluster.stats.upstream_cx_connect_ms.record(begin.elapsed().as_millis() as u64);
            Ok(io)
        }
        Some(Ok(Err(_refused))) => {
            host.connect_error.set(0);
            failed();
            Err(Reason::ConnectFailed)
        }
        Some(Err(error)) => {
            let said = match error {
                BindError::Bind(error) => {
                    cluster.stats.bind_errors.inc();
                    error
                }
                BindError::Connect(error) => error,
            };
            host.connect_error.set(said.raw_os_error().unwrap_or_default());
            failed();
            Err(Reason::ConnectFailed)
        }
        None => {
            cluster.stats.upstream_cx_connect_timeout.inc();
            failed();
            Err(Reason::ConnectTimeout)
        }
    }
}

/// Opens TLS on a connection. Never falls back to plaintext: whatever is missing is a failure.
async fn encrypt(
    io: Conn,
    host: &Host,
    context: &Client,
    cluster: &Cluster,
    state: &State,
    offer: Offer,
) -> Result<Conn, TlsError> {
    let tls = context.model();
    let named = tls.host_sni && !host.hostname.is_empty();
    let Variant { sni, san, alpn, .. } = host.variant().cloned().unwrap_or_default();
    let wish = Wish {
        alpn,
        alpn_fallback: offer,
        sni: sni.or_else(|| named.then(|| host.hostname.as_str().into())),
        check_name: tls.check_sni,
        also_for: san,
    };
    let outcome = io.open_tls(context, &wish).await;
    count_handshake(cluster.ssl(), outcome.as_ref());
    if let Ok(io) = &outcome {
        host.met(io.session());
    }
    let outcome = match state.spec.model.mesh.as_ref().and_then(|mesh| mesh.exchange.as_ref()) {
        Some(exchange) => outcome.map(|io| io.exchanged(exchange, &cluster.env().registry)),
        None => outcome,
    };
    if let Err(error) = &outcome {
        tracing::debug!("cluster {}: handshake with {}: {error}", cluster.name, host.shown());
    }
    outcome
}
