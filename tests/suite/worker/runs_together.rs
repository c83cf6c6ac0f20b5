//! Small scheduled runs are purged several in one transaction, and nothing shows it but the time that it takes.

use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    held::{Held, slow_deletes},
    ledger,
    product::{self, Service, eventually},
    runs::{self, all_are_final, enqueue_slot, record},
    trouble,
};

/// Something of every kind to lose and to keep.
async fn small_organization(app: &App, plan: &str) -> Uuid {
    let org = app.org(plan).await;
    let (awake, dormant) = (app.env(org).await, app.env(org).await);
    app.many_checks(org, awake, 3, "1 hour", 2).await;
    app.many_checks(org, awake, 4, "3000 days", 3).await;
    app.many_checks(org, dormant, 2, "2900 days", 1).await;
    for age in ["3000 days", "1 day"] {
        let incident = app.incident(org, awake, "closed", Some(age)).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", age).await;
        app.approval(org, incident, "pending", age).await;
    }
    app.incident(org, awake, "closed", Some("3000 days")).await;
    let open = app.incident(org, awake, "detected", None).await;
    app.payload(open).await;
    app.approval(org, open, "approved", "3000 days").await;
    org
}

/// A worker that nothing slows down: beside an app at work runs are purged one by one.
fn worker(db: &TestDatabase, env: &[(&str, &str)]) -> Service {
    let unthrottled = [("DRIFT_RETENTION_PURGE__THROTTLE", "false")];
    Service::start(&db.url, "worker", &[&unthrottled, env].concat())
}

/// How many transactions ended the scheduled runs.
async fn transactions(db: &TestDatabase) -> i64 {
    db.value(
        "SELECT count(DISTINCT xmin::text) FROM retention.purge_runs WHERE trigger = 'schedule'",
    )
    .await
}

#[tokio::test]
async fn purged_together_or_alone_the_record_is_the_same() {
    for plan in ["free", "Pro ", "agency+", "enterprise"] {
        let db = TestDatabase::new().await;
        let app = App::on(&db.pool);
        let alone = small_organization(&app, plan).await;
        let mut small = Vec::new();
        for _ in 0..12 {
            small.push(small_organization(&app, plan).await);
        }
        let before = ledger::rows(&db.pool).await;
        let run = product::purge(&db.url, alone).await;
        let expected = record(&db, run).await;
        let left = runs::counts(&db, alone).await;

        db.execute(&format!(
            "SELECT retention.enqueue_slot(now(), array_agg(id)) FROM organizations WHERE id <> '{alone}'"
        ))
        .await;
        let _worker = worker(&db, &[]);
        all_are_final(&db).await;

        ledger::assert_exact(&db.pool, &before).await;
        for org in small {
            let run = runs::newest_run(&db, org).await;
            assert_eq!(record(&db, run).await, expected, "{plan}");
            assert_eq!(runs::counts(&db, org).await, left, "{plan}");
        }
        assert!(transactions(&db).await < 12, "{plan}");
    }
}

#[tokio::test]
async fn large_and_unresolved_organizations_go_alone() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let large = app.org_with_expired(12_000).await;
    let unknown = app.org_with_expired(5).await;
    db.execute(&format!(
        "UPDATE organizations SET plan = 'legacy' WHERE id = '{unknown}'"
    ))
    .await;
    for _ in 0..20 {
        small_organization(&app, "pro").await;
    }
    let before = ledger::rows(&db.pool).await;
    enqueue_slot(&db).await;
    let _workers = [worker(&db, &[]), worker(&db, &[])];
    all_are_final(&db).await;

    ledger::assert_exact(&db.pool, &before).await;
    let status = async |org| {
        let run = runs::newest_run(&db, org).await;
        product::status(&db.pool, run).await
    };
    assert_eq!(status(large).await, "succeeded");
    assert_eq!(runs::counts(&db, large).await[0], 1);
    assert_eq!(status(unknown).await, "failed");
    assert_eq!(runs::counts(&db, unknown).await[0], 5, "nothing of it went");
    let succeeded =
        "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded' AND attempts = 1";
    assert_eq!(db.value::<i64>(succeeded).await, 21);
}

#[tokio::test]
async fn what_went_of_a_large_organization_is_taken_back_beside_one_with_nothing_to_purge() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    // More than a small one may have, and less than a batch: any idle run may have it beside itself.
    for _ in 0..12 {
        app.org("pro").await;
        app.org_with_expired(1_500).await;
    }
    let before = ledger::rows(&db.pool).await;
    enqueue_slot(&db).await;
    let _worker = worker(&db, &[]);
    all_are_final(&db).await;

    ledger::assert_exact(&db.pool, &before).await;
    let purged = "SELECT array_agg(DISTINCT s.rows_purged ORDER BY s.rows_purged)
                  FROM retention.purge_run_steps s WHERE s.table_name = 'drift_checks'";
    assert_eq!(db.value::<Vec<i64>>(purged).await, [0, 1_499]);
}

