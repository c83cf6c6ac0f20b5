//! One caller must not stop everybody: locks that are held, jobs that nobody can read, requests that come again and again.

use std::time::{Duration, Instant};

use futures::future::join_all;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    api::{Api, answer, token},
    app::App,
    held::Held,
    ledger,
    product::{self, Service, eventually, until_status},
    text::stderr,
    trouble,
};

/// Asks for something of `org` again and again: each answer comes within a second.
async fn answered_soon(api: &Api, org: Uuid) {
    let operator = token("operator", None);
    let path = format!("/orgs/{org}/retention/policy");
    for _ in 0..20 {
        let since = Instant::now();
        assert_eq!(api.get(&path, &operator).await.status, 200);
        assert!(
            since.elapsed() < Duration::from_secs(1),
            "{:?}",
            since.elapsed()
        );
    }
}

#[tokio::test]
async fn request_that_meets_an_open_request_answers_within_two_seconds_and_nobody_else_notices() {
    let api = Api::start().await;
    let app = App::on(&api.db.pool);
    let (held, other) = (app.org("pro").await, app.org("pro").await);
    let operator = token("operator", None);
    let open = Held::by(
        &api.db,
        &format!("SELECT retention.enqueue_purge('{held}', 'the main app')"),
    )
    .await;
    let path = format!("/orgs/{held}/retention/purge");
    let requests = join_all((0..25).map(async |_| {
        let since = Instant::now();
        let answer = api.post(&path, &operator, "{}").await;
        (answer.status, since.elapsed(), answer.text())
    }));
    let others = answered_soon(&api, other);
    let (answers, ()) = tokio::join!(requests, others);
    for (status, elapsed, text) in answers {
        assert_eq!(status, 503, "{text}");
        assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
        assert!(text.contains("nothing was enqueued"), "{text}");
    }
    open.rollback().await;
    assert_eq!(api.post(&path, &operator, "{}").await.status, 202);
}

#[tokio::test]
async fn replays_and_keys_that_meet_an_open_request_answer_soon_and_others_are_answered() {
    let api = Api::start().await;
    let app = App::on(&api.db.pool);
    let (held, other) = (app.org("pro").await, app.org("pro").await);
    let operator = token("operator", None);
    let run = product::enqueue(&api.db.pool, held).await;
    let cancelled = format!("/retention/runs/{run}/cancel");
    assert_eq!(api.post(&cancelled, &operator, "{}").await.status, 200);
    let open = Held::by(
        &api.db,
        &format!("SELECT retention.enqueue_purge('{held}', 'the main app')"),
    )
    .await;
    let replay = format!("/retention/runs/{run}/replay");
    let purge = format!("/orgs/{held}/retention/purge");
    let requests = join_all((0..24).map(async |n| {
        let since = Instant::now();
        let answer = if n % 2 == 0 {
            api.post(&replay, &operator, "{}").await
        } else {
            let request = api.request("POST", &purge).bearer_auth(&operator);
            answer(request.header("idempotency-key", "same")).await
        };
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(
            since.elapsed() < Duration::from_secs(8),
            "{:?}",
            since.elapsed()
        );
    }));
    let others = async {
        for _ in 0..20 {
            let path = format!("/orgs/{other}/retention/policy");
            assert_eq!(api.get(&path, &operator).await.status, 200);
        }
    };
    tokio::join!(requests, others);
    // The command goes on with everybody else, and says whom it left out.
    let all = product::run(&api.db.url, &["purge", "--all", "--json"]).await;
    assert_eq!(all.status.code(), Some(1));
    assert!(stderr(&all).contains(&format!("no purge of organization {held} was enqueued")));
    let runs: serde_json::Value = serde_json::from_slice(&all.stdout).unwrap();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs}");
    assert_eq!(runs["runs"][0]["org_id"], other.to_string());
    open.rollback().await;
    assert_eq!(api.post(&replay, &operator, "{}").await.status, 202);
}

