//! `x-request-id`: made where there is none, and telling whether and why the request is traced.
//!
//! Ids are settled when a request arrives, what they tell when its route is known, which may have shares of its own.
//! What traces themselves consist of (`traceparent`, `tracestate`, B3's fields) is the application's: it passes
//! through as it came.

use crate::model::runtime::fraction_now;
use crate::model::{RequestId, Sampling};
use crate::util::random::Random;
use crate::util::text::push_uuid;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_TRACE: HeaderName = HeaderName::from_static("x-client-trace-id");
const FORCE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

/// The digit that tells, counted from 0.
const PLACE: usize = 14;
/// Length of a UUID as text.
const LENGTH: usize = 36;

/// Why a request is traced, as the digit has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trace {
    No = b'4' as isize,
    Sampled = b'9' as isize,
    Forced = b'a' as isize,
    Client = b'b' as isize,
}

/// Settles the id of a request. `there`: it has brought one; `at_edge`: it comes from outside, and this proxy is
/// the first.
pub(super) fn identify(
    headers: &mut HeaderMap,
    there: bool,
    config: &RequestId,
    at_edge: bool,
    random: &Random,
) {
    if config.generate {
        if !there || (at_edge && !config.preserve_external) {
            let mut id = Vec::with_capacity(LENGTH);
            push_uuid([random.next(), random.next()], &mut id);
            set(headers, id);
        } else {
            if at_edge && config.carries_reason {
                // Whoever is outside does not decide on tracing here.
                mark(headers, Trace::No);
            }
            if let Some(id) = headers.get_mut(REQUEST_ID) {
                id.set_sensitive(true);
            }
        }
    }
}

/// Decides whether a request is traced, and has its id say so; whether that changed the id.
pub(super) fn sample(
    headers: &mut HeaderMap,
    sampling: &Sampling,
    carries_reason: bool,
    random: &Random,
) -> bool {
    let id = headers.get(REQUEST_ID).map(HeaderValue::as_bytes);
    let number = id.and_then(|id| std::str::from_utf8(id.get(..8)?).ok());
    // An id that is no UUID decides nothing.
    let Some(number) = number.and_then(|digits| u64::from_str_radix(digits, 16).ok()) else { return false };
    let draw = number % 10_000;
    let told = id.filter(|id| carries_reason && id.len() == LENGTH).and_then(|id| id.get(PLACE)).copied();
    let told = match told {
        Some(b'9') => Trace::Sampled,
        Some(b'a') => Trace::Forced,
        Some(b'b') => Trace::Client,
        _ => Trace::No,
    };
    let mut decided = told;
    if told == Trace::No {
        let asked = headers.contains_key(CLIENT_TRACE);
        if asked && is_within("tracing.client_enabled", sampling.client, random.next()) {
            decided = Trace::Client;
        } else if headers.contains_key(FORCE) {
            decided = Trace::Forced;
        } else if is_within("tracing.random_sampling", sampling.random, draw) {
            decided = Trace::Sampled;
        }
    }
    if decided != Trace::No && !is_within("tracing.global_enabled", sampling.overall, draw) {
        decided = Trace::No;
    }
    let changes = decided != told && carries_reason;
    if changes {
        mark(headers, decided);
    }
    changes
}

/// Whether a number is within a share, which runtime may set.
fn is_within(key: &str, share: (u32, u32), number: u64) -> bool {
    let (numerator, denominator) = fraction_now(key).unwrap_or(share);
    number % u64::from(denominator.max(1)) < u64::from(numerator)
}

/// Writes the digit into an id that has a place for it.
fn mark(headers: &mut HeaderMap, trace: Trace) {
    let Some(id) = headers.get(REQUEST_ID).filter(|id| id.len() == LENGTH) else { return };
    let mut id = id.as_bytes().to_vec();
    if let Some(digit) = id.get_mut(PLACE) {
        *digit = trace as u8;
        set(headers, id);
    }
}

