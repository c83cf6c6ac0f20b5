//! Checks foreign keys to the purged tables: every cascade must be acknowledged, and no key may prevent a deletion.

use sqlx::postgres::types::Oid;

use super::{
    report::Object,
    tables::{PurgedTables, object_of},
    views::CheckedView,
};
use crate::postgres::{Cascade, Database};

/// A foreign key to a purged table, or to a table that loses rows by its cascade.
#[derive(Debug, Clone)]
struct ForeignKey {
    /// The purged table at the start of the chain.
    root: Oid,
    /// The referencing table.
    child: Oid,
    /// Its name, quoted where needed.
    child_name: String,
    /// Its name, never quoted, as in `attach.cascades`.
    child_plain_name: String,
    /// The referenced table.
    parent: Oid,
    /// The constraint's name, quoted where needed.
    name: String,
    /// The constraint, as SQL.
    definition: String,
    /// `c` cascade, `a` no action, `r` restrict, `n` set null, `d` set default.
    on_delete: String,
    /// The referencing and the referenced columns, quoted where needed.
    columns: Vec<String>,
    references: Vec<String>,
    /// Whether a referencing column is NOT NULL.
    is_required: bool,
    /// Whether the triggers that enforce the key are disabled.
    is_disabled: bool,
}

/// Every foreign key to one of `tables`, and every further key that the cascade reaches.
async fn foreign_keys(database: &Database, tables: &[Oid]) -> sqlx::Result<Vec<ForeignKey>> {
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
               h.confdeltype::text AS "on_delete!",
               ARRAY (SELECT quote_ident(a.attname) FROM unnest(c.conkey) WITH ORDINALITY k (attnum, n)
                      JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum ORDER BY k.n) AS "columns!",
               ARRAY (SELECT quote_ident(a.attname) FROM unnest(c.confkey) WITH ORDINALITY k (attnum, n)
                      JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum ORDER BY k.n) AS "references!",
               EXISTS (SELECT FROM pg_attribute a
                       WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey) AND a.attnotnull) AS "is_required!",
               EXISTS (SELECT FROM pg_trigger g
                       WHERE g.tgconstraint = c.oid AND g.tgrelid = c.confrelid
                         AND g.tgenabled NOT IN ('O', 'A')) AS "is_disabled!"
        FROM chain h JOIN pg_constraint c ON c.oid = h.oid
        JOIN pg_class t ON t.oid = h.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
        ORDER BY 3, 6"#,
        tables
    )
    .fetch_all(database)
    .await
}

