//! Reads that take long, and requests that wait: others are answered meanwhile, runs go on, and what nobody waits for any more
//! ends in Postgres too.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, answer, serve},
    console::{Console, Who},
    held::Held,
    ledger,
    product::{self, eventually, until_status},
    visitor::Visitor,
};

/// Statements of previews that Postgres is at.
const COUNTING: &str = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '-- purge.%count_expired%'";

async fn preview(client: &Client, org: Uuid) -> reqwest::Response {
    let path = format!("/orgs/{org}/retention/preview");
    client.request(Method::GET, &path).send().await.unwrap()
}

#[tokio::test]
async fn fifty_slow_previews_keep_nobody_else_waiting_and_a_purge_goes_on() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let large = app.org_with_expired(10).await;
    let purged = app.org("free").await;
    let env = app.env(purged).await;
    app.many_checks(purged, env, 2_000, "8 days", 0).await;
    let service = serve(&db, "api,scheduler,worker", &[]).await;
    let viewer = Client::admin(&service, large).await;
    let other = Client::admin(&service, purged).await;
    let before = ledger::rows(&db.pool).await;
    // No preview of a plan with approvals comes to its end.
    let held = Held::by(&db, "LOCK TABLE approvals IN ACCESS EXCLUSIVE MODE").await;

    let slow = async {
        let previews =
            join_all((0..50).map(|_| timeout(Duration::from_secs(10), preview(&viewer, large))));
        let answers = previews.await;
        let refused: Vec<_> = answers
            .iter()
            .filter_map(|answer| answer.as_ref().ok())
            .collect();
        assert_eq!(
            refused.len(),
            49,
            "one of an organization is counted at a time"
        );
        for answer in refused {
            assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
            assert!(answer.headers().contains_key("retry-after"));
        }
    };
    let others = async {
        eventually("a preview is at work", async || {
            db.value::<i64>(COUNTING).await == 1
        })
        .await;
        let run = product::enqueue(&db.pool, purged).await;
        for _ in 0..20 {
            let since = Instant::now();
            other
                .read(&format!("/orgs/{purged}/retention/policy"))
                .await;
            assert!(
                since.elapsed() < Duration::from_secs(1),
                "{:?}",
                since.elapsed()
            );
            assert_eq!(service.get("/readyz").await.unwrap().status(), 200);
        }
        until_status(&db.pool, run, "succeeded").await;
    };
    tokio::join!(slow, others);
    held.rollback().await;
    ledger::assert_exact(&db.pool, &before).await;
}

