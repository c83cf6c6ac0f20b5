//! The main app at work on the same rows: the purge gives way, and nobody is picked as the victim of a deadlock.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    held::Held,
    ledger,
    product::{self, Service, until_status},
    runs,
};

/// An organization with much that has expired in every table.
async fn organization(db: &TestDatabase) -> Uuid {
    let app = App::on(&db.pool);
    let org = app.org_with_expired(1_500).await;
    let env = app.env(org).await;
    for _ in 0..60 {
        let incident = app.incident(org, env, "closed", Some("200 days")).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", "200 days").await;
    }
    org
}

/// Transactions that take the rows of a purge one by one, the last ones first. Each of two writers has every other row:
/// whatever one waits for is the purge's.
const AGAINST_THE_GRAIN: [(&str, &str); 3] = [
    (
        "WITH few AS (SELECT id FROM drift_checks WHERE org_id = $1 AND hashint8(id) & 1 = $2 ORDER BY random() LIMIT 20)
         SELECT id::text FROM few ORDER BY id DESC",
        "UPDATE drift_checks SET status = status WHERE id = $1::text::bigint",
    ),
    (
        "WITH few AS (SELECT id FROM incidents WHERE org_id = $1 AND uuid_hash(id) & 1 = $2 ORDER BY random() LIMIT 10)
         SELECT id::text FROM few ORDER BY id DESC",
        "UPDATE incidents SET updated_at = now() WHERE id = $1::text::uuid",
    ),
    (
        "WITH few AS (SELECT id FROM approvals WHERE org_id = $1 AND uuid_hash(id) & 1 = $2 ORDER BY random() LIMIT 10)
         SELECT id::text FROM few ORDER BY id DESC",
        "UPDATE approvals SET requested_by = 'sam' WHERE id = $1::text::uuid",
    ),
];
/// The main app never waits longer than this for a row.
const LIMIT: &str = "200ms";

/// What the main app's writers went through.
#[derive(Debug, Default)]
struct Writing {
    transactions: u64,
    /// The longest that an update took, the wait for its row included.
    longest: Duration,
    /// Updates that waited for longer than [`LIMIT`].
    waited_too_long: u64,
}

/// Where writers write, until told to end.
struct Site {
    pool: PgPool,
    org: Mutex<Uuid>,
    over: AtomicBool,
}

