//! Frame headers of one direction, found in the bytes however they are cut, and what they say about the peer.
//!
//! [`Follower`] watches what a peer sends, [`Echo`] what it makes this side send.

use smallvec::SmallVec;
use std::time::Duration;
use tokio::time::Instant;

/// Over how long frames are counted.
const SECOND: Duration = Duration::from_secs(1);
/// Empty DATA frames after which a connection is to be retired: h2 ends one at 100 in its life. Only those
/// that could not be taken out count.
const EMPTY_DATA: u32 = 50;
/// Length of the client's preface.
pub(super) const PREFACE: usize = 24;
pub(super) const FRAME_HEAD: usize = 9;

pub(super) const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const END_STREAM: u8 = 1;
pub(super) const PADDED: u8 = 8;
/// No kind of frame: a reset of ours that the peer provoked.
const PROVOKED: u8 = 0xff;

/// Kinds of frames bounded per second. Orders of magnitude above what peers send in earnest, and cheap to
/// serve at the limit: clients measuring bandwidth send a PING per round trip, cancelling ones were seen at
/// 2,000 resets a second. Nobody breaks the rules of a stream 200 times a second by mistake.
const PER_SECOND: [(u8, u32); 6] =
    [(PING, 1000), (SETTINGS, 100), (PRIORITY, 1000), (RST_STREAM, 5000), (DATA, 10_000), (PROVOKED, 200)];

/// A frame header.
struct Head {
    len: usize,
    kind: u8,
    flags: u8,
    /// It lies wholly in the bytes it was found in.
    whole: bool,
}

/// Finds headers.
#[derive(Default)]
struct Heads {
    /// Bytes until the next header.
    skip: usize,
    head: [u8; FRAME_HEAD],
    /// Bytes of `head` that have come.
    have: usize,
}

impl Heads {
    /// Moves `at` behind the next header of `bytes`; `None` where they end before that.
    fn next(&mut self, bytes: &[u8], at: &mut usize) -> Option<Head> {
        let skipped = self.skip.min(bytes.len().saturating_sub(*at));
        self.skip -= skipped;
        *at += skipped;
        let missing = self.head.get_mut(self.have..).unwrap_or_default();
        let rest = bytes.get(*at..).unwrap_or_default();
        let taken = missing.len().min(rest.len());
        for (to, from) in missing.iter_mut().zip(rest) {
            *to = *from;
        }
        *at += taken;
        self.have += taken;
        if self.have < FRAME_HEAD {
            return None;
        }
        self.have = 0;
        let [a, b, c, kind, flags, ..] = self.head;
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = len;
        Some(Head { len, kind, flags, whole: taken == FRAME_HEAD })
    }
}

/// Follows the frames a peer sends.
#[derive(Default)]
pub(super) struct Follower {
    heads: Heads,
    since: Option<Instant>,
    pub(super) counts: [u32; PER_SECOND.len()],
    pub(super) empty_data: u32,
    /// The peer's first SETTINGS have come.
    pub(super) greeted: bool,
    pub(super) goaway: bool,
    /// There was more than anybody needs.
    pub(super) flooded: bool,
}

impl Follower {
    /// Frames begin after `skip` bytes.
    pub(super) fn after(skip: usize) -> Self {
        Follower { heads: Heads { skip, ..Heads::default() }, ..Follower::default() }
    }

    /// Follows `bytes` and moves what is left of them to their front; returns its length.
    pub(super) fn follow(&mut self, bytes: &mut [u8]) -> usize {
        let mut cuts: SmallVec<[usize; 8]> = SmallVec::new();
        let mut at = 0;
        while let Some(head) = self.heads.next(bytes, &mut at) {
            if self.on_frame(&head) {
                cuts.push(at - FRAME_HEAD);
            }
        }
        cut(bytes, &cuts)
    }

    /// Whether the peer wants no new streams, or the connection is near a limit of h2.
    pub(super) fn is_worn(&self) -> bool {
        self.goaway || self.empty_data >= EMPTY_DATA
    }

    /// Returns whether the header, which is the whole frame, is to be taken out.
    fn on_frame(&mut self, head: &Head) -> bool {
        match head.kind {
            DATA if head.flags & END_STREAM != 0 => {}
            DATA if head.len == 0 => {
                self.count(DATA);
                if head.whole {
                    return true;
                }
                self.empty_data += 1;
            }
            // Padding alone is as empty to h2, but takes of the window; a short padded frame is taken for one,
            // which costs nothing but an early retirement.
            DATA if head.flags & PADDED != 0 && head.len <= 256 => self.empty_data += 1,
            DATA => {}
            GOAWAY => self.goaway = true,
            kind => {
                self.greeted |= kind == SETTINGS;
                self.count(kind);
            }
        }
        false
    }

    /// A reset left here with `code`, RFC 9113 7. Those that say the peer broke a rule count: each lets it open
    /// another stream, as a reset of its own would, and makes the same work.
    pub(super) fn on_own_reset(&mut self, code: u32) {
        const PROTOCOL_ERROR: u32 = 1;
        const FLOW_CONTROL_ERROR: u32 = 3;
        const STREAM_CLOSED: u32 = 5;
        const FRAME_SIZE_ERROR: u32 = 6;
        if matches!(code, PROTOCOL_ERROR | FLOW_CONTROL_ERROR | STREAM_CLOSED | FRAME_SIZE_ERROR) {
            self.count(PROVOKED);
        }
    }

    fn count(&mut self, kind: u8) {
        let Some(at) = PER_SECOND.iter().position(|(bounded, _)| *bounded == kind) else { return };
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) >= SECOND) {
            self.since = Some(now);
            self.counts = Default::default();
        }
        if let (Some(count), Some((_, limit))) = (self.counts.get_mut(at), PER_SECOND.get(at)) {
            *count += 1;
            self.flooded |= *count > *limit;
        }
    }
}

/// Follows the frames this side sends, for its resets.
#[derive(Default)]
pub(super) struct Echo {
    heads: Heads,
    /// Bytes of a reset's code still to come.
    missing: usize,
    code: u32,
}

impl Echo {
    /// Frames begin after `skip` bytes.
    pub(super) fn after(skip: usize) -> Self {
        Echo { heads: Heads { skip, ..Heads::default() }, ..Echo::default() }
    }

    /// Calls `on_reset` with the code of every reset that ends in `bytes`.
    pub(super) fn follow(&mut self, bytes: &[u8], mut on_reset: impl FnMut(u32)) {
        let mut at = 0;
        loop {
            while self.missing > 0 {
                let Some(byte) = bytes.get(at) else { return };
                at += 1;
                self.code = self.code << 8 | u32::from(*byte);
                self.missing -= 1;
                if self.missing == 0 {
                    on_reset(self.code);
                }
            }
            match self.heads.next(bytes, &mut at) {
                Some(head) if head.kind == RST_STREAM => {
                    self.missing = std::mem::take(&mut self.heads.skip);
                    self.code = 0;
                }
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// Takes the frame headers at `cuts` (ascending) out of `bytes`; returns the length that is left.
fn cut(bytes: &mut [u8], cuts: &[usize]) -> usize {
    let Some((&first, _)) = cuts.split_first() else { return bytes.len() };
    let mut left = first;
    for (i, &start) in cuts.iter().enumerate() {
        let kept = start + FRAME_HEAD..cuts.get(i + 1).copied().unwrap_or(bytes.len());
        let len = kept.len();
        bytes.copy_within(kept, left);
        left += len;
    }
    left
}

#[cfg(test)]
mod tests;
