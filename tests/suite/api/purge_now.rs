//! Purge now over HTTP: it enqueues and answers, it never purges itself, and no request is lost.

use std::collections::{HashMap, HashSet};

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, answer, id, serve, without},
    ledger,
    product::{self, until_status},
};

fn path(org: Uuid) -> String {
    format!("/orgs/{org}/retention/purge")
}

async fn ask(client: &Client, org: Uuid) -> Value {
    let (status, body) = client.post(&path(org), &json!({})).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    body
}

async fn ask_under(client: &Client, org: Uuid, key: &str) -> Value {
    let request = client.request(Method::POST, &path(org));
    let (status, body) = answer(request.header("Idempotency-Key", key)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    body
}

#[tokio::test]
async fn purge_now_enqueues_and_purges_nothing_itself() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let before = ledger::rows(&db.pool).await;
    let service = serve(&db, "api,scheduler", &[]).await;
    let client = Client::admin(&service, org).await;

    let body = ask(&client, org).await;

    let run = id(&body["run_id"]);
    assert_eq!(
        body,
        json!({"run_id": run, "status": "queued", "coalesced": false})
    );
    assert_eq!(ledger::rows(&db.pool).await, before);
    assert_eq!(product::status(&db.pool, run).await, "queued");
    assert_eq!(
        ledger::run_column(&db.pool, run, "trigger").await,
        "purge_now"
    );
    assert_eq!(
        ledger::run_column(&db.pool, run, "requested_by").await,
        "ada"
    );
}

#[tokio::test]
async fn accepted_purge_is_done_by_a_worker_elsewhere() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let before = ledger::rows(&db.pool).await;
    let service = serve(&db, "api", &[]).await;
    let _worker = serve(&db, "worker", &[]).await;
    let client = Client::admin(&service, org).await;

    let run = id(&ask(&client, org).await["run_id"]);

    until_status(&db.pool, run, "succeeded").await;
    ledger::assert_exact(&db.pool, &before).await;
    let runs = client.read(&format!("/orgs/{org}/retention/runs")).await;
    assert_eq!(runs["items"][0]["id"], run.to_string());
    assert_eq!(runs["items"][0]["steps"][0]["rows_purged"], 10);
}

#[tokio::test]
async fn second_request_meets_the_first_ones_run() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::admin(&service, org).await;
    let first = ask(&client, org).await;

    let second = ask(&client, org).await;

    assert_eq!(
        second,
        json!({"run_id": first["run_id"], "status": "queued", "coalesced": true})
    );
}

#[tokio::test]
async fn two_hundred_requests_over_twenty_organizations_make_twenty_runs() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let mut orgs = Vec::new();
    for _ in 0..20 {
        orgs.push(app.org("pro").await);
    }
    let service = serve(&db, "api", &[]).await;
    let client = Client::operator(&service).await;

    let requests = (0..200).map(|n| {
        let (client, org) = (&client, orgs[n % orgs.len()]);
        async move { (org, ask(client, org).await) }
    });
    let answers = join_all(requests).await;

    let mut runs: HashMap<Uuid, HashSet<Uuid>> = HashMap::new();
    for (org, body) in &answers {
        runs.entry(*org).or_default().insert(id(&body["run_id"]));
    }
    assert_eq!(runs.len(), 20);
    assert!(runs.values().all(|of_org| of_org.len() == 1), "{runs:?}");
    let coalesced = answers.iter().filter(|(_, body)| body["coalesced"] == true);
    assert_eq!(coalesced.count(), 180);
    let recorded: Vec<i64> = db
        .value(
            "SELECT ARRAY[(SELECT count(*) FROM retention.purge_runs WHERE status = 'queued'),
                          (SELECT count(*) FROM apalis.jobs),
                          (SELECT count(*) FROM retention.operator_actions)]",
        )
        .await;
    // A run's first request, and one a minute of those that met it.
    assert_eq!(
        recorded,
        [20, 20, 40],
        "runs, deliveries, records of who asked"
    );
}

#[tokio::test]
async fn repeated_request_is_answered_with_its_run_even_when_that_is_final() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(3).await;
    let service = serve(&db, "api,worker", &[]).await;
    let client = Client::admin(&service, org).await;
    let first = ask_under(&client, org, "one").await;
    let run = id(&first["run_id"]);
    until_status(&db.pool, run, "succeeded").await;

    let again = ask_under(&client, org, "one").await;
    let other = ask_under(&client, org, "two").await;

    assert_eq!(
        again,
        json!({"run_id": run, "status": "succeeded", "coalesced": false})
    );
    assert_ne!(other["run_id"], first["run_id"]);
    assert_eq!(other["coalesced"], false);
}

