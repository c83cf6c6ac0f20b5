//! Runs with nothing to purge are finished many at once, and their records cannot be told from those of others.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, eventually},
    runs::{self, all_are_final, enqueue_slot, record},
    trouble,
};

/// An organization with rows of every kind, none of which goes: young ones, and old ones that a rule protects.
async fn idle_organization(app: &App, plan: &str) -> Uuid {
    let org = app.org(plan).await;
    let (awake, dormant) = (app.env(org).await, app.env(org).await);
    app.many_checks(org, awake, 3, "1 hour", 2).await;
    app.check(org, dormant, "400 days", &["wf_1"]).await;
    let open = app.incident(org, awake, "detected", None).await;
    app.payload(open).await;
    app.approval(org, open, "approved", "3000 days").await;
    let closed = app.incident(org, awake, "closed", Some("1 day")).await;
    app.payload(closed).await;
    // More than a look at the oldest few would see.
    for _ in 0..30 {
        app.approval(org, closed, "pending", "3000 days").await;
    }
    org
}

/// How long a run waited depends on what else the database does.
fn without_waits(mut record: Value) -> Value {
    for step in record["steps"].as_array_mut().unwrap() {
        let step = step.as_object_mut().unwrap();
        step.remove("throttle_reason");
        step.remove("throttled_ms");
    }
    record
}

#[tokio::test]
async fn record_is_the_same_however_many_runs_are_finished_together() {
    for plan in ["free", "Pro ", "agency+", "enterprise"] {
        let db = TestDatabase::new().await;
        let app = App::on(&db.pool);
        let alone = idle_organization(&app, plan).await;
        let run = product::purge(&db.url, alone).await;
        let expected = without_waits(record(&db, run).await);

        for _ in 0..20 {
            idle_organization(&app, plan).await;
        }
        let before = ledger::rows(&db.pool).await;
        enqueue_slot(&db).await;
        let _worker = Service::start(&db.url, "worker", &[]);
        all_are_final(&db).await;

        let scheduled: Vec<Uuid> = db
            .value("SELECT array_agg(id) FROM retention.purge_runs WHERE trigger = 'schedule'")
            .await;
        assert_eq!(scheduled.len(), 21);
        for run in scheduled {
            let record = without_waits(record(&db, run).await);
            assert_eq!(record, expected, "{plan}");
        }
        assert_eq!(ledger::rows(&db.pool).await, before);
    }
}

#[tokio::test]
async fn only_what_is_idle_is_closed_unpurged() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let mut due = Vec::new();
    for n in 0..60 {
        match n % 6 {
            0 => due.push(app.org_with_expired(3).await),
            1 => {
                // Nothing but a payload, or an approval younger than many that stay, or an incident to stamp.
                let org = app.org("pro").await;
                let env = app.env(org).await;
                let closed = if n / 6 % 3 == 1 { "1 day" } else { "181 days" };
                let incident = app.incident(org, env, "closed", Some(closed)).await;
                match n / 6 % 3 {
                    0 => app.payload(incident).await,
                    1 => {
                        for _ in 0..30 {
                            app.approval(org, incident, "pending", "200 days").await;
                        }
                        app.approval(org, incident, "rejected", "181 days").await;
                    }
                    _ => {}
                }
                due.push(org);
            }
            2 => drop(app.org("legacy").await),
            _ => drop(idle_organization(&app, "pro").await),
        }
    }
    let before = ledger::rows(&db.pool).await;
    enqueue_slot(&db).await;
    let _workers = [
        Service::start(&db.url, "worker", &[]),
        Service::start(&db.url, "worker", &[]),
    ];
    all_are_final(&db).await;

    ledger::assert_exact(&db.pool, &before).await;
    let by_status = "SELECT array_agg(n ORDER BY status, error_kind) FROM (
                         SELECT status, error_kind, count(*) AS n FROM retention.purge_runs GROUP BY 1, 2) s";
    assert_eq!(
        db.value::<Vec<i64>>(by_status).await,
        [10, 50],
        "unresolved, succeeded"
    );
    let left = "SELECT count(*) FROM incidents WHERE closed_at < now() - interval '180 days' AND payload_purged_at IS NULL";
    assert_eq!(db.value::<i64>(left).await, 0);
    let rejected = "SELECT count(*) FROM approvals WHERE status = 'rejected'";
    assert_eq!(db.value::<i64>(rejected).await, 0);
    for org in due {
        assert_eq!(runs::counts(&db, org).await[2], 0);
    }
}

/// What the look has verified is recorded at once: later it might not be true any more.
#[tokio::test]
async fn idle_runs_end_before_their_neighbours_are_swept() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let slow = app.org_with_expired(30).await;
    for _ in 0..5 {
        idle_organization(&app, "pro").await;
    }
    trouble::deletes_take(&db.pool, 3.0).await;
    enqueue_slot(&db).await;
    let one = ("DRIFT_RETENTION_WORKER__CONCURRENCY", "1");
    let _worker = Service::start(&db.url, "worker", &[one]);
    let idle = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
    eventually("the idle ones have ended", async || {
        db.value::<i64>(idle).await == 5
    })
    .await;
    let run = runs::newest_run(&db, slow).await;
    assert_ne!(product::status(&db.pool, run).await, "succeeded");
    trouble::deletes_take(&db.pool, 0.0).await;
    all_are_final(&db).await;
}

#[tokio::test]
async fn each_closed_run_is_counted() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..40 {
        idle_organization(&app, "pro").await;
    }
    enqueue_slot(&db).await;
    let worker = Service::start(&db.url, "worker", &[]);
    all_are_final(&db).await;
    eventually("all are counted", async || {
        worker.outcomes("succeeded").await == 40.0
    })
    .await;
    let durations = "drift_retention_purge_run_duration_seconds_count";
    assert_eq!(worker.metric(durations).await, Some(40.0));
}

#[tokio::test]
async fn what_an_attempt_has_begun_is_not_closed_unpurged() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = idle_organization(&app, "pro").await;
    enqueue_slot(&db).await;
    // As if given back: its terms are frozen, under a longer window than the organization has now.
    db.execute(
        "UPDATE retention.purge_runs SET started_at = now() - interval '1 hour', plan = 'enterprise',
             policy = '{\"drift_checks\": 180, \"incident_payloads\": 2555, \"approvals\": 2555}'",
    )
    .await;
    for _ in 0..20 {
        idle_organization(&app, "pro").await;
    }
    enqueue_slot(&db).await;
    let _worker = Service::start(&db.url, "worker", &[]);
    all_are_final(&db).await;
    let run = runs::newest_run(&db, org).await;
    assert_eq!(runs::run(&db, run).await["policy"]["drift_checks"], 180);
}
