//! One direction of a stream: the body that comes from one side and goes to the other.
//!
//! The source's window opens only for bytes the sink has taken, so a slow reader slows its sender end to end.
//! While the sink takes nothing, small frames are gathered into one buffer: a frame kept in h2 costs more than
//! ten times the bytes of a small message.

use super::bodies::Filtered;
use super::sink::{Gone, Sink};
use super::source::{Fault, Source};
use super::tap::Tap;
use crate::filter::Pipeline;
use crate::message::{Failure, Reason};
use crate::net::Wheel;
use crate::net::h2::STREAM_WINDOW;
use crate::protocol::http1::NameCase;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Frames up to this size are gathered.
const SMALL: usize = 1024;
/// Small frames that wait together are sent together up to this size: that of HTTP/2's frames by default.
const MERGED: usize = 16 * 1024;
/// What a kept frame costs beside its bytes.
const KEPT_COST: usize = 64;

/// See the module.
pub struct Flow {
    from: Source,
    to: Option<Sink>,
    /// On its way now; then `queue`, `gathered`, `spare` in this order.
    held: Bytes,
    /// What is sent again in another try.
    queue: VecDeque<Bytes>,
    gathered: BytesMut,
    spare: Bytes,
    /// The source has given everything, trailers included.
    ended: bool,
    /// Asked last in this very turn, the source had nothing, and tells when it has.
    dry: bool,
    /// Boxed, as what follows: no part of most bodies, and two flows are moved with every response.
    trailers: Option<Box<HeaderMap>>,
    /// A copy of the trailers, where somebody wants it.
    noted: Option<Box<HeaderMap>>,
    /// The sink was given everything.
    given: bool,
    /// The sink has everything.
    done: bool,
    /// Taken from the source and not yet released to its window.
    owed: usize,
    keep: Option<Keep>,
    /// More came than could be kept.
    outgrown: bool,
    tap: Option<Box<Tap>>,
    moved: u64,
    /// The sink takes nothing now; how often that began and ended.
    waits: bool,
    paused: u32,
    resumed: u32,
    /// There were trailers that the sink's message could not have.
    trailers_dropped: bool,
}

/// What was taken from the source, for another try.
struct Keep {
    chunks: Vec<Bytes>,
    room: usize,
}

/// Which side of a flow broke.
#[derive(Debug)]
pub enum Broken {
    /// The side that sends.
    Source(Fault),
    /// The side that receives; how, its own future tells.
    Sink,
}

impl Flow {
    /// From `from` to nowhere yet. Keeps up to `keep` bytes for another try.
    pub fn new(from: Source, keep: usize) -> Self {
        Flow {
            ended: from.is_end_stream(),
            from,
            to: None,
            held: Bytes::new(),
            queue: VecDeque::new(),
            gathered: BytesMut::new(),
            spare: Bytes::new(),
            dry: false,
            trailers: None,
            noted: None,
            given: false,
            done: false,
            owed: 0,
            keep: (keep > 0).then_some(Keep { chunks: Vec::new(), room: keep }),
            outgrown: false,
            tap: None,
            moved: 0,
            waits: false,
            paused: 0,
            resumed: 0,
            trailers_dropped: false,
        }
    }

    /// Whether there is no body and are no trailers.
    pub fn is_empty(&self) -> bool {
        self.ended && self.trailers.is_none() && self.moved == 0
    }

    /// Bytes of the body taken from the source so far.
    pub fn bytes(&self) -> u64 {
        self.moved
    }

    /// Keeps the trailers to be asked for when everything is over.
    pub fn note_trailers(&mut self) {
        self.noted = Some(Box::default());
    }

    /// What [`note_trailers`](Self::note_trailers) asked to be kept.
    pub fn noted_trailers(&self) -> Option<&HeaderMap> {
        self.noted.as_deref()
    }

    /// Whether the sink has everything.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the source has given everything.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the stream that the body comes from wakes this task by whatever happens to it next, its reset
    /// included. Holds until it is polled again.
    pub fn listens(&self) -> bool {
        self.dry && matches!(self.from, Source::Http2(_))
    }

    /// Bytes taken from the source so far, and one for each kind of end.
    pub fn moved(&self) -> u64 {
        self.moved + u64::from(self.ended) + u64::from(self.done)
    }

    /// Whether everything that came so far can be sent again.
    pub fn can_restart(&self) -> bool {
        self.keep.is_some()
    }

    /// Whether more came than could be kept.
    pub fn is_outgrown(&self) -> bool {
        self.outgrown
    }

