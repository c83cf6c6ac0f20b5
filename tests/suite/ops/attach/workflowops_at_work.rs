//! A main app with other tables than ours, at work while it is purged: its plans change, workers die, and a pooler
//! stands between.

use nix::sys::signal::Signal;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    held::{Held, slow_deletes},
    ledger,
    pooler::Pooler,
    product::{self, Service, eventually},
    roles, runs,
    workflowops::{self, CASCADES},
};

const SMALL_BATCHES: (&str, &str) = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "5");

/// A tenant without rows of its own, but for 60 checks about 200 days old, 60 about 40 days old, and 60 of ten days.
async fn tenant_with_checks(db: &TestDatabase, plan: Option<&str>) -> Uuid {
    let tenant = workflowops::tenant(db, "on pro without any rows").await;
    db.execute(&format!(
        "DELETE FROM tenant_provider_subscriptions WHERE tenant_id = '{tenant}'"
    ))
    .await;
    if let Some(plan) = plan {
        db.execute(&workflowops::subscribe(tenant, plan)).await;
    }
    db.execute(&format!(
        "WITH env AS (INSERT INTO environments (tenant_id, n8n_name) VALUES ('{tenant}', 'busy') RETURNING id)
         INSERT INTO drift_check_history (tenant_id, environment_id, checked_at, drift_status)
         SELECT '{tenant}', env.id, now() - days * interval '1 day' - make_interval(mins => n), 'IN_SYNC'
         FROM env, unnest(ARRAY[200, 40, 10]) days, generate_series(1, 60) n"
    ))
    .await;
    tenant
}

/// The tenant's checks: older than 180 days, older than 30, and the rest.
async fn checks(db: &TestDatabase, tenant: Uuid) -> [i64; 3] {
    let counts: Vec<i64> = db.value(&counting(tenant)).await;
    counts.try_into().unwrap()
}

fn counting(tenant: Uuid) -> String {
    format!(
        "SELECT ARRAY[count(*) FILTER (WHERE age > interval '180 days'),
                      count(*) FILTER (WHERE age BETWEEN interval '30 days' AND interval '180 days'),
                      count(*) FILTER (WHERE age < interval '30 days')]
         FROM (SELECT now() - checked_at AS age FROM drift_check_history WHERE tenant_id = '{tenant}') ages"
    )
}

