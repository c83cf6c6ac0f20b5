//! A sweep: one transaction that proves the fences of its runs, deletes a batch for pair after pair, and adds the counts. A
//! partial purge is legal, because its counts commit with it.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;
use tokio::time::Instant;
use tracing::{Instrument, Span, field};

use super::{
    PurgeError, Purger,
    batch_size::BatchSize,
    cascades,
    conflict::Failure,
    datasets::{Batch, DATASETS, Dataset, Scope},
    group::{Group, Pair},
    member::EndedRun,
    throttle::{Mode, Permit},
};
use crate::{
    faults::{self, Point},
    postgres::{Durability, Transaction},
    retention::{Plan, ResolveError},
    runs::{self, StepDelta, StepStatus},
};

/// How many pairs one statement proves the fences of. It locks their organizations until the transaction ends, so that a pair
/// that is not reached should not be among them.
const PAIRS_PER_FENCE_CHECK: usize = 8;
/// What a transaction did.
#[derive(Default)]
struct Swept {
    /// The batches, in the order of the pairs.
    batches: HashMap<Pair, PairBatch>,
    /// How many pairs it has dealt with, from the front.
    pairs: usize,
    /// Runs that may not go on as they are.
    stopped: HashMap<usize, Stop>,
    /// Runs that somebody waits for by now.
    urgent: Vec<usize>,
    /// Whether the last batch was as large as it may be.
    is_full: bool,
}

impl Swept {
    /// The pairs that met expired rows.
    fn met(&self) -> Vec<Pair> {
        let met = self.batches.iter().filter(|(_, done)| done.batch.seen > 0);
        met.map(|(pair, _)| *pair).collect()
    }
}

/// How far a transaction came before it failed.
#[derive(Default)]
struct Reached {
    /// The pairs that it may be the fault of, from the front.
    pairs: usize,
    /// The pair whose statement, or whose commit, is under way.
    at: Option<Pair>,
}

/// A batch of one pair.
struct PairBatch {
    batch: Batch,
    is_exhausted: bool,
    cascaded: Option<Value>,
    elapsed: Duration,
}

/// Why a run may not go on as it is.
enum Stop {
    Superseded,
    PlanChanged(Plan),
    Unresolved(ResolveError),
}

impl Purger {
    /// Sweeps once, from the front of the group's pairs, and takes out the runs that end by it.
    pub async fn sweep(&self, group: &mut Group, permit: Permit<'_>) -> Vec<EndedRun> {
        let mode = permit.mode();
        if let Some(sweep) = group
            .pairs
            .front()
            .copied()
            .and_then(|pair| group.sweep_mut(pair))
        {
            sweep.note_wait(permit.throttled);
        }
        group.open_spans();
        let started = Instant::now();
        let outcome = self.transact(group, mode).await;
        let elapsed = started.elapsed();
        self.throttle.note_batch(elapsed);
        drop(permit);
        match outcome {
            Ok(swept) => {
                group.is_unflushed |= mode == Mode::LowImpact;
                if swept.is_full {
                    group.size.follow(elapsed, mode);
                }
                self.take_in(group, swept).await
            }
            Err(failure) => self.give_way(group, failure, mode).await,
        }
    }

    async fn transact(&self, group: &Group, mode: Mode) -> Result<Swept, Failure> {
        let pairs = group.next_pairs();
        let mut reached = Reached::default();
        let swept = self.transact_pairs(group, &pairs, mode, &mut reached).await;
        swept.map_err(|error| Failure {
            error,
            pairs: reached.pairs,
            culprit: reached.at,
        })
    }

