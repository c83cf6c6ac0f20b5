//! `replica_url`: previews and gauges are read there, by sessions that can only read; everything else is not.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, SECRET, serve},
    product::{self, eventually, until_status},
    text::stdout,
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
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["organizations"][0]["tables"]["drift_checks"], 3);
}

/// Of a replica as [`primary_and_replica`] makes it; the primary has others.
const ON_THE_REPLICA: i64 = 3;
const ON_THE_PRIMARY: i64 = 10;

async fn preview(client: &Client, org: Uuid) -> i64 {
    let preview = client.read(&format!("/orgs/{org}/retention/preview")).await;
    preview["tables"]["drift_checks"].as_i64().unwrap()
}

/// From now on so many statements that read checks end as Postgres ends them for a replica's own sake, then none. They only read:
/// advisory locks count them, which stay when a transaction fails.
async fn cancel(replica: &TestDatabase, lock: u32, statements: u32) {
    replica
        .execute(&format!(
            "CREATE OR REPLACE FUNCTION public.conflict() RETURNS boolean LANGUAGE plpgsql AS $$
             DECLARE
                 cancelled int := (SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                                   WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.classid = {lock});
             BEGIN
                 IF cancelled < {statements} THEN
                     PERFORM pg_advisory_lock({lock}, cancelled);
                     RAISE 'canceling statement due to conflict with recovery' USING ERRCODE = '40001';
                 END IF;
                 RETURN true;
             END $$;
             CREATE OR REPLACE VIEW main_app.drift_checks AS
                 SELECT c.ctid, c.id, c.org_id, c.env_id, c.checked_at, c.status, c.modified_count, c.not_in_git_count,
                        c.unknown_count, c.summary_json
                 FROM public.drift_checks c WHERE (SELECT public.conflict())"
        ))
        .await;
}

#[tokio::test]
async fn statement_that_the_replica_cancels_is_tried_again_there_and_then_on_the_primary() {
    let (primary, replica, org) = primary_and_replica().await;
    let url = read_only(&replica);
    let env = [("DRIFT_RETENTION_REPLICA_URL", url.as_str())];
    let service = serve(&primary, "api", &env).await;
    let client = Client::operator(&service).await;
    assert_eq!(preview(&client, org).await, ON_THE_REPLICA);
    cancel(&replica, 1, 1).await;
    assert_eq!(preview(&client, org).await, ON_THE_REPLICA);
    cancel(&replica, 2, 2).await;
    assert_eq!(preview(&client, org).await, ON_THE_PRIMARY);
    // It was at work all the time: nobody leaves it alone for that.
    assert_eq!(preview(&client, org).await, ON_THE_REPLICA);
}

#[tokio::test]
async fn replica_that_is_down_is_missed_by_nobody() {
    let (primary, _, org) = primary_and_replica().await;
    let nowhere = "postgres://nobody@127.0.0.1:1/nothing";
    let env = [("DRIFT_RETENTION_REPLICA_URL", nowhere)];
    let service = serve(&primary, "api", &env).await;
    let client = Client::operator(&service).await;
    for _ in 0..3 {
        assert_eq!(preview(&client, org).await, ON_THE_PRIMARY);
    }
    eventually("the gauges are read", async || {
        let gauge = "drift_retention_organizations_overdue";
        service.metric(gauge).await == Some(1.0)
    })
    .await;
    let output = product::command(&primary.url)
        .args(["preview", "--all", "--json"])
        .envs(env)
        .output()
        .await
        .unwrap();
    let shown: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        shown["organizations"][0]["tables"]["drift_checks"],
        ON_THE_PRIMARY
    );
}

#[tokio::test]
async fn organization_that_the_replica_has_not_heard_of_is_read_on_the_primary() {
    let (primary, replica, _) = primary_and_replica().await;
    let new = App::on(&primary.pool).org_with_expired(6).await;
    let env = [("DRIFT_RETENTION_REPLICA_URL", replica.url.as_str())];
    let service = serve(&primary, "api", &env).await;
    let client = Client::operator(&service).await;
    assert_eq!(preview(&client, new).await, 5);
    let (status, _) = client
        .get(&format!("/orgs/{}/retention/preview", Uuid::new_v4()))
        .await;
    assert_eq!(status, 404);
}
