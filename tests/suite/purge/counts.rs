//! What is said to go, what is recorded as gone and what is really gone are the same rows.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{TestDatabase, app::App, product, runs};

/// An organization with rows of every kind on both sides of every rule.
async fn mixed(app: &App) -> Uuid {
    let org = app.org("pro").await;
    for flags in 0..3 {
        let env = app.env(org).await;
        app.many_checks(org, env, 40, "45 days", flags).await;
        app.many_checks(org, env, 5, "2 days", flags).await;
    }
    let silent = app.env(org).await;
    app.many_checks(org, silent, 20, "400 days", 1).await;
    for n in 0..40 {
        let status = ["closed", "closed", "closed", "reconciled"][n % 4];
        let age = ["200 days", "700 days", "100 days"][n % 3];
        let incident = app.incident(org, silent, status, Some(age)).await;
        if n % 5 > 0 {
            app.payload(incident).await;
        }
        app.approval(org, incident, ["approved", "pending"][n % 2], age)
            .await;
    }
    org
}

async fn previewed(db: &TestDatabase, org: Uuid) -> [i64; 4] {
    let preview: Value =
        product::json(&db.url, &["preview", "--org", &org.to_string(), "--json"]).await;
    let tables = &preview["organizations"][0]["tables"];
    runs::TABLES.map(|table| tables[table].as_i64().unwrap())
}

#[tokio::test]
async fn preview_and_records_say_exactly_what_goes_in_many_batches() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = mixed(&app).await;
    let (before, everything) = (
        runs::counts(&db, org).await,
        runs::everything(&db, org).await,
    );

    let promised = previewed(&db, org).await;
    assert_eq!(runs::everything(&db, org).await, everything);
    let run = runs::purge_in_batches(&db, org, 7).await;

    let after = runs::counts(&db, org).await;
    let gone: Vec<i64> = before.iter().zip(after).map(|(b, a)| b - a).collect();
    // Three environments lose 40 checks each, the silent one all but its newest.
    assert_eq!(gone[..2], [3 * 40 + 19, 40 + 80 + 19]);
    assert!(gone.iter().all(|rows| *rows > 0), "{gone:?}");
    assert_eq!(promised[..], gone);
    assert_eq!(runs::purged(&db, run).await[..], gone);
    let batches = runs::step(&db, run, "drift_checks").await["batches"].as_i64();
    assert!(batches.unwrap() >= gone[0] / 7);
    for table in runs::TABLES {
        assert_eq!(runs::step(&db, run, table).await["status"], "succeeded");
    }
}

#[tokio::test]
async fn a_second_purge_finds_nothing_to_do_and_changes_nothing() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = mixed(&app).await;
    runs::purge_in_batches(&db, org, 100).await;
    let everything = runs::everything(&db, org).await;

    assert_eq!(previewed(&db, org).await, [0; 4]);
    let again = product::purge(&db.url, org).await;

    assert_eq!(runs::purged(&db, again).await, [0; 4]);
    assert_eq!(runs::everything(&db, org).await, everything);
}

#[tokio::test]
async fn more_checks_at_one_instant_than_a_batch_takes_all_go() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    db.execute(&format!(
        "INSERT INTO drift_checks (org_id, env_id, checked_at, status)
         SELECT '{org}', '{env}', '2024-02-29T12:00:00Z', 'in_sync' FROM generate_series(1, 30)"
    ))
    .await;

    let run = runs::purge_in_batches(&db, org, 7).await;

    assert_eq!(runs::purged(&db, run).await, [29, 0, 0, 0]);
    assert_eq!(runs::counts(&db, org).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn batches_are_no_larger_than_configured() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    app.many_checks(org, env, 50, "40 days", 1).await;
    db.execute(
        "CREATE TABLE batches (rows bigint);
         CREATE FUNCTION note_batch() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN INSERT INTO batches SELECT count(*) FROM gone; RETURN NULL; END$$;
         CREATE TRIGGER note_batch AFTER DELETE ON drift_checks
         REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION note_batch()",
    )
    .await;

    runs::purge_in_batches(&db, org, 7).await;

    let batches: Vec<i64> = db
        .value("SELECT ARRAY[max(rows), sum(rows)::bigint] FROM batches")
        .await;
    assert_eq!(batches, [7, 49]);
}
