//! What goes and what stays of drift checks: one sentence a test, on a real Postgres, by the product's own binary.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{TestDatabase, app::App, product, runs};

#[tokio::test]
async fn old_checks_go_with_their_flags_and_recent_ones_stay() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let old = app.check(org, env, "31 days", &["wf_1", "wf_2"]).await;
    let recent = app.check(org, env, "29 days", &["wf_1"]).await;

    let run = product::purge(&db.url, org).await;

    assert_eq!(
        db.value::<Vec<i64>>("SELECT array_agg(id) FROM drift_checks")
            .await,
        [recent]
    );
    assert_eq!(
        db.value::<i64>(&format!(
            "SELECT count(*) FROM workflow_drift_flags WHERE check_id = {old}"
        ))
        .await,
        0
    );
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM workflow_drift_flags")
            .await,
        1
    );
    let recorded = format!(
        "SELECT array_agg(rows_purged ORDER BY table_name) FROM retention.purge_run_steps WHERE run_id = '{run}'"
    );
    assert_eq!(db.value::<Vec<i64>>(&recorded).await, [0, 1, 0, 2]);
}

/// The checks that are there.
async fn checks(db: &TestDatabase) -> Vec<i64> {
    db.value("SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM drift_checks")
        .await
}

/// Several checks of one environment at exactly this instant; their ids ascend.
async fn checks_at(db: &TestDatabase, org: Uuid, env: Uuid, at: &str, count: u32) -> Vec<i64> {
    let insert = format!(
        "WITH made AS (
             INSERT INTO drift_checks (org_id, env_id, checked_at, status)
             SELECT '{org}', '{env}', '{at}', 'in_sync' FROM generate_series(1, {count}) RETURNING id)
         SELECT array_agg(id ORDER BY id) FROM made"
    );
    db.value(&insert).await
}

#[tokio::test]
async fn the_newest_check_of_every_environment_stays_however_old_and_keeps_its_flags() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let (lonely, quiet) = (app.env(org).await, app.env(org).await);
    let only = app.check(org, lonely, "730 days", &["wf_1", "wf_2"]).await;
    app.check(org, quiet, "900 days", &["wf_1"]).await;
    let newest = app.check(org, quiet, "800 days", &["wf_1"]).await;

    let run = product::purge(&db.url, org).await;

    assert_eq!(checks(&db).await, [only, newest]);
    let flags: Vec<i64> = db
        .value("SELECT array_agg(check_id ORDER BY check_id) FROM workflow_drift_flags")
        .await;
    assert_eq!(flags, [only, only, newest]);
    assert_eq!(runs::step(&db, run, "drift_checks").await["rows_kept"], 2);
}

#[tokio::test]
async fn of_checks_at_the_same_instant_only_the_one_with_the_largest_id_stays() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let tied = checks_at(&db, org, env, "2024-05-05T05:05:05.000005Z", 5).await;

    runs::purge_in_batches(&db, org, 2).await;

    assert_eq!(checks(&db).await, tied[4..]);
}

#[tokio::test]
async fn the_newest_check_is_the_latest_one_not_the_one_written_last() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let latest = app.check(org, env, "40 days", &[]).await;
    app.check(org, env, "50 days", &[]).await;

    product::purge(&db.url, org).await;

    assert_eq!(checks(&db).await, [latest]);
}

#[tokio::test]
async fn a_check_dated_in_the_future_protects_nothing_else_and_is_kept() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let (env, other) = (app.env(org).await, app.env(org).await);
    app.check(org, env, "60 days", &["wf_1"]).await;
    let newest = app.check(org, env, "40 days", &["wf_1"]).await;
    let future = app.check(org, env, "-1 day", &["wf_1"]).await;
    let far = checks_at(&db, org, other, "infinity", 1).await;

    product::purge(&db.url, org).await;

    assert_eq!(checks(&db).await, [newest, future, far[0]]);
}

#[tokio::test]
async fn checks_dated_minus_infinity_go_like_others() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let (env, other) = (app.env(org).await, app.env(org).await);
    let newest = app.check(org, env, "1 day", &[]).await;
    checks_at(&db, org, env, "-infinity", 5).await;
    let tied = checks_at(&db, org, other, "-infinity", 3).await;

    runs::purge_in_batches(&db, org, 2).await;

    assert_eq!(checks(&db).await, [newest, tied[2]]);
}

#[tokio::test]
async fn the_drift_status_of_every_environment_is_the_same_after_a_purge() {
    const STATUS: &str = "
        SELECT jsonb_object_agg(e.id, newest.status) FROM environments e
        CROSS JOIN LATERAL (SELECT c.id || c.status AS status FROM drift_checks c
                            WHERE c.env_id = e.id AND c.checked_at <= now()
                            ORDER BY c.checked_at DESC, c.id DESC LIMIT 1) newest";
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("free").await;
    for ages in [
        ["300 days", "200 days", "-3 days"],
        ["6 days", "8 days", "9 days"],
        ["40 days", "41 days", "8 days"],
        ["-1 hour", "7 days 1 second", "900 days"],
    ] {
        let env = app.env(org).await;
        for (n, age) in ages.into_iter().enumerate() {
            app.check(org, env, age, &["wf_1"][..n % 2]).await;
        }
    }
    let before: Value = db.value(STATUS).await;
    assert_eq!(before.as_object().unwrap().len(), 4);

    let run = product::purge(&db.url, org).await;

    assert_eq!(db.value::<Value>(STATUS).await, before);
    assert_eq!(runs::purged(&db, run).await, [6, 2, 0, 0]);
}

#[tokio::test]
async fn a_purge_leaves_other_organizations_alone() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let mut orgs = Vec::new();
    for plan in ["pro", "pro", "nonsense"] {
        let org = app.org(plan).await;
        let env = app.env(org).await;
        app.many_checks(org, env, 20, "100 days", 2).await;
        let incident = app.incident(org, env, "closed", Some("400 days")).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", "400 days").await;
        orgs.push((org, runs::everything(&db, org).await));
    }

    product::purge(&db.url, orgs[0].0).await;

    assert_eq!(runs::counts(&db, orgs[0].0).await, [1, 2, 0, 0]);
    for (org, before) in &orgs[1..] {
        assert_eq!(&runs::everything(&db, *org).await, before);
    }
}
