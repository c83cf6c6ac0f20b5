//! The bench's own SQL. None of it can be checked against the product's schema at compile time: it also runs on
//! databases, tables and settings that only the bench has.
#![allow(
    clippy::disallowed_methods,
    reason = "the one place where the bench calls what is not checked"
)]

use std::str::FromStr;

use anyhow::{Context, Result};
use sqlx::{
    AssertSqlSafe, ConnectOptions, PgConnection, PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};

/// How many connections the bench's own pool may hold.
const CONNECTIONS: u32 = 4;

/// A pool of the bench's own, which observes. By its name it is one of the product's processes: the purge makes way for
/// the main app, not for who watches it.
pub(crate) fn pool(url: &str) -> Result<PgPool> {
    let options = PgConnectOptions::from_str(url)?.application_name("drift-retention bench");
    Ok(PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect_lazy_with(options))
}

/// One connection, for a contestant.
pub(crate) async fn connection(url: &str) -> Result<PgConnection> {
    Ok(PgConnectOptions::from_str(url)?.connect().await?)
}

/// Runs statements without parameters, one after the other.
pub(crate) async fn script(connection: &mut PgConnection, sql: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .with_context(|| format!("in {}", name(sql)))?;
    Ok(())
}

/// Runs one statement; how many rows it touched.
pub(crate) async fn execute(connection: &mut PgConnection, sql: &'static str) -> Result<u64> {
    let done = sqlx::query(sql).execute(connection).await;
    Ok(done
        .with_context(|| format!("in {}", name(sql)))?
        .rows_affected())
}

/// Runs one statement on the pool.
pub(crate) async fn run(pool: &PgPool, sql: &str) -> Result<()> {
    let done = sqlx::query(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await;
    done.with_context(|| format!("in {}", name(sql)))?;
    Ok(())
}

/// The only value of the only row.
pub(crate) async fn value<T>(pool: &PgPool, sql: &str) -> Result<T>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let row = sqlx::query(AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await;
    Ok(row
        .with_context(|| format!("in {}", name(sql)))?
        .try_get(0)?)
}

/// All rows.
pub(crate) async fn rows(pool: &PgPool, sql: &str) -> Result<Vec<PgRow>> {
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned()))
        .fetch_all(pool)
        .await;
    rows.with_context(|| format!("in {}", name(sql)))
}

/// A statement's name is its first line.
fn name(sql: &str) -> &str {
    sql.lines().next().unwrap_or_default()
}
