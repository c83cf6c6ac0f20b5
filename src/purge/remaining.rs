//! Which rows remain. Before the sweeps this finds the datasets with rows due; after them it verifies that nothing due is left.
//! The SQL is not the deletion's, takes many runs at once, and locks nothing.

use tracing::Span;

use super::{
    Purger,
    datasets::{DATASETS, Dataset, Remaining, Scope},
    error::PurgeError,
    group::{Group, Pair},
    member::{EndedRun, Member},
    rewritten,
};
use crate::{
    faults::{self, Point},
    postgres::{Database, Transaction},
    retention::DatasetName,
    runs,
    telemetry::logs::chain,
};

/// How many of the oldest expired rows of a dataset are inspected first. Where rules protect them all, it goes on with this many times
/// more.
const MIN_LOOK_ROWS: i64 = 4;

/// A dataset of a run, by their indexes, and what is asked about it.
type Asked = (Pair, Scope);

impl Purger {
    /// Finds the datasets with rows due. A run without any needs no sweep: this has verified it.
    pub async fn look(&self, group: &mut Group) {
        let asked: Vec<_> = (0..DATASETS.len())
            .map(|n| group.asked(n, |_| true))
            .collect();
        match look_at(&self.database, &asked).await {
            Ok(found) => {
                for ((pair, _), found) in asked.into_iter().flatten().zip(found) {
                    if let Some(sweep) = group.sweep_mut(pair) {
                        sweep.kept = found.kept;
                    }
                    if found.due > 0 {
                        group.queue(pair);
                    }
                }
            }
            // The sweeps find out whose fault it is.
            Err(error) => {
                tracing::debug!(
                    error = chain(&error),
                    "cannot look for rows due: every dataset is swept"
                );
                asked
                    .into_iter()
                    .flatten()
                    .for_each(|(pair, _)| group.queue(pair));
            }
        }
        // Run by run: the pairs of a run share its fence.
        group
            .pairs
            .make_contiguous()
            .sort_by_key(|pair| pair.member);
        group.urgent_first();
        group.is_inspected = true;
        group.begin_cycle();
    }

    /// Takes out the runs that the look has verified: they have no rows due.
    pub fn take_not_due(&self, group: &mut Group) -> Vec<EndedRun> {
        if !group.is_inspected {
            return Vec::new();
        }
        let without_pairs = group.without_pairs().into_iter();
        let members = without_pairs.filter_map(|index| group.remove(index));
        members
            .map(|member| EndedRun {
                member,
                result: Ok(()),
            })
            .collect()
    }

    /// Verifies the runs that have no pair left and ends them, and begins another cycle. A run with rows left tries them once
    /// more, and stays in the group.
    pub async fn verify(&self, group: &mut Group) -> Vec<EndedRun> {
        let swept = group.without_pairs();
        let ended = if swept.is_empty() {
            Vec::new()
        } else {
            self.end_swept(group, &swept).await
        };
        group.begin_cycle();
        ended
    }

    async fn end_swept(&self, group: &mut Group, swept: &[usize]) -> Vec<EndedRun> {
        faults::reach(Point::BeforeVerify);
        let verified = self.verify_swept(group, swept).await;
        faults::reach(Point::AfterVerify);
        let mut ended = Vec::new();
        for (index, result) in verified {
            let is_left = matches!(result, Err(PurgeError::LeftBehind { .. }));
            let result = match self.go_on(group, index, is_left).await {
                Ok(true) => continue,
                Ok(false) => result,
                Err(error) => Err(error.into()),
            };
            if let Some(mut member) = group.remove(index) {
                // The error of a table comes first: it tells why other rows may be left, too.
                let result = match member.table_error.take() {
                    Some(error) if is_left || result.is_ok() => Err(error),
                    _ => result,
                };
                ended.push(EndedRun { member, result });
            }
        }
        ended
    }

    /// Verifies all of these runs at once. If that fails, each alone, so that the error belongs to one run.
    async fn verify_swept(
        &self,
        group: &mut Group,
        swept: &[usize],
    ) -> Vec<(usize, Result<(), PurgeError>)> {
        if self.find_left(group, swept).await.is_ok() {
            let mut verified = Vec::new();
            for index in swept {
                verified.push((*index, self.conclude(group, *index).await));
            }
            return verified;
        }
        let mut verified = Vec::new();
        for index in swept {
            let result = match self.find_left(group, &[*index]).await {
                Ok(()) => self.conclude(group, *index).await,
                Err(error) => Err(error),
            };
            verified.push((*index, result));
        }
        verified
    }

    /// Looks at every expired row of these runs, and notes how many are due, and how many are kept.
    async fn find_left(&self, group: &mut Group, indexes: &[usize]) -> Result<(), PurgeError> {
        if group.is_unflushed {
            let runs: Vec<_> = group.members().map(|member| member.run.id).collect();
            runs::flush(&self.database, &runs).await?;
            group.is_unflushed = false;
        }
        for index in indexes {
            if let Some(member) = group.members[*index].as_mut() {
                for sweep in &mut member.sweeps {
                    (sweep.left, sweep.kept) = (0, 0);
                }
            }
        }
        let _spans: Vec<Span> = indexes
            .iter()
            .filter_map(|index| group.members[*index].as_ref())
            .map(|member| tracing::info_span!(parent: &member.span, "verify"))
            .collect();
        let mut tx = self.database.begin_verifying().await?;
        for (dataset, kind) in DATASETS.iter().enumerate() {
            let asked = group.asked(dataset, |index| indexes.contains(&index));
            let scopes: Vec<_> = asked.iter().map(|(_, scope)| *scope).collect();
            if scopes.is_empty() {
                continue;
            }
            let found = kind.remaining(&mut tx, &scopes, i64::MAX).await;
            let found =
                found.map_err(|error| PurgeError::from(error).of_table(kind.tables()[0]))?;
            for ((pair, _), found) in asked.into_iter().zip(found) {
                if let Some(sweep) = group.sweep_mut(pair) {
                    (sweep.kept, sweep.left) = (found.kept, found.due);
                }
            }
        }
        tx.prove_mapping().await?;
        Ok(())
    }

