//! The boundaries of transactions that speak of many runs: a slot that is enqueued, idle runs that are closed, and small
//! ones that are purged together.

use drift_retention::faults::Point;

use super::{SMALL_BATCHES, all_acknowledged, dies, doomed};
use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{Service, eventually},
    runs,
};

async fn slot_is_enqueued_once(point: Point) {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..20 {
        app.org("pro").await;
    }
    // The baseline, then a slot a second; the first one that is enqueued is the one that is died over.
    let every_second = [("DRIFT_RETENTION_SCHEDULE__CRON", "* * * * * *")];
    dies(doomed(
        &db,
        "scheduler",
        &format!("{point:?}"),
        &every_second,
    ))
    .await;
    let heir = Service::start(&db.url, "scheduler", &every_second);
    let complete = "SELECT count(*) FROM retention.schedule_slots WHERE enqueued + coalesced = 20 AND completed_at IS NOT NULL";
    eventually("a slot is complete", async || {
        db.value::<i64>(complete).await > 0
    })
    .await;
    heir.kill().await;
    let live = "SELECT count(*) FROM retention.purge_runs WHERE status = 'queued'";
    assert_eq!(
        db.value::<i64>(live).await,
        20,
        "each organization has its run"
    );
    let delivered = "SELECT count(*) FROM apalis.jobs";
    assert_eq!(
        db.value::<i64>(delivered).await,
        20,
        "and each run its delivery"
    );
}

#[tokio::test]
async fn scheduler_dies_before_a_slot_is_committed() {
    slot_is_enqueued_once(Point::BeforeSlotCommit).await;
}

#[tokio::test]
async fn scheduler_dies_after_a_part_of_a_slot_is_committed() {
    slot_is_enqueued_once(Point::AfterSlotCommit).await;
}

async fn idle_group_is_finished_once(point: Point) {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..30 {
        let org = app.org("pro").await;
        let env = app.env(org).await;
        app.check(org, env, "40 days", &["wf_1"]).await;
    }
    let due = app.org_with_expired(20).await;
    let before = ledger::rows(&db.pool).await;
    runs::enqueue_slot(&db).await;
    dies(doomed(&db, "worker", &format!("{point:?}"), &[])).await;
    let _heir = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    let succeeded = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded' AND verified_at IS NOT NULL";
    eventually("every run has succeeded", async || {
        db.value::<i64>(succeeded).await == 31
    })
    .await;
    all_acknowledged(&db).await;
    ledger::assert_exact(&db.pool, &before).await;
    let kept = "SELECT count(*) FROM retention.purge_run_steps WHERE table_name = 'drift_checks' AND rows_kept = 1";
    assert_eq!(db.value::<i64>(kept).await, 31);
    assert_eq!(runs::counts(&db, due).await[0], 1);
}

#[tokio::test]
async fn worker_dies_before_a_group_of_idle_runs_is_finished() {
    idle_group_is_finished_once(Point::BeforeFinish).await;
}

#[tokio::test]
async fn worker_dies_after_a_group_of_idle_runs_is_finished() {
    idle_group_is_finished_once(Point::AfterFinish).await;
}

async fn small_runs_are_purged_once(point: Point) {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..10 {
        app.org_with_expired(20).await;
    }
    let before = ledger::rows(&db.pool).await;
    runs::enqueue_slot(&db).await;
    let fault = format!("{point:?}");
    let unthrottled = ("DRIFT_RETENTION_PURGE__THROTTLE", "false");
    dies(Service::start(
        &db.url,
        "worker",
        &[unthrottled, ("FAULT_POINT", &fault)],
    ))
    .await;
    let gone = before[1] - ledger::rows(&db.pool).await[1];
    assert_eq!(gone % 19, 0, "all of an organization's, or none");
    let closed = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
    // How many go together is a matter of time: a worker's first ones prepare their statements.
    let is_committed = point == Point::AfterFinish;
    assert_eq!(db.value::<i64>(closed).await > 0, is_committed);
    ledger::assert_exact(&db.pool, &before).await;

    let _heir = Service::start(&db.url, "worker", &[]);
    runs::all_are_final(&db).await;
    all_acknowledged(&db).await;
    ledger::assert_exact(&db.pool, &before).await;
    assert_eq!(ledger::rows(&db.pool).await[1], 10, "the newest stay");
    // The death cost each run one attempt at most.
    let attempts =
        "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded' AND attempts <= 2";
    assert_eq!(db.value::<i64>(attempts).await, 10);
}

#[tokio::test]
async fn worker_dies_before_a_group_of_small_runs_is_finished() {
    small_runs_are_purged_once(Point::BeforeFinish).await;
}

#[tokio::test]
async fn worker_dies_after_a_group_of_small_runs_is_finished() {
    small_runs_are_purged_once(Point::AfterFinish).await;
}
