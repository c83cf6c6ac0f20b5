//! One attempt of a run: resolve the policy, sweep every dataset in batches, verify; again while something that
//! another transaction held is left behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{Span, instrument};

use super::{
    PurgeError,
    batch_size::{BatchSize, SHORT},
    datasets::{DATASETS, Dataset, Progress, Remains, Scope},
    ledger::{self, OwnedRun, Part, Terms},
    pace::{Pace, Throttle},
    pass::{Done, Place, commit},
    rewritten,
    trouble::{self, Trouble},
};
use crate::{
    faults::{self, Point},
    postgres::{self, Database, Flush, Transaction},
    retention::{DatasetName, Plan},
    telemetry::{logs::chain, metrics::Metrics},
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
    /// How fast batches may follow each other.
    pub pace: Arc<Pace>,
    /// How many batches delete at once. While one waits for its commit to reach the disk another may.
    pub at_once: Arc<Semaphore>,
}

/// An attempt's turn: when it is to end early, and what it has done meanwhile.
#[derive(Debug, Default)]
pub struct Turn {
    /// Cancelled when the attempt is to end between two batches.
    pub over: CancellationToken,
    /// Rows purged in this turn.
    pub rows: AtomicU64,
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
    turn: &'a Turn,
    terms: Terms,
    size: BatchSize,
    /// What the batch at hand has waited for.
    throttled: Option<(Throttle, Duration)>,
    /// Whether somebody waits for the run. Once so, it stays so.
    is_urgent: AtomicBool,
    trouble: Trouble,
}

/// How one transaction went.
enum BatchOutcome {
    /// What it did; and whether there was more than it could do.
    Committed(Vec<Done>, bool),
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
        mut terms: Terms,
        turn: &Turn,
    ) -> Result<Report, PurgeError> {
        faults::pass(Point::AfterPolicy);
        // What is before the place where an earlier attempt had come is found by verifying, if there is any.
        let mut starts = std::mem::take(&mut terms.progress);
        let mut attempt = Attempt {
            purger: self,
            run,
            turn,
            terms,
            size: BatchSize::new(self.batch_size),
            throttled: None,
            is_urgent: AtomicBool::new(run.urgent),
            trouble: Trouble::default(),
        };
        let mut pause = PAUSE;
        for pass in 1.. {
            attempt.sweep(&starts).await?;
            faults::pass(Point::BeforeVerify);
            let remains = attempt.verify().await?;
            faults::pass(Point::AfterVerify);
            let Some((n, left_behind)) = trouble::first_left_behind(&remains) else {
                attempt.trouble.into_result()?;
                return Ok(Report {
                    plan: attempt.terms.plan,
                    remains,
                });
            };
            if attempt.trouble.refused(n) > 0 {
                return Err(trouble::not_deleted(
                    &self.database,
                    DATASETS[n],
                    attempt.trouble.refused(n),
                )
                .await?);
            }
            if pass == MAX_PASSES {
                attempt.trouble.into_result()?;
                return Err(left_behind);
            }
            starts.clear();
            attempt.trouble.begin_pass();
            attempt.note_rewritten().await?;
            attempt.wait(pause).await?;
            pause *= 2;
        }
        unreachable!("the loop ends by returning")
    }
}

