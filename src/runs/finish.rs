//! How attempts end: one guarded statement for many runs. Only the owner of a run can commit its ending.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use super::{
    claim::OwnedRun,
    progress::{StepDelta, StepTotal, record},
    record::{RunStatus, StepStatus},
};
use crate::{
    faults::{self, Point},
    ids::RunId,
    postgres::{self, Database, Transaction},
};

/// How an attempt ends.
#[derive(Debug, Clone)]
pub enum Ending {
    /// The run is verified.
    Succeeded,
    /// The run has failed for good.
    Failed(Failure),
    /// Nobody needs the run any more: its organization is gone.
    Cancelled(Failure),
    /// The attempt failed. The next one begins after this wait.
    Retrying(Failure, Duration),
    /// The run goes back to the queue unfinished. No attempt is spent.
    Snoozed,
}

/// Why an attempt failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The `error_kind` that records, filters and alerts use.
    pub kind: &'static str,
    /// The whole chain of causes.
    pub error: String,
}

impl Ending {
    /// The status that it gives to the run.
    fn status(&self) -> RunStatus {
        match self {
            Self::Succeeded => RunStatus::Succeeded,
            Self::Failed(_) => RunStatus::Failed,
            Self::Cancelled(_) => RunStatus::Cancelled,
            Self::Retrying(..) => RunStatus::Retrying,
            Self::Snoozed => RunStatus::Queued,
        }
    }

    fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) | Self::Cancelled(failure) | Self::Retrying(failure, _) => {
                Some(failure)
            }
            Self::Succeeded | Self::Snoozed => None,
        }
    }

    fn wait(&self) -> Option<Duration> {
        match self {
            Self::Retrying(_, wait) => Some(*wait),
            _ => None,
        }
    }

    /// The fault points around the commit.
    fn fault_points(&self) -> (Point, Point) {
        match self {
            Self::Succeeded => (Point::BeforeFinish, Point::AfterFinish),
            Self::Snoozed => (Point::BeforeSnooze, Point::AfterSnooze),
            Self::Failed(_) | Self::Cancelled(_) | Self::Retrying(..) => {
                (Point::BeforeRetry, Point::AfterRetry)
            }
        }
    }
}

/// The end of one attempt.
#[derive(Debug, Clone)]
pub struct Finish {
    /// The run.
    pub run: OwnedRun,
    /// How it ends.
    pub ending: Ending,
    /// What its record does not say yet: a step for every table.
    pub steps: Vec<StepDelta>,
}

impl Finish {
    /// What is written. A success that could not be recorded at once is not recorded later: a crash or a failover of Postgres may
    /// have undone the deletions that were verified. The run goes back to the queue, and is verified again.
    fn written(&self, again: bool) -> Self {
        if !(again && matches!(self.ending, Ending::Succeeded)) {
            return self.clone();
        }
        let waits = self.steps.iter().filter(|step| step.throttled.is_some());
        Self {
            run: self.run.clone(),
            ending: Ending::Snoozed,
            steps: waits
                .map(|step| StepDelta {
                    status: StepStatus::Pending,
                    kept: None,
                    ..step.clone()
                })
                .collect(),
        }
    }
}

/// What became of an ending.
#[derive(Debug, Clone)]
pub enum Finished {
    /// It is recorded: the run's status from then on, and its steps.
    Recorded(RunStatus, Vec<StepTotal>),
    /// This attempt had ended in another way before.
    EndedBefore,
    /// Somebody has cancelled the run. Nothing was recorded.
    Cancelled,
    /// Another worker owns the run. Nothing was recorded.
    Superseded,
}

/// Ends attempts, and delivers again the runs that go on. `again`: an earlier try failed, and may have been committed with its
/// reply lost.
///
/// # Errors
/// When the database fails. Then nothing was recorded, or the reply was lost.
pub async fn finish(
    database: &Database,
    endings: &[Finish],
    again: bool,
) -> sqlx::Result<Vec<Finished>> {
    let endings: Vec<_> = endings.iter().map(|finish| finish.written(again)).collect();
    let endings = endings.as_slice();
    let mut tx = database.begin_by_key(&[]).await?;
    let owned = lock_owned(&mut tx, endings).await?;
    let (ours, others): (Vec<&Finish>, Vec<&Finish>) = endings
        .iter()
        .partition(|finish| owned.contains(&finish.run.id.0));
    let mut finished: HashMap<RunId, Finished> = find_ended(&mut tx, &others, again).await?;
    if ours.is_empty() {
        tx.rollback().await?;
    } else {
        // The steps first: the steps of a final run are final, too.
        let steps: Vec<_> = ours
            .iter()
            .flat_map(|finish| finish.steps.iter().cloned())
            .collect();
        let totals = record(&mut tx, &steps).await?;
        for finish in &ours {
            let recorded = Finished::Recorded(finish.ending.status(), Vec::new());
            finished.insert(finish.run.id, recorded);
        }
        for total in totals {
            if let Some(Finished::Recorded(_, steps)) = finished.get_mut(&total.run) {
                steps.push(total);
            }
        }
        write_endings(&mut tx, &ours).await?;
        let points: Vec<_> = ours.iter().map(|f| f.ending.fault_points()).collect();
        for (before, _) in &points {
            faults::reach(*before);
        }
        tx.commit().await?;
        for (_, after) in &points {
            faults::reach(*after);
        }
    }
    let in_order = endings.iter().map(|finish| {
        let ended = finished.get(&finish.run.id).cloned();
        ended.unwrap_or(Finished::Superseded)
    });
    Ok(in_order.collect())
}

