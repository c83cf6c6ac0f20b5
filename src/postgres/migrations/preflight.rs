//! Checks whether the database can take our schemas before anything is changed, so that a refusal leaves no trace.

use sqlx::{AssertSqlSafe, PgExecutor, PgPool};

use super::{MAIN_APP_TABLE, SchemaError, TABLE, exists, main_app_migrator, migrator};

/// Refuses a migration that [`super::up`] could not complete, or only by changing objects that are not ours.
pub(super) async fn own_schemas(pool: &PgPool) -> Result<(), SchemaError> {
    let found = sqlx::query!(
        r#"-- migrations.preflight
        SELECT pg_is_in_recovery() AS "is_standby!",
               coalesce(to_regclass('retention.migrations') IS NULL
                        AND (EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('retention'))
                             OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('retention'))),
                        false) AS "retention_is_taken!",
               coalesce(to_regclass('apalis._sqlx_migrations') IS NULL
                        AND EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('apalis')),
                        false) AS "apalis_is_taken!",
               -- An early migration of apalis created one there, and a later one drops it.
               (to_regclass('apalis._sqlx_migrations') IS NULL
                AND to_regprocedure('public.generate_ulid()') IS NOT NULL) AS "ulid_is_taken!",
               ((to_regnamespace('retention') IS NULL OR to_regnamespace('apalis') IS NULL)
                AND NOT has_database_privilege(current_database(), 'CREATE')) AS "cannot_create!",
               ARRAY (SELECT e.name FROM unnest(ARRAY['hstore', 'pgcrypto']) AS e (name)
                      WHERE NOT EXISTS (SELECT FROM pg_extension x WHERE x.extname = e.name)
                        AND NOT EXISTS (SELECT FROM pg_available_extensions a WHERE a.name = e.name)) AS "missing!",
               current_database()::text AS "database!", current_user::text AS "role!""#
    )
    .fetch_one(pool)
    .await?;
    let (database, role) = (&found.database, &found.role);
    let refusal = if found.is_standby {
        "this server is a read-only standby: migrate on its primary".to_owned()
    } else if found.retention_is_taken {
        "schema retention is there and is not ours, and drift-retention keeps its records in a schema of \
         that name: rename yours"
            .to_owned()
    } else if found.apalis_is_taken {
        "schema apalis exists and does not belong to the queue (apalis-postgres): rename it"
            .to_owned()
    } else if found.ulid_is_taken {
        "function public.generate_ulid() is there, and the queue's migrations (apalis-postgres) would \
         drop it: move it to another schema, migrate, and move it back"
            .to_owned()
    } else if found.cannot_create {
        format!("role {role} may not create schemas: GRANT CREATE ON DATABASE {database} TO {role}")
    } else if let [missing, ..] = found.missing.as_slice() {
        format!(
            "the server does not have the extension {missing}: install PostgreSQL's contrib package"
        )
    } else {
        return Ok(());
    };
    Err(SchemaError::Refused(refusal))
}

/// Refuses to create a reference main app if there is another one: tables with its names that are not ours, or an
/// operator's mapping.
pub(super) async fn main_app(pool: &PgPool, has_mapping: bool) -> Result<(), SchemaError> {
    let found = sqlx::query!(
        r#"-- migrations.preflight_main_app
        SELECT to_regnamespace('main_app') IS NOT NULL AS "mapped!",
               (SELECT min(c.relname)::text FROM pg_class c
                WHERE c.relnamespace = to_regnamespace('public')
                  AND c.relname IN ('organizations', 'environments', 'drift_checks', 'workflow_drift_flags', 'incidents',
                                    'incident_payloads', 'approvals')
                  AND obj_description(c.oid, 'pg_class') IS DISTINCT FROM 'drift-retention: reference main app') AS taken"#
    )
    .fetch_one(pool)
    .await?;
    if found.mapped && !has_mapping {
        return Err(SchemaError::Refused(
            "schema main_app is there, so this database has a main app of its own: run `drift-retention migrate up`, \
             without --main-app"
                .into(),
        ));
    }
    if let Some(table) = found.taken {
        return Err(SchemaError::Refused(format!(
            "public.{table} is there and is not ours: --main-app creates a reference main app beside none. Run \
             `drift-retention migrate up`, then map your own tables: `drift-retention attach template`"
        )));
    }
    Ok(())
}

