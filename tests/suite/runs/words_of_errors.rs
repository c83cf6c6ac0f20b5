//! What Postgres says can hold a row's data: it reaches no record, no log and no tenant. Text from outside is bounded.
#![allow(clippy::disallowed_methods, reason = "the main app has its own SQL")]

use std::fs;

use serde_json::json;

use crate::support::{
    TestDatabase,
    api::{Api, token},
    app::App,
    product::{self, Service, until_status},
    runs,
};

const SECRET: &str = "approval of dana@example.com must not go";

/// A trigger that raises with a row's data in its words.
async fn raises(db: &TestDatabase) {
    db.execute(
        "CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'approval of dana@example.com must not go' USING ERRCODE = 'check_violation'; END $$;
         CREATE TRIGGER object AFTER DELETE ON approvals FOR EACH ROW EXECUTE FUNCTION object()",
    )
    .await;
}

#[tokio::test]
async fn words_of_a_trigger_reach_no_record_and_no_log_and_tenants_read_fixed_words() {
    let api = Api::start().await;
    let db = &api.db;
    let org = App::on(&db.pool).org_with_all_kinds_expired(5).await;
    raises(db).await;
    let once = ("DRIFT_RETENTION_WORKER__MAX_ATTEMPTS", "1");
    let debug = ("RUST_LOG", "debug");
    let (worker, log) = Service::logged(&db.url, "worker", &[once, debug]);
    worker.ready().await;
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "failed").await;

    let record = runs::run(db, run).await.to_string();
    assert!(!record.contains("dana@example.com"), "{record}");
    let error = runs::run(db, run).await["error"]
        .as_str()
        .unwrap()
        .to_owned();
    for part in ["approvals cannot be purged", "SQLSTATE 23514", "object()"] {
        assert!(error.contains(part), "{error}");
    }
    let log = fs::read_to_string(log.path()).unwrap();
    assert!(!log.contains(SECRET), "{log}");

    let path = format!("/orgs/{org}/retention/runs");
    for role in ["viewer", "admin"] {
        let page = api.get(&path, &token(role, Some(org))).await.json();
        let shown = &page["items"][0];
        assert_eq!(shown["error_kind"], "database");
        let words = shown["error"].as_str().unwrap();
        assert!(
            !words.contains("approvals") && !words.contains("SQLSTATE"),
            "{words}"
        );
    }
    let page = api.get(&path, &token("operator", None)).await.json();
    assert_eq!(page["items"][0]["error"], json!(error));
}

#[tokio::test]
async fn text_that_is_too_long_or_steers_a_terminal_is_refused_by_the_function_itself() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    for (by, reason) in [
        ("x".repeat(201), "ok".to_owned()),
        ("sam".to_owned(), "x".repeat(1_001)),
        ("sam\u{1b}[2J".to_owned(), "ok".to_owned()),
        ("sam".to_owned(), "\u{202e}evil".to_owned()),
        ("sam".to_owned(), "\u{9b}31m".to_owned()),
    ] {
        let asked = sqlx::query("SELECT retention.enqueue_purge($1, $2, $3)")
            .bind(org)
            .bind(&by)
            .bind(&reason)
            .execute(&db.pool)
            .await;
        assert!(asked.is_err(), "{by:?} {reason:?}");
    }
    let none = "SELECT count(*) FROM retention.purge_runs";
    assert_eq!(db.value::<i64>(none).await, 0);
    let asked = sqlx::query("SELECT retention.enqueue_purge($1, $2, $3)")
        .bind(org)
        .bind("Zoë 李")
        .bind("two lines\nand a tab\t— fine")
        .execute(&db.pool)
        .await;
    asked.unwrap();
}

#[tokio::test]
async fn plan_of_megabytes_makes_no_error_of_megabytes() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    db.execute(&format!(
        "UPDATE organizations SET plan = repeat('p', 5000000) WHERE id = '{org}'"
    ))
    .await;
    let said = product::run(&db.url, &["purge", "--org", &org.to_string(), "--work"]).await;
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.len() + said.stdout.len() < 10_000);
    let error: i32 = db
        .value("SELECT length(error) FROM retention.purge_runs")
        .await;
    assert!(error < 1_000, "{error}");
}
