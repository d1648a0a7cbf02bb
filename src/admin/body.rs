//! Bodies that a thread writes while the reader reads.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Pieces between the writing thread and the connection.
const PIECES: usize = 4;
/// How long a reader may take none.
pub(super) const STALL: Duration = Duration::from_secs(30);
/// Priority of writing threads: requests come first.
const NICE: i32 = 10;

/// A reply's body.
pub enum AdminBody {
    /// All of it.
    Whole(Option<Bytes>),
    /// Piece by piece.
    Produced { pieces: mpsc::Receiver<Bytes>, complete: Arc<AtomicBool> },
}

/// The writing end, on its own thread.
pub struct Producer {
    pieces: mpsc::Sender<Bytes>,
    runtime: Handle,
    gone: bool,
}

impl AdminBody {
    pub fn whole(text: String) -> Self {
        AdminBody::Whole(Some(Bytes::from(text)))
    }

    /// Starts a thread that runs `write`.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn produced(write: impl FnOnce(&mut Producer) + Send + 'static) -> io::Result<Self> {
        let (sender, pieces) = mpsc::channel(PIECES);
        let complete = Arc::new(AtomicBool::new(false));
        let mut producer = Producer { pieces: sender, runtime: Handle::current(), gone: false };
        let done = complete.clone();
        std::thread::Builder::new().name("admin".into()).spawn(move || {
            // Without the lower priority the answer is the same, only less polite.
            let _ = rustix::process::nice(NICE);
            write(&mut producer);
            done.store(!producer.gone, Ordering::Release);
        })?;
        Ok(AdminBody::Produced { pieces, complete })
    }
}

impl Producer {
    /// Hands a piece over; false if the reader has gone or takes nothing any more, then writing should end.
    pub fn send(&mut self, piece: String) -> bool {
        if self.gone || piece.is_empty() {
            return !self.gone;
        }
        let send = self.pieces.send_timeout(Bytes::from(piece), STALL);
        self.gone = self.runtime.block_on(send).is_err();
        !self.gone
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            AdminBody::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            AdminBody::Produced { pieces, complete } => pieces.poll_recv(cx).map(|piece| match piece {
                Some(piece) => Some(Ok(Frame::data(piece))),
                None if complete.load(Ordering::Acquire) => None,
                // The connection is cut so that nobody takes a part for the whole.
                None => Some(Err(io::Error::other("the answer was not written to its end"))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, AdminBody::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AdminBody::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            AdminBody::Produced { .. } => SizeHint::default(),
        }
    }
}
