//! A large organization does not hold small ones up: its run is given back while they wait, and goes on after them.

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, until_status},
    trouble,
};

#[tokio::test]
async fn large_run_lets_those_that_wait_go_first_and_spends_no_attempt() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let large = app.org_with_expired(2_000).await;
    let mut small = Vec::new();
    // More than the worker has in hand at once.
    for _ in 0..4 {
        small.push(app.org_with_expired(3).await);
    }
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.5).await;
    trouble::journal(&db.pool).await;
    let settings = [
        ("DRIFT_RETENTION_WORKER__CONCURRENCY", "1"),
        ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "5"),
    ];
    let _worker = Service::start(&db.url, "worker", &settings);
    let of_large = product::enqueue(&db.pool, large).await;
    until_status(&db.pool, of_large, "running").await;
    let mut of_small = Vec::new();
    for org in small {
        of_small.push(product::enqueue(&db.pool, org).await);
    }
    for run in of_small {
        until_status(&db.pool, run, "succeeded").await;
    }
    assert_ne!(product::status(&db.pool, of_large).await, "succeeded");

    trouble::deletes_take(&db.pool, 0.0).await;
    until_status(&db.pool, of_large, "succeeded").await;
    assert_eq!(ledger::attempts(&db.pool, of_large).await, 1);
    let given_back = format!(
        "SELECT count(*) FROM run_journal WHERE run_id = '{of_large}' AND status = 'queued' AND attempts = 0"
    );
    assert!(
        db.value::<i64>(&given_back).await > 1,
        "enqueued, and given back"
    );
    ledger::assert_exact(&db.pool, &before).await;
}
