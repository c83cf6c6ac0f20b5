//! The purge makes way for what else the database does, says for what, and never for longer than it must.

use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    app_at_work::AppAtWork,
    ledger,
    product::{self, Service, eventually, until_status},
    runs, trouble,
};

const SMALL_BATCHES: (&str, &str) = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "5");
const FOREGROUND: &str = r#"drift_retention_throttled_seconds_total{reason="foreground"}"#;

async fn scheduled(db: &TestDatabase, org: Uuid) -> Uuid {
    db.execute(&format!(
        "SELECT retention.enqueue_slot(now(), ARRAY['{org}'::uuid])"
    ))
    .await;
    runs::newest_run(db, org).await
}

/// Notes of each statement that deletes checks, or ends a run, whether its commit is to wait for the disk, as commits do by
/// default (and not on the tests' server).
async fn note_whether_commits_wait(db: &TestDatabase) {
    db.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = on', current_database()); END $$;
         CREATE TABLE public.noted (what text, waits boolean);
         CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
             INSERT INTO public.noted VALUES (TG_ARGV[0], current_setting('synchronous_commit') <> 'off');
             RETURN NULL;
         END $$;
         CREATE TRIGGER noted AFTER DELETE ON public.drift_checks FOR EACH STATEMENT
             EXECUTE FUNCTION public.note('batch');
         CREATE TRIGGER noted AFTER UPDATE ON retention.purge_runs FOR EACH ROW WHEN (new.status = 'succeeded')
             EXECUTE FUNCTION public.note('succeeded')",
    )
    .await;
}

async fn commits_that_waited(db: &TestDatabase, what: &str) -> i64 {
    let waited = format!("SELECT count(*) FROM public.noted WHERE what = '{what}' AND waits");
    db.value(&waited).await
}

#[tokio::test]
async fn scheduled_run_goes_slowly_beside_the_main_app_and_says_so() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(100).await;
    let before = ledger::rows(&db.pool).await;
    note_whether_commits_wait(&db).await;
    let app = AppAtWork::on(&db).await;
    let worker = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    let run = scheduled(&db, org).await;
    until_status(&db.pool, run, "succeeded").await;
    app.rest().await;

    let step = runs::step(&db, run, "drift_checks").await;
    assert_eq!(step["throttle_reason"], "foreground");
    assert!(step["throttled_ms"].as_i64().unwrap() > 0);
    assert!(worker.metric(FOREGROUND).await.unwrap() > 0.0);
    let shown = product::run(&db.url, &["runs", "show", &run.to_string()]).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("lately for foreground"), "{shown}");
    ledger::assert_exact(&db.pool, &before).await;
    // No batch makes the main app's commits wait behind its own flush; the run's end is on the disk, and all of them with it.
    assert_eq!(commits_that_waited(&db, "batch").await, 0);
    assert_ne!(commits_that_waited(&db, "succeeded").await, 0);
}

#[tokio::test]
async fn worker_opens_its_connections_ahead_beside_the_main_app() {
    let db = TestDatabase::new().await;
    let app = AppAtWork::on(&db).await;
    let two = ("DRIFT_RETENTION_WORKER__CONCURRENCY", "2");
    let _worker = Service::start(&db.url, "worker", &[two]);
    // With nothing to do it would need half of them.
    eventually("every connection is open", async || {
        let open = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'drift-retention'";
        db.value::<i64>(open).await == 12
    })
    .await;
    app.rest().await;
}

#[tokio::test]
async fn runs_with_nothing_to_purge_are_closed_a_few_at_a_time_beside_the_main_app() {
    let db = TestDatabase::new().await;
    db.execute(
        "INSERT INTO organizations (name, plan) SELECT n::text, 'pro' FROM generate_series(1, 300) n;
         SELECT retention.enqueue_slot(now(), array_agg(id)) FROM organizations",
    )
    .await;
    let app = AppAtWork::on(&db).await;
    let _worker = Service::start(&db.url, "worker", &[]);
    runs::all_are_final(&db).await;
    app.rest().await;
    let together: i64 = db
        .value("SELECT max(runs) FROM (SELECT count(*) AS runs FROM retention.purge_runs GROUP BY xmin::text) t")
        .await;
    assert!(
        (2..=62).contains(&together),
        "{together} in one transaction"
    );
}

