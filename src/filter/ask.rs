//! Questions that filters put to other services while their request waits.
//!
//! A filter says what is to be asked, of which cluster; whoever drives it sends the question with that cluster's
//! load balancing and limits, and brings the answer back with the next visit.

use crate::message::Failure;
use bytes::Bytes;
use std::time::Duration;

/// One question.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Of this cluster, by name.
    pub cluster: String,
    /// HTTP/2 whatever the cluster says.
    pub http2: bool,
    pub method: String,
    /// The host name in it.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// Its fields, lower-cased, no pseudo fields among them.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Bytes,
    /// For all tries together; `None` as long as it takes.
    pub timeout: Option<Duration>,
    /// Longest answer in bytes; a longer one is a failure.
    pub most: usize,
    pub retries: Retries,
}

/// What follows a try that failed, or was answered with 5xx.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    /// Further tries.
    pub count: u32,
    /// Pause before the first of them; doubles from try to try.
    pub base: Duration,
    /// Longest pause.
    pub most: Duration,
}

/// The answer to a question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// HTTP status.
    pub status: u16,
    /// Its fields, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// What followed the body.
    pub trailers: Vec<(String, Vec<u8>)>,
    pub body: Bytes,
}

impl Told {
    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        first(&self.headers, name)
    }

    /// The first trailer of this name.
    pub fn trailer(&self, name: &str) -> Option<&[u8]> {
        first(&self.trailers, name)
    }
}

fn first<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_slice())
}

/// The answer, or why there is none.
pub type Heard = Result<Told, Failure>;