    /// Has the body copied; nothing of it has been moved yet.
    pub fn tap(&mut self, mut tap: Tap) {
        if self.ended {
            tap.end(None);
        } else {
            self.tap = Some(Box::new(tap));
        }
    }

    /// From now on nothing is kept.
    pub fn forget(&mut self) {
        self.keep = None;
    }

    /// Sends to `to`, from the beginning. `sent_whole`: the head said already that nothing follows.
    pub fn start(&mut self, to: Sink, sent_whole: bool) {
        self.to = Some(to);
        self.given = sent_whole;
        self.done = false;
        if self.moved > 0 {
            self.held = Bytes::new();
            self.gathered = BytesMut::new();
            self.spare = Bytes::new();
            self.queue.clear();
            self.queue.extend(self.keep.iter().flat_map(|keep| keep.chunks.iter().cloned()));
        }
    }

    /// How often the source had to wait for the sink, and how often it went on.
    pub fn held_up(&self) -> (u32, u32) {
        (self.paused, self.resumed)
    }

    /// Whether there were trailers that did not go on.
    pub fn dropped_trailers(&self) -> bool {
        self.trailers_dropped
    }

    /// How the names of the message were written, where that is known.
    pub fn case(&self) -> Option<Rc<NameCase>> {
        let mut from = &self.from;
        loop {
            match from {
                Source::Http1Request(body) => return body.case(),
                Source::Filtered(body) => from = body.inner(),
                Source::Resumed(body) => from = body.inner(),
                Source::Http1Response(_) | Source::Http2(_) | Source::Held(_) => return None,
            }
        }
    }

    /// What follows the request is another protocol's: the source is read anew.
    pub fn switch(&mut self) {
        if let Source::Http1Request(body) = &self.from {
            body.switch();
        }
        self.ended = self.from.is_end_stream();
        (self.given, self.done) = (false, false);
    }

    /// From here on the source goes through `pipeline`. Nothing was taken from it yet.
    pub fn filter(&mut self, pipeline: Pipeline, wheel: &Rc<Wheel>) {
        let inner = std::mem::take(&mut self.from);
        self.from = Source::Filtered(Box::new(Filtered::new(inner, pipeline, wheel)));
    }

    /// The receiving side.
    pub fn sink(&mut self) -> Option<&mut Sink> {
        self.to.as_mut()
    }

    /// Ready when the source has ended without a byte; bytes are a fault of the sender.
    pub fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while !self.ended {
            match ready!(self.pull(cx)) {
                Ok(None) => {}
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(_)) => return Poll::Ready(Err(Failure::before(Reason::BadRequest))),
                Err(Broken::Source(fault)) => return Poll::Ready(Err(fault.of_client())),
                Err(Broken::Sink) => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Moves what can be moved; ready when the sink has everything.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        let moved = self.poll_move(cx);
        // Once per turn, so that all that was moved leaves together.
        let flushed = self.flush(cx);
        match (moved, flushed) {
            (Poll::Ready(Err(broken)), _) | (_, Poll::Ready(Err(broken))) => Poll::Ready(Err(broken)),
            (Poll::Ready(moved), Poll::Ready(Ok(()))) => {
                self.done = true;
                Poll::Ready(moved)
            }
            _ => Poll::Pending,
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let flushed = self.to.as_mut().map_or(Poll::Ready(Err(Gone)), |to| to.poll_flush(cx));
        flushed.map_err(|Gone| Broken::Sink)
    }

    /// Gives the sink what it takes; ready when it was given everything.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.dry = false;
        if self.given {
            return Poll::Ready(Ok(()));
        }
        loop {
            while self.next_held() {
                match self.push(cx) {
                    Poll::Ready(Ok(())) => self.resumed += u32::from(std::mem::take(&mut self.waits)),
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                    Poll::Pending => {
                        self.paused += u32::from(!std::mem::replace(&mut self.waits, true));
                        self.gather(cx)?;
                        return Poll::Pending;
                    }
                }
            }
            if self.given {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                return Poll::Ready(self.finish());
            }
            if self.dry {
                return Poll::Pending;
            }
            // While one large part waits for the socket another one would have to be kept.
            if self.to.as_ref().is_some_and(Sink::is_full) && self.flush(cx)?.is_pending() {
                self.paused += u32::from(!std::mem::replace(&mut self.waits, true));
                return Poll::Pending;
            }
            if let Some(bytes) = ready!(self.pull(cx))? {
                self.held = self.merged(bytes, cx)?;
            }
        }
    }

