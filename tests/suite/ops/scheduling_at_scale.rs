//! A slot of many organizations: done in one go, or begun by one scheduler and ended by another.

use std::time::Instant;

use crate::support::{
    TestDatabase,
    product::{Service, eventually},
};

const NIGHTLY: [(&str, &str); 1] = [("DRIFT_RETENTION_SCHEDULE__CRON", "0 0 2 * * *")];
const IS_DONE: &str =
    "SELECT bool_and(completed_at IS NOT NULL) AND count(*) = 2 FROM retention.schedule_slots";

/// So many organizations, and a nightly slot that is due.
async fn due_slot_of(organizations: u32) -> TestDatabase {
    let db = TestDatabase::new().await;
    db.execute(&format!(
        "INSERT INTO organizations (name, plan) SELECT 'Org ' || n, 'pro' FROM generate_series(1, {organizations}) n;
         INSERT INTO retention.schedule_slots (slot, completed_at) SELECT at, at FROM (SELECT now() - interval '2 days' AS at) a"
    ))
    .await;
    db
}

async fn assert_everybody_once(db: &TestDatabase, organizations: i64) {
    let delivered = "SELECT count(DISTINCT r.org_id) FROM retention.purge_runs r
                     JOIN apalis.jobs j ON j.id = r.delivery_id AND j.status = 'Pending'
                          AND convert_from(j.job, 'UTF8')::json ->> 'run_id' = r.id::text";
    assert_eq!(db.value::<i64>(delivered).await, organizations);
    for (what, sql) in [
        ("runs", "SELECT count(*) FROM retention.purge_runs"),
        ("jobs", "SELECT count(*) FROM apalis.jobs"),
        (
            "the slot's own count",
            "SELECT enqueued + coalesced FROM retention.schedule_slots ORDER BY slot DESC LIMIT 1",
        ),
    ] {
        assert_eq!(db.value::<i64>(sql).await, organizations, "{what}");
    }
}

#[tokio::test]
async fn slot_of_a_killed_scheduler_is_completed_by_another() {
    let db = due_slot_of(20_000).await;
    db.execute(
        "CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
         CREATE TRIGGER take_time AFTER INSERT ON retention.purge_runs
             FOR EACH STATEMENT EXECUTE FUNCTION take_time();",
    )
    .await;
    let first = Service::start(&db.url, "scheduler", &NIGHTLY);
    eventually("the slot is begun", async || {
        db.value::<i64>("SELECT count(*) FROM retention.purge_runs")
            .await
            > 0
    })
    .await;
    first.kill().await;
    let begun = db
        .value::<i64>("SELECT count(*) FROM retention.purge_runs")
        .await;
    assert!(begun < 20_000, "it died in the middle");

    let _second = Service::start(&db.url, "scheduler", &NIGHTLY);
    eventually("the slot is done", async || db.value::<bool>(IS_DONE).await).await;
    assert_everybody_once(&db, 20_000).await;
}

#[tokio::test]
#[allow(
    clippy::print_stdout,
    reason = "the measured time is for whoever reads the test's output"
)]
async fn slot_of_a_hundred_thousand_organizations_is_enqueued() {
    let db = due_slot_of(100_000).await;
    let started = Instant::now();
    let _scheduler = Service::start(&db.url, "scheduler", &NIGHTLY);
    eventually("the slot is done", async || db.value::<bool>(IS_DONE).await).await;
    println!(
        "100,000 organizations enqueued in {:.1?}",
        started.elapsed()
    );
    assert_everybody_once(&db, 100_000).await;
}
