//! The schema: apalis's own migrations, then ours, then what our load needs of apalis's tables; and, for whoever asks, a
//! reference main app.
//!
//! Only the `migrate` command changes the schema (racing first starts of a queue fail); everything else checks
//! that it finds exactly the schema it was built for, and names the command that mends it.

mod lock;
mod preflight;
mod queue;

use std::collections::BTreeMap;

use super::Database;
use apalis_postgres::PostgresStorage;
use sqlx::{
    AssertSqlSafe, PgExecutor, PgPool,
    migrate::{MigrateError, Migrator},
};

/// Our bookkeeping stands in our own schema: the main app may use sqlx as well.
const TABLE: &str = "retention.migrations";
/// The bookkeeping of the reference main app.
const MAIN_APP_TABLE: &str = "retention.main_app_migrations";
/// The reference main app's migration that moves payloads into a table of their own.
const PAYLOADS: i64 = 1003;
/// The reference main app's migration that creates the schema `main_app`.
const MAPPING: i64 = 1006;

/// One migration and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its version: the number that its file begins with.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether this database has it.
    pub applied: bool,
}

/// Why the schema cannot be used, or changed.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Migrations are missing, or apalis's own are, or its settings.
    #[error(
        "the database schema is behind this program ({what}); run `drift-retention migrate {command}`"
    )]
    Behind {
        /// What is missing.
        what: String,
        /// What brings it: the arguments of `migrate`.
        command: &'static str,
    },
    /// The database cannot take the schema, or give it up: nothing was changed.
    #[error("{0}; nothing was changed")]
    Refused(String),
    /// Somebody else migrates this database, or holds the lock for it.
    #[error(
        "another session holds the lock of migrations: {0}. If it migrates, wait for its end; otherwise end it with \
         pg_terminate_backend; nothing was changed"
    )]
    Locked(String),
    /// The database knows migrations that this program does not.
    #[error(
        "the database schema is newer than this program (migration {0}); upgrade drift-retention"
    )]
    Ahead(i64),
    /// The target of a step back is no version of ours.
    #[error("there is no migration {0}; `drift-retention migrate status` lists them")]
    NoSuchVersion(i64),
    /// Another build's migrations stand in the database.
    #[error(
        "this database was migrated by another build of drift-retention (migration {0} is not this program's); nothing was \
         changed: use that build, or start with a database without the schema retention"
    )]
    OtherBuild(i64),
    /// apalis's own migrations failed.
    #[error("cannot migrate the queue's schema `apalis`")]
    Queue(#[source] MigrateError),
    /// A migration of ours failed.
    #[error("cannot migrate the schema")]
    Migrate(#[source] MigrateError),
    /// Nothing answers at the database's address.
    #[error(
        "the database does not answer: is Postgres up where `database.url` says, with a connection free?"
    )]
    Unreachable,
    /// What answers is a pooler, which hands out another session each time.
    #[error(
        "`database.url` leads to a transaction pooler: set `database.direct_url` to Postgres itself, which the queue needs"
    )]
    Pooler(#[source] sqlx::Error),
    /// The server does not prove who it is.
    #[error(
        "the database's certificate is not accepted: `sslrootcert` names its CA's, and verify-full wants the host's name in it"
    )]
    Certificate(#[source] sqlx::Error),
    /// The database failed.
    #[error("cannot read the database's schema")]
    Database(#[source] sqlx::Error),
}

impl From<MigrateError> for SchemaError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMismatch(version) | MigrateError::VersionMissing(version) => {
                Self::OtherBuild(version)
            }
            error => Self::Migrate(error),
        }
    }
}

impl From<sqlx::Error> for SchemaError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::PoolTimedOut => Self::Unreachable,
            // It refuses what sessions are opened with, or another's prepared statement stands where ours should.
            sqlx::Error::Database(e)
                if matches!(e.code().as_deref(), Some("08P01" | "42P05" | "26000")) =>
            {
                Self::Pooler(error)
            }
            _ if super::is_certificate_refused(&error) => Self::Certificate(error),
            _ => Self::Database(error),
        }
    }
}