impl Site {
    /// Updates rows of one table in such transactions.
    async fn write(&self, writer: usize) -> Writing {
        let mut writing = Writing::default();
        while !self.over.load(Ordering::Relaxed) {
            match self.transaction(writer, &mut writing).await {
                Ok(()) => writing.transactions += 1,
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => {
                    writing.waited_too_long += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        writing
    }

    #[allow(clippy::disallowed_methods, reason = "the main app has its own SQL")]
    async fn transaction(&self, writer: usize, writing: &mut Writing) -> sqlx::Result<()> {
        let (find, touch) = AGAINST_THE_GRAIN[writer % 3];
        let org = *self.org.lock().unwrap();
        let mut tx = self.pool.begin().await?;
        sqlx::raw_sql(AssertSqlSafe(format!("SET LOCAL lock_timeout = '{LIMIT}'")))
            .execute(&mut *tx)
            .await?;
        let rows: Vec<String> = sqlx::query_scalar(find)
            .bind(org)
            .bind(i32::from(writer >= 3))
            .fetch_all(&mut *tx)
            .await?;
        for row in rows {
            let began = Instant::now();
            let done = sqlx::query(touch).bind(row).execute(&mut *tx).await;
            writing.longest = writing.longest.max(began.elapsed());
            done?;
        }
        tx.commit().await
    }
}

/// How long the updates and purges go on: `CONTENTION_FOR=1h`; one purge unless that is set.
#[allow(clippy::disallowed_methods, reason = "no setting of the product")]
fn contention_for() -> Duration {
    let asked = std::env::var("CONTENTION_FOR").unwrap_or_else(|_| "0s".into());
    humantime::parse_duration(&asked).unwrap()
}

#[tokio::test]
async fn updates_in_the_opposite_order_meet_no_deadlock_and_all_goes() {
    let db = TestDatabase::new().await;
    let settings = [
        ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "20"),
        // The last rows are wanted by all writers at once: how often it takes is not the point.
        ("DRIFT_RETENTION_WORKER__MAX_ATTEMPTS", "1000"),
    ];
    let _worker = Service::start(&db.url, "worker", &settings);
    let site = Site {
        pool: db.pool.clone(),
        org: Mutex::new(organization(&db).await),
        over: AtomicBool::new(false),
    };
    let began = Instant::now();
    let purges = async {
        for purges in 1_u64.. {
            let org = *site.org.lock().unwrap();
            let before = runs::counts(&db, org).await;
            let run = product::enqueue(&db.pool, org).await;
            until_status(&db.pool, run, "succeeded").await;
            let left = runs::counts(&db, org).await;
            assert_eq!(left, [1, 2, 0, 0]);
            let gone: Vec<i64> = before.iter().zip(left).map(|(b, l)| b - l).collect();
            assert_eq!(runs::purged(&db, run).await[..], gone);
            if began.elapsed() >= contention_for() {
                site.over.store(true, Ordering::Relaxed);
                return purges;
            }
            let next = organization(&db).await;
            *site.org.lock().unwrap() = next;
        }
        unreachable!("it ends by returning")
    };
    let (writings, purges) = tokio::join!(join_all((0..6).map(|n| site.write(n))), purges);

    // Written by each session when it ends or pauses; the worker is idle by now, the app's sessions are closed.
    db.execute("SELECT pg_stat_force_next_flush()").await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks: i64 = db.value(deadlocks).await;
    let transactions: u64 = writings.iter().map(|writing| writing.transactions).sum();
    let longest = writings
        .iter()
        .map(|writing| writing.longest)
        .max()
        .unwrap_or_default();
    let waited_too_long: u64 = writings.iter().map(|writing| writing.waited_too_long).sum();
    println!(
        "{:.0?}: {purges} purges, {transactions} transactions of the app, {deadlocks} deadlocks; an update of the app took \
         {longest:.1?} at most, {waited_too_long} waited longer than {LIMIT}",
        began.elapsed()
    );
    assert!(writings.iter().all(|writing| writing.transactions > 0));
    assert_eq!((deadlocks, waited_too_long), (0, 0));
}

#[tokio::test]
async fn long_transaction_of_the_app_holds_nothing_up_and_sees_what_it_saw() {
    let db = TestDatabase::new().await;
    let org = organization(&db).await;
    let mut report = Held::by(
        &db,
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
         CREATE TEMP TABLE seen AS SELECT count(*) AS checks FROM drift_checks",
    )
    .await;
    product::purge(&db.url, org).await;
    report
        .also("DO $$ BEGIN ASSERT (SELECT count(*) FROM drift_checks) = (SELECT checks FROM seen); END $$")
        .await;
    report.commit().await;
    assert_eq!(runs::counts(&db, org).await, [1, 2, 0, 0]);
}

/// Purges, and compares what went since `before` with what was recorded.
async fn purge_in_one_attempt(db: &TestDatabase, org: Uuid, before: &[i64]) {
    let _worker = Service::start(&db.url, "worker", &[]);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 1);
    ledger::assert_exact(&db.pool, before).await;
}

#[tokio::test]
async fn batch_that_takes_too_long_gets_smaller_and_spends_no_attempt() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(300).await;
    let before = ledger::rows(&db.pool).await;
    // Ten milliseconds for each row: five hundred at once would hold their locks for seconds.
    db.execute(
        "CREATE FUNCTION take_time_for_each() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END';
         CREATE TRIGGER take_time_for_each AFTER DELETE ON drift_checks
             FOR EACH ROW EXECUTE FUNCTION take_time_for_each()",
    )
    .await;
    purge_in_one_attempt(&db, org, &before).await;
    let batches: i32 = db
        .value("SELECT batches FROM retention.purge_run_steps WHERE table_name = 'drift_checks'")
        .await;
    assert!(
        batches > 300 / 11,
        "no batch took longer than its statement may: {batches}"
    );
}

#[tokio::test]
async fn batch_of_several_tables_gets_smaller_when_they_take_too_long_together() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(4).await;
    let env = app.env(org).await;
    for _ in 0..3 {
        let incident = app.incident(org, env, "closed", Some("200 days")).await;
        app.payload(incident).await;
    }
    let before = ledger::rows(&db.pool).await;
    // 45 ms for the checks (the newest stays) and 90 ms for the payloads: each in its time, both together not.
    db.execute(
        "CREATE TABLE went (table_name text, xid xid8);
         GRANT INSERT ON went TO PUBLIC;
         CREATE FUNCTION take_time_for_each() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN
                  PERFORM pg_sleep(TG_ARGV[0]::float8);
                  INSERT INTO went VALUES (TG_TABLE_NAME, pg_current_xact_id());
                  RETURN NULL;
              END';
         CREATE TRIGGER take_time_for_each AFTER DELETE ON drift_checks
             FOR EACH ROW EXECUTE FUNCTION take_time_for_each('0.015');
         CREATE TRIGGER take_time_for_each AFTER DELETE ON incident_payloads
             FOR EACH ROW EXECUTE FUNCTION take_time_for_each('0.03')",
    )
    .await;
    purge_in_one_attempt(&db, org, &before).await;
    let together: i64 = db
        .value(
            "SELECT count(*) FROM (SELECT FROM went GROUP BY xid HAVING count(DISTINCT table_name) > 1) t",
        )
        .await;
    assert_eq!(together, 0, "checks waited until the payloads were gone");
}
