//! Drift checks and their workflow flags: gone after the plan's window. The newest check of every environment
//! stays, however old; a check dated in the future protects nothing else and is itself kept (it is not expired).

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::types::Oid;

use super::{
    Batch, Counted, Dataset, Looked, OldestExpired, Remaining, Scope, cursor_at, resume_after,
    rows, side_by_side,
};
use crate::{postgres::Transaction, retention::DatasetName, runs::RowCursor};

/// `main_app.drift_checks` by `checked_at`, with `main_app.workflow_drift_flags`.
#[derive(Debug)]
pub struct DriftChecks;

#[async_trait]
impl Dataset for DriftChecks {
    fn name(&self) -> DatasetName {
        DatasetName::DriftChecks
    }

    async fn count_expired(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        limit: Option<i64>,
    ) -> sqlx::Result<Counted> {
        let counts = sqlx::query!(
            r#"-- purge.drift_checks.count_expired
            WITH looked_at AS MATERIALIZED (
                -- Of each environment one may stay. No limit: the sum is NULL.
                SELECT $3::bigint + count(*) AS most FROM main_app.environments e WHERE e.org_id = $1
            ), old AS MATERIALIZED (
                -- One without an environment has no newer one beside it: it stays.
                SELECT c.id, c.env_id FROM main_app.drift_checks c
                WHERE c.org_id = $1 AND c.checked_at < $2 AND c.env_id IS NOT NULL
                LIMIT (SELECT most FROM looked_at)
            ), newest AS MATERIALIZED (
                SELECT n.id
                FROM (SELECT DISTINCT env_id FROM old) e
                CROSS JOIN LATERAL (
                    SELECT n.id FROM main_app.drift_checks n
                    WHERE n.env_id = e.env_id AND n.checked_at <= now()
                    ORDER BY n.checked_at DESC, n.id DESC LIMIT 1) n
            ), expired AS MATERIALIZED (
                SELECT id FROM old WHERE id NOT IN (SELECT id FROM newest)
            )
            SELECT (SELECT count(*) FROM expired) AS "checks!",
                   (SELECT count(*) FROM (
                        SELECT FROM expired e
                        -- One look per check: a join could be planned as a scan of everybody's flags.
                        CROSS JOIN LATERAL (SELECT FROM main_app.workflow_drift_flags f
                                            WHERE f.check_id = e.id OFFSET 0) f
                        LIMIT $3) flags) AS "flags!",
                   coalesce((SELECT count(*) FROM old) < (SELECT most FROM looked_at), true) AS "whole!""#,
            scope.org.0,
            scope.cutoff.0,
            limit
        )
        .fetch_one(tx)
        .await?;
        let flags_are_whole = limit.is_none_or(|limit| counts.flags < limit);
        Ok(Counted {
            rows: vec![rows(counts.checks), rows(counts.flags)],
            is_whole: counts.whole && flags_are_whole,
        })
    }

    async fn delete_batch(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        cursor: Option<&RowCursor>,
        limit: i64,
    ) -> sqlx::Result<Batch> {
        let (after, after_key) = resume_after(cursor);
        let flags = tx.mapping()?.flags.clone();
        // Locks, without ever waiting, the expired checks, and the newest check of each of their environments (against
        // deletion: it is what makes the older ones expendable). Rows are named by where they stand (`ctid`), which no
        // transaction but ours can change from then on.
        let gone = sqlx::query!(
            r#"-- purge.drift_checks.delete_batch
            WITH expired AS MATERIALIZED (
                SELECT c.ctid AS place, c.id, c.env_id, c.checked_at FROM main_app.drift_checks c
                WHERE c.org_id = $1 AND c.checked_at < $2
                  AND (c.checked_at, c.id) > ($3::text::timestamptz,
                                              coalesce($4::text, retention.first_check_key())::main_app.check_key)
                ORDER BY c.checked_at, c.id LIMIT $5
                FOR UPDATE SKIP LOCKED
            ), newest AS MATERIALIZED (
                SELECT n.id, n.env_id, n.checked_at
                FROM (SELECT DISTINCT env_id FROM expired) e
                CROSS JOIN LATERAL (
                    SELECT n.id, n.env_id, n.checked_at FROM main_app.drift_checks n
                    WHERE n.env_id = e.env_id AND n.checked_at <= now()
                    ORDER BY n.checked_at DESC, n.id DESC LIMIT 1
                    FOR KEY SHARE SKIP LOCKED) n
            ), gone AS (
                DELETE FROM main_app.drift_checks c
                WHERE c.ctid = ANY (ARRAY (SELECT place FROM expired)) AND c.org_id = $1 AND c.checked_at < $2
                  AND EXISTS (SELECT FROM newest n
                              WHERE n.env_id = c.env_id AND (n.checked_at, n.id) > (c.checked_at, c.id))
                RETURNING 1
            )
            -- The count before comes first, and is read first: a trigger of the main app's may delete flags with the checks.
            SELECT (SELECT coalesce(sum(pg_stat_get_xact_tuples_deleted(flags.oid)), 0)::bigint
                    FROM unnest($6::oid[]) AS flags (oid)) AS "flags_before!",
                   (SELECT count(*) FROM expired) AS "seen!", (SELECT count(*) FROM gone) AS "checks!",
                   (SELECT count(*) FROM expired c
                    WHERE EXISTS (SELECT FROM newest n
                                  WHERE n.env_id = c.env_id AND (n.checked_at, n.id) > (c.checked_at, c.id))) AS "due!",
                   last.checked_at::text AS at, last.id::text AS key
            FROM (SELECT) one
            LEFT JOIN (SELECT checked_at, id FROM expired ORDER BY checked_at DESC, id DESC LIMIT 1) last ON true"#,
            scope.org.0,
            scope.cutoff.0,
            after,
            after_key,
            limit,
            &flags
        )
        .fetch_one(&mut *tx)
        .await?;
        let last = cursor_at(gone.at, gone.key);
        let flags = if gone.checks > 0 {
            count_flags(tx, &flags, gone.flags_before).await?
        } else {
            0
        };
        Ok(Batch {
            purged: vec![rows(gone.checks), flags],
            seen: gone.seen,
            refused: rows(gone.due - gone.checks),
            last,
        })
    }

