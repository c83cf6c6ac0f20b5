//! A plan that changes during a run, or between its attempts: for that run the longer window wins.

use serde_json::{Value, json};
use tokio::process::Child;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    held::{Held, slow_deletes},
    product::eventually,
    runs::{self, start_purge, succeeds, until_retried},
};

/// An organization with 60 checks about 200 days old, 60 about 40 days old, and one of today.
async fn org_with_checks(db: &TestDatabase, plan: &str) -> Uuid {
    let app = App::on(&db.pool);
    let org = app.org(plan).await;
    let env = app.env(org).await;
    app.many_checks(org, env, 60, "200 days", 1).await;
    app.many_checks(org, env, 60, "40 days", 1).await;
    app.check(org, env, "1 hour", &[]).await;
    org
}

async fn change_plan(db: &TestDatabase, org: Uuid, plan: &str) {
    db.execute(&format!(
        "UPDATE organizations SET plan = '{plan}' WHERE id = '{org}'"
    ))
    .await;
}

/// Checks younger and older than 180 days.
async fn young_and_old(db: &TestDatabase) -> (i64, i64) {
    let count = |than: &str| {
        format!(
            "SELECT count(*) FROM drift_checks WHERE checked_at {than} now() - interval '180 days'"
        )
    };
    (db.value(&count(">")).await, db.value(&count("<")).await)
}

/// Starts a slow purge, and changes the plan when `begun` holds of the counts of young and old checks.
async fn change_in_mid_run(
    db: &TestDatabase,
    org: Uuid,
    plan: &str,
    begun: impl Fn(i64, i64) -> bool,
) -> Child {
    slow_deletes(db, "drift_checks", "0.05").await;
    let purge = start_purge(db, org, 5);
    eventually("some rows are gone", async || {
        let (young, old) = young_and_old(db).await;
        begun(young, old)
    })
    .await;
    change_plan(db, org, plan).await;
    purge
}

/// Asserts what a run recorded: plan and windows, and the cutoff that follows from them.
async fn assert_recorded(db: &TestDatabase, org: Uuid, plan: &str, checks: u32, closed: Value) {
    let id = runs::newest_run(db, org).await;
    let run = runs::run(db, id).await;
    assert_eq!(run["status"], "succeeded");
    assert_eq!(run["plan"], plan);
    assert_eq!(
        run["policy"],
        json!({"drift_checks": checks, "incident_payloads": closed, "approvals": closed})
    );
    let hours = checks * 24;
    assert!(
        db.value::<bool>(&format!(
            "SELECT s.cutoff = r.started_at - interval '{hours} hours'
             FROM retention.purge_runs r JOIN retention.purge_run_steps s ON s.run_id = r.id
             WHERE r.id = '{id}' AND s.table_name = 'drift_checks'"
        ))
        .await
    );
}

#[tokio::test]
async fn after_an_upgrade_in_mid_run_everything_inside_the_longer_window_stays() {
    let db = TestDatabase::new().await;
    let org = org_with_checks(&db, "pro").await;
    let purge = change_in_mid_run(&db, org, "enterprise", |young, _| young < 61).await;
    let (young, old) = young_and_old(&db).await;
    assert!(young > 1, "the change came too late to test anything");
    assert_eq!(old, 0);

    assert!(succeeds(purge).await);

    assert_eq!(young_and_old(&db).await, (young, 0));
    assert_recorded(&db, org, "enterprise", 180, json!(2555)).await;
    let run = runs::newest_run(&db, org).await;
    let gone = 121 - young;
    assert_eq!(runs::purged(&db, run).await, [gone, gone, 0, 0]);
}

#[tokio::test]
async fn after_a_downgrade_in_mid_run_the_longer_window_still_holds() {
    let db = TestDatabase::new().await;
    let org = org_with_checks(&db, "enterprise").await;
    let purge = change_in_mid_run(&db, org, "pro", |_, old| old < 60).await;

    assert!(succeeds(purge).await);

    assert_eq!(young_and_old(&db).await, (61, 0));
    assert_recorded(&db, org, "pro", 180, json!(2555)).await;
}

