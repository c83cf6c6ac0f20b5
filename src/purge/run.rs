//! One attempt of a run: resolve the policy, sweep every dataset in batches, verify; again while something that
//! another transaction held is left behind.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Span, instrument};

use super::{
    PurgeError,
    batch_size::BatchSize,
    datasets::{Batch, DATASETS, Dataset, Progress, Remains, Scope},
    ledger::{self, OwnedRun},
};
use crate::{
    faults::{self, Point},
    postgres::{self, Database},
    retention::{Cutoff, Cutoffs, Plan, RetentionPolicy},
    telemetry::metrics::Metrics,
};

/// How often an attempt goes over the datasets again for rows that another transaction held.
const MAX_PASSES: u32 = 5;
/// How often in a row a batch may meet locks before the rest of its dataset is left to the next pass.
const MAX_CONTENTION: u32 = 10;
/// The first pause before going over held rows again; it doubles.
const PAUSE: Duration = Duration::from_millis(100);

/// Purges runs: the database, the settings and the counters that every run needs.
#[derive(Debug, Clone)]
pub struct Purger {
    /// Where the rows are.
    pub database: Database,
    /// Where purged rows are counted.
    pub metrics: Arc<Metrics>,
    /// Rows per batch; `None`: the worker follows the time that batches take.
    pub batch_size: Option<u32>,
}

/// What a verified attempt leaves behind.
#[derive(Debug, Clone)]
pub struct Report {
    /// The plan it ran under.
    pub plan: Plan,
    /// What separate SQL found afterwards, in the datasets' order.
    pub remains: Vec<Remains>,
}

/// What an attempt knows while it runs.
struct Attempt<'a> {
    purger: &'a Purger,
    run: &'a OwnedRun,
    stop: &'a CancellationToken,
    plan: Plan,
    policy: RetentionPolicy,
    cutoffs: Cutoffs,
}

/// How one batch went.
enum BatchOutcome {
    Committed(Batch),
    PlanChanged(Plan),
}

impl Purger {
    /// Purges what `run` may purge, and verifies. Everything committed stays committed, however this ends.
    ///
    /// # Errors
    /// Every [`PurgeError`]; the caller records it on the run.
    pub async fn purge(
        &self,
        run: &OwnedRun,
        stop: &CancellationToken,
    ) -> Result<Report, PurgeError> {
        let mut attempt = Attempt::start(self, run, stop).await?;
        let mut pause = PAUSE;
        for pass in 1.. {
            for dataset in DATASETS {
                attempt.sweep(*dataset).await?;
            }
            faults::pass(Point::BeforeVerify);
            let remains = attempt.verify().await?;
            faults::pass(Point::AfterVerify);
            let Some(left_behind) = first_left_behind(&remains) else {
                return Ok(Report {
                    plan: attempt.plan,
                    remains,
                });
            };
            if pass == MAX_PASSES {
                return Err(left_behind);
            }
            attempt.wait(pause).await?;
            pause *= 2;
        }
        unreachable!("the loop ends by returning")
    }
}

fn first_left_behind(remains: &[Remains]) -> Option<PurgeError> {
    let tables = DATASETS
        .iter()
        .zip(remains)
        .flat_map(|(d, r)| d.tables().iter().zip(&r.left_behind));
    tables
        .filter(|(_, rows)| **rows > 0)
        .map(|(table, rows)| PurgeError::LeftBehind { table, rows: *rows })
        .next()
}

impl<'a> Attempt<'a> {
    async fn start(
        purger: &'a Purger,
        run: &'a OwnedRun,
        stop: &'a CancellationToken,
    ) -> Result<Self, PurgeError> {
        let mut tx = purger.database.begin().await?;
        let plan = ledger::prove(&mut tx, run).await?;
        let policy = run
            .policy
            .map_or(plan.policy(), |recorded| recorded.longer(plan.policy()));
        let cutoffs = policy.cutoffs(run.started_at);
        ledger::record_policy(&mut tx, run, plan, policy, &cutoffs).await?;
        tx.commit().await?;
        faults::pass(Point::AfterPolicy);
        Ok(Self {
            purger,
            run,
            stop,
            plan,
            policy,
            cutoffs,
        })
    }

    /// The plan changed while the run was going: for this run the longer window of each dataset wins.
    async fn adopt(&mut self, plan: Plan) -> Result<(), PurgeError> {
        let mut tx = self.purger.database.begin().await?;
        ledger::prove(&mut tx, self.run).await?;
        let policy = self.policy.longer(plan.policy());
        let cutoffs = policy.cutoffs(self.run.started_at);
        ledger::record_policy(&mut tx, self.run, plan, policy, &cutoffs).await?;
        tx.commit().await?;
        tracing::info!(run_id = %self.run.id, org_id = %self.run.org, from = %self.plan, to = %plan,
            "plan changed during the run: the longer windows win");
        (self.plan, self.policy, self.cutoffs) = (plan, policy, cutoffs);
        Ok(())
    }

