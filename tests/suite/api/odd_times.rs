//! Times that Postgres can hold and nobody expects, infinite ones above all: every view answers.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, serve},
    product,
};

/// Infinite both ways, and finite beyond what four digits of a year can say.
const ODD: [&str; 4] = ["infinity", "-infinity", "290000-01-01", "4000-01-01 BC"];

/// Every view of one organization with one incident and one environment.
async fn all_answer(client: &Client, org: Uuid, env: Uuid, incident: Uuid, what: &str) {
    for view in [
        "environments".to_owned(),
        format!("environments/{env}"),
        "incidents".to_owned(),
        format!("incidents/{incident}"),
        "drift/dashboard".to_owned(),
        "retention/preview".to_owned(),
    ] {
        let (status, body) = client.get(&format!("/orgs/{org}/{view}")).await;
        assert_eq!(status, 200, "{what}, {view}: {body}");
    }
}

#[tokio::test]
async fn no_view_fails_on_a_time_that_is_not_one() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    app.check(org, env, "1 hour", &["wf_a"]).await;
    let incident = app.incident(org, env, "closed", Some("2 days")).await;
    app.payload(incident).await;
    app.approval(org, incident, "approved", "1 day").await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::admin(&service, org).await;

    for (table, column) in [
        ("drift_checks", "checked_at"),
        ("incidents", "detected_at"),
        ("incidents", "acknowledged_at"),
        ("incidents", "stabilized_at"),
        ("incidents", "reconciled_at"),
        ("incidents", "closed_at"),
        ("incidents", "payload_purged_at"),
        ("incident_payloads", "created_at"),
        ("approvals", "created_at"),
        ("approvals", "decided_at"),
    ] {
        for odd in ODD {
            db.execute(&format!(
                "CREATE TABLE before AS SELECT {column} AS at FROM {table};
                 UPDATE {table} SET {column} = '{odd}'"
            ))
            .await;
            all_answer(
                &client,
                org,
                env,
                incident,
                &format!("{table}.{column} {odd}"),
            )
            .await;
            db.execute(&format!(
                "UPDATE {table} SET {column} = (SELECT at FROM before); DROP TABLE before"
            ))
            .await;
        }
    }
}

#[tokio::test]
async fn list_and_dashboard_agree_on_a_check_of_no_time() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    app.check(org, env, "1 hour", &["wf_a"]).await;
    db.execute("UPDATE drift_checks SET checked_at = '-infinity'")
        .await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::admin(&service, org).await;

    let listed = client.read(&format!("/orgs/{org}/environments")).await;
    let dashboard = client.read(&format!("/orgs/{org}/drift/dashboard")).await;

    let status = listed["items"][0]["drift_status"].as_str().unwrap();
    assert_eq!(
        dashboard["environments_by_status"][status], 1,
        "{dashboard}"
    );
}

#[tokio::test]
async fn payload_closed_at_minus_infinity_is_shown_as_before_by_a_purge() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let incident = app.incident(org, env, "closed", Some("2 days")).await;
    app.payload(incident).await;
    db.execute("UPDATE incidents SET closed_at = '-infinity'")
        .await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::admin(&service, org).await;

    product::purge(&db.url, org).await;

    let shown = client
        .read(&format!("/orgs/{org}/incidents/{incident}"))
        .await;
    assert_eq!(shown["closed_at"], Value::Null);
    assert_eq!(shown["payload_state"], "purged", "older than any cutoff");
}
