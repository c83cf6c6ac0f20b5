//! A run's events over HTTP: told at once, at every change, until it is final or the service goes.

use std::time::Duration;

use jsonwebtoken::get_current_timestamp;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{
    TestDatabase,
    api::signed_with,
    app::App,
    client::{Client, Events, SECRET, serve},
    ledger, product, trouble,
};

/// The next event, which must come within seconds.
async fn soon(events: &mut Events) -> Option<Value> {
    timeout(Duration::from_secs(20), events.next())
        .await
        .expect("neither an event nor an end within 20 seconds")
}

#[tokio::test]
async fn run_is_told_at_once_then_as_it_changes_until_it_is_final() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(401).await;
    trouble::deletes_take(&db.pool, 0.4).await;
    let api = serve(&db, "api", &[]).await;
    let client = Client::admin(&api, org).await;
    let run = product::enqueue(&db.pool, org).await;

    let mut events = client.follow(run).await;
    let first = soon(&mut events).await.unwrap();
    assert_eq!(first["id"], run.to_string());
    assert_eq!(first["status"], "queued");
    let _worker = serve(
        &db,
        "worker",
        &[("DRIFT_RETENTION_PURGE__BATCH_SIZE", "100")],
    )
    .await;
    let mut told = Vec::new();
    while let Some(change) = soon(&mut events).await {
        told.push(change);
        if ledger::progress(&db.pool, run).await > 0 && told.len() > 2 {
            trouble::deletes_take(&db.pool, 0.0).await;
        }
    }

    let rows: Vec<i64> = told
        .iter()
        .map(|run| {
            let steps = run["steps"].as_array().unwrap().iter();
            steps
                .map(|step| step["rows_purged"].as_i64().unwrap())
                .sum()
        })
        .collect();
    assert!(rows.is_sorted(), "{rows:?}");
    assert!(
        rows.iter().any(|rows| (1..1_200).contains(rows)),
        "told while the run went: {rows:?}"
    );
    let last = told.last().unwrap();
    assert_eq!(last["status"], "succeeded");
    assert_eq!(rows.last(), Some(&1_200));
    assert_eq!(ledger::progress(&db.pool, run).await, 1_200);
}

#[tokio::test]
async fn final_run_is_told_once_and_the_stream_ends() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let run = product::purge(&db.url, org).await;
    let api = serve(&db, "api", &[]).await;
    let client = Client::admin(&api, org).await;

    let mut events = client.follow(run).await;

    assert_eq!(soon(&mut events).await.unwrap()["status"], "succeeded");
    assert_eq!(soon(&mut events).await, None);
}

#[tokio::test]
async fn open_stream_ends_with_the_service_and_does_not_hold_it_up() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let mut api = serve(&db, "api", &[]).await;
    let client = Client::admin(&api, org).await;
    let run = product::enqueue(&db.pool, org).await;
    let mut events = client.follow(run).await;
    soon(&mut events).await.unwrap();

    api.signal(Signal::SIGTERM);

    assert_eq!(soon(&mut events).await, None);
    assert_eq!(api.ends_within(Duration::from_secs(10)).await, Some(0));
}

#[tokio::test]
async fn stream_ends_when_its_token_is_taken_no_longer() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let api = serve(&db, "api", &[]).await;
    let run = product::enqueue(&db.pool, org).await;
    // Clocks may differ by thirty seconds: it is taken for two more.
    let claims = json!({"sub": "oda", "role": "operator", "exp": get_current_timestamp() - 28});
    let token = signed_with(SECRET.1.as_bytes(), &claims);
    let client = Client::operator(&api).await.with_token(token);

    let mut events = client.follow(run).await;

    assert_eq!(soon(&mut events).await.unwrap()["status"], "queued");
    assert_eq!(soon(&mut events).await, None);
    product::eventually("the token is taken no longer", async || {
        client.get(&format!("/retention/runs/{run}")).await.0 == 401
    })
    .await;
}

#[tokio::test]
async fn run_of_another_organization_is_not_there_to_follow() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let (org, other) = (app.org("pro").await, app.org("pro").await);
    let api = serve(&db, "api", &[]).await;
    let run = product::enqueue(&db.pool, org).await;
    let stranger = Client::admin(&api, other).await;

    let (status, problem) = stranger.get(&format!("/retention/runs/{run}/events")).await;
    let nothing = format!("/retention/runs/{}/events", uuid::Uuid::new_v4());
    let (of_none, same) = stranger.get(&nothing).await;

    assert_eq!((status.as_u16(), of_none.as_u16()), (404, 404));
    assert_eq!(problem, same);
    let mut events = Client::operator(&api).await.follow(run).await;
    assert_eq!(soon(&mut events).await.unwrap()["status"], "queued");
}
