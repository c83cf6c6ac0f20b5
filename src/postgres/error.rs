//! What an error of the database means for the one who met it: try again, in smaller pieces, on another connection, or not
//! at all.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use super::transaction::TookTooLong;

fn code(error: &sqlx::Error) -> Option<std::borrow::Cow<'_, str>> {
    error.as_database_error().and_then(DatabaseError::code)
}

/// Whether a statement, or a transaction that purges as a whole, took longer than it may.
#[must_use]
pub fn is_timeout(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::AnyDriverError(error) => error.is::<TookTooLong>(),
        error => code(error).as_deref() == Some("57014"),
    }
}

/// Whether Postgres gave up on a row lock that somebody else holds (`lock_not_available`, `query_canceled` by
/// timeout, `deadlock_detected`): the work is to be taken up again, in a smaller piece.
#[must_use]
pub fn is_contention(error: &sqlx::Error) -> bool {
    is_timeout(error) || matches!(code(error).as_deref(), Some("55P03" | "40P01" | "40001"))
}

/// Whether the same statement may succeed a moment later, with nobody mending anything: the connection was lost, the
/// server restarts, is full or fails over, somebody held a lock. A missing right or a raising trigger is none of these.
#[must_use]
pub fn is_transient(error: &sqlx::Error) -> bool {
    if is_contention(error) || is_about_connection(error) {
        return true;
    }
    match error {
        sqlx::Error::Database(error) => error.code().is_none_or(|code| {
            // Connection, sign-in, database, rollback, resources, intervention, system; and a session that was idle in its
            // transaction.
            let transient = ["08", "28", "3D", "40", "53", "57", "58"];
            transient.iter().any(|class| code.starts_with(class)) || code.starts_with("25P0")
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        _ => false,
    }
}

/// Whether the error speaks against the connection, not the statement: the server behind it has become read-only (it was the
/// primary before a failover), or the session has a plan that no longer fits the tables. A new connection helps.
#[must_use]
pub(super) fn is_about_connection(error: &sqlx::Error) -> bool {
    match code(error).as_deref() {
        Some("25006") => true,
        // "cached plan must not change result type"
        Some("0A000") => is_raised_by(error, "RevalidateCachedQuery"),
        _ => false,
    }
}

/// Whether the server takes no writes: it is a standby, or was set so.
#[must_use]
pub fn is_read_only_error(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("25006")
}

/// Whether a policy of row-level security would have hidden rows from the statement, so that Postgres refused it.
#[must_use]
pub fn is_row_security(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("42501") && is_raised_by(error, "check_enable_rls")
}

/// Whether this function of Postgres's own source raised it: messages come in the server's language.
fn is_raised_by(error: &sqlx::Error, routine: &str) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .is_some_and(|error| error.routine() == Some(routine))
}
