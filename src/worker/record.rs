//! Recording a transition of runs until the database has taken it, or has refused it for good.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use super::Worker;
use crate::{postgres, telemetry::logs::chain};

/// The pause before a transition that could not be recorded is tried again.
const RECORD_PAUSE: Duration = Duration::from_millis(500);

/// The database refused a transition for good: a right is missing, or a trigger raises. The attempt ends, and the run is
/// delivered again later.
#[derive(Debug)]
pub(super) struct Unrecorded;

/// A kind of transition in a run's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Transition {
    Claim,
    End,
    /// A question, or the delivery's.
    Other,
}

/// Which kinds of transitions the database refuses, until it takes one of the kind again.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<BTreeSet<Transition>>>);

impl Refusals {
    /// Whether there are any.
    #[must_use]
    pub fn are_any(&self) -> bool {
        !self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Transition>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Writes a transition until the database has taken it: a delivery that was acknowledged without it would strand its run. A
    /// database that stays away ends the worker's heartbeat, and with it this. An error that no retry mends ends it at once.
    ///
    /// `write` gets whether it is tried again. Then an earlier try may have been committed with its reply lost.
    pub(super) async fn record<T, F>(
        &self,
        transition: Transition,
        write: impl Fn(bool) -> F,
    ) -> Result<T, Unrecorded>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        let mut again = false;
        loop {
            match write(again).await {
                Ok(done) => {
                    self.refusals.lock().remove(&transition);
                    return Ok(done);
                }
                Err(error) if postgres::is_transient(&error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "cannot record the run's progress; trying again"
                    );
                    again = true;
                    sleep(RECORD_PAUSE).await;
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
                    self.refusals.lock().insert(transition);
                    return Err(Unrecorded);
                }
            }
        }
    }
}
