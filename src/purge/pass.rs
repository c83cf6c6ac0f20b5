//! Where a pass over the datasets is, and what a transaction of it has done.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tracing::{Instrument, Span, field};

use super::{
    PurgeError, cascades,
    datasets::{Batch, Dataset, Progress, Scope},
};
use crate::{
    faults::{self, Point},
    postgres::Transaction,
    retention::Plan,
    telemetry::metrics::Metrics,
};

/// How far a pass has come: in which dataset, and where in it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) dataset: usize,
    pub(super) progress: Progress,
    /// The span of the run.
    run: Span,
    step: Span,
    /// Rows of the step so far.
    rows: u64,
}

impl Place {
    pub(super) fn in_dataset(dataset: usize, starts: &[Progress], run: Span) -> Self {
        Self {
            dataset,
            progress: starts.get(dataset).cloned().unwrap_or_default(),
            run,
            step: Span::none(),
            rows: 0,
        }
    }

    /// The step that a dataset is: its span begins with its first batch.
    fn step(&mut self, dataset: &dyn Dataset) -> Span {
        if self.step.is_none() {
            self.step = tracing::info_span!(parent: &self.run, "step", table = dataset.tables()[0], rows = field::Empty);
        }
        self.step.clone()
    }

    /// Deletes up to `limit` rows from here on.
    pub(super) async fn delete(
        &mut self,
        tx: &mut Transaction<'_>,
        dataset: &'static dyn Dataset,
        scope: Scope,
        limit: i64,
    ) -> sqlx::Result<Done> {
        let step = self.step(dataset);
        let span = tracing::info_span!(parent: &step, "batch", table = dataset.tables()[0], rows = field::Empty);
        let started = Instant::now();
        let before = cascades::count(tx, dataset.tables()[0]).await?;
        let batch = dataset
            .delete_batch(tx, scope, &mut self.progress, limit)
            .instrument(span.clone())
            .await?;
        let cascaded = match before {
            Some(before) if batch.rows() > 0 => {
                let after = cascades::count(tx, dataset.tables()[0]).await?;
                after.and_then(|after| before.until(&after))
            }
            _ => None,
        };
        span.record("rows", batch.rows());
        self.rows += batch.rows();
        Ok(Done {
            dataset,
            progress: self.progress.clone(),
            elapsed: started.elapsed(),
            step,
            rows: self.rows,
            batch,
            cascaded,
        })
    }
}

/// What one transaction did to one dataset.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub(super) dataset: &'static dyn Dataset,
    pub(super) batch: Batch,
    pub(super) progress: Progress,
    pub(super) elapsed: Duration,
    /// Rows of other tables that went along, by table.
    pub(super) cascaded: Option<Value>,
    step: Span,
    /// Rows of the whole step so far, these included.
    rows: u64,
}

impl Done {
    /// Counts it, once it is committed.
    pub(super) fn count(&self, metrics: &Metrics, plan: Plan) {
        let tables = self.dataset.tables();
        metrics
            .batch_duration
            .with_label_values(&[tables[0]])
            .observe(self.elapsed.as_secs_f64());
        for (table, rows) in tables.iter().zip(&self.batch.purged) {
            metrics
                .purged_rows
                .with_label_values(&[table, plan.name()])
                .inc_by(*rows);
        }
        self.step.record("rows", self.rows);
    }
}

/// A transaction that met no expired row has changed nothing. One that met some may have, though no row went: an incident
/// without a payload is stamped.
pub(super) async fn commit(tx: Transaction<'_>, done: &[Done]) -> Result<(), PurgeError> {
    if done.iter().all(|done| done.batch.seen == 0) {
        return Ok(tx.rollback().await?);
    }
    faults::pass(Point::BeforeCommit);
    if let Err(error) = tx.commit().await {
        // A trigger that waits for the commit: whose it is can be told where one table alone lost rows.
        let mut tables = done.iter().filter(|done| done.batch.seen > 0);
        return Err(match (tables.next(), tables.next()) {
            (Some(done), None) => PurgeError::from(error).of_table(done.dataset.tables()[0]),
            _ => error.into(),
        });
    }
    faults::pass(Point::AfterCommit);
    Ok(())
}
