//! A process that dies at a boundary, at each of them: the result is the same as if it had not.

mod of_many_runs;

use std::{collections::BTreeSet, time::Duration};

use drift_retention::faults::Point;
use futures::future::join_all;
use nix::sys::signal::Signal;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually, until_status},
    runs, trouble,
};

/// As long as a process has to reach its point; generous, nothing is timed by it.
const DEATH: Duration = Duration::from_mins(1);
const SMALL_BATCHES: (&str, &str) = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "7");

/// A table of each kind of retained data, whose rows go in several batches.
const DATASETS: [&str; 3] = ["drift_checks", "incident_payloads", "approvals"];

/// An organization with something to purge in every table, and something to keep.
async fn organization(db: &TestDatabase) -> Uuid {
    let app = App::on(&db.pool);
    let org = app.org_with_expired(20).await;
    let env = app.env(org).await;
    // Several batches of each kind, and rows that stay.
    for age in ["181 days", "200 days", "179 days"].repeat(10) {
        let incident = app.incident(org, env, "closed", Some(age)).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", age).await;
    }
    let open = app.incident(org, env, "detected", None).await;
    app.payload(open).await;
    org
}

/// What a run and its organization look like in the end, but for ids and times.
async fn result(db: &TestDatabase, org: Uuid, run: Uuid) -> Value {
    let sql = format!(
        "SELECT jsonb_build_object('status', r.status, 'policy', r.policy, 'error', r.error_kind, 'verified',
                r.verified_at IS NOT NULL, 'steps', (SELECT jsonb_agg(jsonb_build_array(table_name, rows_purged, rows_kept)
                ORDER BY table_name) FROM retention.purge_run_steps WHERE run_id = r.id))
         FROM retention.purge_runs r WHERE id = '{run}'"
    );
    let record: Value = db.value(&sql).await;
    serde_json::json!({ "record": record, "left": runs::counts(db, org).await })
}

/// A worker that dies when it comes by.
fn doomed(db: &TestDatabase, roles: &str, fault: &str, more: &[(&str, &str)]) -> Service {
    let env: Vec<_> = [SMALL_BATCHES, ("FAULT_POINT", fault)]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    Service::start(&db.url, roles, &env)
}

async fn dies(mut service: Service) {
    let code = service.ends_within(DEATH).await;
    assert_eq!(code, None, "it was killed");
}

/// Two organizations that are alike; the second one's run is worked on by a process that dies at the point.
async fn the_result_is_the_same(fault: &str, attempts: i32) {
    let db = TestDatabase::new().await;
    let (undisturbed, disturbed) = (organization(&db).await, organization(&db).await);
    let before = ledger::rows(&db.pool).await;
    let first = product::purge(&db.url, undisturbed).await;

    let run = product::enqueue(&db.pool, disturbed).await;
    dies(doomed(&db, "worker", fault, &[])).await;
    let _heir = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    until_status(&db.pool, run, "succeeded").await;
    all_acknowledged(&db).await;

    assert_eq!(
        result(&db, disturbed, run).await,
        result(&db, undisturbed, first).await
    );
    assert_eq!(ledger::attempts(&db.pool, run).await, attempts);
    ledger::assert_exact(&db.pool, &before).await;
}

/// No delivery is left that anybody would take up again.
async fn all_acknowledged(db: &TestDatabase) {
    eventually("every delivery is done with", async || {
        let open = "SELECT count(*) FROM apalis.jobs WHERE status NOT IN ('Done', 'Killed')";
        db.value::<i64>(open).await == 0
    })
    .await;
}

macro_rules! worker_dies {
    ($($name:ident: $fault:expr, $attempts:literal attempts;)*) => {$(
        #[tokio::test]
        async fn $name() {
            the_result_is_the_same(&$fault, $attempts).await;
        }
    )*};
}