#[tokio::test]
async fn tables_in_which_nothing_is_due_are_not_purged() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..12 {
        app.org_with_expired(5).await;
    }
    db.execute(
        "CREATE TABLE deletes (statement int);
         CREATE FUNCTION note_delete() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO deletes VALUES (1); RETURN NULL; END $$;
         CREATE TRIGGER note_delete BEFORE DELETE ON approvals FOR EACH STATEMENT EXECUTE FUNCTION note_delete()",
    )
    .await;
    let before = ledger::rows(&db.pool).await;
    enqueue_slot(&db).await;
    let _worker = worker(&db, &[]);
    all_are_final(&db).await;
    ledger::assert_exact(&db.pool, &before).await;
    // What goes alone asks every table.
    assert!(db.value::<i64>("SELECT count(*) FROM deletes").await < 12);
}

#[tokio::test]
async fn held_row_keeps_only_its_own_run_waiting() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let held_up = app.org_with_expired(5).await;
    for _ in 0..10 {
        small_organization(&app, "pro").await;
    }
    let before = ledger::rows(&db.pool).await;
    let held = Held::by(
        &db,
        &format!("SELECT FROM drift_checks WHERE org_id = '{held_up}' ORDER BY checked_at LIMIT 1 FOR UPDATE"),
    )
    .await;
    enqueue_slot(&db).await;
    let _worker = worker(&db, &[("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "100ms")]);
    eventually("the others are purged", async || {
        let done = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
        db.value::<i64>(done).await == 10
    })
    .await;
    ledger::assert_exact(&db.pool, &before).await;
    held.rollback().await;
    all_are_final(&db).await;
    ledger::assert_exact(&db.pool, &before).await;
    assert_eq!(runs::counts(&db, held_up).await[0], 1);
}

#[tokio::test]
async fn run_that_fails_fails_alone() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let broken = app.org_with_expired(5).await;
    for _ in 0..10 {
        small_organization(&app, "pro").await;
    }
    trouble::deletes_fail(&db.pool, broken, 1_000_000).await;
    let before = ledger::rows(&db.pool).await;
    enqueue_slot(&db).await;
    let env = [
        ("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "10ms"),
        ("DRIFT_RETENTION_WORKER__MAX_ATTEMPTS", "3"),
    ];
    let _worker = worker(&db, &env);
    all_are_final(&db).await;

    ledger::assert_exact(&db.pool, &before).await;
    let run = runs::newest_run(&db, broken).await;
    assert_eq!(product::status(&db.pool, run).await, "failed");
    assert_eq!(ledger::attempts(&db.pool, run).await, 3);
    let succeeded =
        "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded' AND attempts = 1";
    assert_eq!(db.value::<i64>(succeeded).await, 10);
}

#[tokio::test]
async fn plan_that_is_being_changed_is_seen_or_not_gone_by() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(5).await;
    for _ in 0..5 {
        small_organization(&app, "pro").await;
    }
    // Enterprise keeps what Pro does not: as soon as this commits, nothing of the organization may go.
    let upgrade = Held::by(
        &db,
        &format!("UPDATE organizations SET plan = 'enterprise' WHERE id = '{org}'"),
    )
    .await;
    enqueue_slot(&db).await;
    let _worker = worker(&db, &[]);
    eventually("the others are purged", async || {
        let done = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
        db.value::<i64>(done).await == 5
    })
    .await;
    assert_eq!(runs::counts(&db, org).await[0], 5, "its plan is held");
    upgrade.commit().await;
    all_are_final(&db).await;
    assert_eq!(runs::counts(&db, org).await[0], 5);
    let run = runs::newest_run(&db, org).await;
    assert_eq!(runs::run(&db, run).await["policy"]["drift_checks"], 180);
}

#[tokio::test]
async fn each_run_and_row_is_counted() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..15 {
        small_organization(&app, "pro").await;
    }
    enqueue_slot(&db).await;
    let worker = worker(&db, &[]);
    all_are_final(&db).await;
    let recorded = ledger::recorded(&db.pool).await;
    let expected: Vec<_> = recorded
        .iter()
        .map(|rows| Some(i32::try_from(*rows).unwrap().into()))
        .collect();
    eventually("all are counted", async || {
        let mut counted = Vec::new();
        for table in [
            "approvals",
            "drift_checks",
            "incident_payloads",
            "workflow_drift_flags",
        ] {
            let series =
                format!("drift_retention_purged_rows_total{{plan=\"pro\",table=\"{table}\"}}");
            counted.push(worker.metric(&series).await);
        }
        worker.outcomes("succeeded").await == 15.0 && counted == expected
    })
    .await;
    let durations = "drift_retention_purge_run_duration_seconds_count";
    assert_eq!(worker.metric(durations).await, Some(15.0));
}

