//! Scheduled runs purged several at a time, as long as nothing speaks against it.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Worker, contained, report_steps};
use crate::{
    postgres,
    purge::{BatchSize, ClosedStep, PurgeError, Throttle},
    queue::{self, ClosedRun, Closer, Delivery, Limits},
    telemetry::logs::chain,
};

/// The most runs that are looked at beside a delivery's own.
const OTHERS: usize = 64;
/// As many rows may always go together: an organization with more is not small.
const ROWS: i64 = 1_000;

/// How much this process purges together.
#[derive(Debug)]
pub(super) struct Group {
    rows: BatchSize,
    /// How many runs went together last.
    runs: usize,
}

impl Group {
    /// At most as many rows as a batch may have.
    pub(super) fn new(batch_size: Option<u32>) -> Self {
        Self {
            rows: BatchSize::new(batch_size),
            runs: 0,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            rows: self.rows.rows(),
            // Half as many again as last time: what is looked at and does not fit was looked at for nothing.
            others: i64::try_from((self.runs + self.runs.div_ceil(2)).min(OTHERS)).unwrap_or(0),
        }
    }

    /// So many runs were purged together, in this time.
    fn follow(&mut self, runs: usize, elapsed: Duration) {
        if runs > 0 {
            self.runs = runs;
            self.rows.follow(elapsed, false);
        } else if self.rows.rows() < ROWS {
            // It has become small when something was in the way, and tries again.
            self.rows.follow(Duration::ZERO, false);
        }
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
        let go = pace.ready(&self.database, false, stop).await;
        if stop.is_cancelled() {
            return false;
        }
        // Closed it never is.
        let _deleting = self.purger.at_once.acquire().await.ok();
        let limits = self.group.lock().await.limits();
        let started = Instant::now();
        let (worker, delivery, throttled) = (self.clone(), delivery.clone(), go.throttled);
        let purged = contained(async move {
            let closer = worker.closer(throttled);
            Ok(queue::purge_together(&worker.database, &delivery, limits, closer).await?)
        })
        .await;
        let elapsed = started.elapsed();
        pace.worked(elapsed);
        match purged {
            Ok(closed) => {
                self.group.lock().await.follow(closed.len(), elapsed);
                self.report_purged(&closed, elapsed);
                !closed.is_empty()
            }
            Err(error) => {
                if let PurgeError::Database(error) = &error
                    && postgres::is_contention(error)
                {
                    self.group.lock().await.rows.shrink();
                }
                tracing::debug!(
                    error = chain(&error),
                    "cannot purge several runs together now; each is purged alone"
                );
                false
            }
        }
    }

    /// On this process's behalf.
    pub(super) fn closer(&self, throttled: Option<(Throttle, Duration)>) -> Closer<'_> {
        Closer {
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
                report_steps(run.id, run.org, run.rest.plan, &steps);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_that_met_something_in_its_way_grows_again() {
        let mut group = Group::new(None);
        while group.rows.shrink() {}
        assert_eq!(group.limits().rows, 1);
        for _ in 0..20 {
            group.follow(0, Duration::ZERO);
        }
        assert_eq!(group.limits().rows, 1_024);
        group.follow(20, Duration::from_millis(20));
        assert_eq!(group.limits().rows, 2_048);
        assert_eq!(group.limits().others, 30);
        group.follow(3_000, Duration::from_millis(200));
        assert_eq!(group.limits().rows, 1_024);
        assert_eq!(group.limits().others, 64);
    }

    #[test]
    fn configured_size_of_a_batch_holds_for_a_group() {
        let mut group = Group::new(Some(7));
        group.follow(0, Duration::ZERO);
        group.follow(8, Duration::ZERO);
        assert_eq!(group.limits().rows, 7);
    }
}
