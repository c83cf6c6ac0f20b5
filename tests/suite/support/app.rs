//! The main app: writes organizations, environments, checks, incidents and approvals, with plain SQL.
#![allow(clippy::disallowed_methods, reason = "the main app has its own SQL")]

use sqlx::PgPool;
use uuid::Uuid;

/// The main app on a database. Ages are Postgres intervals before now: `"31 days"`, `"-1 hour"` for the future.
#[derive(Clone)]
pub struct App {
    pool: PgPool,
}

impl App {
    pub fn on(pool: &PgPool) -> Self {
        Self { pool: pool.clone() }
    }

    pub async fn org(&self, plan: &str) -> Uuid {
        sqlx::query_scalar(
            "INSERT INTO organizations (name, plan) VALUES ('Org on ' || $1, $1) RETURNING id",
        )
        .bind(plan)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    pub async fn env(&self, org: Uuid) -> Uuid {
        sqlx::query_scalar(
            "INSERT INTO environments (org_id, name) VALUES ($1, 'production') RETURNING id",
        )
        .bind(org)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// A check so old, with one flag per name.
    pub async fn check(&self, org: Uuid, env: Uuid, age: &str, flags: &[&str]) -> i64 {
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO drift_checks (org_id, env_id, checked_at, status, modified_count)
             VALUES ($1, $2, now() - $3::interval, CASE WHEN $4 > 0 THEN 'drift' ELSE 'in_sync' END, $4) RETURNING id",
        )
        .bind(org)
        .bind(env)
        .bind(age)
        .bind(i32::try_from(flags.len()).unwrap())
        .fetch_one(&self.pool)
        .await
        .unwrap();
        for flag in flags {
            sqlx::query("INSERT INTO workflow_drift_flags (check_id, workflow_id, flag) VALUES ($1, $2, 'modified')")
                .bind(id)
                .bind(*flag)
                .execute(&self.pool)
                .await
                .unwrap();
        }
        id
    }

    /// `count` checks of one environment, one a minute, the newest so old; `flags` flags each.
    pub async fn many_checks(&self, org: Uuid, env: Uuid, count: i64, newest: &str, flags: i64) {
        sqlx::query(
            "WITH made AS (
                 INSERT INTO drift_checks (org_id, env_id, checked_at, status)
                 SELECT $1, $2, now() - $4::interval - make_interval(mins => n::int), 'in_sync'
                 FROM generate_series(0, $3 - 1) n RETURNING id)
             INSERT INTO workflow_drift_flags (check_id, workflow_id, flag)
             SELECT id, 'wf_' || f, 'modified' FROM made, generate_series(1, $5) f",
        )
        .bind(org)
        .bind(env)
        .bind(count)
        .bind(newest)
        .bind(flags)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// An organization on Pro with so many checks beyond their window, two flags each. The newest one stays.
    pub async fn org_with_expired(&self, checks: i64) -> Uuid {
        let org = self.org("pro").await;
        let env = self.env(org).await;
        self.many_checks(org, env, checks, "31 days", 2).await;
        org
    }

    /// The same, with an expired payload and an expired approval beside the checks.
    pub async fn org_with_all_kinds_expired(&self, checks: i64) -> Uuid {
        let org = self.org_with_expired(checks).await;
        let env = self.env(org).await;
        let incident = self.incident(org, env, "closed", Some("181 days")).await;
        self.payload(incident).await;
        self.approval(org, incident, "approved", "181 days").await;
        org
    }

    /// An incident in this status; `closed_age` sets `closed_at`.
    pub async fn incident(
        &self,
        org: Uuid,
        env: Uuid,
        status: &str,
        closed_age: Option<&str>,
    ) -> Uuid {
        sqlx::query_scalar(
            "INSERT INTO incidents (org_id, env_id, title, severity, status, owner, closed_at)
             VALUES ($1, $2, 'Drift in production', 'high', $3, 'dana', now() - $4::interval) RETURNING id",
        )
        .bind(org)
        .bind(env)
        .bind(status)
        .bind(closed_age)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    pub async fn payload(&self, incident: Uuid) {
        sqlx::query("INSERT INTO incident_payloads (incident_id, payload_json) VALUES ($1, '{\"workflows\": []}')")
            .bind(incident)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    pub async fn approval(&self, org: Uuid, incident: Uuid, status: &str, age: &str) -> Uuid {
        sqlx::query_scalar(
            "INSERT INTO approvals (org_id, incident_id, action, status, requested_by, created_at)
             VALUES ($1, $2, 'accept_drift', $3, 'sam', now() - $4::interval) RETURNING id",
        )
        .bind(org)
        .bind(incident)
        .bind(status)
        .bind(age)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }
}
