//! An organization's retention: its windows, the preview, the last runs, and purge now.

use axum::{extract::State, response::Redirect};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Answer, organization,
    page::{self, Place, Tab, page},
    runs::run_table,
    session::{self, Visitor},
    visit::{PagePath, PageQuery, Signed},
};
use crate::{
    drift::organizations::Organization,
    http::{
        ApiState,
        api::{self, MAX_REASON_CHARS},
        extract::bounded_text,
    },
    humanize,
    purge::{Counting, MAX_COUNTED, Preview, datasets::DATASETS},
    retention::Plan,
    runs::{self, Run, RunFilter},
};

/// The number of recent runs on the page.
const RECENT_RUNS: u32 = 10;

/// The plan, the preview, the next run and the recent ones.
pub(super) async fn show(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath(org): PagePath<Uuid>,
) -> Answer {
    let org = organization(&state, &visitor, org).await?;
    let filter = RunFilter {
        org: Some(org.id),
        ..RunFilter::default()
    };
    let runs = runs::list(&state.database, &filter, None, RECENT_RUNS)
        .await?
        .items;
    let path = page::org_path(org.id, "retention");
    let may_purge = visitor.identity.may_purge(org.id).is_ok();
    Ok(page(
        &visitor,
        Place::Org(&org, Tab::Retention),
        "Retention",
        &html! {
            div.title {
                h1 { "Retention" }
                @if may_purge { a.button.primary href={ (path) "/purge" } { "Purge now" } }
            }
            div.columns {
                section { h2 { "What the plan keeps" } (windows(&org, visitor.now)) }
                section { h2 { "What a purge would remove now" }
                    div hx-get={ (path) "/preview" } hx-trigger="load" hx-swap="outerHTML" {
                        p.empty { "Counting … " noscript { a href={ (path) "/preview" } { "Show the count" } } }
                    }
                }
            }
            section { h2 { "Next run" } p { (next_run(&state, &visitor, &runs)) } }
            section { h2 { "Last runs" }
                @if runs.is_empty() { p.empty { "Nothing has been purged yet." } }
                @else { (run_table(&visitor, &runs, None, false)) }
            }
        },
    ))
}

fn windows(org: &Organization, now: DateTime<Utc>) -> Markup {
    let Ok(plan) = org.plan.parse::<Plan>() else {
        return html! {
            div.banner.bad { p { strong { "The plan " code { (org.plan) } " is unknown, so nothing is purged." } }
                p { "Runs fail with " code { "policy_unresolved" } " until " code { "organizations.plan" } " is corrected." } }
        };
    };
    let policy = plan.policy();
    page::table(
        "What the plan keeps",
        &html! {
            thead { tr { th scope="col" { "Data" } th scope="col" { "Kept for" } th scope="col" { "Goes if older than" } } }
            tbody { @for dataset in DATASETS {
                @let window = policy.get(dataset.name());
                tr {
                    th scope="row" { (page::spaced_name(dataset.tables()[0])) }
                    td { @match window { Some(window) => { (window.in_days()) " days" } None => "no rule" } }
                    td { @match window { Some(window) => { (page::exact(window.cutoff(now).0)) } None => "nothing goes" } }
                }
            } }
        },
    )
}

fn next_run(state: &ApiState, visitor: &Visitor, runs: &[Run]) -> Markup {
    let live = runs.iter().find(|run| !run.is_final());
    html! {
        @match (live, state.schedule.next(visitor.now)) {
            (Some(run), _) => {
                "Run " (page::run_link(run.id.0)) " is " (page::badge(run.status.name()))
                @if let Some(at) = run.next_attempt_at { ", its next attempt " (page::ago(visitor.now, at)) }
                "."
            }
            (None, Some(slot)) => { "By schedule " (page::ago(visitor.now, slot)) ", on " (page::exact(slot)) "." }
            (None, None) => "The schedule has no further slot.",
        }
    }
}

