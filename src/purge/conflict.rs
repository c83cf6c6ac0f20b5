//! Sweeps that were rolled back: whose fault it was, and how the pair goes on.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    PurgeError, Purger,
    datasets::DATASETS,
    group::{Group, Pair},
    member::EndedRun,
    throttle::Mode,
};
use crate::{postgres, runs::RowCursor, telemetry::logs::chain};

/// How often in a row a batch may meet locks before the rest of its dataset is left to the next try.
const MAX_CONTENTIONS: u32 = 10;
/// The pause before a pair that met locks comes again.
const CONTENTION_PAUSE: Duration = Duration::from_millis(100);

/// A transaction that was rolled back.
pub(super) struct Failure {
    pub(super) error: PurgeError,
    /// How many of the first pairs it may be the fault of.
    pub(super) pairs: usize,
    /// The pair whose statement failed, if it was one pair's statement.
    pub(super) culprit: Option<Pair>,
}

impl Purger {
    /// After an error nothing of the transaction counts. An error of a table belongs to the pair whose statement failed. After any
    /// other error of several pairs, the ones that may be at fault get their own transactions: then the error belongs to one run.
    pub(super) async fn give_way(
        &self,
        group: &mut Group,
        failure: Failure,
        mode: Mode,
    ) -> Vec<EndedRun> {
        let Failure {
            error,
            pairs,
            culprit,
        } = failure;
        if matches!(error, PurgeError::MappingChanged) {
            return group.end_all(|| PurgeError::MappingChanged);
        }
        if let (PurgeError::Table { .. }, Some(pair)) = (&error, culprit) {
            group.leave_alone(pair, error);
            return Vec::new();
        }
        if pairs > 1 {
            tracing::debug!(
                pairs,
                error = chain(&error),
                "a sweep of several pairs failed: each goes alone"
            );
            group.separate(pairs, culprit);
            return Vec::new();
        }
        let Some(pair) = group.pairs.front().copied() else {
            return Vec::new();
        };
        match error {
            PurgeError::Database(error) if postgres::is_contention(&error) => {
                let skipped = self.meet_locks(group, pair, &error, mode).await;
                let error = skipped.err();
                error
                    .and_then(|error| group.end(pair.member, error))
                    .into_iter()
                    .collect()
            }
            error => group.end(pair.member, error).into_iter().collect(),
        }
    }

    /// The batch met locks. It comes again with fewer rows, to take less time or to leave out the row that is held. A single row
    /// that is held is skipped: the next try takes it up again.
    async fn meet_locks(
        &self,
        group: &mut Group,
        pair: Pair,
        error: &sqlx::Error,
        mode: Mode,
    ) -> Result<(), PurgeError> {
        let is_smaller = group.size.shrink(mode);
        if is_smaller && postgres::is_timeout(error) {
            return Ok(());
        }
        let skipped = if is_smaller {
            None
        } else {
            self.next_row(group, pair).await?
        };
        group.pop();
        let Some(member) = group.members[pair.member].as_mut() else {
            return Ok(());
        };
        member.has_begun = true;
        let sweep = &mut member.sweeps[pair.dataset];
        sweep.contentions += 1;
        sweep.cursor = skipped.or(sweep.cursor.take());
        if sweep.contentions == MAX_CONTENTIONS {
            tracing::debug!(run_id = %member.run.id, error = chain(error), "too many rows are held: the next try takes them up");
            group.size.reset(mode);
        } else {
            member.next_try_at = Instant::now() + CONTENTION_PAUSE;
            group.pairs.push_back(pair);
        }
        Ok(())
    }

    async fn next_row(&self, group: &Group, pair: Pair) -> Result<Option<RowCursor>, PurgeError> {
        let Some(scope) = group.scope(pair) else {
            return Ok(None);
        };
        let cursor = group.cursor(pair);
        let mut tx = self.database.begin_verifying().await?;
        Ok(DATASETS[pair.dataset].next(&mut tx, scope, cursor).await?)
    }
}

impl Group {
    /// A statement on a pair's table fails for good: it is left alone, and the other tables are purged all the same.
    fn leave_alone(&mut self, pair: Pair, error: PurgeError) {
        self.drop_pairs(|other| other == pair);
        if let Some(member) = self.members[pair.member].as_mut() {
            member.sweeps[pair.dataset].has_failed = true;
            member.table_error.get_or_insert(error);
        }
    }
}
