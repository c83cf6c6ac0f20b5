//! The record of a run: what operators, metrics and the console read.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use sqlx::types::Json;
use strum::{Display, EnumIter, IntoStaticStr};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    humanize,
    ids::{OrgId, RunId},
    retention::{DatasetName, RetentionPolicy},
};

/// The status of a run.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
    sqlx::Type,
    Display,
    EnumIter,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the contract's own words")]
pub enum RunStatus {
    Queued,
    Running,
    Retrying,
    Succeeded,
    Failed,
    Cancelled,
}

impl RunStatus {
    /// How many succeeded runs are counted. More would tell an operator nothing, and counting a year of them would take longer
    /// every night. Postgres reads a million entries of an index in a fraction of a second.
    pub const MAX_SUCCEEDED_COUNTED: i64 = 1_000_000;

    /// Its name in the database, in answers and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether nothing more will happen to the run.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Who asked for a run.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    sqlx::Type,
    Display,
    EnumIter,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Trigger {
    /// A slot of the schedule.
    Schedule,
    /// Somebody, now.
    PurgeNow,
    /// An operator, to repeat a run that failed or was cancelled.
    Replay,
}

impl Trigger {
    /// Its name in the database, in answers and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How an attempt ended: the `outcome` label of `purge_runs_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// The run is verified.
    Succeeded,
    /// The run has failed for good.
    Failed,
    /// The run was cancelled.
    Cancelled,
    /// The attempt failed, and another one follows.
    Retried,
}

impl Outcome {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The status of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum StepStatus {
    /// No batch has deleted a row of the table yet.
    Pending,
    /// A batch has.
    Running,
    /// The run is verified.
    Succeeded,
    /// The plan has no rule for the table.
    NoRule,
}

impl StepStatus {
    /// Its name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Why a purge goes slower than it could, the weightiest reason first: the `reason` label of `throttled_seconds_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Display, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ThrottleReason {
    /// A replica is further behind than it may be. Nothing more is deleted until it has caught up.
    ReplicaLag,
    /// A session of somebody else waits for a lock of ours.
    LockWaits,
    /// The main app is at work.
    Foreground,
    /// The server writes more write-ahead log than it may.
    WalRate,
    /// Autovacuum is at work on a table that is purged. It needs to come to its end, too.
    Autovacuum,
}

impl ThrottleReason {
    /// Its name in logs, metrics and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// One purge of one organization, as recorded.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[allow(
    missing_docs,
    reason = "the columns of retention.purge_runs, documented in the contract and the migration"
)]
pub struct Run {
    pub id: RunId,
    pub org_id: OrgId,
    #[schema(value_type = String)]
    pub trigger: Trigger,
    pub requested_by: String,
    pub reason: Option<String>,
    pub scheduled_for: Option<DateTime<Utc>>,
    pub replay_of: Option<Uuid>,
    #[schema(value_type = String)]
    pub status: RunStatus,
    pub plan: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub policy: Document,
    pub attempts: i32,
    pub max_attempts: i32,
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub verified_at: Option<DateTime<Utc>>,
    pub error_kind: Option<String>,
    pub error: Option<String>,
    #[schema(value_type = Vec<Step>)]
    pub steps: Json<Vec<Step>>,
}

impl Run {
    /// Rows purged in all tables.
    #[must_use]
    pub fn rows_purged(&self) -> i64 {
        self.steps.iter().map(|step| step.rows_purged).sum()
    }

    /// Why its batches wait, or have waited, and how long in all; none: they have not.
    #[must_use]
    pub fn throttled(&self) -> Option<String> {
        let waited: i64 = self.steps.iter().map(|step| step.throttled_ms).sum();
        let reason = self
            .steps
            .iter()
            .rev()
            .find_map(|step| step.throttle_reason.as_deref());
        (waited > 0).then(|| {
            let seconds = Duration::from_millis(waited.unsigned_abs()).as_secs_f64();
            reason.map_or_else(
                || format!("{seconds:.1} s in all"),
                |reason| format!("{seconds:.1} s in all, lately for {reason}"),
            )
        })
    }

