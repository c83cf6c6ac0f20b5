//! The main app's views when details are gone: everything else stays, and whatever is gone is said.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, serve, without},
    product::{self, Service},
};

/// What a purge of the payload changes in an incident's answer, and nothing else.
const CHANGED_BY_A_PURGE: [&str; 5] = [
    "drift_summary",
    "payload_available",
    "payload_state",
    "payload_purged_at",
    "notice",
];
const PURGED: &str = "Incident drift details were purged per retention policy.";

struct Scene {
    db: TestDatabase,
    app: App,
    org: Uuid,
    env: Uuid,
    client: Client,
    _service: Service,
}

impl Scene {
    async fn new() -> Self {
        let db = TestDatabase::new().await;
        let app = App::on(&db.pool);
        let org = app.org("pro").await;
        let env = app.env(org).await;
        let service = serve(&db, "api", &[]).await;
        let client = Client::admin(&service, org).await;
        Self {
            db,
            app,
            org,
            env,
            client,
            _service: service,
        }
    }

    /// An incident closed beyond its window, with payload, a full timeline and approvals: two old, one young.
    async fn expired_incident(&self) -> Uuid {
        let (org, app) = (self.org, &self.app);
        let incident = app
            .incident(org, self.env, "closed", Some("181 days"))
            .await;
        self.db
            .execute(&format!(
                "UPDATE incidents SET detected_at = now() - interval '190 days',
                        acknowledged_at = now() - interval '189 days', stabilized_at = now() - interval '188 days',
                        reconciled_at = now() - interval '187 days' WHERE id = '{incident}'"
            ))
            .await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", "179 days").await;
        app.approval(org, incident, "pending", "185 days").await;
        incident
    }

    async fn incident(&self, id: Uuid) -> Value {
        let path = format!("/orgs/{}/incidents/{id}", self.org);
        self.client.read(&path).await
    }

    async fn list(&self, of: &str) -> Value {
        self.client.read(&format!("/orgs/{}/{of}", self.org)).await
    }

    async fn purge(&self) {
        product::purge(&self.db.url, self.org).await;
    }
}

#[tokio::test]
async fn incident_with_its_payload_shows_it() {
    let scene = Scene::new().await;
    let id = scene.expired_incident().await;

    let incident = scene.incident(id).await;

    assert_eq!(incident["drift_summary"], json!({"workflows": []}));
    assert_eq!(incident["payload_available"], true);
    assert_eq!(incident["payload_state"], "available");
    assert_eq!(incident["payload_purged_at"], Value::Null);
    assert_eq!(incident["notice"], Value::Null);
    assert_eq!(incident["approvals"].as_array().unwrap().len(), 2);
    let environment = incident["links"]["environment"].as_str().unwrap();
    assert_eq!(
        scene.client.read(environment).await["id"],
        scene.env.to_string()
    );
}

#[tokio::test]
async fn purged_incident_says_so_and_keeps_everything_else() {
    let scene = Scene::new().await;
    let id = scene.expired_incident().await;
    let before = scene.incident(id).await;

    scene.purge().await;

    let after = scene.incident(id).await;
    assert_eq!(after["payload_available"], false);
    assert_eq!(after["payload_state"], "purged");
    assert_eq!(after["notice"], PURGED);
    assert!(after["payload_purged_at"].is_string());
    assert_eq!(after.get("drift_summary"), None);
    assert_eq!(
        without(after, &CHANGED_BY_A_PURGE),
        without(before, &CHANGED_BY_A_PURGE)
    );
}

#[tokio::test]
async fn approvals_that_went_are_absent_and_the_others_stay() {
    let scene = Scene::new().await;
    let id = scene.expired_incident().await;
    let gone = scene
        .app
        .approval(scene.org, id, "rejected", "181 days")
        .await;
    let before = scene.incident(id).await;

    scene.purge().await;

    let kept: Vec<_> = before["approvals"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|approval| approval["id"] != gone.to_string())
        .cloned()
        .collect();
    assert_eq!(kept.len(), 2);
    assert_eq!(scene.incident(id).await["approvals"], json!(kept));
}

