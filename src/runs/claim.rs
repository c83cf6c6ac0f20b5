//! The claim: one transaction that decides which deliveries become attempts.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{postgres::types::PgInterval, types::Json};
use uuid::Uuid;

use super::{
    progress::RowCursor,
    record::{RunStatus, Trigger},
};
use crate::{
    ids::{OrgId, RunId},
    postgres::{self, Database, Transaction},
    retention::{Cutoffs, DatasetName, PerDataset, Plan, ResolveError, RetentionPolicy},
};

/// How long an owner may be silent before another worker may take its run over.
#[derive(Debug, Clone, Copy)]
pub struct Lease(pub Duration);

impl Lease {
    pub(crate) fn interval(self) -> PgInterval {
        postgres::interval(self.0)
    }
}

/// One delivery of a run, as a worker received it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The queue's job.
    pub id: String,
    /// The queue's worker that holds it.
    pub worker: String,
    /// The run to attempt.
    pub run: RunId,
}

/// A run that this process has claimed: the right to purge, for as long as its token is the run's.
#[derive(Debug, Clone)]
pub struct OwnedRun {
    /// The run.
    pub id: RunId,
    /// The organization whose rows it purges.
    pub org: OrgId,
    /// The fence of this claim: the run's ownership token.
    pub token: i64,
    /// Who asked for it.
    pub trigger: Trigger,
    /// Whether somebody waits for it.
    pub is_urgent: bool,
    /// The number of this attempt, from 1.
    pub attempt: i32,
    /// How many attempts there may be.
    pub max_attempts: i32,
    /// When the run first started, by Postgres's clock. Its cutoffs are counted from here.
    pub started_at: DateTime<Utc>,
    /// Where earlier attempts stopped, by dataset.
    pub resume_from: PerDataset<RowCursor>,
    /// The span that asked for it, as W3C Trace Context.
    pub traceparent: Option<String>,
    /// The run that this one repeats.
    pub replay_of: Option<RunId>,
    /// The span that asked for the run that this one repeats.
    pub replayed_traceparent: Option<String>,
}

/// The policy of a run. It is frozen when the run first starts, and only ever lengthened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenPolicy {
    /// The organization's plan, as read now.
    pub plan: Plan,
    /// The longest windows that the run has seen.
    pub windows: RetentionPolicy,
    /// Rows strictly older than these are expired.
    pub cutoffs: Cutoffs,
}

impl FrozenPolicy {
    /// The policy of `plan` for a run that started at `started_at` and has seen the windows `before`: the longer ones hold.
    #[must_use]
    pub fn new(plan: Plan, before: Option<RetentionPolicy>, started_at: DateTime<Utc>) -> Self {
        let windows = before.map_or(plan.policy(), |before| before.longer(plan.policy()));
        Self {
            plan,
            windows,
            cutoffs: windows.cutoffs(started_at),
        }
    }
}

/// What a set of deliveries came to. A delivery that stands in none of these lists found nothing to do: its run is final, not
/// due yet, held by a live owner, or gone.
#[derive(Debug, Default)]
pub struct Claims {
    /// Runs that are ours now, each with its policy or the reason why it has none.
    pub owned: Vec<(OwnedRun, Result<FrozenPolicy, ResolveError>)>,
    /// Runs that had used up their attempts. They are `failed` now.
    pub exhausted: Vec<(RunId, OrgId, Trigger)>,
    /// Runs that were cancelled while they waited, reported for the first time.
    pub cancelled: Vec<(RunId, Trigger)>,
    /// Deliveries of runs that were attempted before. Each is to be claimed alone.
    pub attempted: Vec<Delivery>,
}

/// A run that can be claimed.
struct Claimable {
    id: Uuid,
    org_id: Uuid,
    trigger: Trigger,
    urgent: bool,
    token: i64,
    attempts: i32,
    started_at: Option<DateTime<Utc>>,
    policy: Option<Json<RetentionPolicy>>,
    traceparent: Option<String>,
    replay_of: Option<Uuid>,
    replayed_traceparent: Option<String>,
    plan: Option<String>,
    now: DateTime<Utc>,
}

