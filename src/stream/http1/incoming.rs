//! The body of a message being received on an HTTP/1 connection.

use crate::message::{Failure, Reason};
use crate::net::{Filled, Line};
use crate::protocol::http1::{BodyDecoder, Framing, Limits, NameCase, Piece};
use bytes::Bytes;
use http::HeaderMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// See the module. Bytes are read only when somebody asks for them, so a sender is as fast as its reader.
pub struct Incoming {
    line: Rc<Line>,
    limits: Rc<Limits>,
    decoder: RefCell<BodyDecoder>,
    trailers: RefCell<Option<HeaderMap>>,
    case: RefCell<Option<Rc<NameCase>>>,
    broken: Cell<bool>,
}

impl Incoming {
    /// The body after a head that said `framing`, its names written as `case` says.
    pub fn new(line: Rc<Line>, limits: Rc<Limits>, framing: Framing, case: Option<Rc<NameCase>>) -> Rc<Self> {
        Rc::new(Incoming {
            line,
            limits,
            decoder: RefCell::new(BodyDecoder::new(framing)),
            trailers: RefCell::new(None),
            case: RefCell::new(case),
            broken: Cell::new(false),
        })
    }

    /// The body of the next message on the same connection.
    pub fn restart(&self, framing: Framing, case: Option<Rc<NameCase>>) {
        *self.decoder.borrow_mut() = BodyDecoder::new(framing);
        *self.trailers.borrow_mut() = None;
        *self.case.borrow_mut() = case;
        self.broken.set(false);
    }

    /// From here on another protocol's bytes come.
    pub fn switch(&self) {
        *self.decoder.borrow_mut() = BodyDecoder::new(Framing::UntilClose);
    }

    /// How the names of its head were written.
    pub fn case(&self) -> Option<Rc<NameCase>> {
        self.case.borrow().clone()
    }

    /// Whether everything was given, trailers aside.
    pub fn is_ended(&self) -> bool {
        self.decoder.borrow().is_done() && self.trailers.borrow().is_none()
    }

    /// The trailers, once there is no more data.
    pub fn take_trailers(&self) -> Option<HeaderMap> {
        self.trailers.borrow_mut().take()
    }

    /// The next bytes; `None` before the trailers or the end.
    pub fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        loop {
            if let Some(given) = self.next_piece() {
                return Poll::Ready(given);
            }
            let more = ready!(self.poll_more(cx));
            if let Err(fault) = more {
                self.broken.set(true);
                return Poll::Ready(Some(Err(fault)));
            }
        }
    }

    /// What the input holds already; `None`: more of it is needed.
    fn next_piece(&self) -> Option<Option<Result<Bytes, Failure>>> {
        let piece = self.decoder.borrow_mut().decode(&mut self.line.input(), &self.limits);
        match piece {
            Ok(Some(Piece::Data(bytes))) => Some(Some(Ok(bytes))),
            Ok(Some(Piece::Trailers(trailers))) => {
                *self.trailers.borrow_mut() = Some(trailers);
                Some(None)
            }
            Ok(None) if self.decoder.borrow().is_done() => Some(None),
            Ok(None) => None,
            Err(_) => {
                self.broken.set(true);
                Some(Some(Err(Failure::after(Reason::BadRequest))))
            }
        }
    }

    fn poll_more(&self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let gone = Failure::after(Reason::DownstreamReset);
        match self.line.poll_fill(cx) {
            Poll::Ready(Ok(Filled::Bytes(_))) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(Filled::End)) => {
                let ended = self.decoder.borrow_mut().on_end_of_input();
                Poll::Ready(ended.map_err(|_| gone))
            }
            Poll::Ready(Ok(Filled::OverLimit) | Err(_)) => Poll::Ready(Err(gone)),
            Poll::Pending => {
                self.line.settle();
                Poll::Pending
            }
        }
    }

    /// Drops what of it has been read already. Returns whether that was all of it.
    pub fn skim(&self) -> bool {
        while !self.is_ended() && !self.broken.get() {
            match self.next_piece() {
                Some(Some(Ok(_))) => {}
                Some(None) => drop(self.take_trailers()),
                Some(Some(Err(_))) | None => return false,
            }
        }
        self.is_ended()
    }
}
