//! Postgres: the pool and its session settings, migrations, and a server of our own for the quick start.

pub mod local;
pub mod migrations;

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// How long any of our statements may take: a bound, not a goal (a batch aims at a fraction of a second).
const STATEMENT_TIMEOUT: &str = "30s";
/// A paused process must not hold row locks by an open transaction.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "5s";
/// How long to wait for a connection, a server that is restarting included.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a pool of at most `connections` on `url`; connects at the first use.
///
/// # Errors
/// When `url` is no Postgres URL.
pub fn pool(url: &str, connections: u32) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?
        .application_name("drift-retention")
        .options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            (
                "idle_in_transaction_session_timeout",
                IDLE_IN_TRANSACTION_TIMEOUT,
            ),
        ])
        .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::from_secs(1));
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options))
}

/// Opens a pool for changing the schema: moving a large table's rows takes as long as it takes.
///
/// # Errors
/// When `url` is no Postgres URL.
pub fn pool_for_migrations(url: &str) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?.application_name("drift-retention migrate");
    Ok(PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options))
}

/// Begins a transaction that only reads and may take minutes: a preview of a large organization counts all of it.
///
/// # Errors
/// When no connection is to be had.
pub async fn begin_reading(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    pool.begin_with("BEGIN READ ONLY; SET LOCAL statement_timeout = '5min'")
        .await
}

/// Begins a transaction that gives way: it waits only briefly for a row that the main app holds.
///
/// 100 ms is far below Postgres's `deadlock_timeout`, so that ours is the side that yields before the server
/// has to choose a victim, and the main app waits for a lock of ours no longer than a batch takes.
///
/// # Errors
/// When no connection is to be had.
pub async fn begin_yielding(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    pool.begin_with("BEGIN; SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '5s'")
        .await
}

/// Whether Postgres gave up on a row lock that somebody else holds (`lock_not_available`, `query_canceled` by
/// timeout, `deadlock_detected`): the work is to be taken up again, in a smaller piece.
#[must_use]
pub fn is_contention(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(db) if matches!(db.code().as_deref(), Some("55P03" | "57014" | "40P01" | "40001")))
}

/// What Postgres's clock says: the only clock that cutoffs, slots and due times go by.
///
/// # Errors
/// When the database does not answer.
pub async fn now(conn: &mut sqlx::PgConnection) -> sqlx::Result<chrono::DateTime<chrono::Utc>> {
    sqlx::query_scalar!(
        r#"-- postgres.now
        SELECT clock_timestamp() AS "now!""#
    )
    .fetch_one(conn)
    .await
}
