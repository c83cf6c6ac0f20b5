//! The list of all organizations, for operators.

use axum::extract::State;
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Answer,
    page::{self, Place, page},
    session::Visitor,
    visit::PageQuery,
};
use crate::{
    drift::organizations::{self, Organization, OrganizationFilter},
    http::{ApiState, api::cut, extract::bounded_text},
};

/// Organizations per page.
const PER_PAGE: i64 = 50;

/// The filter and the start of a page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    search: Option<String>,
    cursor: Option<Uuid>,
}

/// Organizations by name.
pub(super) async fn list(
    State(state): State<ApiState>,
    visitor: Visitor,
    PageQuery(query): PageQuery<ListQuery>,
) -> Answer {
    visitor.identity.may_operate()?;
    let search = bounded_text("search", query.search, 200)?;
    let filter = OrganizationFilter {
        search: search.clone(),
        plans: None,
    };
    let found = organizations::list(&state.database, &filter, query.cursor, PER_PAGE + 1).await?;
    let (found, next) = cut(found, PER_PAGE, |org| org.id.0);
    let carried = serde_html_form::to_string([("search", search.as_deref())]).unwrap_or_default();
    let carried = if search.is_some() {
        carried
    } else {
        String::new()
    };
    Ok(page(
        &visitor,
        Place::Organizations,
        "Organizations",
        &html! {
            h1 { "Organizations" }
            form.filter method="get" role="search" {
                div { label for="search" { "Search" }
                    input id="search" name="search" type="search" value=[search.as_deref()] placeholder="Name or id"; }
                button type="submit" { "Search" }
            }
            @if found.is_empty() {
                p.empty { @if search.is_some() { "No organization matches." } @else { "There is no organization yet." } }
            } @else {
                (organization_table(&found))
            }
            (page::more(next, "/console/orgs", &carried))
        },
    ))
}

/// Organizations as a table.
pub(super) fn organization_table(organizations: &[Organization]) -> Markup {
    page::table(
        "Organizations",
        &html! {
            thead { tr { th scope="col" { "Name" } th scope="col" { "Plan" } th scope="col" { "Id" } } }
            tbody { @for org in organizations {
                tr {
                    th scope="row" { a href=(page::org_path(org.id, "retention")) { (org.name) } }
                    td { (org.plan) }
                    td { code { (org.id) } }
                }
            } }
        },
    )
}
