//! A header block that can be changed, without its protocol.

use super::Head;
use std::borrow::Cow;

/// Read and write access to the fields of a message. Names and values that the protocol cannot carry are passed
/// over, as are fields for which there is no room.
pub trait Headers {
    /// The field's value; several occurrences joined with `,`.
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>>;
    /// Gives `each` the name and value of every field, in order.
    fn each(&self, each: &mut dyn FnMut(&str, &[u8]));
    /// Replaces every occurrence, or adds the field.
    fn set(&mut self, name: &str, value: &[u8]);
    /// Adds a further occurrence.
    fn append(&mut self, name: &str, value: &[u8]);
    /// Removes every occurrence; whether there was one.
    fn remove(&mut self, name: &str) -> bool;
}

/// The head of a request that can be changed. `:path`, `:method` and `:authority` can be set where the protocol
/// has them, and never removed.
pub trait Request: Head + Headers {
    /// As a head to read.
    fn head(&self) -> &dyn Head;
}
