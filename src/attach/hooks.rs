//! Checks the main app's triggers and rules that run when a row is purged, and our trigger that notes rewritten
//! payloads.

use sqlx::postgres::types::Oid;

use super::{
    catalog::{Source, view_names},
    tables::{PurgedTables, object_of},
    views::CheckedView,
};
use crate::postgres::Database;

/// A trigger or rule of the main app that runs when a row is deleted or stamped.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one field per column of the catalogue query"
)]
struct Hook {
    /// The table.
    table: Oid,
    /// Its name, quoted where needed.
    name: String,
    /// Whether it is a rule, which rewrites the statement.
    is_rule: bool,
    /// Whether it runs for DELETE.
    on_delete: bool,
    /// Whether it runs for UPDATE.
    on_update: bool,
    /// Whether it runs before the deletion and can prevent it.
    is_before: bool,
}

/// Every enabled trigger and rule on `tables`, except ours.
async fn hooks(database: &Database, tables: &[Oid]) -> sqlx::Result<Vec<Hook>> {
    sqlx::query_as!(
        Hook,
        r#"-- attach.hooks
        SELECT t.tgrelid AS "table!", quote_ident(t.tgname) AS "name!", false AS "is_rule!",
               t.tgtype & 8 <> 0 AS "on_delete!", t.tgtype & 16 <> 0 AS "on_update!",
               t.tgtype & 3 = 3 AS "is_before!"
        FROM pg_trigger t
        WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgrelid = ANY ($1)
          AND t.tgfoid IS DISTINCT FROM to_regproc('retention.note_rewritten_payload')
        UNION ALL
        SELECT r.ev_class, quote_ident(r.rulename), true, r.ev_type = '4', r.ev_type = '2', false
        FROM pg_rewrite r WHERE r.ev_class = ANY ($1) AND r.ev_enabled <> 'D' AND r.ev_type IN ('2', '4')
        ORDER BY 2"#,
        tables
    )
    .fetch_all(database)
    .await
}

/// A trigger or rule between a statement on a view of the mapping and the table behind it.
#[derive(Debug, Clone)]
struct ViewHook {
    /// The view.
    view: String,
    /// Its name, quoted where needed.
    name: String,
    /// Whether it is a rule. Otherwise it is a trigger.
    is_rule: bool,
}

