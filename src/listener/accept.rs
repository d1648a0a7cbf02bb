//! Accepting.

use super::{Active, Listeners};
use crate::model::Address;
use crate::net::{Conn, Wheel, options};
use socket2::Socket;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

/// Pause after the system refused a connection for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Decides which worker serves a connection, and carries it there.
pub trait Handoff {
    /// Gives the connection to another worker, or back (`Err`) to be served here.
    ///
    /// # Errors
    /// The stream, when this worker should serve it.
    fn place(&self, address: &Address, stream: std::net::TcpStream) -> Result<(), std::net::TcpStream>;
    /// A connection is served here from now until the guard is dropped.
    fn enter(&self) -> Box<dyn std::any::Any>;
}

/// One listening socket of one worker.
pub struct Acceptor {
    close: oneshot::Sender<Option<Arc<()>>>,
}

enum Socketed {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Starts accepting on `socket`. `shared`: connections are spread by `handoff` rather than the kernel.
    ///
    /// # Errors
    /// The socket could not be registered with the runtime.
    pub fn start(
        address: Address,
        socket: Socket,
        shared: bool,
        listeners: Rc<Listeners>,
        handoff: Rc<dyn Handoff>,
        wheel: Rc<Wheel>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = match address {
            Address::Unix(_) => Socketed::Unix(UnixListener::from_std(socket.into())?),
            _ => Socketed::Tcp(TcpListener::from_std(socket.into())?),
        };
        let (close, closed) = oneshot::channel();
        let task = Task { address, socket, shared, listeners, handoff, wheel, last: None };
        spawn_local(task.run(closed));
        Ok(Acceptor { close })
    }

    /// Accepts what waits in the queue, then closes; `closed` is dropped when that has happened.
    pub fn close(self, closed: Option<Arc<()>>) {
        let _ = self.close.send(closed);
    }
}

struct Task {
    address: Address,
    socket: Socketed,
    shared: bool,
    listeners: Rc<Listeners>,
    handoff: Rc<dyn Handoff>,
    wheel: Rc<Wheel>,
    /// Who served the address last; serves what is still in the queue when the listener has gone.
    last: Option<Rc<Active>>,
}

impl Task {
    async fn run(mut self, mut closed: oneshot::Receiver<Option<Arc<()>>>) {
        loop {
            self.last = self.listeners.at(&self.address).or(self.last);
            let accepted = tokio::select! {
                biased;
                accepted = self.accept() => accepted,
                token = &mut closed => {
                    // The socket first.
                    drop(self);
                    drop(token);
                    return;
                }
            };
            match accepted {
                Ok(io) => self.serve(io),
                Err(error) if is_exhaustion(&error) => {
                    if let Some(active) = &self.last {
                        active.stats().accept_paused.inc();
                    }
                    self.wheel.sleep(PAUSE).await;
                }
                // The client gave up while it waited.
                Err(_) => {}
            }
        }
    }

    async fn accept(&self) -> io::Result<Conn> {
        match &self.socket {
            Socketed::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                options::downstream(&stream);
                Ok(Conn::Tcp(stream))
            }
            Socketed::Unix(listener) => Ok(Conn::Unix(listener.accept().await?.0)),
        }
    }

    fn serve(&mut self, io: Conn) {
        let io = match io {
            Conn::Tcp(stream) if self.shared => match self.offer(stream) {
                Some(stream) => Conn::Tcp(stream),
                None => return,
            },
            io => io,
        };
        self.last = self.listeners.at(&self.address).or(self.last.take());
        let Some(active) = self.last.clone() else { return };
        if let Some(arrival) = self.listeners.arrive(active, &io) {
            let here = self.handoff.enter();
            spawn_local(async move {
                arrival.active.clone().serve(io, arrival.restored).await;
                drop((arrival, here));
            });
        }
    }

    /// Offers the connection to the other workers; gives it back when it stays.
    fn offer(&self, stream: TcpStream) -> Option<TcpStream> {
        let stream = stream.into_std().ok()?;
        let kept = self.handoff.place(&self.address, stream).err()?;
        TcpStream::from_std(kept).ok()
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
