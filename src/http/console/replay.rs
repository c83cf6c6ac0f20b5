//! Replays one run, the selected runs, or all that match a filter. The form names every run, so exactly the shown runs
//! are replayed.

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
    http::{ApiState, Problem, api::MAX_REASON_CHARS, extract::bounded_text},
    humanize,
    runs::{self, MAX_REPLAYED, Operator, Replayable, RunFilter, RunStatus},
};

/// The selected runs.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chosen {
    run: Vec<Uuid>,
    /// Whether the request comes from the boxes of a list. Then no ticked box means no run.
    selected: bool,
}

/// Shows exactly the runs that would be replayed.
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
                p.empty { "Nothing to replay: only the latest matching run of each organization is replayed, unless a later run succeeded or the organization is gone." }
                p { a href="/console/runs" { "Back to the runs" } }
            } @else {
                p.lead {
                    "Each replay creates a new run; the old runs do not change. Only the latest matching run of each organization "
                    "is replayed, unless a later run succeeded."
                    @if all > count { " These are the first " (humanize::number(count)) " of " (humanize::number(all)) " matching runs." }
                }
                form.card method="post" {
                    (page::csrf(&visitor))
                    @for run in &runs { input type="hidden" name="run" value=(run.id); }
                    (page::reason_field())
                    div.buttons {
                        button.primary type="submit" { "Replay " (humanize::quantity(count, "run", "runs")) }
                        a.button href="/console/runs" { "Leave them" }
                    }
                }
                (replay_table(&visitor, &runs, &names))
            }
        },
    ))
}

/// A filter for those of these runs that can be replayed.
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

/// The fields of the confirmation form.
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
        reason: bounded_text("reason", form.reason, MAX_REASON_CHARS)?,
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
