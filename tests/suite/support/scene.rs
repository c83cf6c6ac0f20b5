//! One of everything that the console shows, each of its texts made of words of the test's choosing; and far too
//! many of some.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    TestDatabase,
    console::{Runs, pages},
};

/// What was written, and how to find it.
pub struct Scene {
    pub org: Uuid,
    pub envs: Vec<Uuid>,
    /// With its payload, without it after a purge, and without it from the beginning.
    pub incidents: Vec<Uuid>,
    pub runs: Runs,
}

impl Scene {
    /// Every page there is on it.
    pub fn pages(&self) -> Vec<String> {
        pages(Some(self.org), &self.envs, &self.incidents, &self.runs)
    }

    /// An organization with one of each, and the same words in each of their texts.
    pub async fn of(db: &TestDatabase, words: &str) -> Self {
        let text = literal(words);
        let org: Uuid = one(
            db,
            &format!("INSERT INTO organizations (name, plan) VALUES ({text}, 'pro')"),
        )
        .await;
        // Nobody knows this plan: the page of unresolved plans has something to show.
        let other: Uuid = one(
            db,
            &format!("INSERT INTO organizations (name, plan) VALUES ({text}, {text})"),
        )
        .await;
        let env: Uuid = one(
            db,
            &format!("INSERT INTO environments (org_id, name) VALUES ('{org}', {text})"),
        )
        .await;
        db.execute(&format!(
            "WITH made AS (
                 INSERT INTO drift_checks (org_id, env_id, checked_at, status, modified_count)
                 SELECT '{org}', '{env}', now() - days * interval '1 day', 'drift', 1
                 FROM unnest(ARRAY[0, 40, 50]) days RETURNING id)
             INSERT INTO workflow_drift_flags (check_id, workflow_id, workflow_name, flag)
             SELECT id, {text}, {text}, 'modified' FROM made"
        ))
        .await;
        let incidents = incidents(db, org, env, words).await;
        let runs = runs(db, org, other, &text).await;
        Self {
            org,
            envs: vec![env],
            incidents,
            runs,
        }
    }
}

async fn incidents(db: &TestDatabase, org: Uuid, env: Uuid, words: &str) -> Vec<Uuid> {
    let text = literal(words);
    let mut incidents = Vec::new();
    for (status, closed, purged) in [
        ("detected", "NULL", "NULL"),
        (
            "closed",
            "now() - interval '1 year'",
            "now() - interval '1 day'",
        ),
        ("closed", "now()", "NULL"),
    ] {
        let sql = format!(
            "INSERT INTO incidents (org_id, env_id, title, severity, status, owner, closed_at, payload_purged_at)
             VALUES ('{org}', '{env}', {text}, 'high', '{status}', {text}, {closed}, {purged})"
        );
        let incident: Uuid = one(db, &sql).await;
        db.execute(&format!(
            "INSERT INTO approvals (org_id, incident_id, action, status, requested_by, decided_by, notes, decided_at)
             VALUES ('{org}', '{incident}', 'accept_drift', 'approved', {text}, {text}, {text}, now())"
        ))
        .await;
        incidents.push(incident);
    }
    db.execute(&format!(
        "INSERT INTO incident_payloads (incident_id, payload_json) VALUES ('{}', {}::jsonb)",
        incidents[0],
        literal(&payload(words).to_string())
    ))
    .await;
    incidents
}

/// The payload's shape, with the words wherever somebody could have put them: keys too.
fn payload(words: &str) -> Value {
    json!({
        words: {words: words},
        "environment": words,
        "git": {"branch": words, "commit": words, "author": words},
        "workflows": [{"id": words, "name": words, "edited_by": words, "flag": "modified", "nodes": [
            {"change": "parameter_changed", "node": {"name": words, "type": words}, "parameter": words,
             "before": words, "after": {words: [words]}},
            {"change": "settings_changed", "setting": words, "before": words, "after": null},
            {"change": words, words: words},
        ]}],
    })
}

