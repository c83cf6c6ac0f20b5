//! All that a database holds, as text to compare: every row of every table, and what the catalogue says of every object.
//! Nothing in it depends on transaction ids, statistics or the time.

use sqlx::{AssertSqlSafe, PgConnection};

use super::TestDatabase;

/// What the catalogue says, one line an object. `%SCHEMAS%` is the condition on `n`, the object's namespace.
const CATALOGUE: &str = r"
    WITH class AS (
        SELECT c.*, format('%I.%I', n.nspname, c.relname) AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE %SCHEMAS%
    ), lines (line) AS (
        SELECT concat_ws(' | ', 'schema', n.nspname, pg_get_userbyid(n.nspowner), n.nspacl, obj_description(n.oid, 'pg_namespace'))
        FROM pg_namespace n WHERE %SCHEMAS%
      UNION ALL
        SELECT concat_ws(' | ', 'class', name, oid, relkind, relfilenode, reltablespace, pg_get_userbyid(relowner), relacl,
                         relpersistence, relrowsecurity, relforcerowsecurity, relreplident, reloptions,
                         pg_get_expr(relpartbound, oid), obj_description(oid, 'pg_class'),
                         CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END)
        FROM class
      UNION ALL
        SELECT concat_ws(' | ', 'column', c.name, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                         a.attidentity, a.attgenerated, a.attcollation, a.attstorage, a.attacl, a.attoptions,
                         a.attisdropped, a.attislocal, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum))
        FROM class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
      UNION ALL
        SELECT concat_ws(' | ', 'function', p.oid, p.proname, pg_get_userbyid(p.proowner), p.proacl,
                         CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END)
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE %SCHEMAS%
      UNION ALL
        SELECT concat_ws(' | ', 'type', t.oid, t.typname, t.typtype, pg_get_userbyid(t.typowner), t.typacl, t.typnotnull,
                         format_type(t.typbasetype, t.typtypmod), t.typcollation, t.typdefault,
                         (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
        FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE %SCHEMAS%
      UNION ALL
        SELECT concat_ws(' | ', 'constraint', k.oid, k.conname, k.conrelid::regclass, k.convalidated, pg_get_constraintdef(k.oid))
        FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace WHERE %SCHEMAS%
      UNION ALL
        SELECT concat_ws(' | ', 'trigger', t.oid, c.name, t.tgenabled, pg_get_triggerdef(t.oid))
        FROM class c JOIN pg_trigger t ON t.tgrelid = c.oid
      UNION ALL
        SELECT concat_ws(' | ', 'index', i.indexrelid, c.name, i.indisvalid, i.indisready, i.indisclustered, i.indisreplident,
                         pg_get_indexdef(i.indexrelid))
        FROM class c JOIN pg_index i ON i.indrelid = c.oid
      UNION ALL
        SELECT concat_ws(' | ', 'rule', c.name, r.ev_enabled, pg_get_ruledef(r.oid))
        FROM class c JOIN pg_rewrite r ON r.ev_class = c.oid
      UNION ALL
        SELECT concat_ws(' | ', 'policy', c.name, p.polname, p.polcmd, p.polpermissive, p.polroles,
                         pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
        FROM class c JOIN pg_policy p ON p.polrelid = c.oid
      UNION ALL
        SELECT concat_ws(' | ', 'extension', e.extname, e.extversion, n.nspname)
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE %SCHEMAS%
      UNION ALL
        SELECT concat_ws(' | ', 'setting', s.setrole, s.setconfig) FROM pg_db_role_setting s
        WHERE s.setdatabase = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      UNION ALL
        SELECT concat_ws(' | ', 'event trigger', e.evtname, e.evtevent, e.evtenabled, e.evtfoid::regproc) FROM pg_event_trigger e
    )
    SELECT coalesce(array_agg(line ORDER BY line), '{}') FROM lines";

/// How the rows of each table are read as text. A sequence logs ahead of its value, which says nothing.
const WITH_ROWS: &str = "
    SELECT coalesce(array_agg(format(CASE c.relkind WHEN 'S' THEN 'SELECT concat_ws('','', last_value, is_called) AS line FROM %1$I.%2$I t'
                                                    ELSE 'SELECT t::text AS line FROM %1$I.%2$I t' END,
                                     n.nspname, c.relname)
                              ORDER BY n.nspname, c.relname), '{}')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm', 'S') AND %SCHEMAS%";

/// Everything in the database.
pub async fn of(db: &TestDatabase) -> Vec<String> {
    outside(db, &[]).await
}

/// Everything but what is in these schemas.
pub async fn outside(db: &TestDatabase, schemas: &[&str]) -> Vec<String> {
    let without: Vec<_> = schemas.iter().map(|schema| format!("'{schema}'")).collect();
    let others = match without.as_slice() {
        [] => String::new(),
        names => format!(" AND n.nspname NOT IN ({})", names.join(", ")),
    };
    let condition = format!("n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'{others}");
    let within = |sql: &str| sql.replace("%SCHEMAS%", &condition);
    let mut tx = db.pool.begin().await.unwrap();
    // What depends on the search path is written with its schema.
    sqlx::raw_sql("SET LOCAL search_path = pg_catalog; SET LOCAL timezone = 'UTC'")
        .execute(&mut *tx)
        .await
        .unwrap();
    let mut lines = texts(&mut tx, within(CATALOGUE)).await;
    for select in texts(&mut tx, within(WITH_ROWS)).await {
        let digest = format!(
            "SELECT ARRAY[concat_ws(' ', count(*), md5(string_agg(line, E'\\n' ORDER BY line)))] FROM ({select}) rows"
        );
        lines.push(format!("{select}: {}", texts(&mut tx, digest).await[0]));
    }
    lines
}

#[allow(clippy::disallowed_methods, reason = "assertions use SQL of their own")]
async fn texts(tx: &mut PgConnection, sql: String) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(tx)
        .await
        .unwrap()
}

/// Fails unless nothing has changed since `before`, and names what has.
#[track_caller]
pub fn assert_same(before: &[String], after: &[String], what: &str) {
    let lost: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(
        lost.is_empty() && new.is_empty() && before.len() == after.len(),
        "{what} changed the database\nlost: {lost:#?}\nnew: {new:#?}"
    );
}
