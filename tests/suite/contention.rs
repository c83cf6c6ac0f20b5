//! The main app at work on the same rows: the purge gives way, and nobody is picked as the victim of a deadlock.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::future::join_all;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    held::Held,
    ledger,
    product::{self, Service, until_status},
    runs,
};

/// An organization with much that has expired in every table.
async fn organization(db: &TestDatabase) -> Uuid {
    let app = App::on(&db.pool);
    let org = app.org_with_expired(1_500).await;
    let env = app.env(org).await;
    for _ in 0..60 {
        let incident = app.incident(org, env, "closed", Some("200 days")).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", "200 days").await;
    }
    org
}

/// Transactions that take the rows of a purge one by one, the last ones first.
const AGAINST_THE_GRAIN: [&str; 3] = [
    "WITH few AS (SELECT id FROM drift_checks ORDER BY random() LIMIT 20)
     SELECT id::text FROM few ORDER BY id DESC",
    "WITH few AS (SELECT id FROM incidents ORDER BY random() LIMIT 10)
     SELECT id::text FROM few ORDER BY id DESC",
    "WITH few AS (SELECT id FROM approvals ORDER BY random() LIMIT 10)
     SELECT id::text FROM few ORDER BY id DESC",
];

/// Updates rows of one table in such transactions until told to end; returns how many transactions committed.
#[allow(clippy::disallowed_methods, reason = "the main app has its own SQL")]
async fn update(db: &TestDatabase, table: usize, over: &AtomicBool) -> u32 {
    let (find, touch) = (
        AGAINST_THE_GRAIN[table],
        [
            "UPDATE drift_checks SET status = status WHERE id = $1::text::bigint",
            "UPDATE incidents SET updated_at = now() WHERE id = $1::text::uuid",
            "UPDATE approvals SET requested_by = 'sam' WHERE id = $1::text::uuid",
        ][table],
    );
    let mut committed = 0;
    while !over.load(Ordering::Relaxed) {
        let mut tx = db.pool.begin().await.unwrap();
        let rows: Vec<String> = sqlx::query_scalar(find).fetch_all(&mut *tx).await.unwrap();
        for row in rows {
            sqlx::query(touch)
                .bind(row)
                .execute(&mut *tx)
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        committed += 1;
    }
    committed
}

#[tokio::test]
async fn updates_in_the_opposite_order_meet_no_deadlock_and_all_goes() {
    let db = TestDatabase::new().await;
    let org = organization(&db).await;
    let before = ledger::rows(&db.pool).await;
    let _worker = Service::start(
        &db.url,
        "worker",
        &[("DRIFT_RETENTION_PURGE__BATCH_SIZE", "20")],
    );
    let over = Arc::new(AtomicBool::new(false));
    let run = product::enqueue(&db.pool, org).await;
    let updates = join_all((0..6).map(|n| update(&db, n % 3, &over)));
    let purge = async {
        until_status(&db.pool, run, "succeeded").await;
        over.store(true, Ordering::Relaxed);
    };
    let (committed, ()) = tokio::join!(updates, purge);
    assert!(committed.iter().all(|transactions| *transactions > 0));
    ledger::assert_exact(&db.pool, &before).await;
    assert_eq!(runs::counts(&db, org).await, [1, 2, 0, 0]);
    // Written by each session when it ends or pauses; the worker is idle by now, the app's sessions are closed.
    db.execute("SELECT pg_stat_force_next_flush()").await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(db.value::<i64>(deadlocks).await, 0);
}

#[tokio::test]
async fn long_transaction_of_the_app_holds_nothing_up_and_sees_what_it_saw() {
    let db = TestDatabase::new().await;
    let org = organization(&db).await;
    let mut report = Held::by(
        &db,
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
         CREATE TEMP TABLE seen AS SELECT count(*) AS checks FROM drift_checks",
    )
    .await;
    product::purge(&db.url, org).await;
    report
        .also("DO $$ BEGIN ASSERT (SELECT count(*) FROM drift_checks) = (SELECT checks FROM seen); END $$")
        .await;
    report.commit().await;
    assert_eq!(runs::counts(&db, org).await, [1, 2, 0, 0]);
}

#[tokio::test]
async fn batch_that_takes_too_long_gets_smaller_and_spends_no_attempt() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(300).await;
    let before = ledger::rows(&db.pool).await;
    // Ten milliseconds for each row: five hundred at once would hold their locks for seconds.
    db.execute(
        "CREATE FUNCTION take_time_for_each() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END';
         CREATE TRIGGER take_time_for_each AFTER DELETE ON drift_checks
             FOR EACH ROW EXECUTE FUNCTION take_time_for_each()",
    )
    .await;
    let _worker = Service::start(&db.url, "worker", &[]);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 1);
    ledger::assert_exact(&db.pool, &before).await;
    let batches: i32 = db
        .value("SELECT batches FROM retention.purge_run_steps WHERE table_name = 'drift_checks'")
        .await;
    assert!(
        batches > 300 / 11,
        "no batch took longer than its statement may: {batches}"
    );
}
