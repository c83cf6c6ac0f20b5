//! The oracle checks the journal against the promises. Its plain SQL shares nothing with the product.
//!
//! The order of commits decides, and the server records it (`track_commit_timestamp`): either a row was protected when
//! the transaction that deleted it committed, or it was not. Each check returns the violations that it found, as text.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

/// How many findings of one check are printed. All are counted.
const PRINTED_FINDINGS: i64 = 5;
const FACTS: &str = include_str!("sql/facts.sql");

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The check that found it.
    pub(crate) check: &'static str,
    /// The number of findings.
    pub(crate) times: i64,
    /// The first findings.
    pub(crate) found: Vec<String>,
}

/// Runs every check. Purges that started after `healed` must have left nothing expired behind.
///
/// # Errors
/// When the database fails. The round then proves nothing.
pub(crate) async fn judge(
    conn: &mut PgConnection,
    healed: DateTime<Utc>,
) -> sqlx::Result<Vec<Violation>> {
    let facts = FACTS.replace("$1", &format!("'{}'", healed.to_rfc3339()));
    let mut tx = conn.begin().await?;
    sqlx::raw_sql(AssertSqlSafe(facts))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    let mut violations = Vec::new();
    for (check, sql) in CHECKS {
        let sql = format!(
            "-- chaos.check.{check}\nSELECT what, count(*) OVER () AS times FROM ({sql}) AS found LIMIT {PRINTED_FINDINGS}"
        );
        let found = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut *conn)
            .await?;
        if let Some(first) = found.first() {
            violations.push(Violation {
                check,
                times: first.try_get("times")?,
                found: found
                    .iter()
                    .map(|row| row.try_get("what"))
                    .collect::<sqlx::Result<_>>()?,
            });
        }
    }
    Ok(violations)
}

/// The number of rows that the product deleted, by table.
pub(crate) async fn purged(conn: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "-- chaos.purged
         SELECT table_name, count(*) FROM chaos.purged GROUP BY table_name ORDER BY table_name",
    )
    .fetch_all(conn)
    .await
}

/// The number of runs, by how they ended. `at once` marks runs that one transaction took from the queue, purged and
/// closed.
pub(crate) async fn runs(conn: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "-- chaos.runs_by_ending
         SELECT CASE WHEN status = 'failed' THEN 'failed: ' || error_kind
                     WHEN EXISTS (SELECT FROM chaos.runs t JOIN chaos.purged p ON p.run_id = t.id AND p.tx = t.tx
                                  WHERE t.id = r.id AND t.status = 'succeeded' AND t.status_before = 'queued')
                     THEN status || ' at once' ELSE status END, count(*)
         FROM retention.purge_runs r GROUP BY 1 ORDER BY 1",
    )
    .fetch_all(conn)
    .await
}

/// The names of all checks.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|(name, _)| *name)
}