impl Attempt<'_> {
    /// The plan changed while the run was going: for this run the longer window of each dataset wins.
    async fn adopt(&mut self, plan: Plan) -> Result<(), PurgeError> {
        let mut tx = self.purger.database.begin().await?;
        ledger::prove(&mut tx, self.run).await?;
        let terms = ledger::record_terms(&mut tx, self.run, plan, Some(self.terms.policy)).await?;
        tx.commit().await?;
        tracing::info!(run_id = %self.run.id, org_id = %self.run.org, from = %self.terms.plan, to = %plan,
            "plan changed during the run: the longer windows win");
        self.terms = terms;
        Ok(())
    }

    /// One pass over all datasets, from where `starts` says: batch, batch, batch, until every expired row has been
    /// looked at.
    async fn sweep(&mut self, starts: &[Progress]) -> Result<(), PurgeError> {
        let mut place = Place::in_dataset(0, starts, Span::current());
        let mut contended = 0;
        while place.dataset < DATASETS.len() {
            if self.turn.over.is_cancelled() {
                return Err(PurgeError::Stopped);
            }
            if self.trouble.is_in(place.dataset) {
                place = Place::in_dataset(place.dataset + 1, starts, Span::current());
                continue;
            }
            let before = place.clone();
            let purger = self.purger;
            let urgent = self.is_urgent.load(Ordering::Relaxed);
            let go = purger
                .pace
                .ready(&purger.database, urgent, &self.turn.over)
                .await;
            let was_gentle = self.is_gentle();
            self.throttled = go.throttled;
            if self.is_gentle() && !was_gentle {
                self.size.begin_gently();
            }
            let started = Instant::now();
            let outcome = self.batch(&mut place, starts).await;
            purger.pace.worked(started.elapsed());
            drop(go);
            match outcome {
                Ok(BatchOutcome::Committed(done, more)) => {
                    contended = 0;
                    for done in &done {
                        self.count(done);
                        self.trouble.note(done);
                    }
                    if more {
                        self.size.follow(started.elapsed(), self.is_gentle());
                    }
                }
                Ok(BatchOutcome::PlanChanged(plan)) => {
                    self.adopt(plan).await?;
                    place.progress = Progress::default();
                }
                Err(PurgeError::Database(error)) if postgres::is_contention(&error) => {
                    // Smaller, to take less time, or to leave out the row that is held; a single held row is passed
                    // over: the next pass takes it up again.
                    if self.size.shrink() {
                        place = before;
                        if postgres::is_timeout(&error) {
                            continue;
                        }
                    }
                    contended += 1;
                    if contended == MAX_CONTENTION {
                        tracing::debug!(run_id = %self.run.id, error = chain(&error), "too much is held: later datasets first");
                        (place, contended) = (
                            Place::in_dataset(place.dataset + 1, starts, Span::current()),
                            0,
                        );
                        self.size = BatchSize::new(self.purger.batch_size);
                    }
                    self.wait(PAUSE).await?;
                }
                Err(error) => {
                    self.trouble.take(error)?;
                    place = before;
                }
            }
        }
        Ok(())
    }

    fn is_gentle(&self) -> bool {
        self.throttled.is_some_and(|(reason, _)| reason.is_gentle())
    }

    /// Proof, deletion and counts: they commit together or not at all. What is soon done with one dataset goes on with
    /// the next: most organizations need one transaction for all they have.
    async fn batch(
        &self,
        place: &mut Place,
        starts: &[Progress],
    ) -> Result<BatchOutcome, PurgeError> {
        // Closed it never is.
        let deleting = self.purger.at_once.acquire().await.ok();
        // A flush for each of many small batches is what the main app's own commits would wait behind. The run's end is
        // flushed, and with it what went before.
        let flush = if self.is_gentle() {
            Flush::Later
        } else {
            Flush::AtOnce
        };
        let mut tx = self
            .purger
            .database
            .begin_yielding(self.size.patience(), flush)
            .await?;
        let proof = ledger::prove(&mut tx, self.run).await?;
        self.is_urgent.fetch_or(proof.is_urgent, Ordering::Relaxed);
        if proof.plan != self.terms.plan {
            return Ok(BatchOutcome::PlanChanged(proof.plan));
        }
        tx.begin_holding();
        let started = Instant::now();
        let (mut done, mut left, mut more) = (Vec::new(), self.size.rows(), false);
        while let Some(dataset) = DATASETS.get(place.dataset) {
            if self.trouble.is_in(place.dataset) {
                *place = Place::in_dataset(place.dataset + 1, starts, Span::current());
                continue;
            }
            if let Some(part) = self.part(&mut tx, *dataset, place, left).await? {
                more = part.batch.seen >= left;
                left -= part.batch.seen;
                done.push(part);
            }
            if more {
                break;
            }
            *place = Place::in_dataset(place.dataset + 1, starts, Span::current());
            let has_some = done.last().is_some_and(|done| done.batch.seen > 0);
            if started.elapsed() > SHORT || self.trouble.is_one_by_one() && has_some {
                break;
            }
        }
        self.record(&mut tx, &done).await?;
        drop(deleting);
        commit(tx, &done).await?;
        Ok(BatchOutcome::Committed(done, more))
    }

    /// One dataset's part of a transaction; none where the policy has no rule for it.
    async fn part(
        &self,
        tx: &mut Transaction<'_>,
        dataset: &'static dyn Dataset,
        place: &mut Place,
        limit: i64,
    ) -> Result<Option<Done>, PurgeError> {
        let Some(cutoff) = self.terms.cutoffs.get(dataset.name()) else {
            return Ok(None);
        };
        let scope = Scope {
            org: self.run.org,
            cutoff,
        };
        let done = place.delete(tx, dataset, scope, limit).await;
        let of_table = |error| PurgeError::from(error).of_table(dataset.tables()[0]);
        Ok(Some(done.map_err(of_table)?))
    }

    /// Adds what went to the run's steps.
    async fn record(&self, tx: &mut Transaction<'_>, done: &[Done]) -> Result<(), PurgeError> {
        let parts: Vec<_> = done
            .iter()
            .filter(|done| done.batch.rows() > 0)
            .map(|done| Part {
                tables: done.dataset.tables(),
                purged: &done.batch.purged,
                progress: &done.progress,
                cascaded: done.cascaded.as_ref(),
            })
            .collect();
        if !parts.is_empty() {
            // The last statement: nobody waits for these rows longer than it may take, and the commit.
            tx.keep_brief()?;
            ledger::record_batch(tx, self.run, &parts, self.throttled).await?;
        }
        Ok(())
    }

    /// Counts what is committed. What a crash of Postgres takes back was counted here, and is once more when it is done
    /// again; the run's record goes with the rows.
    fn count(&self, done: &Done) {
        done.count(&self.purger.metrics, self.terms.plan);
        self.turn
            .rows
            .fetch_add(done.batch.rows(), Ordering::Relaxed);
    }

    /// What is left, by dataset, found by other SQL than the deletion's. It locks nothing, and may take its time: the
    /// places of millions of rows that are gone are still walked over.
    #[instrument(name = "verify", skip_all)]
    async fn verify(&self) -> Result<Vec<Remains>, PurgeError> {
        let mut tx = self.purger.database.begin_verifying().await?;
        let mut remains = Vec::with_capacity(DATASETS.len());
        for (n, dataset) in DATASETS.iter().enumerate() {
            let cutoff = self.terms.cutoffs.get(dataset.name());
            let found = match cutoff.filter(|_| !self.trouble.is_in(n)) {
                Some(cutoff) => {
                    let org = self.run.org;
                    let found = dataset
                        .remains(&mut tx, &[Scope { org, cutoff }], i64::MAX)
                        .await;
                    let of_table = |error| PurgeError::from(error).of_table(dataset.tables()[0]);
                    found.map_err(of_table)?
                }
                None => vec![],
            };
            let nothing = || Remains::nothing(dataset.tables().len());
            remains.push(found.into_iter().next().unwrap_or_else(nothing));
        }
        tx.prove_mapping().await?;
        Ok(remains)
    }

    /// Payloads that were restored past the trigger are left behind until they are noted.
    async fn note_rewritten(&self) -> Result<(), PurgeError> {
        if let Some(cutoff) = self.terms.cutoffs.get(DatasetName::IncidentPayloads) {
            let noted = rewritten::note_of(&self.purger.database, self.run.org, cutoff).await?;
            if noted > 0 {
                tracing::warn!(run_id = %self.run.id, org_id = %self.run.org, payloads = noted,
                    "payloads were written again after their purge, and no trigger noted them: they go now");
            }
        }
        Ok(())
    }

    /// Waits outside any transaction, and not at all once the worker stops.
    async fn wait(&self, pause: Duration) -> Result<(), PurgeError> {
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.turn.over.cancelled() => Err(PurgeError::Stopped),
        }
    }
}
