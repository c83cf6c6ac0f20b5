//! A mapping that somebody changes under a running worker: nothing is purged by the new one, the counts stay exact, and the
//! process ends and says that it has to be started again.

use std::{fs, time::Duration};

use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    attach::accepted,
    held::slow_deletes,
    ledger,
    product::{self, Service, eventually},
    runs::{self, enqueue_slot},
};

const COLUMNS: &str = "c.ctid, c.id, c.org_id, c.env_id, c.checked_at, c.status, c.modified_count, c.not_in_git_count,
    c.unknown_count, c.summary_json";
const RESTART: &str = "has changed since this process checked it";

/// A table with the same checks, every one of which is expired, and nothing that they hang on.
const OTHER: &str = "
    CREATE TABLE other_checks (LIKE drift_checks INCLUDING ALL);
    INSERT INTO other_checks OVERRIDING SYSTEM VALUE SELECT * FROM drift_checks;
    UPDATE other_checks SET checked_at = checked_at - interval '1 year'";

/// The view, of another table.
fn of_table(table: &str, how: &str) -> String {
    format!("{how} VIEW main_app.drift_checks AS SELECT {COLUMNS} FROM public.{table} c")
}

/// Checks to purge for a while, in the way of which nothing stands.
async fn with_many_checks(checks: i64) -> (TestDatabase, Uuid) {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_all_kinds_expired(checks).await;
    db.execute(OTHER).await;
    (db, org)
}

/// Runs the statements while one of our deletions waits in its trigger: its transaction is open.
async fn while_a_batch_is_open(db: &TestDatabase, statements: &str) {
    db.execute(&format!(
        "DO $do$ BEGIN
             LOOP
                 PERFORM pg_stat_clear_snapshot();
                 EXIT WHEN EXISTS (SELECT FROM pg_stat_activity
                                   WHERE application_name = 'drift-retention' AND wait_event = 'PgSleep'
                                     AND datname = current_database());
                 PERFORM pg_sleep(0.001);
             END LOOP;
             {statements};
         END $do$"
    ))
    .await;
}

async fn until_some_are_gone(db: &TestDatabase, checks: i64) {
    eventually("some rows are gone", async || {
        db.value::<i64>("SELECT count(*) FROM drift_checks").await < checks - 20
    })
    .await;
}

/// The process has ended for the change; the run waits, without a spent attempt, and says exactly what went before.
async fn assert_given_back(db: &TestDatabase, org: Uuid, before: &[i64]) {
    let run = runs::newest_run(db, org).await;
    let run = runs::run(db, run).await;
    assert_eq!(run["status"], "queued", "{run:#}");
    assert_eq!(run["attempts"], 0, "{run:#}");
    ledger::assert_exact(&db.pool, before).await;
    let left = "SELECT count(*) FROM drift_checks";
    assert!(db.value::<i64>(left).await > 1, "too late to test anything");
    assert_others_are_untouched(db).await;
}

async fn assert_others_are_untouched(db: &TestDatabase) {
    let all = "SELECT count(*) = (SELECT n FROM counted) FROM other_checks";
    assert!(db.value::<bool>(all).await, "rows went by the new mapping");
}

async fn count_others(db: &TestDatabase) {
    db.execute("CREATE TABLE counted AS SELECT count(*) AS n FROM other_checks")
        .await;
}

/// A worker's process with small batches; its log.
fn worker(db: &TestDatabase, roles: &str) -> (Service, tempfile::NamedTempFile) {
    let env = [
        ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "5"),
        ("DRIFT_RETENTION_PURGE__THROTTLE", "false"),
    ];
    Service::logged(&db.url, roles, &env)
}

/// The process ends by itself, with exit code 1 and a sentence.
async fn assert_stops(service: &mut Service, log: &tempfile::NamedTempFile, limit: Duration) {
    let code = service.ends_within(limit).await;
    let log = fs::read_to_string(log.path()).unwrap();
    assert_eq!(code, Some(1), "{log}");
    let last = log.lines().last().unwrap();
    assert!(
        last.contains(RESTART) && last.contains("start it again"),
        "{log}"
    );
    assert!(last.contains("`drift-retention attach check`"), "{log}");
}

