//! Drift checks and their workflow flags: gone after the plan's window. The newest check of every environment
//! stays, however old; a check dated in the future protects nothing else and is itself kept (it is not expired).

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Batch, Dataset, Progress, Remains, Scope, rows, side_by_side};
use crate::{postgres::Transaction, retention::DatasetName};

/// `public.drift_checks` by `checked_at`, with `public.workflow_drift_flags`.
#[derive(Debug)]
pub struct DriftChecks;

/// The smallest `drift_checks.id`.
const SMALLEST_KEY: &str = "-9223372036854775808";

#[async_trait]
impl Dataset for DriftChecks {
    fn name(&self) -> DatasetName {
        DatasetName::DriftChecks
    }

    fn tables(&self) -> &'static [&'static str] {
        &["drift_checks", "workflow_drift_flags"]
    }

    async fn count_expired(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
    ) -> sqlx::Result<Vec<u64>> {
        let counts = sqlx::query!(
            r#"-- purge.drift_checks.count_expired
            WITH old AS MATERIALIZED (
                SELECT c.id, c.env_id FROM public.drift_checks c
                WHERE c.org_id = $1 AND c.checked_at < $2
            ), newest AS MATERIALIZED (
                SELECT n.id
                FROM (SELECT DISTINCT env_id FROM old) e
                CROSS JOIN LATERAL (
                    SELECT n.id FROM public.drift_checks n
                    WHERE n.env_id = e.env_id AND n.checked_at <= now()
                    ORDER BY n.checked_at DESC, n.id DESC LIMIT 1) n
            ), expired AS MATERIALIZED (
                SELECT id FROM old WHERE id NOT IN (SELECT id FROM newest)
            )
            SELECT (SELECT count(*) FROM expired) AS "checks!",
                   (SELECT coalesce(sum(f.flags), 0)::bigint FROM expired e
                    -- One look per check: a join could be planned as a scan of everybody's flags.
                    CROSS JOIN LATERAL (SELECT count(*) AS flags FROM public.workflow_drift_flags f
                                        WHERE f.check_id = e.id) f) AS "flags!""#,
            scope.org.0,
            scope.cutoff.0
        )
        .fetch_one(tx)
        .await?;
        Ok(vec![rows(counts.checks), rows(counts.flags)])
    }

    async fn delete_batch(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        progress: &mut Progress,
        limit: i64,
    ) -> sqlx::Result<Batch> {
        let (after, after_key) = progress.after(SMALLEST_KEY);
        // Locks, in this order and without ever waiting: the newest check of each environment (against deletion
        // only: it is what makes the older ones expendable), then each expired check that is older than it. Rows are
        // named by where they stand (`ctid`), which no transaction but ours can change from then on.
        let seen = sqlx::query!(
            r#"-- purge.drift_checks.lock_batch
            WITH expired AS MATERIALIZED (
                SELECT c.ctid AS place, c.id, c.env_id, c.checked_at FROM public.drift_checks c
                WHERE c.org_id = $1 AND c.checked_at < $2
                  AND (c.checked_at, c.id) > ($3::text::timestamptz, $4::text::bigint)
                ORDER BY c.checked_at, c.id LIMIT $5
            ), newest AS MATERIALIZED (
                SELECT n.id, n.env_id, n.checked_at
                FROM (SELECT DISTINCT env_id FROM expired) e
                CROSS JOIN LATERAL (
                    SELECT n.id, n.env_id, n.checked_at FROM public.drift_checks n
                    WHERE n.env_id = e.env_id AND n.checked_at <= now()
                    ORDER BY n.checked_at DESC, n.id DESC LIMIT 1
                    FOR KEY SHARE SKIP LOCKED) n
            ), held AS MATERIALIZED (
                SELECT gone.place, n.id AS newest
                FROM expired e
                JOIN newest n ON n.env_id = e.env_id AND (e.checked_at, e.id) < (n.checked_at, n.id)
                CROSS JOIN LATERAL (
                    SELECT c.ctid AS place FROM public.drift_checks c
                    WHERE c.ctid = e.place AND c.org_id = $1 AND c.env_id = n.env_id AND c.checked_at < $2
                      AND (c.checked_at, c.id) < (n.checked_at, n.id)
                    FOR UPDATE SKIP LOCKED) gone
            )
            SELECT (SELECT count(*) FROM expired) AS "seen!",
                   (SELECT array_agg(place::text) FROM held) AS places,
                   (SELECT array_agg(DISTINCT newest) FROM held) AS newest,
                   last.checked_at::text AS at, last.id::text AS key
            FROM (SELECT) one
            LEFT JOIN (SELECT checked_at, id FROM expired ORDER BY checked_at DESC, id DESC LIMIT 1) last ON true"#,
            scope.org.0,
            scope.cutoff.0,
            after,
            after_key,
            limit
        )
        .fetch_one(&mut *tx)
        .await?;
        progress.move_on(seen.at, seen.key);
        let purged = match (seen.places, seen.newest) {
            (Some(places), Some(newest)) => {
                // New statements, and so new snapshots: every flag that was added before the lock is seen, and none
                // can be added after it.
                tx.keep_brief()?;
                let flags = delete_flags(tx, scope, &places, &newest).await?;
                tx.keep_brief()?;
                vec![delete_checks(tx, scope, &places, &newest).await?, flags]
            }
            _ => vec![0, 0],
        };
        Ok(Batch {
            purged,
            seen: seen.seen,
        })
    }

    async fn overdue(
        &self,
        tx: &mut Transaction<'_>,
        plans: &[String],
        cutoffs: &[DateTime<Utc>],
    ) -> sqlx::Result<Vec<(Uuid, f64)>> {
        let found = sqlx::query!(
            r#"-- purge.drift_checks.overdue
            SELECT o.id, extract(epoch FROM p.cutoff - oldest.at)::float8 AS "seconds!"
            FROM public.organizations o
            JOIN unnest($1::text[], $2::timestamptz[]) AS p (plan, cutoff) ON p.plan = o.plan
            CROSS JOIN LATERAL (
                SELECT c.checked_at AS at FROM public.drift_checks c
                WHERE c.org_id = o.id AND c.checked_at < p.cutoff AND isfinite(c.checked_at)
                  AND EXISTS (SELECT FROM public.drift_checks n
                              WHERE n.env_id = c.env_id AND n.checked_at <= now()
                                AND (n.checked_at, n.id) > (c.checked_at, c.id))
                ORDER BY c.checked_at, c.id LIMIT 1) oldest"#,
            plans,
            cutoffs
        )
        .fetch_all(tx)
        .await?;
        Ok(found.into_iter().map(|row| (row.id, row.seconds)).collect())
    }

    async fn remains(
        &self,
        tx: &mut Transaction<'_>,
        scopes: &[Scope],
        up_to: i64,
    ) -> sqlx::Result<Vec<Remains>> {
        let (orgs, cutoffs) = side_by_side(scopes);
        let found = sqlx::query!(
            r#"-- purge.drift_checks.remains
            SELECT found.left_behind AS "left_behind!",
                   CASE WHEN found.left_behind > 0 THEN 0
                        ELSE (SELECT count(*) FROM public.drift_checks c
                              WHERE c.org_id = s.org_id AND c.checked_at < s.cutoff) END AS "kept!"
            FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS s (org_id, cutoff, n)
            CROSS JOIN LATERAL (
                SELECT count(*) AS left_behind FROM (
                    SELECT FROM public.drift_checks c
                    WHERE c.org_id = s.org_id AND c.checked_at < s.cutoff
                      AND EXISTS (
                          SELECT FROM public.drift_checks n
                          WHERE n.env_id = c.env_id AND n.checked_at <= now()
                            AND (n.checked_at > c.checked_at OR (n.checked_at = c.checked_at AND n.id > c.id)))
                    LIMIT $3) few) found
            ORDER BY s.n"#,
            &orgs,
            &cutoffs,
            up_to
        )
        .fetch_all(tx)
        .await?;
        // A flag cannot outlive its check: the foreign key holds that.
        let remains = found.into_iter().map(|found| Remains {
            left_behind: vec![rows(found.left_behind), 0],
            kept: vec![rows(found.kept), 0],
        });
        Ok(remains.collect())
    }
}

