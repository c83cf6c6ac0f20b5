//! The main app. It inserts, updates and deletes rows and requests purges, each in a transaction of its own, and without a
//! proxy.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::server::Database;

/// The transactions of the main app on one organization, each with its weight among all.
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
    // Deletes each environment's newest check. The next one is the newest from then on and must be kept.
    (10, "-- chaos.app.delete_newest_checks
        DELETE FROM public.drift_checks WHERE id IN (
            SELECT DISTINCT ON (env_id) id FROM public.drift_checks WHERE org_id = $1 AND checked_at <= now()
            ORDER BY env_id, checked_at DESC, id DESC)"),
    // Deletes all checks but the oldest. An expired check becomes the newest.
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
/// The share of purge requests among all transactions.
const PURGE_REQUEST_SHARE: f64 = 0.12;
const ENQUEUE: &str = "-- chaos.app.enqueue
    SELECT run_id, coalesced FROM retention.enqueue_purge($1, 'chaos', 'because')";

/// What the product told callers about runs, and the number of writes.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Runs that were enqueued in a transaction that committed.
    pub(crate) kept: Vec<Uuid>,
    /// New runs whose transaction was rolled back.
    pub(crate) undone: Vec<Uuid>,
    /// Transactions that committed.
    pub(crate) writes: u64,
}

/// One connection of the main app.
pub(crate) struct Writer {
    pub(crate) database: Database,
    pub(crate) organizations: Arc<Vec<Uuid>>,
    pub(crate) promises: Arc<Mutex<Promises>>,
    pub(crate) seed: u64,
}

impl Writer {
    /// Writes until `stop` is cancelled, and connects again after every error.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut dice = StdRng::seed_from_u64(self.seed);
        while !stop.is_cancelled() {
            // The server is down, there was a deadlock, or a fault ended the backend. The transaction is lost and the app
            // goes on.
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

    /// Picks an organization: in half of the cases one whose purge is running, otherwise any.
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
        if dice.random_bool(PURGE_REQUEST_SHARE) {
            let asked: (Uuid, bool) = sqlx::query_as(ENQUEUE)
                .bind(org)
                .fetch_one(&mut *tx)
                .await?;
            run = Some(asked);
        } else {
            sqlx::query(pick(dice)).bind(org).execute(&mut *tx).await?;
        }
        // Some transactions last long enough for a batch to meet their locks.
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
    unreachable!("the number is below the sum of the weights")
}
