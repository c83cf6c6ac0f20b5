//! "Purge now", by SQL in the main app's own transactions and by the command line: one live run per organization,
//! whoever asks and however many at once.
#![allow(clippy::disallowed_methods, reason = "the main app has its own SQL")]

use futures::future::join_all;
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    product::{self, Service},
    text::stderr,
};

/// What a request was answered: run, status, coalesced.
type Answer = (Uuid, String, bool);

async fn request(conn: &mut PgConnection, org: Option<Uuid>, by: &str) -> sqlx::Result<Answer> {
    sqlx::query_as(
        "SELECT run_id, status, coalesced FROM retention.enqueue_purge($1, $2, 'asked to')",
    )
    .bind(org)
    .bind(by)
    .fetch_one(conn)
    .await
}

async fn enqueue(pool: &PgPool, org: Uuid) -> Answer {
    let mut conn = pool.acquire().await.unwrap();
    request(&mut conn, Some(org), "main app").await.unwrap()
}

/// Runs and deliveries, of any status.
async fn runs_and_jobs(db: &TestDatabase) -> (i64, i64) {
    (
        db.value("SELECT count(*) FROM retention.purge_runs").await,
        db.value("SELECT count(*) FROM apalis.jobs").await,
    )
}

#[tokio::test]
async fn fifty_requests_at_once_make_one_run_with_one_delivery() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let connections = join_all((0..50).map(|_| PgConnection::connect(&db.url))).await;

    let answers = join_all(connections.into_iter().map(async |conn| {
        request(&mut conn.unwrap(), Some(org), "main app")
            .await
            .unwrap()
    }))
    .await;

    assert_eq!(answers.iter().filter(|answer| !answer.2).count(), 1);
    assert!(
        answers
            .iter()
            .all(|answer| (answer.0, answer.1.as_str()) == (answers[0].0, "queued"))
    );
    assert_eq!(runs_and_jobs(&db).await, (1, 1));
    let waiting =
        "SELECT count(*) FROM apalis.jobs j JOIN retention.purge_runs r ON r.delivery_id = j.id
                   WHERE j.status = 'Pending' AND r.status = 'queued'";
    assert_eq!(db.value::<i64>(waiting).await, 1);
}

#[tokio::test]
async fn twenty_processes_at_once_make_one_run_with_one_delivery() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await.to_string();

    let answers = join_all(
        (0..20).map(async |_| product::json(&db.url, &["purge", "--org", &org, "--json"]).await),
    )
    .await;

    let runs: Vec<_> = answers.iter().map(|answer| &answer["runs"][0]).collect();
    assert_eq!(
        runs.iter().filter(|run| run["coalesced"] == false).count(),
        1
    );
    assert!(runs.iter().all(|run| run["run_id"] == runs[0]["run_id"]));
    assert_eq!(runs_and_jobs(&db).await, (1, 1));
}

#[tokio::test]
async fn request_that_is_rolled_back_never_existed() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;

    let mut tx = db.pool.begin().await.unwrap();
    let lost = request(&mut tx, Some(org), "main app").await.unwrap();
    tx.rollback().await.unwrap();

    assert_eq!(runs_and_jobs(&db).await, (0, 0));
    let next = enqueue(&db.pool, org).await;
    assert!(!next.2, "nothing was there to join");
    assert_ne!(next.0, lost.0);
}

#[tokio::test]
async fn request_is_seen_when_the_callers_own_transaction_commits() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("enterprise").await;

    let mut tx = db.pool.begin().await.unwrap();
    sqlx::query("UPDATE organizations SET plan = 'pro' WHERE id = $1")
        .bind(org)
        .execute(&mut *tx)
        .await
        .unwrap();
    let (run, status, coalesced) = request(&mut tx, Some(org), "main app").await.unwrap();
    assert_eq!((status.as_str(), coalesced), ("queued", false));
    assert_eq!(runs_and_jobs(&db).await, (0, 0));
    tx.commit().await.unwrap();

    assert_eq!(runs_and_jobs(&db).await, (1, 1));
    assert_eq!(product::purge(&db.url, org).await, run);
    let plan: String = db.value("SELECT plan FROM retention.purge_runs").await;
    assert_eq!(plan, "pro");
}

