//! Payloads that the main app wrote again after their purge, and that no trigger noted: it was missing, or a restore went past
//! it. A search goes over all incidents, a few every minute, so that the next run takes such a payload, only later.

use crate::postgres::Database;

/// How many incidents one search looks at: some milliseconds. A million takes less than a day.
const INCIDENTS: i64 = 1_000;

/// Looks at the next incidents, by id, and notes those that are stamped and have a payload. Returns how many it noted. Where
/// another process searches, it does nothing.
///
/// # Errors
/// When the database fails; the next search begins where this one did.
pub async fn note_unnoticed(database: &Database) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"-- purge.note_unnoticed
        WITH place AS MATERIALIZED (
            SELECT after_incident FROM retention.rewritten_search FOR UPDATE SKIP LOCKED
        ), looked_at AS MATERIALIZED (
            SELECT i.id, i.org_id, i.payload_purged_at FROM place
            CROSS JOIN LATERAL (
                SELECT i.id, i.org_id, i.payload_purged_at FROM main_app.incidents i
                WHERE i.id > place.after_incident ORDER BY i.id LIMIT $1) i
        ), noted AS (
            INSERT INTO retention.rewritten_payloads (incident_id, org_id)
            SELECT l.id, l.org_id FROM looked_at l
            WHERE l.payload_purged_at IS NOT NULL AND l.org_id IS NOT NULL
              AND EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = l.id)
            ON CONFLICT (incident_id) DO NOTHING
            RETURNING 1
        ), moved AS (
            UPDATE retention.rewritten_search
            SET after_incident = coalesce((SELECT id FROM looked_at ORDER BY id DESC LIMIT 1),
                                          '00000000-0000-0000-0000-000000000000')
            WHERE EXISTS (SELECT FROM place)
        )
        SELECT count(*) AS "noted!" FROM noted"#,
        INCIDENTS
    )
    .fetch_one(database)
    .await
}
