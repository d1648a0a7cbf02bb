//! Panics: each ends its own stream or connection, is logged as an error, and is counted.

use super::SharedCounter;
use std::sync::Once;

static PANICS: SharedCounter = SharedCounter::new();

/// Panics since [`watch`] was called.
pub fn count() -> u64 {
    PANICS.get()
}

/// From now on panics of any thread go to the process log. To be called once the log is there.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            PANICS.inc();
            let thread = std::thread::current();
            tracing::error!("panic in thread {}: {info}", thread.name().unwrap_or("?"));
        }));
    });
}