    async fn next(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        cursor: Option<&RowCursor>,
    ) -> sqlx::Result<Option<RowCursor>> {
        let (after, after_key) = resume_after(cursor);
        let next = sqlx::query!(
            r#"-- purge.drift_checks.next
            SELECT c.checked_at::text AS "at!", c.id::text AS "key!" FROM main_app.drift_checks c
            WHERE c.org_id = $1 AND c.checked_at < $2
              AND (c.checked_at, c.id) > ($3::text::timestamptz,
                                          coalesce($4::text, retention.first_check_key())::main_app.check_key)
            ORDER BY c.checked_at, c.id LIMIT 1"#,
            scope.org.0,
            scope.cutoff.0,
            after,
            after_key
        )
        .fetch_optional(tx)
        .await?;
        Ok(next.map(|row| RowCursor {
            at: row.at,
            key: row.key,
        }))
    }

    async fn overdue(
        &self,
        tx: &mut Transaction<'_>,
        plans: &[String],
        cutoffs: &[DateTime<Utc>],
    ) -> sqlx::Result<Vec<OldestExpired>> {
        sqlx::query_as!(
            OldestExpired,
            r#"-- purge.drift_checks.overdue
            SELECT o.id AS "org!", extract(epoch FROM p.cutoff - oldest.at)::float8 AS "seconds!"
            FROM main_app.organizations o
            JOIN unnest($1::text[], $2::timestamptz[]) AS p (plan, cutoff) ON p.plan = o.plan
            CROSS JOIN LATERAL (
                SELECT c.checked_at AS at FROM main_app.drift_checks c
                WHERE c.org_id = o.id AND c.checked_at < p.cutoff AND isfinite(c.checked_at)
                  AND EXISTS (SELECT FROM main_app.drift_checks n
                              WHERE n.env_id = c.env_id AND n.checked_at <= now()
                                AND (n.checked_at, n.id) > (c.checked_at, c.id))
                ORDER BY c.checked_at, c.id LIMIT 1) oldest"#,
            plans,
            cutoffs
        )
        .fetch_all(tx)
        .await
    }

    async fn remaining(
        &self,
        tx: &mut Transaction<'_>,
        scopes: &[Scope],
        limit: i64,
    ) -> sqlx::Result<Vec<Remaining>> {
        let (orgs, cutoffs) = side_by_side(scopes);
        let found = sqlx::query_as!(
            Looked,
            r#"-- purge.drift_checks.remaining
            SELECT found.seen AS "seen!", found.due AS "due!"
            FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS s (org_id, cutoff, n)
            CROSS JOIN LATERAL (
                SELECT count(*) AS seen, count(*) FILTER (WHERE is_due) AS due
                FROM (
                    SELECT EXISTS (
                        SELECT FROM main_app.drift_checks n
                        WHERE n.env_id = c.env_id AND n.checked_at BETWEEN c.checked_at AND now()
                          AND (n.checked_at > c.checked_at OR n.id > c.id)) AS is_due
                    FROM main_app.drift_checks c
                    WHERE c.org_id = s.org_id AND c.checked_at < s.cutoff
                    ORDER BY c.checked_at, c.id LIMIT $3) expired) found
            ORDER BY s.n"#,
            &orgs,
            &cutoffs,
            limit
        )
        .fetch_all(tx)
        .await?;
        // A flag cannot outlive its check: the foreign key holds that.
        Ok(found.into_iter().map(|found| found.up_to(limit)).collect())
    }
}

/// The flags that went with the checks, by the foreign key's cascade at the end of their statement, which takes those too
/// that were added a moment ago. Postgres counts row by row what this session deletes, and had counted `before` when the
/// statement began. A count of our own would miss some, or would have to lock them, which costs as much as deleting them.
async fn count_flags(tx: &mut Transaction<'_>, tables: &[Oid], before: i64) -> sqlx::Result<u64> {
    let flags = sqlx::query_scalar!(
        "-- purge.drift_checks.count_flags
         SELECT coalesce(sum(pg_stat_get_xact_tuples_deleted(flags.oid)), 0)::bigint - $1
         FROM unnest($2::oid[]) AS flags (oid)
         HAVING current_setting('track_counts')::boolean",
        before,
        tables
    )
    .fetch_optional(tx)
    .await?
    .flatten();
    flags
        .map(rows)
        .ok_or_else(|| sqlx::Error::AnyDriverError(Box::new(NotCounting)))
}

/// Without its counters Postgres would not vacuum by itself either.
#[derive(Debug, thiserror::Error)]
#[error("Postgres does not count what it deletes: set track_counts = on, its default")]
struct NotCounting;
