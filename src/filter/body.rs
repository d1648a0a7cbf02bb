//! Bodies on their way through filters.

use crate::message::{Failure, Headers};
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// One filter's part in one body.
pub trait Body {
    /// What becomes of `data`, which may be nothing yet. What comes out must be readable by itself as far as it
    /// goes: somebody may wait for it.
    ///
    /// # Errors
    /// The body is not what its head said; the message ends.
    fn data(&mut self, data: Bytes) -> Result<Bytes, Failure>;

    /// The body has ended, with `trailers`, which may be empty and may be changed. Gives what is still to come.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    fn end(&mut self, trailers: &mut dyn Headers) -> Result<Bytes, Failure> {
        let _ = trailers;
        Ok(Bytes::new())
    }
}

/// The filters of one body, in the order it passes them.
#[derive(Default)]
pub struct Pipeline {
    stages: SmallVec<[Box<dyn Body>; 2]>,
    /// Bytes a second that leave it; `None` as fast as it can.
    pub rate: Option<u64>,
}

impl Pipeline {
    /// Whether bodies pass as they are.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty() && self.rate.is_none()
    }

    /// Adds a filter after those that are there.
    pub fn push(&mut self, stage: Box<dyn Body>) {
        self.stages.push(stage);
    }

    /// What becomes of `data`.
    ///
    /// # Errors
    /// As [`Body::data`].
    pub fn data(&mut self, data: Bytes) -> Result<Bytes, Failure> {
        through(&mut self.stages, data)
    }

    /// What is left when the body has ended.
    ///
    /// # Errors
    /// As [`Body::data`].
    pub fn end(&mut self, trailers: &mut dyn Headers) -> Result<Bytes, Failure> {
        let mut rest = Bytes::new();
        for at in 0..self.stages.len() {
            let Some((stage, after)) = self.stages.get_mut(at..).and_then(|s| s.split_first_mut()) else {
                break;
            };
            let own = stage.end(trailers)?;
            rest = joined(rest, through(after, own)?);
        }
        Ok(rest)
    }
}

fn through(stages: &mut [Box<dyn Body>], mut data: Bytes) -> Result<Bytes, Failure> {
    for stage in stages {
        if data.is_empty() {
            break;
        }
        data = stage.data(data)?;
    }
    Ok(data)
}

fn joined(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    if second.is_empty() {
        return first;
    }
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(&first);
    both.extend_from_slice(&second);
    both.freeze()
}