#[tokio::test]
async fn missing_payload_that_no_purge_took_is_told_apart_from_a_purged_one() {
    let scene = Scene::new().await;
    let (org, env) = (scene.org, scene.env);
    let id = scene.app.incident(org, env, "detected", None).await;

    let incident = scene.incident(id).await;

    assert_eq!(incident["payload_available"], false);
    assert_eq!(incident["payload_state"], "missing");
    assert_eq!(incident["payload_purged_at"], Value::Null);
    assert_eq!(incident.get("drift_summary"), None);
    let notice = incident["notice"].as_str().unwrap();
    assert!(!notice.is_empty() && notice != PURGED, "{notice}");
}

#[tokio::test]
async fn payload_written_again_after_a_purge_is_available_and_keeps_the_stamp() {
    let scene = Scene::new().await;
    let id = scene.expired_incident().await;
    scene.purge().await;
    let stamp = scene.incident(id).await["payload_purged_at"].clone();

    scene.app.payload(id).await;

    let incident = scene.incident(id).await;
    assert_eq!(incident["payload_available"], true);
    assert_eq!(incident["payload_state"], "available");
    assert_eq!(incident["drift_summary"], json!({"workflows": []}));
    assert_eq!(incident["notice"], Value::Null);
    assert_eq!(incident["payload_purged_at"], stamp);
    scene.purge().await;
    assert_eq!(scene.incident(id).await["payload_purged_at"], stamp);
}

#[tokio::test]
async fn incident_list_shows_each_incident_once_however_it_is_paged() {
    let scene = Scene::new().await;
    let (db, org, env) = (&scene.db, scene.org, scene.env);
    // Many of them detected at the same instant.
    db.execute(&format!(
        "INSERT INTO incidents (org_id, env_id, title, status, detected_at, is_deleted)
         SELECT '{org}', '{env}', 'incident ' || n, (ARRAY['detected', 'acknowledged', 'closed'])[n % 3 + 1],
                now() - make_interval(hours => n / 7), n % 10 = 0
         FROM generate_series(1, 60) n"
    ))
    .await;
    let other = scene.app.org("pro").await;
    let elsewhere = scene.app.env(other).await;
    scene.app.incident(other, elsewhere, "detected", None).await;

    for (query, condition) in [
        ("", "true"),
        ("?status=closed", "status = 'closed'"),
        ("?status=nosuch", "false"),
    ] {
        let sql = format!(
            "SELECT coalesce(array_agg(id ORDER BY detected_at DESC, id DESC), '{{}}') FROM incidents
             WHERE org_id = '{org}' AND NOT is_deleted AND {condition}"
        );
        let expected: Vec<Uuid> = db.value(&sql).await;
        for limit in [1, 7, 200] {
            let path = format!("/orgs/{org}/incidents{query}");
            let listed = scene.client.pages(&path, limit).await;
            let listed: Vec<Uuid> = listed
                .iter()
                .map(|incident| crate::support::client::id(&incident["id"]))
                .collect();
            assert_eq!(listed, expected, "{query} by {limit}");
        }
    }
}

#[tokio::test]
async fn deleted_incident_is_not_there() {
    let scene = Scene::new().await;
    let id = scene.expired_incident().await;
    scene
        .db
        .execute("UPDATE incidents SET is_deleted = true, deleted_at = now()")
        .await;

    let (status, problem) = scene
        .client
        .get(&format!("/orgs/{}/incidents/{id}", scene.org))
        .await;

    assert_eq!(status, 404);
    assert_eq!(problem["type"], "urn:drift-retention:problem:not_found");
}

