//! Attempts that fail: the waits between them grow, survive the worker, and end.

use sqlx::Row;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually, until_status},
    roles,
    text::{stderr, stdout},
    trouble,
};

const THREE_ATTEMPTS: (&str, &str) = ("DRIFT_RETENTION_WORKER__MAX_ATTEMPTS", "3");
const FAILED_JOBS: &str = "SELECT count(*) FROM apalis.jobs WHERE status = 'Failed'";

/// Every wait that was decided, and how long after its end the next attempt began; in seconds.
async fn waits(db: &TestDatabase, run: Uuid) -> Vec<(f64, f64)> {
    let sql = format!(
        "SELECT extract(epoch FROM next_attempt_at - at)::float8, extract(epoch FROM begun - next_attempt_at)::float8
         FROM (SELECT *, lead(at) OVER (ORDER BY id) AS begun FROM run_journal WHERE run_id = '{run}') j
         WHERE status = 'retrying' ORDER BY id"
    );
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .fetch_all(&db.pool)
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn run_that_fails_twice_waits_longer_the_second_time_and_then_succeeds() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_fail(&db.pool, org, 2).await;
    trouble::journal(&db.pool).await;
    let worker = Service::start(&db.url, "worker", &[THREE_ATTEMPTS]);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;

    let waits = waits(&db, run).await;
    assert_eq!(waits.len(), 2, "{waits:?}");
    assert!((0.1..=0.2).contains(&waits[0].0), "{waits:?}");
    assert!((0.2..=0.4).contains(&waits[1].0), "{waits:?}");
    for (_, late) in &waits {
        assert!((0.0..10.0).contains(late), "{waits:?}");
    }
    assert_eq!(ledger::attempts(&db.pool, run).await, 3);
    assert_eq!(ledger::run_column(&db.pool, run, "error_kind").await, "");
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM retention.purge_runs")
            .await,
        1
    );
    assert_eq!(db.value::<i64>(FAILED_JOBS).await, 0);
    ledger::assert_exact(&db.pool, &before).await;
    eventually("all is counted", async || {
        worker.outcomes("retried").await == 2.0 && worker.outcomes("succeeded").await == 1.0
    })
    .await;
}

#[tokio::test]
async fn wait_for_the_next_attempt_survives_the_worker() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    trouble::deletes_fail(&db.pool, org, 2).await;
    trouble::journal(&db.pool).await;
    let slow_retries = [
        THREE_ATTEMPTS,
        ("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "4s"),
        ("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "4s"),
    ];
    let worker = Service::start(&db.url, "worker", &slow_retries);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "retrying").await;
    worker.kill().await;
    let worker = Service::start(&db.url, "worker", &slow_retries);
    eventually("the second attempt has failed", async || {
        ledger::attempts(&db.pool, run).await == 2
            && product::status(&db.pool, run).await == "retrying"
    })
    .await;
    worker.kill().await;
    let _worker = Service::start(&db.url, "worker", &slow_retries);
    until_status(&db.pool, run, "succeeded").await;

    let waits = waits(&db, run).await;
    assert_eq!(waits.len(), 2);
    for (wait, late) in &waits {
        assert!(*wait >= 2.0 && *late >= 0.0, "{waits:?}");
    }
    assert_eq!(ledger::attempts(&db.pool, run).await, 3);
    assert_eq!(db.value::<i64>(FAILED_JOBS).await, 0);
}

#[tokio::test]
async fn run_that_always_fails_ends_as_failed_and_says_why_while_others_succeed() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let hopeless = app.org_with_expired(11).await;
    trouble::deletes_fail(&db.pool, hopeless, i64::MAX).await;
    let worker = Service::start(&db.url, "worker", &[THREE_ATTEMPTS]);
    let run = product::enqueue(&db.pool, hopeless).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        let org = app.org_with_expired(11).await;
        others.push(product::enqueue(&db.pool, org).await);
    }
    for other in others {
        until_status(&db.pool, other, "succeeded").await;
    }
    until_status(&db.pool, run, "failed").await;

    assert_eq!(ledger::attempts(&db.pool, run).await, 3);
    assert_eq!(
        ledger::run_column(&db.pool, run, "error_kind").await,
        "database"
    );
    let error = ledger::run_column(&db.pool, run, "error").await;
    for link in ["the database failed", "function refuse()"] {
        assert!(error.contains(link), "{error}");
    }
    assert_eq!(
        ledger::run_column(&db.pool, run, "next_attempt_at").await,
        ""
    );
    assert_eq!(
        ledger::progress(&db.pool, run).await,
        0,
        "nothing went, nothing is counted"
    );
    assert_eq!(db.value::<i64>(FAILED_JOBS).await, 0);
    eventually("its job shows as killed", async || {
        db.value::<i64>("SELECT count(*) FROM apalis.jobs WHERE status = 'Killed'")
            .await
            == 1
    })
    .await;
    assert_eq!(worker.outcomes("failed").await, 1.0);
    assert_eq!(worker.outcomes("retried").await, 2.0);
}

/// What Postgres says ends with a line number of Postgres's own source, which tells nobody anything: it is shown nowhere.
#[tokio::test]
async fn error_of_the_database_names_no_line_of_its_source() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    trouble::deletes_fail(&db.pool, org, 1_000).await;
    let (_worker, log) = Service::logged(&db.url, "worker", &[THREE_ATTEMPTS]);
    let org = org.to_string();
    let waited = product::run(&db.url, &["purge", "--org", &org, "--wait"]).await;
    let run: Uuid = db.value("SELECT id FROM retention.purge_runs").await;
    let shown = product::run(&db.url, &["runs", "show", &run.to_string()]).await;
    // The errors of commands, too: this user may do nothing.
    let nobody = roles::user_in(&db, "").await;
    let refused = product::run(&nobody, &["runs", "list"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let why = "function refuse()";
    let log = std::fs::read_to_string(log.path()).unwrap();
    for (text, expected) in [
        (stdout(&waited), why),
        (stdout(&shown), why),
        (ledger::run_column(&db.pool, run, "error").await, why),
        (log, why),
        (stderr(&refused), "permission denied"),
    ] {
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("at line "), "{text}");
    }
}