#[tokio::test]
async fn request_records_who_asked_and_why() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    enqueue(&db.pool, org).await;
    let recorded: String = db
        .value("SELECT concat_ws(' | ', trigger, requested_by, reason) FROM retention.purge_runs")
        .await;
    assert_eq!(recorded, "purge_now | main app | asked to");
}

#[tokio::test]
async fn request_after_the_last_run_ended_makes_a_new_one() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let first = product::purge(&db.url, org).await;
    let (second, status, coalesced) = enqueue(&db.pool, org).await;
    assert_ne!(first, second);
    assert_eq!((status.as_str(), coalesced), ("queued", false));
}

#[tokio::test]
async fn request_makes_a_run_that_backs_off_for_an_hour_start_now() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let held = app.check(org, env, "40 days", &[]).await;
    app.check(org, env, "1 hour", &[]).await;
    // The main app holds an expired check for longer than an attempt would wait.
    let mut holder = db.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM drift_checks WHERE id = $1 FOR UPDATE")
        .bind(held)
        .fetch_one(&mut *holder)
        .await
        .unwrap();
    let hour = [
        ("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "2h"),
        ("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "2h"),
    ];
    let service = Service::start(&db.url, "worker", &hour);
    let (run, ..) = enqueue(&db.pool, org).await;
    product::until_status(&db.pool, run, "retrying").await;
    let waits = "SELECT next_attempt_at > now() + interval '50 minutes' FROM retention.purge_runs";
    assert!(db.value::<bool>(waits).await);
    holder.rollback().await.unwrap();

    let joined = enqueue(&db.pool, org).await;

    assert_eq!(joined, (run, "retrying".into(), true));
    product::until_status(&db.pool, run, "succeeded").await;
    let attempts: i32 = db
        .value("SELECT attempts FROM retention.purge_runs WHERE finished_at < now()")
        .await;
    // The attempt that was asked for spends none of the run's own.
    assert_eq!(attempts, 1);
    service.kill().await;
}

#[tokio::test]
async fn request_makes_a_run_that_is_queued_for_later_start_now() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let (run, ..) = enqueue(&db.pool, org).await;
    db.execute(
        "UPDATE retention.purge_runs SET next_attempt_at = now() + interval '1 hour';
         UPDATE apalis.jobs SET run_at = now() + interval '1 hour', priority = 0;",
    )
    .await;

    assert_eq!(enqueue(&db.pool, org).await, (run, "queued".into(), true));

    assert_eq!(runs_and_jobs(&db).await, (1, 1));
    let due = "SELECT run_at <= now() AND priority = 10 FROM apalis.jobs";
    assert!(db.value::<bool>(due).await);
    assert_eq!(product::purge(&db.url, org).await, run);
}

#[tokio::test]
async fn request_that_meets_a_waiting_run_without_a_delivery_makes_one() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let (run, ..) = enqueue(&db.pool, org).await;
    db.execute("DELETE FROM apalis.jobs").await;

    assert_eq!(enqueue(&db.pool, org).await, (run, "queued".into(), true));

    assert_eq!(runs_and_jobs(&db).await, (1, 1));
}

#[tokio::test]
async fn request_that_meets_a_running_run_does_not_wait_for_its_batch() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let (run, ..) = enqueue(&db.pool, org).await;
    db.execute("UPDATE retention.purge_runs SET status = 'running'")
        .await;
    // A batch proves its ownership by locking these rows; this holder is stricter still.
    let mut batch = db.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "SELECT FROM retention.purge_runs FOR UPDATE; SELECT FROM organizations FOR UPDATE",
    )
    .execute(&mut *batch)
    .await
    .unwrap();

    let mut caller = db.pool.begin().await.unwrap();
    sqlx::raw_sql("SET LOCAL lock_timeout = '1ms'")
        .execute(&mut *caller)
        .await
        .unwrap();
    let answer = request(&mut caller, Some(org), "main app").await.unwrap();

    assert_eq!(answer, (run, "running".into(), true));
    batch.rollback().await.unwrap();
}

