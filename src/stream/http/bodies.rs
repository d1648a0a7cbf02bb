//! Bodies that go through filters, and bodies that are held.

use super::fields::Fields;
use super::source::{Fault, Source};
use crate::filter::Pipeline;
use crate::message::{Failure, Reason};
use crate::net::{Sleep, Unfinished, Wheel};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Parts of a second in which a slowed body moves.
const STEPS: u64 = 16;

/// A body and what it goes through.
pub struct Filtered {
    inner: Source,
    pipeline: Pipeline,
    pace: Option<Pace>,
    /// Came out, and was not given yet.
    ready: Bytes,
    trailers: Option<HeaderMap>,
    ended: bool,
}

/// So many bytes a step.
struct Pace {
    bytes: usize,
    wheel: Rc<Wheel>,
    pause: Option<Sleep>,
}

impl Filtered {
    /// `inner` through `pipeline`.
    pub(super) fn new(inner: Source, pipeline: Pipeline, wheel: &Rc<Wheel>) -> Self {
        let pace = pipeline.rate.map(|rate| Pace {
            bytes: usize::try_from(rate / STEPS).unwrap_or(usize::MAX).max(1),
            wheel: wheel.clone(),
            pause: None,
        });
        Filtered { inner, pipeline, pace, ready: Bytes::new(), trailers: None, ended: false }
    }

    pub(super) fn inner(&self) -> &Source {
        &self.inner
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended && self.ready.is_empty() && self.trailers.is_none()
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if let Some(pause) = self.pace.as_mut().and_then(|pace| pace.pause.as_mut()) {
            ready!(Pin::new(pause).poll(cx));
        }
        loop {
            if !self.ready.is_empty() {
                return Poll::Ready(Some(Ok(self.give())));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.inner.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.inner.release(data.len());
                    match self.pipeline.data(data) {
                        Ok(out) => self.ready = out,
                        Err(failure) => return Poll::Ready(Some(Err(Fault::Http1(failure)))),
                    }
                    if self.inner.is_end_stream()
                        && let Err(fault) = self.end(HeaderMap::new())
                    {
                        return Poll::Ready(Some(Err(fault)));
                    }
                }
                Some(Err(fault)) => return Poll::Ready(Some(Err(fault))),
                None => {
                    let trailers = match ready!(self.inner.poll_trailers(cx)) {
                        Ok(trailers) => trailers.unwrap_or_default(),
                        Err(fault) => return Poll::Ready(Some(Err(fault))),
                    };
                    if let Err(fault) = self.end(trailers) {
                        return Poll::Ready(Some(Err(fault)));
                    }
                }
            }
        }
    }

    pub(super) fn poll_trailers(&mut self) -> Poll<Result<Option<HeaderMap>, Fault>> {
        Poll::Ready(Ok(self.trailers.take()))
    }

    fn end(&mut self, mut trailers: HeaderMap) -> Result<(), Fault> {
        self.ended = true;
        let rest = self.pipeline.end(&mut Fields(&mut trailers)).map_err(Fault::Http1)?;
        self.trailers = (!trailers.is_empty()).then_some(trailers);
        if self.ready.is_empty() {
            self.ready = rest;
        } else if !rest.is_empty() {
            let mut both = BytesMut::from(&*self.ready);
            both.extend_from_slice(&rest);
            self.ready = both.freeze();
        }
        Ok(())
    }

    fn give(&mut self) -> Bytes {
        match &mut self.pace {
            None => std::mem::take(&mut self.ready),
            Some(pace) => {
                let step = Duration::from_secs(1) / STEPS as u32;
                pace.pause = Some(pace.wheel.sleep(step));
                self.ready.split_to(pace.bytes.min(self.ready.len()))
            }
        }
    }
}

/// A whole body, with what it goes through. Its trailers, if the filters leave or make any, are lost.
///
/// # Errors
/// The filters refuse it.
pub(super) fn through(pipeline: &mut Pipeline, whole: Bytes) -> Result<Bytes, Failure> {
    let mut out = BytesMut::from(&*pipeline.data(whole)?);
    out.extend_from_slice(&pipeline.end(&mut Fields(&mut HeaderMap::new()))?);
    Ok(out.freeze())
}