impl Claimable {
    fn policy(&self) -> Result<FrozenPolicy, ResolveError> {
        let plan = resolve(OrgId(self.org_id), self.plan.as_deref())?;
        let before = self.policy.as_ref().map(|policy| policy.0);
        let started_at = self.started_at.unwrap_or(self.now);
        Ok(FrozenPolicy::new(plan, before, started_at))
    }
}

/// The plan of an organization by the text of its column, or the reason why it has none.
pub(super) fn resolve(org: OrgId, plan: Option<&str>) -> Result<Plan, ResolveError> {
    plan.ok_or(ResolveError::NoOrganization(org))?
        .parse()
        .map_err(|unknown| ResolveError::UnknownPlan(org, unknown))
}

/// Claims the runs of `deliveries`, which one worker received: raises each token, counts the attempt and freezes the policy.
///
/// A run that is `running` is taken over only when its owner has been silent for longer than `lease`. A run over
/// `max_attempts` ends as `failed`, kind `attempts_exhausted`, so that a run which kills its process does not loop. For the
/// same reason a run that was attempted before is claimed alone: it costs its neighbours one attempt at most.
///
/// `again`: an earlier try of the same caller failed, and may have been committed with its reply lost. Then the same runs are
/// claimed once more, and no further attempt is counted. Otherwise nobody would work on them, under a live owner.
///
/// # Errors
/// When the database fails. Then nothing was claimed, or the reply was lost.
pub async fn claim(
    database: &Database,
    deliveries: &[Delivery],
    max_attempts: i32,
    lease: Lease,
    again: bool,
) -> sqlx::Result<Claims> {
    let Some(worker) = deliveries.first().map(|delivery| delivery.worker.as_str()) else {
        return Ok(Claims::default());
    };
    // A run can be delivered twice at once.
    let delivery_of: HashMap<Uuid, &Delivery> = deliveries
        .iter()
        .map(|delivery| (delivery.run.0, delivery))
        .collect();
    let mut tx = database.begin_by_key(&[]).await?;
    if again {
        undo_lost_claim(&mut tx, deliveries, worker).await?;
    }
    let claimable = find_claimable(&mut tx, deliveries, lease).await?;
    let mut claims = Claims {
        cancelled: report_cancelled(&mut tx, deliveries, &claimable).await?,
        ..Claims::default()
    };
    let (claimable, attempted): (Vec<_>, Vec<_>) = claimable
        .into_iter()
        .partition(|run| run.attempts == 0 || deliveries.len() == 1);
    claims.attempted = attempted
        .iter()
        .map(|run| delivery_of[&run.id].clone())
        .collect();
    if !claimable.is_empty() {
        write_claims(&mut tx, claimable, &delivery_of, max_attempts, &mut claims).await?;
        resume(&mut tx, &mut claims).await?;
    }
    tx.commit().await?;
    Ok(claims)
}