#[tokio::test]
async fn few_organizations_count_at_once_and_the_others_are_told_when_to_come_back() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let service = serve(&db, "api", &[]).await;
    let operator = Client::operator(&service).await;
    let mut orgs = Vec::new();
    for _ in 0..5 {
        orgs.push(app.org("pro").await);
    }
    let held = Held::by(&db, "LOCK TABLE approvals IN ACCESS EXCLUSIVE MODE").await;
    let mut previews = Vec::new();
    for org in &orgs[..3] {
        let (operator, org) = (operator.clone(), *org);
        previews.push(tokio::spawn(async move {
            preview(&operator, org).await.status()
        }));
    }
    eventually("three count", async || db.value::<i64>(COUNTING).await == 3).await;
    for (path, org) in [("retention/preview", orgs[3]), ("drift/dashboard", orgs[4])] {
        let refused = operator.request(Method::GET, &format!("/orgs/{org}/{path}"));
        let (status, problem) = answer(refused).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{problem}");
        assert_eq!(
            problem["type"],
            "urn:drift-retention:problem:too_many_requests"
        );
    }
    held.rollback().await;
    for preview in previews {
        assert_eq!(preview.await.unwrap(), StatusCode::OK);
    }
    for org in orgs {
        assert_eq!(preview(&operator, org).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn statement_of_a_closed_request_ends_within_a_second() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let service = serve(&db, "api", &[]).await;
    let viewer = Client::admin(&service, org).await;
    let held = Held::by(
        &db,
        "LOCK TABLE approvals, incidents IN ACCESS EXCLUSIVE MODE",
    )
    .await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE application_name = 'drift-retention' AND wait_event_type = 'Lock'
                     AND (query LIKE '-- purge.%count_expired%' OR query LIKE '-- drift.%')";
    for path in [
        "retention/preview",
        "retention/preview?exact=true",
        "drift/dashboard",
    ] {
        let (viewer, path) = (viewer.clone(), format!("/orgs/{org}/{path}"));
        let asking = tokio::spawn(async move { viewer.request(Method::GET, &path).send().await });
        eventually("it is at work", async || {
            db.value::<i64>(waiting).await == 1
        })
        .await;
        asking.abort();
        let closed = Instant::now();
        eventually("it has ended", async || db.value::<i64>(waiting).await == 0).await;
        assert!(
            closed.elapsed() < Duration::from_secs(1),
            "{:?}",
            closed.elapsed()
        );
    }
    held.rollback().await;
    assert_eq!(preview(&viewer, org).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn one_organizations_slow_lists_keep_no_other_organization_waiting() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let (large, small) = (app.org("pro").await, app.org("pro").await);
    let env = app.env(large).await;
    // None of them is what the list asks for: each request looks at all of them.
    db.execute(&format!(
        "INSERT INTO incidents (org_id, env_id, title, status)
         SELECT '{large}', '{env}', 'Drift', 'detected' FROM generate_series(1, 100000)"
    ))
    .await;
    let service = serve(&db, "api", &[]).await;
    let (viewer, other) = (
        Client::admin(&service, large).await,
        Client::admin(&service, small).await,
    );
    let path = format!("/orgs/{large}/incidents?status=closed");
    let hammering: Vec<_> = (0..100)
        .map(|_| {
            let (viewer, path) = (viewer.clone(), path.clone());
            tokio::spawn(async move {
                loop {
                    let _ = viewer.request(Method::GET, &path).send().await;
                }
            })
        })
        .collect();
    for _ in 0..10 {
        let since = Instant::now();
        other.read(&format!("/orgs/{small}/environments")).await;
        assert!(
            since.elapsed() < Duration::from_secs(3),
            "{:?}",
            since.elapsed()
        );
    }
    for hammering in hammering {
        hammering.abort();
    }
}

#[tokio::test]
async fn requests_that_wait_for_the_database_take_no_connection_of_runs_and_others_are_told_to_come_back()
 {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(300).await;
    let service = serve(&db, "api,scheduler,worker", &[]).await;
    let operator = Client::operator(&service).await;
    // Lists of incidents wait for it, runs that purge checks alone do not.
    let free = app.org("free").await;
    let env = app.env(free).await;
    app.many_checks(free, env, 500, "8 days", 0).await;
    let held = Held::by(&db, "LOCK TABLE incidents IN ACCESS EXCLUSIVE MODE").await;
    let path = format!("/orgs/{org}/incidents");
    let requests: Vec<_> = (0..20)
        .map(|_| {
            let (operator, path) = (operator.clone(), path.clone());
            tokio::spawn(async move { operator.request(Method::GET, &path).send().await.unwrap() })
        })
        .collect();
    let run = product::enqueue(&db.pool, free).await;
    until_status(&db.pool, run, "succeeded").await;
    assert_eq!(service.get("/readyz").await.unwrap().status(), 200);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '-- drift.select_incidents%' AND wait_event_type = 'Lock'";
    assert!(db.value::<i64>(waiting).await > 0);
    // Those that have no connection give up before the lock is gone.
    eventually("the service says that it is busy", async || {
        requests
            .iter()
            .filter(|request| request.is_finished())
            .count()
            > 0
    })
    .await;
    held.rollback().await;
    let mut busy = 0;
    for request in requests {
        let answer = request.await.unwrap();
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(answer.headers()["retry-after"], "1");
            busy += 1;
        } else {
            assert_eq!(answer.status(), StatusCode::OK);
        }
    }
    assert!((1..20).contains(&busy), "{busy}");
}

#[tokio::test]
async fn readiness_is_looked_at_once_for_all_who_ask_at_the_same_time() {
    let db = TestDatabase::new().await;
    let service = serve(&db, "api", &[]).await;
    let answers = join_all((0..300).map(async |_| {
        let since = Instant::now();
        let status = service.get("/readyz").await.unwrap().status();
        (status, since.elapsed())
    }));
    for (status, elapsed) in answers.await {
        assert_eq!(status, StatusCode::OK);
        assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    }
}

#[tokio::test]
async fn preview_counts_a_hundred_thousand_rows_of_a_table_and_all_of_them_when_asked() {
    let console = Console::serving("api", &[]).await;
    let db = &console.db;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let (one, two) = (app.env(org).await, app.env(org).await);
    app.many_checks(org, one, 100_000, "31 days", 0).await;
    app.many_checks(org, two, 102, "31 days", 3).await;
    let operator = Client::operator(&console.service).await;
    let path = format!("/orgs/{org}/retention/preview");

    let bounded = operator.read(&path).await;
    assert_eq!(bounded["tables"]["drift_checks"], 100_000);
    assert_eq!(
        bounded["at_least"],
        json!(["drift_checks", "workflow_drift_flags"])
    );
    let exact = operator.read(&format!("{path}?exact=true")).await;
    assert_eq!(exact["tables"]["drift_checks"], 100_100);
    assert_eq!(exact["tables"]["workflow_drift_flags"], 303);
    assert!(exact.get("at_least").is_none(), "{exact}");
    let command = product::json(&db.url, &["preview", "--org", &org.to_string(), "--json"]).await;
    assert_eq!(command["organizations"][0], exact);

    let mut visitor = Visitor::signed_in(&console, Who::Operator).await;
    let page = visitor.get(&format!("/console{path}")).await.text();
    assert!(
        page.contains("more than 100 000") && page.contains("Count exactly"),
        "{page}"
    );
    let page = visitor
        .get(&format!("/console{path}?exact=true"))
        .await
        .text();
    assert!(
        page.contains("100 100") && !page.contains("more than"),
        "{page}"
    );

    // One row less than where counting stops is exact.
    db.execute(&format!(
        "DELETE FROM drift_checks WHERE id IN (SELECT id FROM drift_checks WHERE env_id = '{one}' ORDER BY checked_at LIMIT 100)"
    ))
    .await;
    let bounded = operator.read(&path).await;
    assert_eq!(bounded["tables"]["drift_checks"], 100_000);
    assert!(bounded.get("at_least").is_none(), "{bounded}");
}
