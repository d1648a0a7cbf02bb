//! Any bytes as any resource: the translator never panics, a refusal has a reason on one line, and the same
//! bytes always mean the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mizzen::translate::{Rejection, Translated, envoy};
use std::fmt::Debug;

fn check<T: PartialEq + Debug>(bytes: &[u8], read: fn(&[u8]) -> Result<Translated<T>, Rejection>) {
    let verdict = read(bytes);
    if let Err(rejection) = &verdict {
        assert!(!rejection.findings.is_empty());
        for finding in &rejection.findings {
            assert_eq!(finding.value.lines().count().max(1), 1, "{finding:?}");
        }
    }
    assert_eq!(verdict, read(bytes));
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 => check(bytes, envoy::listener),
        1 => check(bytes, envoy::cluster),
        2 => check(bytes, envoy::route),
        _ => check(bytes, envoy::endpoints),
    }
});
