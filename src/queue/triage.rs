//! Most organizations have nothing to purge on most nights. Their runs are closed here, many in one transaction, without
//! an attempt of their own: each is verified like any other, and has the same record.
//!
//! A lap goes over the waiting runs by id. Every process begins its own somewhere else, and passes over what another
//! has locked, so any number of them share the work. Runs with something to purge are left to their deliveries.

use uuid::Uuid;

use super::bulk::{self, Behalf, ClosedRun, Closing, Waiting};
use crate::{
    ids::OrgId,
    postgres::{Database, Flush, Patience, Transaction},
    purge,
};

/// What one look came to.
#[derive(Debug, Default)]
pub struct Look {
    /// The last run looked at; none: the lap is over.
    pub last: Option<Uuid>,
    /// How many runs were looked at.
    pub met: usize,
    /// What was closed.
    pub closed: Vec<ClosedRun>,
}

/// Looks at up to `limit` waiting runs after `after`, by id, and closes those with nothing to purge.
///
/// # Errors
/// When the database fails, or it takes too long; then nothing was closed.
pub async fn close_idle(
    database: &Database,
    after: Uuid,
    limit: i64,
    behalf: Behalf<'_>,
) -> sqlx::Result<Look> {
    let mut tx = database
        .begin_yielding(Patience::Short, Flush::AtOnce)
        .await?;
    let waiting = lock_waiting(&mut tx, after, limit).await?;
    let met = waiting.len();
    let Some((last, now)) = waiting.last().map(|run| (run.id, run.now)) else {
        tx.rollback().await?;
        return Ok(Look::default());
    };
    let organizations = waiting
        .iter()
        .map(|run| (OrgId(run.org_id), run.plan.as_deref()));
    let at_rest = purge::at_rest(&mut tx, organizations.collect(), now).await?;
    let idle = waiting.into_iter().zip(at_rest).filter_map(|(run, rest)| {
        Some(Closing {
            rest: rest?,
            span: run.span(),
            run,
        })
    });
    let idle: Vec<_> = idle.collect();
    let closed = if idle.is_empty() {
        tx.rollback().await?;
        Vec::new()
    } else {
        bulk::close(&mut tx, &idle, behalf).await?;
        bulk::commit(database, tx, idle, behalf).await?
    };
    Ok(Look {
        last: Some(last),
        met,
        closed,
    })
}

/// Runs that have never been started, and repeat none: one that does is to tell which. Whoever claims one now waits for us,
/// or is passed over.
async fn lock_waiting(
    tx: &mut Transaction<'_>,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<Waiting>> {
    sqlx::query_as!(
        Waiting,
        r#"-- queue.lock_waiting
        SELECT r.id, r.org_id, r.trigger, r.delivery_id, r.traceparent,
               (SELECT retention.excerpt(coalesce(o.plan, '')) FROM main_app.organizations o WHERE o.id = r.org_id) AS plan, now() AS "now!"
        FROM retention.purge_runs r
        WHERE r.status = 'queued' AND r.attempts = 0 AND r.policy IS NULL AND r.replay_of IS NULL
          AND (r.next_attempt_at IS NULL OR r.next_attempt_at <= now()) AND r.id > $1
        ORDER BY r.id LIMIT $2
        FOR UPDATE OF r SKIP LOCKED"#,
        after,
        limit
    )
    .fetch_all(tx)
    .await
}
