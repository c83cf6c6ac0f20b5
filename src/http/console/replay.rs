//! Replaying runs: one, the selected, or all that match a filter. What is shown is what is replayed: the form that
//! is sent names every run.

use axum::{extract::State, response::Redirect};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Answer,
    page::{self, Place, page},
    runs::{RunsQuery, org_link},
    session::Visitor,
    visit::{PageQuery, Signed},
};
use crate::{
    drift::organizations,
    figures,
    http::{ApiState, Problem, api::MAX_REASON, extract::bounded_text},
    runs::{self, MAX_REPLAYED, Operator, Replayable, RunFilter, RunStatus},
};

/// Runs by name.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chosen {
    run: Vec<Uuid>,
    /// From the boxes of a list: none of them ticked means none.
    selected: bool,
}

/// Exactly what would be replayed.
pub(super) async fn confirm(
    State(state): State<ApiState>,
    visitor: Visitor,
    PageQuery(query): PageQuery<RunsQuery>,
    PageQuery(chosen): PageQuery<Chosen>,
) -> Answer {
    visitor.identity.may_operate()?;
    let filter = if chosen.run.is_empty() && !chosen.selected {
        query.filter()?
    } else {
        chosen_filter(&chosen.run)
    };
    if !matches!(
        filter.status,
        None | Some(RunStatus::Failed | RunStatus::Cancelled)
    ) {
        let why = "only failed and cancelled runs can be replayed; filter by one of these";
        return Err(Problem::bad_request(why).into());
    }
    let (runs, all) = runs::replayable(&state.database, &filter, Some(MAX_REPLAYED)).await?;
    let orgs: Vec<Uuid> = runs.iter().map(|run| run.org_id.0).collect();
    let names = organizations::names(&state.database, &orgs).await?;
    let count = runs.len();
    Ok(page(
        &visitor,
        Place::Runs,
        "Replay runs?",
        &html! {
            h1 { "Replay runs?" }
            @if runs.is_empty() {
                p.empty { "Nothing to replay: of each organization the latest matching run is repeated, unless one succeeded since or the organization is gone." }
                p { a href="/console/runs" { "Back to the runs" } }
            } @else {
                p.lead {
                    "Each becomes a new run; the old ones stay as they were. Of each organization the latest matching run is "
                    "repeated, unless one succeeded since."
                    @if all > count { " Of " (figures::number(all)) " that match, these " (figures::number(count)) " go first." }
                }
                form.card method="post" {
                    (page::csrf(&visitor))
                    @for run in &runs { input type="hidden" name="run" value=(run.id); }
                    (page::reason_field())
                    div.buttons {
                        button.primary type="submit" { "Replay " (figures::count(count, "run", "runs")) }
                        a.button href="/console/runs" { "Leave them" }
                    }
                }
                (replay_table(&visitor, &runs, &names))
            }
        },
    ))
}

/// These runs, as far as they can be replayed.
fn chosen_filter(runs: &[Uuid]) -> RunFilter {
    RunFilter {
        ids: Some(runs.to_vec()),
        ..RunFilter::default()
    }
}

fn replay_table(
    visitor: &Visitor,
    runs: &[Replayable],
    names: &std::collections::HashMap<crate::ids::OrgId, String>,
) -> Markup {
    page::table(
        "Runs to replay",
        &html! {
            thead { tr {
                th scope="col" { "Run" } th scope="col" { "Organization" } th scope="col" { "Status" }
                th scope="col" { "Error kind" } th scope="col" { "Created" } th scope="col" { "Leads to" }
            } }
            tbody { (page::rows(runs, |run| html! {
                tr {
                    th scope="row" { (page::run_link(run.id.0)) }
                    td { (org_link(run.org_id, names)) }
                    td { (page::badge(run.status.name())) }
                    td { (run.error_kind.as_deref().unwrap_or("–")) }
                    td { (page::ago(visitor.now, run.created_at)) }
                    td { @if run.has_live_run { "the live run" } @else { "a new run" } }
                }
            })) }
        },
    )
}

/// The fields of the confirmation.
#[derive(Debug, Deserialize)]
pub(super) struct ReplayForm {
    #[serde(default)]
    run: Vec<Uuid>,
    reason: Option<String>,
}

/// Replays the runs that the page showed.
pub(super) async fn replay(
    State(state): State<ApiState>,
    Signed(visitor, form): Signed<ReplayForm>,
) -> Answer<Redirect> {
    visitor.identity.may_operate()?;
    let by = Operator {
        name: visitor.identity.subject,
        reason: bounded_text("reason", form.reason, MAX_REASON)?,
    };
    let filter = chosen_filter(&form.run);
    let (replayed, _) =
        runs::replay_matching(&state.database, &filter, &by, Some(MAX_REPLAYED)).await?;
    Ok(match replayed.as_slice() {
        [only] if form.run.len() == 1 => {
            Redirect::to(&format!("/console/runs/{}", only.enqueued.run_id))
        }
        all => {
            let joined = all
                .iter()
                .filter(|replayed| replayed.enqueued.coalesced)
                .count();
            Redirect::to(&format!(
                "/console/runs?replayed={}&joined={joined}",
                all.len()
            ))
        }
    })
}
