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
    runs::RowCursor,
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

/// The row to continue after. `None`: the statement takes the smallest key that there is.
fn resume_after(cursor: Option<&RowCursor>) -> (String, Option<String>) {
    cursor.map_or_else(
        || ("-infinity".into(), None),
        |cursor| (cursor.at.clone(), Some(cursor.key.clone())),
    )
}

/// A row, if there is one, as a sweep continues after it.
fn cursor_at(at: Option<String>, key: Option<String>) -> Option<RowCursor> {
    at.zip(key).map(|(at, key)| RowCursor { at, key })
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
    /// The last row that was looked at; none: there was none.
    pub last: Option<RowCursor>,
}

impl Batch {
    /// Rows deleted in all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.purged.iter().sum()
    }
}

/// The expired rows of one scope that separate SQL found, after a purge or before one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Expired and unprotected rows of the dataset's own table: a purge has them still to delete.
    pub due: u64,
    /// Expired rows of the dataset's own table that a rule protects.
    pub kept: u64,
    /// Whether every expired row was looked at. If not, there may be more of either.
    pub is_whole: bool,
}

/// An organization with an expired, unprotected row.
#[derive(Debug, Clone, Copy)]
pub struct OldestExpired {
    /// The organization.
    pub org: Uuid,
    /// How many seconds its oldest such row is past its cutoff.
    pub seconds: f64,
}

/// The rows of one scope among the oldest expired ones.
struct Looked {
    seen: i64,
    due: i64,
}

impl Looked {
    /// Found by looking at no more than `limit` expired rows.
    fn up_to(self, limit: i64) -> Remaining {
        Remaining {
            due: rows(self.due),
            kept: rows(self.seen - self.due),
            is_whole: self.seen < limit,
        }
    }
}

/// One kind of retained data.
#[async_trait]
pub trait Dataset: fmt::Debug + Sync + Send {
    /// Which window of the policy applies.
    fn name(&self) -> DatasetName;

    /// The tables that lose rows, the dataset's own first.
    fn tables(&self) -> &'static [&'static str] {
        self.name().tables()
    }

    /// How many rows a purge now would remove, by table. Changes nothing. Counting stops after about `limit` rows of a table; none:
    /// it goes on to the end.
    async fn count_expired(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        limit: Option<i64>,
    ) -> sqlx::Result<Counted>;

    /// Deletes at most `limit` expired rows after `cursor`, with the rows that hang on them. It passes over rows that somebody
    /// else holds. Every protection is part of the deleting statement; nothing is decided before.
    async fn delete_batch(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        cursor: Option<&RowCursor>,
        limit: i64,
    ) -> sqlx::Result<Batch>;

    /// The next expired row after `cursor`, protected or not. A sweep passes over it if its deletion failed.
    async fn next(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        cursor: Option<&RowCursor>,
    ) -> sqlx::Result<Option<RowCursor>>;

    /// The organizations with an expired, unprotected row. `plans` and their `cutoffs` stand side by side.
    async fn overdue(
        &self,
        tx: &mut Transaction<'_>,
        plans: &[String],
        cutoffs: &[DateTime<Utc>],
    ) -> sqlx::Result<Vec<OldestExpired>>;

    /// The rows that remain of each scope, in the scopes' order, among the oldest `limit` expired ones. Its SQL is not the
    /// deletion's.
    async fn remaining(
        &self,
        tx: &mut Transaction<'_>,
        scopes: &[Scope],
        limit: i64,
    ) -> sqlx::Result<Vec<Remaining>>;
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
