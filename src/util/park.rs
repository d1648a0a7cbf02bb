//! Waiting on a thread of its own, without a runtime.
//!
//! Takes in what to poll and until when; gives out its value. For a thread that waits for one channel and one
//! time a runtime would be a second sleeper, with timers that wake it on their way.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

/// The means to put the current thread to sleep.
pub struct Park(Waker);

impl Default for Park {
    /// Of the thread that calls it.
    fn default() -> Self {
        Park(Waker::from(Arc::new(Unpark(std::thread::current()))))
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

impl Park {
    /// What `poll` gives, or `None` once it is `due`. To be called on the thread it was made on.
    pub fn until<T>(&mut self, due: Instant, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
        let mut context = Context::from_waker(&self.0);
        loop {
            if let Poll::Ready(value) = poll(&mut context) {
                return Some(value);
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // May end early: then it is polled again.
            std::thread::park_timeout(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::mpsc;

    #[test]
    fn a_value_wakes_and_so_does_the_time() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut park = Park::default();
        let now = Instant::now();
        assert_eq!(park.until(now + Duration::from_millis(1), |cx| receiver.poll_recv(cx)), None);
        assert!(now.elapsed() >= Duration::from_millis(1));
        let sending = std::thread::spawn(move || {
            for n in 0..100 {
                sender.blocking_send(n).unwrap();
            }
        });
        let far = Instant::now() + Duration::from_secs(3600);
        for n in 0..100 {
            assert_eq!(park.until(far, |cx| receiver.poll_recv(cx)), Some(Some(n)));
        }
        assert_eq!(park.until(far, |cx| receiver.poll_recv(cx)), Some(None), "the sender is gone");
        sending.join().unwrap();
    }
}
