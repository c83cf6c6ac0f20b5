//! Slots: one run per organization and slot, however many schedulers there are and however they end.

use sqlx::Row;

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually, until_status},
    trouble,
};

const EVERY_TWO_SECONDS: [(&str, &str); 1] = [("DRIFT_RETENTION_SCHEDULE__CRON", "*/2 * * * * *")];
const EVERY_TWENTY_MINUTES: [(&str, &str); 1] =
    [("DRIFT_RETENTION_SCHEDULE__CRON", "0 */20 * * * *")];
/// A slot of long ago: there was a schedule before, and at least three slots have been missed since.
const MISSED: &str = "INSERT INTO retention.schedule_slots (slot, completed_at)
                      VALUES (now() - interval '90 minutes', now() - interval '90 minutes')";
const RUNS: &str = "SELECT count(*) FROM retention.purge_runs";
const SLOTS_DONE: &str =
    "SELECT count(*) FROM retention.schedule_slots WHERE completed_at IS NOT NULL";

async fn database_with_organizations(count: u32) -> TestDatabase {
    let db = TestDatabase::new().await;
    db.execute(&format!(
        "INSERT INTO organizations (name, plan) SELECT 'Org ' || n, 'pro' FROM generate_series(1, {count}) n"
    ))
    .await;
    db
}

async fn until_slots_done(db: &TestDatabase, count: i64) {
    eventually("slots are done", async || {
        db.value::<i64>(SLOTS_DONE).await >= count
    })
    .await;
}

#[tokio::test]
async fn two_schedulers_make_one_run_per_organization_and_slot() {
    let db = database_with_organizations(50).await;
    let _worker = Service::start(
        &db.url,
        "worker",
        &[("DRIFT_RETENTION_WORKER__CONCURRENCY", "4")],
    );
    let _one = Service::start(&db.url, "scheduler", &EVERY_TWO_SECONDS);
    let _other = Service::start(&db.url, "scheduler", &EVERY_TWO_SECONDS);
    until_slots_done(&db, 5).await;

    let slots = "SELECT s.enqueued, s.coalesced, count(r.id), count(DISTINCT r.org_id)
                 FROM retention.schedule_slots s LEFT JOIN retention.purge_runs r ON r.scheduled_for = s.slot
                 WHERE s.completed_at IS NOT NULL GROUP BY s.slot ORDER BY s.slot";
    let slots = sqlx::raw_sql(slots).fetch_all(&db.pool).await.unwrap();
    for (index, slot) in slots.iter().enumerate() {
        let (enqueued, coalesced, runs, orgs): (i64, i64, i64, i64) =
            (slot.get(0), slot.get(1), slot.get(2), slot.get(3));
        let everybody = if index == 0 { 0 } else { 50 };
        assert_eq!(enqueued + coalesced, everybody, "slot {index}");
        assert_eq!((runs, orgs), (enqueued, enqueued), "slot {index}");
    }
    let strangers = "SELECT count(*) FROM retention.purge_runs WHERE trigger <> 'schedule' OR scheduled_for IS NULL";
    assert_eq!(db.value::<i64>(strangers).await, 0);
}

#[tokio::test]
async fn waiting_runs_are_met_by_later_slots_and_not_doubled() {
    let db = database_with_organizations(50).await;
    let _one = Service::start(&db.url, "scheduler", &EVERY_TWO_SECONDS);
    let _other = Service::start(&db.url, "scheduler", &EVERY_TWO_SECONDS);
    until_slots_done(&db, 4).await;
    assert_eq!(db.value::<i64>(RUNS).await, 50);
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM apalis.jobs").await,
        50
    );
    let met = "SELECT min(coalesced) FROM (SELECT coalesced FROM retention.schedule_slots
               WHERE completed_at IS NOT NULL ORDER BY slot OFFSET 2) s";
    assert_eq!(db.value::<i64>(met).await, 50);
}

#[tokio::test]
async fn first_look_ever_purges_nothing() {
    let db = database_with_organizations(5).await;
    let scheduler = Service::start(&db.url, "scheduler", &EVERY_TWENTY_MINUTES);
    until_slots_done(&db, 1).await;
    scheduler.ready().await;
    assert_eq!(db.value::<i64>(RUNS).await, 0);
}

#[tokio::test]
async fn missed_slots_become_one_run() {
    let db = database_with_organizations(50).await;
    db.execute(MISSED).await;
    let scheduler = Service::start(&db.url, "scheduler", &EVERY_TWENTY_MINUTES);
    until_slots_done(&db, 2).await;

    let once = "SELECT count(*) FROM (SELECT org_id FROM retention.purge_runs GROUP BY org_id HAVING count(*) = 1) o";
    assert_eq!(db.value::<i64>(once).await, 50);
    assert_eq!(db.value::<i64>(RUNS).await, 50);
    let newest =
        "SELECT bool_and(scheduled_for > now() - interval '21 minutes') FROM retention.purge_runs";
    assert!(db.value::<bool>(newest).await, "it is the latest slot's");
    eventually("the metric tells the slot", async || {
        scheduler
            .metric("drift_retention_scheduler_last_slot_timestamp_seconds")
            .await
            .is_some_and(|at| at > 0.0)
    })
    .await;
}

#[tokio::test]
async fn backing_off_run_is_met_by_the_slot_and_starts_now() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    trouble::deletes_fail(&db.pool, org, 1).await;
    let long_waits = [
        ("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "1h"),
        ("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "1h"),
    ];
    let _worker = Service::start(&db.url, "worker", &long_waits);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "retrying").await;
    db.execute(MISSED).await;
    let _scheduler = Service::start(&db.url, "scheduler", &EVERY_TWENTY_MINUTES);

    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 2);
    assert_eq!(db.value::<i64>(RUNS).await, 1);
}

/// An organization whose run somebody is enqueueing, and has not committed, when the slot comes.
async fn slot_does_not_wait_for_an_open_transaction(commit: bool) {
    let db = database_with_organizations(50).await;
    let org = db
        .value::<uuid::Uuid>("SELECT id FROM organizations ORDER BY id OFFSET 20 LIMIT 1")
        .await;
    let mut main_app = db.pool.begin().await.unwrap();
    let enqueue = format!("SELECT retention.enqueue_purge('{org}', 'main app')");
    sqlx::raw_sql(sqlx::AssertSqlSafe(enqueue))
        .execute(&mut *main_app)
        .await
        .unwrap();
    db.execute(MISSED).await;
    let _scheduler = Service::start(&db.url, "scheduler", &EVERY_TWENTY_MINUTES);
    eventually("all others have their run", async || {
        db.value::<i64>(RUNS).await == 49
    })
    .await;
    assert_eq!(
        db.value::<i64>(SLOTS_DONE).await,
        1,
        "the slot is not done without it"
    );

    if commit {
        main_app.commit().await.unwrap();
    } else {
        main_app.rollback().await.unwrap();
    }
    until_slots_done(&db, 2).await;
    assert_eq!(db.value::<i64>(RUNS).await, 50);
    let its_trigger = format!("SELECT trigger FROM retention.purge_runs WHERE org_id = '{org}'");
    let expected = if commit { "purge_now" } else { "schedule" };
    assert_eq!(db.value::<String>(&its_trigger).await, expected);
}

#[tokio::test]
async fn slot_does_not_wait_for_a_transaction_that_commits_in_the_end() {
    slot_does_not_wait_for_an_open_transaction(true).await;
}

#[tokio::test]
async fn slot_does_not_wait_for_a_transaction_that_rolls_back_in_the_end() {
    slot_does_not_wait_for_an_open_transaction(false).await;
}
