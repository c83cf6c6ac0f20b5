//! How many rows the next batch may take: sized by time, so that a batch holds its locks for about as long
//! whatever the rows weigh.

use std::time::Duration;

use crate::postgres::Patience;

const START: i64 = 1_000;
const MAX: i64 = 10_000;
/// A batch shorter than this may grow, …
pub(super) const SHORT: Duration = Duration::from_millis(50);
/// … and one longer than this shrinks.
const LONG: Duration = Duration::from_millis(100);
/// Where it might be felt, batches are so many times shorter: 0.8 to 1.6 ms, and a commit that waits for no flush.
/// Who wakes up while one has the processor waits for the rest of it, and a commit flushes what the one before it has
/// written: with twice that long the main app waits several times as often for more than a millisecond
/// (`docs/measurements.md`).
const GENTLY: u32 = 64;
/// The part of its first size below which a gentle batch gets only where it takes longer than any should. Most of a short
/// batch may be a long way to the database, or a slow disk: it would be no shorter with a single row.
const LEAST: i64 = 64;

/// The size of the next batch, in rows.
#[derive(Debug, Clone)]
pub struct BatchSize {
    rows: i64,
    max: i64,
    /// Where a gentle one begins, and shrinks no further.
    gentle: i64,
}

impl BatchSize {
    /// Sized by the worker, or at most `configured` rows.
    #[must_use]
    pub fn new(configured: Option<u32>) -> Self {
        let max = configured.map_or(MAX, i64::from).max(1);
        Self {
            rows: configured.map_or(START, i64::from).clamp(1, max),
            max,
            gentle: (START / LEAST).min(max),
        }
    }

    /// Sized by the worker, from `start` on: for what costs more than a row that goes.
    #[must_use]
    pub fn starting_at(start: i64) -> Self {
        Self {
            rows: start,
            max: MAX,
            gentle: (start / LEAST).max(1),
        }
    }

    /// Rows that the next batch may take.
    #[must_use]
    pub fn rows(&self) -> i64 {
        self.rows
    }

    /// How long each of its statements may take. The main app waits that long, if it wants a row of the batch: more than
    /// a moment only where there is nothing smaller.
    #[must_use]
    pub fn patience(&self) -> Patience {
        if self.rows > 1 {
            Patience::Short
        } else {
            Patience::Long
        }
    }

    /// Follows the time that a full batch took; gently, where it might be felt elsewhere.
    pub fn follow(&mut self, elapsed: Duration, gently: bool) {
        let felt = if gently { elapsed * GENTLY } else { elapsed };
        if felt < SHORT || (elapsed < SHORT && self.rows < self.gentle) {
            self.rows = (self.rows * 2).min(self.max);
        } else if elapsed > LONG {
            self.rows = (self.rows / 2).max(1);
        } else if felt > LONG {
            self.rows = (self.rows / 2).max(self.gentle.min(self.rows));
        }
    }

    /// Begins gently, whatever an ordinary batch would begin with.
    pub fn begin_gently(&mut self) {
        self.rows = self.rows.min(self.gentle);
    }

    /// Makes way for whoever holds the rows. `false`: it cannot get smaller.
    pub fn shrink(&mut self) -> bool {
        let smaller = (self.rows / 4).max(1);
        let shrunk = smaller < self.rows;
        self.rows = smaller;
        shrunk
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quick_batches_grow_and_slow_ones_shrink() {
        let mut size = BatchSize::new(None);
        size.follow(Duration::from_millis(10), false);
        assert_eq!(size.rows(), 2 * START);
        size.follow(Duration::from_millis(75), false);
        assert_eq!(size.rows(), 2 * START);
        size.follow(Duration::from_millis(300), false);
        assert_eq!(size.rows(), START);
        size.follow(Duration::from_micros(1_600), true);
        assert_eq!(size.rows(), START / 2);
        size.follow(Duration::from_micros(800), true);
        assert_eq!(size.rows(), START / 2);
        size.follow(Duration::from_micros(700), true);
        assert_eq!(size.rows(), START);
    }

    #[test]
    fn gentle_batches_that_mostly_wait_for_the_disk_keep_some_rows() {
        let after = |micros| {
            let mut size = BatchSize::new(None);
            size.begin_gently();
            while size.shrink() {}
            (0..20).for_each(|_| size.follow(Duration::from_micros(micros), true));
            size.rows()
        };
        assert_eq!(after(500), MAX);
        assert_eq!(after(8_000), START / LEAST);
        assert_eq!(after(49_000), START / LEAST);
        assert_eq!(after(75_000), 1);
        let mut size = BatchSize::new(None);
        (0..20).for_each(|_| size.follow(Duration::from_millis(99), true));
        assert_eq!(size.rows(), START / LEAST);
    }

    #[test]
    fn a_configured_size_is_never_exceeded() {
        let mut size = BatchSize::new(Some(7));
        size.follow(Duration::ZERO, false);
        assert_eq!(size.rows(), 7);
        size.begin_gently();
        assert_eq!(size.rows(), 7);
        let mut size = BatchSize::new(Some(5_000));
        size.begin_gently();
        assert_eq!(size.rows(), START / LEAST);
    }

    proptest! {
        #[test]
        fn the_size_stays_within_its_bounds(
            configured in proptest::option::of(0_u32..100_000),
            steps in proptest::collection::vec(0_u64..500, 0..50),
        ) {
            let mut size = BatchSize::new(configured);
            for step in steps {
                if step % 7 == 0 { size.shrink(); } else { size.follow(Duration::from_millis(step), step % 2 == 0); }
                prop_assert!((1..=configured.map_or(MAX, |c| i64::from(c).max(1))).contains(&size.rows()));
            }
        }
    }
}