/// A process started again goes on with the run to its end, and all counts are exact.
async fn assert_finishes(db: &TestDatabase, org: Uuid, before: &[i64]) {
    accepted(&db.url, &[]).await;
    db.execute("DROP TRIGGER IF EXISTS take_long ON drift_checks")
        .await;
    let run = runs::purge_in_batches(db, org, 50).await;
    assert_eq!(product::status(&db.pool, run).await, "succeeded");
    ledger::assert_exact(&db.pool, before).await;
    assert_eq!(runs::counts(db, org).await, [1, 2, 0, 0]);
    assert_others_are_untouched(db).await;
    let one = "SELECT count(*) FROM retention.purge_runs";
    assert_eq!(
        db.value::<i64>(one).await,
        1,
        "it is the run that was given back"
    );
}

#[tokio::test]
async fn view_of_another_table_stops_the_worker_between_batches_and_the_run_goes_on_after_a_restart()
 {
    for change in [
        of_table("other_checks", "CREATE OR REPLACE"),
        format!(
            "DROP VIEW main_app.drift_checks; {}",
            of_table("other_checks", "CREATE")
        ),
    ] {
        let (db, org) = with_many_checks(400).await;
        count_others(&db).await;
        let before = ledger::rows(&db.pool).await;
        slow_deletes(&db, "drift_checks", "0.03").await;
        product::enqueue(&db.pool, org).await;
        let (mut service, log) = worker(&db, "worker");
        until_some_are_gone(&db, 400).await;
        db.execute(&change).await;
        assert_stops(&mut service, &log, Duration::from_secs(20)).await;
        assert_given_back(&db, org, &before).await;

        db.execute(&of_table("drift_checks", "CREATE OR REPLACE"))
            .await;
        assert_finishes(&db, org, &before).await;
    }
}

#[tokio::test]
async fn change_of_any_part_while_a_batch_is_open_takes_the_batch_back() {
    for change in [
        "ALTER VIEW main_app.approvals SET (security_barrier)",
        "ALTER VIEW main_app.incidents RENAME closed_at TO was; ALTER VIEW main_app.incidents RENAME detected_at TO closed_at;
         ALTER VIEW main_app.incidents RENAME was TO detected_at",
        "DROP VIEW main_app.approvals; CREATE VIEW main_app.approvals AS SELECT a.ctid, a.id, a.org_id, a.incident_id, a.action,
             a.status, a.requested_by, a.decided_by, a.notes, a.created_at, a.decided_at FROM public.approvals a",
        "CREATE OR REPLACE FUNCTION main_app.erase_payloads(incident_ids uuid[]) RETURNS bigint LANGUAGE sql AS $$ SELECT 0::bigint $$",
        "CREATE OR REPLACE FUNCTION main_app.lock_plan(org_id uuid) RETURNS text LANGUAGE sql AS $$ SELECT 'free' $$",
        "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$;
         CREATE TRIGGER pass INSTEAD OF DELETE ON main_app.approvals FOR EACH ROW EXECUTE FUNCTION pass()",
        "CREATE RULE keep AS ON DELETE TO main_app.approvals DO INSTEAD NOTHING",
        "DROP DOMAIN main_app.check_key; CREATE DOMAIN main_app.check_key AS text",
        "ALTER VIEW main_app.incident_payloads OWNER TO pg_database_owner",
    ] {
        let (db, org) = with_many_checks(400).await;
        count_others(&db).await;
        let before = ledger::rows(&db.pool).await;
        slow_deletes(&db, "drift_checks", "0.06").await;
        product::enqueue(&db.pool, org).await;
        let (mut service, log) = worker(&db, "worker");
        until_some_are_gone(&db, 400).await;
        while_a_batch_is_open(&db, change).await;
        assert_stops(&mut service, &log, Duration::from_secs(20)).await;
        assert_given_back(&db, org, &before).await;
    }
}

