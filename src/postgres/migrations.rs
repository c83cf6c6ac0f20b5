//! The schema: apalis's own migrations, then ours, then our changes to apalis's tables; and on request a reference main
//! app.
//!
//! Only the `migrate` command changes the schema, because simultaneous first starts of a queue fail. Every other
//! command checks that the schema is exactly the one it was built for, and names the command that fixes it.

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

/// The table of applied migrations. It is in our own schema, because the main app may also use sqlx.
const TABLE: &str = "retention.migrations";
/// The table of applied migrations of the reference main app.
const MAIN_APP_TABLE: &str = "retention.main_app_migrations";
/// The version of the reference main app's migration that moves payloads into their own table.
const PAYLOADS_VERSION: i64 = 1003;
/// The version of the reference main app's migration that creates the schema `main_app`.
const MAPPING_VERSION: i64 = 1006;

/// A migration, and whether it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its version: the number at the start of its file name.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether it is applied to this database.
    pub applied: bool,
}

/// Why the schema cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Migrations of ours or of apalis are missing, or our settings of the queue.
    #[error(
        "the database schema is behind this program ({what}); run `drift-retention migrate {command}`"
    )]
    Behind {
        /// What is missing.
        what: String,
        /// The arguments of `migrate` that add it.
        command: &'static str,
    },
    /// The schema cannot be created or removed. Nothing was changed.
    #[error("{0}; nothing was changed")]
    Refused(String),
    /// Another session migrates this database or holds its migration lock.
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
    /// The target of a step back is not a version of ours.
    #[error("there is no migration {0}; `drift-retention migrate status` lists them")]
    NoSuchVersion(i64),
    /// Another build migrated this database.
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
    /// The database does not answer.
    #[error(
        "the database does not answer: is Postgres up where `database.url` says, with a connection free?"
    )]
    Unreachable,
    /// A transaction pooler answers, which uses another session each time.
    #[error(
        "`database.url` leads to a transaction pooler: set `database.direct_url` to Postgres itself, which the queue needs"
    )]
    Pooler(#[source] sqlx::Error),
    /// The server's certificate is not valid.
    #[error(
        "the database's certificate is not accepted: `sslrootcert` must name the certificate of its CA, and verify-full requires the host's name in it"
    )]
    Certificate(#[source] sqlx::Error),
    /// The database failed.
    #[error("cannot read the database schema")]
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
            // A pooler refuses our session parameters, or another client's prepared statement has the name of ours.
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

/// The migrations of our own schema. They do not touch the main app.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false); // `with_lock` locks
    migrator.create_schema("retention");
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

/// The migrations of the reference main app in `public`, with its mapping. Their versions come after ours, because the
/// mapping uses our functions.
fn main_app_migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations/main_app");
    migrator.set_locking(false);
    migrator.dangerous_set_table_name(MAIN_APP_TABLE);
    migrator
}

/// Migrates the schemas `retention` and `apalis` to the versions of this program, and changes nothing else. It may run
/// twice, and several times at once.
///
/// # Errors
/// When the database cannot take the schemas; then nothing is changed. When a migration fails; earlier ones stay
/// applied.
pub async fn up(pool: &PgPool) -> Result<(), SchemaError> {
    with_lock(pool, async {
        preflight::own_schemas(pool).await?;
        preflight::known_migrations(pool).await?;
        up_own(pool).await
    })
    .await
}

/// The same, and then creates the reference main app with its mapping.
///
/// # Errors
/// As [`up`], and when there are tables with these names, or a mapping, that are not ours.
pub async fn up_main_app(pool: &PgPool) -> Result<(), SchemaError> {
    with_lock(pool, async {
        preflight::own_schemas(pool).await?;
        preflight::known_migrations(pool).await?;
        let applied = applied_in(pool, MAIN_APP_TABLE).await?;
        preflight::main_app(pool, applied.contains(&MAPPING_VERSION)).await?;
        up_own(pool).await?;
        main_app_migrator().run(pool).await?;
        Ok(())
    })
    .await
}

/// Runs one migration command at a time. Of several simultaneous first set-ups of the queue, some would fail.
async fn with_lock(
    pool: &PgPool,
    work: impl Future<Output = Result<(), SchemaError>>,
) -> Result<(), SchemaError> {
    let mut guard = pool.acquire().await?;
    lock::take(&mut guard).await?;
    let outcome = work.await;
    // The lock ends with its session, whatever happened.
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

/// Creates missing extensions of the queue in the queue's own schema. Existing ones stay in their schema.
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
    // This session has cached that they do not exist.
    connection.close().await
}

/// Undoes the last migration, or all migrations after `to`, beginning with those of the reference main app. apalis's
/// own schema stays.
///
/// # Errors
/// When `to` is unknown, something in the main app depends on our schema, or a migration fails.
pub async fn down(pool: &PgPool, to: Option<i64>) -> Result<(), SchemaError> {
    with_lock(pool, step_down(pool, to)).await
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
        preflight::triggers_of_ours(pool, of_main_app.contains(&MAPPING_VERSION)).await?;
    }
    if !of_main_app.is_empty() {
        // The target is 0 or a version of ours, so all migrations of the reference main app are undone.
        let target = if target > own_last { target } else { 0 };
        preflight::undo_main_app(pool, target < PAYLOADS_VERSION).await?;
        main_app_migrator().undo(pool, target).await?;
    }
    if goes_below_ours {
        migrator().undo(pool, target).await?;
    }
    Ok(())
}

/// Our migrations in order, and whether each is applied. Those of the reference main app are listed only if one of them
/// is applied.
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

/// Checks that the schema is exactly the one that this program was built for.
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
    reason = "sqlx creates these tables, so no migration contains them and no query macro can check the statement"
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

/// Whether the main app's tables are mapped, which means that the schema `main_app` exists.
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
