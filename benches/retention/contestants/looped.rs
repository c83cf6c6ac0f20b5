//! The plain loop: organization by organization, table by table, a thousand rows at a time, on one connection or on
//! several at once. It keeps no queue, no records and no counts, and is what one writes first.
#![allow(
    clippy::disallowed_methods,
    reason = "the bench's own SQL, prepared once for all organizations"
)]

use std::time::Instant;

use anyhow::{Result, bail};
use futures::future::try_join_all;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Outcome;
use crate::sql;

const BATCH: i32 = 1_000;

const CHECKS: &str = "-- bench.loop.checks
    DELETE FROM public.drift_checks WHERE id = ANY (ARRAY(
        SELECT c.id FROM public.drift_checks c
        WHERE c.org_id = $1 AND c.checked_at < now() - make_interval(days => $2)
          AND EXISTS (SELECT FROM public.drift_checks n
                      WHERE n.env_id = c.env_id AND n.checked_at <= now()
                        AND (n.checked_at, n.id) > (c.checked_at, c.id))
        ORDER BY c.checked_at, c.id LIMIT $3))";

const PAYLOADS: &str = "-- bench.loop.payloads
    WITH expired AS MATERIALIZED (
        SELECT i.id, i.payload_purged_at
        FROM public.incidents i LEFT JOIN public.incident_payloads p ON p.incident_id = i.id
        WHERE i.org_id = $1 AND i.status = 'closed' AND i.closed_at < now() - make_interval(days => $2)
          AND (i.payload_purged_at IS NULL OR p.incident_id IS NOT NULL)
        LIMIT $3
    ), gone AS (
        DELETE FROM public.incident_payloads p USING expired e WHERE p.incident_id = e.id
    ), stamped AS (
        UPDATE public.incidents i SET payload_purged_at = now()
        FROM expired e WHERE i.id = e.id AND e.payload_purged_at IS NULL
    )
    SELECT FROM expired";

const APPROVALS: &str = "-- bench.loop.approvals
    DELETE FROM public.approvals WHERE id = ANY (ARRAY(
        SELECT a.id FROM public.approvals a JOIN public.incidents i ON i.id = a.incident_id
        WHERE a.org_id = $1 AND a.created_at < now() - make_interval(days => $2)
          AND a.status <> 'pending' AND i.status = 'closed'
        ORDER BY a.created_at, a.id LIMIT $3))";

/// One such loop on each of so many connections, with an equal share of the organizations.
pub(super) async fn purge(url: &str, connections: usize) -> Result<Outcome> {
    let connections = try_join_all((0..connections).map(|_| sql::connection(url))).await?;
    let began = Instant::now();
    let loops = connections.len();
    let shares = connections
        .into_iter()
        .enumerate()
        .map(|(n, connection)| share(connection, n, loops));
    try_join_all(shares).await?;
    Ok(Outcome::taking(began.elapsed()))
}

/// Every organization whose turn it is where `loops` take turns: the `first`, and so on.
async fn share(mut connection: PgConnection, first: usize, loops: usize) -> Result<()> {
    let orgs: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM public.organizations ORDER BY id")
        .fetch_all(&mut connection)
        .await?;
    for org in orgs.into_iter().skip(first).step_by(loops) {
        let plan: String =
            sqlx::query_scalar("SELECT plan FROM public.organizations WHERE id = $1")
                .bind(org)
                .fetch_one(&mut connection)
                .await?;
        let (checks, closed) = match plan.trim().to_lowercase().as_str() {
            "free" => (7, None),
            "pro" => (30, Some(180)),
            "agency" | "agency+" | "agency_plus" => (90, Some(365)),
            "enterprise" => (180, Some(2555)),
            other => bail!("the seed has no plan {other:?}"),
        };
        batches(&mut connection, CHECKS, org, checks).await?;
        if let Some(closed) = closed {
            batches(&mut connection, PAYLOADS, org, closed).await?;
            batches(&mut connection, APPROVALS, org, closed).await?;
        }
    }
    Ok(())
}

/// Until a batch is not full.
async fn batches(
    connection: &mut PgConnection,
    delete: &'static str,
    org: Uuid,
    days: i32,
) -> Result<()> {
    loop {
        let done = sqlx::query(delete)
            .bind(org)
            .bind(days)
            .bind(BATCH)
            .execute(&mut *connection)
            .await?;
        if done.rows_affected() < u64::from(BATCH.unsigned_abs()) {
            return Ok(());
        }
    }
}
