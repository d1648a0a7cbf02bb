//! The side channel: how the bolt header map looked, without its values.
//!
//! ```text
//! x-mizzen-bolt:       [ ":" ] ( mark key "," )*
//!                        ":"   the class name is escaped
//!                        mark  "" plain value | "?" null value | "/" escaped value
//!                        key   "@" null, else with its case, %xx for bytes that are no token characters
//! x-mizzen-bolt-sums:  four characters for every pair of which more than its place is restored
//! ```
//! Calls of one kind have the same layout whatever their values, so HPACK sends it as one byte; the sums change
//! with the values and are few. A sum says whether a flat header is still the one that was sent. It is no
//! secret and guards nothing: whatever it says, keys and values come from the flat headers.

use super::names::{escape, is_key_char};

/// What is special about a pair's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing: the flat value is the value.
    Plain,
    /// It is null; the flat value is empty.
    Null,
    /// The flat value is escaped.
    Escaped,
}

/// A pair as the layout tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// About its value.
    pub mark: Mark,
    /// Its key, escaped; `None` = null.
    pub key: Option<&'a [u8]>,
}

impl Entry<'_> {
    /// Whether more than the pair's place must be restored, so that a sum is sent with it.
    pub fn needs_sum(&self) -> bool {
        self.mark != Mark::Plain || self.key.is_some_and(|key| key.iter().any(u8::is_ascii_uppercase))
    }
}

/// Collects the side channel while a header map is flattened.
pub struct Writer {
    /// The layout so far.
    pub layout: Vec<u8>,
    /// The sums so far.
    pub sums: Vec<u8>,
    entries: usize,
    plain: bool,
}

impl Writer {
    /// For one frame.
    pub fn new(class_escaped: bool, capacity: usize) -> Self {
        let mut layout = Vec::with_capacity(capacity);
        if class_escaped {
            layout.push(b':');
        }
        Writer { layout, sums: Vec::new(), entries: 0, plain: !class_escaped }
    }

    /// Adds a pair, of which `flat` is the value on the HTTP side.
    pub fn push(&mut self, key: Option<&[u8]>, mark: Mark, flat: &[u8]) {
        match mark {
            Mark::Plain => {}
            Mark::Null => self.layout.push(b'?'),
            Mark::Escaped => self.layout.push(b'/'),
        }
        let start = self.layout.len();
        match key {
            None => self.layout.push(b'@'),
            Some(key) if key.iter().copied().all(is_key_char) => self.layout.extend_from_slice(key),
            Some(key) => escape(key, is_key_char, &mut self.layout),
        }
        let written = key.map(|_| self.layout.get(start..).unwrap_or_default());
        if (Entry { mark, key: written }).needs_sum() {
            self.sums.extend_from_slice(&sum(flat));
            self.plain = false;
        }
        self.layout.push(b',');
        self.entries += 1;
    }

    /// Whether the flat headers alone say everything: nothing special and no order to lose.
    pub fn is_needless(&self) -> bool {
        self.plain && self.entries <= 1
    }
}

/// A received side channel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader<'a> {
    layout: &'a [u8],
    sums: &'a [u8],
    /// Whether the class name is escaped.
    pub class_escaped: bool,
}

impl<'a> Reader<'a> {
    /// Over the two headers' values.
    pub fn new(layout: &'a [u8], sums: &'a [u8]) -> Self {
        match layout.strip_prefix(b":") {
            Some(layout) => Reader { layout, sums, class_escaped: true },
            None => Reader { layout, sums, class_escaped: false },
        }
    }
}

impl<'a> Iterator for Reader<'a> {
    /// The pair, and its sum if it has one.
    type Item = (Entry<'a>, Option<[u8; 4]>);

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.layout.iter().position(|&byte| byte == b',')?;
        let (text, rest) = self.layout.split_at_checked(end)?;
        self.layout = rest.get(1..)?;
        let (mark, key) = match text.first() {
            Some(b'?') => (Mark::Null, text.get(1..)?),
            Some(b'/') => (Mark::Escaped, text.get(1..)?),
            _ => (Mark::Plain, text),
        };
        let entry = Entry { mark, key: (key != b"@").then_some(key) };
        let mut sum = None;
        if entry.needs_sum()
            && let Some((first, rest)) = self.sums.split_first_chunk::<4>()
        {
            sum = Some(*first);
            self.sums = rest;
        }
        Some((entry, sum))
    }
}

/// 24 bits of a value, as four characters.
pub fn sum(value: &[u8]) -> [u8; 4] {
    const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let mut words = value.chunks_exact(8);
    let mut hash = value.len() as u64;
    for word in &mut words {
        hash = mix(hash, u64::from_le_bytes(word.try_into().unwrap_or_default()));
    }
    let tail = words.remainder().iter().fold(0, |tail, &byte| tail << 8 | u64::from(byte));
    hash = mix(mix(hash, tail), 0);
    let digit = |at: u32| DIGITS.get((hash >> at & 63) as usize).copied().unwrap_or_default();
    [digit(40), digit(46), digit(52), digit(58)]
}
