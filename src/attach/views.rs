//! Checks that each view of the mapping exists, has its columns and may be used by this role. A view through which rows
//! are locked and deleted must also be a plain view of one table.

use std::collections::HashMap;

use super::{
    catalog::{CheckKey, FoundView, Source},
    report::Object,
    shape::{Kind, Purge, View},
};
use crate::postgres::{Database, PlanNode, explain};

/// A view and the tables behind it, with the result of its check.
pub(super) struct CheckedView<'a> {
    pub(super) view: &'static View,
    pub(super) object: Object,
    /// The tables that the view reads.
    pub(super) tables: Vec<&'a Source>,
    /// The table's column behind each plain column, in SQL.
    pub(super) columns: HashMap<&'static str, String>,
}

/// Checks a view without reading its rows.
pub(super) async fn check<'a>(
    database: &Database,
    view: &'static View,
    found: Option<&FoundView>,
    sources: &'a [Source],
    check_key: Option<&CheckKey>,
) -> sqlx::Result<CheckedView<'a>> {
    let sources: Vec<&Source> = sources.iter().filter(|s| s.view == view.name).collect();
    let mut checked = CheckedView {
        view,
        object: Object::named(view.name),
        tables: sources.iter().copied().filter(|s| s.kind != "v").collect(),
        columns: HashMap::new(),
    };
    let Some(found) = found.filter(|found| found.kind == "v") else {
        checked.object.refuse(
            format!("there is no view main_app.{}", view.name),
            "write it: `drift-retention attach template` prints all of the mapping",
        );
        return Ok(checked);
    };
    checked.describe(found);
    let has_all = checked.check_columns(found, check_key);
    if view.purge.is_some() {
        checked.check_sources(found, &sources);
    }
    if has_all {
        checked.explain_all(database, found).await?;
    }
    Ok(checked)
}

