//! What stands on the tables behind the mapping: foreign keys, triggers, indexes.

use sqlx::postgres::types::Oid;

use super::{
    catalog::{self, ForeignKey, Hook, Source},
    report::Object,
    views::CheckedView,
};
use crate::postgres::{Cascade, Database};

/// The tables behind the views that lose rows, or parts of them.
pub(super) struct PurgedTables {
    pub(super) checks: Option<Source>,
    pub(super) flags: Option<Source>,
    pub(super) incidents: Option<Source>,
    /// Where payloads are stored: tables of their own, and the incidents' where they stand in columns of it.
    pub(super) payloads: Vec<Source>,
    pub(super) approvals: Option<Source>,
}

impl PurgedTables {
    pub(super) fn of(views: &[CheckedView<'_>]) -> Self {
        let all = |name: &str| -> Vec<Source> {
            let view = views.iter().find(|checked| checked.view.name == name);
            view.map_or_else(Vec::new, |v| v.tables.iter().copied().cloned().collect())
        };
        let one = |name: &str| match all(name).as_slice() {
            [table] => Some(table.clone()),
            _ => None,
        };
        Self {
            checks: one("drift_checks"),
            flags: one("workflow_drift_flags"),
            incidents: one("incidents"),
            payloads: all("incident_payloads"),
            approvals: one("approvals"),
        }
    }

    /// Payloads in tables of their own: there rows are deleted.
    fn payload_tables(&self) -> impl Iterator<Item = &Source> {
        let incidents = self.incidents.as_ref().map(|table| table.oid);
        self.payloads
            .iter()
            .filter(move |table| Some(table.oid) != incidents)
    }

    /// Every table that loses rows or payloads.
    pub(super) fn oids(&self) -> Vec<Oid> {
        let single = [&self.checks, &self.flags, &self.approvals];
        let single = single.into_iter().flatten();
        single
            .chain(&self.payloads)
            .map(|table| table.oid)
            .collect()
    }
}

/// Foreign keys to the tables that lose rows: what goes along must be known, and nothing may stand in the way. Returns what
/// goes along by the operator's leave.
pub(super) async fn check_foreign_keys(
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
    for key in catalog::foreign_keys(database, &oids).await? {
        let Some((_, dataset)) = roots.iter().find(|(oid, _)| *oid == key.root) else {
            continue;
        };
        let is_flags = tables.checks.as_ref().map(|t| t.oid) == Some(key.parent)
            && tables.flags.as_ref().map(|t| t.oid) == Some(key.child);
        let Some(object) = object_of(views, dataset) else {
            continue;
        };
        let is_acknowledged = allowed.contains(&key.child_plain_name);
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
            _ => tell_of_foreign_key(object, &key, is_flags),
        }
    }
    Ok(cascades)
}

