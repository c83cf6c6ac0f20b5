//! The drift dashboard: the API's figures as charts.

use std::collections::BTreeMap;

use axum::extract::State;
use maud::{Markup, html};
use uuid::Uuid;

use super::{
    Answer,
    charts::{self, Columns},
    organization,
    page::{self, Place, Tab, page},
    session::Visitor,
    visit::PagePath,
};
use crate::{
    drift::dashboard::Dashboard,
    http::{ApiState, api},
    humanize,
    purge::datasets::tables,
};

/// The organization's figures.
pub(super) async fn show(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath(org): PagePath<Uuid>,
) -> Answer {
    let org = organization(&state, &visitor, org).await?;
    let dashboard = api::figures(&state, &visitor.identity, org.id).await?;
    Ok(page(
        &visitor,
        Place::Org(&org, Tab::Dashboard),
        "Drift dashboard",
        &html! {
            h1 { "Drift dashboard" }
            (headline(&visitor, &dashboard))
            section { h2 { "Incidents opened and closed per week" } (weeks(&dashboard)) }
            div.columns {
                section { h2 { "Open incidents by status" } (by_name("Status", &dashboard.open_incidents_by_status)) }
                section { h2 { "Open incidents by severity" } (by_name("Severity", &dashboard.open_incidents_by_severity)) }
                section { h2 { "Environments by drift" } (by_name("Drift", &dashboard.environments_by_status)) }
                section { h2 { "Rows purged by recorded runs" } (purged(&dashboard)) }
            }
        },
    ))
}

fn headline(visitor: &Visitor, dashboard: &Dashboard) -> Markup {
    let open: i64 = dashboard.open_incidents_by_status.values().sum();
    html! {
        dl.figures {
            div { dt { "Open incidents" } dd { (humanize::number(open)) } }
            div { dt { "Mean time to close" } dd { @match dashboard.mean_seconds_to_close {
                Some(mean) => { (page::seconds(mean)) } None => { (page::dash()) }
            } } }
            div { dt { "Incidents with purged details" } dd { (humanize::number(dashboard.purged.incidents)) } }
            div { dt { "Last verified purge" } dd { (page::ago_or_dash(visitor.now, dashboard.purged.last_verified_at)) } }
        }
    }
}

fn weeks(dashboard: &Dashboard) -> Markup {
    let columns: Vec<charts::Column> = dashboard
        .weeks
        .iter()
        .map(|week| charts::Column {
            name: week.week.format("%b %-d").to_string(),
            href: None,
            values: vec![week.opened, week.closed],
        })
        .collect();
    let series = ["opened".to_owned(), "closed".to_owned()];
    charts::columns("Incidents per week", Columns::SideBySide, &series, &columns)
}

fn by_name(what: &str, figures: &BTreeMap<String, i64>) -> Markup {
    let rows: Vec<(Markup, i64)> = figures
        .iter()
        .map(|(name, count)| (page::badge(name), *count))
        .collect();
    charts::rows(what, what, &rows)
}

fn purged(dashboard: &Dashboard) -> Markup {
    let rows: Vec<(Markup, i64)> = tables()
        .map(|table| {
            let rows = dashboard.purged.rows.get(table).copied().unwrap_or(0);
            (html! { code { (table) } }, rows)
        })
        .collect();
    charts::rows("Rows purged", "Table", &rows)
}
