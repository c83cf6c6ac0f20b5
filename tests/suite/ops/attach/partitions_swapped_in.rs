//! A main app that puts a partitioned table in the place of a mapped one, long after the migration: nothing is purged by
//! what was checked before, and the check says what is wrong.

use std::{fs, time::Duration};

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually},
    runs,
    text::{shown, stderr},
};

/// The same rows under the same name, by partitions, and the view of them.
const SWAP: &str = "
    BEGIN;
    CREATE TABLE parted (LIKE drift_checks INCLUDING DEFAULTS) PARTITION BY RANGE (checked_at);
    CREATE TABLE parted_all PARTITION OF parted DEFAULT;
    INSERT INTO parted SELECT * FROM drift_checks;
    ALTER TABLE drift_checks RENAME TO drift_checks_old;
    ALTER TABLE parted RENAME TO drift_checks;
    CREATE OR REPLACE VIEW main_app.drift_checks AS
        SELECT c.ctid, c.id, c.org_id, c.env_id, c.checked_at, c.status, c.modified_count, c.not_in_git_count,
               c.unknown_count, c.summary_json
        FROM public.drift_checks c;
    COMMIT";

#[tokio::test]
async fn worker_at_work_stops_and_no_process_purges_until_the_mapping_is_right() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(501).await;
    crate::support::trouble::deletes_take(&db.pool, 0.05).await;
    let small = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "10");
    let before = ledger::rows(&db.pool).await;
    let (mut worker, log) = Service::logged(&db.url, "worker", &[small]);
    let run = product::enqueue(&db.pool, org).await;
    eventually("it is at work", async || {
        ledger::progress(&db.pool, run).await > 0
    })
    .await;
    db.execute(SWAP).await;
    assert_eq!(worker.ends_within(Duration::from_secs(30)).await, Some(1));
    let log = fs::read_to_string(log.path()).unwrap();
    assert!(
        log.contains("has changed since this process checked it"),
        "{log}"
    );
    let record = runs::run(&db, run).await;
    assert_eq!(
        (&record["status"], &record["attempts"]),
        (&"queued".into(), &0.into())
    );

    // Nothing went of the rows that are there now, and nothing goes.
    let partitions = "SELECT count(*) FROM drift_checks";
    let copied = db.value::<i64>(partitions).await;
    assert!(copied > 1, "too late to test anything");
    let refused = product::run(&db.url, &["purge", "--all", "--work"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let says = stderr(&refused);
    assert!(
        says.contains("public.drift_checks is a partitioned table"),
        "{says}"
    );
    let (mut worker, log) = Service::logged(&db.url, "worker", &[small]);
    assert_eq!(worker.ends_within(Duration::from_secs(30)).await, Some(1));
    let log = fs::read_to_string(log.path()).unwrap();
    assert!(log.contains("is a partitioned table"), "{log}");
    let check = shown(&product::run(&db.url, &["attach", "check"]).await);
    assert!(
        check.contains("public.drift_checks is a partitioned table"),
        "{check}"
    );
    assert_eq!(db.value::<i64>(partitions).await, copied);

    // The table that was there before has lost exactly what is on record.
    db.execute(
        "BEGIN; ALTER TABLE drift_checks RENAME TO parted; ALTER TABLE drift_checks_old RENAME TO drift_checks;
         CREATE OR REPLACE VIEW main_app.drift_checks AS
             SELECT c.ctid, c.id, c.org_id, c.env_id, c.checked_at, c.status, c.modified_count, c.not_in_git_count,
                    c.unknown_count, c.summary_json
             FROM public.drift_checks c;
         DROP TABLE parted; COMMIT",
    )
    .await;
    ledger::assert_exact(&db.pool, &before).await;
    crate::support::trouble::deletes_take(&db.pool, 0.0).await;
    let _worker = Service::start(&db.url, "worker", &[]);
    product::until_status(&db.pool, run, "succeeded").await;
    ledger::assert_exact(&db.pool, &before).await;
}
