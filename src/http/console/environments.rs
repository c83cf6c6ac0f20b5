//! The list of an organization's environments with their badges, and one environment with the flags of its newest
//! check.

use axum::extract::State;
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Answer, organization,
    page::{self, Place, Tab, page},
    session::Visitor,
    visit::{PagePath, PageQuery},
};
use crate::{
    drift::environments::{self, Environment, WorkflowFlag},
    http::{ApiState, Problem, api::cut},
    humanize,
};

/// Environments per page.
const PER_PAGE: i64 = 50;

/// The start of a page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    cursor: Option<Uuid>,
}

/// The organization's environments.
pub(super) async fn list(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath(org): PagePath<Uuid>,
    PageQuery(query): PageQuery<ListQuery>,
) -> Answer {
    let org = organization(&state, &visitor, org).await?;
    let found = environments::list(&state.database, org.id, query.cursor, PER_PAGE + 1).await?;
    let (found, next) = cut(found, PER_PAGE, |environment| environment.id);
    let path = page::org_path(org.id, "environments");
    Ok(page(
        &visitor,
        Place::Org(&org, Tab::Environments),
        "Environments",
        &html! {
            h1 { "Environments" }
            @if found.is_empty() { p.empty { "This organization has no environment yet." } } @else {
                (page::table("Environments", &html! {
                    thead { tr {
                        th scope="col" { "Environment" } th scope="col" { "Drift" } th scope="col" { "Checked" }
                        th.number scope="col" { "Modified" } th.number scope="col" { "Not in git" }
                        th.number scope="col" { "Unknown" }
                    } }
                    tbody { @for environment in &found { (row(&visitor, &path, environment)) } }
                }))
            }
            (page::more(next, &path, ""))
        },
    ))
}

fn row(visitor: &Visitor, path: &str, environment: &Environment) -> Markup {
    html! {
        tr {
            th scope="row" { a href={ (path) "/" (environment.id) } { (environment.name) } }
            td { (page::badge(&environment.drift_status)) }
            td { (checked(visitor, environment)) }
            td.number { (humanize::number(environment.modified_count)) }
            td.number { (humanize::number(environment.not_in_git_count)) }
            td.number { (humanize::number(environment.unknown_count)) }
        }
    }
}

fn checked(visitor: &Visitor, environment: &Environment) -> Markup {
    html! {
        @match environment.last_checked_at {
            Some(at) => { "Checked " (page::ago(visitor.now, at)) }
            None => { "Never checked" }
        }
    }
}

/// One environment and the flags of its newest check.
pub(super) async fn show(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath((org, env)): PagePath<(Uuid, Uuid)>,
) -> Answer {
    let org = organization(&state, &visitor, org).await?;
    let environment = environments::get(&state.database, org.id, env)
        .await?
        .ok_or_else(Problem::not_found)?;
    let flags = match &environment.check_id {
        Some(check) => environments::flags(&state.database, check).await?,
        None => Vec::new(),
    };
    Ok(page(
        &visitor,
        Place::Org(&org, Tab::Environments),
        &environment.name,
        &html! {
            h1 { (environment.name) " " (page::badge(&environment.drift_status)) }
            p.lead { (checked(&visitor, &environment)) }
            h2 { "Workflows that the newest check flagged" }
            @if flags.is_empty() { p.empty { "None." } } @else { (flag_table(&flags)) }
        },
    ))
}

fn flag_table(flags: &[WorkflowFlag]) -> Markup {
    page::table(
        "Flagged workflows",
        &html! {
            thead { tr { th scope="col" { "Workflow" } th scope="col" { "Flag" } th scope="col" { "Id" } } }
            tbody { (page::rows(flags, |flag| html! {
                tr {
                    th scope="row" { (flag.workflow_name.as_deref().unwrap_or(&flag.workflow_id)) }
                    td { (page::badge(&flag.flag)) }
                    td { code { (flag.workflow_id) } }
                }
            })) }
        },
    )
}
