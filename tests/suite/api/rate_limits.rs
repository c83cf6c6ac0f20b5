//! How often one organization, or one address, may ask: more is refused, and nobody else notices.

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{
    TestDatabase,
    api::Answer,
    app::App,
    client::{Client, answer, serve},
    console::{Console, Who},
    product,
    visitor::Visitor,
};

#[track_caller]
fn assert_refused(answer: &Answer, says: &str) {
    assert_eq!(answer.status, 429, "{}", answer.text());
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait), "{wait}");
    assert!(answer.text().contains(says), "{}", answer.text());
}

#[tokio::test]
async fn purges_of_one_organization_are_bounded_by_the_minute_and_leave_no_record_beyond() {
    let env = [("DRIFT_RETENTION_HTTP__PURGES_PER_MINUTE", "3")];
    let console = Console::serving("api", &env).await;
    let db = &console.db;
    let app = App::on(&db.pool);
    let (org, other) = (app.org("pro").await, app.org("pro").await);
    let admin = Client::admin(&console.service, org).await;
    let purge = async |client: &Client, org| {
        let path = format!("/orgs/{org}/retention/purge");
        answer(client.request(Method::POST, &path).json(&json!({}))).await
    };
    for _ in 0..3 {
        assert_eq!(purge(&admin, org).await.0, StatusCode::ACCEPTED);
    }
    let refused = join_all((0..40).map(|_| purge(&admin, org))).await;
    for (status, problem) in refused {
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("nothing was enqueued"), "{detail}");
    }
    // By whichever door. What operators ask for counts for itself.
    let operator = Client::operator(&console.service).await;
    assert_eq!(purge(&operator, org).await.0, StatusCode::ACCEPTED);
    let mut visitor = Visitor::signed_in(&console, Who::Admin(org)).await;
    let path = format!("/console/orgs/{org}/retention/purge");
    let csrf = visitor.csrf(&path).await;
    let page = visitor.post(&path, &[("csrf", &csrf)]).await;
    assert_refused(&page, "Too many purges of this organization were requested");

    assert_eq!(purge(&operator, other).await.0, StatusCode::ACCEPTED);
    let recorded =
        format!("SELECT count(*) FROM retention.operator_actions WHERE org_id = '{org}'");
    assert!(db.value::<i64>(&recorded).await <= 3);
    let counted = r#"drift_retention_requests_refused_total{limit="purges"}"#;
    assert_eq!(console.service.metric(counted).await, Some(41.0));
}

#[tokio::test]
async fn asking_again_for_a_run_leaves_one_record_a_minute() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let service = serve(&db, "api", &[]).await;
    let admin = Client::admin(&service, org).await;
    let path = format!("/orgs/{org}/retention/purge");
    let purge = || {
        answer(
            admin
                .request(Method::POST, &path)
                .json(&json!({"reason": "again"})),
        )
    };
    assert_eq!(purge().await.1["coalesced"], false);
    for (status, accepted) in join_all((0..8).map(|_| purge())).await {
        assert_eq!(status, StatusCode::ACCEPTED);
        assert_eq!(accepted["coalesced"], true);
    }
    let recorded =
        "SELECT count(*) FROM retention.operator_actions WHERE (details ->> 'coalesced')::boolean";
    assert_eq!(db.value::<i64>(recorded).await, 1);
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM retention.operator_actions")
            .await,
        2
    );
}

#[tokio::test]
async fn requests_of_one_organization_are_bounded_by_the_minute_and_nobody_else_notices() {
    let env = [("DRIFT_RETENTION_HTTP__REQUESTS_PER_MINUTE", "20")];
    let console = Console::serving("api", &env).await;
    let app = App::on(&console.db.pool);
    let (org, other) = (app.org("pro").await, app.org("pro").await);
    let admin = Client::admin(&console.service, org).await;
    let mut visitor = Visitor::signed_in(&console, Who::Admin(org)).await;
    let path = format!("/orgs/{org}/retention/policy");
    let answers = join_all((0..40).map(|_| admin.get(&path))).await;
    let refused = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::TOO_MANY_REQUESTS);
    let refused = refused.count();
    assert!((20..40).contains(&refused), "{refused}");
    let page = visitor.get(&format!("/console/orgs/{org}/retention")).await;
    assert_refused(&page, "Your organization sends too many requests");

    let neighbour = Client::admin(&console.service, other).await;
    neighbour
        .read(&format!("/orgs/{other}/retention/policy"))
        .await;
    let operator = Client::operator(&console.service).await;
    for _ in 0..30 {
        operator.read(&path).await;
    }
}

#[tokio::test]
async fn sign_ins_from_one_address_are_bounded_by_the_minute() {
    let env = [
        ("DRIFT_RETENTION_HTTP__TRUSTED_PROXIES", "127.0.0.1"),
        ("DRIFT_RETENTION_HTTP__SIGN_INS_PER_MINUTE", "6"),
    ];
    let console = Console::serving("api", &env).await;
    let try_from = async |address: &'static str| {
        let mut visitor = Visitor::of(&console).saying("x-forwarded-for", address);
        let csrf = visitor.csrf("/signin").await;
        visitor
            .post("/signin", &[("csrf", &csrf), ("token", "guessed")])
            .await
    };
    for _ in 0..6 {
        assert_eq!(try_from("192.0.2.7").await.status, 401);
    }
    assert_refused(
        &try_from("192.0.2.7").await,
        "Too many sign-ins from your address",
    );
    // Whatever it claims to have come from before.
    assert_eq!(try_from("203.0.113.1, 192.0.2.7").await.status, 429);
    assert_eq!(try_from("192.0.2.8").await.status, 401);
}

#[tokio::test]
async fn streams_of_one_organization_are_bounded_and_free_their_places() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let service = serve(&db, "api", &[]).await;
    let admin = Client::admin(&service, org).await;
    let run = product::enqueue(&db.pool, org).await;
    let path = format!("/retention/runs/{run}/events");
    let follow = async || admin.request(Method::GET, &path).send().await.unwrap();
    let mut streams = join_all((0..50).map(|_| follow())).await;
    assert!(
        streams
            .iter()
            .all(|stream| stream.status() == StatusCode::OK)
    );
    assert_eq!(follow().await.status(), StatusCode::TOO_MANY_REQUESTS);
    let operator = Client::operator(&service).await;
    let theirs = operator.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(theirs.status(), StatusCode::OK);
    streams.pop();
    product::eventually("the place is free", async || {
        follow().await.status() == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn repeated_request_is_answered_with_its_run_beyond_the_limit_too() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let env = [("DRIFT_RETENTION_HTTP__PURGES_PER_MINUTE", "1")];
    let service = serve(&db, "api", &env).await;
    let admin = Client::admin(&service, org).await;
    let path = format!("/orgs/{org}/retention/purge");
    let purge = async |key: &str| {
        let request = admin.request(Method::POST, &path);
        answer(request.header("idempotency-key", key)).await
    };
    let (status, first) = purge("one").await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(purge("two").await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(purge("one").await, (StatusCode::ACCEPTED, first));
}