/// Our own schema: runs, the queue's entry, what serving keeps. It touches nothing of the main app.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false); // `alone` locks
    migrator.create_schema("retention");
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

/// The reference main app in `public`, with its mapping. Its versions come after ours: the mapping stands on our functions.
fn main_app_migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations/main_app");
    migrator.set_locking(false);
    migrator.dangerous_set_table_name(MAIN_APP_TABLE);
    migrator
}

/// Brings the schemas `retention` and `apalis` up to this program's, and changes nothing else. Safe to run twice and from
/// several places at once.
///
/// # Errors
/// When the database cannot take them: then nothing is changed. When a migration fails; those before it stay applied.
pub async fn up(pool: &PgPool) -> Result<(), SchemaError> {
    alone(pool, async {
        preflight::own_schemas(pool).await?;
        preflight::known_migrations(pool).await?;
        up_own(pool).await
    })
    .await
}

/// The same, and then the reference main app with its mapping.
///
/// # Errors
/// As [`up`]; and when tables of these names, or a mapping, are there that are not ours.
pub async fn up_main_app(pool: &PgPool) -> Result<(), SchemaError> {
    alone(pool, async {
        preflight::own_schemas(pool).await?;
        preflight::known_migrations(pool).await?;
        let applied = applied_in(pool, MAIN_APP_TABLE).await?;
        preflight::main_app(pool, applied.contains(&MAPPING)).await?;
        up_own(pool).await?;
        main_app_migrator().run(pool).await?;
        Ok(())
    })
    .await
}

/// One at a time: of several first set-ups of the queue at once, some would fail.
async fn alone(
    pool: &PgPool,
    work: impl Future<Output = Result<(), SchemaError>>,
) -> Result<(), SchemaError> {
    let mut guard = pool.acquire().await?;
    lock::take(&mut guard).await?;
    let outcome = work.await;
    // The lock goes with its session, whatever happened.
    guard.close().await?;
    outcome
}

async fn up_own(pool: &PgPool) -> Result<(), SchemaError> {
    queue_extensions(pool).await?;
    let mut of_queue = PostgresStorage::migrations();
    of_queue.set_locking(false);
    of_queue.run(pool).await.map_err(SchemaError::Queue)?;
    migrator().run(pool).await?;
    queue::tune(pool).await?;
    Ok(())
}

/// The extensions of the queue stay where they are; where they are missing they come into the queue's own schema.
async fn queue_extensions(pool: &PgPool) -> sqlx::Result<()> {
    let mut connection = pool.acquire().await?;
    sqlx::raw_sql(
        "-- migrations.queue_extensions
         CREATE SCHEMA IF NOT EXISTS apalis;
         CREATE EXTENSION IF NOT EXISTS hstore SCHEMA apalis;
         CREATE EXTENSION IF NOT EXISTS pgcrypto SCHEMA apalis;",
    )
    .execute(&mut *connection)
    .await?;
    // This session looked for them before they were there.
    connection.close().await
}

/// Steps back: one migration, or all those after `to`; those of the reference main app first. apalis's own schema stays.
///
/// # Errors
/// When `to` is unknown, something of the main app's stands on ours, or a migration fails.
pub async fn down(pool: &PgPool, to: Option<i64>) -> Result<(), SchemaError> {
    alone(pool, step_down(pool, to)).await
}

