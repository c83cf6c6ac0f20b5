//! Postgres: the pool and its session settings, migrations, and a server of our own for the quick start.

mod abandoned;
mod connections;
mod database;
mod error;
mod explain;
pub mod local;
mod mapping;
pub mod migrations;
mod pools;
mod reading;
mod transaction;
mod url;
mod words;

use std::{sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions, PgConnection, PgExecutor, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, types::PgInterval},
};

use self::connections::Trust;
pub use self::{
    error::{is_contention, is_read_only_error, is_row_security, is_timeout, is_transient},
    explain::{PlanNode, explain},
    mapping::{Cascade, MappedTable, Mapping, is_mapping_changed},
    pools::{AtOnce, Database},
    reading::{Reading, Turn},
    transaction::{Durability, LockBudget, Transaction},
    url::{BadUrl, check_url},
    words::{withheld, words_of},
};

/// What our sessions begin with, those that change the schema aside; behind a pooler, what every transaction does.
const SESSION: [(&str, &str); 4] = [
    // How long any of our statements may take: a bound, not a goal (a batch aims at a fraction of a second).
    ("statement_timeout", "30s"),
    // A paused process must not hold row locks by an open transaction.
    ("idle_in_transaction_session_timeout", "5s"),
    // Beside a huge organization a plan that goes by index looks expensive enough to be compiled to machine code, every
    // time: tens of milliseconds for a statement that takes one.
    ("jit", "off"),
    // Where a policy would hide rows from us Postgres refuses the statement: a purge of the rest would claim success.
    ("row_security", "off"),
];
/// What sessions that change the schema begin with: no timeout from their very first statement on. One of them is idle while another
/// migrates, and holds the lock that keeps other migrations out.
const MIGRATING: [(&str, &str); 5] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("row_security", "off"),
];
/// How long to wait for a connection, a server that is restarting included.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A statement slower than this is logged.
const SLOW: Duration = Duration::from_secs(1);

/// A pool of at most `connections` sessions on `url`.
fn direct_pool(url: &str, connections: u32, trust: &Arc<Trust>) -> sqlx::Result<PgPool> {
    let options = url::connect_options(url)?.options(SESSION);
    let pool = trust
        .guard(pool_options(connections))
        .after_connect(|connection, _| Box::pin(find_extensions(connection)));
    Ok(pool.connect_lazy_with(named(options, "drift-retention")))
}

/// A pool of at most `connections` connections to a transaction pooler, which refuses settings at start that it does
/// not know.
fn pooler_pool(url: &str, connections: u32, trust: &Arc<Trust>) -> sqlx::Result<PgPool> {
    let options = url::connect_options(url)?
        .extra_float_digits(None)
        .statement_cache_capacity(0);
    let pool = trust.guard(pool_options(connections));
    Ok(pool.connect_lazy_with(named(options, "drift-retention")))
}

/// Opens a pool for changing the schema: moving a large table's rows takes as long as it takes, whatever timeouts the
/// database or the role begins its sessions with.
///
/// # Errors
/// When `url` is no Postgres URL.
pub fn pool_for_migrations(url: &str) -> sqlx::Result<PgPool> {
    let options = url::connect_options(url)?.options(MIGRATING);
    let pool = pool_options(2).after_connect(|connection, _| {
        Box::pin(async move {
            // Of these not every Postgres has `transaction_timeout`, and one without it would refuse to begin with it.
            sqlx::query!(
                "-- postgres.no_timeouts
                 SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings
                 WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
                                'transaction_timeout')"
            )
            .fetch_all(&mut *connection)
            .await?;
            leave_the_main_apps_schemas(connection).await?;
            // Early migrations of the queue create a function without naming a schema: not in one of the main app's.
            sqlx::raw_sql(
                "SELECT pg_catalog.set_config('search_path', 'apalis, ' || pg_catalog.current_setting('search_path'), false)",
            )
            .execute(connection)
            .await?;
            Ok(())
        })
    });
    Ok(pool.connect_lazy_with(named(options, "drift-retention migrate")))
}

/// The queue's own migrations create things without naming a schema: they must not come into the main app's.
async fn leave_the_main_apps_schemas(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "-- postgres.leave_the_main_apps_schemas
         SELECT set_config('search_path',
                           coalesce((SELECT string_agg(DISTINCT quote_ident(n.nspname), ', ')
                                     FROM pg_catalog.pg_extension e
                                     JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
                                     WHERE e.extname IN ('hstore', 'pgcrypto')), 'apalis'),
                           false)"
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// The queue's library looks for the type `hstore` without naming a schema, and the extension may stand in any: its schema
/// comes last. What the database or the role searches stays before it, since triggers of the main app go by that.
async fn find_extensions(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "-- postgres.find_extensions
         SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(n.nspname)), false)
         FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'hstore'"
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

fn named(options: PgConnectOptions, name: &str) -> PgConnectOptions {
    options
        .application_name(name)
        .log_slow_statements(tracing::log::LevelFilter::Debug, SLOW)
}

fn pool_options(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
}

/// Whether the server's certificate was refused: its CA is unknown, or it is for another name.
fn is_certificate_refused(error: &sqlx::Error) -> bool {
    let of_tls = match error {
        sqlx::Error::Io(error) => error.get_ref().and_then(|cause| cause.downcast_ref()),
        sqlx::Error::Tls(cause) => cause.downcast_ref(),
        _ => None,
    };
    matches!(of_tls, Some(rustls::Error::InvalidCertificate(_)))
}

/// A duration as Postgres takes it.
#[must_use]
pub fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
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

/// Whether the server takes no writes: it is a standby, or was set so.
///
/// # Errors
/// When the database does not answer.
pub async fn is_read_only(on: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- postgres.is_read_only
        SELECT current_setting('transaction_read_only') = 'on' AS "read_only!""#
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
