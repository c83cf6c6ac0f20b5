//! How many rows the next batch may take. The size follows the time that batches take, so that a batch holds its locks for
//! about as long whatever its rows weigh.

use std::time::Duration;

use super::throttle::Mode;
use crate::postgres::LockBudget;

/// The rows of the first batch at full speed.
const FIRST_BATCH_ROWS: i64 = 1_000;
/// The most rows of a batch.
const MAX_BATCH_ROWS: i64 = 10_000;
/// The rows of the first batch in low-impact mode, and the size below which only a batch that takes longer than any should
/// shrinks. Most of a short batch may be a long way to the database, or a slow disk: with a single row it would be no shorter.
const LOW_IMPACT_BATCH_ROWS: i64 = 15;
/// A batch that takes less time may grow.
const MIN_BATCH_TIME: Duration = Duration::from_millis(50);
/// A batch that takes more time shrinks.
const MAX_BATCH_TIME: Duration = Duration::from_millis(100);
/// In low-impact mode batches are shorter by this factor: 0.8 to 1.6 ms. Whoever wakes up while one has the processor waits for
/// the rest of it. With twice that time the main app waits several times as often for more than a millisecond
/// (`docs/measurements.md`).
const LOW_IMPACT_FACTOR: u32 = 64;

/// The size of the next batch. Each mode has its own: leaving low-impact mode, or meeting a lock, loses neither.
#[derive(Debug, Clone)]
pub(super) struct BatchSize {
    configured: Option<u32>,
    full_speed: i64,
    low_impact: i64,
}

impl BatchSize {
    /// Sized by the time that batches take, and by `configured` rows at most.
    pub(super) fn new(configured: Option<u32>) -> Self {
        let first = Self {
            configured,
            full_speed: 1,
            low_impact: 1,
        };
        Self {
            full_speed: configured.map_or(FIRST_BATCH_ROWS, i64::from).max(1),
            low_impact: LOW_IMPACT_BATCH_ROWS.min(first.max()),
            ..first
        }
    }

    fn max(&self) -> i64 {
        self.configured.map_or(MAX_BATCH_ROWS, i64::from).max(1)
    }

    /// Rows that the next batch may take.
    pub(super) fn rows(&self, mode: Mode) -> i64 {
        match mode {
            Mode::FullSpeed => self.full_speed,
            Mode::LowImpact => self.low_impact,
        }
    }

    fn set(&mut self, mode: Mode, rows: i64) {
        let rows = rows.clamp(1, self.max());
        match mode {
            Mode::FullSpeed => self.full_speed = rows,
            Mode::LowImpact => self.low_impact = rows,
        }
    }

    /// How long a transaction goes on to further pairs.
    pub(super) fn time_for_pairs(mode: Mode) -> Duration {
        match mode {
            Mode::FullSpeed => MIN_BATCH_TIME,
            Mode::LowImpact => MIN_BATCH_TIME / LOW_IMPACT_FACTOR,
        }
    }

    /// How long each statement of a batch may take. The main app waits that long if it wants a row of the batch: more than a
    /// moment only where nothing smaller is possible.
    pub(super) fn lock_budget(&self, mode: Mode) -> LockBudget {
        if self.rows(mode) > 1 {
            LockBudget::Short
        } else {
            LockBudget::Long
        }
    }

    /// Follows the time that a full batch took.
    pub(super) fn follow(&mut self, elapsed: Duration, mode: Mode) {
        let rows = self.rows(mode);
        let (floor, felt) = match mode {
            Mode::FullSpeed => (1, elapsed),
            Mode::LowImpact => (LOW_IMPACT_BATCH_ROWS.min(rows), elapsed * LOW_IMPACT_FACTOR),
        };
        if felt < MIN_BATCH_TIME || (elapsed < MIN_BATCH_TIME && rows < LOW_IMPACT_BATCH_ROWS) {
            self.set(mode, rows * 2);
        } else if elapsed > MAX_BATCH_TIME {
            self.set(mode, rows / 2);
        } else if felt > MAX_BATCH_TIME {
            self.set(mode, (rows / 2).max(floor));
        }
    }