worker_dies! {
    worker_dies_after_the_claim: format!("{:?}", Point::AfterClaim), 2 attempts;
    worker_dies_before_its_first_commit: format!("{:?}", Point::BeforeCommit), 2 attempts;
    worker_dies_after_its_first_commit: format!("{:?}", Point::AfterCommit), 2 attempts;
    worker_dies_before_a_later_commit: format!("{:?}:3", Point::BeforeCommit), 2 attempts;
    worker_dies_after_a_later_commit: format!("{:?}:3", Point::AfterCommit), 2 attempts;
    worker_dies_before_it_verifies: format!("{:?}", Point::BeforeVerify), 2 attempts;
    worker_dies_verified: format!("{:?}", Point::AfterVerify), 2 attempts;
    worker_dies_before_the_end_is_committed: format!("{:?}", Point::BeforeFinish), 2 attempts;
    worker_dies_before_it_acknowledges: format!("{:?}", Point::AfterFinish), 1 attempts;
}

/// From now on a sequence per table counts the statements that deleted from it, those of transactions that were rolled
/// back too.
async fn count_deletes(db: &TestDatabase) {
    for table in DATASETS {
        db.execute(&format!(
            "CREATE SEQUENCE {table}_deletes START 0 MINVALUE 0;
             CREATE FUNCTION count_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF EXISTS (SELECT FROM gone) THEN PERFORM nextval('public.{table}_deletes'); END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER count_{table} AFTER DELETE ON {table}
                 REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION count_{table}()"
        ))
        .await;
    }
}

/// Whether a batch of this table was lost with the process that had deleted it.
async fn is_lost(db: &TestDatabase, run: Uuid, table: &str) -> bool {
    let deletes = format!(
        "SELECT last_value + is_called::int - coalesce((SELECT batches FROM retention.purge_run_steps
                WHERE run_id = '{run}' AND table_name = '{table}'), 0) > 0 FROM {table}_deletes"
    );
    db.value(&deletes).await
}

/// Whether a process has died between two batches of this table.
async fn is_begun(db: &TestDatabase, run: Uuid, table: &str) -> bool {
    let purged = format!(
        "SELECT coalesce(sum(rows_purged), 0)::bigint FROM retention.purge_run_steps
         WHERE run_id = '{run}' AND table_name = '{table}'"
    );
    (1..20).contains(&db.value::<i64>(&purged).await)
}

/// A run whose process died there, in a database of its own; `None`: it came by less often, and is done.
async fn dead_at(point: Point, commit: u32) -> Option<(TestDatabase, Uuid, Vec<i64>)> {
    let db = TestDatabase::new().await;
    let org = organization(&db).await;
    let rows = ledger::rows(&db.pool).await;
    count_deletes(&db).await;
    let died = product::command(&db.url)
        .args(["purge", "--work", "--org", &org.to_string()])
        .envs([
            SMALL_BATCHES,
            ("DRIFT_RETENTION_WORKER__HEARTBEAT", "500ms"),
        ])
        .env("FAULT_POINT", format!("{point:?}:{commit}"))
        .output()
        .await
        .unwrap();
    if died.status.success() {
        return None;
    }
    assert_eq!(died.status.code(), None, "it was killed");
    ledger::assert_exact(&db.pool, &rows).await;
    let stamped = "SELECT count(*) FROM incidents WHERE payload_purged_at IS NOT NULL";
    let payloads = ledger::rows(&db.pool).await[2];
    assert_eq!(
        db.value::<i64>(stamped).await,
        rows[2] - payloads,
        "those without a payload"
    );
    let run = runs::newest_run(&db, org).await;
    Some((db, run, rows))
}

async fn heir_finishes(db: &TestDatabase, run: Uuid, rows: &[i64]) -> Value {
    let _heir = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    until_status(&db.pool, run, "succeeded").await;
    all_acknowledged(db).await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 2);
    ledger::assert_exact(&db.pool, rows).await;
    let org: Uuid = db.value("SELECT id FROM organizations").await;
    result(db, org, run).await
}

/// One process after the other dies at the next commit, until one comes to the end: so each table's batches are hit,
/// whichever transaction they are in.
async fn every_commit_is_died_at(
    point: Point,
    hits: impl AsyncFn(&TestDatabase, Uuid, &str) -> bool,
) {
    let db = TestDatabase::new().await;
    let org = organization(&db).await;
    let undisturbed = product::purge(&db.url, org).await;
    let expected = result(&db, org, undisturbed).await;

    let (mut dead, mut hit) = (Vec::new(), BTreeSet::new());
    while let Some(next) = dead_at(point, u32::try_from(dead.len()).unwrap() + 1).await {
        for table in DATASETS {
            if hits(&next.0, next.1, table).await {
                hit.insert(table);
            }
        }
        dead.push(next);
    }
    assert_eq!(hit, BTreeSet::from(DATASETS), "all are hit");
    let finished = join_all(
        dead.iter()
            .map(|(db, run, rows)| heir_finishes(db, *run, rows)),
    );
    for result in finished.await {
        assert_eq!(result, expected);
    }
}

