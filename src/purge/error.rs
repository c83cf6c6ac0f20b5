//! How an attempt can end other than done, and the one place that decides retry or abort.

use sqlx::error::DatabaseError;

use crate::{ids::OrgId, postgres, retention::ResolveError};

/// Why an attempt stopped.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// The worker is stopping: the run is given back.
    #[error("the worker is stopping")]
    Stopped,
    /// The run was cancelled, or another worker has taken it over: this attempt may commit nothing more.
    #[error("this attempt no longer owns the run")]
    Superseded,
    /// The organization has no policy, so nothing may go. No retry mends that.
    #[error("nothing was purged; correct organizations.plan, then replay the run")]
    PolicyUnresolved(#[source] ResolveError),
    /// The main app has deleted the organization since somebody asked for its purge. There is nothing to mend.
    #[error(
        "organization {0} does not exist any more: what was purged before stays purged, and nothing more is to be done"
    )]
    OrganizationGone(OrgId),
    /// Rows that should have gone are still there: held by the main app for longer than the attempt would wait.
    #[error("{rows} expired rows of {table} are still there: another transaction holds them")]
    LeftBehind {
        /// The first table with such rows.
        table: &'static str,
        /// How many of them.
        rows: u64,
    },
    /// Rows that should have gone are still there, though the purge had locked them: a trigger of the main app's kept them.
    #[error(
        "{rows} expired rows of {table} were not deleted although nobody holds them: a trigger keeps them. Triggers that run \
         before a deletion: {triggers}. Let expired rows go, or drop the trigger"
    )]
    NotDeleted {
        /// The table.
        table: &'static str,
        /// How many rows.
        rows: u64,
        /// The table's triggers, each with its table.
        triggers: String,
    },
    /// One table cannot be purged.
    #[error("{table} cannot be purged, the other tables can")]
    Table {
        /// The first of the dataset's tables.
        table: &'static str,
        /// What stands in the way.
        #[source]
        source: Box<PurgeError>,
    },
    /// Row-level security would have hidden rows, so that Postgres refused the statement.
    #[error(
        "row-level security would hide rows from the purge, so Postgres refused it: give the owner of the views in schema \
         main_app BYPASSRLS, or switch it off on the table"
    )]
    RowSecurity(#[source] sqlx::Error),
    /// Somebody changed the mapping under this process, which may purge nothing more: the run is given back.
    #[error(
        "the mapping in schema main_app has changed since this process checked it: run `drift-retention attach check`, then \
         restart this process"
    )]
    MappingChanged,
    /// A function of the mapping does not do what it is for.
    #[error(
        "the mapping in schema main_app is wrong; correct it, and run `drift-retention attach check`"
    )]
    Mapping(#[source] sqlx::Error),
    /// The attempt's code panicked.
    #[error("the purge panicked: {0}")]
    Panic(String),
    /// Postgres failed.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for PurgeError {
    fn from(error: sqlx::Error) -> Self {
        if postgres::is_mapping_changed(&error) {
            return Self::MappingChanged;
        }
        if postgres::is_row_security(&error) {
            return Self::RowSecurity(error);
        }
        match error
            .as_database_error()
            .and_then(DatabaseError::code)
            .as_deref()
        {
            // Raised by `retention.erase_payloads`.
            Some("DR001") => Self::Mapping(error),
            _ => Self::Database(error),
        }
    }
}

impl PurgeError {
    /// The `error_kind` that records, filters and alerts use.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Superseded => "superseded",
            Self::PolicyUnresolved(_) => "policy_unresolved",
            Self::OrganizationGone(_) => "organization_gone",
            Self::LeftBehind { .. } => "contention",
            Self::NotDeleted { .. } => "not_deleted",
            Self::Table { source, .. } => source.kind(),
            Self::RowSecurity(_) => "row_security",
            Self::Database(error) if postgres::is_contention(error) => "contention",
            Self::MappingChanged | Self::Mapping(_) => "mapping",
            Self::Panic(_) => "panic",
            Self::Database(_) => "database",
        }
    }

    /// Whether it is the fault of a statement on one table: other tables can be purged all the same.
    pub(super) fn is_of_one_table(&self) -> bool {
        match self {
            Self::Database(error) => !postgres::is_transient(error),
            Self::Mapping(_) | Self::RowSecurity(_) => true,
            _ => false,
        }
    }

    /// Names the table whose statement failed of it, if it is that table's alone.
    pub(super) fn of_table(self, table: &'static str) -> Self {
        if self.is_of_one_table() {
            Self::Table {
                table,
                source: Box::new(self),
            }
        } else {
            self
        }
    }

    /// Whether no retry can mend it.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::PolicyUnresolved(_)) || self.cancels()
    }

    /// Whether the run is cancelled, since nobody needs it any more, rather than failed.
    #[must_use]
    pub fn cancels(&self) -> bool {
        matches!(self, Self::OrganizationGone(_))
    }
}

impl From<ResolveError> for PurgeError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Database(error) => error.into(),
            ResolveError::NoOrganization(org) => Self::OrganizationGone(org),
            unresolved @ ResolveError::UnknownPlan(..) => Self::PolicyUnresolved(unresolved),
        }
    }
}
