//! Runs of all organizations, for operators. Failed runs come first, and the filter is part of the address.

use std::collections::HashMap;

use axum::extract::State;
use chrono::{DateTime, NaiveDateTime, Utc};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Answer,
    page::{self, Place, page},
    session::Visitor,
    visit::PageQuery,
};
use strum::IntoEnumIterator;

use crate::{
    drift::organizations,
    http::{
        ApiState, Problem,
        extract::{bounded_text, bounded_time},
    },
    humanize,
    ids::OrgId,
    runs::{self, Cursor, Failures, Run, RunFilter, RunStatus},
};

/// Runs per page.
const PER_PAGE: u32 = 50;

/// The filter in the page's address.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RunsQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<RunStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

impl RunsQuery {
    /// Parses the filter.
    pub(super) fn filter(&self) -> Result<RunFilter, Problem> {
        let org = self.org.as_deref().map(str::parse::<OrgId>).transpose();
        Ok(RunFilter {
            org: org.map_err(|_| {
                Problem::bad_request("Organization must be an id; the page Organizations has them")
            })?,
            status: self.status,
            error_kind: bounded_text("Error kind", self.error_kind.clone(), 100)?,
            since: time("Since", self.since.as_deref())?,
            until: time("Until", self.until.as_deref())?,
            ids: None,
        })
    }

    /// The filter as the query of an address.
    pub(super) fn text(&self) -> String {
        serde_html_form::to_string(self).unwrap_or_default()
    }

    fn of_kind(kind: Option<&str>) -> Self {
        Self {
            status: Some(RunStatus::Failed),
            error_kind: kind.map(str::to_owned),
            ..Self::default()
        }
    }
}

/// Parses a time from a browser's field: UTC, or with an offset.
fn time(name: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let local = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let time = match local {
        Some(local) => Some(local.and_utc()),
        None => DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|time| time.to_utc()),
    };
    let time = time.ok_or_else(|| {
        Problem::bad_request(format!("{name} must be a time, such as 2026-11-23T02:00"))
    })?;
    bounded_time(name, Some(time))
}

/// The parts of the address that only the list uses.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    cursor: Option<String>,
    replayed: Option<u32>,
    joined: Option<u32>,
}

/// Failed runs by error kind, and below them all runs, newest first.
pub(super) async fn list(
    State(state): State<ApiState>,
    visitor: Visitor,
    PageQuery(query): PageQuery<RunsQuery>,
    PageQuery(more): PageQuery<ListQuery>,
) -> Answer {
    visitor.identity.may_operate()?;
    let filter = query.filter()?;
    let cursor: Option<Cursor> = more
        .cursor
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error: runs::BadCursor| Problem::bad_request(error.to_string()))?;
    let runs = runs::list(&state.database, &filter, cursor, PER_PAGE).await?;
    let failures = runs::failures(&state.database).await?;
    let names = names(&state, &runs.items).await?;
    let text = query.text();
    Ok(page(
        &visitor,
        Place::Runs,
        "Runs",
        &html! {
            h1 { "Runs" }
            (replayed_notice(more.replayed, more.joined))
            (failure_groups(&visitor, &failures))
            (filter_form(&query, &failures))
            @if runs.items.is_empty() {
                p.empty { @if text.is_empty() { "There is no run yet: the scheduler makes them, or purge now." } @else { "No run matches." } }
            } @else {
                form method="get" action="/console/runs/replay" {
                    // If no run is selected, none is replayed.
                    input type="hidden" name="selected" value="true";
                    (run_table(&visitor, &runs.items, Some(&names), true))
                    div.buttons {
                        button type="submit" { "Replay selected…" }
                        a.button href={ "/console/runs/replay?" (text) } { "Replay all that match…" }
                    }
                }
            }
            (page::more(runs.next_cursor, "/console/runs", &text))
        },
    ))
}

/// The names of the organizations on a page of runs.
pub(super) async fn names(state: &ApiState, runs: &[Run]) -> sqlx::Result<HashMap<OrgId, String>> {
    let ids: Vec<Uuid> = runs.iter().map(|run| run.org_id.0).collect();
    organizations::names(&state.database, &ids).await
}

fn replayed_notice(replayed: Option<u32>, joined: Option<u32>) -> Markup {
    html! {
        @if let Some(count) = replayed {
            p.notice role="status" {
                (humanize::quantity(count, "run", "runs")) " replayed"
                @if let Some(joined) = joined.filter(|joined| *joined > 0) {
                    ", of which " (joined) " joined a run that was live already"
                }
                "."
            }
        }
    }
}