impl CheckedView<'_> {
    fn describe(&mut self, found: &FoundView) {
        let names: Vec<_> = self.tables.iter().map(|s| s.plain_name.as_str()).collect();
        self.object.maps_to = (!names.is_empty()).then(|| names.join(", "));
        self.object.rows = match self.tables.as_slice() {
            [table] => table.rows,
            _ => None,
        };
        let key = self
            .view
            .columns
            .iter()
            .find(|(name, kind)| *name == "id" || *kind == Kind::CheckKey);
        self.object.key_type = key.and_then(|(name, _)| found.types.get(*name).cloned());
    }

    /// Checks the columns. Returns whether every column exists, with any type.
    fn check_columns(&mut self, found: &FoundView, check_key: Option<&CheckKey>) -> bool {
        let mut has_all = true;
        for (column, kind) in self.view.columns {
            let Some(type_name) = found.types.get(*column) else {
                has_all = false;
                self.object.refuse(
                    format!("column {column} is missing"),
                    format!(
                        "add it to the view; if the main app has no such thing: NULL::{} AS {column}",
                        kind.name()
                    ),
                );
                continue;
            };
            if *kind == Kind::Place && type_name != "tid" {
                self.object.refuse(
                    "column ctid is not the table's own ctid",
                    "select the table's ctid",
                );
            } else if !kind.accepts(type_name, check_key.map(|key| key.type_name.as_str())) {
                self.object.refuse(
                    format!("column {column} is {type_name}, not {}", kind.name()),
                    type_remedy(column, *kind, type_name),
                );
            }
            if let (Kind::CheckKey, Some(key)) = (kind, check_key)
                && found.collations.get(*column) != Some(&key.collation)
                && type_name != "main_app.check_key"
            {
                self.object.refuse(
                    format!("column {column} has another collation than main_app.check_key"),
                    "give the domain the column's collation: CREATE DOMAIN main_app.check_key AS text COLLATE \"…\"",
                );
            }
        }
        has_all
    }

    /// Checks that a purge view reads one ordinary table and nothing else.
    fn check_sources(&mut self, found: &FoundView, sources: &[&Source]) {
        for (option, why) in [
            ("security_barrier", "it would lock rows that are not purged"),
            (
                "security_invoker",
                "the worker would need rights on the table itself",
            ),
        ] {
            let is_on = |set: &String| {
                let value = set
                    .strip_prefix(option)
                    .and_then(|rest| rest.strip_prefix('='));
                value.is_some_and(is_true)
            };
            if found.options.iter().any(is_on) {
                self.object.refuse(
                    format!("the view has {option}: {why}"),
                    format!("ALTER VIEW main_app.{} RESET ({option})", self.view.name),
                );
            }
        }
        match sources.iter().filter(|s| s.is_direct).collect::<Vec<_>>().as_slice() {
            [source] => {
                if let Some(kind) = source.kind_name() {
                    self.object.refuse(
                        format!("{} is {kind}: rows are purged from ordinary tables only", source.plain_name),
                        "select from the ordinary table that holds the rows",
                    );
                }
            }
            [] => self.object.refuse(
                "the view reads no table",
                "select from the one table that holds the rows; if the main app has none, create an empty one",
            ),
            several => {
                let names: Vec<_> = several.iter().map(|s| s.plain_name.as_str()).collect();
                self.object.refuse(
                    format!("the view reads {}: rows are purged through views of one table", names.join(" and ")),
                    "select from the one table that holds the rows, without a join or a sub-select",
                );
            }
        }
    }

    /// Lets Postgres plan the statements that use the view.
    async fn explain_all(&mut self, database: &Database, found: &FoundView) -> sqlx::Result<()> {
        match explain(database, &self.view.select()).await {
            Ok(plan) => self.check_plan(&plan),
            Err(error) => self.refused_by_postgres(error, found)?,
        }
        if self.object.is_refused() {
            return Ok(()); // the next statements would only repeat the error
        }
        for statement in self.view.statements() {
            match explain(database, &statement).await {
                // A rule that replaces the statement by nothing leaves no plan. The check of rules refuses it by name.
                Ok(_) | Err(sqlx::Error::RowNotFound) => {}
                Err(error) => self.refused_by_postgres(error, found)?,
            }
        }
        Ok(())
    }

    /// Finds the table's column behind each plain column, and refuses expressions.
    fn check_plan(&mut self, plan: &PlanNode) {
        let has_no_rows = plan.one_time_filter.as_deref() == Some("false");
        if has_no_rows && self.view.purge.is_none() {
            self.tables.clear();
            if self.view.name == "incident_payloads" {
                self.object.warn(
                    "the view shows no row at all: no payload is ever purged",
                    "select the payloads from where they are stored; if the main app has none, do nothing",
                );
            }
            return;
        }
        if self.view.purge.is_some() && plan.relation.is_none() {
            self.object.refuse(
                format!("the view is not a plain view of one table: reading it takes a {}", plan.node_type),
                "SELECT columns FROM one ordinary table, without DISTINCT, LIMIT, UNION or grouping",
            );
            return;
        }
        if let (Some(condition), Some(_)) = (&plan.filter, self.view.purge) {
            self.object.warn(
                format!("the view has a condition, {condition}: other rows of the table are never purged"),
                "remove the condition, unless this is intended",
            );
        }
        for ((column, _), output) in self.view.columns.iter().zip(&plan.output) {
            let is_clock = self.view.clock == Some(column);
            let shifted = output
                .strip_prefix('(')
                .and_then(|rest| rest.strip_suffix(" AT TIME ZONE 'UTC'::text)"))
                .and_then(|inner| Some((plain_column(inner)?, as_written(inner))));
            if let Some(name) = plain_column(output) {
                if *column == "ctid" && name != "ctid" {
                    self.object.refuse(
                        "column ctid is not the table's own ctid",
                        "select the table's ctid",
                    );
                }
                if is_clock {
                    self.object.clock = Some(name);
                }
                self.columns.insert(column, as_written(output).to_owned());
            } else if let (true, Some((name, written))) = (is_clock, shifted) {
                self.object.warn(
                    format!("{name} has no time zone: it is read as UTC"),
                    format!("check that the main app writes UTC into {name}"),
                );
                self.object.clock = Some(name);
                self.columns
                    .insert(column, format!("({written} AT TIME ZONE 'UTC'::text)"));
            } else if is_clock || self.view.plain.contains(column) {
                self.refuse_expression(column, output);
            }
        }
    }

    fn refuse_expression(&mut self, column: &str, output: &str) {
        if self.view.purge.is_none() && self.tables.len() != 1 {
            return; // such a view may be any SQL
        }
        self.object.refuse(
            format!("column {column} is the expression {output}: rows are found by it, so it must be the table's column itself"),
            format!("select the column itself AS {column}, without a cast"),
        );
    }

    fn refused_by_postgres(&mut self, error: sqlx::Error, found: &FoundView) -> sqlx::Result<()> {
        let (says, remedy) = postgres_refusal(error, &found.owner, self.view)?;
        self.object.refuse(says, remedy);
        Ok(())
    }
}

