//! Recording a step of a run's life: until the database has taken it, or has refused it for good.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::Worker;
use crate::{ids::RunId, postgres, queue, telemetry::logs::chain};

/// The pause before a step that could not be recorded is recorded again.
const PAUSE: Duration = Duration::from_millis(500);

/// The database refused a step of a run's life for good: a right is missing, a trigger raises. The attempt ends, and the run
/// is delivered again later.
#[derive(Debug)]
pub(super) struct Unrecorded;

/// A kind of step in a run's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Claim,
    End,
    /// A question, or the delivery's.
    Other,
}

/// Which kinds of steps the database refuses, until it takes one of the kind again.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<BTreeSet<Step>>>);

impl Refusals {
    /// Whether there are any.
    #[must_use]
    pub fn are_any(&self) -> bool {
        !self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The runs that this process works on.
#[derive(Debug, Clone, Default)]
pub(super) struct InHand(Arc<Mutex<HashMap<RunId, usize>>>);

/// One delivery of a run in hand, until dropped. A run can be delivered twice.
#[derive(Debug)]
pub(super) struct Held {
    all: InHand,
    run: RunId,
}

impl InHand {
    pub(super) fn take(&self, run: RunId) -> Held {
        *self.lock().entry(run).or_default() += 1;
        Held {
            all: self.clone(),
            run,
        }
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
    /// Does one step of a run's life until the database has taken it: a delivery that was acknowledged without it would strand
    /// the run. A database that stays away ends the worker's heartbeat, and with it this. What no retry mends ends at once.
    ///
    /// `write` is told whether it is tried again: then an earlier try may have been recorded, its reply lost.
    pub(super) async fn record<T, F>(
        &self,
        step: Step,
        write: impl Fn(bool) -> F,
    ) -> Result<T, Unrecorded>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        let mut again = false;
        loop {
            match write(again).await {
                Ok(done) => {
                    self.refusals.lock().remove(&step);
                    return Ok(done);
                }
                Err(error) if postgres::is_transient(&error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "cannot record the run's progress; trying again"
                    );
                    again = true;
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    if postgres::is_row_security(&error) {
                        self.mapping_doubted.notify_one();
                    }
                    tracing::error!(
                        error = chain(&error),
                        "the database refuses to record the run's progress: the attempt ends here, and the run is delivered \
                         again later"
                    );
                    self.refusals.lock().insert(step);
                    return Err(Unrecorded);
                }
            }
        }
    }

    /// The same for what may be done again; tells whether it was.
    pub(super) async fn record_again<T, F>(
        &self,
        step: Step,
        write: impl Fn() -> F,
    ) -> Result<(T, bool), Unrecorded>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        let tell = |again| {
            let write = write();
            async move { Ok((write.await?, again)) }
        };
        self.record(step, tell).await
    }

    /// Has runs delivered again that this process holds by the records and does not work on. Looks at every heartbeat.
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
        // What could not be claimed has lost its delivery. It goes on as soon as the database lets it.
        if self.refusals.are_any() {
            queue::deliver_stranded(&self.database, self.lease()).await?;
        }
        for run in queue::held_runs(&self.database, &self.identity, self.lease()).await? {
            // Asked after the records were read: a run is in hand before it is claimed, and until its end is recorded.
            if !self.in_hand.has(run.id) && queue::rescue(&self.database, run, self.backoff).await?
            {
                tracing::warn!(run_id = %run.id, "nobody worked on the run; delivered it again");
            }
        }
        Ok(())
    }
}
