//! What becomes of a run cannot be recorded, and no retry mends that: the attempt ends, the process says so and is not ready. Once
//! it is mended, the run is finished.

use std::fs;

use sqlx::PgPool;
use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually, until_status},
    roles,
};

const REFUSED: &str = "the database refuses to record the run's progress";

/// The worker is not ready and says so; why stands in its log, and is told to nobody who asks.
async fn assert_says(service: &Service, log: &NamedTempFile, why: &str) {
    eventually("it is not ready, and says so", async || {
        let answer = service.get("/readyz").await.unwrap();
        let is_not_ready = answer.status() == 503;
        let text = answer.text().await.unwrap();
        assert!(!text.contains(why), "{text}");
        is_not_ready && text.contains("the database refuses to record the progress of runs")
    })
    .await;
    let log = fs::read_to_string(log.path()).unwrap();
    assert!(log.contains(why), "{log}");
}

/// Whether the run is finished, exactly, and the process ready again.
async fn assert_mends(service: &Service, pool: &PgPool, run: Uuid, before: &[i64]) {
    until_status(pool, run, "succeeded").await;
    service.ready().await;
    ledger::assert_exact(pool, before).await;
}

#[tokio::test]
async fn ending_that_a_trigger_refuses_ends_the_attempt_and_is_said_once_each_time() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(30).await;
    let before = ledger::rows(&db.pool).await;
    db.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'the record is closed for the year'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON retention.purge_runs FOR EACH ROW WHEN (NEW.status = 'succeeded')
             EXECUTE FUNCTION refuse()",
    )
    .await;
    let slow_retries = [
        ("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "3s"),
        ("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "3s"),
    ];
    let (service, log) = Service::logged(&db.url, "worker", &slow_retries);
    service.ready().await;
    let run = product::enqueue(&db.pool, org).await;
    assert_says(&service, &log, "in function refuse()").await;
    eventually("it waits for another attempt", async || {
        product::status(&db.pool, run).await == "retrying"
    })
    .await;
    let attempts = ledger::attempts(&db.pool, run).await;
    let log = fs::read_to_string(log.path()).unwrap();
    let said = i32::try_from(log.matches(REFUSED).count()).unwrap();
    assert!((1..=attempts).contains(&said), "{attempts} attempts: {log}");
    db.execute("DROP TRIGGER refuse ON retention.purge_runs")
        .await;
    assert_mends(&service, &db.pool, run, &before).await;
}

#[tokio::test]
async fn claim_that_a_missing_right_refuses_is_said_and_the_run_goes_on_once_it_is_granted() {
    let db = TestDatabase::new().await;
    roles::apply(&db).await;
    let url = roles::user_in(&db, "drift_retention_worker").await;
    let org = App::on(&db.pool).org_with_expired(30).await;
    let before = ledger::rows(&db.pool).await;
    let (service, log) = Service::logged(&url, "worker", &[]);
    service.ready().await;
    db.execute("REVOKE UPDATE ON retention.purge_runs FROM drift_retention_worker")
        .await;
    let run = product::enqueue(&db.pool, org).await;
    assert_says(&service, &log, "permission denied for table purge_runs").await;
    db.execute("GRANT UPDATE ON retention.purge_runs TO drift_retention_worker")
        .await;
    assert_mends(&service, &db.pool, run, &before).await;
}
