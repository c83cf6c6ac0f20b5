//! One run and its work on each table, updated until the run is final; and its cancellation.

use axum::{extract::State, response::Redirect};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Answer, actions,
    page::{self, Place, Tab, page},
    session::Visitor,
    visit::{PagePath, Signed},
};
use crate::{
    drift::organizations::{self, Organization},
    http::{ApiState, Problem, api::MAX_REASON_CHARS, extract::bounded_text},
    humanize,
    ids::RunId,
    runs::{self, Action, Operator, Run, RunStatus},
};

/// The data of a run's page.
struct Shown {
    run: Run,
    org: Option<Organization>,
    actions: Vec<Action>,
    replays: Vec<Uuid>,
}

async fn find(state: &ApiState, visitor: &Visitor, id: Uuid) -> Answer<Shown> {
    let run = runs::get(&state.database, RunId(id)).await?;
    let run = run.ok_or_else(Problem::not_found)?;
    visitor.identity.may_read(run.org_id)?;
    Ok(Shown {
        org: organizations::get(&state.database, run.org_id).await?,
        actions: runs::actions_on(&state.database, run.id).await?,
        replays: runs::replays_of(&state.database, run.id).await?,
        run: visitor.identity.visible_run(run),
    })
}

/// The position in the navigation: all runs for operators, the organization for everybody else.
fn place<'a>(visitor: &Visitor, org: Option<&'a Organization>) -> Place<'a> {
    match org {
        Some(org) if visitor.identity.may_operate().is_err() => Place::Org(org, Tab::Retention),
        _ => Place::Runs,
    }
}

/// The run's page.
pub(super) async fn show(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath(id): PagePath<Uuid>,
) -> Answer {
    let shown = find(&state, &visitor, id).await?;
    let title = format!("Run {}", page::short(id));
    Ok(page(
        &visitor,
        place(&visitor, shown.org.as_ref()),
        &title,
        &html! {
            h1 { (title) }
            (progress_of(&visitor, &shown))
        },
    ))
}

/// The part of the page that changes while the run is live. It reloads itself every second.
pub(super) async fn progress(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath(id): PagePath<Uuid>,
) -> Answer {
    let shown = find(&state, &visitor, id).await?;
    Ok(progress_of(&visitor, &shown))
}

fn progress_of(visitor: &Visitor, shown: &Shown) -> Markup {
    let run = &shown.run;
    let path = format!("/console/runs/{}/progress", run.id);
    let live = !run.is_final();
    html! {
        div id="progress" hx-get=[live.then_some(path)] hx-trigger=[live.then_some("every 1s")] hx-swap=[live.then_some("outerHTML")] {
            div.title {
                (state_line(visitor, run))
                @if visitor.identity.may_operate().is_ok() { (buttons(run)) }
            }
            (facts(visitor, shown))
            section { h2 { "Tables" } (steps(run)) }
            @if let Some(error) = &run.error { (error_box(run, error)) }
            section { h2 { "Timeline" } (timeline(shown)) }
        }
    }
}

fn state_line(visitor: &Visitor, run: &Run) -> Markup {
    html! {
        p.state role="status" {
            (page::badge(run.status.name()))
            @match run.verified_at {
                Some(at) => { " " strong { "Verified" } " " (page::ago(visitor.now, at)) ": nothing expired and unprotected was left." }
                None if run.status == RunStatus::Queued => " Waiting for a worker.",
                None if run.status == RunStatus::Running => " A worker is on it.",
                None if run.status == RunStatus::Retrying => {
                    " Attempt " (run.attempts) " failed; the next one is due "
                    (page::ago_or_dash(visitor.now, run.next_attempt_at)) "."
                }
                None => { " Ended without verification." }
            }
        }
    }
}

fn facts(visitor: &Visitor, shown: &Shown) -> Markup {
    let run = &shown.run;
    html! {
        dl.facts {
            div { dt { "Organization" } dd { @match &shown.org {
                Some(org) => { a href=(page::org_path(org.id, "retention")) { (org.name) } }
                None => { (run.org_id) " (deleted)" }
            } } }
            div { dt { "Plan" } dd { (run.plan.as_deref().unwrap_or("not resolved")) } }
            div { dt { "Trigger" } dd { (page::spaced_name(run.trigger.name())) } }
            div { dt { "Asked by" } dd { (run.requested_by) } }
            @if let Some(reason) = &run.reason { div { dt { "Reason" } dd { (reason) } } }
            div { dt { "Attempts" } dd { (run.attempts) " of " (run.max_attempts) } }
            @if let Some(throttled) = run.throttled() { div { dt { "Throttled" } dd { (throttled) } } }
            @if let Some(slot) = run.scheduled_for { div { dt { "Slot" } dd { (page::exact(slot)) } } }
            @if let Some(first) = run.replay_of { div { dt { "Replay of" } dd { (page::run_link(first)) } } }
            @if !shown.replays.is_empty() {
                div { dt { "Replayed by" } dd { @for replay in &shown.replays { (page::run_link(*replay)) " " } } }
            }
            @if let (Some(started), Some(finished)) = (run.started_at, run.finished_at) {
                div { dt { "Took" } dd { (humanize::duration(finished - started)) } }
            }
            div { dt { "Created" } dd { (page::ago(visitor.now, run.created_at)) } }
        }
    }
}

