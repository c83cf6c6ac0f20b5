//! The list of incidents, and one incident. If the details of an incident are purged, its page says so and is otherwise
//! unchanged.

use axum::extract::State;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Answer, organization,
    page::{self, Place, Tab, page},
    payload,
    session::Visitor,
    visit::{PagePath, PageQuery},
};
use crate::{
    drift::{
        TOO_LARGE_NOTICE,
        environments::{self, Environment},
        incidents::{self, Approval, Incident, IncidentFilter, Payload, PayloadState},
        organizations::Organization,
    },
    http::{ApiState, Problem, api::cut, extract::bounded_text},
    runs::{self, AppliedWindow},
};

/// Incidents per page.
const PER_PAGE: i64 = 50;
/// The most environments in the filter.
const MAX_ENVIRONMENT_CHOICES: i64 = 200;
const SEVERITIES: [&str; 4] = ["low", "medium", "high", "critical"];
/// The statuses of an incident, in order.
const STATUSES: [&str; 5] = [
    "detected",
    "acknowledged",
    "stabilized",
    "reconciled",
    "closed",
];

/// The filter in the page's address.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<Uuid>,
    #[serde(skip_serializing)]
    cursor: Option<Uuid>,
}

/// The organization's incidents, newest first.
pub(super) async fn list(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath(org): PagePath<Uuid>,
    PageQuery(query): PageQuery<ListQuery>,
) -> Answer {
    let org = organization(&state, &visitor, org).await?;
    let filter = IncidentFilter {
        status: bounded_text("status", query.status.clone(), 100)?,
        severity: bounded_text("severity", query.severity.clone(), 100)?,
        env: query.environment,
    };
    let found =
        incidents::list(&state.database, org.id, &filter, query.cursor, PER_PAGE + 1).await?;
    let (found, next) = cut(found, PER_PAGE, |incident| incident.id);
    let environments =
        environments::list(&state.database, org.id, None, MAX_ENVIRONMENT_CHOICES).await?;
    let path = page::org_path(org.id, "incidents");
    let carried = serde_html_form::to_string(&query).unwrap_or_default();
    Ok(page(
        &visitor,
        Place::Org(&org, Tab::Incidents),
        "Incidents",
        &html! {
            h1 { "Incidents" }
            (filter_form(&query, &environments))
            @if found.is_empty() {
                p.empty { @if carried.is_empty() { "No drift incident yet." } @else { "No incident matches." } }
            } @else {
                (page::table("Incidents", &html! {
                    thead { tr {
                        th scope="col" { "Incident" } th scope="col" { "Status" } th scope="col" { "Severity" }
                        th scope="col" { "Owner" } th scope="col" { "Detected" } th scope="col" { "Closed" }
                        th scope="col" { "Details" }
                    } }
                    tbody { @for incident in &found { (row(&visitor, &path, incident)) } }
                }))
            }
            (page::more(next, &path, &carried))
        },
    ))
}

fn filter_form(query: &ListQuery, environments: &[Environment]) -> Markup {
    let named = |name: &&'static str| ((*name).to_owned(), (*name).to_owned());
    let environments = environments
        .iter()
        .map(|env| (env.id.to_string(), env.name.clone()));
    let environment = query.environment.map(|id| id.to_string());
    html! {
        form.filter method="get" {
            (choice("Status", "status", query.status.as_deref(), STATUSES.iter().map(named)))
            (choice("Severity", "severity", query.severity.as_deref(), SEVERITIES.iter().map(named)))
            (choice("Environment", "environment", environment.as_deref(), environments))
            button type="submit" { "Filter" }
        }
    }
}

/// A select field with these values and the choice "all".
fn choice(
    label: &str,
    name: &str,
    chosen: Option<&str>,
    values: impl Iterator<Item = (String, String)>,
) -> Markup {
    html! {
        div { label for=(name) { (label) }
            select id=(name) name=(name) {
                option value="" { "all" }
                @for (value, shown) in values { option value=(value) selected[chosen == Some(&value)] { (shown) } }
            } }
    }
}

fn row(visitor: &Visitor, path: &str, incident: &Incident) -> Markup {
    html! {
        tr {
            th scope="row" { a href={ (path) "/" (incident.id) } { (incident.title) } }
            td { (page::badge(&incident.status)) }
            td { (severity(incident)) }
            td { (incident.owner.as_deref().unwrap_or("–")) }
            td { (page::ago(visitor.now, incident.detected_at)) }
            td { (page::ago_or_dash(visitor.now, incident.closed_at)) }
            td { @match incident.payload_state {
                PayloadState::Available | PayloadState::TooLarge => "kept", PayloadState::Purged => "purged", PayloadState::Missing => "none",
            } }
        }
    }
}

fn severity(incident: &Incident) -> Markup {
    html! { @match &incident.severity { Some(severity) => { (page::badge(severity)) } None => { (page::dash()) } } }
}

/// The parts of an incident's page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shown {
    #[default]
    Summary,
    Timeline,
    Approvals,
}

/// The tab of an incident's page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TabQuery {
    tab: Shown,
}