#[tokio::test]
async fn purge_that_works_by_itself_ends_too() {
    let (db, org) = with_many_checks(400).await;
    count_others(&db).await;
    let before = ledger::rows(&db.pool).await;
    slow_deletes(&db, "drift_checks", "0.03").await;
    let purge = product::command(&db.url)
        .args(["purge", "--org", &org.to_string(), "--work"])
        .env("DRIFT_RETENTION_PURGE__BATCH_SIZE", "5")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    until_some_are_gone(&db, 400).await;
    db.execute(&of_table("other_checks", "CREATE OR REPLACE"))
        .await;
    let output = tokio::time::timeout(Duration::from_secs(20), purge.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(RESTART), "{stderr}");
    assert_given_back(&db, org, &before).await;

    // As far as it is the same tables, a mapping may look different after a restart.
    let other = of_table("drift_checks", "CREATE OR REPLACE")
        .replace("c.unknown_count,", "c.unknown_count + 0 AS unknown_count,");
    db.execute(&other).await;
    assert_finishes(&db, org, &before).await;
}

#[tokio::test]
async fn idle_worker_purges_and_closes_nothing_by_a_new_mapping() {
    for (table, enqueues_slot) in [
        ("other_checks", false),
        ("no_checks", false),
        ("no_checks", true),
    ] {
        let (db, org) = with_many_checks(40).await;
        db.execute("CREATE TABLE no_checks (LIKE drift_checks INCLUDING ALL)")
            .await;
        count_others(&db).await;
        let before = ledger::rows(&db.pool).await;
        let (mut service, log) = worker(&db, "worker");
        service.ready().await;
        db.execute(&of_table(table, "CREATE OR REPLACE")).await;
        if enqueues_slot {
            enqueue_slot(&db).await;
        } else {
            product::enqueue(&db.pool, org).await;
        }
        assert_stops(&mut service, &log, Duration::from_secs(20)).await;
        assert_given_back(&db, org, &before).await;
        db.execute(&of_table("drift_checks", "CREATE OR REPLACE"))
            .await;
        assert_finishes(&db, org, &before).await;
    }
}

#[tokio::test]
async fn plan_that_a_new_mapping_does_not_know_fails_no_run() {
    for change in [
        "CREATE OR REPLACE VIEW main_app.organizations AS SELECT o.id, o.name, 'tier_7'::text AS plan, o.created_at FROM organizations o",
        "CREATE OR REPLACE FUNCTION main_app.lock_plan(org_id uuid) RETURNS text LANGUAGE sql AS $$ SELECT 'tier_7' $$",
    ] {
        let (db, org) = with_many_checks(40).await;
        count_others(&db).await;
        let before = ledger::rows(&db.pool).await;
        let (mut service, log) = worker(&db, "worker");
        service.ready().await;
        db.execute(change).await;
        product::enqueue(&db.pool, org).await;
        assert_stops(&mut service, &log, Duration::from_secs(20)).await;
        assert_given_back(&db, org, &before).await;
    }
}

#[tokio::test]
async fn function_that_fails_since_it_was_changed_spends_no_attempt() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let incident = app.incident(org, env, "closed", Some("1 year")).await;
    app.payload(incident).await;
    let (mut service, log) = worker(&db, "worker");
    service.ready().await;
    db.execute(
        "CREATE OR REPLACE FUNCTION main_app.erase_payloads(incident_ids uuid[]) RETURNS bigint LANGUAGE plpgsql AS
         $$ BEGIN RAISE 'not today'; END $$",
    )
    .await;
    let run = product::enqueue(&db.pool, org).await;
    assert_stops(&mut service, &log, Duration::from_secs(20)).await;
    let run = runs::run(&db, run).await;
    assert_eq!(
        (&run["status"], &run["attempts"]),
        (&"queued".into(), &0.into()),
        "{run:#}"
    );
    assert_eq!(runs::counts(&db, org).await[2], 1);
}

