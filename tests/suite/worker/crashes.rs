//! Workers that die or freeze in the middle of a run: another goes on, and not one row is counted twice.

use std::cell::Cell;

use nix::sys::signal::Signal;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually, until_status},
    trouble,
};

const SMALL_BATCHES: (&str, &str) = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "50");

/// A worker in the middle of a run that would take it half a minute, another that has nothing to do, the run, and the
/// rows that there were.
async fn two_workers_and_a_slow_run(
    db: &TestDatabase,
    heartbeat: &str,
) -> (Service, Service, Uuid, Vec<i64>) {
    let org = App::on(&db.pool).org_with_expired(5_001).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.3).await;
    trouble::journal(&db.pool).await;
    let settings = [
        SMALL_BATCHES,
        ("DRIFT_RETENTION_WORKER__HEARTBEAT", heartbeat),
    ];
    let first = Service::start(&db.url, "worker", &settings);
    let run = product::enqueue(&db.pool, org).await;
    until_progress(&db.pool, run).await;
    let second = Service::start(&db.url, "worker", &settings);
    second.ready().await;
    assert!(first.holds(&db.pool, run).await);
    (first, second, run, before)
}

async fn until_progress(pool: &PgPool, run: Uuid) {
    let before = ledger::progress(pool, run).await;
    eventually("a batch is committed", async || {
        ledger::progress(pool, run).await > before
    })
    .await;
}

async fn run_of_a_killed_worker_is_finished_by_another(heartbeat: &str, within: f64) {
    let db = TestDatabase::new().await;
    let (first, second, run, before) = two_workers_and_a_slow_run(&db, heartbeat).await;

    first.kill().await;
    db.execute("CREATE TABLE killed AS SELECT clock_timestamp() AS at")
        .await;
    eventually("the other worker holds the run", async || {
        second.holds(&db.pool, run).await
    })
    .await;
    trouble::deletes_take(&db.pool, 0.0).await;
    until_status(&db.pool, run, "succeeded").await;

    ledger::assert_exact(&db.pool, &before).await;
    assert_eq!(ledger::rows(&db.pool).await, [0, 1, 0, 2]);
    assert_eq!(ledger::attempts(&db.pool, run).await, 2);
    let taken_over = "SELECT extract(epoch FROM max(j.at) - max(k.at))::float8
                      FROM run_journal j, killed k WHERE j.status = 'running'";
    let seconds = db.value::<f64>(taken_over).await;
    assert!(seconds < within, "taken over after {seconds} s");
}

#[tokio::test]
async fn run_of_a_killed_worker_is_finished_by_another_and_counted_once() {
    run_of_a_killed_worker_is_finished_by_another("500ms", 15.0).await;
}

/// apalis counts a worker's silence in whole seconds: what it hands on then must not be refused for a fraction.
#[tokio::test]
async fn run_of_a_killed_worker_is_finished_by_another_when_the_lease_is_no_whole_second() {
    run_of_a_killed_worker_is_finished_by_another("950ms", 15.0).await;
}

#[tokio::test]
async fn crash_is_noticed_within_thirty_seconds_at_the_default_heartbeat() {
    run_of_a_killed_worker_is_finished_by_another("5s", 30.0).await;
}

