//! What Postgres's catalogue says of the mapping and of the tables behind it.

use std::collections::HashMap;

use sqlx::postgres::types::Oid;

use super::shape::VIEWS;
use crate::postgres::Database;

/// A view of schema `main_app`, as it stands in the database.
#[derive(Debug, Clone, Default)]
pub(super) struct FoundView {
    /// `v` for a view.
    pub(super) kind: String,
    /// Whose rights reading it takes.
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
    /// What it reads.
    pub(super) oid: Oid,
    /// Its name, with its schema, quoted where needed.
    pub(super) name: String,
    /// The same, never quoted: as `attach.cascades` has it.
    pub(super) plain_name: String,
    /// `r` for an ordinary table, `p` partitioned, `v` view, `m` materialized view, `f` foreign table.
    pub(super) kind: String,
    /// Whether the view reads it itself, not through another view.
    pub(super) is_direct: bool,
    /// How many rows it has, as Postgres estimates them; none: it does not know.
    pub(super) rows: Option<i64>,
}

impl Source {
    /// What it is, where it is no ordinary table.
    pub(super) fn kind_in_words(&self) -> Option<&'static str> {
        match self.kind.as_str() {
            "r" => None,
            "p" => Some("a partitioned table"),
            "v" => Some("a view"),
            "m" => Some("a materialized view"),
            "f" => Some("a foreign table"),
            _ => Some("no table"),
        }
    }
}

fn view_names() -> Vec<String> {
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

/// Everything that the views of the mapping read, through other views too.
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
               min(r.depth) = 1 AS "is_direct!", CASE WHEN t.reltuples >= 0 THEN t.reltuples::bigint END AS rows
        FROM reads r JOIN pg_class t ON t.oid = r.via JOIN pg_namespace n ON n.oid = t.relnamespace
        WHERE r.depth > 0 AND t.relkind IN ('r', 'p', 'v', 'm', 'f')
        GROUP BY r.view, t.oid, n.nspname, t.relname, t.relkind, t.reltuples
        ORDER BY r.view, 3"#,
        &view_names()
    )
    .fetch_all(database)
    .await
}

/// The domain `main_app.check_key`.
#[derive(Debug, Clone)]
pub(super) struct CheckKey {
    /// The type that it stands for.
    pub(super) type_name: String,
    /// Its collation.
    pub(super) collation: u32,
}

/// The domain, if it is there.
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
pub(super) struct FoundFunction {
    /// What it returns.
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
}

/// The function of this name with this argument, if it is there. `to_regprocedure` would fail where this role may not look
/// into the schema.
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
               has_function_privilege(p.oid, 'EXECUTE') AS "is_allowed!", pg_get_userbyid(p.proowner)::text AS "owner!"
        FROM pg_proc p
        WHERE p.pronamespace = to_regnamespace('main_app') AND p.proname = $1::text
          AND oidvectortypes(p.proargtypes) = $2 AND NOT p.proretset"#,
        name,
        argument
    )
    .fetch_optional(database)
    .await
}

/// Whoever owns schema `retention`, and what they may do with the mapping.
#[derive(Debug, Clone)]
pub(super) struct Keeper {
    /// The owner.
    pub(super) owner: String,
    /// Whether they may read organizations.
    pub(super) reads_organizations: bool,
    /// Whether they may read and lock incidents.
    pub(super) locks_incidents: bool,
    /// Whether they may read payloads.
    pub(super) reads_payloads: bool,
}

