//! A copy of a body that is passing by, for who wants it whole.

use super::bodies::Held;
use bytes::Bytes;
use http::HeaderMap;

/// Who gets the copy; `None`: the body is too large to be kept.
type Taker = Box<dyn FnOnce(Option<Held>)>;

/// See the module. A body that breaks off is given to nobody.
pub struct Tap {
    parts: Vec<Bytes>,
    room: usize,
    taker: Option<Taker>,
}

impl Tap {
    /// Keeps up to `room` bytes.
    pub fn new(room: usize, taker: impl FnOnce(Option<Held>) + 'static) -> Self {
        Tap { parts: Vec::new(), room, taker: Some(Box::new(taker)) }
    }

    /// A part passes by.
    pub fn take(&mut self, part: &Bytes) {
        if self.taker.is_none() {
            return;
        }
        match self.room.checked_sub(part.len()) {
            Some(room) => {
                self.room = room;
                self.parts.push(part.clone());
            }
            None => {
                self.parts = Vec::new();
                self.give(None);
            }
        }
    }

    /// The body has ended.
    pub fn end(&mut self, trailers: Option<&HeaderMap>) {
        let parts = std::mem::take(&mut self.parts);
        self.give(Some(Held::new(parts, trailers.cloned())));
    }

    fn give(&mut self, whole: Option<Held>) {
        if let Some(taker) = self.taker.take() {
            taker(whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    fn given(room: usize, parts: &[&'static str], ends: bool) -> Vec<Option<usize>> {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let taken = seen.clone();
        let mut tap = Tap::new(room, move |whole| {
            taken.borrow_mut().push(whole.map(|whole| whole.data().len()));
        });
        parts.iter().for_each(|part| tap.take(&Bytes::from_static(part.as_bytes())));
        if ends {
            tap.end(None);
        }
        drop(tap);
        seen.take()
    }

    #[test]
    fn bodies_are_given_once_whole_or_not_at_all() {
        assert_eq!(given(4, &["ab", "cd"], true), [Some(4)]);
        assert_eq!(given(4, &[], true), [Some(0)]);
        assert_eq!(given(3, &["ab", "cd", "ef"], true), [None]);
        assert_eq!(given(4, &["ab"], false), []);
    }
}
