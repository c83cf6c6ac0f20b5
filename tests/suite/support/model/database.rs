//! Writes organizations, whole tables at once, and reads back every column of every row.
#![allow(clippy::disallowed_methods, reason = "the model has SQL of its own")]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::{Case, Step, rules::Key};
use crate::support::{TestDatabase, product};

/// Every row there is, with all of its columns.
pub type Rows = BTreeMap<Key, String>;

/// What stands there of one case.
pub type Found<T> = BTreeMap<u64, T>;

/// In microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// When runs that had begun before first started: an hour ago.
    pub as_of: i64,
    /// Postgres's time before anything was written.
    pub now: i64,
}

impl Clock {
    pub async fn of(db: &TestDatabase) -> Self {
        let now: i64 = db
            .value("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
            .await;
        Self {
            as_of: now - 3600 * 1_000_000,
            now,
        }
    }
}

/// Writes them in place of what was there, as they are, whatever constraints between tables say of it.
pub async fn write(db: &TestDatabase, cases: &[Case], clock: Clock) {
    let mut tx = db.pool.begin().await.unwrap();
    for sql in [
        "TRUNCATE organizations CASCADE",
        "SET LOCAL session_replication_role = replica",
    ] {
        run(&mut tx, sql, &json!([])).await;
    }
    for (table, rows) in [
        ("organizations", cases.iter().map(organization).collect()),
        ("environments", all(cases, environments)),
        ("drift_checks", all(cases, |case| checks(case, clock))),
        ("workflow_drift_flags", all(cases, flags)),
        ("incidents", all(cases, |case| incidents(case, clock))),
        ("incident_payloads", all(cases, payloads)),
        ("approvals", all(cases, |case| approvals(case, clock))),
    ] {
        let sql = format!(
            "INSERT INTO {table} OVERRIDING SYSTEM VALUE
             SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1)"
        );
        run(&mut tx, &sql, &Value::Array(rows)).await;
    }
    tx.commit().await.unwrap();
}

async fn run(conn: &mut PgConnection, sql: &str, rows: &Value) {
    let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    let query = if sql.contains("$1") {
        query.bind(rows)
    } else {
        query
    };
    query.execute(conn).await.unwrap();
}

fn all(cases: &[Case], rows: impl Fn(&Case) -> Vec<Value>) -> Vec<Value> {
    cases.iter().flat_map(rows).collect()
}

fn organization(case: &Case) -> Value {
    json!({"id": case.id(), "name": "Any", "plan": case.org.plan, "created_at": "infinity"})
}

fn environments(case: &Case) -> Vec<Value> {
    let row = |n| json!({"id": case.env(n), "org_id": case.id(), "name": "production", "created_at": "-infinity"});
    (0..case.org.environments).map(row).collect()
}

fn checks(case: &Case, clock: Clock) -> Vec<Value> {
    let row = |(n, check): (usize, &super::Check)| {
        json!({
            "id": case.check(n), "org_id": case.id(), "env_id": case.env(check.env),
            "checked_at": check.at.text(clock), "status": check.status, "modified_count": -1,
            "not_in_git_count": i32::MAX, "unknown_count": 0, "summary_json": (n % 2 == 0).then(|| json!([n])),
        })
    };
    case.org.checks.iter().enumerate().map(row).collect()
}

fn flags(case: &Case) -> Vec<Value> {
    let row = |id: i64, flag: usize| json!({"check_id": id, "workflow_id": format!("wf_{flag}"), "flag": "unknown"});
    let numbered = case.org.checks.iter().enumerate();
    let of_checks =
        numbered.flat_map(|(n, check)| (0..check.flags).map(move |flag| row(case.check(n), flag)));
    let missing = (0..case.org.orphans).map(|n| row(case.check(9_000 + n), 0));
    of_checks.chain(missing).collect()
}

fn incidents(case: &Case, clock: Clock) -> Vec<Value> {
    let row = |(n, incident): (usize, &super::Incident)| {
        json!({
            "id": case.incident(n), "org_id": case.id(), "env_id": case.env(n), "title": "", "status": incident.status,
            "detected_at": "infinity", "closed_at": incident.closed_at.map(|at| at.text(clock)),
            "is_deleted": incident.is_deleted, "payload_purged_at": incident.stamped.map(|at| at.text(clock)),
            "created_at": "-infinity", "updated_at": "2020-02-02T02:02:02.000002Z",
        })
    };
    case.org.incidents.iter().enumerate().map(row).collect()
}

fn payloads(case: &Case) -> Vec<Value> {
    let row = |id: Uuid| json!({"incident_id": id, "payload_json": any_json(id), "created_at": "infinity"});
    let numbered = case.org.incidents.iter().enumerate();
    let there = numbered.filter(|(_, incident)| incident.has_payload);
    let missing = (0..case.org.orphans).map(|n| case.incident(9_000 + n));
    there
        .map(|(n, _)| case.incident(n))
        .chain(missing)
        .map(row)
        .collect()
}