/// Undoes a claim of these deliveries whose reply was lost.
async fn undo_lost_claim(
    tx: &mut Transaction<'_>,
    deliveries: &[Delivery],
    worker: &str,
) -> sqlx::Result<()> {
    let (runs, jobs) = side_by_side(deliveries);
    sqlx::query!(
        "-- runs.undo_lost_claim
         UPDATE retention.purge_runs SET status = 'queued', attempts = attempts - 1
         WHERE id = ANY ($1) AND (status = 'running') IS TRUE AND worker = $2 AND delivery_id = ANY ($3)",
        &runs,
        worker,
        &jobs
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Reads the runs that can be claimed now, with their organizations' plans.
async fn find_claimable(
    tx: &mut Transaction<'_>,
    deliveries: &[Delivery],
    lease: Lease,
) -> sqlx::Result<Vec<Claimable>> {
    let (runs, _) = side_by_side(deliveries);
    // One run after the other, by its key. A join could be planned as a scan of all waiting runs, because the queue fills
    // faster than statistics follow.
    sqlx::query_as!(
        Claimable,
        r#"-- runs.find_claimable
        SELECT r.id, r.org_id, r.trigger AS "trigger: Trigger", r.urgent, r.token, r.attempts, r.started_at,
               r.policy AS "policy: Json<RetentionPolicy>", r.traceparent, r.replay_of,
               (SELECT first.traceparent FROM retention.purge_runs first WHERE first.id = r.replay_of) AS replayed_traceparent,
               (SELECT retention.excerpt(coalesce(o.plan, '')) FROM main_app.organizations o WHERE o.id = r.org_id) AS plan,
               now() AS "now!"
        FROM (SELECT DISTINCT ON (run_id) run_id, n FROM unnest($1::uuid[]) WITH ORDINALITY AS all_runs (run_id, n)) d
        CROSS JOIN LATERAL (
            SELECT * FROM retention.purge_runs r
            WHERE r.id = d.run_id
              AND CASE r.status
                    WHEN 'queued' THEN r.next_attempt_at IS NULL OR r.next_attempt_at <= now()
                    WHEN 'retrying' THEN r.next_attempt_at IS NULL OR r.next_attempt_at <= now()
                    WHEN 'running' THEN retention.worker_is_silent(r.worker, $2)
                    ELSE false
                  END
            OFFSET 0) r
        ORDER BY d.n"#,
        &runs,
        lease.interval()
    )
    .fetch_all(tx)
    .await
}

/// Writes the claims. The token that was read guards each of them: who came in between owns the run.
async fn write_claims(
    tx: &mut Transaction<'_>,
    claimable: Vec<Claimable>,
    delivery_of: &HashMap<Uuid, &Delivery>,
    max_attempts: i32,
    claims: &mut Claims,
) -> sqlx::Result<()> {
    let policies: Vec<_> = claimable.iter().map(Claimable::policy).collect();
    let (mut runs, mut tokens, mut jobs) = (vec![], vec![], vec![]);
    let (mut plans, mut windows) = (vec![], vec![]);
    let mut worker = "";
    for (run, policy) in claimable.iter().zip(&policies) {
        let delivery = delivery_of[&run.id];
        worker = &delivery.worker;
        runs.push(run.id);
        tokens.push(run.token);
        jobs.push(delivery.id.clone());
        plans.push(
            policy
                .as_ref()
                .ok()
                .map(|policy| policy.plan.name().to_owned()),
        );
        windows.push(policy.as_ref().ok().map(|policy| Json(policy.windows)));
    }
    let claimed = sqlx::query!(
        r#"-- runs.claim
        UPDATE retention.purge_runs r
        SET token = r.token + 1,
            worker = $1,
            delivery_id = c.delivery_id,
            max_attempts = $2,
            next_attempt_at = NULL,
            started_at = coalesce(r.started_at, now()),
            attempts = least(r.attempts + 1, greatest(r.attempts, $2)),
            plan = coalesce(c.plan, r.plan),
            policy = coalesce(c.policy, r.policy),
            status = CASE WHEN r.attempts < $2 THEN 'running' ELSE 'failed' END,
            finished_at = CASE WHEN r.attempts < $2 THEN NULL ELSE now() END,
            error_kind = CASE WHEN r.attempts < $2 THEN r.error_kind ELSE 'attempts_exhausted' END,
            error = CASE WHEN r.attempts < $2 THEN r.error
                         ELSE format('all %s attempts are used up and the last one never reported back (its worker died); %s',
                                     r.attempts, coalesce('before that: ' || r.error, 'no attempt left an error')) END
        FROM unnest($3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::jsonb[]) AS c (id, token, delivery_id, plan, policy)
        -- The second condition names the keys: the first alone leaves room for reading all runs in order. `IS TRUE` keeps the
        -- status a condition: by the index of live runs this would read all of them.
        WHERE r.id = c.id AND r.id = ANY ($3) AND r.token = c.token AND (r.status IN ('queued', 'retrying', 'running')) IS TRUE
        RETURNING r.id, r.token, r.status AS "status: RunStatus", r.attempts, r.started_at AS "started_at!""#,
        worker,
        max_attempts,
        &runs,
        &tokens,
        &jobs,
        &plans as _,
        &windows as _
    )
    .fetch_all(tx)
    .await?;
    let claimed: HashMap<Uuid, _> = claimed.into_iter().map(|run| (run.id, run)).collect();
    for (run, policy) in claimable.into_iter().zip(policies) {
        let Some(claimed) = claimed.get(&run.id) else {
            continue;
        };
        let (id, org) = (RunId(run.id), OrgId(run.org_id));
        if claimed.status == RunStatus::Failed {
            claims.exhausted.push((id, org, run.trigger));
            continue;
        }
        let owned = OwnedRun {
            id,
            org,
            token: claimed.token,
            trigger: run.trigger,
            is_urgent: run.urgent,
            attempt: claimed.attempts,
            max_attempts,
            started_at: claimed.started_at,
            resume_from: PerDataset::default(),
            traceparent: run.traceparent,
            replay_of: run.replay_of.map(RunId),
            replayed_traceparent: run.replayed_traceparent,
        };
        claims.owned.push((owned, policy));
    }
    Ok(())
}

/// Reads where earlier attempts stopped.
async fn resume(tx: &mut Transaction<'_>, claims: &mut Claims) -> sqlx::Result<()> {
    let runs: Vec<_> = claims.owned.iter().map(|(run, _)| run.id.0).collect();
    let steps = sqlx::query!(
        r#"-- runs.resume
        SELECT run_id, table_name, cursor_at AS "at!", cursor_key AS "key!"
        FROM retention.purge_run_steps
        WHERE run_id = ANY ($1) AND cursor_at IS NOT NULL AND cursor_key IS NOT NULL"#,
        &runs
    )
    .fetch_all(tx)
    .await?;
    for step in steps {
        let owned = claims.owned.iter_mut().map(|(run, _)| run);
        let run = owned.into_iter().find(|run| run.id.0 == step.run_id);
        let dataset = DatasetName::ALL
            .into_iter()
            .find(|dataset| dataset.table() == step.table_name);
        if let Some((run, dataset)) = run.zip(dataset) {
            let cursor = RowCursor {
                at: step.at,
                key: step.key,
            };
            run.resume_from.set(dataset, cursor);
        }
    }
    Ok(())
}

/// Whoever cancels a waiting run may be a process without metrics, so that the run's own delivery reports it. The report
/// acknowledges the delivery: one that two workers hand out reports once.
async fn report_cancelled(
    tx: &mut Transaction<'_>,
    deliveries: &[Delivery],
    claimable: &[Claimable],
) -> sqlx::Result<Vec<(RunId, Trigger)>> {
    let others: Vec<_> = deliveries
        .iter()
        .filter(|delivery| !claimable.iter().any(|run| run.id == delivery.run.0))
        .map(|delivery| delivery.run.0)
        .collect();
    if others.is_empty() {
        return Ok(Vec::new());
    }
    let cancelled = sqlx::query!(
        r#"-- runs.report_cancelled
        SELECT run_id AS "run_id!", trigger AS "trigger!: Trigger" FROM retention.acknowledge_cancelled($1)"#,
        &others
    )
    .fetch_all(tx)
    .await?;
    Ok(cancelled
        .into_iter()
        .map(|run| (RunId(run.run_id), run.trigger))
        .collect())
}

/// The runs and the jobs of deliveries, as Postgres takes them.
pub(super) fn side_by_side(deliveries: &[Delivery]) -> (Vec<Uuid>, Vec<String>) {
    deliveries
        .iter()
        .map(|delivery| (delivery.run.0, delivery.id.clone()))
        .unzip()
}