#[tokio::test]
async fn open_requests_of_many_organizations_leave_connections_for_whoever_reads() {
    let api = Api::start().await;
    let app = App::on(&api.db.pool);
    let other = app.org("pro").await;
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(app.org("pro").await);
    }
    let asks: Vec<_> = held
        .iter()
        .map(|org| format!("SELECT retention.enqueue_purge('{org}', 'the main app')"))
        .collect();
    let _open = Held::by(&api.db, &asks.join("; ")).await;
    let operator = token("operator", None);
    let requests = join_all(held.iter().map(async |org| {
        let path = format!("/orgs/{org}/retention/purge");
        assert_eq!(api.post(&path, &operator, "{}").await.status, 503);
    }));
    let others = answered_soon(&api, other);
    tokio::join!(requests, others);
}

#[tokio::test]
async fn asking_again_and_again_spends_no_attempt_of_a_run_that_fails() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(20).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_fail(&db.pool, org, 12).await;
    let slow_retries = [
        ("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "1h"),
        ("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "1h"),
    ];
    let _worker = Service::start(&db.url, "worker", &slow_retries);
    let run = product::enqueue(&db.pool, org).await;
    for _ in 0..12 {
        eventually("it waits", async || {
            let waits = "(status = 'retrying' AND next_attempt_at > now())";
            ledger::run_column(&db.pool, run, waits).await == "true"
        })
        .await;
        assert_eq!(ledger::attempts(&db.pool, run).await, 1);
        assert_eq!(product::enqueue(&db.pool, org).await, run);
        // A second request before the attempt begins changes nothing more.
        product::enqueue(&db.pool, org).await;
    }
    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 1);
    ledger::assert_exact(&db.pool, &before).await;
}

#[tokio::test]
async fn migration_says_who_holds_its_lock_and_gives_up() {
    let db = TestDatabase::empty().await;
    let _held = Held::by(
        &db,
        "SELECT pg_advisory_lock(hashtext('drift-retention migrate'))",
    )
    .await;
    for command in [&["migrate", "up"][..], &["migrate", "down"]] {
        let since = Instant::now();
        let refused = product::run(&db.url, command).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "{:?}",
            since.elapsed()
        );
        let said = stderr(&refused);
        assert!(
            said.contains("holds the lock of migrations: pid "),
            "{said}"
        );
        assert!(
            said.contains("user ") && said.contains("nothing was changed"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn job_that_nobody_can_read_is_killed_and_the_queue_goes_on() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(20).await;
    let (worker, log) = Service::logged(&db.url, "worker", &[]);
    worker.ready().await;
    db.execute(
        "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
         VALUES ('no ulid', 'drift-retention.purge', '{}', 'Pending', 0, 1, now(), 100)",
    )
    .await;
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    let killed = "SELECT status FROM apalis.jobs WHERE id = 'no ulid'";
    eventually("it is killed", async || {
        db.value::<String>(killed).await == "Killed"
    })
    .await;
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(
        log.contains("killed jobs in the queue that nobody can read"),
        "{log}"
    );
}

#[tokio::test]
async fn sessions_that_are_not_the_main_app_s_slow_no_purge_down() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(200).await;
    let _sleepers: Vec<_> = [
        Held::by(
            &db,
            "SET application_name = 'somebody'; SELECT pg_backend_pid()",
        )
        .await,
        Held::by(
            &db,
            "SET application_name = 'somebody'; SELECT pg_backend_pid()",
        )
        .await,
    ]
    .into();
    let named = ("DRIFT_RETENTION_PURGE__FOREGROUND", "the_app, other");
    let worker = Service::start(&db.url, "worker", &[named]);
    product::eventually("it is ready", async || worker.get("/readyz").await.is_ok()).await;
    db.execute(&format!(
        "SELECT retention.enqueue_slot(now(), ARRAY['{org}'::uuid])"
    ))
    .await;
    let run = crate::support::runs::newest_run(&db, org).await;
    until_status(&db.pool, run, "succeeded").await;
    let throttled = r#"drift_retention_throttled_seconds_total{reason="foreground"} "#;
    assert_eq!(worker.metric(throttled.trim()).await, Some(0.0));
}
