//! A request's hash, for load balancers that keep like requests together. The same number as Envoy's.

use super::RouteSpec;
use crate::message::Head;
use crate::model::{DrawBy, HashPolicy, HashSource, query_parameter};
use crate::util::hash::xxh64;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

/// What the hash policies of a route make of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hash {
    /// `None`: nothing to hash, pick at random.
    pub value: Option<u64>,
    /// Cookies that were made up, for the response.
    pub cookies: Vec<NewCookie>,
}

/// A cookie that was made up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCookie {
    /// The value of `set-cookie`.
    pub header: String,
}

impl RouteSpec {
    /// Whether there is anything to hash by; [`RouteSpec::hash`] gives nothing otherwise.
    pub fn has_hash(&self) -> bool {
        self.options().is_some_and(|options| !options.hash.is_empty())
    }

    /// Whether weighted clusters are drawn by the hash.
    pub fn draws_by_hash(&self) -> bool {
        self.options().is_some_and(|options| options.draw == DrawBy::Hash && !options.hash.is_empty())
    }

    /// Hashes `head`. `client` is the address it came from; `random` fills cookies that are made up.
    pub fn hash<H: Head + ?Sized>(&self, head: &H, client: Option<IpAddr>, random: u64) -> Hash {
        let mut hash = Hash::default();
        for policy in self.options().map(|options| options.hash.as_slice()).unwrap_or_default() {
            if let Some(new) = hash_of(policy, head, client, random, &mut hash.cookies) {
                // Turned by a bit, so that two equal ones do not cancel each other.
                hash.value = Some(hash.value.map_or(0, |old| old.rotate_left(1)) ^ new);
            }
            if policy.terminal && hash.value.is_some() {
                break;
            }
        }
        hash
    }
}

fn hash_of<H: Head + ?Sized>(
    policy: &HashPolicy,
    head: &H,
    client: Option<IpAddr>,
    random: u64,
    cookies: &mut Vec<NewCookie>,
) -> Option<u64> {
    match &policy.source {
        HashSource::Header { name, rewrite } => {
            let mut values: Vec<Vec<u8>> = Vec::new();
            head.each_value(name, &mut |value| values.push(value.to_vec()));
            if values.is_empty() {
                return None;
            }
            if let Some((regex, substitution)) = rewrite {
                values.iter_mut().for_each(|value| *value = regex.replace_all(value, substitution));
            }
            // In whatever order they came.
            values.sort_unstable();
            Some(values.iter().fold(0, |seed, value| xxh64(value, seed)))
        }
        HashSource::Cookie { name, ttl, path, attributes } => match (cookie(head, name), ttl) {
            (Some(value), _) => Some(xxh64(&value, 0)),
            (None, None) => None,
            (None, Some(ttl)) => {
                // Two policies of one request get two values.
                let value = format!("{:016x}", random.rotate_left(u32::try_from(cookies.len()).unwrap_or(0)));
                let header = set_cookie(name, &value, path, *ttl, attributes);
                cookies.push(NewCookie { header });
                Some(xxh64(value.as_bytes(), 0))
            }
        },
        HashSource::SourceIp => Some(xxh64(client?.to_string().as_bytes(), 0)),
        HashSource::QueryParameter(name) => Some(xxh64(query_parameter(head.path_and_query()?, name)?, 0)),
    }
}

/// The first cookie of that name that has a value.
fn cookie<H: Head + ?Sized>(head: &H, name: &str) -> Option<Vec<u8>> {
    let mut found = None;
    head.each_value("cookie", &mut |line| {
        for part in line.split(|b| *b == b';') {
            let part = part.trim_ascii();
            let Some(end) = part.iter().position(|b| *b == b'=') else { continue };
            let (key, value) = part.split_at(end);
            let value = value.get(1..).unwrap_or_default();
            let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
            if found.is_none() && key == name.as_bytes() {
                found = Some(value.to_vec());
            }
        }
    });
    found.filter(|value| !value.is_empty())
}

fn set_cookie(name: &str, value: &str, path: &str, ttl: Duration, attributes: &[(String, String)]) -> String {
    let mut header = format!("{name}=\"{value}\"");
    // Writing to a string cannot fail.
    if !ttl.is_zero() {
        let _ = write!(header, "; Max-Age={}", ttl.as_secs());
    }
    if !path.is_empty() {
        let _ = write!(header, "; Path={path}");
    }
    for (name, value) in attributes {
        let _ =
            if value.is_empty() { write!(header, "; {name}") } else { write!(header, "; {name}={value}") };
    }
    header.push_str("; HttpOnly");
    header
}
