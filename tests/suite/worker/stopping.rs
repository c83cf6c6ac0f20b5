//! SIGTERM, SIGINT and SIGHUP: the process ends in order and in time, what it had in hand goes back, nothing is lost or spent.

use std::{process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::{Instant, sleep},
};

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    port::Port,
    product::{self, Service, eventually, until_status},
    text::stdout,
    trouble,
};

const SMALL_BATCHES: (&str, &str) = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "50");

async fn run_in_hand_is_given_back_on(signal: Signal) {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(5_001).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.3).await;
    let mut first = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    let run = product::enqueue(&db.pool, org).await;
    eventually("the run is in hand", async || {
        ledger::progress(&db.pool, run).await > 0
    })
    .await;

    first.signal(signal);
    assert_eq!(first.ends_within(Duration::from_secs(10)).await, Some(0));

    assert_eq!(product::status(&db.pool, run).await, "queued");
    assert_eq!(ledger::attempts(&db.pool, run).await, 0);
    ledger::assert_exact(&db.pool, &before).await;
    trouble::deletes_take(&db.pool, 0.0).await;
    let _second = Service::start(&db.url, "worker", &[]);
    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 1);
    assert_eq!(ledger::rows(&db.pool).await, [0, 1, 0, 2]);
    ledger::assert_exact(&db.pool, &before).await;
}

#[tokio::test]
async fn run_in_hand_is_given_back_on_sigterm() {
    run_in_hand_is_given_back_on(Signal::SIGTERM).await;
}

#[tokio::test]
async fn run_in_hand_is_given_back_on_sigint() {
    run_in_hand_is_given_back_on(Signal::SIGINT).await;
}

/// A terminal that is closed, a session that ends.
#[tokio::test]
async fn run_in_hand_is_given_back_on_sighup() {
    run_in_hand_is_given_back_on(Signal::SIGHUP).await;
}

