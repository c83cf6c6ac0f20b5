//! Datasets that an attempt cannot purge: a trigger raises, a right is missing. The other datasets are purged all the same,
//! and the attempt fails in the end, naming the table.

use super::{
    PurgeError,
    datasets::{DATASETS, Dataset, Remains},
    pass::Done,
};
use crate::postgres::Database;

/// What stands in the way of an attempt.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// What the first of them failed of.
    first: Option<PurgeError>,
    /// By dataset: whether it is left alone.
    is_in: Vec<bool>,
    /// By dataset: rows of this pass that a trigger kept.
    refused: Vec<u64>,
    /// Whether each transaction takes one dataset only, so that an error at its commit is that dataset's.
    is_one_by_one: bool,
}

impl Trouble {
    /// Whether the dataset is to be left alone.
    pub(super) fn is_in(&self, dataset: usize) -> bool {
        self.is_in.get(dataset).copied().unwrap_or(false)
    }

    pub(super) fn is_one_by_one(&self) -> bool {
        self.is_one_by_one
    }

    /// Rows of the dataset that a trigger kept in this pass.
    pub(super) fn refused(&self, dataset: usize) -> u64 {
        self.refused.get(dataset).copied().unwrap_or(0)
    }

    pub(super) fn begin_pass(&mut self) {
        self.refused.clear();
    }

    pub(super) fn note(&mut self, done: &Done) {
        if done.batch.refused > 0 {
            self.refused.resize(DATASETS.len(), 0);
            let n = place_of(done.dataset.tables()[0]);
            self.refused[n] += done.batch.refused;
        }
    }

    /// Takes the error of a transaction that was rolled back: its dataset is left alone from now on. Where it is not known
    /// whose the error is, one dataset after the other is tried.
    ///
    /// # Errors
    /// What ends the attempt: the error itself, if it is no table's.
    pub(super) fn take(&mut self, error: PurgeError) -> Result<(), PurgeError> {
        match &error {
            PurgeError::Table { table, .. } => {
                self.is_in.resize(DATASETS.len(), false);
                self.is_in[place_of(table)] = true;
                self.first.get_or_insert(error);
                Ok(())
            }
            error if error.is_of_one_table() && !self.is_one_by_one => {
                self.is_one_by_one = true;
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Nothing, or what the attempt fails of.
    pub(super) fn into_result(self) -> Result<(), PurgeError> {
        self.first.map_or(Ok(()), Err)
    }
}

fn place_of(table: &str) -> usize {
    let mut datasets = DATASETS.iter();
    datasets
        .position(|dataset| dataset.tables()[0] == table)
        .unwrap_or_default()
}

/// The error for `rows` of a dataset's own table that a trigger kept.
///
/// # Errors
/// When the database fails.
pub(super) async fn not_deleted(
    database: &Database,
    dataset: &dyn Dataset,
    rows: u64,
) -> Result<PurgeError, PurgeError> {
    let table = dataset.tables()[0];
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

/// The first dataset with rows that the purge has missed.
pub(super) fn first_left_behind(remains: &[Remains]) -> Option<(usize, PurgeError)> {
    let datasets = DATASETS.iter().zip(remains).enumerate();
    let mut tables = datasets.flat_map(|(n, (dataset, remains))| {
        let tables = dataset.tables().iter().zip(&remains.left_behind);
        tables.map(move |(table, rows)| (n, *table, *rows))
    });
    tables
        .find(|(.., rows)| *rows > 0)
        .map(|(n, table, rows)| (n, PurgeError::LeftBehind { table, rows }))
}
