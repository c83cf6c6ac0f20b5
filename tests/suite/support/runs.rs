//! Runs as SQL shows them, runs begun at an instant of the test's choosing, and all that an organization has.

use serde_json::Value;
use tokio::process::Child;
use uuid::Uuid;

use super::{TestDatabase, product};

/// The tables that lose rows, in the order in which facts below are given.
pub const TABLES: [&str; 4] = [
    "drift_checks",
    "workflow_drift_flags",
    "incident_payloads",
    "approvals",
];

/// Enqueues a run as if it had first started then: its cutoffs are that instant minus the windows.
pub async fn enqueue_as_of(db: &TestDatabase, org: Uuid, started_at: &str) -> Uuid {
    let enqueue = format!("SELECT run_id FROM retention.enqueue_purge('{org}', 'test')");
    let run: Uuid = db.value(&enqueue).await;
    db.execute(&format!(
        "UPDATE retention.purge_runs SET started_at = '{started_at}' WHERE id = '{run}'"
    ))
    .await;
    run
}

/// Starts `purge --org … --work` with quick retries and small batches: the test goes on beside it.
pub fn start_purge(db: &TestDatabase, org: Uuid, batch_size: u32) -> Child {
    product::command(&db.url)
        .args(["purge", "--org", &org.to_string(), "--work", "--json"])
        .env("DRIFT_RETENTION_PURGE__BATCH_SIZE", batch_size.to_string())
        .env("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "200ms")
        .env("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "1s")
        .env("DRIFT_RETENTION_WORKER__MAX_ATTEMPTS", "50")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for a purge to end; says whether it succeeded.
pub async fn succeeds(mut purge: Child) -> bool {
    purge.wait().await.unwrap().success()
}

/// Purges one organization in batches of at most so many rows; returns the run.
pub async fn purge_in_batches(db: &TestDatabase, org: Uuid, batch_size: u32) -> Uuid {
    assert!(succeeds(start_purge(db, org, batch_size)).await);
    newest_run(db, org).await
}

/// The newest run of an organization.
pub async fn newest_run(db: &TestDatabase, org: Uuid) -> Uuid {
    db.value(&format!(
        "SELECT id FROM retention.purge_runs WHERE org_id = '{org}' ORDER BY created_at DESC LIMIT 1"
    ))
    .await
}

/// Waits until the organization's run has failed once and is to be tried again.
pub async fn until_retried(db: &TestDatabase, org: Uuid) {
    product::eventually("an attempt has ended without being done", async || {
        db.value::<bool>(&format!(
            "SELECT EXISTS (SELECT FROM retention.purge_runs
                            WHERE org_id = '{org}' AND (status = 'retrying' OR attempts > 1))"
        ))
        .await
    })
    .await;
}

/// The whole row of a run.
pub async fn run(db: &TestDatabase, run: Uuid) -> Value {
    db.value(&format!(
        "SELECT to_jsonb(r) FROM retention.purge_runs r WHERE id = '{run}'"
    ))
    .await
}

/// The step of a run for one table, the whole row.
pub async fn step(db: &TestDatabase, run: Uuid, table: &str) -> Value {
    db.value(&format!(
        "SELECT to_jsonb(s) FROM retention.purge_run_steps s WHERE run_id = '{run}' AND table_name = '{table}'"
    ))
    .await
}

/// What a run recorded as purged, by [`TABLES`].
pub async fn purged(db: &TestDatabase, run: Uuid) -> [i64; 4] {
    let mut purged = [0; 4];
    for (rows, table) in purged.iter_mut().zip(TABLES) {
        *rows = step(db, run, table).await["rows_purged"].as_i64().unwrap();
    }
    purged
}

/// How many rows an organization has, by [`TABLES`].
pub async fn counts(db: &TestDatabase, org: Uuid) -> [i64; 4] {
    let counts: Vec<i64> = db
        .value(&format!(
            "SELECT ARRAY[
                (SELECT count(*) FROM drift_checks WHERE org_id = '{org}'),
                (SELECT count(*) FROM workflow_drift_flags f JOIN drift_checks c ON c.id = f.check_id
                 WHERE c.org_id = '{org}'),
                (SELECT count(*) FROM incident_payloads p JOIN incidents i ON i.id = p.incident_id
                 WHERE i.org_id = '{org}'),
                (SELECT count(*) FROM approvals WHERE org_id = '{org}')]"
        ))
        .await;
    counts.try_into().unwrap()
}

/// Every row of an organization with every column.
pub async fn everything(db: &TestDatabase, org: Uuid) -> Value {
    db.value(&format!(
        "SELECT jsonb_build_object(
            'checks', (SELECT jsonb_agg(to_jsonb(c) ORDER BY c.id) FROM drift_checks c WHERE c.org_id = '{org}'),
            'flags', (SELECT jsonb_agg(to_jsonb(f) ORDER BY f.check_id, f.workflow_id)
                      FROM workflow_drift_flags f JOIN drift_checks c ON c.id = f.check_id WHERE c.org_id = '{org}'),
            'incidents', (SELECT jsonb_agg(to_jsonb(i) ORDER BY i.id) FROM incidents i WHERE i.org_id = '{org}'),
            'payloads', (SELECT jsonb_agg(to_jsonb(p) ORDER BY p.incident_id)
                         FROM incident_payloads p JOIN incidents i ON i.id = p.incident_id WHERE i.org_id = '{org}'),
            'approvals', (SELECT jsonb_agg(to_jsonb(a) ORDER BY a.id) FROM approvals a WHERE a.org_id = '{org}'))"
    ))
    .await
}

