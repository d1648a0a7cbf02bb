//! One timer wheel per worker: 10 ms ticks, O(1) insert and cancel, no allocation per timer.
//!
//! Request deadlines are set and cancelled far more often than they fire, so they must not touch tokio's
//! timer. Three levels of 256 slots reach 46 hours; later deadlines wait in the last slot and go round
//! again. The driver sleeps to the next tick that has work.

use slab::Slab;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// Length of a tick. A sleep ends up to one tick late, never early.
pub const TICK: Duration = Duration::from_millis(10);

const LEVELS: usize = 3;
const BITS: u32 = 8;
const SLOTS: usize = 1 << BITS;
const NONE: u32 = u32::MAX;

/// The timers of one worker.
pub struct Wheel {
    start: Instant,
    inner: RefCell<Inner>,
}

struct Inner {
    timers: Slab<Timer>,
    levels: [Level; LEVELS],
    /// The tick that has been processed last.
    now: u64,
    /// The tick the driver sleeps to.
    armed: u64,
    driver: Option<Waker>,
    due: Vec<Waker>,
}

struct Level {
    heads: Vec<u32>,
    occupied: [u64; SLOTS / 64],
}

struct Timer {
    at: u64,
    prev: u32,
    next: u32,
    place: (u8, u8),
    fired: bool,
    waker: Option<Waker>,
}

impl Wheel {
    /// An empty wheel. Something must poll [`Wheel::run`].
    pub fn new() -> Rc<Self> {
        let level = || Level { heads: vec![NONE; SLOTS], occupied: [0; SLOTS / 64] };
        Rc::new(Wheel {
            start: Instant::now(),
            inner: RefCell::new(Inner {
                timers: Slab::new(),
                levels: [level(), level(), level()],
                now: 0,
                armed: u64::MAX,
                driver: None,
                due: Vec::new(),
            }),
        })
    }

    /// A future that ends at `deadline`. Costs nothing until polled.
    pub fn sleep_until(self: &Rc<Self>, deadline: Instant) -> Sleep {
        Sleep { wheel: self.clone(), deadline, key: None }
    }

    /// A future that ends `after` from now.
    pub fn sleep(self: &Rc<Self>, after: Duration) -> Sleep {
        // A deadline beyond the clock's range is "never" for all purposes.
        let far = Duration::from_secs(86_400 * 365 * 30);
        self.sleep_until(Instant::now() + after.min(far))
    }

    /// Fires timers for ever; one task per worker.
    pub async fn run(self: Rc<Self>) {
        loop {
            let next = {
                let mut inner = self.inner.borrow_mut();
                inner.armed = inner.next_tick();
                inner.armed
            };
            if next == u64::MAX {
                poll_fn(|cx| self.poll_rearmed(cx, next)).await;
                continue;
            }
            let mut sleep = pin!(tokio::time::sleep_until(self.instant(next)));
            poll_fn(|cx| match sleep.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => self.poll_rearmed(cx, next),
            })
            .await;
            self.advance();
        }
    }

    /// Ready when a timer earlier than `armed` has come.
    fn poll_rearmed(&self, cx: &mut Context<'_>, armed: u64) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        if inner.armed < armed {
            return Poll::Ready(());
        }
        if !inner.driver.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            inner.driver = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Runs every tick up to the present.
    fn advance(&self) {
        let target = self.tick_floor(Instant::now());
        let mut due = {
            let mut inner = self.inner.borrow_mut();
            inner.advance_to(target);
            std::mem::take(&mut inner.due)
        };
        for waker in due.drain(..) {
            waker.wake();
        }
        self.inner.borrow_mut().due = due;
    }

    fn tick_floor(&self, at: Instant) -> u64 {
        ticks(at.saturating_duration_since(self.start))
    }

    fn instant(&self, tick: u64) -> Instant {
        self.start + Duration::from_millis(tick.saturating_mul(TICK.as_millis() as u64))
    }
}

fn ticks(duration: Duration) -> u64 {
    (duration.as_millis() / TICK.as_millis()) as u64
}

impl Inner {
    fn insert(&mut self, at: u64, waker: Waker) -> usize {
        let at = at.max(self.now + 1);
        let key = self.timers.insert(Timer {
            at,
            prev: NONE,
            next: NONE,
            place: (0, 0),
            fired: false,
            waker: Some(waker),
        });
        self.link(key as u32);
        if at < self.armed {
            self.armed = at;
            if let Some(driver) = self.driver.take() {
                driver.wake();
            }
        }
        key
    }

    fn link(&mut self, key: u32) {
        let now = self.now;
        let Some(timer) = self.timers.get_mut(key as usize) else { return };
        let distance = timer.at.saturating_sub(now);
        let level = match distance {
            0..=255 => 0,
            256..=65_535 => 1,
            _ => 2,
        };
        let reach = (1u64 << (BITS * (level as u32 + 1))) - 1;
        let slot = ((timer.at.min(now + reach) >> (BITS * level as u32)) as usize) % SLOTS;
        timer.place = (level as u8, slot as u8);
        timer.prev = NONE;
        let Some(level) = self.levels.get_mut(level) else { return };
        let old = level.put(slot, key);
        timer.next = old;
        if let Some(next) = self.timers.get_mut(old as usize) {
            next.prev = key;
        }
    }

    fn unlink(&mut self, key: u32) {
        let Some(timer) = self.timers.get(key as usize) else { return };
        let (prev, next, (level, slot)) = (timer.prev, timer.next, timer.place);
        if let Some(next) = self.timers.get_mut(next as usize) {
            next.prev = prev;
        }
        match self.timers.get_mut(prev as usize) {
            Some(prev) => prev.next = next,
            None => {
                if let Some(level) = self.levels.get_mut(level as usize) {
                    level.set(slot as usize, next);
                }
            }
        }
    }

