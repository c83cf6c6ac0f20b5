//! `runs cancel`: a running run stops at its next batch, a waiting one never begins.

use std::time::Duration;

use drift_retention::{
    ids::RunId,
    postgres::Database,
    runs::{Delivery, Lease, claim},
};
use futures::future::join_all;

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually, until_status},
    trouble,
};

#[tokio::test]
async fn running_run_stops_at_its_next_batch_with_exact_records() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(5_001).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.3).await;
    let small_batches = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "50");
    let worker = Service::start(&db.url, "worker", &[small_batches]);
    let run = product::enqueue(&db.pool, org).await;
    eventually("a batch is committed", async || {
        ledger::progress(&db.pool, run).await > 0
    })
    .await;

    let cancelled = product::run(&db.url, &["runs", "cancel", &run.to_string()]).await;
    assert!(cancelled.status.success(), "{cancelled:?}");
    assert_eq!(product::status(&db.pool, run).await, "cancelled");
    let purged = ledger::progress(&db.pool, run).await;
    eventually("the attempt has ended", async || {
        worker.outcomes("cancelled").await == 1.0
    })
    .await;

    // The worker is through with it: it works off another run.
    trouble::deletes_take(&db.pool, 0.0).await;
    let other = product::enqueue(&db.pool, app.org("free").await).await;
    until_status(&db.pool, other, "succeeded").await;
    assert_eq!(
        ledger::progress(&db.pool, run).await,
        purged,
        "nothing went after it was cancelled"
    );
    ledger::assert_exact(&db.pool, &before).await;
    assert!(ledger::rows(&db.pool).await[1] > 1_000, "it did stop");
    assert_eq!(product::status(&db.pool, run).await, "cancelled");
    assert_eq!(worker.outcomes("cancelled").await, 1.0);
    assert_eq!(
        worker.metric("drift_retention_lease_losses_total").await,
        Some(0.0),
        "nobody else has the run"
    );
    assert_eq!(worker.outcomes("failed").await, 0.0);
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM retention.operator_actions WHERE action = 'cancel'")
            .await,
        1
    );
}

#[tokio::test]
async fn queued_run_that_was_cancelled_never_begins() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(11).await;
    let before = ledger::rows(&db.pool).await;
    let run = product::enqueue(&db.pool, org).await;
    let cancelled = product::run(&db.url, &["runs", "cancel", &run.to_string()]).await;
    assert!(cancelled.status.success(), "{cancelled:?}");

    let worker = Service::start(&db.url, "worker", &[]);
    let later = product::enqueue(&db.pool, app.org("pro").await).await;
    until_status(&db.pool, later, "succeeded").await;
    eventually("its delivery is worked off", async || {
        db.value::<i64>("SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'")
            .await
            == 0
    })
    .await;

    assert_eq!(product::status(&db.pool, run).await, "cancelled");
    assert_eq!(ledger::run_column(&db.pool, run, "started_at").await, "");
    assert_eq!(ledger::rows(&db.pool).await, before);
    assert_eq!(worker.outcomes("cancelled").await, 1.0);
    let again = product::run(&db.url, &["runs", "cancel", &run.to_string()]).await;
    assert_eq!(again.status.code(), Some(1), "it is final");
}

/// A worker's own hand and apalis can both come to a delivery that apalis had fetched.
#[tokio::test]
async fn delivery_of_a_cancelled_run_that_comes_twice_reports_it_once() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(11).await;
    let run = product::enqueue(&db.pool, org).await;
    let cancelled = product::run(&db.url, &["runs", "cancel", &run.to_string()]).await;
    assert!(cancelled.status.success(), "{cancelled:?}");
    let delivery = Delivery {
        id: ledger::run_column(&db.pool, run, "delivery_id").await,
        worker: "worker".to_owned(),
        run: RunId(run),
    };

    let database = Database::new(&db.url, 2).expect("the test's own database");
    let lease = Lease::of(Duration::from_secs(5));
    let deliveries = [delivery];
    let both = join_all([0; 2].map(|_| claim(&database, &deliveries, 3, lease, false))).await;
    let reports: usize = both
        .into_iter()
        .map(|claims| claims.expect("the database answers").cancelled.len())
        .sum();
    assert_eq!(reports, 1);
}

#[tokio::test]
async fn retrying_run_that_was_cancelled_is_not_attempted_again() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(11).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_fail(&db.pool, org, i64::MAX).await;
    let slow_retries = [
        ("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "3s"),
        ("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "3s"),
    ];
    let worker = Service::start(&db.url, "worker", &slow_retries);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "retrying").await;
    let cancelled = product::run(&db.url, &["runs", "cancel", &run.to_string()]).await;
    assert!(cancelled.status.success(), "{cancelled:?}");
    trouble::deletes_work_again(&db.pool).await;

    eventually("its delivery came, and did nothing", async || {
        worker.outcomes("cancelled").await == 1.0
    })
    .await;
    assert_eq!(product::status(&db.pool, run).await, "cancelled");
    assert_eq!(ledger::attempts(&db.pool, run).await, 1);
    assert_eq!(ledger::rows(&db.pool).await, before);
}
