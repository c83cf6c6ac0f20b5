//! The purged tables behind the mapping, and the indexes by which the purge finds their rows.

use sqlx::postgres::types::Oid;

use super::{
    catalog::{self, Index, Source},
    report::Object,
    views::CheckedView,
};
use crate::postgres::Database;

/// The tables that lose rows or payloads.
pub(super) struct PurgedTables {
    pub(super) checks: Option<Source>,
    pub(super) flags: Option<Source>,
    pub(super) incidents: Option<Source>,
    /// The tables that hold payloads: separate tables, and the incidents' table if payloads are columns of it.
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
            payloads: all("incident_payloads")
                .into_iter()
                .filter(|table| !is_read_by_other_view(views, table))
                .collect(),
            approvals: one("approvals"),
        }
    }

    /// The separate payload tables, whose rows are deleted.
    pub(super) fn payload_tables(&self) -> impl Iterator<Item = &Source> {
        let incidents = self.incidents.as_ref().map(|table| table.oid);
        self.payloads
            .iter()
            .filter(move |table| Some(table.oid) != incidents)
    }

    /// The ids of all tables that lose rows or payloads.
    pub(super) fn oids(&self) -> Vec<Oid> {
        let single = [&self.checks, &self.flags, &self.approvals];
        let single = single.into_iter().flatten();
        single
            .chain(&self.payloads)
            .map(|table| table.oid)
            .collect()
    }
}

/// The object of the view with this name.
pub(super) fn object_of<'a>(
    views: &'a mut [CheckedView<'_>],
    name: &str,
) -> Option<&'a mut Object> {
    let checked = views.iter_mut().find(|checked| checked.view.name == name);
    checked.map(|checked| &mut checked.object)
}

/// Whether a view other than those of incidents and payloads reads the table. Then the table holds no payloads and is
/// only used for lookups.
fn is_read_by_other_view(views: &[CheckedView<'_>], table: &Source) -> bool {
    let others = views
        .iter()
        .filter(|checked| !matches!(checked.view.name, "incidents" | "incident_payloads"));
    others
        .flat_map(|checked| &checked.tables)
        .any(|other| other.oid == table.oid)
}

/// Checks the indexes by which the purge finds rows.
pub(super) async fn check_indexes(
    database: &Database,
    views: &mut [CheckedView<'_>],
) -> sqlx::Result<()> {
    for checked in views {
        let [table] = checked.tables.as_slice() else {
            continue;
        };
        let indexes = catalog::indexes(database, table.oid).await?;
        let id = checked
            .columns
            .get("id")
            .filter(|_| checked.view.purge.is_some());
        let is_key = |id: &String| {
            let mut unique = indexes
                .iter()
                .filter(|index| index.is_unique && index.condition.is_none());
            unique.any(|index| index.columns.iter().eq([id]))
        };
        if let Some(id) = id.filter(|id| !is_key(id)) {
            checked.object.refuse(
                format!(
                    "{id} is not unique in {}: one id could name several rows",
                    table.plain_name
                ),
                format!(
                    "CREATE UNIQUE INDEX CONCURRENTLY ON {} ({id}), or map a column that is a key",
                    table.name
                ),
            );
        }
        for wanted in checked.view.indexes {
            let columns: Option<Vec<String>> = wanted
                .iter()
                .map(|column| checked.columns.get(column).cloned())
                .collect();
            let Some(columns) = columns else {
                continue; // another check reports this view
            };
            let serves =
                |index: &Index| {
                    let begins = index.columns.len() >= columns.len()
                        && index.columns.iter().zip(&columns).all(|(has, wants)| {
                            without_parentheses(has) == without_parentheses(wants)
                        });
                    begins
                        && index.condition.as_ref().is_none_or(|c| {
                            c.contains("IS NULL") && checked.view.name == "incidents"
                        })
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

/// The expression without parentheses, so that both spellings compare equal.
fn without_parentheses(column: &str) -> &str {
    column.trim_start_matches('(').trim_end_matches(')')
}