/// Locks the runs that are still ours.
async fn lock_owned(tx: &mut Transaction<'_>, endings: &[Finish]) -> sqlx::Result<Vec<Uuid>> {
    let (runs, tokens): (Vec<_>, Vec<_>) = endings
        .iter()
        .map(|finish| (finish.run.id.0, finish.run.token))
        .unzip();
    sqlx::query_scalar!(
        r#"-- runs.lock_owned
        SELECT r.id FROM unnest($1::uuid[], $2::bigint[]) AS f (id, token)
        CROSS JOIN LATERAL (SELECT * FROM retention.purge_runs r WHERE r.id = f.id FOR NO KEY UPDATE) r
        WHERE r.status = 'running' AND r.token = f.token"#,
        &runs,
        &tokens
    )
    .fetch_all(tx)
    .await
}

/// Writes the endings, and delivers again the runs that go on.
async fn write_endings(tx: &mut Transaction<'_>, endings: &[&Finish]) -> sqlx::Result<()> {
    let (mut runs, mut statuses, mut kinds, mut errors, mut waits) =
        (vec![], vec![], vec![], vec![], vec![]);
    let (mut go_on, mut cancelled) = (vec![], vec![]);
    for Finish { run, ending, .. } in endings {
        runs.push(run.id.0);
        statuses.push(ending.status().name().to_owned());
        kinds.push(ending.failure().map(|failure| failure.kind.to_owned()));
        errors.push(ending.failure().map(|failure| failure.error.clone()));
        waits.push(ending.wait().map(postgres::interval));
        match ending {
            Ending::Retrying(..) | Ending::Snoozed => go_on.push(run.id.0),
            Ending::Cancelled(_) => cancelled.push(run.id.0),
            Ending::Succeeded | Ending::Failed(_) => {}
        }
    }
    sqlx::query!(
        "-- runs.finish
         UPDATE retention.purge_runs r
         SET status = f.status,
             verified_at = CASE WHEN f.status = 'succeeded' THEN statement_timestamp() END,
             finished_at = CASE WHEN f.status IN ('succeeded', 'failed', 'cancelled') THEN statement_timestamp() END,
             next_attempt_at = now() + f.wait,
             -- A snoozed run has spent no attempt, and keeps the error of the attempt before.
             attempts = r.attempts - CASE WHEN f.status = 'queued' THEN 1 ELSE 0 END,
             worker = CASE WHEN f.status <> 'queued' THEN r.worker END,
             error_kind = CASE WHEN f.status = 'queued' THEN r.error_kind ELSE f.kind END,
             error = CASE WHEN f.status = 'queued' THEN r.error ELSE f.error END
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::interval[]) AS f (id, status, kind, error, wait)
         -- The second condition names the keys: the first alone leaves room for reading all runs in order.
         WHERE r.id = f.id AND r.id = ANY ($1)",
        &runs,
        &statuses,
        &kinds as _,
        &errors as _,
        &waits as _
    )
    .execute(&mut *tx)
    .await?;
    if !go_on.is_empty() {
        deliver(tx, &go_on).await?;
    }
    if !cancelled.is_empty() {
        acknowledge_cancelled(tx, &cancelled).await?;
    }
    Ok(())
}

/// What became of runs that are not ours any more. An ending whose reply was lost is found by its token.
async fn find_ended(
    tx: &mut Transaction<'_>,
    others: &[&Finish],
    again: bool,
) -> sqlx::Result<HashMap<RunId, Finished>> {
    let mut finished = HashMap::new();
    if others.is_empty() {
        return Ok(finished);
    }
    let runs: Vec<_> = others.iter().map(|finish| finish.run.id.0).collect();
    let found = sqlx::query!(
        r#"-- runs.find_ended
        SELECT id, token, status AS "status: RunStatus" FROM retention.purge_runs WHERE id = ANY ($1)"#,
        &runs
    )
    .fetch_all(&mut *tx)
    .await?;
    for Finish { run, ending, .. } in others {
        let Some(found) = found.iter().find(|found| found.id == run.id.0) else {
            continue;
        };
        let ended = if found.token == run.token {
            let is_ours = found.status == ending.status()
                || again
                    && matches!(ending, Ending::Snoozed)
                    && found.status == RunStatus::Succeeded;
            if is_ours {
                Finished::Recorded(found.status, step_totals(tx, run.id).await?)
            } else {
                Finished::EndedBefore
            }
        } else if found.token == run.token + 1 && found.status == RunStatus::Cancelled {
            Finished::Cancelled
        } else {
            Finished::Superseded
        };
        finished.insert(run.id, ended);
    }
    Ok(finished)
}

async fn step_totals(tx: &mut Transaction<'_>, run: RunId) -> sqlx::Result<Vec<StepTotal>> {
    sqlx::query_as!(
        StepTotal,
        r#"-- runs.step_totals
        SELECT run_id AS "run: RunId", table_name AS "table", cutoff, rows_purged, rows_kept
        FROM retention.purge_run_steps WHERE run_id = $1"#,
        run.0
    )
    .fetch_all(tx)
    .await
}

/// Delivers runs again. It must commit with the change that asks for it.
///
/// # Errors
/// When the database fails.
pub async fn deliver(tx: &mut Transaction<'_>, runs: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        "-- runs.deliver
         SELECT retention.deliver($1)",
        runs
    )
    .fetch_one(tx)
    .await?;
    Ok(())
}

/// Acknowledges the deliveries of runs that their own worker has cancelled, and counts. A delivery that comes twice must not be
/// counted again, as a cancellation that nobody has counted yet.
async fn acknowledge_cancelled(tx: &mut Transaction<'_>, runs: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        "-- runs.acknowledge_cancelled
         SELECT FROM retention.acknowledge_cancelled($1)",
        runs
    )
    .fetch_all(tx)
    .await?;
    Ok(())
}