    /// Fills `held` if there is something to send.
    fn next_held(&mut self) -> bool {
        if self.held.is_empty() {
            if let Some(next) = self.queue.pop_front() {
                self.held = next;
            } else if !self.gathered.is_empty() {
                self.held = std::mem::take(&mut self.gathered).freeze();
            } else if !self.spare.is_empty() {
                self.held = std::mem::take(&mut self.spare);
            }
        }
        !self.held.is_empty()
    }

    /// Gives the sink what it takes of `held`.
    fn push(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(to) = &mut self.to else { return Poll::Ready(Err(Broken::Sink)) };
        let room = ready!(to.poll_room(cx, self.held.len())).map_err(|Gone| Broken::Sink)?;
        let part =
            if room >= self.held.len() { std::mem::take(&mut self.held) } else { self.held.split_to(room) };
        let last = self.ended
            && self.trailers.is_none()
            && self.held.is_empty()
            && self.queue.is_empty()
            && self.gathered.is_empty()
            && self.spare.is_empty();
        let released = part.len().min(self.owed);
        to.send(part, last).map_err(|Gone| Broken::Sink)?;
        self.given = last;
        if released > 0 {
            self.owed -= released;
            self.from.release(released);
        }
        Poll::Ready(Ok(()))
    }

    /// The next bytes of the source; `None`: it has ended.
    fn pull(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let next = self.from.poll_data(cx);
        self.dry = next.is_pending();
        match ready!(next) {
            Some(Ok(bytes)) => {
                self.account(&bytes);
                // Known now, the end travels with the last bytes rather than in a frame of its own.
                self.ended = self.from.is_end_stream();
                self.end_tap();
                Poll::Ready(Ok(Some(bytes)))
            }
            Some(Err(error)) => Poll::Ready(Err(Broken::Source(error))),
            None => {
                self.trailers = ready!(self.from.poll_trailers(cx)).map_err(Broken::Source)?.map(Box::new);
                if let (Some(noted), Some(trailers)) = (&mut self.noted, &self.trailers) {
                    noted.clone_from(trailers);
                }
                self.ended = true;
                self.end_tap();
                Poll::Ready(Ok(None))
            }
        }
    }

    fn end_tap(&mut self) {
        if self.ended
            && let Some(mut tap) = self.tap.take()
        {
            tap.end(self.trailers.as_deref());
        }
    }

    fn account(&mut self, bytes: &Bytes) {
        self.moved += bytes.len() as u64;
        if let Some(tap) = &mut self.tap {
            tap.take(bytes);
        }
        match &mut self.keep {
            Some(keep) if keep.room >= bytes.len() + KEPT_COST => {
                keep.room -= bytes.len() + KEPT_COST;
                keep.chunks.push(bytes.clone());
                // Kept anyway, it need not wait for the sink.
                self.from.release(bytes.len());
            }
            keep => {
                self.outgrown |= keep.is_some();
                *keep = None;
                self.owed += bytes.len();
            }
        }
    }

    /// `first` and the small frames that wait right behind it: a frame costs its reader more than a small
    /// message does, and many that it does not read may cost it the connection.
    fn merged(&mut self, first: Bytes, cx: &mut Context<'_>) -> Result<Bytes, Broken> {
        if first.len() > SMALL || !self.from.hoards() {
            return Ok(first);
        }
        let mut all = BytesMut::new();
        while !self.ended && self.spare.is_empty() && all.len() < MERGED {
            match self.pull(cx)? {
                Poll::Ready(Some(bytes)) if bytes.len() <= SMALL => {
                    if all.is_empty() {
                        all.extend_from_slice(&first);
                    }
                    all.extend_from_slice(&bytes);
                }
                Poll::Ready(Some(bytes)) => self.spare = bytes,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    /// Takes small frames out of h2 while the sink takes nothing.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        if !self.from.hoards() {
            return Ok(());
        }
        while !self.ended && self.spare.is_empty() && self.gathered.len() < STREAM_WINDOW as usize {
            match self.pull(cx)? {
                Poll::Ready(Some(bytes)) if bytes.len() <= SMALL => self.gathered.extend_from_slice(&bytes),
                Poll::Ready(Some(bytes)) => self.spare = bytes,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Broken> {
        let Some(to) = &mut self.to else { return Err(Broken::Sink) };
        let trailers = if self.keep.is_some() { self.trailers.clone() } else { self.trailers.take() };
        let sent = match trailers {
            Some(trailers) => {
                self.trailers_dropped = !to.takes_trailers();
                to.send_trailers(*trailers)
            }
            None => to.send(Bytes::new(), true),
        };
        self.given = true;
        sent.map_err(|Gone| Broken::Sink)
    }
}