#[tokio::test]
async fn request_without_an_organization_or_an_asker_is_refused_and_changes_nothing() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let unknown = Uuid::new_v4();
    let mut conn = db.pool.acquire().await.unwrap();

    let refusals = [
        (Some(unknown), "main app", "23503", "does not exist"),
        (None, "main app", "22004", "needs an organization"),
        (Some(org), "", "22004", "who asked for it"),
        (Some(org), "  ", "22004", "who asked for it"),
    ];
    for (org, by, code, message) in refusals {
        let error = request(&mut conn, org, by).await.unwrap_err();
        let error = error.into_database_error().unwrap();
        assert_eq!(error.code().as_deref(), Some(code));
        assert!(error.message().contains(message), "{error}");
    }
    let nobody = sqlx::query("SELECT retention.enqueue_purge($1, NULL)")
        .bind(org)
        .execute(&mut *conn)
        .await;
    assert!(nobody.is_err());
    let output = product::run(&db.url, &["purge", "--org", &unknown.to_string()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        format!(
            "error: organization {unknown} does not exist: nothing was enqueued; check the id\n"
        )
    );
    assert_eq!(runs_and_jobs(&db).await, (0, 0));
}

#[tokio::test]
async fn what_a_person_asked_for_comes_before_the_slot() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..3 {
        app.org("pro").await;
    }
    db.execute("SELECT retention.enqueue_slot(now(), (SELECT array_agg(id) FROM organizations))")
        .await;
    let asked_for = app.org("pro").await;
    let (run, ..) = enqueue(&db.pool, asked_for).await;
    let priorities: Vec<i32> = db
        .value("SELECT array_agg(priority ORDER BY priority) FROM apalis.jobs")
        .await;
    assert_eq!(priorities, [0, 0, 0, 10]);
    // Two are in hand at once, and may begin in either order: what counts is in which they are handed out.
    db.execute(
        "CREATE TABLE handed_out (n bigint GENERATED ALWAYS AS IDENTITY, job text);
         CREATE FUNCTION note_handed_out() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.handed_out (job) VALUES (NEW.id); RETURN NULL; END';
         CREATE TRIGGER note_handed_out AFTER UPDATE OF status ON apalis.jobs
             FOR EACH ROW WHEN (OLD.status = 'Pending') EXECUTE FUNCTION note_handed_out()",
    )
    .await;

    let one = [("DRIFT_RETENTION_WORKER__CONCURRENCY", "1")];
    let service = Service::start(&db.url, "worker", &one);
    product::eventually("all four are purged", async || {
        let left = "SELECT count(*) FROM retention.purge_runs WHERE status <> 'succeeded'";
        db.value::<i64>(left).await == 0
    })
    .await;

    let first: Uuid = db
        .value(
            "SELECT r.id FROM handed_out h JOIN retention.purge_runs r ON r.delivery_id = h.job ORDER BY h.n LIMIT 1",
        )
        .await;
    assert_eq!(first, run);
    service.kill().await;
}

#[tokio::test]
async fn nobody_may_enqueue_unless_told_so() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let role = format!("test_{}", Uuid::new_v4().simple());
    // Of the schema it may know; of the functions nothing is granted.
    db.execute(&format!(
        "CREATE ROLE {role}; GRANT USAGE ON SCHEMA retention TO {role}"
    ))
    .await;
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    let become_role = format!("SET ROLE {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(become_role))
        .execute(&mut conn)
        .await
        .unwrap();

    for call in [
        "enqueue_purge(gen_random_uuid(), 'x')",
        "enqueue_run(gen_random_uuid(), 'replay', 'x', NULL, NULL)",
        "enqueue_slot(now(), '{}')",
        "deliver('{}')",
    ] {
        let error = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT retention.{call}")))
            .execute(&mut conn)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("permission denied for function"),
            "{error}"
        );
    }

    // Told so, it may ask, and still sees none of the tables behind.
    db.execute(&format!(
        "GRANT EXECUTE ON FUNCTION retention.enqueue_purge TO {role}"
    ))
    .await;
    assert!(!request(&mut conn, Some(org), "main app").await.unwrap().2);
    let tables = sqlx::query("SELECT FROM retention.purge_runs")
        .execute(&mut conn)
        .await;
    assert!(tables.is_err());
    conn.close().await.unwrap();
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}