    /// Whether the rows that were found left make the run fail.
    async fn conclude(&self, group: &Group, index: usize) -> Result<(), PurgeError> {
        let Some(member) = group.members[index].as_ref() else {
            return Ok(());
        };
        let mut sweeps = DATASETS.iter().zip(&member.sweeps);
        let Some((dataset, sweep)) = sweeps.find(|(_, sweep)| sweep.left > 0) else {
            return Ok(());
        };
        let table = dataset.tables()[0];
        if sweep.refused > 0 {
            return Err(not_deleted(&self.database, table, sweep.refused).await?);
        }
        Err(PurgeError::LeftBehind {
            table,
            rows: sweep.left,
        })
    }

    /// Lets a run try once more over the datasets with rows left. `false`: none is left, or it has had enough tries.
    async fn go_on(&self, group: &mut Group, index: usize, is_left: bool) -> sqlx::Result<bool> {
        let Some(member) = group.members[index].as_mut().filter(|_| is_left) else {
            return Ok(false);
        };
        if !member.begin_try() {
            return Ok(false);
        }
        note_rewritten(&self.database, member).await?;
        let left = member.sweeps.iter().enumerate();
        let left = left.filter(|(_, sweep)| sweep.left > 0 && !sweep.has_failed);
        let left: Vec<_> = left.map(|(dataset, _)| dataset).collect();
        for dataset in left {
            group.queue(Pair {
                member: index,
                dataset,
            });
        }
        Ok(true)
    }
}

impl Group {
    fn queue(&mut self, pair: Pair) {
        self.pairs.push_back(pair);
    }

    /// The scopes of a dataset, for the runs at these indexes.
    fn asked(&self, dataset: usize, which: impl Fn(usize) -> bool) -> Vec<Asked> {
        let indexes = self.members.iter().enumerate();
        indexes
            .filter(|(index, _)| which(*index))
            .filter_map(|(index, member)| {
                let member = member.as_ref()?;
                let scope = member.scope(DATASETS[dataset])?;
                let pair = Pair {
                    member: index,
                    dataset,
                };
                (!member.sweeps[dataset].has_failed).then_some((pair, scope))
            })
            .collect()
    }
}

/// Payloads that were restored past the trigger stay behind until they are noted.
async fn note_rewritten(database: &Database, member: &Member) -> sqlx::Result<()> {
    let cutoff = member.policy.cutoffs.get(DatasetName::IncidentPayloads);
    let Some(cutoff) = cutoff else {
        return Ok(());
    };
    let noted = rewritten::note_of(database, member.run.org, *cutoff).await?;
    if noted > 0 {
        tracing::warn!(run_id = %member.run.id, org_id = %member.run.org, payloads = noted,
            "payloads were written again after their purge, and no trigger noted them: they go now");
    }
    Ok(())
}

/// Looks at the oldest expired rows of each scope, dataset by dataset.
async fn look_at(database: &Database, asked: &[Vec<Asked>]) -> sqlx::Result<Vec<Remaining>> {
    let mut tx = database.begin_verifying().await?;
    let mut found = Vec::new();
    for (dataset, asked) in DATASETS.iter().zip(asked) {
        let scopes: Vec<_> = asked.iter().map(|(_, scope)| *scope).collect();
        if !scopes.is_empty() {
            found.extend(look_wider(&mut tx, *dataset, &scopes).await?);
        }
    }
    tx.prove_mapping().await?;
    tx.rollback().await?;
    Ok(found)
}

/// Looks at few rows first, and at more of them where rules protect those.
async fn look_wider(
    tx: &mut Transaction<'_>,
    dataset: &dyn Dataset,
    scopes: &[Scope],
) -> sqlx::Result<Vec<Remaining>> {
    let mut limit = MIN_LOOK_ROWS;
    let mut found = dataset.remaining(tx, scopes, limit).await?;
    loop {
        let unknown: Vec<_> = (0..found.len())
            .filter(|n| found[*n].due == 0 && !found[*n].is_whole)
            .collect();
        if unknown.is_empty() {
            return Ok(found);
        }
        limit *= MIN_LOOK_ROWS;
        let scopes: Vec<_> = unknown.iter().map(|n| scopes[*n]).collect();
        let more = dataset.remaining(tx, &scopes, limit).await?;
        for (n, more) in unknown.into_iter().zip(more) {
            found[n] = more;
        }
    }
}

/// The error for `rows` of a table that a trigger kept.
async fn not_deleted(
    database: &Database,
    table: &'static str,
    rows: u64,
) -> Result<PurgeError, PurgeError> {
    let triggers = sqlx::query_scalar!(
        r#"-- purge.triggers_before_deletion
        SELECT string_agg(DISTINCT format('%I on %s', t.tgname, t.tgrelid::regclass), ', ')
        FROM pg_depend d
        JOIN pg_rewrite r ON r.oid = d.objid
        JOIN pg_trigger t ON t.tgrelid = d.refobjid
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
          AND r.ev_class = to_regclass('main_app.' || $1)
          AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 11 = 11 -- for each row, before, on DELETE"#,
        table
    )
    .fetch_one(database)
    .await?;
    Ok(PurgeError::NotDeleted {
        table,
        rows,
        triggers: triggers.unwrap_or_else(|| "none are known".into()),
    })
}
