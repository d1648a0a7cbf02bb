//! A place in the program that logs without end is heard a few times a second, then counted.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;

/// Lines of one place in one span.
const LINES: u32 = 100;
/// The span.
const SPAN: Duration = Duration::from_secs(1);

struct Place {
    since: Instant,
    lines: u32,
}

static PLACES: LazyLock<Mutex<HashMap<Identifier, Place>>> = LazyLock::new(Mutex::default);

/// Whether the place may log now; then also how many of its lines were left out before. Places are as many as
/// the program has, so their number is bounded.
pub(super) fn admit(place: Identifier, now: Instant) -> Option<u32> {
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let place = places.entry(place).or_insert(Place { since: now, lines: 0 });
    let mut left_out = 0;
    if now.saturating_duration_since(place.since) >= SPAN {
        left_out = place.lines.saturating_sub(LINES);
        *place = Place { since: now, lines: 0 };
    }
    place.lines = place.lines.saturating_add(1);
    (place.lines <= LINES).then_some(left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_told_of() {
        let place = {
            use tracing::callsite::Callsite;
            struct Here;
            impl Callsite for Here {
                fn set_interest(&self, _: tracing::subscriber::Interest) {}
                fn metadata(&self) -> &tracing::Metadata<'_> {
                    unreachable!("nobody asks")
                }
            }
            static HERE: Here = Here;
            Identifier(&HERE)
        };
        let start = Instant::now();
        let admitted =
            |count: u32, at: Duration| (0..count).filter_map(|_| admit(place.clone(), start + at)).count();
        assert_eq!(admitted(LINES + 50, Duration::ZERO), LINES as usize);
        assert_eq!(admit(place.clone(), start + SPAN), Some(50));
        assert_eq!(admitted(LINES, SPAN), LINES as usize - 1);
    }
}
