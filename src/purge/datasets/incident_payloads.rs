//! Payloads of incidents whose status is exactly `closed` and whose `closed_at` is older than the cutoff. The
//! payload row goes and the incident is stamped in the same transaction; an incident without a payload row is
//! stamped too, so that it is not looked at again. A payload written after a purge goes on the next run and
//! keeps the first stamp. The incident itself, and every other column of it, stays.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    Batch, Counted, Dataset, Looked, OldestExpired, Remaining, Scope, cursor_at, resume_after,
    rows, side_by_side,
};
use crate::{postgres::Transaction, retention::DatasetName, runs::RowCursor};

/// `main_app.incident_payloads` by `incidents.closed_at`.
#[derive(Debug)]
pub struct IncidentPayloads;

#[async_trait]
impl Dataset for IncidentPayloads {
    fn name(&self) -> DatasetName {
        DatasetName::IncidentPayloads
    }

    async fn count_expired(
        &self,
        tx: &mut Transaction<'_>,
        scope: Scope,
        limit: Option<i64>,
    ) -> sqlx::Result<Counted> {
        let payloads = tx.mapping()?.payloads.clone();
        let count = sqlx::query_scalar!(
            r#"-- purge.incident_payloads.count_expired
            SELECT count(*) AS "count!" FROM (
                SELECT FROM main_app.incidents i
                WHERE i.org_id = $1 AND i.status = 'closed' AND i.closed_at < $2
                  AND i.payload_purged_at IS NULL
                  AND EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = i.id)
                UNION ALL
                SELECT FROM retention.rewritten_payloads w
                JOIN main_app.incidents i ON i.id = w.incident_id
                WHERE w.org_id = $1 AND i.org_id = $1 AND i.status = 'closed' AND i.closed_at < $2
                  AND i.payload_purged_at IS NOT NULL
                  AND EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = w.incident_id)
                UNION ALL
                SELECT FROM main_app.incidents i
                WHERE (SELECT retention.payloads_in_doubt($3)) AND i.org_id = $1 AND i.status = 'closed' AND i.closed_at < $2
                  AND i.payload_purged_at IS NOT NULL
                  AND coalesce((SELECT true FROM main_app.incident_payloads p WHERE p.incident_id = i.id LIMIT 1), false)
                  AND NOT EXISTS (SELECT FROM retention.rewritten_payloads w
                                  WHERE w.incident_id = i.id AND w.org_id = i.org_id)
                LIMIT $4) expired"#,
            scope.org.0,
            scope.cutoff.0,
            &payloads,
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
        // The full row lock also holds off a payload that the main app is about to write for the incident: its
        // foreign key waits, and then sees the stamp.
        let seen = sqlx::query!(
            r#"-- purge.incident_payloads.lock_batch
            WITH unstamped AS (
                SELECT i.ctid AS place, i.closed_at, i.id FROM main_app.incidents i
                WHERE i.org_id = $1 AND i.status = 'closed' AND i.closed_at < $2 AND i.payload_purged_at IS NULL
                  AND (i.closed_at, i.id) > ($3::text::timestamptz, coalesce($4::text, '00000000-0000-0000-0000-000000000000')::uuid)
                ORDER BY i.closed_at, i.id LIMIT $5
            ), rewritten AS (
                SELECT i.ctid AS place, i.closed_at, i.id
                FROM retention.rewritten_payloads w JOIN main_app.incidents i ON i.id = w.incident_id
                WHERE w.org_id = $1 AND i.org_id = $1 AND i.status = 'closed' AND i.closed_at < $2
                  AND i.payload_purged_at IS NOT NULL
                  AND (i.closed_at, i.id) > ($3::text::timestamptz, coalesce($4::text, '00000000-0000-0000-0000-000000000000')::uuid)
                ORDER BY i.closed_at, i.id LIMIT $5
            ), expired AS MATERIALIZED (
                SELECT place, closed_at, id FROM unstamped UNION ALL SELECT place, closed_at, id FROM rewritten
                ORDER BY closed_at, id LIMIT $5
            ), held AS MATERIALIZED (
                SELECT i.place FROM expired e
                CROSS JOIN LATERAL (
                    SELECT i.ctid AS place FROM main_app.incidents i
                    WHERE i.ctid = e.place AND i.org_id = $1 AND i.status = 'closed' AND i.closed_at < $2
                    FOR UPDATE SKIP LOCKED) i
            )
            SELECT (SELECT count(*) FROM expired) AS "seen!", (SELECT array_agg(place::text) FROM held) AS places,
                   last.closed_at::text AS at, last.id::text AS key
            FROM (SELECT) one
            LEFT JOIN (SELECT closed_at, id FROM expired ORDER BY closed_at DESC, id DESC LIMIT 1) last ON true"#,
            scope.org.0,
            scope.cutoff.0,
            after,
            after_key,
            limit
        )
        .fetch_one(&mut *tx)
        .await?;
        let last = cursor_at(seen.at, seen.key);
        let purged = match seen.places {
            Some(places) => {
                tx.check_deadline()?;
                purge(tx, scope, &places).await?
            }
            None => 0,
        };
        Ok(Batch {
            purged: vec![purged],
            seen: seen.seen,
            refused: 0, // `retention.erase_payloads` proves that none is left
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
            r#"-- purge.incident_payloads.next
            SELECT next.closed_at::text AS "at!", next.id::text AS "key!" FROM (
                (SELECT i.closed_at, i.id FROM main_app.incidents i
                 WHERE i.org_id = $1 AND i.status = 'closed' AND i.closed_at < $2 AND i.payload_purged_at IS NULL
                   AND (i.closed_at, i.id) > ($3::text::timestamptz, coalesce($4::text, '00000000-0000-0000-0000-000000000000')::uuid)
                 ORDER BY i.closed_at, i.id LIMIT 1)
                UNION ALL
                (SELECT i.closed_at, i.id
                 FROM retention.rewritten_payloads w JOIN main_app.incidents i ON i.id = w.incident_id
                 WHERE w.org_id = $1 AND i.org_id = $1 AND i.status = 'closed' AND i.closed_at < $2
                   AND i.payload_purged_at IS NOT NULL
                   AND (i.closed_at, i.id) > ($3::text::timestamptz, coalesce($4::text, '00000000-0000-0000-0000-000000000000')::uuid)
                 ORDER BY i.closed_at, i.id LIMIT 1)) next
            ORDER BY next.closed_at, next.id LIMIT 1"#,
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
            r#"-- purge.incident_payloads.overdue
            SELECT o.id AS "org!", extract(epoch FROM p.cutoff - oldest.at)::float8 AS "seconds!"
            FROM main_app.organizations o
            JOIN unnest($1::text[], $2::timestamptz[]) AS p (plan, cutoff) ON p.plan = o.plan
            CROSS JOIN LATERAL (
                (SELECT i.closed_at AS at FROM main_app.incidents i
                 WHERE i.org_id = o.id AND i.status = 'closed' AND i.payload_purged_at IS NULL
                   AND i.closed_at < p.cutoff AND isfinite(i.closed_at)
                 ORDER BY i.closed_at, i.id LIMIT 1)
                UNION ALL
                (SELECT i.closed_at
                 FROM retention.rewritten_payloads w
                 CROSS JOIN LATERAL (SELECT i.closed_at FROM main_app.incidents i
                                     WHERE i.id = w.incident_id AND i.org_id = w.org_id AND i.status = 'closed'
                                       AND i.closed_at < p.cutoff
                                       AND isfinite(i.closed_at) LIMIT 1) i
                 WHERE w.org_id = o.id
                   AND EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = w.incident_id))
                ORDER BY at LIMIT 1) oldest"#,
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
        let payloads = tx.mapping()?.payloads.clone();
        let found = sqlx::query_scalar!(
            r#"-- purge.incident_payloads.remaining
            SELECT found.due AS "due!"
            FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS s (org_id, cutoff, n)
            CROSS JOIN LATERAL (
                SELECT count(*) AS due FROM (
                    (SELECT FROM main_app.incidents i
                     WHERE i.org_id = s.org_id AND i.status = 'closed' AND i.payload_purged_at IS NULL
                       AND i.closed_at < s.cutoff
                     LIMIT $3)
                    UNION ALL
                    (SELECT FROM retention.rewritten_payloads w
                     WHERE w.org_id = s.org_id
                       AND EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = w.incident_id)
                       AND EXISTS (SELECT FROM main_app.incidents i
                                   WHERE i.id = w.incident_id AND i.org_id = s.org_id AND i.status = 'closed'
                                     AND i.closed_at < s.cutoff)
                     LIMIT $3)
                    UNION ALL
                    -- Nothing is looked at here unless a restore, say, may have gone past the trigger.
                    (SELECT FROM main_app.incidents i
                     WHERE (SELECT retention.payloads_in_doubt($4)) AND i.org_id = s.org_id AND i.status = 'closed'
                       AND i.payload_purged_at IS NOT NULL AND i.closed_at < s.cutoff
                       AND coalesce((SELECT true FROM main_app.incident_payloads p WHERE p.incident_id = i.id LIMIT 1), false)
                       AND NOT EXISTS (SELECT FROM retention.rewritten_payloads w
                                       WHERE w.incident_id = i.id AND w.org_id = i.org_id)
                     LIMIT $3)) few) found
            ORDER BY s.n"#,
            &orgs,
            &cutoffs,
            limit,
            &payloads
        )
        .fetch_all(tx)
        .await?;
        // No rule keeps a payload, so that it makes no difference whether there are more than were looked for.
        let all_due = |due| Looked { seen: due, due }.up_to(i64::MAX);
        Ok(found.into_iter().map(all_due).collect())
    }
}

