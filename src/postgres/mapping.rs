//! What a process knows of the mapping (schema `main_app`) that it has checked. `attach` checks it; every transaction that
//! purges or verifies proves that it is still the same.

use sqlx::postgres::types::Oid;

/// A mapping that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// What `retention.mapping_fingerprint()` said at the check.
    pub fingerprint: String,
    /// The table behind `main_app.workflow_drift_flags`; empty: the main app has no such rows.
    pub flags: Vec<Oid>,
    /// The tables behind all views that lose rows.
    pub purged: Vec<Oid>,
    /// The tables that hold payloads.
    pub payloads: Vec<Oid>,
    /// Tables whose rows go by a foreign key's cascade, as the operator has acknowledged.
    pub cascades: Vec<Cascade>,
    /// Which tables stand behind each view.
    pub tables: Vec<MappedTable>,
    /// Tables with payloads on which no trigger notes those that are written again after a purge.
    pub unnoticed: Vec<String>,
}

/// The tables behind a view of the mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedTable {
    /// The view's name in schema `main_app`.
    pub view: &'static str,
    /// The tables, each with its schema.
    pub tables: String,
}

/// A table whose rows go by a foreign key's cascade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cascade {
    /// The first of the dataset's tables, whose rows take the others along.
    pub dataset_table: &'static str,
    /// Its name, with its schema.
    pub name: String,
    /// The table.
    pub oid: Oid,
}

/// Somebody changed the mapping after this process had checked it.
#[derive(Debug, thiserror::Error)]
#[error(
    "the mapping in schema main_app has changed since this process checked it; nothing was purged by it: \
     run `drift-retention attach check`, then restart this process"
)]
pub(super) struct MappingChanged;

/// A process purges or verifies without having checked the mapping: a fault of ours.
#[derive(Debug, thiserror::Error)]
#[error("the mapping in schema main_app was not checked by this process")]
pub(super) struct NotChecked;

/// Whether the mapping is not, or no longer, the one that this process has checked.
#[must_use]
pub fn is_mapping_changed(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::AnyDriverError(error) if error.is::<MappingChanged>())
}
