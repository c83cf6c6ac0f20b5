//! Rescue: runs that this process holds by the records, and does not work on. Its heartbeat is fresh, so that nobody else may
//! take them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Worker;
use crate::{
    ids::RunId,
    jobs,
    runs::{self, Delivery},
    telemetry::logs::chain,
};

/// The runs that this process works on.
#[derive(Debug, Clone, Default)]
pub(super) struct RunsAtWork(Arc<Mutex<HashMap<RunId, usize>>>);

/// One delivery of a run at work, until dropped. A run can be delivered twice.
#[derive(Debug)]
pub(super) struct Held {
    all: RunsAtWork,
    run: RunId,
}

impl RunsAtWork {
    pub(super) fn take(&self, run: RunId) -> Held {
        *self.lock().entry(run).or_default() += 1;
        Held {
            all: self.clone(),
            run,
        }
    }

    /// Whether another delivery of one of these runs is at work, too.
    pub(super) fn has_twice(&self, deliveries: &[Delivery]) -> bool {
        let all = self.lock();
        let mut counts = deliveries.iter().map(|delivery| all.get(&delivery.run));
        counts.any(|count| count.is_some_and(|count| *count > 1))
    }

    fn has(&self, run: RunId) -> bool {
        self.lock().contains_key(&run)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(deliveries) = all.get_mut(&self.run) {
            *deliveries -= 1;
            if *deliveries == 0 {
                all.remove(&self.run);
            }
        }
    }
}

impl Worker {
    /// Rescues such runs, at every heartbeat.
    pub(super) async fn keep_rescuing(self) {
        let every = self.consumer.heartbeat;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.rescue().await {
                tracing::debug!(
                    error = chain(&error),
                    "cannot look for runs that nobody works on; trying again"
                );
            }
        }
    }

    async fn rescue(&self) -> sqlx::Result<()> {
        // A run that could not be claimed has lost its delivery. It goes on as soon as the database lets it.
        if self.refusals.are_any() {
            jobs::rescue_stranded(&self.database, self.lease()).await?;
        }
        let orphans = jobs::rescue_orphans(&self.database, self.lease()).await?;
        if orphans > 0 {
            tracing::info!(orphans, "delivered the runs of a dead worker again");
        }
        let taken = jobs::taken_deliveries(&self.database, &self.identity, self.lease()).await?;
        for run in runs::held_runs(&self.database, self.identity.prefix(), &taken).await? {
            // Asked after the records were read: a run is at work before it is claimed, and until its end is recorded.
            if !self.at_work.has(run.id) && runs::rescue(&self.database, run, self.backoff).await? {
                tracing::warn!(run_id = %run.id, "nobody worked on the run; delivered it again");
            }
        }
        Ok(())
    }
}
