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

/// How long after a lap over the waiting runs that closed none of them the next one may begin, the first time.
const REST: Duration = Duration::from_secs(1);
/// The longest such rest. Runs with nothing to purge that come meanwhile are closed by their own deliveries.
const LONG_REST: Duration = Duration::from_secs(16);

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
    /// Whether anything waited on this lap, and how many runs of it were closed.
    has_met_some: bool,
    closed: usize,
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
            has_met_some: false,
            closed: 0,
            rest: REST,
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

    /// A look that began after `from` has come to `last`; with none the lap is over. Another look may have come further
    /// meanwhile, or to the end.
    fn move_on(&mut self, from: Uuid, last: Option<Uuid>, closed: usize) {
        self.closed += closed;
        if from > self.after {
            return;
        }
        if let Some(last) = last {
            self.has_met_some = true;
            self.after = self.after.max(last);
            return;
        }
        self.after = Uuid::nil();
        if self.is_whole {
            self.rest();
        }
        self.is_whole = true;
    }

    /// The lap is over. If all that waits has something to purge, it has so on the next lap: that comes later and later.
    fn rest(&mut self) {
        // After one that closed some, there may be more that others had locked: the next begins at once.
        self.rest = match (self.has_met_some, self.closed) {
            (true, 0) => (self.rest * 2).clamp(REST, LONG_REST),
            (true, _) => Duration::ZERO,
            (false, _) => REST,
        };
        self.resting_until = Some(Instant::now() + self.rest);
        (self.has_met_some, self.closed) = (false, 0);
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
                lap.move_on(after, look.last, look.closed.len());
                drop(lap);
                self.report(&look.closed, elapsed);
            }
            Err(error) => {
                // One of several looks at once that failed has made the next smaller for all.
                let is_smaller = lap.looks.rows() < limit || lap.looks.shrink();
                if !postgres::is_contention(&error) || !is_smaller {
                    lap.resting_until = Some(Instant::now() + REST);
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

    /// A lap over runs that wait, in looks at two of them: how many looks it took, and how long the rest after it is.
    fn go_over(lap: &mut Lap, waiting: &[u128], closed: usize) -> (usize, u64) {
        lap.resting_until = None;
        for looks in 1..100 {
            let after = lap.after;
            let seen = waiting.iter().map(|id| Uuid::from_u128(*id));
            let last = seen.filter(|id| *id > after).take(2).last();
            lap.move_on(after, last, last.map_or(0, |_| closed));
            if lap.resting_until.is_some() {
                return (looks, lap.rest.as_secs());
            }
        }
        panic!("it never rests")
    }

    #[test]
    fn laps_come_later_and_later_while_everything_has_something_to_purge() {
        let mut lap = Lap {
            after: Uuid::from_u128(3),
            ..Lap::default()
        };
        // The first goes from the middle to the end, and then over all.
        assert_eq!(go_over(&mut lap, &[1, 2, 3, 4, 5], 0), (6, 2));
        for rest in [4, 8, 16, 16] {
            assert_eq!(go_over(&mut lap, &[1, 2, 3, 4, 5], 0), (4, rest));
        }
        assert_eq!(go_over(&mut lap, &[1, 2, 3], 1), (3, 0));
        assert_eq!(go_over(&mut lap, &[1], 0), (2, 1));
        assert_eq!(go_over(&mut lap, &[1], 0), (2, 2));
        assert_eq!(go_over(&mut lap, &[], 0), (1, 1), "nobody waits");
    }

    #[test]
    fn look_that_ends_after_a_new_lap_has_begun_moves_it_nowhere() {
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut lap = Lap {
            after: second,
            ..Lap::default()
        };
        lap.move_on(second, None, 0);
        assert!(lap.after.is_nil() && !lap.is_resting());
        lap.move_on(second, None, 0);
        lap.move_on(first, Some(second), 0);
        assert!(lap.after.is_nil() && !lap.is_resting());
    }
}