async fn runs(db: &TestDatabase, org: Uuid, other: Uuid, text: &str) -> Runs {
    let run = async |org: Uuid, status: &str, error: &str| {
        let ended = if status == "queued" { "NULL" } else { "now()" };
        let verified = if status == "succeeded" {
            "now()"
        } else {
            "NULL"
        };
        one(
            db,
            &format!(
                "INSERT INTO retention.purge_runs
                     (org_id, trigger, requested_by, reason, status, plan, attempts, error_kind, error,
                      created_at, started_at, finished_at, verified_at)
                 VALUES ('{org}', 'purge_now', {text}, {text}, '{status}', 'pro', 1, {error}, {error},
                         now() - interval '1 hour', {ended}, {ended}, {verified})"
            ),
        )
        .await
    };
    let failed: Uuid = run(other, "failed", text).await;
    let succeeded = run(org, "succeeded", "NULL").await;
    let cancelled = run(org, "cancelled", "NULL").await;
    let live = run(org, "queued", "NULL").await;
    without_triggers(
        db,
        &format!(
            "INSERT INTO retention.purge_run_steps (run_id, table_name, cutoff, status, rows_purged, batches, started_at, finished_at)
             SELECT '{succeeded}', name, now() - interval '30 days', 'succeeded', 1234567, 2, now(), now()
             FROM unnest(ARRAY['drift_checks', 'workflow_drift_flags', 'incident_payloads', 'approvals']) name;
             INSERT INTO retention.operator_actions (actor, action, run_id, org_id, reason, details)
             VALUES ({text}, 'replay', '{failed}', '{other}', {text}, jsonb_build_object('run_id', '{live}'))"
        ),
    )
    .await;
    Runs {
        failed: Some(failed),
        live: Some(live),
        ended: vec![failed, succeeded, cancelled],
    }
}

/// So many past runs of two hundred organizations, one in ten of them failed, each with its first step.
pub async fn many_runs(db: &TestDatabase, count: u32) {
    db.execute(
        "INSERT INTO organizations (name, plan) SELECT 'Customer ' || n, 'pro' FROM generate_series(1, 200) n",
    )
    .await;
    without_triggers(
        db,
        &format!(
            "WITH orgs AS (SELECT array_agg(id) AS ids FROM organizations),
             made AS (
                 INSERT INTO retention.purge_runs
                     (org_id, trigger, requested_by, status, plan, attempts, error_kind, error, created_at, started_at,
                      finished_at, verified_at)
                 SELECT ids[1 + n % 200], 'purge_now', 'history', CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'succeeded' END,
                        'pro', 1, CASE WHEN n % 10 = 0 THEN (ARRAY['database', 'lease_lost', 'verification'])[1 + n % 3] END,
                        CASE WHEN n % 10 = 0 THEN 'the server closed the connection' END,
                        now() - n * interval '5 minutes', now() - n * interval '5 minutes', now() - n * interval '5 minutes',
                        CASE WHEN n % 10 <> 0 THEN now() - n * interval '5 minutes' END
                 FROM orgs, generate_series(1, {count}) n RETURNING id, created_at)
             INSERT INTO retention.purge_run_steps (run_id, table_name, status, rows_purged, batches, started_at, finished_at)
             SELECT id, 'drift_checks', 'succeeded', 17, 1, created_at, created_at FROM made"
        ),
    )
    .await;
    db.execute("ANALYZE").await;
}

/// Writes the past as it could have come to be: records of ended runs take no further rows.
async fn without_triggers(db: &TestDatabase, sql: &str) {
    db.execute(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica; {sql}; COMMIT"
    ))
    .await;
}

/// Inserts one row; its id.
async fn one(db: &TestDatabase, insert: &str) -> Uuid {
    db.value(&format!("{insert} RETURNING id")).await
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
