//! Postgres: the pool and its session settings, migrations, and a server of our own for the quick start.

mod database;
pub mod local;
pub mod migrations;
mod transaction;

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgExecutor, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use self::{
    database::Database,
    transaction::{Flush, Patience, Transaction},
};

/// What our sessions begin with, those that change the schema aside; behind a pooler, what every transaction does.
const SESSION: [(&str, &str); 3] = [
    // How long any of our statements may take: a bound, not a goal (a batch aims at a fraction of a second).
    ("statement_timeout", "30s"),
    // A paused process must not hold row locks by an open transaction.
    ("idle_in_transaction_session_timeout", "5s"),
    // Beside a huge organization a plan that goes by index looks expensive enough to be compiled to machine code, every
    // time: tens of milliseconds for a statement that takes one.
    ("jit", "off"),
];
/// How long to wait for a connection, a server that is restarting included.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was in use so short a time ago is taken to be alive; others are asked, which costs a round trip.
const RECENT: Duration = Duration::from_secs(1);
/// A statement slower than this is logged.
const SLOW: Duration = Duration::from_secs(1);

/// A pool of at most `connections` sessions on `url`.
fn direct_pool(url: &str, connections: u32) -> sqlx::Result<PgPool> {
    let options = PgConnectOptions::from_str(url)?.options(SESSION);
    Ok(lazy_pool(options, "drift-retention", connections))
}

/// A pool of at most `connections` connections to a transaction pooler, which refuses settings at start that it does
/// not know.
fn pooler_pool(url: &str, connections: u32) -> sqlx::Result<PgPool> {
    let options = PgConnectOptions::from_str(url)?
        .extra_float_digits(None)
        .statement_cache_capacity(0);
    Ok(lazy_pool(options, "drift-retention", connections))
}

/// Opens a pool for changing the schema: moving a large table's rows takes as long as it takes.
///
/// # Errors
/// When `url` is no Postgres URL.
pub fn pool_for_migrations(url: &str) -> sqlx::Result<PgPool> {
    let options = PgConnectOptions::from_str(url)?;
    Ok(lazy_pool(options, "drift-retention migrate", 2))
}

fn lazy_pool(options: PgConnectOptions, name: &str, connections: u32) -> PgPool {
    let options = options
        .application_name(name)
        .log_slow_statements(tracing::log::LevelFilter::Debug, SLOW);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, known| {
            Box::pin(async move {
                if known.idle_for >= RECENT {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}

/// Whether a statement, or a yielding transaction as a whole, took longer than it may.
#[must_use]
pub fn is_timeout(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(db) => db.code().as_deref() == Some("57014"),
        sqlx::Error::AnyDriverError(error) => error.is::<transaction::TookTooLong>(),
        _ => false,
    }
}

/// Whether Postgres gave up on a row lock that somebody else holds (`lock_not_available`, `query_canceled` by
/// timeout, `deadlock_detected`): the work is to be taken up again, in a smaller piece.
#[must_use]
pub fn is_contention(error: &sqlx::Error) -> bool {
    is_timeout(error)
        || matches!(error, sqlx::Error::Database(db) if matches!(db.code().as_deref(), Some("55P03" | "40P01" | "40001")))
}

/// What Postgres's clock says: the only clock that cutoffs, slots and due times go by.
///
/// # Errors
/// When the database does not answer.
pub async fn now(on: impl PgExecutor<'_>) -> sqlx::Result<chrono::DateTime<chrono::Utc>> {
    sqlx::query_scalar!(
        r#"-- postgres.now
        SELECT clock_timestamp() AS "now!""#
    )
    .fetch_one(on)
    .await
}

/// How many connections the server has left for this user and database, the one that asks included; others may be
/// quicker to take them.
///
/// # Errors
/// When the database does not answer.
pub async fn connections_left(on: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    // least() leaves out a limit that there is not; of which type others' backends are, not everybody is shown.
    sqlx::query_scalar!(
        r#"-- postgres.connections_left
        SELECT least(
            current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
                - coalesce(current_setting('reserved_connections', true)::bigint, 0) - count(*),
            (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = session_user)
                - count(*) FILTER (WHERE usename = session_user),
            (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
                - count(*) FILTER (WHERE datname = current_database())
        ) AS "left!"
        FROM pg_stat_activity
        WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend' AND pid <> pg_backend_pid()"#
    )
    .fetch_one(on)
    .await
}
