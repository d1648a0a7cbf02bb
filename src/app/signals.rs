//! Signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Leave in good order (SIGTERM).
    Leave,
    /// End at once (SIGINT, SIGQUIT).
    End,
    /// Open log files anew (SIGUSR1).
    Reopen,
}

/// The signals this process listens to. SIGHUP and SIGUSR2 are taken and ignored; SIGPIPE never arrives.
pub struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
    usr1: Signal,
    hup: Signal,
    usr2: Signal,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn new() -> std::io::Result<Self> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            usr1: signal(SignalKind::user_defined1())?,
            hup: signal(SignalKind::hangup())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next wish.
    pub async fn next(&mut self) -> Wish {
        loop {
            tokio::select! {
                _ = self.term.recv() => return Wish::Leave,
                _ = self.int.recv() => return Wish::End,
                _ = self.quit.recv() => return Wish::End,
                _ = self.usr1.recv() => return Wish::Reopen,
                _ = self.hup.recv() => tracing::info!("SIGHUP ignored: configuration comes from the control plane"),
                _ = self.usr2.recv() => {}
            }
        }
    }
}