/// Refuses to drop our trigger function while the main app's tables use it. The reference main app's own trigger is
/// dropped with it.
pub(super) async fn triggers_of_ours(
    pool: &PgPool,
    has_reference: bool,
) -> Result<(), SchemaError> {
    let trigger = sqlx::query_scalar!(
        r#"-- migrations.triggers_of_ours
        SELECT format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass) AS "drop!"
        FROM pg_trigger t
        WHERE t.tgfoid = to_regproc('retention.note_rewritten_payload') AND NOT t.tgisinternal
          AND NOT ($1 AND t.tgname = 'note_rewritten_payload' AND t.tgrelid = to_regclass('public.incident_payloads'))
        LIMIT 1"#,
        has_reference
    )
    .fetch_optional(pool)
    .await?;
    match trigger {
        Some(drop) => Err(SchemaError::Refused(format!(
            "a trigger of the main app calls retention.note_rewritten_payload: {drop}"
        ))),
        None => Ok(()),
    }
}

/// Refuses a database with migrations that this program does not know or that have another checksum.
pub(super) async fn known_migrations(on: impl PgExecutor<'_> + Copy) -> Result<(), SchemaError> {
    for (migrator, table) in [(migrator(), TABLE), (main_app_migrator(), MAIN_APP_TABLE)] {
        let ups = || {
            migrator
                .iter()
                .filter(|m| m.migration_type.is_up_migration())
        };
        for (version, checksum) in checksums_in(on, table).await? {
            match ups().find(|migration| migration.version == version) {
                None => return Err(SchemaError::Ahead(version)),
                Some(known) if known.checksum.as_ref() != checksum => {
                    return Err(SchemaError::OtherBuild(version));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "sqlx makes these tables: no migration that a query could be checked against has them"
)]
async fn checksums_in(
    on: impl PgExecutor<'_> + Copy,
    table: &'static str,
) -> sqlx::Result<Vec<(i64, Vec<u8>)>> {
    if !exists(on, table).await? {
        return Ok(Vec::new());
    }
    let select = format!("SELECT version, checksum FROM {table} ORDER BY version");
    sqlx::query_as(AssertSqlSafe(select)).fetch_all(on).await
}

/// Refuses to remove a reference main app that has been changed meanwhile: other tables with its names, another
/// mapping, or columns that would be dropped with the payloads' table.
pub(super) async fn undo_main_app(pool: &PgPool, drops_payloads: bool) -> Result<(), SchemaError> {
    let found = sqlx::query!(
        r#"-- migrations.preflight_undo
        SELECT (SELECT min(c.relname)::text FROM pg_class c
                WHERE c.relnamespace = to_regnamespace('public')
                  AND c.relname IN ('organizations', 'environments', 'drift_checks', 'workflow_drift_flags', 'incidents',
                                    'incident_payloads', 'approvals')
                  AND obj_description(c.oid, 'pg_class') IS DISTINCT FROM 'drift-retention: reference main app') AS taken,
               (SELECT min(v.relname)::text
                FROM pg_class v JOIN pg_rewrite r ON r.ev_class = v.oid
                JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                                AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid
                WHERE v.relnamespace = to_regnamespace('main_app') AND v.relkind = 'v'
                  AND obj_description(d.refobjid, 'pg_class') IS DISTINCT FROM 'drift-retention: reference main app') AS mapped,
               (SELECT min(a.attname)::text FROM pg_attribute a
                WHERE a.attrelid = to_regclass('public.incident_payloads') AND a.attnum > 0 AND NOT a.attisdropped
                  AND a.attname NOT IN ('incident_id', 'payload_json', 'created_at')) AS added"#
    )
    .fetch_one(pool)
    .await?;
    let refusal = if let Some(table) = found.taken {
        format!(
            "public.{table} no longer belongs to the reference main app, and this step would change it: drop the table              retention.main_app_migrations, if the reference is gone"
        )
    } else if let Some(view) = found.mapped {
        format!(
            "main_app.{view} maps a table that does not belong to the reference main app: drop the schema main_app yourself first"
        )
    } else if let Some(column) = found.added.filter(|_| drops_payloads) {
        format!(
            "public.incident_payloads has a column of your own, {column}, that would be dropped with the table: move it first"
        )
    } else {
        return Ok(());
    };
    Err(SchemaError::Refused(refusal))
}