#[tokio::test]
async fn purge_now_does_not_wait_for_the_main_app_to_rest() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(100).await;
    let app = AppAtWork::on(&db).await;
    let worker = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    app.rest().await;
    assert_eq!(
        runs::step(&db, run, "drift_checks").await["throttled_ms"],
        0
    );
    assert_eq!(worker.metric(FOREGROUND).await, Some(0.0));
}

#[tokio::test]
async fn wait_before_a_batch_that_deletes_nothing_stands_on_the_record() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    // It has no payload: a batch stamps it, and deletes no row.
    app.incident(org, env, "closed", Some("400 days")).await;
    let at_work = AppAtWork::on(&db).await;
    let worker = Service::start(&db.url, "worker", &[]);
    let run = scheduled(&db, org).await;
    until_status(&db.pool, run, "succeeded").await;
    at_work.rest().await;
    let stamped = "SELECT count(*) FROM incidents WHERE payload_purged_at IS NOT NULL";
    assert_eq!(db.value::<i64>(stamped).await, 1);
    let recorded: i64 = db
        .value("SELECT sum(throttled_ms)::bigint FROM retention.purge_run_steps")
        .await;
    let series = r#"drift_retention_throttled_seconds_total{reason="foreground"}"#;
    let waited = worker.metric(series).await.unwrap() * 1e3;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of one run")]
    let unrecorded = waited - recorded as f64;
    assert!(
        waited > 0.0 && unrecorded < 5.0,
        "{waited} ms, {recorded} ms recorded"
    );
}

#[tokio::test]
async fn nobody_is_made_way_for_when_that_is_switched_off() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(100).await;
    let app = AppAtWork::on(&db).await;
    let off = ("DRIFT_RETENTION_PURGE__THROTTLE", "false");
    let _worker = Service::start(&db.url, "worker", &[SMALL_BATCHES, off]);
    let run = scheduled(&db, org).await;
    until_status(&db.pool, run, "succeeded").await;
    app.rest().await;
    assert_eq!(
        runs::step(&db, run, "drift_checks").await["throttled_ms"],
        0
    );
}

#[tokio::test]
async fn run_goes_on_where_its_last_attempt_had_come_and_finds_what_is_before_that() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(60).await;
    let before = ledger::rows(&db.pool).await;
    db.execute(
        "CREATE TABLE deaths (n int);
         CREATE FUNCTION die_halfway() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF (SELECT count(*) FROM drift_checks) < 30 AND NOT EXISTS (SELECT FROM deaths) THEN
                 RAISE 'halfway';
             END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER die_halfway AFTER DELETE ON drift_checks
             FOR EACH STATEMENT EXECUTE FUNCTION die_halfway()",
    )
    .await;
    let _worker = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "retrying").await;
    let step = runs::step(&db, run, "drift_checks").await;
    assert!(!step["cursor_at"].is_null(), "{step}");

    // Behind the place from which it will go on.
    let env: Uuid = db.value("SELECT id FROM environments").await;
    app.many_checks(org, env, 7, "90 days", 2).await;
    db.execute("INSERT INTO deaths VALUES (1)").await;
    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(runs::counts(&db, org).await, [1, 2, 0, 0]);
    let before: Vec<i64> = before
        .iter()
        .zip([0, 7, 0, 14])
        .map(|(b, more)| b + more)
        .collect();
    ledger::assert_exact(&db.pool, &before).await;
}