fn failure_groups(visitor: &Visitor, failures: &[Failures]) -> Markup {
    html! {
        @if !failures.is_empty() {
            section { h2 { "Failed, by error kind" }
                ul.cards { @for group in failures {
                    @let query = RunsQuery::of_kind(group.error_kind.as_deref()).text();
                    li.card {
                        p.kind { a href={ "/console/runs?" (query) } { (group.error_kind.as_deref().unwrap_or("unknown")) } }
                        p { (humanize::quantity(group.runs, "run", "runs")) " of " (humanize::quantity(group.organizations, "organization", "organizations")) }
                        p.hint { "latest " (page::ago(visitor.now, group.latest)) }
                        p { a href={ "/console/runs/replay?" (query) } {
                            "Replay" span.hidden { " " (group.error_kind.as_deref().unwrap_or("unknown")) } "…" } }
                    }
                } }
            }
        }
    }
}

fn filter_form(query: &RunsQuery, failures: &[Failures]) -> Markup {
    html! {
        section { h2 { "All runs" } }
        form.filter method="get" action="/console/runs" {
            div { label for="status" { "Status" }
                select id="status" name="status" {
                    option value="" { "all" }
                    @for status in RunStatus::iter() {
                        option value=(status.name()) selected[query.status == Some(status)] { (status.name()) }
                    }
                } }
            div { label for="error_kind" { "Error kind" }
                input id="error_kind" name="error_kind" list="kinds" maxlength="100" value=[query.error_kind.as_deref()];
                datalist id="kinds" { @for group in failures { @if let Some(kind) = &group.error_kind { option value=(kind) {} } } } }
            div { label for="org" { "Organization" }
                input id="org" name="org" placeholder="id" value=[query.org.as_deref()]; }
            div { label for="since" { "Since" span.hint { " (UTC)" } }
                input id="since" name="since" type="datetime-local" value=[query.since.as_deref()]; }
            div { label for="until" { "Until" span.hint { " (UTC)" } }
                input id="until" name="until" type="datetime-local" value=[query.until.as_deref()]; }
            button type="submit" { "Filter" }
            @if !query.text().is_empty() { a href="/console/runs" { "Clear" } }
        }
    }
}

/// Runs as a table, with the organizations' names and boxes for selection if it spans organizations.
pub(super) fn run_table(
    visitor: &Visitor,
    runs: &[Run],
    names: Option<&HashMap<OrgId, String>>,
    selectable: bool,
) -> Markup {
    page::table(
        "Runs",
        &html! {
            thead { tr {
                @if selectable { th scope="col" { span.hidden { "Select" } } }
                th scope="col" { "Run" }
                @if names.is_some() { th scope="col" { "Organization" } }
                th scope="col" { "Status" } th scope="col" { "Trigger" } th.number scope="col" { "Rows purged" }
                th.number scope="col" { "Attempts" } th scope="col" { "Created" } th scope="col" { "Finished" }
            } }
            tbody { @for run in runs {
                tr {
                    @if selectable { td { (select_box(run)) } }
                    th scope="row" { (page::run_link(run.id.0)) }
                    @if let Some(names) = names { td { (org_link(run.org_id, names)) } }
                    td { (page::badge(run.status.name())) @if let Some(kind) = &run.error_kind { " " code { (kind) } } }
                    td { (page::spaced_name(run.trigger.name())) }
                    td.number { (humanize::number(run.rows_purged())) }
                    td.number { (run.attempts) "/" (run.max_attempts) }
                    td { (page::ago(visitor.now, run.created_at)) }
                    td { (page::ago_or_dash(visitor.now, run.finished_at)) }
                }
            } }
        },
    )
}

fn select_box(run: &Run) -> Markup {
    html! {
        @if matches!(run.status, RunStatus::Failed | RunStatus::Cancelled) {
            input type="checkbox" name="run" value=(run.id) aria-label={ "Select run " (run.id) };
        }
    }
}

/// An organization's name as a link to its retention, or its id if it no longer exists.
pub(super) fn org_link(org: OrgId, names: &HashMap<OrgId, String>) -> Markup {
    html! {
        @match names.get(&org) {
            Some(name) => { a href=(page::org_path(org, "retention")) { (name) } }
            None => { span title=(org) { (page::short(org.0)) " (deleted)" } }
        }
    }
}
