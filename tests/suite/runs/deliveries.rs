//! Deliveries that got lost, came twice or are none: the runs end all the same.

use std::time::Duration;

use apalis_core::backend::{FetchById as _, WireFormatBackend as _, codec::Codec as _};
use apalis_postgres::{Config, PostgresStorage};
use serde_json::Value;
use tokio::time::sleep;

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually, until_status},
    trouble,
};

#[tokio::test]
async fn queued_run_without_a_job_is_delivered_again() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let run = product::enqueue(&db.pool, org).await;
    db.execute("DELETE FROM apalis.jobs").await;

    let _worker = Service::start(&db.url, "worker", &[]);
    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 1);
}

#[tokio::test]
async fn run_whose_job_is_final_is_delivered_again() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let run = product::enqueue(&db.pool, org).await;
    db.execute("UPDATE apalis.jobs SET status = 'Done', done_at = now()")
        .await;

    let _worker = Service::start(&db.url, "worker", &[]);
    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 1);
}

#[tokio::test]
async fn worker_whose_own_row_was_deleted_registers_again_and_all_ends_well() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let mut runs = Vec::new();
    for _ in 0..3 {
        app.org_with_expired(501).await;
    }
    let before = ledger::rows(&db.pool).await;
    trouble::deletes_take(&db.pool, 0.3).await;
    let small_batches = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "50");
    let worker = Service::start(&db.url, "worker", &[small_batches]);
    worker.ready().await;
    let orgs = db
        .value::<Vec<uuid::Uuid>>("SELECT array_agg(id) FROM organizations")
        .await;
    for org in orgs {
        runs.push(product::enqueue(&db.pool, org).await);
    }
    eventually("a batch is committed", async || {
        ledger::recorded(&db.pool).await[1] > 0
    })
    .await;

    // A foreign key ties the jobs in hand to it: whoever deletes it has to let go of them.
    db.execute(
        "UPDATE apalis.jobs SET lock_by = NULL, lock_at = NULL WHERE lock_by IS NOT NULL;
         DELETE FROM apalis.workers",
    )
    .await;
    trouble::deletes_take(&db.pool, 0.0).await;
    eventually("it is registered again", async || {
        db.value::<i64>("SELECT count(*) FROM apalis.workers WHERE last_seen > 'epoch'")
            .await
            == 1
    })
    .await;
    // Jobs that nobody holds are the reconciler's, which looks every minute, and at a start.
    let _another = Service::start(&db.url, "worker", &[]);
    for run in runs {
        until_status(&db.pool, run, "succeeded").await;
    }
    ledger::assert_exact(&db.pool, &before).await;
    assert_eq!(ledger::rows(&db.pool).await, [0, 3, 0, 6]);
}

#[tokio::test]
async fn run_of_a_dead_worker_whose_clock_was_ahead_is_taken_over() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let run = product::enqueue(&db.pool, org).await;
    // It registers by its own clock, as apalis does, claims, and dies before its first heartbeat.
    db.execute(
        "INSERT INTO apalis.workers (id, worker_type, storage_name, last_seen)
         VALUES ('dead', 'drift-retention.purge', 'PgStorage', now() + interval '10 years');
         UPDATE apalis.jobs SET status = 'Running', lock_by = 'dead', lock_at = now();
         UPDATE retention.purge_runs
         SET status = 'running', worker = 'dead', token = 1, attempts = 1, started_at = now()",
    )
    .await;

    let _worker = Service::start(&db.url, "worker", &[]);
    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 2);
}

#[tokio::test]
async fn runs_are_found_while_nobody_can_listen() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let worker = Service::start(&db.url, "worker", &[]);
    worker.ready().await;
    let deaf = async {
        let listening = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                         WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        loop {
            db.value::<i64>(listening).await;
            sleep(Duration::from_millis(10)).await;
        }
    };
    let asked = async {
        for _ in 0..3 {
            let org = app.org_with_expired(11).await;
            let run = product::enqueue(&db.pool, org).await;
            until_status(&db.pool, run, "succeeded").await;
        }
    };
    tokio::select! {
        () = asked => {}
        () = deaf => unreachable!("it goes on until all are found"),
    }
}

#[tokio::test]
async fn second_delivery_of_a_run_does_nothing() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(11).await;
    let run = product::enqueue(&db.pool, org).await;
    // What apalis does when it hands out a job twice: the same payload under another id.
    let deliver = "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
                   SELECT apalis.generate_ulid(), job_type, job, 'Pending', 0, 1, now(), 0 FROM apalis.jobs LIMIT 1";
    db.execute(deliver).await;
    let worker = Service::start(&db.url, "worker", &[]);
    until_status(&db.pool, run, "succeeded").await;
    db.execute(deliver).await;

    eventually("all three deliveries are worked off", async || {
        db.value::<i64>("SELECT count(*) FROM apalis.jobs WHERE status = 'Done'")
            .await
            == 3
    })
    .await;
    assert_eq!(product::status(&db.pool, run).await, "succeeded");
    assert_eq!(ledger::attempts(&db.pool, run).await, 1);
    assert_eq!(worker.outcomes("succeeded").await, 1.0);
}

#[tokio::test]
async fn job_that_is_no_delivery_is_dropped_and_stops_nobody() {
    let db = TestDatabase::new().await;
    db.execute(
        r#"INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
           SELECT apalis.generate_ulid(), 'drift-retention.purge', convert_to(junk, 'UTF8'), 'Pending', 0, 1, now(), 99
           FROM unnest(ARRAY['{"foo":1}', '{"run_id":"nobody"}', '[]', 'null',
                             '{"run_id":"6a2f41a3-c54c-4b8a-9f7e-1b0f8c7d5e11"}']) AS junk"#,
    )
    .await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let worker = Service::start(&db.url, "worker", &[]);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;

    eventually("no job is left over", async || {
        db.value::<i64>("SELECT count(*) FROM apalis.jobs WHERE status NOT IN ('Done', 'Killed')")
            .await
            == 0
    })
    .await;
    let killed = "SELECT count(*) FROM apalis.jobs WHERE status = 'Killed'";
    assert_eq!(db.value::<i64>(killed).await, 4);
    let workers = "SELECT count(DISTINCT id) FROM apalis.workers WHERE last_seen > 'epoch'";
    assert_eq!(
        db.value::<i64>(workers).await,
        1,
        "none had to be restarted"
    );
    worker.ready().await;
}

#[tokio::test]
async fn apalis_reads_what_the_main_apps_sql_has_written() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let run = product::enqueue(&db.pool, org).await;
    let id = db.value::<String>("SELECT id FROM apalis.jobs").await;

    let mut storage = PostgresStorage::<Value>::new(&db.pool)
        .with_config(Config::default().queue("drift-retention.purge"));
    let task = storage
        .fetch_by_id(&id.parse().unwrap())
        .await
        .unwrap()
        .expect("apalis finds the job");
    let payload: Value = storage.codec().decode(&task.args).unwrap();
    assert_eq!(payload, serde_json::json!({"run_id": run}));
    let shape =
        "SELECT status || ' ' || priority || ' ' || (metadata IS NULL) || ' ' || (run_at <= now())
                 FROM apalis.jobs";
    assert_eq!(db.value::<String>(shape).await, "Pending 10 true true");
}
