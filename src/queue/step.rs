//! What a run did to one table, as its record tells.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::figures;

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
    /// What the latest batch had waited for; null: it had not.
    pub throttle_reason: Option<String>,
    /// How long batches have waited in all, in milliseconds.
    pub throttled_ms: i64,
    /// Rows of other tables that went along by a foreign key (`attach.cascades`), by table; null for a table: not counted.
    #[schema(value_type = Option<std::collections::HashMap<String, Option<i64>>>)]
    pub cascaded: Option<BTreeMap<String, Option<i64>>>,
}

impl Step {
    /// What went along, in words; none: nothing did.
    #[must_use]
    pub fn went_along(&self) -> Option<String> {
        let tables = self.cascaded.as_ref()?.iter();
        let words = tables.map(|(table, rows)| match rows {
            Some(rows) => format!("{} rows of {table}", figures::number(*rows)),
            None => format!("an unknown number of rows of {table}"),
        });
        Some(words.collect::<Vec<_>>().join(", "))
    }
}