/// The preview, which the retention page loads as a part.
pub(super) async fn preview(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath(org): PagePath<Uuid>,
    PageQuery(query): PageQuery<PreviewQuery>,
) -> Answer {
    let org = organization(&state, &visitor, org).await?;
    let counting = Counting::exactly(query.exact);
    let counted = api::count_expired(&state, &visitor.identity, org.id, counting).await?;
    Ok(counted_rows(&counted))
}

/// The query of the preview.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PreviewQuery {
    exact: bool,
}

/// The counted rows, and a link to a full count if the count stopped early.
fn counted_rows(preview: &Preview) -> Markup {
    let exactly = page::org_path(preview.org_id, "retention/preview?exact=true");
    html! {
        div.counted {
            (preview_table(preview))
            @if !preview.at_least.is_empty() {
                p { a href=(exactly) hx-get=(exactly) hx-target="closest .counted" hx-swap="outerHTML" { "Count exactly" } }
            }
        }
    }
}

fn preview_table(preview: &Preview) -> Markup {
    page::table(
        "What a purge would remove now",
        &html! {
            thead { tr { th scope="col" { "Table" } th.number scope="col" { "Rows" } } }
            tbody { @for (table, rows) in &preview.tables.0 {
                tr { th scope="row" { code { (table) } } td.number { (rows_of(preview, table, *rows)) } }
            } }
            tfoot { tr { th scope="row" { "All" } td.number {
                @if !preview.at_least.is_empty() { "more than " } (humanize::number(total(preview)))
            } } }
        },
    )
}

/// The number of counted rows in words.
fn rows_of(preview: &Preview, table: &str, rows: u64) -> String {
    let rows_of = humanize::number(rows);
    match preview.at_least.contains(&table) {
        true if rows >= MAX_COUNTED => format!("more than {rows_of}"),
        true => format!("at least {rows_of}"),
        false => rows_of,
    }
}

fn total(preview: &Preview) -> u64 {
    preview.tables.0.iter().map(|(_, rows)| rows).sum()
}

/// Asks for confirmation, with the numbers.
pub(super) async fn confirm(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath(org): PagePath<Uuid>,
) -> Answer {
    let org = organization(&state, &visitor, org).await?;
    visitor.identity.may_purge(org.id)?;
    let preview = api::count_expired(&state, &visitor.identity, org.id, Counting::Bounded).await?;
    Ok(page(
        &visitor,
        Place::Org(&org, Tab::Retention),
        "Purge now?",
        &html! {
            h1 { "Purge now?" }
            p.lead {
                @if total(&preview) == 0 { "Nothing of " strong { (org.name) } " is past its window now: a purge would remove nothing." }
                @else { "These rows of " strong { (org.name) } " are past their window and will be deleted permanently:" }
            }
            (counted_rows(&preview))
            @if preview.error_kind.is_some() {
                div.banner.bad { p { "The plan " code { (org.plan) } " is unknown: the run will fail and purge nothing." } }
            }
            form.card method="post" {
                (page::csrf(&visitor))
                // If the form is sent twice, it is one request.
                input type="hidden" name="key" value=(session::secret());
                (page::reason_field())
                div.buttons {
                    button.danger type="submit" { "Purge now" }
                    a.button href=(page::org_path(org.id, "retention")) { "Keep everything" }
                }
            }
        },
    ))
}

/// The fields of the confirmation form.
#[derive(Debug, Deserialize)]
pub(super) struct PurgeForm {
    reason: Option<String>,
    key: Option<String>,
}

/// Enqueues the purge, and shows its run.
pub(super) async fn purge(
    State(state): State<ApiState>,
    PagePath(org): PagePath<Uuid>,
    Signed(visitor, form): Signed<PurgeForm>,
) -> Answer<Redirect> {
    let org = organization(&state, &visitor, org).await?;
    visitor.identity.may_purge(org.id)?;
    let reason = bounded_text("reason", form.reason, MAX_REASON_CHARS)?;
    let key = bounded_text("key", form.key, 200)?;
    let who = &visitor.identity;
    let run = api::request_purge(&state, who, org.id, reason.as_deref(), key.as_deref()).await?;
    Ok(Redirect::to(&format!("/console/runs/{}", run.run_id)))
}
