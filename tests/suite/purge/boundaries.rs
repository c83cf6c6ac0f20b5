//! One microsecond before, at and after every cutoff: a row goes if and only if it is strictly older.

use uuid::Uuid;

use crate::support::{TestDatabase, app::App, product, runs};

/// When the runs of these tests first start. Clocks changed within each window before it, in some places.
const STARTED: &str = "2024-04-05T02:30:00.123456Z";
/// Plan, and its windows in days: drift checks, closed incidents.
const WINDOWS: [(&str, i64, Option<i64>); 4] = [
    ("free", 7, None),
    ("pro", 30, Some(180)),
    ("agency", 90, Some(365)),
    ("enterprise", 180, Some(2555)),
];

/// An instant near the cutoff, as an expression.
fn near(days: i64, microseconds: i64) -> String {
    let hours = days * 24;
    format!(
        "timestamptz '{STARTED}' - interval '{hours} hours' + interval '{microseconds} microseconds'"
    )
}

/// Gives `org` one row of each kind at so many microseconds from its cutoff; titles and notes say how many.
async fn rows_at(db: &TestDatabase, org: Uuid, checks: i64, closed: i64, microseconds: i64) {
    let (check, closed) = (near(checks, microseconds), near(closed, microseconds));
    db.execute(&format!(
        "WITH env AS (INSERT INTO environments (org_id, name) VALUES ('{org}', 'production') RETURNING id),
         checks AS (
             INSERT INTO drift_checks (org_id, env_id, checked_at, status, modified_count)
             SELECT '{org}', id, at, 'drift', {microseconds}
             FROM env, (VALUES ({check}), (timestamptz '{STARTED}')) AS v (at) RETURNING id),
         flags AS (
             INSERT INTO workflow_drift_flags (check_id, workflow_id, flag) SELECT id, 'wf_1', 'modified' FROM checks),
         incident AS (
             INSERT INTO incidents (org_id, env_id, title, status, closed_at)
             SELECT '{org}', id, {microseconds}, 'closed', {closed} FROM env RETURNING id),
         payload AS (
             INSERT INTO incident_payloads (incident_id, payload_json) SELECT id, '{{}}' FROM incident)
         INSERT INTO approvals (org_id, incident_id, action, status, requested_by, notes, created_at)
         SELECT '{org}', id, 'accept_drift', 'approved', 'sam', {microseconds}, {closed} FROM incident"
    ))
    .await;
}

/// How far from the cutoff the rows are that stayed: checks, payloads, approvals.
async fn left(db: &TestDatabase, org: Uuid) -> [Vec<i32>; 3] {
    let mut left = Vec::new();
    for sql in [
        format!(
            "SELECT array_agg(modified_count ORDER BY modified_count) FROM drift_checks
             WHERE org_id = '{org}' AND checked_at < '{STARTED}'"
        ),
        format!(
            "SELECT array_agg(title::int ORDER BY title::int)
             FROM incidents i JOIN incident_payloads p ON p.incident_id = i.id
             WHERE org_id = '{org}' AND payload_purged_at IS NULL"
        ),
        format!(
            "SELECT array_agg(notes::int ORDER BY notes::int) FROM approvals WHERE org_id = '{org}'"
        ),
    ] {
        left.push(db.value(&sql).await);
    }
    left.try_into().unwrap()
}

async fn only_strictly_older_rows_go(db: &TestDatabase) {
    let app = App::on(&db.pool);
    let mut orgs = Vec::new();
    for (plan, checks, closed) in WINDOWS {
        let org = app.org(plan).await;
        for microseconds in [-1, 0, 1] {
            rows_at(db, org, checks, closed.unwrap_or(9000), microseconds).await;
        }
        let run = runs::enqueue_as_of(db, org, STARTED).await;
        orgs.push((org, run, checks, closed));
    }

    product::json(&db.url, &["purge", "--all", "--work", "--json"]).await;

    for (org, run, checks, closed) in orgs {
        let (stay, all) = (vec![0, 1], vec![-1, 0, 1]);
        let (incidents, gone) = closed.map_or((all, 0), |_| (stay.clone(), 1));
        let expected = [stay, incidents.clone(), incidents];
        assert_eq!(left(db, org).await, expected, "{checks} days");
        assert_eq!(runs::purged(db, run).await, [1, 1, gone, gone]);
        let cutoffs: Vec<Option<bool>> = db
            .value(&format!(
                "SELECT array_agg(cutoff = CASE WHEN table_name IN ('drift_checks', 'workflow_drift_flags')
                                                THEN {} ELSE {} END ORDER BY table_name)
                 FROM retention.purge_run_steps WHERE run_id = '{run}'",
                near(checks, 0),
                near(closed.unwrap_or(0), 0)
            ))
            .await;
        let incidents = closed.map(|_| true);
        assert_eq!(cutoffs, [incidents, Some(true), incidents, Some(true)]);
    }
}

#[tokio::test]
async fn a_row_at_the_cutoff_is_kept_and_one_microsecond_older_goes() {
    only_strictly_older_rows_go(&TestDatabase::new().await).await;
}

async fn set_time_zone(db: &TestDatabase, zone: &str) {
    db.execute(&format!(
        "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = %L', current_database(), '{zone}'); END$$"
    ))
    .await;
}

#[tokio::test]
async fn the_same_rows_go_where_the_server_thinks_in_new_york_time() {
    let db = TestDatabase::new().await;
    set_time_zone(&db, "America/New_York").await;
    only_strictly_older_rows_go(&db).await;
}

#[tokio::test]
async fn the_same_rows_go_where_the_server_thinks_in_kathmandu_time() {
    let db = TestDatabase::new().await;
    set_time_zone(&db, "Asia/Kathmandu").await;
    only_strictly_older_rows_go(&db).await;
}
