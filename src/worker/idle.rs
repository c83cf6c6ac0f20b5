//! Closes runs with nothing to purge in bulk, beside the deliveries: after each one a look at some more of them.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Worker;
use crate::{
    postgres,
    purge::{BatchSize, Throttle},
    queue::{self, ClosedRun},
    telemetry::logs::chain,
};

/// How long after a look that was not worth it, or at the end of a lap over the waiting runs, the next one may come, the
/// first time.
const REST: Duration = Duration::from_secs(1);
/// The longest such rest. Runs with nothing to purge that come meanwhile are closed by their own deliveries.
const LONG_REST: Duration = Duration::from_secs(16);
/// A look is worth it where it closes one in so many of the runs that it meets: to look at one costs about a tenth of what
/// its own delivery does. Runs are met by their random ids, so that the next ones are like those of this look.
const WORTH: usize = 10;

/// How many runs the first look looks at. To close one costs more than a row that goes: its verification, five rows of
/// records, a delivery.
const FIRST_LOOK: i64 = 250;

/// Where this process's lap over the waiting runs is.
#[derive(Debug)]
pub(super) struct Lap {
    after: Uuid,
    /// Whether it goes from the first run to the last: this process's first lap begins somewhere between them.
    is_whole: bool,
    looks: BatchSize,
    is_gentle: bool,
    rest: Duration,
    resting_until: Option<Instant>,
}

impl Default for Lap {
    /// Begins somewhere: other processes begin elsewhere.
    fn default() -> Self {
        Self {
            after: Uuid::new_v4(),
            is_whole: false,
            looks: BatchSize::starting_at(FIRST_LOOK),
            is_gentle: false,
            rest: Duration::ZERO,
            resting_until: None,
        }
    }
}

impl Lap {
    fn is_resting(&self) -> bool {
        self.resting_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Where the next look begins, and how many runs it may look at: few, where it might be felt elsewhere. None: later.
    fn next(&mut self, is_gentle: bool) -> Option<(Uuid, i64)> {
        if is_gentle && !self.is_gentle {
            self.looks.begin_gently();
        }
        self.is_gentle = is_gentle;
        (!self.is_resting()).then(|| (self.after, self.looks.rows()))
    }

    /// A look that began after `from` met so many runs up to `last`, and closed some of them; with none the lap is over.
    /// Another look may have come further meanwhile, or to the end.
    fn move_on(&mut self, from: Uuid, last: Option<Uuid>, met: usize, closed: usize) {
        if from > self.after {
            return;
        }
        if let Some(last) = last {
            self.after = self.after.max(last);
            self.rest = if closed * WORTH < met {
                // What waits has something to purge. It has so at the next look: that comes later and later.
                (self.rest * 2).clamp(REST, LONG_REST)
            } else {
                Duration::ZERO
            };
            self.rest(self.rest);
            return;
        }
        self.after = Uuid::nil();
        if self.is_whole {
            self.rest(REST);
        }
        self.is_whole = true;
    }

    fn rest(&mut self, rest: Duration) {
        self.resting_until = Some(Instant::now() + rest);
    }
}

impl Worker {
    /// One look at the runs that wait, unless a lap was over just now, at the pace of batches. Nothing depends on it: what
    /// it does not close is closed by its own delivery.
    pub(super) async fn close_idle(&self, stop: &CancellationToken) {
        if self.lap.lock().await.is_resting() {
            return;
        }
        let pace = &self.purger.pace;
        // That may take long, and the delivery before this look is acknowledged only after it.
        if pace.reason(&self.database, false).await == Some(Throttle::ReplicaLag) {
            return;
        }
        let go = pace.pause(&self.database, false, stop).await;
        if stop.is_cancelled() || !matches!(self.closed_until().await, Ok(None)) {
            return;
        }
        let is_gentle = go.throttled.is_some_and(|(reason, _)| reason.is_gentle());
        let Some((after, limit)) = self.lap.lock().await.next(is_gentle) else {
            return;
        };
        let started = Instant::now();
        let looked = queue::close_idle(&self.database, after, limit, self.behalf(None)).await;
        let elapsed = started.elapsed();
        pace.worked(elapsed);
        drop(go);
        let mut lap = self.lap.lock().await;
        match looked {
            Ok(look) => {
                if look.last.is_some() {
                    lap.looks.follow(elapsed, is_gentle);
                }
                lap.move_on(after, look.last, look.met, look.closed.len());
                drop(lap);
                self.report(&look.closed, elapsed);
            }
            Err(error) => {
                // One of several looks at once that failed has made the next smaller for all.
                let is_smaller = lap.looks.rows() < limit || lap.looks.shrink();
                if !postgres::is_contention(&error) || !is_smaller {
                    lap.rest(REST);
                }
                tracing::debug!(error = chain(&error), "cannot look for idle runs now");
            }
        }
    }

    fn report(&self, closed: &[ClosedRun], elapsed: Duration) {
        self.count_closed(closed, elapsed);
        for run in closed {
            run.span.in_scope(
                || tracing::debug!(run_id = %run.id, org_id = %run.org, "nothing to purge"),
            );
        }
        if !closed.is_empty() {
            let runs = closed.len();
            tracing::info!(runs, "closed {runs} runs with nothing to purge");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it rests, in seconds, after a look at so many runs that closed some of them.
    fn rest_after(lap: &mut Lap, met: usize, closed: usize) -> u64 {
        let from = lap.after;
        lap.move_on(from, Some(Uuid::from_u128(from.as_u128() + 1)), met, closed);
        assert_eq!(lap.is_resting(), !lap.rest.is_zero());
        lap.rest.as_secs()
    }

    #[test]
    fn looks_come_later_and_later_while_nearly_everything_has_something_to_purge() {
        let mut lap = Lap {
            after: Uuid::nil(),
            ..Lap::default()
        };
        for rest in [1, 2, 4, 8, 16, 16] {
            assert_eq!(rest_after(&mut lap, 250, 24), rest);
        }
        assert_eq!(rest_after(&mut lap, 250, 25), 0);
        assert_eq!(rest_after(&mut lap, 1, 0), 1);
    }

    #[test]
    fn lap_goes_over_all_that_wait_and_then_rests() {
        let mut lap = Lap::default();
        let middle = lap.after;
        lap.move_on(middle, None, 0, 0);
        assert!(
            lap.after.is_nil() && !lap.is_resting(),
            "it began between them"
        );
        lap.move_on(Uuid::nil(), Some(middle), 250, 250);
        assert!(lap.after == middle && !lap.is_resting());
        lap.move_on(middle, None, 0, 0);
        assert!(lap.after.is_nil() && lap.is_resting());
    }

    #[test]
    fn look_that_ends_after_a_new_lap_has_begun_moves_it_nowhere() {
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut lap = Lap {
            after: second,
            ..Lap::default()
        };
        lap.move_on(second, None, 0, 0);
        assert!(lap.after.is_nil() && !lap.is_resting());
        lap.move_on(second, None, 0, 0);
        lap.move_on(first, Some(second), 250, 0);
        assert!(lap.after.is_nil() && !lap.is_resting());
    }
}