    /// One pass over one dataset: batch, batch, batch, until every expired row has been looked at.
    #[instrument(name = "step", skip_all, fields(table = dataset.tables()[0], rows))]
    async fn sweep(&mut self, dataset: &dyn Dataset) -> Result<(), PurgeError> {
        let mut size = BatchSize::new(self.purger.batch_size);
        let mut progress = Progress::default();
        let (mut contended, mut rows) = (0, 0);
        while let Some(cutoff) = self.cutoffs.get(dataset.name()) {
            if self.stop.is_cancelled() {
                return Err(PurgeError::Stopped);
            }
            let before = progress.clone();
            let started = Instant::now();
            match self.batch(dataset, cutoff, &mut progress, &size).await {
                Ok(BatchOutcome::Committed(batch)) => {
                    contended = 0;
                    self.count(dataset, &batch, started.elapsed());
                    rows += batch.rows();
                    Span::current().record("rows", rows);
                    if batch.exhausted {
                        return Ok(());
                    }
                    size.follow(started.elapsed());
                }
                Ok(BatchOutcome::PlanChanged(plan)) => {
                    self.adopt(plan).await?;
                    progress = Progress::default();
                }
                Err(PurgeError::Database(error)) if postgres::is_contention(&error) => {
                    // Smaller, to take less time, or to leave out the row that is held; a single held row is passed
                    // over: the next pass takes it up again.
                    if size.shrink() {
                        progress = before;
                        if postgres::is_timeout(&error) {
                            continue;
                        }
                    }
                    contended += 1;
                    if contended == MAX_CONTENTION {
                        tracing::debug!(run_id = %self.run.id, %error, "too much is held: later datasets first");
                        return Ok(());
                    }
                    self.wait(PAUSE).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Proof, deletion and counts: they commit together or not at all.
    #[instrument(name = "batch", skip_all, fields(table = dataset.tables()[0], rows))]
    async fn batch(
        &self,
        dataset: &dyn Dataset,
        cutoff: Cutoff,
        progress: &mut Progress,
        size: &BatchSize,
    ) -> Result<BatchOutcome, PurgeError> {
        let mut tx = self.purger.database.begin_yielding(size.patience()).await?;
        let plan = ledger::prove(&mut tx, self.run).await?;
        if plan != self.plan {
            return Ok(BatchOutcome::PlanChanged(plan));
        }
        let scope = Scope {
            org: self.run.org,
            cutoff,
        };
        let batch = dataset
            .delete_batch(&mut tx, scope, progress, size.rows())
            .await?;
        if batch.purged.iter().any(|rows| *rows > 0) {
            ledger::record_batch(&mut tx, self.run, dataset.tables(), &batch.purged).await?;
        }
        faults::pass(Point::BeforeCommit);
        tx.commit().await?;
        faults::pass(Point::AfterCommit);
        Span::current().record("rows", batch.rows());
        Ok(BatchOutcome::Committed(batch))
    }

    /// Counts a committed batch.
    fn count(&self, dataset: &dyn Dataset, batch: &Batch, elapsed: Duration) {
        let metrics = &self.purger.metrics;
        metrics
            .batch_duration
            .with_label_values(&[dataset.tables()[0]])
            .observe(elapsed.as_secs_f64());
        for (table, rows) in dataset.tables().iter().zip(&batch.purged) {
            metrics
                .purged_rows
                .with_label_values(&[table, self.plan.name()])
                .inc_by(*rows);
        }
    }

    /// What is left, by dataset, found by other SQL than the deletion's.
    #[instrument(name = "verify", skip_all)]
    async fn verify(&self) -> Result<Vec<Remains>, PurgeError> {
        let mut tx = self.purger.database.begin().await?;
        let mut remains = Vec::with_capacity(DATASETS.len());
        for dataset in DATASETS {
            remains.push(match self.cutoffs.get(dataset.name()) {
                Some(cutoff) => {
                    dataset
                        .remains(
                            &mut tx,
                            Scope {
                                org: self.run.org,
                                cutoff,
                            },
                        )
                        .await?
                }
                None => Remains::nothing(dataset.tables().len()),
            });
        }
        Ok(remains)
    }

    /// Waits outside any transaction, and not at all once the worker stops.
    async fn wait(&self, pause: Duration) -> Result<(), PurgeError> {
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.stop.cancelled() => Err(PurgeError::Stopped),
        }
    }
}