/// A body that is here already, and its trailers.
#[derive(Clone, Default)]
pub struct Held {
    data: Bytes,
    /// Boxed: there are hardly ever any, and every body would have room for them.
    trailers: Option<Box<HeaderMap>>,
}

impl Held {
    /// Made of `parts`; one alone is not copied.
    pub(super) fn new(parts: Vec<Bytes>, trailers: Option<HeaderMap>) -> Self {
        let data = match parts.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            many => many.concat().into(),
        };
        Held { data, trailers: trailers.map(Box::new) }
    }

    /// Its bytes.
    pub(super) fn data(&self) -> &Bytes {
        &self.data
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    pub(super) fn take_data(&mut self) -> Option<Bytes> {
        Some(std::mem::take(&mut self.data)).filter(|data| !data.is_empty())
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().map(|trailers| *trailers)
    }
}

/// A body whose begin was taken in before anybody wanted it.
pub struct Resumed {
    first: Bytes,
    rest: Source,
    /// Bytes of `first` that nobody has released yet; its source needs no telling.
    freed: usize,
}

impl Resumed {
    pub(super) fn inner(&self) -> &Source {
        &self.rest
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_end_stream()
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        self.rest.poll_data(cx)
    }

    pub(super) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Fault>> {
        self.rest.poll_trailers(cx)
    }

    pub(super) fn release(&mut self, bytes: usize) {
        let own = bytes.min(self.freed);
        self.freed -= own;
        self.rest.release(bytes - own);
    }
}

/// Takes in at least `most` bytes of a request's body, or all of it; gives them, and whether that is all. The body
/// is whole again afterwards.
///
/// # Errors
/// Too many bytes are held, or its client broke it off.
pub(super) async fn peek(
    body: &mut Source,
    most: usize,
    mut count: Unfinished,
) -> Result<(Bytes, bool), Failure> {
    let mut parts = BytesMut::new();
    let trailers = poll_fn(|cx| {
        while parts.len() < most {
            match ready!(body.poll_data(cx)) {
                Some(Ok(part)) => {
                    if !count.add(part.len()) {
                        return Poll::Ready(Err(Failure::before(Reason::TooLarge)));
                    }
                    body.release(part.len());
                    parts.extend_from_slice(&part);
                }
                Some(Err(fault)) => return Poll::Ready(Err(fault.of_client())),
                None => {
                    let trailers = ready!(body.poll_trailers(cx)).map_err(|fault| fault.of_client())?;
                    return Poll::Ready(Ok(Some(trailers)));
                }
            }
        }
        Poll::Ready(Ok(None))
    })
    .await?;
    let first = parts.freeze();
    let data = first.slice(..first.len().min(most));
    let inner = std::mem::take(body);
    let whole = trailers.is_some() || (first.len() <= most && inner.is_end_stream());
    *body = match trailers {
        Some(trailers) => Source::Held(Held { data: first, trailers: trailers.map(Box::new) }),
        None => Source::Resumed(Box::new(Resumed { freed: first.len(), first, rest: inner })),
    };
    Ok((data, whole))
}

/// Takes a request's body in to its end.
///
/// # Errors
/// It is longer than `limit`, too many are held, or its client broke it off.
pub(super) async fn hold(body: &mut Source, limit: usize, mut count: Unfinished) -> Result<Held, Failure> {
    let mut parts = BytesMut::new();
    let too_large = || Failure::before(Reason::TooLarge);
    let trailers = poll_fn(|cx| {
        loop {
            match ready!(body.poll_data(cx)) {
                Some(Ok(part)) => {
                    if parts.len() + part.len() > limit || !count.add(part.len()) {
                        return Poll::Ready(Err(too_large()));
                    }
                    body.release(part.len());
                    parts.extend_from_slice(&part);
                }
                Some(Err(fault)) => return Poll::Ready(Err(fault.of_client())),
                None => return body.poll_trailers(cx).map_err(|fault| fault.of_client()),
            }
        }
    })
    .await?;
    Ok(Held { data: parts.freeze(), trailers: trailers.map(Box::new) })
}