#[tokio::test]
async fn environments_are_the_same_before_and_after_a_purge() {
    let scene = Scene::new().await;
    let (org, app) = (scene.org, &scene.app);
    app.many_checks(org, scene.env, 50, "29 days", 1).await;
    let long_ago = app.env(org).await;
    app.many_checks(org, long_ago, 50, "300 days", 2).await;
    app.check(org, long_ago, "299 days", &["wf_a", "wf_b"])
        .await;
    app.env(org).await; // never checked
    let before = scene.list("environments").await;
    let detail = format!("environments/{long_ago}");
    let before_in_detail = scene.list(&detail).await;

    let rows: i64 = scene.db.value("SELECT count(*) FROM drift_checks").await;
    scene.purge().await;

    let left: i64 = scene.db.value("SELECT count(*) FROM drift_checks").await;
    assert!(left < rows, "something went");
    assert_eq!(scene.list("environments").await, before);
    assert_eq!(scene.list(&detail).await, before_in_detail);
    assert_eq!(before["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn environment_that_was_never_checked_says_so() {
    let scene = Scene::new().await;

    let listed = scene.list("environments").await;

    let environment = &listed["items"][0];
    assert_eq!(environment["id"], scene.env.to_string());
    assert_eq!(environment["drift_status"], "never_checked");
    assert_eq!(environment["last_checked_at"], Value::Null);
    let detail = scene.list(&format!("environments/{}", scene.env)).await;
    assert_eq!(detail["flags"], json!([]));
}

#[tokio::test]
async fn badge_comes_from_the_newest_check_that_is_not_dated_in_the_future() {
    let scene = Scene::new().await;
    let (org, env, app) = (scene.org, scene.env, &scene.app);
    app.check(org, env, "3 hours", &["wf_old"]).await;
    app.check(org, env, "2 hours", &[]).await;
    app.check(org, env, "-1 hour", &["wf_future"]).await;
    let badge = scene.list("environments").await["items"][0].clone();
    assert_eq!(badge["drift_status"], "in_sync");
    let only_future = app.env(org).await;
    app.check(org, only_future, "-1 hour", &["wf_future"]).await;

    let badge = scene.list(&format!("environments/{only_future}")).await;

    assert_eq!(badge["drift_status"], "never_checked");
    assert_eq!(badge["flags"], json!([]));
}

#[tokio::test]
async fn environment_in_detail_names_the_workflows_that_its_newest_check_flagged() {
    let scene = Scene::new().await;
    let (org, env, app) = (scene.org, scene.env, &scene.app);
    app.check(org, env, "2 hours", &["wf_gone"]).await;
    app.check(org, env, "1 hour", &["wf_b", "wf_a"]).await;

    let detail = scene.list(&format!("environments/{env}")).await;

    assert_eq!(detail["drift_status"], "drift");
    assert_eq!(detail["modified_count"], 2);
    assert_eq!(
        detail["flags"],
        json!([
            {"workflow_id": "wf_a", "workflow_name": null, "flag": "modified"},
            {"workflow_id": "wf_b", "workflow_name": null, "flag": "modified"},
        ])
    );
}

#[tokio::test]
async fn dashboard_counts_the_same_before_and_after_a_purge_but_for_what_was_purged() {
    let scene = Scene::new().await;
    let (org, env, app) = (scene.org, scene.env, &scene.app);
    scene.expired_incident().await;
    app.incident(org, env, "closed", Some("2 days")).await;
    app.incident(org, env, "detected", None).await;
    app.incident(org, env, "reconciled", None).await;
    app.many_checks(org, env, 20, "31 days", 1).await;
    app.env(org).await;
    let before = scene.list("drift/dashboard").await;
    assert_eq!(before["purged"]["incidents"], 0);
    assert_eq!(before["purged"]["last_verified_at"], Value::Null);

    scene.purge().await;

    let after = scene.list("drift/dashboard").await;
    assert_eq!(after["purged"]["incidents"], 1);
    assert_eq!(after["purged"]["rows"]["drift_checks"], 19);
    assert_eq!(after["purged"]["rows"]["incident_payloads"], 1);
    assert!(after["purged"]["last_verified_at"].is_string());
    assert_eq!(
        after["open_incidents_by_status"],
        json!({"detected": 1, "reconciled": 1})
    );
    assert_eq!(after["open_incidents_by_severity"], json!({"high": 2}));
    assert_eq!(
        after["environments_by_status"],
        json!({"in_sync": 1, "never_checked": 1})
    );
    let closed: i64 = after["weeks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|week| week["closed"].as_i64().unwrap())
        .sum();
    assert_eq!(closed, 1, "the other one was closed before these weeks");
    assert!(after["mean_seconds_to_close"].is_number());
    assert_eq!(without(after, &["purged"]), without(before, &["purged"]));
}