/// Checks the foreign keys to the purged tables. Returns the cascades that the operator has acknowledged.
pub(super) async fn check(
    database: &Database,
    tables: &PurgedTables,
    allowed: &[String],
    views: &mut [CheckedView<'_>],
) -> sqlx::Result<Vec<Cascade>> {
    let mut roots: Vec<(Oid, &'static str)> = Vec::new();
    roots.extend(
        tables
            .checks
            .iter()
            .map(|table| (table.oid, "drift_checks")),
    );
    roots.extend(
        tables
            .payload_tables()
            .map(|table| (table.oid, "incident_payloads")),
    );
    roots.extend(
        tables
            .approvals
            .iter()
            .map(|table| (table.oid, "approvals")),
    );
    let oids: Vec<_> = roots.iter().map(|(oid, _)| *oid).collect();
    let mut cascades: Vec<Cascade> = Vec::new();
    for key in foreign_keys(database, &oids).await? {
        let Some((_, dataset)) = roots.iter().find(|(oid, _)| *oid == key.root) else {
            continue;
        };
        let is_flags = is_key_of_flags(&key, tables, views);
        let is_mapped = views
            .iter()
            .any(|checked| checked.tables.iter().any(|table| table.oid == key.child));
        let Some(object) = object_of(views, dataset) else {
            continue;
        };
        let is_acknowledged = !is_mapped && allowed.contains(&key.child_plain_name);
        if key.is_disabled {
            object.refuse(
                format!("the foreign key {} of {} is disabled: its rows would be left behind", key.name, key.child_plain_name),
                "enable the triggers of the referenced table: ALTER TABLE … ENABLE TRIGGER ALL, as a superuser",
            );
        }
        match key.on_delete.as_str() {
            "c" if is_flags => {}
            "c" if is_acknowledged => {
                if !cascades
                    .iter()
                    .any(|c| c.oid == key.child && c.dataset_table == *dataset)
                {
                    cascades.push(Cascade {
                        dataset_table: dataset,
                        name: key.child_plain_name.clone(),
                        oid: key.child,
                    });
                }
            }
            "c" if is_mapped => object.refuse(
                format!("rows of {}, which is mapped itself, would also be deleted through the foreign key {}", key.child_plain_name, key.name),
                "drop the foreign key, or change it to SET NULL: only their own rule may delete rows of a mapped table",
            ),
            _ => report_foreign_key(object, &key, is_flags),
        }
    }
    Ok(cascades)
}

/// Whether the key deletes flags with their check: from the column mapped as `check_id` to the column mapped as the
/// check's `id`.
fn is_key_of_flags(key: &ForeignKey, tables: &PurgedTables, views: &[CheckedView<'_>]) -> bool {
    let column = |view: &str, column: &str| {
        let checked = views.iter().find(|checked| checked.view.name == view);
        checked.and_then(|checked| checked.columns.get(column).cloned())
    };
    tables.checks.as_ref().map(|t| t.oid) == Some(key.parent)
        && tables.flags.as_ref().map(|t| t.oid) == Some(key.child)
        // A column that is not plain is refused elsewhere.
        && column("workflow_drift_flags", "check_id").is_none_or(|c| key.columns == [c])
        && column("drift_checks", "id").is_none_or(|c| key.references == [c])
}

fn report_foreign_key(object: &mut Object, key: &ForeignKey, is_flags: bool) {
    let (table, name) = (&key.child_plain_name, &key.name);
    let again = |action: &str| {
        format!(
            "ALTER TABLE {} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {}",
            key.child_name,
            with_action(&key.definition, action)
        )
    };
    let instead = if key.is_required {
        format!(
            "ALTER TABLE {} DROP CONSTRAINT {name} -- its column is NOT NULL: it keeps the id as it is",
            key.child_name
        )
    } else {
        again("SET NULL")
    };
    match key.on_delete.as_str() {
        "c" => object.refuse(
            format!("rows of {table} would also be deleted through the foreign key {name}"),
            format!(
                "if they may be deleted: attach.cascades = [\"{table}\"]; if not: {instead}"
            ),
        ),
        "n" | "d" if key.is_required => object.refuse(
            format!("rows of {table} prevent the deletion: the foreign key {name} would set a NOT NULL column to NULL"),
            instead,
        ),
        "n" | "d" if !is_flags => object.warn(
            format!("rows of {table} lose their reference through the foreign key {name}"),
            "nothing to do if this is intended",
        ),
        _ if is_flags => object.refuse(
            format!(
                "flags are not deleted with their check: the foreign key {name} of {table} has no CASCADE"
            ),
            again("CASCADE"),
        ),
        _ => object.refuse(
            format!("rows of {table} prevent the deletion through the foreign key {name}"),
            instead,
        ),
    }
}

/// The constraint with another action on deletion and otherwise unchanged: `FOREIGN KEY … ON UPDATE … ON DELETE …
/// DEFERRABLE …`.
fn with_action(definition: &str, action: &str) -> String {
    // All names come before the last parenthesis, except a list of columns after SET NULL.
    let end = [" ON DELETE ", " DEFERRABLE", " NOT VALID"]
        .iter()
        .filter_map(|after| definition.rfind(after))
        .min()
        .unwrap_or(definition.len());
    let rest = [" DEFERRABLE", " NOT VALID"]
        .iter()
        .filter_map(|after| definition.rfind(after))
        .min()
        .map_or("", |at| &definition[at..]);
    format!("{} ON DELETE {action}{rest}", &definition[..end])
}

/// Checks that a foreign key deletes flags with their checks, unless there are no flags.
pub(super) async fn check_flags(
    database: &Database,
    tables: &PurgedTables,
    views: &mut [CheckedView<'_>],
) -> sqlx::Result<()> {
    let Some(checks) = &tables.checks else {
        return Ok(());
    };
    let keys = foreign_keys(database, &[checks.oid]).await?;
    let has_key = keys.iter().any(|key| is_key_of_flags(key, tables, views));
    let Some(object) = object_of(views, "workflow_drift_flags") else {
        return Ok(());
    };
    if object
        .maps_to
        .as_ref()
        .is_some_and(|name| name.contains(", "))
    {
        object.refuse(
            "the view reads more than one table: flags are counted in the table that the checks' cascade deletes from",
            "select from that table alone",
        );
    }
    let Some(flags) = &tables.flags else {
        return Ok(());
    };
    if let Some(kind) = flags.kind_name() {
        object.refuse(
            format!(
                "{} is {kind}: flags are counted in an ordinary table",
                flags.plain_name
            ),
            "map an ordinary table, or no flags at all",
        );
    }
    if !has_key {
        object.refuse(
            format!("{} has no foreign key to {}: flags would be left behind", flags.plain_name, checks.plain_name),
            format!(
                "ALTER TABLE {} ADD FOREIGN KEY (check_id) REFERENCES {} (id) ON DELETE CASCADE, with your columns' names",
                flags.name, checks.name
            ),
        );
    }
    Ok(())
}
