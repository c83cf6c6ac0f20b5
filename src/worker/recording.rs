//! Recording a step of a run's life: until the database has taken it, or has refused it for good.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::Worker;
use crate::{
    ids::RunId,
    postgres,
    queue,
    telemetry::logs::chain,
};

/// The pause before a step that could not be recorded is recorded again.
const PAUSE: Duration = Duration::from_millis(500);

/// The database refused a step of a run's life for good: a right is missing, a trigger raises. The attempt ends, and the run
/// is delivered again later.
#[derive(Debug)]
pub(super) struct Unrecorded;

/// Why the latest step was refused; empty: it was recorded.
#[derive(Debug, Clone, Default)]
pub struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    /// In words, for readiness.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, refusal: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
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

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, usize>> {
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
    /// `step` is told whether it is tried again: then an earlier try may have been recorded, its reply lost.
    pub(super) async fn record<T, F>(&self, step: impl Fn(bool) -> F) -> Result<T, Unrecorded>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        let mut again = false;
        loop {
            match step(again).await {
                Ok(done) => {
                    self.refusal.set(None);
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
                    let why = chain(&error);
                    tracing::error!(
                        error = why,
                        "the database refuses to record the run's progress: the attempt ends here, and the run is delivered \
                         again later"
                    );
                    self.refusal.set(Some(format!(
                        "the database refuses to record what becomes of runs: {why}"
                    )));
                    return Err(Unrecorded);
                }
            }
        }
    }

    /// Has runs delivered again that this process holds by the records and does not work on. Looks at every heartbeat.
    pub(super) async fn keep_rescuing(self) {
        let every = self.consumer.heartbeat;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let held = queue::held_runs(&self.database, &self.identity, self.lease()).await;
            for run in held.unwrap_or_else(cannot_rescue) {
                // Asked after the records were read: a run is in hand before it is claimed, and until its end is recorded.
                if self.in_hand.has(run.id) {
                    continue;
                }
                match queue::rescue(&self.database, run, self.backoff).await {
                    Ok(false) => {}
                    Ok(true) => {
                        tracing::warn!(run_id = %run.id, "nobody worked on the run; delivered it again");
                    }
                    Err(error) => drop(cannot_rescue(error)),
                }
            }
        }
    }
}

fn cannot_rescue(error: sqlx::Error) -> Vec<queue::HeldRun> {
    tracing::debug!(error = chain(&error), "cannot look for runs that nobody works on; trying again");
    Vec::new()
}
