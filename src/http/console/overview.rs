//! The operator's overview: whether every organization is inside its windows, and where to look if not.

use std::collections::BTreeMap;

use axum::extract::State;
use chrono::NaiveDate;
use maud::{Markup, html};
use uuid::Uuid;

use super::{
    Answer,
    charts::{self, Columns},
    organizations::organization_table,
    page::{self, Place, page},
    runs::org_link,
    session::Visitor,
    visit::PageQuery,
};
use strum::IntoEnumIterator;

use crate::{
    drift::organizations::{self, OrganizationFilter},
    gauges::Snapshot,
    http::{ApiState, api::cut},
    humanize,
    postgres::Database,
    purge::datasets::tables,
    runs::RunStatus,
};

/// Organizations per page.
const PER_PAGE: usize = 100;

/// The figures of the whole database.
pub(super) async fn show(State(state): State<ApiState>, visitor: Visitor) -> Answer {
    visitor.identity.may_operate()?;
    let snapshot = state.gauges.snapshot().await?;
    Ok(page(
        &visitor,
        Place::Overview,
        "Overview",
        &html! {
            h1 { "Overview" }
            (headline(&visitor, &snapshot))
            section { h2 { "Rows purged per day" } (per_day(&snapshot)) }
            section { h2 { "Runs by status" } (queue(&snapshot)) }
            section { h2 { "Where the data is" } (tables_behind(&state.database)) }
            (as_of(&visitor, &snapshot))
        },
    ))
}

/// When the figures were read, and which of them are older.
fn as_of(visitor: &Visitor, snapshot: &Snapshot) -> Markup {
    html! {
        p.hint {
            "As of " (page::ago(visitor.now, snapshot.taken_at)) "."
            @if !snapshot.not_read.is_empty() { " Older, because it could not be read: " (snapshot.not_read.join(", ")) "." }
        }
    }
}

fn headline(visitor: &Visitor, snapshot: &Snapshot) -> Markup {
    let overdue = &snapshot.overdue;
    let oldest = overdue.worst.first().map(|org| org.seconds);
    html! {
        dl.figures {
            div { dt { "Organizations overdue" } dd { a href="/console/overdue" { (humanize::number(overdue.organizations)) } } }
            div { dt { "Oldest overdue" } dd { a href="/console/overdue" {
                @match oldest { Some(age) => { (page::seconds(age)) } None => "nothing" } } } }
            div { dt { "Unresolved plans" } dd { a href="/console/unresolved" { (humanize::number(overdue.unresolved())) } } }
            div { dt { "Failed runs" } dd { a href="/console/runs?status=failed" { (humanize::number(snapshot.runs(RunStatus::Failed))) } } }
            div { dt { "Last slot" } dd { @match &snapshot.last_slot {
                Some(slot) => { a href={ "/console/runs?since=" (slot.slot.format("%FT%T")) } { (page::ago(visitor.now, slot.slot)) }
                    @if slot.completed_at.is_none() { " " span.badge.busy { "being enqueued" } } }
                None => "none yet",
            } } }
        }
    }
}

fn per_day(snapshot: &Snapshot) -> Markup {
    let mut days: BTreeMap<NaiveDate, BTreeMap<&str, i64>> = BTreeMap::new();
    for purged in &snapshot.purged_per_day {
        let day = days.entry(purged.day).or_default();
        if let Some(table) = &purged.table {
            day.insert(table, purged.rows);
        }
    }
    let columns: Vec<charts::Column> = days
        .into_iter()
        .map(|(day, rows)| {
            let of_table = |table| rows.get(table).copied().unwrap_or(0);
            let next = day.succ_opt().unwrap_or(day);
            charts::Column {
                name: day.format("%b %-d").to_string(),
                href: Some(format!(
                    "/console/runs?since={day}T00:00&until={next}T00:00"
                )),
                values: tables().map(of_table).collect(),
            }
        })
        .collect();
    let series: Vec<String> = tables().map(page::spaced_name).collect();
    charts::columns("Rows purged per day", Columns::Stacked, &series, &columns)
}

