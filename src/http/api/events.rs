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

/// How often the record is looked at.
const POLL: Duration = Duration::from_millis(300);
/// How long one stream lasts at most; a browser comes back by itself.
const LONGEST: u32 = 10 * 60 * 1000 / 300;

/// One event of the stream.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "a description only")]
struct RunEvent {
    /// `run`.
    event: String,
    /// The run with its steps, as JSON.
    data: String,
}

/// The run's record, as an event `run` at once and at every change, until it is final, or the token is valid no longer.
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
    let place = state.limits.stream(&token.identity)?;
    let expired = sleep_until(token.last_moment());
    let changes = stream::unfold(Some((String::new(), 0, place)), move |told| {
        let (state, identity) = (state.clone(), token.identity.clone());
        async move {
            let (told, polls, place) = told?;
            let (run, text, polls) = next_change(&state, &identity, id, &told, polls).await?;
            let event = Event::default().event("run").data(&text);
            let next = (!run.is_final()).then_some((text, polls, place));
            Some((Ok(event), next))
        }
    });
    let changes = changes.take_until(expired);
    Ok(Sse::new(changes.boxed()).keep_alive(KeepAlive::default()))
}

/// Waits until the record is another than the one `told`; nothing when the stream is over.
async fn next_change(
    state: &ApiState,
    identity: &Identity,
    id: RunId,
    told: &str,
    mut polls: u32,
) -> Option<(Run, String, u32)> {
    while polls < LONGEST && !state.stop.is_cancelled() {
        // A database that is away for a moment ends the stream; the browser asks again.
        let run = identity.shown(runs::get(&state.database, id).await.ok()??);
        let text = serde_json::to_string(&run).ok()?;
        if text != told {
            return Some((run, text, polls));
        }
        polls += 1;
        tokio::select! {
            () = sleep(POLL) => {}
            () = state.stop.cancelled() => {}
        }
    }
    None
}
