//! What a run did to one table, and whatever else of its record is JSON: what cannot be read of it fails nobody.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::humanize;

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
    #[serde(deserialize_with = "counts")]
    pub cascaded: Option<BTreeMap<String, Option<i64>>>,
}

/// Reads counts from their JSON; what else may stand there fails nobody who reads the record.
fn counts<'de, D: Deserializer<'de>>(
    text: D,
) -> Result<Option<BTreeMap<String, Option<i64>>>, D::Error> {
    let text = Option::<String>::deserialize(text)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

impl Step {
    /// What went along, in words; none: nothing did.
    #[must_use]
    pub fn went_along(&self) -> Option<String> {
        let tables = self.cascaded.as_ref()?.iter();
        let words = tables.map(|(table, rows)| match rows {
            Some(rows) => format!("{} rows of {table}", humanize::number(*rows)),
            None => format!("an unknown number of rows of {table}"),
        });
        Some(words.collect::<Vec<_>>().join(", "))
    }
}

/// A jsonb of a record, as far as it is JSON that can be read: what else may stand there fails nobody who reads the record.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Document(Option<serde_json::Value>);

impl From<Option<String>> for Document {
    fn from(text: Option<String>) -> Self {
        Self(text.and_then(|text| serde_json::from_str(&text).ok()))
    }
}