    /// Makes way for whoever holds the rows. `false`: it cannot get smaller.
    pub(super) fn shrink(&mut self, mode: Mode) -> bool {
        let rows = self.rows(mode);
        self.set(mode, rows / 4);
        self.rows(mode) < rows
    }

    /// Forgets what it has followed in this mode.
    pub(super) fn reset(&mut self, mode: Mode) {
        let first = Self::new(self.configured);
        self.set(mode, first.rows(mode));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Mode::*, *};

    #[test]
    fn quick_batches_grow_and_slow_ones_shrink() {
        let mut size = BatchSize::new(None);
        size.follow(Duration::from_millis(10), FullSpeed);
        assert_eq!(size.rows(FullSpeed), 2 * FIRST_BATCH_ROWS);
        size.follow(Duration::from_millis(75), FullSpeed);
        assert_eq!(size.rows(FullSpeed), 2 * FIRST_BATCH_ROWS);
        size.follow(Duration::from_millis(300), FullSpeed);
        assert_eq!(size.rows(FullSpeed), FIRST_BATCH_ROWS);
        size.follow(Duration::from_micros(700), LowImpact);
        assert_eq!(size.rows(LowImpact), 2 * LOW_IMPACT_BATCH_ROWS);
        size.follow(Duration::from_micros(800), LowImpact);
        assert_eq!(size.rows(LowImpact), 2 * LOW_IMPACT_BATCH_ROWS);
        size.follow(Duration::from_micros(1_600), LowImpact);
        assert_eq!(size.rows(LowImpact), LOW_IMPACT_BATCH_ROWS);
    }

    #[test]
    fn low_impact_batches_that_mostly_wait_for_the_disk_keep_some_rows() {
        let after = |micros| {
            let mut size = BatchSize::new(None);
            while size.shrink(LowImpact) {}
            (0..20).for_each(|_| size.follow(Duration::from_micros(micros), LowImpact));
            size.rows(LowImpact)
        };
        assert_eq!(after(500), MAX_BATCH_ROWS);
        assert!((LOW_IMPACT_BATCH_ROWS..2 * LOW_IMPACT_BATCH_ROWS).contains(&after(8_000)));
        assert!((LOW_IMPACT_BATCH_ROWS..2 * LOW_IMPACT_BATCH_ROWS).contains(&after(49_000)));
        assert_eq!(after(75_000), 1);
    }

    #[test]
    fn a_mode_keeps_its_size_while_the_other_one_changes() {
        let mut size = BatchSize::new(None);
        while size.shrink(FullSpeed) {}
        assert_eq!(size.rows(LowImpact), LOW_IMPACT_BATCH_ROWS);
        size.reset(FullSpeed);
        assert_eq!(size.rows(FullSpeed), FIRST_BATCH_ROWS);
        while size.shrink(LowImpact) {}
        size.reset(LowImpact);
        assert_eq!(size.rows(LowImpact), LOW_IMPACT_BATCH_ROWS);
    }

    #[test]
    fn a_configured_size_is_never_exceeded() {
        let mut size = BatchSize::new(Some(7));
        size.follow(Duration::ZERO, FullSpeed);
        size.reset(LowImpact);
        assert_eq!((size.rows(FullSpeed), size.rows(LowImpact)), (7, 7));
        let size = BatchSize::new(Some(5_000));
        assert_eq!(size.rows(LowImpact), LOW_IMPACT_BATCH_ROWS);
    }

    proptest! {
        #[test]
        fn the_size_stays_within_its_bounds(
            configured in proptest::option::of(0_u32..100_000),
            steps in proptest::collection::vec(0_u64..500, 0..50),
        ) {
            let mut size = BatchSize::new(configured);
            for step in steps {
                let mode = if step % 2 == 0 { FullSpeed } else { LowImpact };
                if step % 7 == 0 { size.shrink(mode); } else { size.follow(Duration::from_millis(step), mode); }
                let bounds = 1..=configured.map_or(MAX_BATCH_ROWS, |c| i64::from(c).max(1));
                prop_assert!(bounds.contains(&size.rows(FullSpeed)) && bounds.contains(&size.rows(LowImpact)));
            }
        }
    }
}
