//! Checks the mapping. The main app's owner maps their tables to the views, the domain and the functions of schema
//! `main_app`. Before a row is deleted, this module proves that the mapping means what the purge assumes.
//!
//! There are three depths. The *structure* comes from the catalogue. It is checked at every start, and once a minute
//! while serving. The *trial* calls the two functions on a few rows, in a transaction that is rolled back, before a
//! process purges. Only `attach check` reads the *values*.

mod catalog;
mod foreign_keys;
mod functions;
mod hooks;
mod report;
mod shape;
mod tables;
mod trial;
mod values;
mod views;

pub use self::report::{Object, Problem, Report, Severity};

use self::{shape::VIEWS, tables::PurgedTables};
use crate::postgres::{Database, MappedTable, Mapping, migrations};

/// The mapping of the reference main app, with comments that explain how to write another one.
pub const TEMPLATE: &str = include_str!("../../migrations/main_app/1006_mapping.up.sql");

/// Why a process may not use the mapping.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The mapping is missing or wrong.
    #[error(
        "the mapping to the main app's tables (schema main_app) cannot be used: {0}; \
         `drift-retention attach check` lists all problems and remedies"
    )]
    Refused(String),
    /// The mapping changed after this process had checked it.
    #[error(
        "the mapping to the main app's tables (schema main_app) has changed since this process checked it: it has stopped, \
         and other workers will continue its runs. Run `drift-retention attach check`, then start it again"
    )]
    Changed,
    /// The main app's tables are not mapped yet.
    #[error(
        "this database has no mapping to a main app's tables (schema main_app): write one, starting from \
         `drift-retention attach template`, and check it with `drift-retention attach check`. If there is no main app yet, \
         `drift-retention migrate up --main-app` creates a reference one"
    )]
    Missing,
    /// The database failed.
    #[error("cannot check the mapping to the main app's tables")]
    Database(#[from] sqlx::Error),
}

/// How thoroughly to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The catalogue only.
    Structure,
    /// Also the effect of the two functions on a few rows, which is rolled back.
    Trial,
    /// Also the values of the rows. This reads whole tables.
    Values,
}

/// Checks the mapping; `cascades` are the tables whose rows may go by a foreign key (`attach.cascades`).
///
/// # Errors
/// When the database fails.
pub async fn check(database: &Database, cascades: &[String], depth: Depth) -> sqlx::Result<Report> {
    Ok(Box::pin(inspect(database, cascades, depth)).await?.0)
}

/// Checks the mapping for a process that uses it. Returns the mapping and the report.
///
/// # Errors
/// When the mapping is missing or wrong, or the database fails.
pub async fn prove(
    database: &Database,
    cascades: &[String],
    depth: Depth,
) -> Result<(Mapping, Report), AttachError> {
    if !migrations::is_mapped(database).await? {
        return Err(AttachError::Missing);
    }
    let (report, mapping) = Box::pin(inspect(database, cascades, depth)).await?;
    if !report.ok {
        let refusals: Vec<_> = report.refusals().collect();
        return Err(AttachError::Refused(refusals.join("; ")));
    }
    Ok((mapping, report))
}

/// The present fingerprint of the mapping: `retention.mapping_fingerprint()`.
///
/// # Errors
/// When the database fails.
pub async fn fingerprint(database: &Database) -> sqlx::Result<String> {
    sqlx::query_scalar!(
        r#"-- attach.fingerprint
        SELECT retention.mapping_fingerprint() AS "fingerprint!""#
    )
    .fetch_one(database)
    .await
}

async fn inspect(
    database: &Database,
    cascades: &[String],
    depth: Depth,
) -> sqlx::Result<(Report, Mapping)> {
    // Read the fingerprint first. If the mapping changes during the check, the result belongs to an old fingerprint and
    // is not used.
    let fingerprint = fingerprint(database).await?;
    let found = catalog::views(database).await?;
    let sources = catalog::sources(database).await?;
    let key = catalog::check_key(database).await?;
    let mut views = Vec::with_capacity(VIEWS.len());
    for view in &VIEWS {
        let found = found.get(view.name);
        views.push(views::check(database, view, found, &sources, key.as_ref()).await?);
    }
    let purged = PurgedTables::of(&views);
    let allowed = foreign_keys::check(database, &purged, cascades, &mut views).await?;
    foreign_keys::check_flags(database, &purged, &mut views).await?;
    hooks::check(database, &purged, &mut views).await?;
    tables::check_indexes(database, &mut views).await?;
    let unnoticed = hooks::check_rewriting(database, &purged, &mut views).await?;
    let mapping = Mapping {
        fingerprint,
        flags: purged.flags.iter().map(|table| table.oid).collect(),
        purged: purged.oids(),
        payloads: purged.payloads.iter().map(|table| table.oid).collect(),
        cascades: allowed,
        tables: mapped_tables(&views),
        unnoticed,
    };
    let mut objects: Vec<Object> = views.into_iter().map(|checked| checked.object).collect();
    objects.push(functions::check_key(key.as_ref()));
    objects.push(functions::lock_plan(database).await?);
    objects.push(functions::erase_payloads(database).await?);
    functions::check_schema_owner(database, &mut objects).await?;
    // Only with a valid structure: the other checks read and write through it.
    if depth >= Depth::Trial && !objects.iter().any(Object::is_refused) {
        trial::check(database, depth, &mut objects).await?;
    }
    if depth >= Depth::Values && !objects.iter().any(Object::is_refused) {
        values::check(database, &mut objects).await?;
    }
    Ok((Report::of(objects), mapping))
}

fn mapped_tables(views: &[views::CheckedView<'_>]) -> Vec<MappedTable> {
    let with_table = views.iter().filter_map(|checked| {
        Some(MappedTable {
            view: checked.view.name,
            tables: checked.object.maps_to.clone()?,
        })
    });
    with_table.collect()
}

/// The object with this name.
fn object<'a>(objects: &'a mut [Object], name: &str) -> Option<&'a mut Object> {
    let full = format!("main_app.{name}");
    objects.iter_mut().find(|object| object.name == full)
}
