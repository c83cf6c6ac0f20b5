//! Reads the mapping and the tables behind it from Postgres's catalogue.

use std::collections::HashMap;

use sqlx::postgres::types::Oid;

use super::shape::VIEWS;
use crate::postgres::Database;

/// A view of schema `main_app`, as the catalogue describes it.
#[derive(Debug, Clone, Default)]
pub(super) struct FoundView {
    /// `v` for a view.
    pub(super) kind: String,
    /// The owner, whose rights are used to read it.
    pub(super) owner: String,
    /// `security_barrier=true`, …
    pub(super) options: Vec<String>,
    /// Its columns' types, as `format_type` writes them.
    pub(super) types: HashMap<String, String>,
    /// The collation of its columns.
    pub(super) collations: HashMap<String, u32>,
}

/// A table or view that a view of the mapping reads.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The view of the mapping.
    pub(super) view: String,
    /// The table or view that it reads.
    pub(super) oid: Oid,
    /// Its name, with its schema, quoted where needed.
    pub(super) name: String,
    /// The same name, never quoted, as in `attach.cascades`.
    pub(super) plain_name: String,
    /// `r` for an ordinary table, `p` partitioned, `v` view, `m` materialized view, `f` foreign table.
    pub(super) kind: String,
    /// Whether the table is a partition of another table.
    pub(super) is_partition: bool,
    /// Whether the view reads it directly, not through another view.
    pub(super) is_direct: bool,
    /// The estimated number of rows. `None` if Postgres has no estimate.
    pub(super) rows: Option<i64>,
}

impl Source {
    /// The kind of relation, or `None` for an ordinary table.
    pub(super) fn kind_name(&self) -> Option<&'static str> {
        match self.kind.as_str() {
            "r" if self.is_partition => Some("a partition"),
            "r" => None,
            "p" => Some("a partitioned table"),
            "v" => Some("a view"),
            "m" => Some("a materialized view"),
            "f" => Some("a foreign table"),
            _ => Some("no table"),
        }
    }
}

pub(super) fn view_names() -> Vec<String> {
    VIEWS.iter().map(|view| view.name.to_owned()).collect()
}

/// The views of the mapping by name.
pub(super) async fn views(database: &Database) -> sqlx::Result<HashMap<String, FoundView>> {
    let columns = sqlx::query!(
        r#"-- attach.views
        SELECT c.relname::text AS "view!", c.relkind::text AS "kind!", pg_get_userbyid(c.relowner)::text AS "owner!",
               coalesce(c.reloptions, '{}') AS "options!", a.attname::text AS "column?",
               format_type(a.atttypid, a.atttypmod) AS type_name, a.attcollation AS "collation?"
        FROM pg_class c
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = to_regnamespace('main_app') AND c.relname = ANY ($1::text[]::name[])"#,
        &view_names()
    )
    .fetch_all(database)
    .await?;
    let mut views: HashMap<String, FoundView> = HashMap::new();
    for row in columns {
        let view = views.entry(row.view).or_default();
        (view.kind, view.owner, view.options) = (row.kind, row.owner, row.options);
        if let (Some(column), Some(type_name)) = (row.column, row.type_name) {
            let collation = row.collation.map_or(0, |oid| oid.0);
            view.collations.insert(column.clone(), collation);
            view.types.insert(column, type_name);
        }
    }
    Ok(views)
}

/// All tables and views that the views of the mapping read, directly or through other views.
pub(super) async fn sources(database: &Database) -> sqlx::Result<Vec<Source>> {
    sqlx::query_as!(
        Source,
        r#"-- attach.sources
        WITH RECURSIVE reads AS (
            SELECT v.relname::text AS view, v.oid AS via, v.relkind AS kind, 0 AS depth
            FROM pg_class v
            WHERE v.relnamespace = to_regnamespace('main_app') AND v.relname = ANY ($1::text[]::name[]) AND v.relkind = 'v'
            UNION
            SELECT r.view, t.oid, t.relkind, r.depth + 1
            FROM reads r
            JOIN pg_rewrite w ON w.ev_class = r.via AND w.ev_type = '1'
            JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                            AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.via
            JOIN pg_class t ON t.oid = d.refobjid
            WHERE r.kind = 'v' AND r.depth < 20
        )
        SELECT r.view AS "view!", t.oid AS "oid!", format('%I.%I', n.nspname, t.relname) AS "name!",
               format('%s.%s', n.nspname, t.relname) AS "plain_name!", t.relkind::text AS "kind!",
               t.relispartition AS "is_partition!", min(r.depth) = 1 AS "is_direct!", CASE WHEN t.reltuples >= 0 THEN t.reltuples::bigint END AS rows
        FROM reads r JOIN pg_class t ON t.oid = r.via JOIN pg_namespace n ON n.oid = t.relnamespace
        WHERE r.depth > 0 AND t.relkind IN ('r', 'p', 'v', 'm', 'f')
        GROUP BY r.view, t.oid, n.nspname, t.relname, t.relkind, t.relispartition, t.reltuples
        ORDER BY r.view, 3"#,
        &view_names()
    )
    .fetch_all(database)
    .await
}

/// The domain `main_app.check_key`.
#[derive(Debug, Clone)]
pub(super) struct CheckKey {
    /// The domain's base type.
    pub(super) type_name: String,
    /// Its collation.
    pub(super) collation: u32,
}