#[tokio::test]
async fn process_dies_before_each_of_its_commits() {
    every_commit_is_died_at(Point::BeforeCommit, is_lost).await;
}

#[tokio::test]
async fn process_dies_after_each_of_its_commits() {
    every_commit_is_died_at(Point::AfterCommit, is_begun).await;
}

async fn failed_attempt_is_retried(point: Point) {
    let db = TestDatabase::new().await;
    let org = organization(&db).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_fail(&db.pool, org, 1).await;
    let run = product::enqueue(&db.pool, org).await;
    dies(doomed(&db, "worker", &format!("{point:?}"), &[])).await;
    let _heir = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    until_status(&db.pool, run, "succeeded").await;
    all_acknowledged(&db).await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 2);
    ledger::assert_exact(&db.pool, &before).await;
}

#[tokio::test]
async fn worker_dies_before_it_enqueues_the_retry() {
    failed_attempt_is_retried(Point::BeforeRetry).await;
}

#[tokio::test]
async fn worker_dies_after_it_enqueued_the_retry() {
    failed_attempt_is_retried(Point::AfterRetry).await;
}

async fn stopping_worker_gives_back(point: Point, attempts: i32) {
    let db = TestDatabase::new().await;
    let org = organization(&db).await;
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.3).await;
    let run = product::enqueue(&db.pool, org).await;
    let stopping = doomed(&db, "worker", &format!("{point:?}"), &[]);
    eventually("a batch is committed", async || {
        ledger::progress(&db.pool, run).await > 0
    })
    .await;
    stopping.signal(Signal::SIGTERM);
    dies(stopping).await;
    trouble::deletes_take(&db.pool, 0.0).await;
    let _heir = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    until_status(&db.pool, run, "succeeded").await;
    all_acknowledged(&db).await;
    assert_eq!(ledger::attempts(&db.pool, run).await, attempts);
    ledger::assert_exact(&db.pool, &before).await;
}

#[tokio::test]
async fn stopping_worker_dies_before_the_run_is_given_back() {
    stopping_worker_gives_back(Point::BeforeSnooze, 2).await;
}

#[tokio::test]
async fn stopping_worker_dies_after_the_run_is_given_back() {
    stopping_worker_gives_back(Point::AfterSnooze, 1).await;
}

#[tokio::test]
async fn process_that_dies_between_the_run_and_its_delivery_has_asked_for_nothing() {
    let db = TestDatabase::new().await;
    let org = organization(&db).await;
    // The run is inserted; its delivery waits for a lock that this test holds.
    db.execute(
        "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN NEW; END';
         CREATE TRIGGER wait_here BEFORE INSERT ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION wait_here()",
    )
    .await;
    let mut holder = db.pool.acquire().await.unwrap();
    lock(&mut holder, "pg_advisory_lock(77)").await;
    let mut asking = product::command(&db.url)
        .args(["purge", "--org", &org.to_string()])
        .spawn()
        .unwrap();
    eventually("it is between the two", async || {
        db.value::<i64>("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 77")
            .await
            == 1
    })
    .await;
    asking.kill().await.unwrap();
    lock(&mut holder, "pg_advisory_unlock(77)").await;
    db.execute("DROP TRIGGER wait_here ON apalis.jobs").await;
    eventually("Postgres has noticed", async || {
        let at_work = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                       AND application_name = 'drift-retention'";
        db.value::<i64>(at_work).await == 0
    })
    .await;
    for table in ["retention.purge_runs", "apalis.jobs"] {
        let left = format!("SELECT count(*) FROM {table}");
        assert_eq!(db.value::<i64>(&left).await, 0, "{table}");
    }
}

#[allow(clippy::disallowed_methods, reason = "a lock of the test's own")]
async fn lock(holder: &mut sqlx::PgConnection, call: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SELECT {call}")))
        .execute(holder)
        .await
        .unwrap();
}
