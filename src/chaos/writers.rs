//! The main app while everything happens: it writes, changes its mind, deletes, and asks for purges, each in a
//! transaction of its own, directly on the server.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::server::Database;

/// What one transaction of the main app does to one organization, and how often among all.
const WRITES: &[(u32, &str)] = &[
    (20, "-- chaos.app.check
        WITH made AS (
            INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
            SELECT e.org_id, e.id, now() - chaos.age(), 'drift'
            FROM public.environments e, generate_series(1, 12) WHERE e.org_id = $1
            RETURNING id)
        INSERT INTO public.workflow_drift_flags (check_id, workflow_id, flag)
        SELECT id, 'workflow ' || f, 'modified' FROM made, generate_series(1, (id % 4)::int) AS f"),
    (6, "-- chaos.app.check_now
        INSERT INTO public.drift_checks (org_id, env_id, checked_at, status)
        SELECT org_id, id, now(), 'in_sync' FROM public.environments WHERE org_id = $1"),
    // Every environment's newest: what they protected is the newest from then on.
    (10, "-- chaos.app.delete_newest_checks
        DELETE FROM public.drift_checks WHERE id IN (
            SELECT DISTINCT ON (env_id) id FROM public.drift_checks WHERE org_id = $1 AND checked_at <= now()
            ORDER BY env_id, checked_at DESC, id DESC)"),
    // All but the oldest: what is expired becomes the newest there is.
    (
        10,
        "-- chaos.app.delete_young_checks
        DELETE FROM public.drift_checks WHERE checked_at > now() - interval '170 days' AND env_id IN (
            SELECT id FROM public.environments WHERE org_id = $1 ORDER BY random() LIMIT 2)",
    ),
    (12, "-- chaos.app.reopen_incidents
        UPDATE public.incidents SET status = 'acknowledged', updated_at = now() WHERE id IN (
            SELECT id FROM public.incidents WHERE org_id = $1 AND status = 'closed' ORDER BY random() LIMIT 5)"),
    (12, "-- chaos.app.close_incidents
        UPDATE public.incidents SET status = 'closed', updated_at = now(),
               closed_at = CASE WHEN random() < 0.9 THEN now() - chaos.age() END
        WHERE id IN (SELECT id FROM public.incidents WHERE org_id = $1 AND status <> 'closed' ORDER BY random() LIMIT 5)"),
    (4, "-- chaos.app.open_incidents
        WITH made AS (
            INSERT INTO public.incidents (org_id, env_id, title, status)
            SELECT org_id, id, 'Drift again', 'detected' FROM public.environments WHERE org_id = $1
            RETURNING id)
        INSERT INTO public.incident_payloads (incident_id, payload_json) SELECT id, '{}' FROM made"),
    (10, "-- chaos.app.write_payloads_again
        INSERT INTO public.incident_payloads (incident_id, payload_json)
        SELECT id, '{\"again\": true}' FROM public.incidents WHERE org_id = $1 ORDER BY random() LIMIT 8
        ON CONFLICT (incident_id) DO UPDATE SET payload_json = EXCLUDED.payload_json"),
    (10, "-- chaos.app.ask_for_approvals
        INSERT INTO public.approvals (org_id, incident_id, action, status, requested_by, created_at)
        SELECT org_id, id, 'rollback', (ARRAY['approved', 'pending', 'rejected'])[1 + floor(random() * 3)::int], 'sam',
               now() - chaos.age()
        FROM public.incidents WHERE org_id = $1 ORDER BY random() LIMIT 8"),
    (6, "-- chaos.app.decide_approvals
        UPDATE public.approvals SET status = CASE status WHEN 'pending' THEN 'approved' ELSE 'pending' END
        WHERE id IN (SELECT id FROM public.approvals WHERE org_id = $1 ORDER BY random() LIMIT 6)"),
    (4, "-- chaos.app.change_plan
        UPDATE public.organizations SET plan = chaos.any_plan() WHERE id = $1"),
];
/// The share of requests for a purge among all transactions.
const REQUESTS: f64 = 0.12;
const ENQUEUE: &str = "-- chaos.app.enqueue
    SELECT run_id, coalesced FROM retention.enqueue_purge($1, 'chaos', 'because')";

/// What callers were told about runs.
#[derive(Debug, Default)]
pub(super) struct Promises {
    /// Runs whose enqueueing committed.
    pub(super) kept: Vec<Uuid>,
    /// New runs whose enqueueing was rolled back.
    pub(super) undone: Vec<Uuid>,
    /// Transactions that committed.
    pub(super) writes: u64,
}

/// One writer.
pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) organizations: Arc<Vec<Uuid>>,
    pub(super) promises: Arc<Mutex<Promises>>,
    pub(super) seed: u64,
}

impl Writer {
    /// Writes until `stop`, whatever becomes of the server.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut dice = StdRng::seed_from_u64(self.seed);
        while !stop.is_cancelled() {
            // A server that is away, a deadlock, a backend that was ended: the transaction is gone, the app goes on.
            let _ = stop.run_until_cancelled(self.session(&mut dice)).await;
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn session(&self, dice: &mut StdRng) -> sqlx::Result<()> {
        let mut conn = self.database.connect().await?;
        sqlx::query("SELECT setseed($1), set_config('statement_timeout', '10s', false)")
            .bind(dice.random_range(-1.0..1.0))
            .execute(&mut conn)
            .await?;
        loop {
            self.transaction(&mut conn, dice).await?;
            sleep(Duration::from_millis(dice.random_range(5..120))).await;
        }
    }

    /// Half of the time an organization that is being purged right now, else any.
    async fn aim(&self, conn: &mut PgConnection, dice: &mut StdRng) -> sqlx::Result<Uuid> {
        let any = self.organizations[dice.random_range(0..self.organizations.len())];
        if dice.random_bool(0.5) {
            return Ok(any);
        }
        let purged = sqlx::query_scalar(
            "-- chaos.app.aim
             SELECT org_id FROM retention.purge_runs WHERE status = 'running' ORDER BY random() LIMIT 1",
        )
        .fetch_optional(conn)
        .await?;
        Ok(purged.unwrap_or(any))
    }

    async fn transaction(&self, conn: &mut PgConnection, dice: &mut StdRng) -> sqlx::Result<()> {
        let org = self.aim(conn, dice).await?;
        let commits = dice.random_bool(0.85);
        let mut run = None;
        let mut tx = conn.begin().await?;
        if dice.random_bool(REQUESTS) {
            let asked: (Uuid, bool) = sqlx::query_as(ENQUEUE)
                .bind(org)
                .fetch_one(&mut *tx)
                .await?;
            run = Some(asked);
        } else {
            sqlx::query(pick(dice)).bind(org).execute(&mut *tx).await?;
        }
        // Long enough, now and then, for a batch to come upon it.
        if dice.random_bool(0.2) {
            sleep(Duration::from_millis(dice.random_range(10..400))).await;
        }
        if commits {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        let mut promises = self.promises.lock().unwrap_or_else(PoisonError::into_inner);
        promises.writes += u64::from(commits);
        match run {
            Some((run, _)) if commits => promises.kept.push(run),
            Some((run, false)) => promises.undone.push(run),
            _ => {}
        }
        Ok(())
    }
}

fn pick(dice: &mut StdRng) -> &'static str {
    let all: u32 = WRITES.iter().map(|(weight, _)| weight).sum();
    let mut left = dice.random_range(0..all);
    for (weight, sql) in WRITES {
        if left < *weight {
            return sql;
        }
        left -= weight;
    }
    unreachable!("the weights add up")
}