fn object_of<'a>(views: &'a mut [CheckedView<'_>], name: &str) -> Option<&'a mut Object> {
    let checked = views.iter_mut().find(|checked| checked.view.name == name);
    checked.map(|checked| &mut checked.object)
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
    match key.on_delete.as_str() {
        "c" => object.refuse(
            format!("rows of {table} would go along, by the foreign key {name}"),
            format!(
                "if they may go: attach.cascades = [\"{table}\"]; if not: {}",
                again("SET NULL")
            ),
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
            again("SET NULL"),
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
    let (Some(checks), Some(object)) = (&tables.checks, object_of(views, "workflow_drift_flags"))
    else {
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
    let keys = catalog::foreign_keys(database, &[checks.oid]).await?;
    if !keys
        .iter()
        .any(|key| key.child == flags.oid && key.parent == checks.oid)
    {
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

/// The main app's own triggers and rules, which run on each row that goes.
pub(super) async fn check_hooks(
    database: &Database,
    tables: &PurgedTables,
    views: &mut [CheckedView<'_>],
) -> sqlx::Result<()> {
    // The view, its table, and whether rows of it are deleted or updated.
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
    let hooks = catalog::hooks(database, &oids).await?;
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
                    format!("the rule {name} on {table} rewrites what the purge does"),
                    "write it as a trigger, or drop it",
                );
            } else {
                object.warn(
                    format!("the trigger {name} on {table} runs for every row that is purged"),
                    "check that it lets rows go, and changes nothing that must stay",
                );
            }
        }
    }
    Ok(())
}

/// What a statement through a purge view does, it does to the table, and nothing stands between.
async fn check_view_hooks(database: &Database, views: &mut [CheckedView<'_>]) -> sqlx::Result<()> {
    for hook in catalog::view_hooks(database).await? {
        let mut purge_views = views.iter_mut().filter(|v| v.view.purge.is_some());
        let Some(checked) = purge_views.find(|v| v.view.name == hook.view) else {
            continue; // it is only read
        };
        let (view, name) = (&hook.view, &hook.name);
        let kind = if hook.is_rule { "rule" } else { "trigger" };
        checked.object.refuse(
            format!("the {kind} {name} on main_app.{view} stands between the purge and the table"),
            format!("DROP {} {name} ON main_app.{view}", kind.to_uppercase()),
        );
    }
    Ok(())
}

/// What the purge finds rows by.
pub(super) async fn check_indexes(
    database: &Database,
    views: &mut [CheckedView<'_>],
) -> sqlx::Result<()> {
    for checked in views {
        let [table] = checked.tables.as_slice() else {
            continue;
        };
        let indexes = catalog::indexes(database, table.oid).await?;
        for wanted in checked.view.indexes {
            let columns: Option<Vec<String>> = wanted
                .iter()
                .map(|column| checked.columns.get(column).cloned())
                .collect();
            let Some(columns) = columns else {
                continue; // something else is wrong with it
            };
            let serves = |(index, condition): &(Vec<String>, Option<String>)| {
                let begins = index.len() >= columns.len()
                    && index
                        .iter()
                        .zip(&columns)
                        .all(|(has, wants)| bare(has) == bare(wants));
                begins
                    && condition
                        .as_ref()
                        .is_none_or(|c| c.contains("IS NULL") && checked.view.name == "incidents")
            };
            if !indexes.iter().any(serves) {
                let condition = match (
                    checked.view.name,
                    checked.columns.get("payload_purged_at"),
                    wanted.len(),
                ) {
                    ("incidents", Some(stamp), 2) => format!(" WHERE {stamp} IS NULL"),
                    _ => String::new(),
                };
                let key = checked.columns.get("id").filter(|_| wanted.len() == 2);
                let all: Vec<_> = columns.iter().chain(key).cloned().collect();
                checked.object.warn(
                    format!(
                        "no index on {} ({}): rows are found by reading the table",
                        table.plain_name,
                        columns.join(", ")
                    ),
                    format!(
                        "CREATE INDEX CONCURRENTLY ON {} ({}){condition}",
                        table.name,
                        all.join(", ")
                    ),
                );
            }
        }
    }
    Ok(())
}

/// An expression with and without its parentheses is the same column.
fn bare(column: &str) -> &str {
    column.trim_start_matches('(').trim_end_matches(')')
}

/// Where payloads are stored, a trigger of ours tells which were written again after a purge.
pub(super) async fn check_rewriting(
    database: &Database,
    tables: &PurgedTables,
    views: &mut [CheckedView<'_>],
) -> sqlx::Result<Vec<String>> {
    let mut unnoticed = Vec::new();
    let oids: Vec<_> = tables.payloads.iter().map(|table| table.oid).collect();
    let triggers = catalog::rewriting_triggers(database, &oids).await?;
    let Some(object) = object_of(views, "incident_payloads") else {
        return Ok(unnoticed);
    };
    for table in &tables.payloads {
        let name = &table.name;
        let of_table: Vec<_> = triggers.iter().filter(|t| t.table == table.oid).collect();
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
