//! A large organization is purged in slices.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::sleep;

use crate::{postgres::Database, purge::Turn, queue, telemetry::logs::chain};

/// How often it is asked whether a run that goes on and on should let others go first. As long as a few batches: a claim
/// costs a small part of it.
const SLICE: Duration = Duration::from_millis(250);

/// Once others wait the run is to be given back, and goes on after them. Only one that came on meanwhile: one that does not
/// must end by using its attempts up.
pub(super) async fn end_slice(database: Database, turn: Arc<Turn>) {
    loop {
        sleep(SLICE).await;
        if turn.rows.load(Ordering::Relaxed) == 0 {
            continue;
        }
        match queue::others_wait(&database).await {
            Ok(true) => return turn.over.cancel(),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(error = chain(&error), "cannot see who waits; looking again");
            }
        }
    }
}
