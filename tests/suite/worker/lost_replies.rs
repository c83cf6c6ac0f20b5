//! A statement that was committed and whose reply was lost: nobody knows whether it was done. No run is stranded by it, none is
//! counted twice, and none is taken for another worker's.

use crate::support::{
    TestDatabase,
    app::App,
    cut::CutProxy,
    ledger,
    product::{self, Service, eventually, until_status},
    runs, trouble,
};

const LEASE_LOSSES: &str = "drift_retention_lease_losses_total ";

/// A worker behind a proxy, an organization with something to purge, and all rows there are.
struct Scene {
    db: TestDatabase,
    org: uuid::Uuid,
    before: Vec<i64>,
    proxy: CutProxy,
    worker: Service,
}

impl Scene {
    async fn new() -> Self {
        let db = TestDatabase::new().await;
        let org = App::on(&db.pool).org_with_expired(30).await;
        let before = ledger::rows(&db.pool).await;
        let proxy = CutProxy::to(&db.url).await;
        // Longer than the pause before an ending is recorded again.
        let slow_retries = [
            ("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "4s"),
            ("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "4s"),
        ];
        let worker = Service::start(&proxy.url, "worker", &slow_retries);
        worker.ready().await;
        Self {
            db,
            org,
            before,
            proxy,
            worker,
        }
    }

    /// Asks for a purge; the reply to `request` is lost, the run succeeds all the same, and is counted once.
    async fn loses(&self, request: &str, reply: &str, attempts: i32) {
        self.proxy.cut(request, reply);
        let run = product::enqueue(&self.db.pool, self.org).await;
        until_status(&self.db.pool, run, "succeeded").await;
        assert!(self.proxy.has_cut(), "{request}: nothing was lost");
        assert_eq!(ledger::attempts(&self.db.pool, run).await, attempts);
        ledger::assert_exact(&self.db.pool, &self.before).await;
        eventually("it is counted", async || {
            self.worker.outcomes("succeeded").await == 1.0
        })
        .await;
        assert_eq!(self.worker.metric(LEASE_LOSSES).await, Some(0.0));
    }
}

#[tokio::test]
async fn claim_whose_reply_is_lost_is_one_attempt() {
    let scene = Scene::new().await;
    scene.loses("-- runs.claim\n", "COMMIT", 1).await;
}

#[tokio::test]
async fn success_whose_reply_is_lost_is_counted_once() {
    let scene = Scene::new().await;
    scene.loses("-- runs.finish\n", "COMMIT", 1).await;
}

/// The connection is lost before the success is committed. What was verified may be undone by then, so it is verified again.
#[tokio::test]
async fn success_that_could_not_be_recorded_is_verified_again() {
    let scene = Scene::new().await;
    scene
        .db
        .execute(
            "CREATE SEQUENCE refusals;
             CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF nextval('public.refusals') = 1 THEN
                     PERFORM pg_terminate_backend(pg_backend_pid());
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER lose BEFORE UPDATE ON retention.purge_runs FOR EACH ROW
                 WHEN (NEW.status = 'succeeded') EXECUTE FUNCTION lose()",
        )
        .await;
    let run = product::enqueue(&scene.db.pool, scene.org).await;
    until_status(&scene.db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&scene.db.pool, run).await, 1);
    let token = ledger::run_column(&scene.db.pool, run, "token").await;
    assert_eq!(token, "2", "it was claimed and verified once more");
    ledger::assert_exact(&scene.db.pool, &scene.before).await;
    eventually("it is counted once", async || {
        scene.worker.outcomes("succeeded").await == 1.0
    })
    .await;
}

#[tokio::test]
async fn failure_whose_reply_is_lost_is_counted_once() {
    let scene = Scene::new().await;
    trouble::deletes_fail(&scene.db.pool, scene.org, 1).await;
    scene.loses("-- runs.finish\n", "COMMIT", 2).await;
    assert_eq!(scene.worker.outcomes("retried").await, 1.0);
}

/// The worker takes the deliveries of one slot itself, one after the other: the reply to one of these fetches is lost.
#[tokio::test]
async fn fetch_whose_reply_is_lost_strands_no_run() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..20 {
        app.org_with_expired(30).await;
    }
    let before = ledger::rows(&db.pool).await;
    let proxy = CutProxy::to(&db.url).await;
    let one_by_one = [
        ("DRIFT_RETENTION_WORKER__CONCURRENCY", "1"),
        ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "5"),
    ];
    let mut worker = Service::start(&proxy.url, "worker", &one_by_one);
    worker.ready().await;
    proxy.cut("-- jobs.ack_and_fetch\n", "run_id");
    db.execute("SELECT count(*) FROM organizations o, retention.enqueue_purge(o.id, 'test')")
        .await;
    runs::all_are_final(&db).await;
    assert!(proxy.has_cut(), "nothing was lost");
    let failed =
        "SELECT count(*) FROM retention.purge_runs WHERE status <> 'succeeded' OR attempts <> 1";
    assert_eq!(db.value::<i64>(failed).await, 0);
    ledger::assert_exact(&db.pool, &before).await;
    let ended = worker.child.try_wait().unwrap();
    assert!(ended.is_none(), "no run had to wait for its end");
}

/// What a lost fetch leaves: a delivery under a live worker that knows nothing of it. The reconciler spares it.
#[tokio::test]
async fn delivery_that_its_live_worker_knows_nothing_of_is_rescued_within_the_lease() {
    let scene = Scene::new().await;
    let org = scene.org;
    scene
        .db
        .execute(&format!(
            "DO $$ BEGIN
                 PERFORM retention.enqueue_purge('{org}', 'test');
                 UPDATE apalis.jobs SET status = 'Running', lock_at = now(),
                        lock_by = (SELECT id FROM apalis.workers ORDER BY last_seen DESC LIMIT 1);
             END $$"
        ))
        .await;
    let run = runs::newest_run(&scene.db, org).await;
    until_status(&scene.db.pool, run, "succeeded").await;
    assert_eq!(ledger::attempts(&scene.db.pool, run).await, 1);
    let waited = ledger::run_column(
        &scene.db.pool,
        run,
        "(started_at - created_at BETWEEN interval '2 seconds' AND interval '20 seconds')",
    );
    assert_eq!(waited.await, "true", "the lease is 2 s here");
    ledger::assert_exact(&scene.db.pool, &scene.before).await;
}

#[tokio::test]
async fn runs_that_are_closed_together_and_whose_reply_is_lost_are_counted_once() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..3 {
        app.org_with_expired(30).await;
    }
    let before = ledger::rows(&db.pool).await;
    let proxy = CutProxy::to(&db.url).await;
    let quick = ("DRIFT_RETENTION_PURGE__THROTTLE", "false");
    let worker = Service::start(&proxy.url, "worker", &[quick]);
    worker.ready().await;
    proxy.cut("-- runs.finish\n", "COMMIT");
    runs::enqueue_slot(&db).await;
    runs::all_are_final(&db).await;
    assert!(proxy.has_cut(), "nothing was lost");
    eventually("all are counted", async || {
        worker.outcomes("succeeded").await == 3.0
    })
    .await;
    let series = r#"drift_retention_purged_rows_total{plan="pro",table="drift_checks"} "#;
    assert_eq!(worker.metric(series.trim()).await, Some(87.0));
    ledger::assert_exact(&db.pool, &before).await;
}
