//! The audit list of operators' actions.

use std::collections::HashMap;

use axum::extract::State;
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    Answer,
    page::{self, Place, page},
    runs::org_link,
    session::Visitor,
    visit::PageQuery,
};
use crate::{
    drift::organizations,
    http::{ApiState, api::cut},
    ids::OrgId,
    runs::{self, Action},
};

/// Actions per page.
const PER_PAGE: i64 = 50;

/// The start of a page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    cursor: Option<i64>,
}

/// The actions, newest first.
pub(super) async fn list(
    State(state): State<ApiState>,
    visitor: Visitor,
    PageQuery(query): PageQuery<ListQuery>,
) -> Answer {
    visitor.identity.may_operate()?;
    let found = runs::actions(&state.database, query.cursor, PER_PAGE + 1).await?;
    let (found, next) = cut(found, PER_PAGE, |action| action.id);
    let orgs: Vec<_> = found.iter().filter_map(|action| action.org_id).collect();
    let names = organizations::names(&state.database, &orgs).await?;
    Ok(page(
        &visitor,
        Place::Actions,
        "Operator actions",
        &html! {
            h1 { "Operator actions" }
            @if found.is_empty() { p.empty { "Nobody has done anything by hand yet." } } @else {
                (page::table("Operator actions", &html! {
                    thead { tr {
                        th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "Run" }
                        th scope="col" { "Organization" } th scope="col" { "Led to" } th scope="col" { "Reason" }
                    } }
                    tbody { (page::rows(&found, |action| row(&visitor, action, &names))) }
                }))
            }
            (page::more(next, "/console/actions", ""))
        },
    ))
}

fn row(visitor: &Visitor, action: &Action, names: &HashMap<OrgId, String>) -> Markup {
    html! {
        tr {
            th scope="row" { (page::ago(visitor.now, action.at)) }
            td { (action.actor) }
            td { (page::spaced_name(&action.action)) @if let Some(subject) = &action.of_subject { " of " (subject) } }
            td { @match action.run_id { Some(run) => { (page::run_link(run)) } None => { (page::dash()) } } }
            td { @match action.org_id { Some(org) => { (org_link(OrgId(org), names)) } None => { (page::dash()) } } }
            td { @match resulting_run(action) { Some(run) => { (page::run_link(run)) } None => { (page::dash()) } } }
            td { (action.reason.as_deref().unwrap_or("–")) }
        }
    }
}

/// The run that an action created or joined.
fn resulting_run(action: &Action) -> Option<uuid::Uuid> {
    action.led_to.as_ref()?.parse().ok()
}

/// An action as an entry of a run's timeline.
pub(super) fn sentence(action: &Action) -> Markup {
    html! {
        (page::spaced_name(&action.action)) " by " (action.actor)
        @if let Some(run) = resulting_run(action) { ", led to " (page::run_link(run)) }
        @if let Some(reason) = &action.reason { ": " (reason) }
    }
}
