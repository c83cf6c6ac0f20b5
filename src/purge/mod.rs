//! A purge, for one run or many: look which datasets have rows due, sweep them batch by batch, and verify with separate SQL that
//! nothing due is left. Each batch stands in one transaction with its counts and its proof of ownership.

mod batch_size;
mod cascades;
mod conflict;
pub mod datasets;
mod error;
mod group;
mod member;
mod overdue;
mod pressure;
mod preview;
mod remaining;
mod rewritten;
mod sweep;
mod throttle;

use std::sync::Arc;

use strum::IntoEnumIterator;
use tokio::sync::Semaphore;

pub use error::PurgeError;
pub use group::Group;
pub use member::{EndedRun, Member};
pub use overdue::{Overdue, OverdueOrganization, overdue};
pub use preview::{Counting, MAX_COUNTED, Preview, RowsByTable, preview};
pub use rewritten::{SearchStep, note_unnoticed, prune_notes};
pub use throttle::{Mode, Permit, Throttle};

use crate::{
    postgres::Database,
    retention::{DatasetName, Plan},
    runs::{Outcome, RunStatus, ThrottleReason, Trigger},
    telemetry::metrics::{Labels, Metrics},
};

/// Everything that a purge needs: the database, the settings and the counters.
#[derive(Debug, Clone)]
pub struct Purger {
    /// Where the rows are.
    pub database: Database,
    /// Where purged rows are counted.
    pub metrics: Arc<Metrics>,
    /// Rows per batch; `None`: the size follows the time that batches take.
    pub batch_size: Option<u32>,
    /// How fast batches may follow each other.
    pub throttle: Arc<Throttle>,
    /// How many transactions delete at once. While one waits for its commit to reach the disk, another may delete.
    pub deletes: Arc<Semaphore>,
}

/// The labels of every metric, from the types that they stand for.
#[must_use]
pub fn metric_labels() -> Labels {
    Labels {
        tables: datasets::tables().collect(),
        datasets: DatasetName::ALL.map(DatasetName::table).to_vec(),
        plans: Plan::ALL.map(Plan::name).to_vec(),
        outcomes: Outcome::iter().map(Outcome::name).collect(),
        triggers: Trigger::iter().map(Trigger::name).collect(),
        statuses: RunStatus::iter().map(RunStatus::name).collect(),
        throttle_reasons: ThrottleReason::iter().map(ThrottleReason::name).collect(),
    }
}