/// The owner of the functions in schema `retention`.
pub(super) async fn keeper(database: &Database) -> sqlx::Result<Keeper> {
    sqlx::query_as!(
        Keeper,
        r#"-- attach.keeper
        SELECT pg_get_userbyid(p.proowner)::text AS "owner!",
               coalesce(may.look AND has_table_privilege(p.proowner, v.organizations, 'SELECT'), true) AS "reads_organizations!",
               coalesce(may.look AND has_table_privilege(p.proowner, v.incidents, 'SELECT')
                        AND has_any_column_privilege(p.proowner, v.incidents, 'UPDATE'), true) AS "locks_incidents!",
               coalesce(may.look AND has_table_privilege(p.proowner, v.payloads, 'SELECT'), true) AS "reads_payloads!"
        FROM pg_proc p
        CROSS JOIN LATERAL (
            SELECT has_schema_privilege(p.proowner, to_regnamespace('main_app'), 'USAGE') AS look) may
        -- Not by `to_regclass`, which would fail where this role may not look into the schema.
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

/// A foreign key to a table that loses rows, or to one that loses rows with it.
#[derive(Debug, Clone)]
pub(super) struct ForeignKey {
    /// The purged table at the beginning.
    pub(super) root: Oid,
    /// The table that refers.
    pub(super) child: Oid,
    /// Its name, quoted where needed, and never quoted.
    pub(super) child_name: String,
    /// The name as `attach.cascades` has it.
    pub(super) child_plain_name: String,
    /// The table that is referred to.
    pub(super) parent: Oid,
    /// The constraint's name, quoted where needed.
    pub(super) name: String,
    /// The constraint, as SQL.
    pub(super) definition: String,
    /// `c` cascade, `a` no action, `r` restrict, `n` set null, `d` set default.
    pub(super) on_delete: String,
}

/// Every foreign key to one of `tables`, and on from there as far as deletions cascade.
pub(super) async fn foreign_keys(
    database: &Database,
    tables: &[Oid],
) -> sqlx::Result<Vec<ForeignKey>> {
    sqlx::query_as!(
        ForeignKey,
        r#"-- attach.foreign_keys
        WITH RECURSIVE chain AS (
            SELECT c.confrelid AS root, c.oid, c.conrelid, c.confrelid, c.confdeltype
            FROM pg_constraint c WHERE c.contype = 'f' AND c.conparentid = 0 AND c.confrelid = ANY ($1)
            UNION
            SELECT h.root, c.oid, c.conrelid, c.confrelid, c.confdeltype
            FROM chain h JOIN pg_constraint c ON c.confrelid = h.conrelid
            WHERE h.confdeltype = 'c' AND c.contype = 'f' AND c.conparentid = 0
        )
        SELECT h.root AS "root!", h.conrelid AS "child!", format('%I.%I', n.nspname, t.relname) AS "child_name!",
               format('%s.%s', n.nspname, t.relname) AS "child_plain_name!", h.confrelid AS "parent!",
               quote_ident(c.conname) AS "name!", pg_get_constraintdef(c.oid) AS "definition!",
               h.confdeltype::text AS "on_delete!"
        FROM chain h JOIN pg_constraint c ON c.oid = h.oid
        JOIN pg_class t ON t.oid = h.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
        ORDER BY 3, 6"#,
        tables
    )
    .fetch_all(database)
    .await
}

/// Something of the main app's that runs when a row goes or is stamped.
#[derive(Debug, Clone)]
pub(super) struct Hook {
    /// Its table.
    pub(super) table: Oid,
    /// Its name, quoted where needed.
    pub(super) name: String,
    /// Whether it is a rule, which changes the statement itself.
    pub(super) is_rule: bool,
    /// Whether it runs for DELETE.
    pub(super) on_delete: bool,
    /// Whether it runs for UPDATE.
    pub(super) on_update: bool,
}

/// Every trigger and rule on one of `tables`, ours aside, that is not disabled.
pub(super) async fn hooks(database: &Database, tables: &[Oid]) -> sqlx::Result<Vec<Hook>> {
    sqlx::query_as!(
        Hook,
        r#"-- attach.hooks
        SELECT t.tgrelid AS "table!", quote_ident(t.tgname) AS "name!", false AS "is_rule!",
               t.tgtype & 8 <> 0 AS "on_delete!", t.tgtype & 16 <> 0 AS "on_update!"
        FROM pg_trigger t
        WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgrelid = ANY ($1)
          AND t.tgfoid IS DISTINCT FROM to_regproc('retention.note_rewritten_payload')
        UNION ALL
        SELECT r.ev_class, quote_ident(r.rulename), true, r.ev_type = '4', r.ev_type = '2'
        FROM pg_rewrite r WHERE r.ev_class = ANY ($1) AND r.ev_enabled <> 'D' AND r.ev_type IN ('2', '4')
        ORDER BY 2"#,
        tables
    )
    .fetch_all(database)
    .await
}

/// What stands between a statement and the table behind a view of the mapping.
#[derive(Debug, Clone)]
pub(super) struct ViewHook {
    /// The view.
    pub(super) view: String,
    /// Its name, quoted where needed.
    pub(super) name: String,
    /// Whether it is a rule; else a trigger.
    pub(super) is_rule: bool,
}

/// Every trigger on the views of the mapping, and every rule beside the one that makes a view of it.
pub(super) async fn view_hooks(database: &Database) -> sqlx::Result<Vec<ViewHook>> {
    sqlx::query_as!(
        ViewHook,
        r#"-- attach.view_hooks
        SELECT c.relname::text AS "view!", h.name AS "name!", h.is_rule AS "is_rule!"
        FROM pg_class c
        CROSS JOIN LATERAL (
            SELECT quote_ident(t.tgname) AS name, false AS is_rule FROM pg_trigger t WHERE t.tgrelid = c.oid
            UNION ALL
            SELECT quote_ident(r.rulename), true FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1') h
        WHERE c.relnamespace = to_regnamespace('main_app') AND c.relkind = 'v'
          AND c.relname = ANY ($1::text[]::name[])
        ORDER BY 1, 2"#,
        &view_names()
    )
    .fetch_all(database)
    .await
}

/// The valid indexes of `table`: the columns of each in order, and its condition.
pub(super) async fn indexes(
    database: &Database,
    table: Oid,
) -> sqlx::Result<Vec<(Vec<String>, Option<String>)>> {
    let found = sqlx::query!(
        r#"-- attach.indexes
        SELECT ARRAY (SELECT pg_get_indexdef(i.indexrelid, k, true)
                      FROM generate_series(1, i.indnkeyatts) k ORDER BY k) AS "columns!",
               pg_get_expr(i.indpred, i.indrelid) AS condition
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
        WHERE i.indrelid = $1 AND i.indisvalid AND m.amname = 'btree'"#,
        table
    )
    .fetch_all(database)
    .await?;
    Ok(found
        .into_iter()
        .map(|index| (index.columns, index.condition))
        .collect())
}

/// A trigger that notes payloads that are written again after a purge.
#[derive(Debug, Clone)]
pub(super) struct RewritingTrigger {
    /// Its table.
    pub(super) table: Oid,
    /// Its name, quoted where needed.
    pub(super) name: String,
    /// Whether it is enabled as it has to be.
    pub(super) is_always: bool,
}

/// The triggers of ours on `tables`.
pub(super) async fn rewriting_triggers(
    database: &Database,
    tables: &[Oid],
) -> sqlx::Result<Vec<RewritingTrigger>> {
    sqlx::query_as!(
        RewritingTrigger,
        r#"-- attach.rewriting_triggers
        SELECT t.tgrelid AS "table!", quote_ident(t.tgname) AS "name!", t.tgenabled = 'A' AS "is_always!"
        FROM pg_trigger t
        WHERE t.tgrelid = ANY ($1) AND t.tgfoid = to_regproc('retention.note_rewritten_payload')
          AND t.tgtype & 21 = 21 -- for each row, INSERT and UPDATE
        ORDER BY t.tgname"#,
        tables
    )
    .fetch_all(database)
    .await
}