/// Purges every organization in batches of at most so many rows, whatever becomes of each run.
pub async fn purge_all_in_batches(db: &TestDatabase, batch_size: u32) {
    product::command(&db.url)
        .args(["purge", "--all", "--work", "--json"])
        .env("DRIFT_RETENTION_PURGE__BATCH_SIZE", batch_size.to_string())
        .output()
        .await
        .unwrap();
}

/// Asks for everybody's run of a slot, as the scheduler does.
pub async fn enqueue_slot(db: &TestDatabase) {
    db.execute("SELECT retention.enqueue_slot(now(), array_agg(id)) FROM organizations")
        .await;
}

pub async fn all_are_final(db: &TestDatabase) {
    product::eventually("every run is final", async || {
        let live = "SELECT count(*) FROM retention.purge_runs WHERE status IN ('queued', 'running', 'retrying')";
        db.value::<i64>(live).await == 0
    })
    .await;
}

/// A run's record but for ids and times, and which of its times and places are there.
pub async fn record(db: &TestDatabase, run: Uuid) -> Value {
    let mut record = self::run(db, run).await;
    let fields = record.as_object_mut().unwrap();
    for field in [
        "id",
        "org_id",
        "worker",
        // A run that made way for others was claimed more than once.
        "token",
        "delivery_id",
        "trigger",
        "urgent",
        "requested_by",
        "scheduled_for",
    ] {
        fields.remove(field);
    }
    for field in ["created_at", "started_at", "finished_at", "verified_at"] {
        assert!(!fields.remove(field).unwrap().is_null(), "{field}");
    }
    let mut steps = Vec::new();
    for table in TABLES {
        let mut step = step(db, run, table).await;
        let fields = step.as_object_mut().unwrap();
        assert!(!fields["started_at"].is_null() && !fields["finished_at"].is_null());
        for field in ["run_id", "started_at", "finished_at", "cutoff"] {
            fields.remove(field);
        }
        for place in ["cursor_at", "cursor_key"] {
            let is_known = !fields[place].is_null();
            fields.insert(place.into(), is_known.into());
        }
        steps.push(step);
    }
    serde_json::json!({ "run": record, "steps": steps })
}
