//! Scheduled runs purged several at a time, as long as nothing speaks against it.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Worker, isolate::isolate_panics, report_steps};
use crate::{
    purge::{ClosedStep, Limits, Throttle},
    queue::{self, Behalf, ClosedRun, Delivery},
    telemetry::logs::chain,
};

/// The most runs that are looked at beside a delivery's own.
const OTHERS: usize = 64;
/// The most rows of an organization that is small.
const SMALL: i64 = 1_000;
/// How many deliveries at most go alone before it is tried again.
const MOST_ALONE: u32 = 64;

/// How much this process purges together.
#[derive(Debug)]
pub(super) struct Group {
    limits: Limits,
    /// How many deliveries are to go alone now, and how many were when it last came to nothing: what was purged then was
    /// taken back, so it is tried less and less often.
    alone: u32,
    latest_alone: u32,
}

impl Group {
    /// At most as many rows as a batch may have.
    pub(super) fn new(batch_size: Option<u32>) -> Self {
        let all = batch_size.map_or(i64::MAX, i64::from);
        Self {
            limits: Limits {
                each: SMALL.min(all),
                all,
                others: 1,
            },
            alone: 0,
            latest_alone: 0,
        }
    }

    /// How much the next delivery may take with it; none: it goes alone.
    fn next(&mut self) -> Option<Limits> {
        let tries = self.alone == 0;
        self.alone = self.alone.saturating_sub(1);
        tries.then_some(self.limits)
    }

    /// So many runs were purged together.
    fn follow(&mut self, runs: usize) {
        if runs == 0 {
            self.latest_alone = (self.latest_alone * 2).clamp(1, MOST_ALONE);
            self.alone = self.latest_alone;
            return;
        }
        self.latest_alone = 0;
        // Hardly more than go together: what is looked at beyond them is locked for nothing.
        let others = usize::try_from(self.limits.others).unwrap_or(OTHERS);
        let others = if runs > others { others * 2 } else { runs };
        self.limits.others = i64::try_from(others.min(OTHERS)).unwrap_or(1);
    }
}

impl Worker {
    /// Purges the run of `delivery` together with others that are due. `false`: it is to be purged alone.
    pub(super) async fn purge_together(
        &self,
        delivery: &Delivery,
        stop: &CancellationToken,
    ) -> bool {
        let pace = &self.purger.pace;
        if !pace.is_free(&self.database).await {
            return false;
        }
        let Some(limits) = self.group.lock().await.next() else {
            return false;
        };
        let go = pace.ready(&self.database, false, stop).await;
        if stop.is_cancelled() {
            return false;
        }
        // Closed it never is.
        let deleting = self.purger.at_once.clone().acquire_owned().await.ok();
        let started = Instant::now();
        let (worker, delivery, throttled) = (self.clone(), delivery.clone(), go.throttled);
        let purged = isolate_panics(async move {
            let behalf = worker.behalf(throttled);
            let database = &worker.database;
            Ok(queue::purge_together(database, &delivery, limits, behalf, deleting).await?)
        })
        .await;
        let elapsed = started.elapsed();
        pace.worked(elapsed);
        let closed = match purged {
            Ok(Some(closed)) => closed,
            Ok(None) => return false,
            Err(error) => {
                let error = chain(&error);
                tracing::debug!(error, "cannot purge runs together now: each goes alone");
                Vec::new()
            }
        };
        self.group.lock().await.follow(closed.len());
        self.report_purged(&closed, elapsed);
        !closed.is_empty()
    }

    /// On this process's behalf.
    pub(super) fn behalf(&self, throttled: Option<(Throttle, Duration)>) -> Behalf<'_> {
        Behalf {
            worker: self.identity.prefix(),
            max_attempts: self.max_attempts,
            throttled,
        }
    }

    /// Counts runs that were closed together, in this time.
    pub(super) fn count_closed(&self, closed: &[ClosedRun], elapsed: Duration) {
        let each = elapsed / u32::try_from(closed.len()).unwrap_or(u32::MAX).max(1);
        for run in closed {
            self.count("succeeded", &run.trigger);
            self.metrics.run_duration.observe(each.as_secs_f64());
            run.rest.count(&self.metrics);
        }
    }

    fn report_purged(&self, closed: &[ClosedRun], elapsed: Duration) {
        self.count_closed(closed, elapsed);
        for run in closed {
            run.span.in_scope(|| {
                let steps: Vec<_> = run.rest.by_table().map(ClosedStep::from).collect();
                report_steps(run.id, run.org, run.rest.plan(), &steps);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_to_nothing_is_tried_less_and_less_often() {
        let mut group = Group::new(None);
        for alone in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert!(group.next().is_some());
            group.follow(0);
            assert!((0..alone).all(|_| group.next().is_none()), "{alone}");
        }
        assert!(group.next().is_some());
        group.follow(3);
        assert!(group.next().is_some());
        group.follow(0);
        assert!(group.next().is_none() && group.next().is_some());
    }

    #[test]
    fn hardly_more_runs_are_looked_at_than_go_together() {
        let mut group = Group::new(None);
        for others in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert_eq!(group.limits.others, others);
            group.follow(usize::try_from(others).unwrap() + 1);
        }
        group.follow(5);
        assert_eq!(group.limits.others, 5);
        group.follow(1);
        assert_eq!(group.limits.others, 1);
    }

    #[test]
    fn configured_size_of_a_batch_holds_for_a_group() {
        let limits = |batch_size| {
            let Limits { each, all, .. } = Group::new(batch_size).limits;
            (each, all)
        };
        assert_eq!(limits(Some(7)), (7, 7));
        assert_eq!(limits(Some(5_000)), (1_000, 5_000));
        assert_eq!(limits(None), (1_000, i64::MAX));
    }
}