    fn remove(&mut self, key: usize) {
        if let Some(timer) = self.timers.get(key) {
            if !timer.fired {
                self.unlink(key as u32);
            }
            self.timers.remove(key);
        }
    }

    /// The next tick at which a slot must be looked at.
    fn next_tick(&self) -> u64 {
        let mut best = u64::MAX;
        for (depth, level) in self.levels.iter().enumerate() {
            let shift = BITS * depth as u32;
            let current = self.now >> shift;
            if let Some(ahead) = level.next_occupied(((current + 1) as usize) % SLOTS) {
                best = best.min((current + 1 + ahead as u64) << shift);
            }
        }
        best
    }

    fn advance_to(&mut self, target: u64) {
        while self.now < target {
            let next = self.next_tick();
            if next > target {
                self.now = target;
                return;
            }
            self.now = next;
            self.run_tick();
        }
    }

    fn run_tick(&mut self) {
        for depth in (0..LEVELS).rev() {
            let shift = BITS * depth as u32;
            if self.now & ((1 << shift) - 1) != 0 {
                continue;
            }
            let slot = ((self.now >> shift) as usize) % SLOTS;
            let Some(level) = self.levels.get_mut(depth) else { continue };
            let mut key = level.set(slot, NONE);
            while let Some(timer) = self.timers.get_mut(key as usize) {
                let next = timer.next;
                if timer.at <= self.now {
                    timer.fired = true;
                    self.due.extend(timer.waker.take());
                } else {
                    self.link(key);
                }
                key = next;
            }
        }
    }
}

impl Level {
    fn put(&mut self, slot: usize, key: u32) -> u32 {
        self.set(slot, key)
    }

    fn set(&mut self, slot: usize, key: u32) -> u32 {
        if let Some(word) = self.occupied.get_mut(slot / 64) {
            let bit = 1u64 << (slot % 64);
            *word = if key == NONE { *word & !bit } else { *word | bit };
        }
        self.heads.get_mut(slot).map_or(NONE, |head| std::mem::replace(head, key))
    }

    /// How many slots after `from` (0 = itself) the first occupied one is, going round once.
    fn next_occupied(&self, from: usize) -> Option<usize> {
        (0..=SLOTS / 64).find_map(|step| {
            let index = (from / 64 + step) % (SLOTS / 64);
            let mut word = *self.occupied.get(index)?;
            if step == 0 {
                word &= u64::MAX << (from % 64);
            }
            if step == SLOTS / 64 {
                word &= !(u64::MAX << (from % 64));
            }
            let slot = index * 64 + word.trailing_zeros() as usize;
            (word != 0).then(|| (slot + SLOTS - from) % SLOTS)
        })
    }
}

/// See [`Wheel::sleep_until`].
pub struct Sleep {
    wheel: Rc<Wheel>,
    deadline: Instant,
    key: Option<usize>,
}

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves the end; the next poll uses it.
    pub fn reset(&mut self, deadline: Instant) {
        self.cancel();
        self.deadline = deadline;
    }

    fn cancel(&mut self) {
        if let Some(key) = self.key.take() {
            self.wheel.inner.borrow_mut().remove(key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut inner = this.wheel.inner.borrow_mut();
        if let Some(timer) = this.key.and_then(|key| inner.timers.get_mut(key)) {
            if timer.fired {
                drop(inner);
                this.cancel();
                return Poll::Ready(());
            }
            if !timer.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                timer.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        // Rounded up, so that it never ends early.
        let at =
            ticks(this.deadline.saturating_duration_since(this.wheel.start) + TICK - Duration::from_nanos(1));
        if at <= inner.now && Instant::now() >= this.deadline {
            return Poll::Ready(());
        }
        this.key = Some(inner.insert(at, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::task::{LocalSet, spawn_local};

    fn measure(delays: Vec<u64>) -> Vec<u64> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(LocalSet::new().run_until(async {
            let wheel = Wheel::new();
            let driver = spawn_local(wheel.clone().run());
            let tasks: Vec<_> = delays
                .into_iter()
                .map(|ms| {
                    let wheel = wheel.clone();
                    spawn_local(async move {
                        let begin = Instant::now();
                        wheel.sleep(Duration::from_millis(ms)).await;
                        begin.elapsed().as_millis() as u64
                    })
                })
                .collect();
            let mut took = Vec::new();
            for task in tasks {
                took.push(task.await.unwrap());
            }
            assert_eq!(wheel.inner.borrow().timers.len(), 0);
            driver.abort();
            took
        }))
    }

    proptest! {
        #[test]
        fn never_early_and_at_most_two_ticks_late(
            delays in prop::collection::vec(prop_oneof![0u64..3_000, 0u64..1_000_000, 0u64..400_000_000], 1..40)
        ) {
            for (want, got) in delays.iter().zip(measure(delays.clone())) {
                prop_assert!(got >= *want && got <= want + 21, "wanted {want}, took {got}");
            }
        }
    }

    #[test]
    fn a_dropped_sleep_leaves_nothing() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let wheel = Wheel::new();
            let mut sleep = wheel.sleep(Duration::from_secs(15));
            poll_fn(|cx| {
                assert!(Pin::new(&mut sleep).poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            drop(sleep);
            let inner = wheel.inner.borrow();
            assert!(inner.timers.is_empty() && inner.next_tick() == u64::MAX);
        });
    }
}