#[tokio::test]
async fn service_that_nohup_started_goes_on_after_sighup() {
    let db = TestDatabase::new().await;
    let held = Port::reserve();
    let mut nohup = Command::new("nohup")
        .args([env!("CARGO_BIN_EXE_drift-retention"), "serve"])
        .env_clear()
        .env("DATABASE_URL", &db.url)
        .env(
            "DRIFT_RETENTION_HTTP__LISTEN",
            format!("127.0.0.1:{}", held.number),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // `nohup` becomes the program: its process id stays.
    let pid = Pid::from_raw(i32::try_from(nohup.id().unwrap()).unwrap());
    let url = format!("http://127.0.0.1:{}/readyz", held.number);
    let ready = async || {
        reqwest::get(&url)
            .await
            .is_ok_and(|a| a.status().is_success())
    };
    eventually("the service is ready", &ready).await;
    kill(pid, Signal::SIGHUP).unwrap();
    // It purges after it: the signal is long behind it.
    let org = App::on(&db.pool).org_with_expired(11).await;
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    assert!(ready().await, "it stops");
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(nohup.wait().await.unwrap().success());
}

#[tokio::test]
async fn purge_that_waits_ends_on_sighup_and_leaves_its_run() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await.to_string();
    let mut waiting = product::command(&db.url)
        .args(["purge", "--org", &org, "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let warning = lines.next_line().await.unwrap().unwrap();
    assert!(warning.contains("no worker is alive"), "{warning}");
    let pid = Pid::from_raw(i32::try_from(waiting.id().unwrap()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    let output = waiting.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let says = "1 of 1 runs are not finished";
    assert!(stdout(&output).contains(says), "{}", stdout(&output));
    let status: String = db.value("SELECT status FROM retention.purge_runs").await;
    assert_eq!(status, "queued");
}

#[tokio::test]
async fn second_signal_ends_the_process_at_once() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let before = app.org_with_expired(501).await;
    trouble::deletes_take(&db.pool, 4.5).await;
    // A batch of one may take its time: there is no smaller one.
    let single = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "1");
    let mut service = Service::start(&db.url, "worker", &[single]);
    let run = product::enqueue(&db.pool, before).await;
    until_status(&db.pool, run, "running").await;
    let deleting = "SELECT EXISTS (SELECT FROM pg_stat_activity
                                   WHERE datname = current_database() AND wait_event = 'PgSleep')";
    eventually("a long batch is going", async || {
        db.value::<bool>(deleting).await
    })
    .await;

    // Two signals at the same moment would be one.
    let first = Instant::now();
    let code = loop {
        service.signal(Signal::SIGTERM);
        sleep(Duration::from_millis(50)).await;
        if let Some(status) = service.child.try_wait().unwrap() {
            break status.code();
        }
        assert!(first.elapsed() < Duration::from_secs(3), "it lives on");
    };
    assert_eq!(code, Some(130));
    assert!(
        db.value::<bool>(deleting).await,
        "the batch was not awaited"
    );
}

#[tokio::test]
async fn idle_process_stops_at_once() {
    let db = TestDatabase::new().await;
    let mut service = Service::start(&db.url, "api,scheduler,worker", &[]);
    service.ready().await;
    service.signal(Signal::SIGTERM);
    assert_eq!(service.ends_within(Duration::from_secs(3)).await, Some(0));
    let lingering =
        "SELECT count(*) FROM apalis.workers WHERE last_seen > now() - interval '1 hour'";
    assert_eq!(db.value::<i64>(lingering).await, 0, "it has signed off");
}

#[tokio::test]
async fn no_run_of_a_burst_is_lost_when_the_worker_stops_amid_it() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(11).await;
    db.execute(&format!(
        "INSERT INTO organizations (name, plan) SELECT 'Org ' || n, 'pro' FROM generate_series(1, 199) n;
         INSERT INTO environments (org_id, name) SELECT id, 'production' FROM organizations WHERE id <> '{org}';
         INSERT INTO drift_checks (org_id, env_id, checked_at, status)
         SELECT e.org_id, e.id, now() - interval '31 days' - make_interval(mins => n), 'in_sync'
         FROM environments e, generate_series(1, 5) n WHERE e.org_id <> '{org}';"
    ))
    .await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.02).await;
    let eight = [("DRIFT_RETENTION_WORKER__CONCURRENCY", "8")];
    let mut first = Service::start(&db.url, "worker", &eight);
    first.ready().await;
    db.execute("SELECT retention.enqueue_purge(id, 'main app') FROM organizations")
        .await;
    let succeeded = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
    eventually("the burst is under way", async || {
        db.value::<i64>(succeeded).await >= 20
    })
    .await;

    first.signal(Signal::SIGTERM);
    assert_eq!(first.ends_within(Duration::from_secs(10)).await, Some(0));
    let open = "SELECT count(*) FROM retention.purge_runs WHERE status = 'queued' AND attempts = 0";
    let done = db.value::<i64>(succeeded).await;
    assert!(done < 200, "it stopped amid the burst");
    assert_eq!(done + db.value::<i64>(open).await, 200);
    // Not left to the reconciler: every open run has a delivery that waits, or whose worker has signed off.
    let deliverable = "SELECT count(*) FROM retention.purge_runs r JOIN apalis.jobs j ON j.id = r.delivery_id
                       LEFT JOIN apalis.workers w ON w.id = j.lock_by
                       WHERE r.status = 'queued' AND (j.status = 'Pending' OR w.last_seen = 'epoch')";
    assert_eq!(db.value::<i64>(deliverable).await, 200 - done);

    let _second = Service::start(&db.url, "worker", &eight);
    eventually("every run has succeeded", async || {
        db.value::<i64>(succeeded).await == 200
    })
    .await;
    ledger::assert_exact(&db.pool, &before).await;
    let attempts = "SELECT max(attempts)::int8 FROM retention.purge_runs";
    assert_eq!(db.value::<i64>(attempts).await, 1);
}
