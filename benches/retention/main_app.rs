//! The main app, as it goes on while a purge runs: reads and writes at a fixed rate, whatever the answers take, so that
//! a stall counts for everything that it delays.
#![allow(
    clippy::disallowed_methods,
    reason = "the bench's own SQL, as the main app has it"
)]

use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{sync::watch, task::JoinSet};
use uuid::Uuid;

/// Operations per second, and on how many connections.
pub(crate) const RATE: u32 = 200;
pub(crate) const CONNECTIONS: u32 = 16;

/// The main app on one database: its connections, and what it works on.
#[derive(Clone)]
pub(crate) struct MainApp {
    pool: PgPool,
    environments: Vec<(Uuid, Uuid)>,
    open: Vec<Uuid>,
    payload: serde_json::Value,
}

/// When something was due, and how long after that it was done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) due: Instant,
    pub(crate) latency: Duration,
}

impl MainApp {
    /// Opens its connections.
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new()
            .min_connections(CONNECTIONS)
            .max_connections(CONNECTIONS)
            .connect(url)
            .await?;
        // Those that are checked every few days: a new check in a dormant one would make its old one due again.
        let environments = sqlx::query_as(
            "SELECT e.org_id, e.id FROM public.environments e
             WHERE EXISTS (SELECT FROM public.drift_checks c
                           WHERE c.env_id = e.id AND c.checked_at > now() - interval '6 days' AND c.checked_at <= now())
             ORDER BY e.id",
        )
            .fetch_all(&pool)
            .await?;
        let open = sqlx::query_scalar(
            "SELECT id FROM public.incidents WHERE status <> 'closed' ORDER BY id",
        )
        .fetch_all(&pool)
        .await?;
        let payload = serde_json::json!({ "diff": "a changed node ".repeat(130) });
        Ok(Self {
            pool,
            environments,
            open,
            payload,
        })
    }

    /// Goes on until it is told to stop; everything that it did.
    pub(crate) async fn work(self, mut stop: watch::Receiver<bool>) -> Result<Vec<Operation>> {
        let began = Instant::now();
        let mut going = JoinSet::new();
        for nth in 0.. {
            let due = began + Duration::from_secs(1) * nth / RATE;
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                _ = stop.changed() => break,
            }
            let app = self.clone_for_one();
            let (org, env) = self.environments[pick(nth, self.environments.len())];
            let incident = self.open[pick(nth, self.open.len())];
            going.spawn(async move {
                app.operate(nth, org, env, incident).await?;
                anyhow::Ok(Operation {
                    due,
                    latency: due.elapsed(),
                })
            });
        }
        let mut done = Vec::new();
        while let Some(operation) = going.join_next().await {
            done.push(operation??);
        }
        self.pool.close().await;
        Ok(done)
    }

    fn clone_for_one(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            environments: Vec::new(),
            open: Vec::new(),
            payload: self.payload.clone(),
        }
    }

    /// Of twenty, eight write a check with its flags, six read the newest one, three list incidents, two write a payload,
    /// one closes an incident.
    async fn operate(&self, nth: u32, org: Uuid, env: Uuid, incident: Uuid) -> Result<()> {
        match nth % 20 {
            0 | 2 | 5 | 7 | 10 | 12 | 15 | 17 => self.check(org, env).await,
            1 | 4 | 8 | 11 | 14 | 18 => self.newest(env).await,
            3 | 9 | 16 => self.incidents(org).await,
            6 | 13 => self.write_payload(incident).await,
            _ => self.close(incident).await,
        }
    }

    async fn check(&self, org: Uuid, env: Uuid) -> Result<()> {
        sqlx::query(
            "-- main_app.check
             WITH made AS (
                 INSERT INTO public.drift_checks (org_id, env_id, checked_at, status, modified_count)
                 VALUES ($1, $2, now(), 'drift', 5) RETURNING id)
             INSERT INTO public.workflow_drift_flags (check_id, workflow_id, flag)
             SELECT id, 'wf_' || f, 'modified' FROM made, generate_series(1, 5) f",
        )
        .bind(org)
        .bind(env)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn newest(&self, env: Uuid) -> Result<()> {
        sqlx::query(
            "-- main_app.newest
             SELECT id, status, checked_at, modified_count FROM public.drift_checks
             WHERE env_id = $1 ORDER BY checked_at DESC, id DESC LIMIT 1",
        )
        .bind(env)
        .fetch_optional(&self.pool)
        .await?;
        Ok(())
    }

    async fn incidents(&self, org: Uuid) -> Result<()> {
        sqlx::query(
            "-- main_app.incidents
             SELECT id, title, status, detected_at FROM public.incidents
             WHERE org_id = $1 ORDER BY detected_at DESC, id DESC LIMIT 50",
        )
        .bind(org)
        .fetch_all(&self.pool)
        .await?;
        Ok(())
    }

    async fn write_payload(&self, incident: Uuid) -> Result<()> {
        sqlx::query(
            "-- main_app.write_payload
             INSERT INTO public.incident_payloads (incident_id, payload_json) VALUES ($1, $2)
             ON CONFLICT (incident_id) DO UPDATE SET payload_json = excluded.payload_json",
        )
        .bind(incident)
        .bind(&self.payload)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn close(&self, incident: Uuid) -> Result<()> {
        sqlx::query(
            "-- main_app.close
             UPDATE public.incidents SET status = 'closed', closed_at = now(), updated_at = now()
             WHERE id = $1 AND status <> 'closed'",
        )
        .bind(incident)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Spreads over a list without any order that the seed could share.
fn pick(nth: u32, length: usize) -> usize {
    let spread = u64::from(nth).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    usize::try_from(spread).unwrap_or(0) % length.max(1)
}