    /// Proof, deletion and counts: all of it commits, or nothing.
    async fn transact_pairs(
        &self,
        group: &Group,
        pairs: &[Pair],
        mode: Mode,
        reached: &mut Reached,
    ) -> Result<Swept, PurgeError> {
        // It is never closed.
        let deleting = self.deletes.acquire().await.ok();
        let durability = match mode {
            Mode::FullSpeed => Durability::Flushed,
            // The main app's commits would wait behind a flush for each of many small batches. The run's end is flushed, and
            // everything before it with it.
            Mode::LowImpact => Durability::Async,
        };
        let budget = group.size.lock_budget(mode);
        let mut tx = self.database.begin_purging(budget, durability).await?;
        let (mut swept, mut deltas) = (Swept::default(), Vec::new());
        let (mut left, mut proved) = (group.size.rows(mode), 0);
        let mut began = Instant::now();
        for (n, pair) in pairs.iter().enumerate() {
            if n == proved {
                proved = pairs.len().min(n + PAIRS_PER_FENCE_CHECK);
                reached.pairs = proved;
                check_fences(&mut tx, group, &pairs[n..proved], &mut swept).await?;
                if n == 0 {
                    tx.start_clock();
                    began = Instant::now();
                }
            }
            swept.pairs = n + 1;
            let Some(scope) = group.scope(*pair) else {
                continue;
            };
            if swept.stopped.contains_key(&pair.member) {
                continue;
            }
            reached.at = Some(*pair);
            let done = delete(&mut tx, group, *pair, scope, left).await?;
            reached.at = None;
            left -= done.batch.seen;
            swept.is_full = !done.is_exhausted;
            if done.batch.rows() > 0 {
                deltas.extend(group.deltas(*pair, &done));
            }
            swept.batches.insert(*pair, done);
            if left <= 0 || began.elapsed() > BatchSize::time_for_pairs(mode) {
                break;
            }
        }
        reached.pairs = swept.pairs;
        if !deltas.is_empty() {
            // The last statement. Nobody waits for these rows longer than it may take, and the commit.
            tx.check_deadline()?;
            runs::record(&mut tx, &deltas).await?;
        }
        drop(deleting);
        if let [pair] = swept.met().as_slice() {
            reached.at = Some(*pair);
        }
        commit(tx, &swept).await?;
        Ok(swept)
    }

    /// Takes in what a transaction has committed.
    async fn take_in(&self, group: &mut Group, mut swept: Swept) -> Vec<EndedRun> {
        for _ in 0..swept.pairs {
            let Some(pair) = group.pop() else { break };
            match swept.batches.remove(&pair) {
                Some(done) => {
                    self.count(group, pair, &done);
                    if !done.is_exhausted {
                        group.pairs.push_back(pair);
                    }
                }
                // Its run has stopped, or has no rule for the dataset any more.
                None if group.scope(pair).is_some() => group.pairs.push_back(pair),
                None => {}
            }
        }
        for index in swept.urgent {
            if let Some(member) = group.members[index].as_mut() {
                member.run.is_urgent = true;
            }
        }
        group.urgent_first();
        let mut ended = Vec::new();
        for (index, stop) in swept.stopped {
            let error = match stop {
                Stop::PlanChanged(plan) => self.lengthen(group, index, plan).await.err(),
                Stop::Superseded => Some(PurgeError::Superseded),
                Stop::Unresolved(error) => Some(error.into()),
            };
            ended.extend(error.and_then(|error| group.end(index, error)));
        }
        ended
    }

    /// Counts a batch once it is committed. If Postgres crashes and undoes it, it is counted once more when it is done again; the
    /// run's record goes with the rows.
    fn count(&self, group: &mut Group, pair: Pair, done: &PairBatch) {
        let Some(member) = group.members[pair.member].as_mut() else {
            return;
        };
        let (tables, plan) = (DATASETS[pair.dataset].tables(), member.policy.plan.name());
        self.metrics
            .batch_duration
            .with_label_values(&[tables[0]])
            .observe(done.elapsed.as_secs_f64());
        for (table, rows) in tables.iter().zip(&done.batch.purged) {
            self.metrics
                .purged_rows
                .with_label_values(&[table, plan])
                .inc_by(*rows);
        }
        let rows = done.batch.rows();
        member.has_begun = true;
        member.rows += rows;
        let sweep = &mut member.sweeps[pair.dataset];
        sweep.rows += rows;
        sweep.refused += done.batch.refused;
        (sweep.contentions, sweep.is_alone) = (0, false);
        if let Some(last) = &done.batch.last {
            sweep.cursor = Some(last.clone());
        }
        if rows > 0 {
            sweep.throttled = None;
        }
        if let Some(span) = &sweep.span {
            span.record("rows", sweep.rows);
        }
    }

    /// The plan has changed while the run was going. For this run the longer window of each dataset holds.
    async fn lengthen(
        &self,
        group: &mut Group,
        index: usize,
        plan: Plan,
    ) -> Result<(), PurgeError> {
        let Some(member) = group.members[index].as_mut() else {
            return Ok(());
        };
        let from = member.policy.plan;
        member.lengthen(plan);
        let mut tx = self.database.begin().await?;
        if !runs::freeze_policy(&mut tx, &member.run, &member.policy).await? {
            return Err(PurgeError::Superseded);
        }
        tx.commit().await?;
        tracing::info!(run_id = %member.run.id, org_id = %member.run.org, %from, to = %plan,
            "plan changed during the run: the longer windows win");
        Ok(())
    }
}