fn steps(run: &Run) -> Markup {
    html! {
        @if run.steps.is_empty() { p.empty { "No step has begun: nothing was purged." } } @else {
            (page::table("Purged rows, by table", &html! {
                thead { tr {
                    th scope="col" { "Table" } th scope="col" { "State" } th.number scope="col" { "Rows purged" }
                    th.number scope="col" { "Kept by a rule" } th.number scope="col" { "Batches" }
                    th scope="col" { "Goes if older than" }
                } }
                tbody { @for step in run.steps.iter() {
                    tr {
                        th scope="row" { code { (step.table_name) } }
                        td { (page::badge(&step.status)) }
                        td.number { (humanize::number(step.rows_purged)) }
                        td.number { (humanize::number(step.rows_kept)) }
                        td.number { (humanize::number(step.batches)) }
                        td { @match step.cutoff { Some(cutoff) => { (page::exact(cutoff)) } None => "no rule" } }
                    }
                } }
                tfoot { tr { th scope="row" { "All" } td {} td.number { (humanize::number(run.rows_purged())) }
                    td {} td {} td {} } }
            }))
            @for (step, along) in run.steps.iter().filter_map(|step| Some((step, step.cascaded_in_words()?))) {
                p.hint { "A foreign key also removed " (along) " with rows of " code { (step.table_name) } "." }
            }
        }
    }
}

fn error_box(run: &Run, error: &str) -> Markup {
    html! {
        div.banner.bad {
            p { strong { (run.error_kind.as_deref().unwrap_or("error")) } }
            p.error { (error) }
        }
    }
}

fn timeline(shown: &Shown) -> Markup {
    let run = &shown.run;
    let mut events = vec![(run.created_at, html! { "created by " (run.requested_by) })];
    let moment = |at: Option<DateTime<Utc>>, what: &str| at.map(|at| (at, html! { (what) }));
    events.extend(moment(run.started_at, "first attempt started"));
    for step in run.steps.iter().filter(|step| step.cutoff.is_some()) {
        let done = |at| (at, html! { code { (step.table_name) } " done" });
        events.extend(step.finished_at.map(done));
    }
    events.extend(moment(run.verified_at, "verified"));
    events.extend(moment(run.finished_at, "ended"));
    for action in &shown.actions {
        events.push((action.at, actions::sentence(action)));
    }
    // The sort is stable, so events with the same time keep this order.
    events.sort_by_key(|(at, _)| *at);
    page::table(
        "Timeline",
        &html! {
            thead { tr { th scope="col" { "When" } th scope="col" { "What" } } }
            tbody { (page::rows(&events, |(at, what)| html! {
                tr { th.when scope="row" { (page::exact(*at)) } td { (what) } }
            })) }
        },
    )
}

/// The buttons. Their ids keep the focus on them when the surrounding part is reloaded.
fn buttons(run: &Run) -> Markup {
    html! {
        div.buttons {
            @match run.status {
                RunStatus::Failed | RunStatus::Cancelled => { a.button #replay href={ "/console/runs/replay?run=" (run.id) } { "Replay…" } }
                RunStatus::Succeeded => {}
                _ => { a.button #cancel href={ "/console/runs/" (run.id) "/cancel" } { "Cancel…" } }
            }
        }
    }
}

/// Asks for confirmation and for a reason.
pub(super) async fn confirm_cancel(
    State(state): State<ApiState>,
    visitor: Visitor,
    PagePath(id): PagePath<Uuid>,
) -> Answer {
    visitor.identity.may_operate()?;
    let shown = find(&state, &visitor, id).await?;
    if shown.run.is_final() {
        let over = format!(
            "run {id} is {} already: there is nothing to cancel",
            shown.run.status
        );
        return Err(Problem::conflict(over).into());
    }
    let org = shown
        .org
        .map_or_else(|| shown.run.org_id.to_string(), |org| org.name);
    Ok(page(
        &visitor,
        Place::Runs,
        "Cancel this run?",
        &html! {
            h1 { "Cancel this run?" }
            p.lead { "Run " (page::run_link(id)) " of " strong { (org) } " is " (page::badge(shown.run.status.name()))
                ". A running one stops at its next batch; rows that are already purged are not restored." }
            form.card method="post" {
                (page::csrf(&visitor))
                (page::reason_field())
                div.buttons {
                    button.danger type="submit" { "Cancel run" }
                    a.button href={ "/console/runs/" (id) } { "Let it run" }
                }
            }
        },
    ))
}

/// The operator's reason.
#[derive(Debug, Deserialize)]
pub(super) struct ActionReason {
    reason: Option<String>,
}

/// Cancels the run.
pub(super) async fn cancel(
    State(state): State<ApiState>,
    PagePath(id): PagePath<Uuid>,
    Signed(visitor, because): Signed<ActionReason>,
) -> Answer<Redirect> {
    visitor.identity.may_operate()?;
    let by = Operator {
        name: visitor.identity.subject,
        reason: bounded_text("reason", because.reason, MAX_REASON_CHARS)?,
    };
    runs::cancel(&state.database, RunId(id), &by).await?;
    Ok(Redirect::to(&format!("/console/runs/{id}")))
}
