//! A purge that somebody waits for stays urgent to its end, though it began as a slot's run: it waits for no hours.

use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually, until_status},
    runs, trouble,
};

/// An hour, in UTC, that is not now.
async fn another_hour(db: &TestDatabase) -> String {
    db.value(
        "SELECT to_char(t, 'HH24:MI') || '-' || to_char(t + interval '1 hour', 'HH24:MI')
         FROM (SELECT now() AT TIME ZONE 'UTC' + interval '3 hours' AS t) t",
    )
    .await
}

async fn scheduled(db: &TestDatabase, org: Uuid) -> Uuid {
    runs::enqueue_slot(db).await;
    runs::newest_run(db, org).await
}

#[tokio::test]
async fn run_that_was_asked_for_stays_urgent_through_its_retries() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(30).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_fail(&db.pool, org, 2).await;
    let hours = another_hour(&db).await;
    let _worker = Service::start(
        &db.url,
        "worker",
        &[("DRIFT_RETENTION_PURGE__BETWEEN", &hours)],
    );
    let run = scheduled(&db, org).await;
    eventually("it waits for its hours", async || {
        ledger::run_column(
            &db.pool,
            run,
            "(next_attempt_at > now() + interval '1 hour')",
        )
        .await
            == "true"
    })
    .await;
    assert_eq!(product::enqueue(&db.pool, org).await, run);
    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 3);
    ledger::assert_exact(&db.pool, &before).await;
    // Asked for or not, it is the slot's.
    assert_eq!(
        ledger::run_column(&db.pool, run, "trigger").await,
        "schedule"
    );
}

#[tokio::test]
async fn run_at_work_becomes_urgent_when_somebody_asks_for_it() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(400).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.05).await;
    let small = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "5");
    let dies = Service::start(&db.url, "worker", &[small]);
    let run = scheduled(&db, org).await;
    eventually("it is at work", async || {
        ledger::progress(&db.pool, run).await > 0
    })
    .await;
    assert_eq!(product::enqueue(&db.pool, org).await, run);
    dies.kill().await;

    let hours = another_hour(&db).await;
    let between = ("DRIFT_RETENTION_PURGE__BETWEEN", hours.as_str());
    let _worker = Service::start(&db.url, "worker", &[between]);
    trouble::deletes_take(&db.pool, 0.0).await;
    until_status(&db.pool, run, "succeeded").await;
    ledger::assert_exact(&db.pool, &before).await;
}
