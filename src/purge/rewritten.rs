//! Payloads that the main app wrote again after their purge, and that no trigger noted: it was missing, or a restore went past
//! it. They are noted here, so that they go like those that the trigger noted.

use crate::{ids::OrgId, postgres::Database, retention::Cutoff};

/// How many incidents one step of the search looks at: some milliseconds.
const INCIDENTS: i64 = 1_000;

/// How many notes one round of pruning deletes.
const MAX_NOTES_PER_ROUND: i64 = 5_000;

/// What a step of the search came to.
#[derive(Debug, Clone, Copy)]
pub struct SearchStep {
    /// How many payloads it noted.
    pub noted: i64,
    /// Whether payloads may have been written past the trigger, and the search has not come to its end since.
    pub is_urgent: bool,
}

/// Looks at the next incidents, by id, and notes those that are stamped and have a payload. Where another process searches, it
/// does nothing.
///
/// # Errors
/// When the database fails; the next step begins where this one did.
pub async fn note_unnoticed(database: &Database) -> sqlx::Result<SearchStep> {
    let tables = database
        .mapping()
        .map_or_else(Vec::new, |mapping| mapping.payloads.clone());
    sqlx::query_as!(
        SearchStep,
        r#"-- purge.note_unnoticed
        WITH place AS MATERIALIZED (
            SELECT s.after_incident, s.begun_state, s.noted_state, tables.state
            FROM retention.rewritten_search s
            CROSS JOIN (SELECT retention.payload_tables_state($2) AS state) tables
            FOR UPDATE OF s SKIP LOCKED
        ), start AS MATERIALIZED (
            -- A search that began in another state of the tables begins anew.
            SELECT CASE WHEN begun_state IS NOT DISTINCT FROM state THEN after_incident
                        ELSE '00000000-0000-0000-0000-000000000000' END AS after_incident, state, noted_state
            FROM place
        ), looked_at AS MATERIALIZED (
            SELECT i.id, i.org_id, i.payload_purged_at FROM start
            CROSS JOIN LATERAL (
                SELECT i.id, i.org_id, i.payload_purged_at FROM main_app.incidents i
                WHERE i.id > start.after_incident ORDER BY i.id LIMIT $1) i
        ), noted AS (
            INSERT INTO retention.rewritten_payloads AS w (incident_id, org_id)
            SELECT l.id, l.org_id FROM looked_at l
            WHERE l.payload_purged_at IS NOT NULL AND l.org_id IS NOT NULL
              AND EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = l.id)
            ON CONFLICT (incident_id) DO UPDATE SET org_id = EXCLUDED.org_id WHERE w.org_id <> EXCLUDED.org_id
            RETURNING 1
        ), last AS MATERIALIZED (
            -- None: the search has come to its end.
            SELECT CASE WHEN (SELECT count(*) FROM looked_at) >= $1
                        THEN (SELECT id FROM looked_at ORDER BY id DESC LIMIT 1) END AS id
        ), moved AS (
            UPDATE retention.rewritten_search s
            SET after_incident = coalesce(last.id, '00000000-0000-0000-0000-000000000000'),
                begun_state = start.state,
                noted_state = CASE WHEN last.id IS NULL THEN start.state ELSE s.noted_state END
            FROM start, last
        )
        SELECT (SELECT count(*) FROM noted) AS "noted!",
               coalesce((SELECT last.id IS NOT NULL AND start.state IS DISTINCT FROM start.noted_state FROM start, last),
                        false) AS "is_urgent!""#,
        INCIDENTS,
        &tables
    )
    .fetch_one(database)
    .await
}

/// Notes what is to go of one organization, if payloads may have been written past the trigger. Returns how many it noted.
///
/// # Errors
/// When the database fails.
pub(super) async fn note_of(database: &Database, org: OrgId, cutoff: Cutoff) -> sqlx::Result<u64> {
    let mut tx = database
        .begin_with(&["SET LOCAL statement_timeout = '5min'"])
        .await?;
    let tables = tx.mapping()?.payloads.clone();
    let noted = sqlx::query!(
        "-- purge.note_rewritten_of
         INSERT INTO retention.rewritten_payloads AS w (incident_id, org_id)
         SELECT i.id, i.org_id FROM main_app.incidents i
         WHERE (SELECT retention.payloads_in_doubt($3)) AND i.org_id = $1 AND i.status = 'closed'
           AND i.payload_purged_at IS NOT NULL AND i.closed_at < $2
           AND coalesce((SELECT true FROM main_app.incident_payloads p WHERE p.incident_id = i.id LIMIT 1), false)
         ON CONFLICT (incident_id) DO UPDATE SET org_id = EXCLUDED.org_id WHERE w.org_id <> EXCLUDED.org_id",
        org.0,
        cutoff.0,
        &tables
    )
    .execute(&mut tx)
    .await?;
    tx.commit().await?;
    Ok(noted.rows_affected())
}

/// Drops and readdresses notes whose incident the main app has deleted, or given to another organization.
///
/// # Errors
/// When the database fails. The next round tries again.
pub async fn prune_notes(database: &Database) -> sqlx::Result<()> {
    prune_rewritten(database).await?;
    readdress_rewritten(database).await
}

/// Notes of incidents that the main app has deleted since. No foreign key does it: nothing of ours stands on its tables.
async fn prune_rewritten(database: &Database) -> sqlx::Result<()> {
    sqlx::query!(
        "-- purge.prune_rewritten
         DELETE FROM retention.rewritten_payloads
         WHERE incident_id IN (SELECT w.incident_id FROM retention.rewritten_payloads w
                               WHERE NOT EXISTS (SELECT FROM main_app.incidents i WHERE i.id = w.incident_id)
                               LIMIT $1 FOR UPDATE OF w SKIP LOCKED)",
        MAX_NOTES_PER_ROUND
    )
    .execute(database)
    .await?;
    Ok(())
}

/// Notes of incidents that the main app has given to another organization since: its runs are to take them.
async fn readdress_rewritten(database: &Database) -> sqlx::Result<()> {
    sqlx::query!(
        "-- purge.readdress_rewritten
         UPDATE retention.rewritten_payloads w SET org_id = i.org_id
         FROM main_app.incidents i WHERE i.id = w.incident_id AND i.org_id <> w.org_id"
    )
    .execute(database)
    .await?;
    Ok(())
}
