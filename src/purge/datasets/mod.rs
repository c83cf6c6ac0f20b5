//! The kinds of retained data, one file each. A new kind is a file here and a line in [`DATASETS`]: preview,
//! purge, verification, metrics labels and records follow from the list.

mod approvals;
mod drift_checks;
mod incident_payloads;

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use self::{
    approvals::Approvals, drift_checks::DriftChecks, incident_payloads::IncidentPayloads,
};
use crate::{
    ids::OrgId,
    postgres::Transaction,
    retention::{Cutoff, DatasetName},
};

/// Every dataset, in the order in which a run purges them.
pub const DATASETS: &[&dyn Dataset] = &[&DriftChecks, &IncidentPayloads, &Approvals];

/// Every table that loses rows, in the datasets' order.
pub fn tables() -> impl Iterator<Item = &'static str> {
    DATASETS
        .iter()
        .flat_map(|dataset| dataset.tables())
        .copied()
}

/// Whose rows, and how old: what every statement of a dataset repeats.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The organization.
    pub org: OrgId,
    /// Rows strictly older than this are expired.
    pub cutoff: Cutoff,
}

/// How far a pass over a dataset has come: the timestamp and key of the last row it looked at, oldest first.
///
/// Both are Postgres's own text, so that every value a column can hold (`-infinity` too) survives the way back.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<(String, String)>);

impl Progress {
    /// The row to continue after. No key: the statement takes the smallest one there is.
    fn after(&self) -> (String, Option<String>) {
        match &self.0 {
            Some((at, key)) => (at.clone(), Some(key.clone())),
            None => ("-infinity".into(), None),
        }
    }

    /// Where an earlier attempt had come.
    pub(super) fn resumed(at: Option<String>, key: Option<String>) -> Self {
        Self(at.zip(key))
    }

    /// The last row looked at, as an attempt may be resumed after it.
    pub(super) fn last(&self) -> Option<(&str, &str)> {
        self.0.as_ref().map(|(at, key)| (at.as_str(), key.as_str()))
    }

    /// Moves on to the last row that was looked at, if there was one.
    fn move_on(&mut self, at: Option<String>, key: Option<String>) {
        self.0 = at.zip(key).or_else(|| self.0.take());
    }
}

/// Rows that a purge would remove.
#[derive(Debug, Clone)]
pub struct Counted {
    /// By table, in the order of [`Dataset::tables`].
    pub rows: Vec<u64>,
    /// Whether every row was counted; if not, there may be more in each of the tables.
    pub is_whole: bool,
}

impl Counted {
    /// So many of the dataset's only table, counted up to `limit`.
    fn of_own_table(count: i64, limit: Option<i64>) -> Self {
        Self {
            rows: vec![rows(count)],
            is_whole: limit.is_none_or(|limit| count < limit),
        }
    }
}

/// What one batch did.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Rows deleted, by table, in the order of [`Dataset::tables`].
    pub purged: Vec<u64>,
    /// Expired rows of the dataset's own table that were looked at: fewer than the limit, and there are no more.
    pub seen: i64,
    /// Rows of the dataset's own table that were due and locked, and that Postgres did not delete: a trigger kept them.
    pub refused: u64,
}

impl Batch {
    /// Rows deleted in all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.purged.iter().sum()
    }
}

/// What separate SQL found after a purge, or in place of one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Remains {
    /// Expired and unprotected rows, by table: the purge missed them.
    pub left_behind: Vec<u64>,
    /// Expired rows that a rule protects, by table.
    pub kept: Vec<u64>,
    /// Whether every expired row was looked at; if not, there may be more of either.
    pub is_whole: bool,
}

impl Remains {
    /// Whether nothing is left to be purged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.left_behind.iter().all(|rows| *rows == 0)
    }

    /// Nothing found in any of so many tables: where there is no rule, nothing is looked for.
    pub(super) fn nothing(tables: usize) -> Self {
        Self {
            left_behind: vec![0; tables],
            kept: vec![0; tables],
            is_whole: true,
        }
    }

    /// Found in the dataset's own table, by looking at up to `limit` expired rows; the others' rows hang on its.
    fn of_own_table(dataset: &dyn Dataset, seen: i64, left_behind: i64, limit: i64) -> Self {
        let mut found = Self::nothing(dataset.tables().len());
        found.left_behind[0] = rows(left_behind);
        found.kept[0] = rows(seen - left_behind);
        found.is_whole = seen < limit;
        found
    }
}

/// One kind of retained data.
#[async_trait]
pub trait Dataset: fmt::Debug + Sync + Send {
    /// Which window of the policy applies.
    fn name(&self) -> DatasetName;

    /// The tables that lose rows, the dataset's own first.
    fn tables(&self) -> &'static [&'static str];

    /// How many rows a purge now would remove, by table. Changes nothing. Counting stops after about `limit` rows of a table; none:
    /// it goes on to the end.
    async fn count_expired(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        limit: Option<i64>,
    ) -> sqlx::Result<Counted>;

    /// Removes at most `limit` expired rows after `progress`, with what hangs on them. Rows that somebody else
    /// holds are passed over. Every protection is part of the deleting statement; nothing is decided before.
    ///
    /// With a limit of one `progress` moves on before anything is deleted: the caller can pass over a row whose deletion
    /// failed.
    async fn delete_batch(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        progress: &mut Progress,
        limit: i64,
    ) -> sqlx::Result<Batch>;

    /// The organizations with an expired, unprotected row, and for each how many seconds its oldest one is past
    /// the cutoff of the organization's plan: `plans` and `cutoffs` side by side.
    async fn overdue(
        &self,
        tx: &mut Transaction<'_>,
        plans: &[String],
        cutoffs: &[DateTime<Utc>],
    ) -> sqlx::Result<Vec<(Uuid, f64)>>;

    /// What is left, for each of the scopes in their order, found by other SQL than the delete's among the oldest `limit`
    /// of the expired rows.
    async fn remains(
        &self,
        tx: &mut Transaction<'_>,
        scopes: &[Scope],
        limit: i64,
    ) -> sqlx::Result<Vec<Remains>>;
}

/// The scopes as Postgres takes them: side by side.
fn side_by_side(scopes: &[Scope]) -> (Vec<Uuid>, Vec<DateTime<Utc>>) {
    scopes
        .iter()
        .map(|scope| (scope.org.0, scope.cutoff.0))
        .unzip()
}

/// A `count(*)` as a number of rows.
fn rows(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