/// Payloads of any shape.
fn any_json(id: Uuid) -> Value {
    match id.as_u128() % 3 {
        0 => json!(""),
        1 => json!([]),
        _ => json!({"workflows": [{"id": id}]}),
    }
}

fn approvals(case: &Case, clock: Clock) -> Vec<Value> {
    let row = |(n, approval): (usize, &super::Approval)| {
        json!({
            "id": case.approval(n), "org_id": case.id(), "incident_id": case.incident(case.org.incident_of(approval)),
            "action": "accept_drift", "status": approval.status, "requested_by": "sam",
            "created_at": approval.at.text(clock), "decided_at": (n % 2 == 0).then_some("-infinity"),
        })
    };
    case.org.approvals.iter().enumerate().map(row).collect()
}

/// Asks for a purge of every organization that has no run yet; some begin as if a first attempt had failed.
pub async fn enqueue(db: &TestDatabase, cases: &[Case], clock: Clock) {
    let ids: Vec<Uuid> = cases.iter().map(Case::id).collect();
    let began = cases.iter().filter(|case| case.org.began_before);
    let began: Vec<Uuid> = began.map(Case::id).collect();
    let mut tx = db.pool.begin().await.unwrap();
    sqlx::query("SELECT retention.enqueue_purge(id, 'main app') FROM unnest($1::uuid[]) AS id")
        .bind(ids)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(
        "UPDATE retention.purge_runs SET started_at = to_timestamp(0) + $2 * interval '1 microsecond'
         WHERE org_id = ANY ($1)",
    )
    .bind(began)
    .bind(clock.as_of)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

/// Every row of the main app's tables. A stamp that its run made reads `by the run`.
pub async fn rows(db: &TestDatabase) -> Rows {
    let found: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT 'organizations', id::text, o::text FROM organizations o
         UNION ALL SELECT 'environments', id::text, e::text FROM environments e
         UNION ALL SELECT 'drift_checks', id::text, c::text FROM drift_checks c
         UNION ALL SELECT 'workflow_drift_flags', check_id || ' ' || workflow_id, f::text FROM workflow_drift_flags f
         UNION ALL SELECT 'incidents', id::text, (to_jsonb(i) - 'payload_purged_at')::text FROM incidents i
         UNION ALL SELECT 'incident_payloads', incident_id::text, p::text FROM incident_payloads p
         UNION ALL SELECT 'approvals', id::text, a::text FROM approvals a
         UNION ALL SELECT 'payload_purged_at', i.id::text,
             CASE WHEN i.payload_purged_at BETWEEN r.created_at AND r.finished_at THEN 'by the run'
                  ELSE coalesce(i.payload_purged_at::text, 'never') END
         FROM incidents i LEFT JOIN retention.purge_runs r ON r.org_id = i.org_id",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    found
        .into_iter()
        .map(|(table, key, row)| ((table, key), row))
        .collect()
}

/// The same, case by case.
pub fn by_case(rows: Rows) -> Found<Rows> {
    let mut cases = Found::<Rows>::new();
    for (key, row) in rows {
        cases
            .entry(Case::number_of(&key.1))
            .or_default()
            .insert(key, row);
    }
    cases
}

/// A final run: when it first started, why it failed, and its steps.
#[derive(Debug, Deserialize)]
pub struct Record {
    pub started: i64,
    pub error_kind: Option<String>,
    pub steps: BTreeMap<String, Step>,
}

/// The run of every organization, all of them final.
pub async fn records(db: &TestDatabase) -> Found<Record> {
    let found: Vec<(Uuid, Value)> = sqlx::query_as(
        "SELECT r.org_id, jsonb_build_object(
             'started', (extract(epoch FROM r.started_at) * 1000000)::bigint, 'error_kind', r.error_kind,
             'steps', (SELECT coalesce(jsonb_object_agg(s.table_name, jsonb_build_object(
                           'status', s.status, 'cutoff', (extract(epoch FROM s.cutoff) * 1000000)::bigint,
                           'purged', s.rows_purged, 'kept', s.rows_kept)), '{}')
                       FROM retention.purge_run_steps s WHERE s.run_id = r.id))
         FROM retention.purge_runs r
         WHERE r.status = CASE WHEN r.error_kind IS NULL THEN 'succeeded' ELSE 'failed' END",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let record = |(org, record): (Uuid, Value)| {
        (org.as_u64_pair().0, serde_json::from_value(record).unwrap())
    };
    found.into_iter().map(record).collect()
}

/// What the product says a purge now would remove, by table, or why it cannot say.
#[derive(Debug, Deserialize)]
pub struct Preview {
    pub error_kind: Option<String>,
    pub tables: BTreeMap<String, usize>,
}

/// The preview of every organization.
pub async fn previews(db: &TestDatabase) -> Found<Preview> {
    let all = product::json(&db.url, &["preview", "--all", "--json"]).await;
    let preview = |org: &Value| {
        let id: Uuid = org["org_id"].as_str().unwrap().parse().unwrap();
        let preview = serde_json::from_value(org.clone()).unwrap();
        (id.as_u64_pair().0, preview)
    };
    let all = all["organizations"].as_array().unwrap();
    all.iter().map(preview).collect()
}
