//! `replica_url`: previews and gauges are read there, by sessions that can only read; everything else is not.

use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, SECRET, serve},
    product::{self, eventually, until_status},
};

/// The same organization here and there; what is expired differs, so that it shows which was read.
async fn primary_and_replica() -> (TestDatabase, TestDatabase, Uuid) {
    let (primary, replica) = (TestDatabase::new().await, TestDatabase::new().await);
    let org = App::on(&primary.pool).org_with_expired(11).await;
    replica
        .execute(&format!(
            "INSERT INTO organizations (id, name, plan) VALUES ('{org}', 'Org', 'pro')"
        ))
        .await;
    let app = App::on(&replica.pool);
    let env = app.env(org).await;
    app.many_checks(org, env, 4, "31 days", 1).await;
    (primary, replica, org)
}

/// As a hot standby is: nothing can be written.
fn read_only(db: &TestDatabase) -> String {
    format!("{}?options=-c%20default_transaction_read_only%3Don", db.url)
}

#[tokio::test]
async fn previews_and_gauges_are_read_from_the_replica_and_purges_are_not() {
    let (primary, replica, org) = primary_and_replica().await;
    let url = read_only(&replica);
    let env = [("DRIFT_RETENTION_REPLICA_URL", url.as_str())];
    let service = serve(&primary, "api,worker", &env).await;
    let client = Client::operator(&service).await;

    let preview = client.read(&format!("/orgs/{org}/retention/preview")).await;
    assert_eq!(preview["tables"]["drift_checks"], 3);
    eventually("the gauges are read", async || {
        let gauge = "drift_retention_organizations_overdue";
        service.metric(gauge).await == Some(1.0)
    })
    .await;

    let run = product::enqueue(&primary.pool, org).await;
    until_status(&primary.pool, run, "succeeded").await;
    let left = "SELECT count(*) FROM drift_checks";
    assert_eq!(primary.value::<i64>(left).await, 1);
    assert_eq!(replica.value::<i64>(left).await, 4);
}

#[tokio::test]
async fn command_line_previews_from_the_replica() {
    let (primary, replica, org) = primary_and_replica().await;
    let output = product::command(&primary.url)
        .args(["preview", "--org", &org.to_string(), "--json"])
        .env("DRIFT_RETENTION_REPLICA_URL", read_only(&replica))
        .env(SECRET.0, SECRET.1)
        .output()
        .await
        .unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["organizations"][0]["tables"]["drift_checks"], 3);
}
