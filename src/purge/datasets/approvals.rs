//! Approvals older than the window. Those still pending, and those whose incident is not closed, are live: they
//! stay and are counted as kept. `PENDING` is taken for pending: of two readings, the one that keeps the row.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    Batch, Counted, Dataset, Looked, OldestExpired, Remaining, Scope, cursor_at, resume_after,
    rows, side_by_side,
};
use crate::{postgres::Transaction, retention::DatasetName, runs::RowCursor};

/// `main_app.approvals` by `created_at`.
#[derive(Debug)]
pub struct Approvals;

#[async_trait]
impl Dataset for Approvals {
    fn name(&self) -> DatasetName {
        DatasetName::Approvals
    }

    async fn count_expired(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        limit: Option<i64>,
    ) -> sqlx::Result<Counted> {
        let count = sqlx::query_scalar!(
            r#"-- purge.approvals.count_expired
            SELECT count(*) AS "count!" FROM (
                SELECT FROM main_app.approvals a JOIN main_app.incidents i ON i.id = a.incident_id
                WHERE a.org_id = $1 AND a.created_at < $2 AND lower(trim(a.status)) <> 'pending' AND i.status = 'closed'
                LIMIT $3) expired"#,
            scope.org.0,
            scope.cutoff.0,
            limit
        )
        .fetch_one(tx)
        .await?;
        Ok(Counted::of_own_table(count, limit))
    }

    async fn delete_batch(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        cursor: Option<&RowCursor>,
        limit: i64,
    ) -> sqlx::Result<Batch> {
        let (after, after_key) = resume_after(cursor);
        // The incident is locked against change: it cannot be reopened while its approvals go. `IS TRUE` keeps its condition
        // a condition: as a join it would find the approvals once more, by their incidents' index.
        let gone = sqlx::query!(
            r#"-- purge.approvals.delete_batch
            WITH expired AS MATERIALIZED (
                SELECT a.ctid AS place, a.id, a.incident_id, a.created_at FROM main_app.approvals a
                WHERE a.org_id = $1 AND a.created_at < $2
                  AND (a.created_at, a.id) > ($3::text::timestamptz, coalesce($4::text, '00000000-0000-0000-0000-000000000000')::uuid)
                ORDER BY a.created_at, a.id LIMIT $5
            ), closed AS MATERIALIZED (
                SELECT i.id FROM (SELECT DISTINCT incident_id FROM expired) e
                CROSS JOIN LATERAL (
                    SELECT i.id FROM main_app.incidents i WHERE i.id = e.incident_id AND i.status = 'closed'
                    FOR SHARE SKIP LOCKED) i
            ), held AS MATERIALIZED (
                SELECT a.place, a.incident_id FROM expired e
                JOIN closed i ON i.id = e.incident_id
                CROSS JOIN LATERAL (
                    SELECT a.ctid AS place, a.incident_id FROM main_app.approvals a
                    WHERE a.ctid = e.place AND a.org_id = $1 AND a.created_at < $2 AND lower(trim(a.status)) <> 'pending'
                      AND a.incident_id = i.id
                    FOR UPDATE SKIP LOCKED) a
            ), gone AS (
                DELETE FROM main_app.approvals a
                WHERE a.ctid = ANY (ARRAY (SELECT place FROM held)) AND a.org_id = $1 AND a.created_at < $2
                  AND lower(trim(a.status)) <> 'pending' AND (a.incident_id IN (SELECT id FROM closed)) IS TRUE
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM expired) AS "seen!", (SELECT count(*) FROM gone) AS "approvals!",
                   (SELECT count(*) FROM held) AS "held!",
                   last.created_at::text AS at, last.id::text AS key
            FROM (SELECT) one
            LEFT JOIN (SELECT created_at, id FROM expired ORDER BY created_at DESC, id DESC LIMIT 1) last ON true"#,
            scope.org.0,
            scope.cutoff.0,
            after,
            after_key,
            limit
        )
        .fetch_one(&mut *tx)
        .await?;
        let last = cursor_at(gone.at, gone.key);
        Ok(Batch {
            purged: vec![rows(gone.approvals)],
            seen: gone.seen,
            refused: rows(gone.held - gone.approvals),
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
            r#"-- purge.approvals.next
            SELECT a.created_at::text AS "at!", a.id::text AS "key!" FROM main_app.approvals a
            WHERE a.org_id = $1 AND a.created_at < $2
              AND (a.created_at, a.id) > ($3::text::timestamptz, coalesce($4::text, '00000000-0000-0000-0000-000000000000')::uuid)
            ORDER BY a.created_at, a.id LIMIT 1"#,
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
            r#"-- purge.approvals.overdue
            SELECT o.id AS "org!", extract(epoch FROM p.cutoff - oldest.at)::float8 AS "seconds!"
            FROM main_app.organizations o
            JOIN unnest($1::text[], $2::timestamptz[]) AS p (plan, cutoff) ON p.plan = o.plan
            CROSS JOIN LATERAL (
                SELECT a.created_at AS at
                FROM main_app.approvals a JOIN main_app.incidents i ON i.id = a.incident_id
                WHERE a.org_id = o.id AND a.created_at < p.cutoff AND isfinite(a.created_at)
                  AND lower(trim(a.status)) <> 'pending' AND i.status = 'closed'
                ORDER BY a.created_at, a.id LIMIT 1) oldest"#,
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
            r#"-- purge.approvals.remaining
            SELECT found.seen AS "seen!", found.due AS "due!"
            FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS s (org_id, cutoff, n)
            CROSS JOIN LATERAL (
                SELECT count(*) AS seen, count(*) FILTER (WHERE is_due) AS due
                FROM (
                    SELECT lower(trim(a.status)) <> 'pending'
                           AND EXISTS (SELECT FROM main_app.incidents i WHERE i.id = a.incident_id AND i.status = 'closed') AS is_due
                    FROM main_app.approvals a
                    WHERE a.org_id = s.org_id AND a.created_at < s.cutoff
                    ORDER BY a.created_at, a.id LIMIT $3) expired) found
            ORDER BY s.n"#,
            &orgs,
            &cutoffs,
            limit
        )
        .fetch_all(tx)
        .await?;
        Ok(found.into_iter().map(|found| found.up_to(limit)).collect())
    }
}
