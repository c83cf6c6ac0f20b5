//! A run's progress as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, StreamExt, stream};
use tokio::time::{sleep, sleep_until};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    http::{ApiState, Identity, Problem, auth::Token, extract::Path},
    ids::RunId,
    runs::{self, Run},
};

/// How often the record is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// The most polls of one stream. A browser then reconnects by itself.
const MAX_POLLS: u32 = 10 * 60 * 1000 / 300;

/// One event of the stream.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "a description only")]
struct RunEvent {
    /// `run`.
    event: String,
    /// The run with its steps, as JSON.
    data: String,
}

/// Sends the run's record as an event `run`, at once and after every change, until the run is final or the token
/// expires.
#[utoipa::path(get, path = "/retention/runs/{runId}/events", tag = "retention", params(("runId" = Uuid, Path)),
    responses((status = 200, content_type = "text/event-stream", body = RunEvent, description = "events `run` with the run as JSON"),
              (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn follow(
    State(state): State<ApiState>,
    token: Token,
    Path(run): Path<Uuid>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let id = RunId(run);
    let run = runs::get(&state.database, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    token.identity.may_read(run.org_id)?;
    let permits = state.limits.stream_permits(&token.identity)?;
    let expired = sleep_until(token.deadline());
    let changes = stream::unfold(Some((String::new(), 0, permits)), move |sent| {
        let (state, identity) = (state.clone(), token.identity.clone());
        async move {
            let (sent, polls, permits) = sent?;
            let (run, text, polls) = next_change(&state, &identity, id, &sent, polls).await?;
            let event = Event::default().event("run").data(&text);
            let next = (!run.is_final()).then_some((text, polls, permits));
            Some((Ok(event), next))
        }
    });
    let changes = changes.take_until(expired);
    Ok(Sse::new(changes.boxed()).keep_alive(KeepAlive::default()))
}

/// Waits until the record differs from `sent`. Returns `None` at the end of the stream.
async fn next_change(
    state: &ApiState,
    identity: &Identity,
    id: RunId,
    sent: &str,
    mut polls: u32,
) -> Option<(Run, String, u32)> {
    while polls < MAX_POLLS && !state.stop.is_cancelled() {
        // A database that is unavailable for a moment ends the stream. The browser reconnects.
        let run = identity.visible_run(runs::get(&state.database, id).await.ok()??);
        let text = serde_json::to_string(&run).ok()?;
        if text != sent {
            return Some((run, text, polls));
        }
        polls += 1;
        tokio::select! {
            () = sleep(POLL_INTERVAL) => {}
            () = state.stop.cancelled() => {}
        }
    }
    None
}