/// A map that is full keeps what it has. What no HPACK table is to hold: each value comes once, and would drive out
/// what comes again.
fn set(headers: &mut HeaderMap, id: Vec<u8>) {
    if let Ok(mut id) = HeaderValue::from_maybe_shared(Bytes::from(id)) {
        id.set_sensitive(true);
        let _ = headers.try_insert(REQUEST_ID, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::runtime::go_by;
    use crate::model::{Runtime, RuntimeValue};
    use std::sync::Arc;

    const ID: &str = "00000001-0000-4000-8000-000000000000";

    fn config(client: u32, random: u32, overall: u32) -> RequestId {
        let of = |share| (share, 10_000);
        let sampling = Sampling { client: of(client), random: of(random), overall: of(overall) };
        RequestId { sampling: Some(sampling), ..RequestId::default() }
    }

    fn settled(headers: &[(&'static str, &'static str)], config: &RequestId, at_edge: bool) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let there = map.contains_key(REQUEST_ID);
        let random = Random::seeded(3);
        identify(&mut map, there, config, at_edge, &random);
        let before = map.get(REQUEST_ID).cloned();
        let changes = config.sampling.is_some_and(|of| sample(&mut map, &of, config.carries_reason, &random));
        assert_eq!(changes, before.as_ref() != map.get(REQUEST_ID), "{before:?}");
        map.get(REQUEST_ID).map(|id| id.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    fn digit(id: &str) -> char {
        assert_eq!(id.len(), LENGTH, "{id}");
        id.as_bytes()[PLACE].into()
    }

    #[test]
    fn ids_are_made_kept_and_replaced_as_configured() {
        let plain = RequestId::default();
        assert_eq!(digit(&settled(&[], &plain, true)), '4');
        assert_eq!(settled(&[("x-request-id", "own")], &plain, false), "own");
        assert_ne!(settled(&[("x-request-id", "own")], &plain, true), "own");
        let keeping = RequestId { preserve_external: true, ..plain };
        let traced = "00000001-0000-9000-8000-000000000000";
        assert_eq!(settled(&[("x-request-id", traced)], &keeping, true), ID, "outside decides nothing");
        assert_eq!(settled(&[("x-request-id", traced)], &keeping, false), traced);
        let off = RequestId { generate: false, ..plain };
        assert_eq!(settled(&[], &off, true), "");
    }

    #[test]
    fn the_reason_is_the_first_that_holds() {
        let id = ("x-request-id", ID);
        let of = |more: &[(&'static str, &'static str)], config: RequestId| {
            let mut headers = vec![id];
            headers.extend_from_slice(more);
            digit(&settled(&headers, &config, false))
        };
        assert_eq!(of(&[], config(10_000, 0, 10_000)), '4');
        assert_eq!(of(&[], config(0, 2, 10_000)), '9', "the id's number is 1");
        assert_eq!(of(&[], config(0, 1, 10_000)), '4');
        assert_eq!(of(&[("x-envoy-force-trace", "1")], config(0, 0, 10_000)), 'a');
        let client = [("x-client-trace-id", "x"), ("x-envoy-force-trace", "1")];
        assert_eq!(of(&client, config(10_000, 0, 10_000)), 'b');
        assert_eq!(of(&client, config(10_000, 10_000, 1)), '4', "overall sampling has the last word");
        let mut values = Runtime::default();
        values.set("tracing.random_sampling", RuntimeValue::Number(100.0));
        go_by(&Arc::new(values));
        assert_eq!(of(&[], config(0, 0, 10_000)), '9', "runtime has the last word on a share");
        go_by(&Arc::default());
        let silent = RequestId { carries_reason: false, ..config(0, 10_000, 10_000) };
        assert_eq!(of(&[], silent), '4');
        assert_eq!(settled(&[("x-request-id", "no number")], &config(0, 10_000, 10_000), false), "no number");
    }
}