impl Group {
    /// What the record is told of a batch.
    fn deltas(&self, pair: Pair, done: &PairBatch) -> Vec<StepDelta> {
        let Some(member) = self.members[pair.member].as_ref() else {
            return Vec::new();
        };
        let (dataset, sweep) = (DATASETS[pair.dataset], &member.sweeps[pair.dataset]);
        let cutoff = member.policy.cutoffs.get(dataset.name()).copied();
        let tables = dataset.tables().iter().zip(&done.batch.purged).enumerate();
        let deltas = tables.map(|(n, (table, purged))| {
            let is_own = n == 0;
            StepDelta {
                purged: *purged,
                batches: 1,
                cursor: done.batch.last.clone().filter(|_| is_own),
                throttled: sweep.throttled.filter(|_| is_own),
                cascaded: done.cascaded.clone().filter(|_| is_own),
                ..StepDelta::new(member.run.id, table, cutoff, StepStatus::Running)
            }
        });
        deltas.collect()
    }
}

/// Proves the fences of the runs of `pairs`, and notes the runs that may not go on as they are.
async fn check_fences(
    tx: &mut Transaction<'_>,
    group: &Group,
    pairs: &[Pair],
    swept: &mut Swept,
) -> Result<(), PurgeError> {
    let mut indexes: Vec<_> = pairs.iter().map(|pair| pair.member).collect();
    indexes.dedup();
    let members: Vec<_> = indexes
        .iter()
        .filter_map(|index| Some((*index, group.members[*index].as_ref()?)))
        .collect();
    let runs: Vec<_> = members.iter().map(|(_, member)| &member.run).collect();
    let fences = runs::check_fence(tx, &runs).await?;
    for ((index, member), fence) in members.into_iter().zip(fences) {
        let stop = match fence {
            None => Stop::Superseded,
            Some(fence) => {
                if fence.is_urgent {
                    swept.urgent.push(index);
                }
                match fence.plan {
                    Ok(plan) if plan == member.policy.plan => continue,
                    Ok(plan) => Stop::PlanChanged(plan),
                    Err(error) => Stop::Unresolved(error),
                }
            }
        };
        swept.stopped.insert(index, stop);
    }
    Ok(())
}

/// Deletes up to `limit` rows of one pair.
async fn delete(
    tx: &mut Transaction<'_>,
    group: &Group,
    pair: Pair,
    scope: Scope,
    limit: i64,
) -> Result<PairBatch, PurgeError> {
    let dataset = DATASETS[pair.dataset];
    let deleted = delete_counted(tx, group, pair, dataset, scope, limit).await;
    deleted.map_err(|error| PurgeError::from(error).of_table(dataset.tables()[0]))
}

async fn delete_counted(
    tx: &mut Transaction<'_>,
    group: &Group,
    pair: Pair,
    dataset: &'static dyn Dataset,
    scope: Scope,
    limit: i64,
) -> sqlx::Result<PairBatch> {
    let table = dataset.tables()[0];
    let step = group.members[pair.member]
        .as_ref()
        .and_then(|member| member.sweeps[pair.dataset].span.clone())
        .unwrap_or_else(Span::none);
    let span = tracing::info_span!(parent: &step, "batch", table, rows = field::Empty);
    let started = Instant::now();
    let before = cascades::count(tx, table).await?;
    let batch = dataset
        .delete_batch(tx, scope, group.cursor(pair), limit)
        .instrument(span.clone())
        .await?;
    let cascaded = match before {
        Some(before) if batch.rows() > 0 => {
            let after = cascades::count(tx, table).await?;
            after.and_then(|after| before.until(&after))
        }
        _ => None,
    };
    span.record("rows", batch.rows());
    Ok(PairBatch {
        is_exhausted: batch.seen < limit,
        cascaded,
        elapsed: started.elapsed(),
        batch,
    })
}

/// A transaction that met no expired row has changed nothing. A transaction that met some may have changed something even if no
/// row went: an incident without a payload is stamped.
async fn commit(tx: Transaction<'_>, swept: &Swept) -> Result<(), PurgeError> {
    let met = swept.met();
    if met.is_empty() {
        return Ok(tx.rollback().await?);
    }
    faults::reach(Point::BeforeCommit);
    if let Err(error) = tx.commit().await {
        // It may be a trigger that waits for the commit. With one pair alone it is known whose.
        return Err(match met.as_slice() {
            [pair] => PurgeError::from(error).of_table(DATASETS[pair.dataset].tables()[0]),
            _ => error.into(),
        });
    }
    faults::reach(Point::AfterCommit);
    Ok(())
}