/// Whether Postgres reads this option as true. It keeps an option as it was written.
fn is_true(written: &str) -> bool {
    let written = written.to_ascii_lowercase();
    let begins = |word: &str| !written.is_empty() && word.starts_with(&written);
    begins("true") || begins("yes") || matches!(written.as_str(), "on" | "1")
}

fn type_remedy(column: &str, kind: Kind, type_name: &str) -> String {
    match (kind, type_name) {
        (Kind::Uuid, _) => {
            "ids of organizations, environments, incidents and approvals are uuid; others cannot be mapped yet".to_owned()
        }
        (Kind::CheckKey, _) => {
            format!("CREATE DOMAIN main_app.check_key AS {type_name}; keys of checks are uuid, bigint, integer or text")
        }
        (Kind::Time, "timestamp without time zone") => {
            format!("write ({column} AT TIME ZONE 'UTC') AS {column}, and index that expression")
        }
        (kind, _) => format!("write {column}::{} AS {column}", kind.name()),
    }
}

/// Postgres's message and a remedy. Returns the error if the mapping did not cause it.
pub(super) fn postgres_refusal(
    error: sqlx::Error,
    owner: &str,
    view: &View,
) -> sqlx::Result<(String, String)> {
    let sqlx::Error::Database(db) = &error else {
        return Err(error);
    };
    let code = db.code().unwrap_or_default().into_owned();
    let says = db.message().to_owned();
    let rights = match view.purge {
        Some(Purge::Delete) => "SELECT, UPDATE, DELETE",
        Some(Purge::Stamp) => "SELECT, UPDATE",
        None => "SELECT",
    };
    let remedy = match code.as_str() {
        "42501" if says.contains("row-level security") => format!(
            "rows would be hidden from {owner}, the owner of the view: give the view to the table's owner \
             (ALTER VIEW main_app.{} OWNER TO …), or ALTER ROLE {owner} BYPASSRLS",
            view.name
        ),
        "42501" if says.contains("for table") => {
            format!("GRANT {rights} ON the table TO {owner}, the owner of the view")
        }
        "42501" => "apply deploy/postgres/roles.sql again: this role lacks a right".to_owned(),
        "55000" => {
            "SELECT columns FROM one ordinary table, without DISTINCT, LIMIT, UNION or grouping"
                .to_owned()
        }
        code if code.starts_with("42") || code.starts_with("0A") => "correct the view".to_owned(),
        _ => return Err(error),
    };
    Ok((says, remedy))
}

/// The column's name, if `output` is only a column: `c.id`, `c."Id"`.
fn plain_column(output: &str) -> Option<String> {
    let (_, rest) = identifier(output)?;
    let (name, rest) = identifier(rest.strip_prefix('.')?)?;
    rest.is_empty().then_some(name)
}

/// A plain column without its table, quoted as Postgres quotes it.
fn as_written(output: &str) -> &str {
    let rest = identifier(output).and_then(|(_, rest)| rest.strip_prefix('.'));
    rest.unwrap_or(output)
}

/// The identifier at the start of the text, unquoted, and the rest of the text.
fn identifier(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut chars = quoted.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c != '"' {
                name.push(c);
            } else if chars.peek().is_some_and(|(_, next)| *next == '"') {
                chars.next();
                name.push('"');
            } else {
                return Some((name, &quoted[at + 1..]));
            }
        }
        return None;
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_is_on_in_every_spelling_that_postgres_takes() {
        for on in ["true", "TRUE", "t", "tr", "on", "ON", "yes", "Y", "1"] {
            assert!(is_true(on), "{on}");
        }
        for off in ["false", "f", "off", "no", "0", ""] {
            assert!(!is_true(off), "{off}");
        }
    }

    #[test]
    fn column_is_plain_only_without_anything_around_it() {
        assert_eq!(plain_column("c.id").as_deref(), Some("id"));
        assert_eq!(
            plain_column(r#""my table"."Org ""Id""""#).as_deref(),
            Some(r#"Org "Id""#)
        );
        for expression in [
            "(c.id)::text",
            "c.a || c.b",
            "now()",
            "'x'::text",
            "c.id.x",
            "NULL::uuid",
        ] {
            assert_eq!(plain_column(expression), None, "{expression}");
        }
    }
}