#[tokio::test]
async fn key_of_one_organization_means_nothing_to_another() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let (one, other) = (app.org("pro").await, app.org("pro").await);
    let service = serve(&db, "api", &[]).await;
    let client = Client::operator(&service).await;

    let of_one = ask_under(&client, one, "same").await;
    let of_other = ask_under(&client, other, "same").await;

    assert_ne!(of_one["run_id"], of_other["run_id"]);
    assert_eq!(of_other["coalesced"], false);
}

#[tokio::test]
async fn twenty_requests_at_once_under_one_key_are_one() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::admin(&service, org).await;

    let answers = join_all((0..20).map(|_| ask_under(&client, org, "double-click"))).await;

    for body in &answers {
        assert_eq!(body, &answers[0]);
    }
    assert_eq!(answers[0]["coalesced"], false);
    let recorded: i64 = db
        .value("SELECT count(*) FROM retention.operator_actions")
        .await;
    assert_eq!(recorded, 1);
}

#[tokio::test]
async fn who_asked_and_why_is_recorded_for_every_request() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let service = serve(&db, "api", &[]).await;
    let admin = Client::admin(&service, org).await;
    let operator = Client::operator(&service).await;

    let because = json!({"reason": "asked by the customer"});
    let (_, first) = admin.post(&path(org), &because).await;
    ask(&operator, org).await;

    let recorded: Value = db
        .value(
            "SELECT jsonb_agg(jsonb_build_array(actor, action, run_id, org_id, reason, details) ORDER BY id)
             FROM retention.operator_actions",
        )
        .await;
    let run = &first["run_id"];
    assert_eq!(
        recorded,
        json!([
            ["ada", "purge_now", run, org, "asked by the customer", {"coalesced": false}],
            ["oda", "purge_now", run, org, null, {"coalesced": true}],
        ])
    );
}

#[tokio::test]
async fn refused_request_leaves_no_trace() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::operator(&service).await;
    let nobody = Uuid::new_v4();
    let too_long = "k".repeat(201);

    let unknown = client.post(&path(nobody), &json!({})).await;
    let bad_key = client.request(Method::POST, &path(org));
    let bad_key = answer(bad_key.header("Idempotency-Key", too_long)).await;

    assert_eq!(unknown.0, 404, "{}", unknown.1);
    assert_eq!(bad_key.0, 400, "{}", bad_key.1);
    let left: i64 = db
        .value(
            "SELECT (SELECT count(*) FROM retention.purge_runs) + (SELECT count(*) FROM retention.operator_actions)
                  + (SELECT count(*) FROM retention.idempotency_keys)",
        )
        .await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn policy_and_preview_are_those_of_the_command_line() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_all_kinds_expired(11).await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::admin(&service, org).await;
    let of = ["--org", &org.to_string(), "--json"];

    let policy = client.read(&format!("/orgs/{org}/retention/policy")).await;
    let preview = client.read(&format!("/orgs/{org}/retention/preview")).await;

    let printed = product::json(&db.url, &[&["policy"], &of[..]].concat()).await;
    assert!(policy["cutoffs"]["drift_checks"].is_string(), "{policy}");
    assert_eq!(without(policy, &["cutoffs"]), printed);
    let printed = product::json(&db.url, &[&["preview"], &of[..]].concat()).await;
    assert_eq!(preview, printed["organizations"][0]);
    assert_eq!(
        preview["tables"],
        json!({"drift_checks": 10, "workflow_drift_flags": 20, "incident_payloads": 1, "approvals": 1})
    );
}

#[tokio::test]
async fn policy_without_rules_has_no_cutoffs_but_for_checks() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("free").await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::admin(&service, org).await;

    let policy = client.read(&format!("/orgs/{org}/retention/policy")).await;

    assert_eq!(
        policy["windows_days"],
        json!({"drift_checks": 7, "incident_payloads": null, "approvals": null})
    );
    assert_eq!(policy["cutoffs"]["incident_payloads"], Value::Null);
    assert_eq!(policy["cutoffs"]["approvals"], Value::Null);
}

#[tokio::test]
async fn unknown_plan_is_said_by_policy_and_preview() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("legacy").await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::admin(&service, org).await;

    let (status, problem) = client.get(&format!("/orgs/{org}/retention/policy")).await;
    let preview = client.read(&format!("/orgs/{org}/retention/preview")).await;

    assert_eq!(status, 409);
    assert_eq!(problem["type"], "urn:drift-retention:problem:conflict");
    assert!(
        problem["detail"].as_str().unwrap().contains("legacy"),
        "{problem}"
    );
    assert_eq!(preview["error_kind"], "policy_unresolved");
    assert_eq!(preview["plan"], Value::Null);
    assert_eq!(preview["tables"]["drift_checks"], 0);
}