/// One incident.
pub(super) async fn show(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath((org, id)): PagePath<(Uuid, Uuid)>,
    PageQuery(query): PageQuery<TabQuery>,
) -> Answer {
    let org = organization(&state, &visitor, org).await?;
    let incident = incidents::get(&state.database, org.id, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    let environment = environments::get(&state.database, org.id, incident.env_id).await?;
    let approvals = incidents::approvals(&state.database, id).await?;
    let shown = match query.tab {
        Shown::Summary => summary(&state, &visitor, &org, &incident).await?,
        Shown::Timeline => timeline(&incident),
        Shown::Approvals => approval_table(&visitor, &approvals),
    };
    let tab = |tab: Shown, query: &str, name: &str| {
        html! { a href={ "?tab=" (query) } aria-current=[(tab == query_tab(query)).then_some("page")] { (name) } }
    };
    Ok(page(
        &visitor,
        Place::Org(&org, Tab::Incidents),
        &incident.title,
        &html! {
            h1 { (incident.title) }
            dl.facts {
                div { dt { "Status" } dd { (page::badge(&incident.status)) } }
                div { dt { "Severity" } dd { (severity(&incident)) } }
                div { dt { "Owner" } dd { (incident.owner.as_deref().unwrap_or("nobody yet")) } }
                div { dt { "Environment" } dd { @match &environment {
                    Some(found) => { a href={ (page::org_path(org.id, "environments")) "/" (found.id) } { (found.name) } }
                    None => { (page::dash()) }
                } } }
                div { dt { "Detected" } dd { (page::ago(visitor.now, incident.detected_at)) } }
            }
            (lifecycle(&visitor, &incident))
            nav.tabs aria-label="Incident" {
                (tab(query.tab, "summary", "Drift Summary"))
                (tab(query.tab, "timeline", "Timeline"))
                (tab(query.tab, "approvals", &format!("Approvals ({})", approvals.len())))
            }
            (shown)
        },
    ))
}

fn query_tab(name: &str) -> Shown {
    match name {
        "timeline" => Shown::Timeline,
        "approvals" => Shown::Approvals,
        _ => Shown::Summary,
    }
}

/// The time of each status.
fn stations(incident: &Incident) -> [(&'static str, Option<DateTime<Utc>>); 5] {
    let at = [
        Some(incident.detected_at),
        incident.acknowledged_at,
        incident.stabilized_at,
        incident.reconciled_at,
        incident.closed_at,
    ];
    std::array::from_fn(|index| (STATUSES[index], at[index]))
}

fn lifecycle(visitor: &Visitor, incident: &Incident) -> Markup {
    html! {
        ol.lifecycle aria-label="Lifecycle" {
            @for (name, at) in stations(incident) {
                li class=[at.map(|_| "reached")] aria-current=[(name == incident.status).then_some("step")] {
                    span.station { (name) } " " (page::ago_or_dash(visitor.now, at))
                }
            }
        }
    }
}

fn timeline(incident: &Incident) -> Markup {
    let mut events: Vec<(DateTime<Utc>, &str)> = stations(incident)
        .into_iter()
        .filter_map(|(name, at)| Some((at?, name)))
        .collect();
    events.extend(incident.payload_purged_at.map(|at| (at, "details purged")));
    events.sort_unstable();
    page::table(
        "Timeline",
        &html! {
            thead { tr { th scope="col" { "When" } th scope="col" { "What" } } }
            tbody { @for (at, what) in events { tr { th.when scope="row" { (page::exact(at)) } td { (what) } } } }
        },
    )
}

async fn summary(
    state: &ApiState,
    visitor: &Visitor,
    org: &Organization,
    incident: &Incident,
) -> Answer {
    match incidents::payload(&state.database, incident.id).await? {
        Some(Payload::Json(payload)) => return Ok(payload::readable(&payload)),
        Some(Payload::Text(text)) => return Ok(payload::unreadable(&text)),
        Some(Payload::TooLarge) => {
            return Ok(html! { div.banner role="status" { p { strong { (TOO_LARGE_NOTICE) } } } });
        }
        None => {}
    }
    let window = match incident.payload_purged_at {
        Some(at) => runs::window_applied(&state.database, org.id, "incident_payloads", at).await?,
        None => None,
    };
    Ok(html! {
        div.banner role="status" {
            p { strong { (incident.notice.unwrap_or_default()) } }
            @if let Some(at) = incident.payload_purged_at {
                p { (gone(visitor, at, window.as_ref())) }
            } @else {
                p { "None were recorded, or they were lost before retention began; no purge took them." }
            }
        }
    })
}

fn gone(visitor: &Visitor, at: DateTime<Utc>, window: Option<&AppliedWindow>) -> Markup {
    html! {
        "Purged on " (page::exact(at)) " (" (page::ago(visitor.now, at)) ")"
        @if let Some(window) = window {
            @if let Some(days) = window.days {
                ": details of closed incidents are kept for " (days) " days on the plan " (window.plan.as_deref().unwrap_or("of then"))
            }
            ", by run " (page::run_link(window.run))
        }
        "."
    }
}

fn approval_table(visitor: &Visitor, approvals: &[Approval]) -> Markup {
    html! {
        @if approvals.is_empty() { p.empty { "No approval is kept for this incident." } } @else {
            (page::table("Approvals", &html! {
                thead { tr {
                    th scope="col" { "Action" } th scope="col" { "Status" } th scope="col" { "Requested by" }
                    th scope="col" { "Requested" } th scope="col" { "Decided by" } th scope="col" { "Notes" }
                } }
                tbody { (page::rows(approvals, |approval| html! {
                    tr {
                        th scope="row" { (page::spaced_name(&approval.action)) }
                        td { (page::badge(&approval.status)) }
                        td { (approval.requested_by) }
                        td { (page::ago(visitor.now, approval.created_at)) }
                        td { (approval.decided_by.as_deref().unwrap_or("–")) }
                        td { (approval.notes.as_deref().unwrap_or("–")) }
                    }
                })) }
            }))
        }
    }
}