async fn step_down(pool: &PgPool, to: Option<i64>) -> Result<(), SchemaError> {
    preflight::known_migrations(pool).await?;
    let migrations = status(pool).await?;
    let target = match to {
        Some(0) => 0,
        Some(version) if migrations.iter().any(|m| m.version == version) => version,
        Some(version) => return Err(SchemaError::NoSuchVersion(version)),
        None => {
            let applied = migrations.iter().filter(|m| m.applied).map(|m| m.version);
            applied.rev().nth(1).unwrap_or(0)
        }
    };
    let own_last = versions(&migrator()).into_keys().next_back().unwrap_or(0);
    let of_main_app = applied_in(pool, MAIN_APP_TABLE).await?;
    let goes_below_ours = target < own_last && !applied(pool).await?.is_empty();
    if goes_below_ours {
        preflight::triggers_of_ours(pool, of_main_app.contains(&MAPPING)).await?;
    }
    if !of_main_app.is_empty() {
        // 0, or a version of ours: none of the reference main app's stays.
        let target = if target > own_last { target } else { 0 };
        preflight::undo_main_app(pool, target < PAYLOADS).await?;
        main_app_migrator().undo(pool, target).await?;
    }
    if goes_below_ours {
        migrator().undo(pool, target).await?;
    }
    Ok(())
}

/// Our migrations in order, and which of them this database has. Those of the reference main app are listed only where one
/// of them is applied.
///
/// # Errors
/// When the database cannot be read.
pub async fn status(pool: &PgPool) -> Result<Vec<MigrationStatus>, SchemaError> {
    let mut all = status_of(&migrator(), &applied(pool).await?);
    let of_main_app = applied_in(pool, MAIN_APP_TABLE).await?;
    if !of_main_app.is_empty() {
        all.extend(status_of(&main_app_migrator(), &of_main_app));
    }
    Ok(all)
}

fn status_of(migrator: &Migrator, applied: &[i64]) -> Vec<MigrationStatus> {
    versions(migrator)
        .into_iter()
        .map(|(version, name)| MigrationStatus {
            version,
            name,
            applied: applied.contains(&version),
        })
        .collect()
}

/// Checks that the schema is exactly the one this program was built for.
///
/// # Errors
/// [`SchemaError::Behind`] or [`SchemaError::Ahead`], which say what to do.
pub async fn check(database: &Database) -> Result<(), SchemaError> {
    preflight::known_migrations(database).await?;
    check_versions(&migrator(), &applied(database).await?, "up")?;
    let of_main_app = applied_in(database, MAIN_APP_TABLE).await?;
    if !of_main_app.is_empty() {
        check_versions(&main_app_migrator(), &of_main_app, "up --main-app")?;
    }
    queue::check(database).await
}

fn check_versions(
    migrator: &Migrator,
    applied: &[i64],
    command: &'static str,
) -> Result<(), SchemaError> {
    let known = versions(migrator);
    if let Some((version, name)) = known.iter().find(|(version, _)| !applied.contains(version)) {
        return Err(SchemaError::Behind {
            what: format!("migration {version} {name:?} is missing"),
            command,
        });
    }
    Ok(())
}

fn versions(migrator: &Migrator) -> BTreeMap<i64, String> {
    migrator
        .iter()
        .filter(|migration| migration.migration_type.is_up_migration())
        .map(|migration| (migration.version, migration.description.to_string()))
        .collect()
}

async fn applied(on: impl PgExecutor<'_> + Copy) -> sqlx::Result<Vec<i64>> {
    applied_in(on, TABLE).await
}

#[expect(
    clippy::disallowed_methods,
    reason = "sqlx makes these tables: no migration that a query could be checked against has them"
)]
async fn applied_in(on: impl PgExecutor<'_> + Copy, table: &'static str) -> sqlx::Result<Vec<i64>> {
    if !exists(on, table).await? {
        return Ok(Vec::new());
    }
    let select = format!("SELECT version FROM {table} ORDER BY version");
    sqlx::query_scalar(AssertSqlSafe(select))
        .fetch_all(on)
        .await
}

/// Whether the main app's tables are mapped: whether there is a schema `main_app`.
///
/// # Errors
/// When the database cannot be read.
pub async fn is_mapped(on: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- migrations.is_mapped
        SELECT to_regnamespace('main_app') IS NOT NULL AS "mapped!""#
    )
    .fetch_one(on)
    .await
}

async fn exists(on: impl PgExecutor<'_>, table: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- migrations.exists
        SELECT to_regclass($1) IS NOT NULL AS "exists!""#,
        table
    )
    .fetch_one(on)
    .await
}