async fn delete_flags(
    tx: &mut Transaction<'_>,
    scope: Scope,
    places: &[String],
    newest: &[i64],
) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- purge.drift_checks.delete_flags
         WITH newest AS MATERIALIZED (
             SELECT n.id, n.env_id, n.checked_at FROM public.drift_checks n
             WHERE n.id = ANY ($4) AND n.checked_at <= now()
         )
         DELETE FROM public.workflow_drift_flags f
         USING public.drift_checks c
         WHERE f.check_id = c.id AND c.ctid = ANY ($3::text[]::tid[]) AND c.org_id = $1 AND c.checked_at < $2
           AND EXISTS (SELECT FROM newest n
                       WHERE n.env_id = c.env_id AND (n.checked_at, n.id) > (c.checked_at, c.id))",
        scope.org.0,
        scope.cutoff.0,
        places,
        newest
    )
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

async fn delete_checks(
    tx: &mut Transaction<'_>,
    scope: Scope,
    places: &[String],
    newest: &[i64],
) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- purge.drift_checks.delete_batch
         WITH newest AS MATERIALIZED (
             SELECT n.id, n.env_id, n.checked_at FROM public.drift_checks n
             WHERE n.id = ANY ($4) AND n.checked_at <= now()
         )
         DELETE FROM public.drift_checks c
         WHERE c.ctid = ANY ($3::text[]::tid[]) AND c.org_id = $1 AND c.checked_at < $2
           AND EXISTS (SELECT FROM newest n
                       WHERE n.env_id = c.env_id AND (n.checked_at, n.id) > (c.checked_at, c.id))",
        scope.org.0,
        scope.cutoff.0,
        places,
        newest
    )
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}