/// Stamps the locked incidents that have no stamp yet, erases their payloads, and forgets their rewriting. They are named
/// by where they stand (`ctid`), which nobody else can change while they are locked.
async fn purge(tx: &mut Transaction<'_>, scope: Scope, places: &[String]) -> sqlx::Result<u64> {
    let purged = sqlx::query!(
        r#"-- purge.incident_payloads.delete_batch
        WITH due AS MATERIALIZED (
            SELECT i.id FROM main_app.incidents i
            WHERE i.ctid = ANY ($3::text[]::tid[]) AND i.org_id = $1 AND i.status = 'closed' AND i.closed_at < $2
        ), stamped AS (
            UPDATE main_app.incidents i SET payload_purged_at = now()
            WHERE i.ctid = ANY ($3::text[]::tid[]) AND i.org_id = $1 AND i.status = 'closed' AND i.closed_at < $2
              AND i.payload_purged_at IS NULL
            RETURNING 1
        ), noted AS (
            DELETE FROM retention.rewritten_payloads w USING due WHERE w.incident_id = due.id AND w.org_id = $1
        )
        -- Stamped first, which takes counting: a payload that stands on the incident itself is erased by an update of the
        -- same row, and an update that comes second must find the first one done.
        SELECT stamps.count AS "stamped!", retention.erase_payloads(ARRAY (SELECT id FROM due)) AS "erased!"
        FROM (SELECT count(*) FROM stamped) stamps"#,
        scope.org.0,
        scope.cutoff.0,
        places
    )
    .fetch_one(tx)
    .await?;
    Ok(rows(purged.erased))
}
