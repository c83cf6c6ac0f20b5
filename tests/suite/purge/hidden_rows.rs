//! Row-level security that is switched on under a running worker: Postgres refuses to hide rows from a purge, the run fails and
//! says so, the other tables are purged, and the process ends.

use std::{fs, time::Duration};

use uuid::Uuid;

use crate::support::{
    TestDatabase,
    attach::{grant_all, owner_of_views, with_rows},
    product::{self, Service, eventually},
    runs,
};

/// Starts a worker, hides every row of `table`, and asks for a purge; returns what the run recorded of its first attempt.
async fn purged_behind_security(table: &str) -> (TestDatabase, Uuid, serde_json::Value) {
    let (db, org) = with_rows().await;
    let role = owner_of_views(&db).await;
    grant_all(&db, &role).await;
    let (mut service, log) = Service::logged(&db.url, "worker", &[]);
    service.ready().await;
    db.execute(&format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))
        .await;
    let run = product::enqueue(&db.pool, org).await;
    eventually("the attempt has failed", async || {
        product::status(&db.pool, run).await == "retrying"
    })
    .await;
    // It need not wait for the next look at the mapping, a minute later.
    let code = service.ends_within(Duration::from_secs(30)).await;
    let log = fs::read_to_string(log.path()).unwrap();
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("row-level security") && log.contains("BYPASSRLS"),
        "{log}"
    );
    let record = runs::run(&db, run).await;
    (db, run, record)
}

#[tokio::test]
async fn run_fails_by_name_when_a_table_hides_its_rows_and_the_other_tables_are_purged() {
    for (table, purged) in [
        ("drift_checks", [0, 0, 1, 1]),
        ("incident_payloads", [4, 8, 0, 1]),
        ("approvals", [4, 8, 1, 0]),
    ] {
        let (db, run, record) = purged_behind_security(table).await;
        assert_eq!(record["error_kind"], "row_security", "{record:#}");
        let error = record["error"].as_str().unwrap();
        assert!(
            error.contains(table) && error.contains("BYPASSRLS"),
            "{error}"
        );
        assert_eq!(runs::purged(&db, run).await, purged, "{table}");
        let stamped = "SELECT count(payload_purged_at) FROM incidents";
        assert_eq!(db.value::<i64>(stamped).await, purged[2], "{table}");

        db.execute(&format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))
            .await;
        let org = record["org_id"].as_str().unwrap().parse().unwrap();
        let worker = Service::start(&db.url, "worker", &[]);
        product::until_status(&db.pool, run, "succeeded").await;
        assert_eq!(runs::counts(&db, org).await, [1, 2, 0, 0], "{table}");
        assert_eq!(runs::purged(&db, run).await, [4, 8, 1, 1], "{table}");
        worker.kill().await;
    }
}

#[tokio::test]
async fn nothing_of_an_incident_is_stamped_or_purged_while_its_rows_are_hidden() {
    let (db, _, record) = purged_behind_security("incidents").await;
    assert_eq!(record["error_kind"], "row_security", "{record:#}");
    let stamped = "SELECT count(payload_purged_at) FROM incidents";
    assert_eq!(db.value::<i64>(stamped).await, 0);
    let payloads = "SELECT count(*) FROM incident_payloads";
    assert_eq!(db.value::<i64>(payloads).await, 1);
}

#[tokio::test]
async fn worker_ends_when_organizations_hide_their_rows_and_no_run_claims_success() {
    let (db, org) = with_rows().await;
    let role = owner_of_views(&db).await;
    grant_all(&db, &role).await;
    let mut service = Service::start(&db.url, "worker", &[]);
    service.ready().await;
    db.execute("ALTER TABLE organizations ENABLE ROW LEVEL SECURITY")
        .await;
    let insert = format!(
        "INSERT INTO retention.purge_runs (org_id, trigger, requested_by) VALUES ('{org}', 'schedule', 'scheduler')
         RETURNING id"
    );
    let run: Uuid = db.value(&insert).await;
    db.execute(&format!("SELECT retention.deliver(ARRAY['{run}'::uuid])"))
        .await;
    assert_eq!(service.ends_within(Duration::from_secs(30)).await, Some(1));
    assert_ne!(product::status(&db.pool, run).await, "succeeded");
    assert_eq!(runs::counts(&db, org).await, [5, 10, 1, 1]);
    for command in [&["purge", "--all", "--work"][..], &["preview", "--all"]] {
        let output = product::run(&db.url, command).await;
        assert!(!output.status.success(), "{command:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("row-level security") && said.contains("organizations"),
            "{said}"
        );
    }
}