/// A run that was attempted before is claimed alone, and the others of its kind do not wait behind it.
#[tokio::test]
async fn attempted_runs_do_not_wait_behind_a_slow_one() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let slow = app.org_with_expired(500).await;
    for _ in 0..6 {
        app.org("pro").await;
    }
    // Each row of the slow one takes its time.
    db.execute(&format!(
        "CREATE FUNCTION slow_rows() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.05); RETURN OLD; END $$;
         CREATE TRIGGER slow_rows BEFORE DELETE ON drift_checks FOR EACH ROW WHEN (OLD.org_id = '{slow}')
             EXECUTE FUNCTION slow_rows()"
    ))
    .await;
    enqueue_slot(&db).await;
    // As after an outage: each has had an attempt, and is delivered anew. The slow one is the first.
    db.execute(&format!(
        "DELETE FROM apalis.jobs;
         UPDATE retention.purge_runs SET attempts = 1, status = 'retrying', next_attempt_at = now();
         SELECT retention.deliver(ARRAY (SELECT id FROM retention.purge_runs WHERE org_id = '{slow}'));
         SELECT retention.deliver(ARRAY (SELECT id FROM retention.purge_runs WHERE org_id <> '{slow}'))"
    ))
    .await;
    let _worker = worker(&db, &[]);
    let quick = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
    eventually("the others have ended", async || {
        db.value::<i64>(quick).await == 6
    })
    .await;
    let run = runs::newest_run(&db, slow).await;
    assert_ne!(product::status(&db.pool, run).await, "succeeded");
}

/// The histogram has the time of each run, and not its share of the group's.
#[tokio::test]
async fn duration_of_each_run_is_its_own() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..3 {
        app.org_with_expired(30).await;
    }
    trouble::deletes_take(&db.pool, 0.05).await;
    enqueue_slot(&db).await;
    let worker = worker(&db, &[]);
    all_are_final(&db).await;
    let duration = "drift_retention_purge_run_duration_seconds";
    let count = format!("{duration}_count");
    eventually("all are counted", async || {
        worker.metric(&count).await == Some(3.0)
    })
    .await;
    let recorded: f64 = db
        .value("SELECT sum(extract(epoch FROM finished_at - started_at))::float8 FROM retention.purge_runs")
        .await;
    let measured = worker.metric(&format!("{duration}_sum")).await.unwrap();
    assert!(
        (measured - recorded).abs() < recorded / 3.0,
        "{measured} s measured, {recorded} s recorded"
    );
}

#[tokio::test]
async fn configured_size_of_a_batch_holds_for_runs_together() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    for _ in 0..6 {
        app.org_with_expired(20).await;
    }
    let before = ledger::rows(&db.pool).await;
    enqueue_slot(&db).await;
    let _worker = worker(&db, &[("DRIFT_RETENTION_PURGE__BATCH_SIZE", "7")]);
    all_are_final(&db).await;
    ledger::assert_exact(&db.pool, &before).await;
    let batches =
        "SELECT min(batches) FROM retention.purge_run_steps WHERE table_name = 'drift_checks'";
    assert_eq!(db.value::<i32>(batches).await, 3);
}

#[tokio::test]
async fn what_takes_too_long_together_is_taken_back_and_goes_alone() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(5).await;
    let before = ledger::rows(&db.pool).await;
    // Each statement in its time, and not all of them: the main app's rows would be held for as long.
    slow_deletes(&db, "drift_checks", "0.06").await;
    db.execute(
        "CREATE TRIGGER take_long BEFORE INSERT ON retention.purge_run_steps
         FOR EACH STATEMENT EXECUTE FUNCTION take_long()",
    )
    .await;
    enqueue_slot(&db).await;
    let _worker = worker(&db, &[]);
    all_are_final(&db).await;
    ledger::assert_exact(&db.pool, &before).await;
    let run = runs::newest_run(&db, org).await;
    assert_eq!(product::status(&db.pool, run).await, "succeeded");
    // A claim names the apalis worker that received the delivery, after the process.
    let owner = ledger::run_column(&db.pool, run, "worker").await;
    assert_eq!(owner.matches(':').count(), 3, "{owner}");
}