/// Rows that this process has counted as purged.
async fn purged_rows(service: &Service) -> i64 {
    let mut rows = 0.0;
    for table in ["drift_checks", "workflow_drift_flags"] {
        let series = format!(r#"drift_retention_purged_rows_total{{plan="pro",table="{table}"}}"#);
        rows += service.metric(&series).await.unwrap();
    }
    rows.to_string().parse().unwrap()
}

#[tokio::test]
async fn frozen_worker_commits_nothing_more_once_its_run_is_taken_over() {
    let db = TestDatabase::new().await;
    let (first, second, run, before) = two_workers_and_a_slow_run(&db, "500ms").await;

    first.signal(Signal::SIGSTOP);
    let by_first = Cell::new(0);
    eventually("the other worker holds the run", async || {
        let so_far = ledger::progress(&db.pool, run).await;
        if second.holds(&db.pool, run).await {
            return true;
        }
        by_first.set(so_far);
        false
    })
    .await;
    // It wakes up with most of the run still to do, and sees the other at work for some ten batches.
    first.signal(Signal::SIGCONT);
    let going_on = ledger::progress(&db.pool, run).await + 30;
    eventually("more batches are committed", async || {
        ledger::progress(&db.pool, run).await >= going_on
    })
    .await;
    trouble::deletes_take(&db.pool, 0.0).await;
    until_status(&db.pool, run, "succeeded").await;
    let purged_by_first = purged_rows(&first).await;
    assert!(purged_by_first <= by_first.get(), "{purged_by_first} rows");
    assert_eq!(
        purged_by_first + purged_rows(&second).await,
        ledger::progress(&db.pool, run).await
    );
    ledger::assert_exact(&db.pool, &before).await;
    let lost = "drift_retention_lease_losses_total";
    eventually("the first worker says that it lost its run", async || {
        first.metric(lost).await == Some(1.0)
    })
    .await;
    assert_eq!(second.metric(lost).await, Some(0.0));
    second.kill().await;
    first.ready().await;

    let later = App::on(&db.pool).org_with_expired(101).await;
    let with_later = ledger::rows(&db.pool).await;
    let later = product::enqueue(&db.pool, later).await;
    until_status(&db.pool, later, "succeeded").await;

    assert!(first.holds(&db.pool, later).await, "it goes on to serve");
    assert_eq!(product::status(&db.pool, run).await, "succeeded");
    assert_eq!(ledger::attempts(&db.pool, run).await, 2);
    let history =
        format!("SELECT array_agg(status ORDER BY id) FROM run_journal WHERE run_id = '{run}'");
    assert_eq!(
        db.value::<Vec<String>>(&history).await,
        ["queued", "running", "running", "succeeded"]
    );
    assert_eq!(ledger::rows(&db.pool).await[1], with_later[1] - 100);
    let recorded = ledger::recorded(&db.pool).await;
    assert_eq!(recorded, [0, before[1] - 1 + 100, 0, before[3] - 2 + 200]);
    for (outcome, times) in [
        ("succeeded", 1.0),
        ("failed", 0.0),
        ("retried", 0.0),
        ("cancelled", 0.0),
    ] {
        assert_eq!(first.outcomes(outcome).await, times, "{outcome}");
    }
}

#[tokio::test]
async fn run_that_kills_its_worker_every_time_ends_as_exhausted_and_holds_nobody_up() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let deadly = app.org_with_expired(5_001).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.3).await;
    let settings = [
        SMALL_BATCHES,
        ("DRIFT_RETENTION_WORKER__MAX_ATTEMPTS", "3"),
        ("DRIFT_RETENTION_WORKER__CONCURRENCY", "2"),
    ];
    let run = product::enqueue(&db.pool, deadly).await;
    for attempt in 1..=3 {
        let worker = Service::start(&db.url, "worker", &settings);
        eventually("the attempt has begun", async || {
            ledger::attempts(&db.pool, run).await == attempt
        })
        .await;
        until_progress(&db.pool, run).await;
        // Beside it, another organization's run gets through.
        let other = product::enqueue(&db.pool, app.org("free").await).await;
        until_status(&db.pool, other, "succeeded").await;
        worker.kill().await;
    }
    let last = Service::start(&db.url, "worker", &settings);
    until_status(&db.pool, run, "failed").await;

    assert_eq!(
        ledger::run_column(&db.pool, run, "error_kind").await,
        "attempts_exhausted"
    );
    assert!(
        ledger::run_column(&db.pool, run, "error")
            .await
            .contains("3 attempts")
    );
    assert_eq!(ledger::attempts(&db.pool, run).await, 3);
    ledger::assert_exact(&db.pool, &before).await;
    eventually("the failure is counted", async || {
        last.outcomes("failed").await == 1.0
    })
    .await;
    let later = product::enqueue(&db.pool, app.org("pro").await).await;
    until_status(&db.pool, later, "succeeded").await;
    assert_eq!(product::status(&db.pool, run).await, "failed");
}

#[tokio::test]
async fn attempt_whose_token_is_no_longer_the_runs_commits_nothing_more() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(5_001).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.3).await;
    let worker = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    let run = product::enqueue(&db.pool, org).await;
    until_progress(&db.pool, run).await;

    // As another worker's claim does it.
    db.execute("UPDATE retention.purge_runs SET token = token + 1, worker = 'another'")
        .await;
    let purged = ledger::progress(&db.pool, run).await;
    eventually("its delivery is done with", async || {
        db.value::<i64>("SELECT count(*) FROM apalis.jobs WHERE status = 'Done'")
            .await
            == 1
    })
    .await;

    assert_eq!(ledger::progress(&db.pool, run).await, purged);
    ledger::assert_exact(&db.pool, &before).await;
    assert_eq!(product::status(&db.pool, run).await, "running");
    for outcome in ["succeeded", "failed", "retried", "cancelled"] {
        assert_eq!(worker.outcomes(outcome).await, 0.0, "{outcome}");
    }
}
