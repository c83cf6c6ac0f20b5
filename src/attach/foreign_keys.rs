//! Foreign keys to the tables that lose rows: what goes along must be known, and nothing may stand in the way.

use sqlx::postgres::types::Oid;

use super::{
    report::Object,
    tables::{PurgedTables, object_of},
    views::CheckedView,
};
use crate::postgres::{Cascade, Database};

/// A foreign key to a table that loses rows, or to one that loses rows with it.
#[derive(Debug, Clone)]
struct ForeignKey {
    /// The purged table at the beginning.
    root: Oid,
    /// The table that refers.
    child: Oid,
    /// Its name, quoted where needed, and never quoted.
    child_name: String,
    /// The name as `attach.cascades` has it.
    child_plain_name: String,
    /// The table that is referred to.
    parent: Oid,
    /// The constraint's name, quoted where needed.
    name: String,
    /// The constraint, as SQL.
    definition: String,
    /// `c` cascade, `a` no action, `r` restrict, `n` set null, `d` set default.
    on_delete: String,
    /// The columns that refer, and those that are referred to, quoted where needed.
    columns: Vec<String>,
    references: Vec<String>,
    /// Whether a column that refers may not be NULL.
    is_required: bool,
    /// Whether somebody has disabled what carries it out.
    is_disabled: bool,
}

/// Every foreign key to one of `tables`, and on from there as far as deletions cascade.
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

/// Foreign keys to the tables that lose rows: what goes along must be known, and nothing may stand in the way. Returns what
/// goes along by the operator's leave.
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
                format!("the foreign key {} of {} is disabled: its rows would stay behind", key.name, key.child_plain_name),
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
                format!("rows of {}, which is mapped itself, would go along, by the foreign key {}", key.child_plain_name, key.name),
                "drop the foreign key, or let it SET NULL: rows of a mapped table go by their own rule only",
            ),
            _ => tell_of_foreign_key(object, &key, is_flags),
        }
    }
    Ok(cascades)
}

/// Whether it is the foreign key by which flags go: from what is mapped as `check_id` to what is mapped as the check's `id`.
fn is_key_of_flags(key: &ForeignKey, tables: &PurgedTables, views: &[CheckedView<'_>]) -> bool {
    let column = |view: &str, column: &str| {
        let checked = views.iter().find(|checked| checked.view.name == view);
        checked.and_then(|checked| checked.columns.get(column).cloned())
    };
    tables.checks.as_ref().map(|t| t.oid) == Some(key.parent)
        && tables.flags.as_ref().map(|t| t.oid) == Some(key.child)
        // A column that is no plain one is refused as such.
        && column("workflow_drift_flags", "check_id").is_none_or(|c| key.columns == [c])
        && column("drift_checks", "id").is_none_or(|c| key.references == [c])
}

fn tell_of_foreign_key(object: &mut Object, key: &ForeignKey, is_flags: bool) {
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
            format!("rows of {table} would go along, by the foreign key {name}"),
            format!(
                "if they may go: attach.cascades = [\"{table}\"]; if not: {instead}"
            ),
        ),
        "n" | "d" if key.is_required => object.refuse(
            format!("rows of {table} forbid the deletion: the foreign key {name} would empty a column that is NOT NULL"),
            instead,
        ),
        "n" | "d" if !is_flags => object.warn(
            format!("rows of {table} lose their reference, by the foreign key {name}"),
            "nothing to do, if that is wanted",
        ),
        _ if is_flags => object.refuse(
            format!(
                "flags do not go with their check: the foreign key {name} of {table} has no CASCADE"
            ),
            again("CASCADE"),
        ),
        _ => object.refuse(
            format!("rows of {table} forbid the deletion, by the foreign key {name}"),
            instead,
        ),
    }
}

/// The constraint with another action on deletion, and else as it is: `FOREIGN KEY … ON UPDATE … ON DELETE … DEFERRABLE …`.
fn with_action(definition: &str, action: &str) -> String {
    // Names stand before the last parenthesis, but for a list of columns after SET NULL.
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

/// Flags go with their checks by a foreign key, or there are none.
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
            "the view reads more than one table: flags are counted in the one that goes with the checks",
            "select from that table alone",
        );
    }
    let Some(flags) = &tables.flags else {
        return Ok(());
    };
    if let Some(kind) = flags.kind_in_words() {
        object.refuse(
            format!(
                "{} is {kind}: flags are counted in an ordinary table",
                flags.plain_name
            ),
            "map a table that is none, or no flags at all",
        );
    }
    if !has_key {
        object.refuse(
            format!("{} has no foreign key to {}: flags would stay behind", flags.plain_name, checks.plain_name),
            format!(
                "ALTER TABLE {} ADD FOREIGN KEY (check_id) REFERENCES {} (id) ON DELETE CASCADE, with your columns' names",
                flags.name, checks.name
            ),
        );
    }
    Ok(())
}