/// The main app's tables behind each kind of data.
fn tables_behind(database: &Database) -> Markup {
    let Some(mapping) = database.mapping() else {
        return html! { p.empty { "This process has not checked the mapping." } };
    };
    page::table(
        "Where the data is",
        &html! {
            thead { tr { th scope="col" { "Data" } th scope="col" { "Tables of the main app" } } }
            tbody { @for table in &mapping.tables {
                tr { th scope="row" { (page::spaced_name(table.view)) } td { code { (table.tables) } } }
            } }
        },
    )
}

fn queue(snapshot: &Snapshot) -> Markup {
    let rows: Vec<(Markup, i64)> = RunStatus::iter()
        .map(|status| {
            let link =
                html! { a href={ "/console/runs?status=" (status.name()) } { (status.name()) } };
            (link, snapshot.runs(status))
        })
        .collect();
    html! {
        (charts::rows("Runs by status", "Status", &rows))
        @if snapshot.runs(RunStatus::Succeeded) >= RunStatus::MAX_SUCCEEDED_COUNTED {
            p.hint { "The count of succeeded runs stops here." }
        }
    }
}

/// The organizations with expired rows, the most overdue first.
pub(super) async fn overdue(State(state): State<ApiState>, visitor: Visitor) -> Answer {
    visitor.identity.may_operate()?;
    let snapshot = state.gauges.snapshot().await?;
    let overdue = &snapshot.overdue;
    let shown = &overdue.worst;
    let ids: Vec<Uuid> = shown.iter().map(|org| org.id.0).collect();
    let names = organizations::names(&state.database, &ids).await?;
    Ok(page(
        &visitor,
        Place::Overview,
        "Overdue organizations",
        &html! {
            h1 { "Overdue organizations" }
            p.lead { "They hold rows that are past their window and protected by no rule. The next slot takes them." }
            @if shown.is_empty() { p.empty { "None: every promise is kept." } } @else {
                (page::table("Overdue organizations", &html! {
                    thead { tr { th scope="col" { "Organization" } th scope="col" { "Oldest row is past its cutoff by" } } }
                    tbody { @for org in shown {
                        tr { th scope="row" { (org_link(org.id, &names)) } td { (page::seconds(org.seconds)) } }
                    } }
                }))
                @if usize::try_from(overdue.organizations).is_ok_and(|all| all > shown.len()) {
                    p.hint { "The worst " (shown.len()) " of " (humanize::number(overdue.organizations)) "." }
                }
            }
            (as_of(&visitor, &snapshot))
        },
    ))
}

/// The start of a page.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct UnresolvedQuery {
    cursor: Option<Uuid>,
}

/// The organizations whose plan is unknown.
pub(super) async fn unresolved(
    State(state): State<ApiState>,
    visitor: Visitor,
    PageQuery(query): PageQuery<UnresolvedQuery>,
) -> Answer {
    visitor.identity.may_operate()?;
    let snapshot = state.gauges.snapshot().await?;
    let filter = OrganizationFilter {
        search: None,
        plans: Some(snapshot.overdue.unknown_plans.keys().cloned().collect()),
    };
    let limit = i64::try_from(PER_PAGE).unwrap_or(i64::MAX);
    let found = organizations::list(&state.database, &filter, query.cursor, limit + 1).await?;
    let (found, next) = cut(found, limit, |org| org.id.0);
    Ok(page(
        &visitor,
        Place::Overview,
        "Unresolved plans",
        &html! {
            h1 { "Unresolved plans" }
            p.lead { "Nothing of these organizations is purged until " code { "organizations.plan" } " names a known plan." }
            @if found.is_empty() { p.empty { "None: every plan is known." } } @else { (organization_table(&found)) }
            (page::more(next, "/console/unresolved", ""))
        },
    ))
}
