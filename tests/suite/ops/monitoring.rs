//! What Prometheus and load balancers read: counters that agree with the records, and a readiness that means it.

use serde_json::{Value, json};

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually, until_status},
    roles,
};

const TABLES: [&str; 4] = [
    "approvals",
    "drift_checks",
    "incident_payloads",
    "workflow_drift_flags",
];

#[tokio::test]
async fn counters_equal_the_records_and_all_others_stand_at_zero() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_all_kinds_expired(11).await;
    let unresolved = app.org("legacy").await;
    let before = ledger::rows(&db.pool).await;
    let worker = Service::start(&db.url, "worker", &[]);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    let failed = product::enqueue(&db.pool, unresolved).await;
    until_status(&db.pool, failed, "failed").await;

    ledger::assert_exact(&db.pool, &before).await;
    let recorded = ledger::recorded(&db.pool).await;
    assert_eq!(recorded, [1, 10, 1, 20]);
    for (table, rows) in TABLES.iter().zip(recorded) {
        for plan in ["free", "pro", "agency", "enterprise"] {
            let series =
                format!(r#"drift_retention_purged_rows_total{{plan="{plan}",table="{table}"}}"#);
            let expected = if plan == "pro" { rows } else { 0 };
            assert_eq!(
                worker.metric(&series).await,
                Some(f64::from(i32::try_from(expected).unwrap())),
                "{series}"
            );
        }
    }
    eventually("both ends are counted", async || {
        worker.outcomes("succeeded").await == 1.0 && worker.outcomes("failed").await == 1.0
    })
    .await;
    for outcome in ["cancelled", "retried"] {
        assert_eq!(worker.outcomes(outcome).await, 0.0, "{outcome}");
    }
    let page = worker.get("/metrics").await.unwrap().text().await.unwrap();
    for org in [org, unresolved] {
        assert!(!page.contains(&org.to_string()));
    }
    assert!(page.contains("drift_retention_build_info{version="));
}

#[tokio::test]
async fn healthy_service_says_so_in_every_role() {
    let db = TestDatabase::new().await;
    for roles in ["api", "scheduler", "worker", "api,scheduler,worker"] {
        let service = Service::start(&db.url, roles, &[]);
        service.ready().await;
        assert_eq!(service.get("/healthz").await.unwrap().status(), 200);
        assert_eq!(service.get("/metrics").await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn service_on_a_schema_that_was_stepped_back_is_not_ready_and_says_why() {
    let db = TestDatabase::new().await;
    let service = Service::start(&db.url, "api", &[]);
    service.ready().await;
    let down = product::run(&db.url, &["migrate", "down"]).await;
    assert!(down.status.success(), "{down:?}");

    let answer = service.get("/readyz").await.unwrap();
    assert_eq!(answer.status(), 503);
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(body["ready"], false);
    assert!(
        body["schema"].as_str().unwrap().contains("migrate up"),
        "{body}"
    );
    assert_eq!(service.get("/healthz").await.unwrap().status(), 200);
    let up = product::run(&db.url, &["migrate", "up", "--main-app"]).await;
    assert!(up.status.success(), "{up:?}");
    service.ready().await;
}

#[tokio::test]
async fn readiness_has_fixed_words_and_the_log_has_the_databases_once() {
    const DENIED: &str = "permission denied for table migrations";
    let db = TestDatabase::new().await;
    roles::apply(&db).await;
    let url = roles::user_in(&db, "drift_retention_worker").await;
    let (service, log) = Service::logged(&url, "api", &[]);
    service.ready().await;
    for times in 1..=2 {
        db.execute("REVOKE SELECT ON retention.migrations FROM drift_retention_worker")
            .await;
        for _ in 0..5 {
            let answer = service.get("/readyz").await.unwrap();
            assert_eq!(answer.status(), 503);
            let body: Value = answer.json().await.unwrap();
            assert_eq!(
                body,
                json!({
                    "ready": false, "mapping": "ok",
                    "schema": "the database schema cannot be read: the log says why",
                })
            );
        }
        db.execute("GRANT SELECT ON retention.migrations TO drift_retention_worker")
            .await;
        for _ in 0..3 {
            assert_eq!(service.get("/readyz").await.unwrap().status(), 200);
        }
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(log.matches(DENIED).count(), times, "{log}");
        assert_eq!(log.matches("ready again").count(), times, "{log}");
    }
}

#[tokio::test]
async fn service_whose_heartbeat_cannot_be_written_is_not_ready_until_it_can() {
    let db = TestDatabase::new().await;
    let service = Service::start(&db.url, "worker", &[]);
    service.ready().await;
    // Readers pass, writers wait: no heartbeat gets through.
    let mut maintenance = db.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE apalis.workers IN EXCLUSIVE MODE")
        .execute(&mut *maintenance)
        .await
        .unwrap();
    eventually("it is not ready", async || {
        service.get("/readyz").await.unwrap().status() == 503
    })
    .await;
    let body = service.get("/readyz").await.unwrap().text().await.unwrap();
    assert!(body.contains("heartbeat"), "{body}");
    assert_eq!(service.get("/healthz").await.unwrap().status(), 200);

    maintenance.rollback().await.unwrap();
    service.ready().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
}