#[tokio::test]
async fn a_change_to_free_in_mid_run_takes_no_rule_for_incidents_as_the_longest() {
    let db = TestDatabase::new().await;
    let org = org_with_checks(&db, "pro").await;
    let app = App::on(&db.pool);
    let env = app.env(org).await;
    for _ in 0..60 {
        let incident = app.incident(org, env, "closed", Some("400 days")).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", "400 days").await;
    }
    let purge = change_in_mid_run(&db, org, "free", |_, old| old < 60).await;

    assert!(succeeds(purge).await);

    let [checks, flags, payloads, approvals] = runs::counts(&db, org).await;
    assert_eq!([checks, flags], [1, 0]);
    // The batches before the change took some of them.
    assert!(
        payloads > 0 && approvals > 0,
        "{payloads} payloads, {approvals} approvals"
    );
    assert_recorded(&db, org, "free", 30, Value::Null).await;
}

#[tokio::test]
async fn a_change_to_free_while_rows_are_held_leaves_nothing_to_wait_for() {
    let db = TestDatabase::new().await;
    let org = org_with_checks(&db, "pro").await;
    let app = App::on(&db.pool);
    let env = app.env(org).await;
    let incident = app.incident(org, env, "closed", Some("400 days")).await;
    app.approval(org, incident, "approved", "400 days").await;
    let held = Held::by(&db, "SELECT FROM approvals FOR UPDATE").await;
    let purge = start_purge(&db, org, 1_000);
    eventually("the checks are gone", async || {
        runs::counts(&db, org).await[0] == 1
    })
    .await;
    change_plan(&db, org, "free").await;

    assert!(succeeds(purge).await);

    held.rollback().await;
    assert_eq!(runs::counts(&db, org).await[3], 1);
    let run = runs::newest_run(&db, org).await;
    assert_eq!(runs::run(&db, run).await["attempts"], 1);
    assert_eq!(runs::step(&db, run, "approvals").await["status"], "no_rule");
    assert_eq!(runs::step(&db, run, "approvals").await["rows_kept"], 0);
}

#[tokio::test]
async fn after_a_change_to_an_unknown_plan_in_mid_run_nothing_more_goes_and_the_run_fails() {
    let db = TestDatabase::new().await;
    let org = org_with_checks(&db, "pro").await;
    let purge = change_in_mid_run(&db, org, "legacy-2019", |_, old| old < 60).await;
    let left = young_and_old(&db).await;
    assert!(left.1 > 0, "the change came too late to test anything");

    assert!(!succeeds(purge).await);

    assert_eq!(young_and_old(&db).await, left);
    let run = runs::newest_run(&db, org).await;
    let gone = 121 - left.0 - left.1;
    assert_eq!(runs::purged(&db, run).await, [gone, gone, 0, 0]);
    let run = runs::run(&db, run).await;
    assert_eq!(
        (&run["status"], &run["error_kind"], &run["attempts"]),
        (&json!("failed"), &json!("policy_unresolved"), &json!(1))
    );
}

/// Lets a first attempt fail because the app holds every check, changes the plan, and lets the next attempt do the work.
async fn change_between_attempts(db: &TestDatabase, org: Uuid, plan: &str) -> bool {
    let held = Held::by(db, "SELECT FROM drift_checks FOR UPDATE").await;
    let purge = start_purge(db, org, 50);
    until_retried(db, org).await;
    assert_eq!(young_and_old(db).await, (61, 60));
    change_plan(db, org, plan).await;
    held.rollback().await;
    succeeds(purge).await
}

#[tokio::test]
async fn after_an_upgrade_between_attempts_the_longer_window_wins() {
    let db = TestDatabase::new().await;
    let org = org_with_checks(&db, "pro").await;

    assert!(change_between_attempts(&db, org, "enterprise").await);

    assert_eq!(young_and_old(&db).await, (61, 0));
    assert_recorded(&db, org, "enterprise", 180, json!(2555)).await;
}

#[tokio::test]
async fn after_a_downgrade_between_attempts_the_longer_window_wins() {
    let db = TestDatabase::new().await;
    let org = org_with_checks(&db, "enterprise").await;

    assert!(change_between_attempts(&db, org, "pro").await);

    assert_eq!(young_and_old(&db).await, (61, 0));
    assert_recorded(&db, org, "pro", 180, json!(2555)).await;
}

#[tokio::test]
async fn after_a_change_to_an_unknown_plan_between_attempts_nothing_goes() {
    let db = TestDatabase::new().await;
    let org = org_with_checks(&db, "pro").await;

    assert!(!change_between_attempts(&db, org, "???").await);

    assert_eq!(young_and_old(&db).await, (61, 60));
    let run = runs::run(&db, runs::newest_run(&db, org).await).await;
    assert_eq!(run["error_kind"], "policy_unresolved");
}
