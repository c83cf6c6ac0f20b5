//! Connections that are not good any more though they answer: to a server that has become read-only, as the old primary after a
//! failover, and with plans that no longer fit the tables.

use std::time::{Duration, Instant};

use crate::support::{
    TestDatabase,
    api::{Api, token},
    app::App,
    ledger,
    product::{self, Service, eventually, until_status},
};

/// Sessions that begin from now on are on a read-only server, or on one that takes writes. Those that there are stay what they
/// are: as behind an address that has moved.
async fn new_sessions(db: &TestDatabase, read_only: &str) {
    db.execute(&format!(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {read_only}', current_database());
         END $$"
    ))
    .await;
}

/// Ends the sessions of the product.
async fn end_sessions(db: &TestDatabase) {
    db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'drift-retention' AND datname = current_database()",
    )
    .await;
}

#[tokio::test]
async fn request_is_written_within_seconds_after_a_failover_and_readiness_names_the_read_only_server()
 {
    let api = Api::start().await;
    let org = App::on(&api.db.pool).org("pro").await;
    let operator = token("operator", None);
    let purge = format!("/orgs/{org}/retention/purge");
    new_sessions(&api.db, "on").await;
    end_sessions(&api.db).await;
    eventually("it is not ready", async || {
        let ready = api.get("/readyz", &operator).await;
        ready.status == 503 && ready.text().contains("read-only")
    })
    .await;
    let refused = api.post(&purge, &operator, "{}").await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(
        refused.text().contains("takes no writes"),
        "{}",
        refused.text()
    );

    new_sessions(&api.db, "off").await;
    let since = Instant::now();
    while api.post(&purge, &operator, "{}").await.status != 202 {
        assert!(since.elapsed() < Duration::from_secs(10), "still refused");
    }
    eventually("it is ready", async || {
        api.get("/readyz", &operator).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn worker_goes_on_after_a_failover_though_its_old_sessions_still_answer() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(30).await;
    let before = ledger::rows(&db.pool).await;
    let mut worker = Service::start(&db.url, "worker", &[]);
    worker.ready().await;
    new_sessions(&db, "on").await;
    end_sessions(&db).await;
    eventually("it is not ready", async || {
        worker.get("/readyz").await.unwrap().status() == 503
    })
    .await;
    new_sessions(&db, "off").await;
    // Session by session: the test's own would be read-only too.
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    worker.ready().await;
    ledger::assert_exact(&db.pool, &before).await;
    assert!(worker.child.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn column_that_changes_its_type_fails_one_request_per_connection_at_most() {
    let api = Api::start().await;
    let org = App::on(&api.db.pool).org("pro").await;
    let operator = token("operator", None);
    product::purge(&api.db.url, org).await;
    let paths = [
        format!("/orgs/{org}/retention/runs"),
        format!("/orgs/{org}/retention/policy"),
    ];
    for path in &paths {
        for _ in 0..20 {
            assert_eq!(api.get(path, &operator).await.status, 200);
        }
    }
    api.db
        .execute(
            "ALTER TABLE retention.purge_runs ALTER error_kind TYPE varchar(40);
             BEGIN;
             DROP VIEW main_app.organizations;
             ALTER TABLE organizations ALTER plan TYPE varchar(40);
             CREATE VIEW main_app.organizations AS SELECT id, name, plan, created_at FROM public.organizations;
             COMMIT",
        )
        .await;
    for path in &paths {
        let mut failed = 0;
        for _ in 0..150 {
            failed += u32::from(api.get(path, &operator).await.status != 200);
        }
        // One request at a time uses one connection, or two.
        assert!(failed <= 4, "{path}: {failed} of 150 requests failed");
    }
}
