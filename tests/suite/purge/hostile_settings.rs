//! Session settings that somebody gave the worker's role, or its database, and few connections: a purge does the same.

use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    ledger,
    product::{self, Service, until_status},
    roles, runs,
};

/// Each alone breaks programs that trust the defaults.
const SETTINGS: [&str; 12] = [
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = 'sql_standard'",
    "TimeZone = 'Pacific/Apia'",
    "search_path = 'nowhere'",
    "lock_timeout = '1ms'",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "bytea_output = 'escape'",
    "extra_float_digits = -15",
    "xmlbinary = 'hex'",
    "transform_null_equals = on",
    "plan_cache_mode = 'force_custom_plan'",
];

/// A database with the worker's user: its URL, and its name.
async fn with_worker() -> (TestDatabase, String, String) {
    let db = TestDatabase::new().await;
    roles::apply(&db).await;
    let url = roles::user_in(&db, "drift_retention_worker").await;
    let name = url.split([':', '/']).nth(3).unwrap().to_owned();
    (db, url, name)
}

/// What is left of an organization with eleven expired checks, a payload and an approval: its newest check, with its flags.
async fn assert_purged(db: &TestDatabase, org: Uuid, run: Uuid) {
    assert_eq!(runs::counts(db, org).await, [1, 2, 0, 0]);
    assert_eq!(runs::purged(db, run).await, [10, 20, 1, 1]);
}

async fn purges_under(settings: &[&str]) {
    let (db, url, name) = with_worker().await;
    for setting in settings {
        db.execute(&format!("ALTER ROLE {name} SET {setting}"))
            .await;
    }
    let app = App::on(&db.pool);
    let org = app.org_with_all_kinds_expired(11).await;
    let run = product::purge(&url, org).await;
    assert_purged(&db, org, run).await;
    // And as a service: the queue has sessions of its own.
    let _worker = Service::start(&url, "worker", &[]);
    let org = app.org_with_all_kinds_expired(11).await;
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    assert_purged(&db, org, run).await;
}

#[tokio::test]
async fn purge_does_the_same_under_each_setting() {
    for setting in SETTINGS {
        purges_under(&[setting]).await;
    }
}

#[tokio::test]
async fn purge_does_the_same_under_all_of_them() {
    purges_under(&SETTINGS).await;
}

#[tokio::test]
async fn service_does_its_work_with_three_connections() {
    let (db, url, name) = with_worker().await;
    db.execute(&format!("ALTER ROLE {name} CONNECTION LIMIT 3"))
        .await;
    let app = App::on(&db.pool);
    let mut orgs = Vec::new();
    for _ in 0..6 {
        orgs.push(app.org_with_expired(40).await);
    }
    let before = ledger::rows(&db.pool).await;
    // Fewer than the four that it would have: what cannot be connected just now waits.
    let _service = Service::start(&url, "api,scheduler,worker", &[]);
    for org in orgs {
        let run = product::enqueue(&db.pool, org).await;
        until_status(&db.pool, run, "succeeded").await;
    }
    ledger::assert_exact(&db.pool, &before).await;
}