#[tokio::test]
async fn runs_that_are_purged_together_are_given_back_too() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..60 {
        app.org_with_all_kinds_expired(4).await;
    }
    db.execute(OTHER).await;
    count_others(&db).await;
    let before = ledger::rows(&db.pool).await;
    slow_deletes(&db, "drift_checks", "0.01").await;
    enqueue_slot(&db).await;
    let throttle = [("DRIFT_RETENTION_PURGE__THROTTLE", "false")];
    let (mut service, log) = Service::logged(&db.url, "worker", &throttle);
    until_some_are_gone(&db, 240).await;
    db.execute(&of_table("other_checks", "CREATE OR REPLACE"))
        .await;
    assert_stops(&mut service, &log, Duration::from_secs(20)).await;

    ledger::assert_exact(&db.pool, &before).await;
    assert_others_are_untouched(&db).await;
    let odd = "SELECT count(*) FROM retention.purge_runs
               WHERE status <> 'succeeded' AND (status <> 'queued' OR attempts <> 0)";
    assert_eq!(db.value::<i64>(odd).await, 0);
    let waiting = "SELECT count(*) FROM retention.purge_runs WHERE status = 'queued'";
    assert!(
        db.value::<i64>(waiting).await > 0,
        "too late to test anything"
    );

    db.execute(&of_table("drift_checks", "CREATE OR REPLACE"))
        .await;
    let _worker = Service::start(&db.url, "worker", &throttle);
    runs::all_are_final(&db).await;
    let succeeded = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
    assert_eq!(db.value::<i64>(succeeded).await, 60);
    ledger::assert_exact(&db.pool, &before).await;
    assert_eq!(ledger::rows(&db.pool).await, [0, 60, 0, 120]);
}

#[tokio::test]
async fn rights_comments_and_statistics_stop_no_worker() {
    let (db, org) = with_many_checks(400).await;
    count_others(&db).await;
    let before = ledger::rows(&db.pool).await;
    slow_deletes(&db, "drift_checks", "0.02").await;
    let run = product::enqueue(&db.pool, org).await;
    let (mut service, _log) = worker(&db, "worker");
    for change in [
        "GRANT SELECT ON main_app.drift_checks TO PUBLIC",
        "REVOKE SELECT ON main_app.drift_checks FROM PUBLIC",
        "GRANT EXECUTE ON FUNCTION main_app.lock_plan(uuid) TO PUBLIC",
        "COMMENT ON VIEW main_app.approvals IS 'what is approved'",
        "ALTER TABLE drift_checks SET (autovacuum_vacuum_scale_factor = 0.1)",
        "ANALYZE drift_checks",
        "CREATE INDEX ON drift_checks (status)",
        "CREATE VIEW main_app.of_their_own AS SELECT 1 AS one",
        "CREATE FUNCTION main_app.of_their_own() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "VACUUM pg_class",
        "VACUUM FULL pg_rewrite",
        "ALTER TABLE organizations ADD COLUMN of_their_own int",
    ] {
        db.execute(change).await;
    }
    assert_ne!(
        product::status(&db.pool, run).await,
        "succeeded",
        "too late to test anything"
    );
    product::until_status(&db.pool, run, "succeeded").await;
    assert!(service.child.try_wait().unwrap().is_none(), "it goes on");
    ledger::assert_exact(&db.pool, &before).await;
    assert_eq!(runs::counts(&db, org).await, [1, 2, 0, 0]);
}

/// Who purges nothing looks once a minute.
#[tokio::test]
async fn process_without_a_worker_stops_within_about_a_minute() {
    let (db, _) = with_many_checks(2).await;
    let (mut service, log) = worker(&db, "api,scheduler");
    service.ready().await;
    db.execute(&of_table("other_checks", "CREATE OR REPLACE"))
        .await;
    let code = service.ends_within(Duration::from_secs(80)).await;
    let log = fs::read_to_string(log.path()).unwrap();
    assert_eq!(code, Some(1), "{log}");
    // The new one is wrong besides: its flags hang on no check.
    assert!(log.contains("`drift-retention attach check`"), "{log}");
}