/// Every check: its name, and the SQL that finds violations.
const CHECKS: &[(&str, &str)] = &[
    // The journal is complete. Otherwise the other checks prove nothing.
    ("journal_has_every_commit", "
        SELECT format('entry %s has no time of commit', n) AS what FROM chaos.events WHERE committed IS NULL"),
    ("journal_has_every_row", "
        SELECT format('%s: the journal leaves %s rows, there are %s', j.table_name, j.rows, t.rows) AS what
        FROM (SELECT table_name, count(*) FILTER (WHERE op = 'INSERT') - count(*) FILTER (WHERE op = 'DELETE') AS rows
              FROM chaos.events GROUP BY table_name) j
        JOIN (SELECT 'drift_checks' AS table_name, count(*) AS rows FROM public.drift_checks
              UNION ALL SELECT 'workflow_drift_flags', count(*) FROM public.workflow_drift_flags
              UNION ALL SELECT 'incidents', count(*) FROM public.incidents
              UNION ALL SELECT 'incident_payloads', count(*) FROM public.incident_payloads
              UNION ALL SELECT 'approvals', count(*) FROM public.approvals) t USING (table_name)
        WHERE j.rows <> t.rows"),
    // Protected rows.
    ("only_expired_rows_went", "
        SELECT format('%s %s of %s was not expired: it is of %s, and the cutoff was %s', p.table_name, p.key, p.org_id,
                      p.clock, CASE p.kind WHEN 'checks' THEN a.checks_before ELSE a.closed_before END) AS what
        FROM chaos.purged p LEFT JOIN chaos.allowed a ON a.run_id = p.run_id AND a.at = p.committed
        WHERE NOT coalesce(a.known AND p.clock < CASE p.kind WHEN 'checks' THEN a.checks_before ELSE a.closed_before END, false)"),
    ("newest_check_stayed", "
        SELECT format('check %s was deleted while it was the newest of environment %s', p.key, p.was ->> 'env_id') AS what
        FROM chaos.purged p
        WHERE p.table_name = 'drift_checks' AND NOT EXISTS (
            SELECT FROM chaos.checks n
            WHERE n.env_id = (p.was ->> 'env_id')::uuid AND n.born <= p.committed AND n.died > p.committed
              AND n.checked_at <= p.committed AND (n.checked_at, n.id) > (p.clock, p.key::bigint))"),
    ("payloads_of_open_incidents_stayed", "
        SELECT format('the payload of incident %s was deleted while the incident was %s', p.key, i.status) AS what
        FROM chaos.purged p
        LEFT JOIN chaos.incidents i ON i.key = p.key AND i.since <= p.committed AND p.committed < i.until
        WHERE p.table_name = 'incident_payloads' AND i.status IS DISTINCT FROM 'closed'"),
    ("live_approvals_stayed", "
        SELECT format('approval %s was deleted while it was %s and its incident was %s', p.key, p.was ->> 'status', i.status) AS what
        FROM chaos.purged p
        LEFT JOIN chaos.incidents i ON i.key = p.was ->> 'incident_id' AND i.since <= p.committed AND p.committed < i.until
        WHERE p.table_name = 'approvals'
          AND (p.was ->> 'status' = 'pending' OR i.status IS DISTINCT FROM 'closed')"),
    ("nothing_else_was_touched", "
        SELECT format('process %s did an %s of %s %s', process, op, table_name, key) AS what
        FROM chaos.events
        WHERE process IS NOT NULL AND table_name NOT IN ('purge_runs', 'purge_run_steps')
          AND NOT (op = 'DELETE' AND table_name IN ('drift_checks', 'workflow_drift_flags', 'incident_payloads', 'approvals'))
          AND NOT coalesce(
                op = 'UPDATE' AND table_name = 'incidents' AND was - 'payload_purged_at' = now - 'payload_purged_at'
                AND was ->> 'payload_purged_at' IS NULL AND now ->> 'payload_purged_at' IS NOT NULL
                AND now ->> 'status' = 'closed'
                AND (now ->> 'closed_at')::timestamptz < committed - interval '4320 hours', false)"),
    ("purged_incidents_are_stamped", "
        SELECT format('incident %s lost its payload and has no stamp', p.key) AS what
        FROM chaos.purged p JOIN public.incidents i ON i.id = p.key::uuid
        WHERE p.table_name = 'incident_payloads' AND i.payload_purged_at IS NULL"),
    // Records are exact.
    ("every_deletion_is_counted", "
        SELECT format('%s %s was deleted and no run counts it', table_name, key) AS what
        FROM chaos.purged WHERE run_id IS NULL"),
    ("records_equal_what_went", "
        SELECT format('run %s records %s rows of %s, but deleted %s', coalesce(s.run_id, g.run_id), coalesce(s.rows_purged, 0),
                      coalesce(s.table_name, g.table_name), coalesce(g.rows, 0)) AS what
        FROM retention.purge_run_steps s
        FULL JOIN (SELECT run_id, table_name, count(*) AS rows FROM chaos.purged WHERE run_id IS NOT NULL GROUP BY 1, 2) g
             ON g.run_id = s.run_id AND g.table_name = s.table_name
        WHERE coalesce(s.rows_purged, 0) <> coalesce(g.rows, 0)"),
    ("runs_purge_their_own_organization", "
        SELECT format('run %s of organization %s deleted %s %s of organization %s', p.run_id, r.org_id, p.table_name, p.key, p.org_id) AS what
        FROM chaos.purged p JOIN retention.purge_runs r ON r.id = p.run_id WHERE p.org_id IS DISTINCT FROM r.org_id"),
    // The process holds the run when it commits, or the same transaction took the run from the queue and closed it.
    ("superseded_attempts_commit_nothing", "
        SELECT format('%s committed a batch of run %s, which was %s and held by process %s', b.process, b.run_id, r.status, r.pid) AS what
        FROM (SELECT DISTINCT run_id, process, committed, tx FROM chaos.purged WHERE run_id IS NOT NULL) b
        LEFT JOIN chaos.processes o ON o.process = b.process
        LEFT JOIN chaos.runs r ON r.id = b.run_id AND r.since <= b.committed AND b.committed < r.until
        WHERE r.pid IS DISTINCT FROM o.pid::text
           OR NOT (r.status = 'running' OR r.status = 'succeeded' AND r.status_before = 'queued' AND r.tx = b.tx)"),
    // Runs.
    ("every_run_is_final", "
        SELECT format('run %s of %s is %s after %s attempts (%s)', id, org_id, status, attempts, error) AS what
        FROM retention.purge_runs WHERE status NOT IN ('succeeded', 'failed', 'cancelled')"),
    ("final_runs_stay_final", "
        SELECT format('run %s was %s and then %s', a.id, a.status, b.status) AS what
        FROM chaos.runs a JOIN chaos.runs b ON b.id = a.id AND b.since >= a.until
        WHERE a.status IN ('succeeded', 'failed', 'cancelled')"),
    ("failures_say_why", "
        SELECT format('run %s is %s: kind %s, %s, %s attempts', id, status, error_kind, error, attempts) AS what
        FROM retention.purge_runs
        WHERE status = 'failed' AND (error_kind IS NULL OR coalesce(error, '') = '' OR finished_at IS NULL)
           OR status = 'succeeded' AND (verified_at IS NULL OR finished_at IS NULL)
           OR attempts > max_attempts OR attempts < 0"),
    ("no_run_is_lost", "
        SELECT format('run %s was promised and does not exist', p.run_id) AS what
        FROM chaos.promises p LEFT JOIN retention.purge_runs r ON r.id = p.run_id WHERE p.kept AND r.id IS NULL"),
    ("what_rolled_back_never_existed", "
        SELECT format('run %s was rolled back and exists', p.run_id) AS what
        FROM chaos.promises p JOIN retention.purge_runs r ON r.id = p.run_id WHERE NOT p.kept"),
    ("one_live_run_per_organization", "
        WITH lives AS (
            SELECT id, org_id, min(since) AS begins,
                   coalesce(min(since) FILTER (WHERE status IN ('succeeded', 'failed', 'cancelled')), 'infinity') AS ends
            FROM chaos.runs GROUP BY id, org_id)
        SELECT format('runs %s and %s of %s were live at once', a.id, b.id, a.org_id) AS what
        FROM lives a JOIN lives b ON b.org_id = a.org_id AND b.id > a.id AND a.begins < b.ends AND b.begins < a.ends"),
    ("each_organization_and_slot_once", "
        SELECT format('%s runs of %s for slot %s', count(*), org_id, scheduled_for) AS what
        FROM retention.purge_runs WHERE trigger = 'schedule' GROUP BY org_id, scheduled_for HAVING count(*) > 1
        UNION ALL
        SELECT format('slot %s is complete, but organization %s has no run of it and had no live run', s.slot, o.id)
        FROM retention.schedule_slots s CROSS JOIN public.organizations o
        WHERE s.enqueued + s.coalesced > 0 AND s.completed_at IS NOT NULL
          AND NOT EXISTS (SELECT FROM retention.purge_runs r WHERE r.org_id = o.id AND r.scheduled_for = s.slot)
          AND NOT EXISTS (SELECT FROM chaos.runs r WHERE r.org_id = o.id AND r.status IN ('queued', 'running', 'retrying')
                            AND r.since <= s.completed_at + interval '1 second' AND r.until >= s.started_at)
        UNION ALL
        SELECT format('slot %s counts %s new runs, but %s exist', s.slot, s.enqueued, count(r.id))
        FROM retention.schedule_slots s LEFT JOIN retention.purge_runs r ON r.scheduled_for = s.slot AND r.trigger = 'schedule'
        GROUP BY s.slot, s.enqueued HAVING s.enqueued <> count(r.id)"),
    // After the faults, nothing expired is left.
    ("everybody_is_purged_in_the_end", "
        SELECT format('the last run of %s (plan %s) is %s: %s (%s)', org_id, plan, run_id, status, error_kind) AS what
        FROM chaos.finals
        WHERE CASE WHEN plan IS NULL THEN status IS DISTINCT FROM 'failed' OR error_kind IS DISTINCT FROM 'policy_unresolved'
                   ELSE status IS DISTINCT FROM 'succeeded' END"),
    ("expired_checks_are_gone", "
        SELECT format('check %s of %s still exists', c.id, c.org_id) AS what
        FROM public.drift_checks c JOIN chaos.finals f ON f.org_id = c.org_id AND c.checked_at < f.checks_before
        WHERE EXISTS (SELECT FROM public.drift_checks n
                      WHERE n.env_id = c.env_id AND n.checked_at <= f.started_at AND (n.checked_at, n.id) > (c.checked_at, c.id))"),
    ("expired_payloads_are_gone_and_stamped", "
        SELECT format('incident %s of %s: has a payload: %s, stamp: %s', i.id, i.org_id, p.incident_id IS NOT NULL, i.payload_purged_at) AS what
        FROM public.incidents i JOIN chaos.finals f ON f.org_id = i.org_id AND i.closed_at < f.closed_before
        LEFT JOIN public.incident_payloads p ON p.incident_id = i.id
        WHERE i.status = 'closed' AND (p.incident_id IS NOT NULL OR i.payload_purged_at IS NULL)"),
    ("expired_approvals_are_gone", "
        SELECT format('approval %s of %s still exists', a.id, a.org_id) AS what
        FROM public.approvals a JOIN chaos.finals f ON f.org_id = a.org_id AND a.created_at < f.closed_before
        JOIN public.incidents i ON i.id = a.incident_id
        WHERE a.status <> 'pending' AND i.status = 'closed'"),
];