/// The domain, if it exists.
pub(super) async fn check_key(database: &Database) -> sqlx::Result<Option<CheckKey>> {
    let found = sqlx::query!(
        r#"-- attach.check_key
        SELECT format_type(t.typbasetype, t.typtypmod) AS "type_name!", t.typcollation AS "collation!"
        FROM pg_type t
        WHERE t.typnamespace = to_regnamespace('main_app') AND t.typname = 'check_key' AND t.typtype = 'd'"#
    )
    .fetch_optional(database)
    .await?;
    Ok(found.map(|found| CheckKey {
        type_name: found.type_name,
        collation: found.collation.0,
    }))
}

/// A function of the mapping.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one field per column of the catalogue query"
)]
pub(super) struct FoundFunction {
    /// The return type.
    pub(super) returns: String,
    /// `v` for volatile.
    pub(super) volatility: String,
    /// Whether it runs with its owner's rights.
    pub(super) is_definer: bool,
    /// Whether its search path is set.
    pub(super) has_search_path: bool,
    /// Whether this role may call it.
    pub(super) is_allowed: bool,
    /// Its owner.
    pub(super) owner: String,
    /// Whether everybody may call it.
    pub(super) is_public: bool,
}

/// The function with this name and argument, if it exists. `to_regprocedure` would fail if this role may not use the
/// schema.
pub(super) async fn function(
    database: &Database,
    name: &str,
    argument: &str,
) -> sqlx::Result<Option<FoundFunction>> {
    sqlx::query_as!(
        FoundFunction,
        r#"-- attach.function
        SELECT format_type(p.prorettype, NULL) AS "returns!", p.provolatile::text AS "volatility!",
               p.prosecdef AS "is_definer!",
               coalesce(array_to_string(p.proconfig, ',') LIKE '%search_path=%', false) AS "has_search_path!",
               has_function_privilege(p.oid, 'EXECUTE') AS "is_allowed!", pg_get_userbyid(p.proowner)::text AS "owner!",
               (p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0)) AS "is_public!"
        FROM pg_proc p
        WHERE p.pronamespace = to_regnamespace('main_app') AND p.proname = $1::text
          AND oidvectortypes(p.proargtypes) = $2 AND NOT p.proretset"#,
        name,
        argument
    )
    .fetch_optional(database)
    .await
}

/// The owner of schema `retention`, and the owner's rights on the mapping.
#[derive(Debug, Clone)]
pub(super) struct SchemaOwner {
    /// The owner's name.
    pub(super) owner: String,
    /// Whether the owner may read organizations.
    pub(super) reads_organizations: bool,
    /// Whether the owner may read and lock incidents.
    pub(super) locks_incidents: bool,
    /// Whether the owner may read payloads.
    pub(super) reads_payloads: bool,
}

/// The owner of the functions in schema `retention`.
pub(super) async fn schema_owner(database: &Database) -> sqlx::Result<SchemaOwner> {
    sqlx::query_as!(
        SchemaOwner,
        r#"-- attach.keeper
        SELECT pg_get_userbyid(p.proowner)::text AS "owner!",
               coalesce(may.look AND has_table_privilege(p.proowner, v.organizations, 'SELECT'), true) AS "reads_organizations!",
               coalesce(may.look AND has_table_privilege(p.proowner, v.incidents, 'SELECT')
                        AND has_any_column_privilege(p.proowner, v.incidents, 'UPDATE'), true) AS "locks_incidents!",
               coalesce(may.look AND has_table_privilege(p.proowner, v.payloads, 'SELECT'), true) AS "reads_payloads!"
        FROM pg_proc p
        CROSS JOIN LATERAL (
            SELECT has_schema_privilege(p.proowner, to_regnamespace('main_app'), 'USAGE') AS look) may
        -- Not with `to_regclass`, which would fail if this role may not use the schema.
        CROSS JOIN LATERAL (
            SELECT max(c.oid) FILTER (WHERE c.relname = 'organizations') AS organizations,
                   max(c.oid) FILTER (WHERE c.relname = 'incidents') AS incidents,
                   max(c.oid) FILTER (WHERE c.relname = 'incident_payloads') AS payloads
            FROM pg_class c WHERE c.relnamespace = to_regnamespace('main_app')) v
        WHERE p.oid = to_regproc('retention.note_rewritten_payload')"#
    )
    .fetch_one(database)
    .await
}

/// An index of a table.
#[derive(Debug, Clone)]
pub(super) struct Index {
    /// Its columns in order.
    pub(super) columns: Vec<String>,
    /// The condition of a partial index. `None` if it contains all rows.
    pub(super) condition: Option<String>,
    /// Whether the index is unique.
    pub(super) is_unique: bool,
}

/// The valid indexes of `table`.
pub(super) async fn indexes(database: &Database, table: Oid) -> sqlx::Result<Vec<Index>> {
    sqlx::query_as!(
        Index,
        r#"-- attach.indexes
        SELECT ARRAY (SELECT pg_get_indexdef(i.indexrelid, k, true)
                      FROM generate_series(1, i.indnkeyatts) k ORDER BY k) AS "columns!",
               pg_get_expr(i.indpred, i.indrelid) AS condition, i.indisunique AS "is_unique!"
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
        WHERE i.indrelid = $1 AND i.indisvalid AND m.amname = 'btree'"#,
        table
    )
    .fetch_all(database)
    .await
}