/// `22:00-23:00` in UTC, so many hours from now.
async fn an_hour_in(db: &TestDatabase, hours: i32) -> String {
    db.value(&format!(
        "SELECT to_char(t, 'HH24:MI') || '-' || to_char(t + interval '1 hour', 'HH24:MI')
         FROM (SELECT (now() AT TIME ZONE 'UTC') + make_interval(hours => {hours}, mins => -5) AS t) t"
    ))
    .await
}

#[tokio::test]
async fn outside_its_hours_a_scheduled_run_waits_and_a_purge_now_does_not() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let (waits, asked) = (app.org_with_expired(3).await, app.org_with_expired(3).await);
    let hours = an_hour_in(&db, 3).await;
    let _worker = Service::start(
        &db.url,
        "worker",
        &[("DRIFT_RETENTION_PURGE__BETWEEN", &hours)],
    );
    let nightly = scheduled(&db, waits).await;
    eventually("it is put off", async || {
        let due = format!("SELECT coalesce(next_attempt_at > now() + interval '2 hours', false) FROM retention.purge_runs WHERE id = '{nightly}'");
        db.value::<bool>(&due).await
    })
    .await;
    let now = product::enqueue(&db.pool, asked).await;
    until_status(&db.pool, now, "succeeded").await;
    assert_eq!(product::status(&db.pool, nightly).await, "queued");
    assert_eq!(ledger::attempts(&db.pool, nightly).await, 0);
    assert_eq!(runs::counts(&db, waits).await, [3, 6, 0, 0]);

    // Who asks for it does not wait for the night either.
    assert_eq!(product::enqueue(&db.pool, waits).await, nightly);
    until_status(&db.pool, nightly, "succeeded").await;
    assert_eq!(runs::counts(&db, waits).await, [1, 2, 0, 0]);
}

#[tokio::test]
async fn within_its_hours_a_scheduled_run_goes_on() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(3).await;
    let hours = an_hour_in(&db, 0).await;
    let _worker = Service::start(
        &db.url,
        "worker",
        &[("DRIFT_RETENTION_PURGE__BETWEEN", &hours)],
    );
    let run = scheduled(&db, org).await;
    until_status(&db.pool, run, "succeeded").await;
}

#[tokio::test]
async fn outside_its_hours_the_run_of_a_dead_worker_waits_like_any_other() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(60).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.05).await;
    let heartbeat = ("DRIFT_RETENTION_WORKER__HEARTBEAT", "500ms");
    let settings = [("DRIFT_RETENTION_PURGE__BATCH_SIZE", "1"), heartbeat];
    let dies = Service::start(&db.url, "worker", &settings);
    let nightly = scheduled(&db, org).await;
    eventually("it is at work", async || {
        ledger::progress(&db.pool, nightly).await > 0
    })
    .await;
    dies.kill().await;

    let hours = an_hour_in(&db, 3).await;
    let between = ("DRIFT_RETENTION_PURGE__BETWEEN", hours.as_str());
    let _worker = Service::start(&db.url, "worker", &[heartbeat, between]);
    until_status(&db.pool, nightly, "retrying").await;
    let due = ledger::run_column(
        &db.pool,
        nightly,
        "(next_attempt_at > now() + interval '2 hours')",
    );
    assert_eq!(due.await, "true");
    let token = ledger::run_column(&db.pool, nightly, "token").await;
    assert_eq!(token, "2", "what the dead one held is not its own any more");
    assert_eq!(ledger::attempts(&db.pool, nightly).await, 1);

    // Who asks for it does not wait for the night.
    trouble::deletes_take(&db.pool, 0.0).await;
    assert_eq!(product::enqueue(&db.pool, org).await, nightly);
    until_status(&db.pool, nightly, "succeeded").await;
    ledger::assert_exact(&db.pool, &before).await;
}

#[tokio::test]
async fn hours_that_are_none_are_refused() {
    let db = TestDatabase::new().await;
    let refused = product::run(&db.url, &["serve", "--between", "22-6"]).await;
    assert_eq!(refused.status.code(), Some(2));
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("22:00-06:00"), "{why}");
}