    /// The record as the organization's own people see it: the words of an error are the operator's.
    #[must_use]
    pub fn for_tenants(self) -> Self {
        let kind = self.error_kind.as_deref().unwrap_or_default();
        let error = self
            .error
            .as_ref()
            .map(|_| error_for_tenants(kind).to_owned());
        Self { error, ..self }
    }

    /// Whether nothing more will happen to it.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.status.is_final()
    }

    /// Adds the steps that have nothing to record yet, in the datasets' order: a run that has started has a step for every
    /// table.
    pub(super) fn add_pending_steps(&mut self) {
        let (Some(started_at), Some(windows)) = (self.started_at, self.policy.windows()) else {
            return;
        };
        if self.is_final() {
            return;
        }
        let cutoffs = windows.cutoffs(started_at);
        let tables = DatasetName::ALL.iter().flat_map(|dataset| {
            let cutoff = cutoffs.get(*dataset).map(|cutoff| cutoff.0);
            dataset.tables().iter().map(move |table| (*table, cutoff))
        });
        for (place, (table, cutoff)) in tables.enumerate() {
            if !self.steps.iter().any(|step| step.table_name == table) {
                let place = place.min(self.steps.len());
                self.steps.insert(place, Step::pending(table, cutoff));
            }
        }
    }
}

/// What the people of an organization are told about an attempt that failed of this kind.
fn error_for_tenants(kind: &str) -> &'static str {
    match kind {
        "policy_unresolved" => "The plan of the organization is unknown, so nothing was purged.",
        "contention" => "Some rows were in use for longer than the purge would wait.",
        _ => "The purge failed for a reason that the operator of the service has to mend.",
    }
}

/// What a run did to one table.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the columns of retention.purge_run_steps")]
pub struct Step {
    pub table_name: String,
    pub cutoff: Option<DateTime<Utc>>,
    pub status: String,
    pub rows_purged: i64,
    pub rows_kept: i64,
    pub batches: i32,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// Why the latest batch had to wait; null: it did not.
    pub throttle_reason: Option<String>,
    /// How long batches have waited in all, in milliseconds.
    pub throttled_ms: i64,
    /// Rows of other tables that a foreign key deleted along (`attach.cascades`), by table; null for a table: not counted.
    #[schema(value_type = Option<std::collections::HashMap<String, Option<i64>>>)]
    #[serde(deserialize_with = "counts")]
    pub cascaded: Option<BTreeMap<String, Option<i64>>>,
}

/// Reads counts from their JSON. Anything else that may stand there fails nobody who reads the record.
fn counts<'de, D: Deserializer<'de>>(
    text: D,
) -> Result<Option<BTreeMap<String, Option<i64>>>, D::Error> {
    let text = Option::<String>::deserialize(text)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

impl Step {
    /// A step with nothing to record yet.
    fn pending(table: &str, cutoff: Option<DateTime<Utc>>) -> Self {
        let status = cutoff.map_or(StepStatus::NoRule, |_| StepStatus::Pending);
        Self {
            table_name: table.to_owned(),
            cutoff,
            status: status.name().to_owned(),
            rows_purged: 0,
            rows_kept: 0,
            batches: 0,
            started_at: None,
            finished_at: None,
            throttle_reason: None,
            throttled_ms: 0,
            cascaded: None,
        }
    }

    /// The rows that a foreign key deleted along, in words; none: there were none.
    #[must_use]
    pub fn cascaded_in_words(&self) -> Option<String> {
        let tables = self.cascaded.as_ref()?.iter();
        let words = tables.map(|(table, rows)| match rows {
            Some(rows) => format!("{} rows of {table}", humanize::number(*rows)),
            None => format!("an unknown number of rows of {table}"),
        });
        Some(words.collect::<Vec<_>>().join(", "))
    }
}

/// A `jsonb` of a record, if it can be read as JSON. Anything else that may stand there fails nobody who reads the record.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Document(Option<serde_json::Value>);

impl Document {
    /// The windows of a policy, if it can be read as one.
    fn windows(&self) -> Option<RetentionPolicy> {
        serde_json::from_value(self.0.clone()?).ok()
    }
}

impl From<Option<String>> for Document {
    fn from(text: Option<String>) -> Self {
        Self(text.and_then(|text| serde_json::from_str(&text).ok()))
    }
}