/// Every trigger on the views of the mapping, and every rule except the one that defines the view.
async fn view_hooks(database: &Database) -> sqlx::Result<Vec<ViewHook>> {
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

/// Our trigger that notes payloads that are written again after a purge.
#[derive(Debug, Clone)]
struct RewritingTrigger {
    /// The table.
    table: Oid,
    /// Its name, quoted where needed.
    name: String,
    /// Whether it is ENABLE ALWAYS.
    is_always: bool,
    /// Whether its argument is a column of the table.
    names_column: bool,
}

/// Our triggers on `tables`.
async fn rewriting_triggers(
    database: &Database,
    tables: &[Oid],
) -> sqlx::Result<Vec<RewritingTrigger>> {
    sqlx::query_as!(
        RewritingTrigger,
        r#"-- attach.rewriting_triggers
        SELECT t.tgrelid AS "table!", quote_ident(t.tgname) AS "name!", t.tgenabled = 'A' AS "is_always!",
               -- It holds the arguments as C strings.
               EXISTS (SELECT FROM pg_attribute a
                       WHERE a.attrelid = t.tgrelid AND a.attnum > 0 AND NOT a.attisdropped
                         AND convert_to(a.attname::text, 'UTF8') || decode('00', 'hex') = t.tgargs) AS "names_column!"
        FROM pg_trigger t
        WHERE t.tgrelid = ANY ($1) AND t.tgfoid = to_regproc('retention.note_rewritten_payload')
          AND t.tgtype & 23 = 21 -- for each row, after INSERT and UPDATE
        ORDER BY t.tgname"#,
        tables
    )
    .fetch_all(database)
    .await
}

/// Checks the main app's triggers and rules that run for each purged row.
pub(super) async fn check(
    database: &Database,
    tables: &PurgedTables,
    views: &mut [CheckedView<'_>],
) -> sqlx::Result<()> {
    // The view, its table, and whether its rows are deleted or updated.
    let mut of_view: Vec<(&str, &Source, bool)> = Vec::new();
    for (view, table, is_deleted) in [
        ("drift_checks", &tables.checks, true),
        ("workflow_drift_flags", &tables.flags, true),
        ("approvals", &tables.approvals, true),
        ("incidents", &tables.incidents, false),
    ] {
        of_view.extend(table.iter().map(|table| (view, table, is_deleted)));
    }
    of_view.extend(
        tables
            .payload_tables()
            .map(|table| ("incident_payloads", table, true)),
    );
    check_view_hooks(database, views).await?;
    let oids: Vec<_> = of_view.iter().map(|(_, table, _)| table.oid).collect();
    let hooks = hooks(database, &oids).await?;
    for (view, table, is_deleted) in of_view {
        let Some(object) = object_of(views, view) else {
            continue;
        };
        let runs = |hook: &&Hook| {
            hook.table == table.oid
                && if is_deleted {
                    hook.on_delete
                } else {
                    hook.on_update
                }
        };
        for hook in hooks.iter().filter(runs) {
            let (name, table) = (&hook.name, &table.plain_name);
            if hook.is_rule {
                object.refuse(
                    format!("the rule {name} on {table} rewrites the statements of the purge"),
                    "write it as a trigger, or drop it",
                );
            } else if view == "workflow_drift_flags" && hook.is_before {
                object.refuse(
                    format!("the trigger {name} on {table} runs before a flag is deleted with its check, and could keep it"),
                    "make it an AFTER trigger",
                );
            } else {
                object.warn(
                    format!("the trigger {name} on {table} runs for every row that is purged"),
                    "check that it does not prevent the deletion, and changes nothing that must stay",
                );
            }
        }
    }
    Ok(())
}

/// Checks that no trigger or rule intercepts statements on a purge view.
async fn check_view_hooks(database: &Database, views: &mut [CheckedView<'_>]) -> sqlx::Result<()> {
    for hook in view_hooks(database).await? {
        let mut purge_views = views.iter_mut().filter(|v| v.view.purge.is_some());
        let Some(checked) = purge_views.find(|v| v.view.name == hook.view) else {
            continue; // the view is only read
        };
        let (view, name) = (&hook.view, &hook.name);
        let kind = if hook.is_rule { "rule" } else { "trigger" };
        checked.object.refuse(
            format!("the {kind} {name} on main_app.{view} intercepts the purge's statements on the table"),
            format!("DROP {} {name} ON main_app.{view}", kind.to_uppercase()),
        );
    }
    Ok(())
}

/// Checks that each table with payloads has our trigger, which notes payloads that are written again after a purge.
pub(super) async fn check_rewriting(
    database: &Database,
    tables: &PurgedTables,
    views: &mut [CheckedView<'_>],
) -> sqlx::Result<Vec<String>> {
    let mut unnoticed = Vec::new();
    let oids: Vec<_> = tables.payloads.iter().map(|table| table.oid).collect();
    let triggers = rewriting_triggers(database, &oids).await?;
    let Some(object) = object_of(views, "incident_payloads") else {
        return Ok(unnoticed);
    };
    for table in &tables.payloads {
        let name = &table.name;
        let of_table: Vec<_> = triggers.iter().filter(|t| t.table == table.oid).collect();
        if let Some(wrong) = of_table.iter().find(|trigger| !trigger.names_column) {
            object.refuse(
                format!("the argument of the trigger {} is not a column of {}: every write would fail", wrong.name, table.plain_name),
                format!(
                    "DROP TRIGGER {} ON {name}, and create it with the column that holds the incident's id as its argument",
                    wrong.name
                ),
            );
        }
        if of_table.iter().any(|trigger| trigger.is_always) {
            continue;
        }
        unnoticed.push(table.plain_name.clone());
        let enable = |trigger: &str| format!("ALTER TABLE {name} ENABLE ALWAYS TRIGGER {trigger}");
        if let [trigger, ..] = of_table.as_slice() {
            object.warn(
                format!(
                    "the trigger on {} that notes rewritten payloads is not ENABLE ALWAYS",
                    table.plain_name
                ),
                enable(&trigger.name),
            );
        } else {
            object.warn(
                format!("no trigger on {} notes payloads that are written again after a purge", table.plain_name),
                format!(
                    "CREATE TRIGGER note_rewritten_payload AFTER INSERT OR UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION \
                     retention.note_rewritten_payload('the column with the incident''s id'); {}",
                    enable("note_rewritten_payload")
                ),
            );
        }
    }
    Ok(unnoticed)
}
