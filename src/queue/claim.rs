//! The claim: one statement that decides whether a delivery becomes an attempt.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{postgres::types::PgInterval, types::Json};

use super::{Delivery, QUEUE};
use crate::{
    ids::{OrgId, RunId},
    postgres::{Database, Transaction},
    purge::{self, OwnedRun, PurgeError, Terms},
    retention::RetentionPolicy,
};

/// How long an owner may be silent before its run may be taken over.
#[derive(Debug, Clone, Copy)]
pub struct Lease(pub Duration);

impl Lease {
    pub(super) fn interval(self) -> PgInterval {
        PgInterval {
            months: 0,
            days: 0,
            microseconds: i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX),
        }
    }
}

/// What a delivery came to.
#[derive(Debug)]
pub enum Claim {
    /// The run is ours: purge.
    Owned(OwnedRun, Terms),
    /// The run is ours, and there is nothing to go by: it ends.
    Unresolved(OwnedRun, PurgeError),
    /// It had used up its attempts; it is `failed` now.
    Exhausted {
        /// Whose run.
        org: OrgId,
        /// Who had asked for it.
        trigger: String,
    },
    /// It was cancelled while it waited, and this was its delivery.
    Cancelled {
        /// Who had asked for it.
        trigger: String,
    },
    /// Final already, not due yet, held by a live owner, or gone: nothing to do.
    Nothing,
}

/// Claims `run` for the worker that received `delivery`: raises its ownership token, counts the attempt and freezes
/// what it goes by.
///
/// A run that is `running` is taken over only when its owner's heartbeat is older than `lease`. Over the cap the
/// run ends as `failed`, kind `attempts_exhausted`: a run that kills its process every time does not loop.
///
/// `again`: an earlier try of the same caller failed, and may have claimed the run all the same, its reply lost. Then the run is
/// claimed once more, and no further attempt is counted. Otherwise nobody would be at work on it, under a live owner.
///
/// # Errors
/// When the database fails; then nothing was claimed.
pub async fn claim(
    database: &Database,
    run: RunId,
    delivery: &Delivery,
    max_attempts: i32,
    lease: Lease,
    again: bool,
) -> sqlx::Result<Claim> {
    let mut tx = database.begin().await?;
    if again {
        take_back(&mut tx, run, delivery).await?;
    }
    let claimed = sqlx::query!(
        r#"-- queue.claim
        UPDATE retention.purge_runs r
        SET token = r.token + 1,
            worker = $2,
            delivery_id = $3,
            max_attempts = $4,
            next_attempt_at = NULL,
            started_at = coalesce(r.started_at, now()),
            attempts = least(r.attempts + 1, greatest(r.attempts, $4)),
            status = CASE WHEN r.attempts < $4 THEN 'running' ELSE 'failed' END,
            finished_at = CASE WHEN r.attempts < $4 THEN NULL ELSE now() END,
            error_kind = CASE WHEN r.attempts < $4 THEN r.error_kind ELSE 'attempts_exhausted' END,
            error = CASE WHEN r.attempts < $4 THEN r.error
                         ELSE format('all %s attempts are used up and the last one never reported back (its worker died); %s',
                                     r.attempts, coalesce('before that: ' || r.error, 'no attempt left an error')) END
        WHERE r.id = $1
          AND CASE r.status
                WHEN 'queued' THEN r.next_attempt_at IS NULL OR r.next_attempt_at <= now()
                WHEN 'retrying' THEN r.next_attempt_at IS NULL OR r.next_attempt_at <= now()
                WHEN 'running' THEN NOT EXISTS (SELECT FROM apalis.workers w
                                                WHERE w.id = r.worker AND w.last_seen > now() - $5::interval)
                ELSE false
              END
        RETURNING r.org_id, r.trigger, r.urgent, r.token, r.status, r.attempts,
                  r.traceparent, r.replay_of,
                  (SELECT retention.excerpt(coalesce(o.plan, '')) FROM main_app.organizations o WHERE o.id = r.org_id) AS plan,
                  (SELECT first.traceparent FROM retention.purge_runs first WHERE first.id = r.replay_of) AS repeated,
                  r.started_at AS "started_at!: DateTime<Utc>",
                  r.policy AS "policy: Json<RetentionPolicy>""#,
        run.0,
        delivery.worker,
        delivery.id,
        max_attempts,
        lease.interval()
    )
    .fetch_optional(&mut tx)
    .await?;
    let Some(claimed) = claimed else {
        tx.rollback().await?;
        return was_cancelled_while_waiting(database, run, delivery).await;
    };
    let org = OrgId(claimed.org_id);
    if claimed.status == "failed" {
        tx.commit().await?;
        return Ok(Claim::Exhausted {
            org,
            trigger: claimed.trigger,
        });
    }
    let owned = OwnedRun {
        id: run,
        org,
        token: claimed.token,
        trigger: claimed.trigger,
        urgent: claimed.urgent,
        attempt: claimed.attempts,
        max_attempts,
        started_at: claimed.started_at,
        policy: claimed.policy.map(|policy| policy.0),
        traceparent: claimed.traceparent,
        replay_of: claimed.replay_of.map(RunId),
        repeated: claimed.repeated,
    };
    let claim = match purge::settle_terms(&mut tx, &owned, claimed.plan.as_deref()).await {
        Ok(terms) => Claim::Owned(owned, terms),
        Err(PurgeError::Database(error)) => return Err(error),
        Err(error) => Claim::Unresolved(owned, error),
    };
    tx.commit().await?;
    Ok(claim)
}

/// Takes back what a lost try has claimed for this delivery.
async fn take_back(tx: &mut Transaction<'_>, run: RunId, delivery: &Delivery) -> sqlx::Result<()> {
    sqlx::query!(
        "-- queue.take_back
         UPDATE retention.purge_runs SET status = 'queued', attempts = attempts - 1
         WHERE id = $1 AND status = 'running' AND worker = $2 AND delivery_id = $3",
        run.0,
        delivery.worker,
        delivery.id
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Whoever cancels a waiting run may be a process without metrics: its own delivery reports it. The report acknowledges
/// the delivery, so that one which apalis and [`super::next_delivery`] both hand out reports once.
async fn was_cancelled_while_waiting(
    database: &Database,
    run: RunId,
    delivery: &Delivery,
) -> sqlx::Result<Claim> {
    let trigger = sqlx::query_scalar!(
        "-- queue.claim_cancelled
         UPDATE apalis.jobs j SET status = 'Done', done_at = now()
         FROM retention.purge_runs r
         WHERE j.id = $2 AND j.status NOT IN ('Done', 'Killed')
           AND r.id = $1 AND r.status = 'cancelled' AND r.delivery_id = j.id
         RETURNING r.trigger",
        run.0,
        delivery.id
    )
    .fetch_optional(database)
    .await?;
    Ok(trigger.map_or(Claim::Nothing, |trigger| Claim::Cancelled { trigger }))
}

/// Whether a delivery is due that no worker has taken.
///
/// # Errors
/// When the database fails.
pub async fn others_wait(database: &Database) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- queue.others_wait
        SELECT EXISTS (SELECT FROM apalis.jobs
                       WHERE job_type = $1 AND status = 'Pending' AND run_at <= now()) AS "others!""#,
        QUEUE
    )
    .fetch_one(database)
    .await
}