/// A purge of one tenant in small batches, in a process of its own.
fn start_purge(db: &TestDatabase, tenant: Uuid) -> tokio::process::Child {
    product::command(&db.url)
        .args(["purge", "--org", &tenant.to_string(), "--work", "--json"])
        .env("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "200ms")
        .env("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "1s")
        .env("DRIFT_RETENTION_WORKER__MAX_ATTEMPTS", "50")
        .envs([CASCADES, SMALL_BATCHES])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until a session of the product waits for a lock.
async fn until_the_purge_waits(db: &TestDatabase) {
    eventually("the purge waits for a lock", async || {
        db.value::<bool>(
            "SELECT EXISTS (SELECT FROM pg_stat_activity
                            WHERE datname = current_database() AND wait_event_type = 'Lock'
                              AND application_name LIKE 'drift-retention%')",
        )
        .await
    })
    .await;
}

#[tokio::test]
async fn plan_raised_while_a_batch_waits_for_the_subscription_is_seen() {
    let db = workflowops::database().await;
    let tenant = tenant_with_checks(&db, Some("pro")).await;
    slow_deletes(&db, "drift_check_history", "0.05").await;
    let purge = start_purge(&db, tenant);
    eventually("some rows inside the longer window are gone", async || {
        let [old, young, _] = checks(&db, tenant).await;
        old == 0 && young < 60
    })
    .await;
    let raise = workflowops::subscribe(tenant, "enterprise");
    // The change waits for the batch at work, and then every batch waits for the change.
    let held = Held::by(&db, &raise).await;
    until_the_purge_waits(&db).await;
    let before = checks(&db, tenant).await;
    assert!(before[1] > 0, "the change came too late to test anything");
    held.commit().await;

    assert!(runs::succeeds(purge).await);

    assert_eq!(checks(&db, tenant).await, before);
    let run = runs::run(&db, runs::newest_run(&db, tenant).await).await;
    assert_eq!(
        (&run["plan"], &run["policy"]["drift_checks"]),
        (&"enterprise".into(), &180.into())
    );
}

#[tokio::test]
async fn first_subscription_of_a_tenant_waits_for_the_batch_at_work_and_holds_from_then_on() {
    let db = workflowops::database().await;
    let tenant = tenant_with_checks(&db, None).await;
    slow_deletes(&db, "drift_check_history", "0.08").await;
    let purge = start_purge(&db, tenant);
    eventually("some rows inside the longer window are gone", async || {
        let [old, young, recent] = checks(&db, tenant).await;
        old == 0 && young == 0 && recent < 60
    })
    .await;
    // There is no row yet that a batch could lock. When the statement has come through, no batch that read the old plan
    // is on its way.
    let held = Held::by(&db, &workflowops::subscribe(tenant, "enterprise")).await;
    let before = checks(&db, tenant).await;
    held.commit().await;
    assert!(before[2] > 1, "the change came too late to test anything");

    assert!(runs::succeeds(purge).await);

    assert_eq!(checks(&db, tenant).await, before);
}

#[tokio::test]
async fn every_row_that_decides_the_plan_is_locked_until_the_batch_ends() {
    let db = workflowops::database().await;
    let tenant = workflowops::tenant(&db, "on pro and on enterprise").await;
    let batch = Held::by(&db, &format!("SELECT main_app.lock_plan('{tenant}')")).await;
    for change in [
        "UPDATE tenant_provider_subscriptions SET status = 'canceled' WHERE tenant_id = 'TENANT'",
        "DELETE FROM tenant_provider_subscriptions WHERE tenant_id = 'TENANT'",
        "UPDATE provider_plans SET name = 'gone' WHERE name = 'enterprise'",
        "UPDATE plans SET precedence = 99 WHERE name = 'pro'",
        "UPDATE tenants SET name = 'renamed' WHERE id = 'TENANT'",
        "INSERT INTO tenant_provider_subscriptions (tenant_id, provider_id, plan_id)
         SELECT 'TENANT', p.id, pp.id FROM providers p, provider_plans pp WHERE p.name = 'zapier' AND pp.name = 'free' LIMIT 1",
    ] {
        let change = change.replace("TENANT", &tenant.to_string());
        // One text is one transaction.
        let briefly = format!("SET LOCAL lock_timeout = '20ms'; {change}");
        assert_eq!(roles::refusal(&db.pool, &briefly).await.as_deref(), Some("55P03"), "{change}");
    }
    // Checks and incidents come in all the same.
    workflowops::many_checks(&db, workflowops::tenant(&db, "on pro").await, 1, "1 day", 1).await;
    db.execute(&format!(
        "INSERT INTO drift_incidents (tenant_id, environment_id) VALUES ('{tenant}', gen_random_uuid());
         INSERT INTO drift_check_history (tenant_id, environment_id, drift_status)
         SELECT '{tenant}', id, 'NEW' FROM environments WHERE tenant_id = '{tenant}'"
    ))
    .await;
    batch.rollback().await;
}

/// Asks for everybody's run of a slot, as the scheduler does.
async fn enqueue_everybody(db: &TestDatabase) {
    db.execute("SELECT retention.enqueue_slot(now(), array_agg(id)) FROM main_app.organizations")
        .await;
}

#[tokio::test]
async fn records_are_exact_when_one_of_two_workers_is_killed() {
    let db = workflowops::database().await;
    let tenant = workflowops::tenant(&db, "on pro without any rows").await;
    workflowops::many_checks(&db, tenant, 400, "31 days", 2).await;
    workflowops::apply_the_rules(&db).await;
    slow_deletes(&db, "drift_check_history", "0.05").await;
    let settings = [CASCADES, SMALL_BATCHES];
    let first = Service::start(&db.url, "worker", &settings);
    first.ready().await;
    let run = product::enqueue(&db.pool, tenant).await;
    eventually("the long run is under way", async || {
        ledger::progress(&db.pool, run).await > 30
    })
    .await;
    let second = Service::start(&db.url, "worker", &settings);
    second.ready().await;
    assert!(first.holds(&db.pool, run).await);
    enqueue_everybody(&db).await;

    first.signal(Signal::SIGKILL);
    runs::all_are_final(&db).await;

    assert_eq!(product::status(&db.pool, run).await, "succeeded");
    assert!(ledger::attempts(&db.pool, run).await > 1);
    workflowops::assert_purged_by_the_rules(&db).await;
    drop((first, second));
}

#[tokio::test]
async fn everything_is_purged_by_the_rules_through_the_pooler() {
    let db = workflowops::database().await;
    workflowops::apply_the_rules(&db).await;
    let pooler = Pooler::before(&db).await;
    let settings = [
        CASCADES,
        SMALL_BATCHES,
        ("DRIFT_RETENTION_DATABASE__DIRECT_URL", db.url.as_str()),
    ];
    let workers = [
        Service::start(&pooler.url, "worker", &settings),
        Service::start(&pooler.url, "worker", &settings),
    ];
    for worker in &workers {
        worker.ready().await;
    }
    enqueue_everybody(&db).await;
    runs::all_are_final(&db).await;

    workflowops::assert_purged_by_the_rules(&db).await;
    assert!(pooler.transactions().await > 50);
}

#[tokio::test]
async fn tenant_that_the_main_app_writes_to_for_long_holds_up_nobody_else() {
    let db = workflowops::database().await;
    let tenant = workflowops::tenant(&db, "on pro").await;
    workflowops::apply_the_rules(&db).await;
    // Its foreign key keeps the tenant from being locked FOR UPDATE.
    let held = Held::by(
        &db,
        &format!("INSERT INTO environments (tenant_id, n8n_name) VALUES ('{tenant}', 'new')"),
    )
    .await;
    let worker = Service::start(&db.url, "worker", &[CASCADES]);
    worker.ready().await;
    enqueue_everybody(&db).await;
    let live = "SELECT array_agg(org_id) FROM retention.purge_runs WHERE status IN ('queued', 'running', 'retrying')";
    eventually("everybody else is done", async || {
        db.value::<Option<Vec<Uuid>>>(live).await == Some(vec![tenant])
    })
    .await;
    held.commit().await;
    runs::all_are_final(&db).await;

    workflowops::assert_purged_by_the_rules(&db).await;
}
