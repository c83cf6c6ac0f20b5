//! Payloads that stand in columns of the incident, in a table of their own, or in both: readers see one, a purge takes
//! all, and one that is written again goes on the next run.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    client::{Client, serve},
    runs,
    workflowops::{self, CASCADES},
};

/// An expired incident of the tenant whose payload is stored so.
async fn expired(db: &TestDatabase, tenant: Uuid, stored: &str) -> Uuid {
    db.value(&format!(
        "SELECT id FROM drift_incidents
         WHERE tenant_id = '{tenant}' AND title = '{stored}' AND status = 'closed' AND payload_purged_at IS NULL
           AND NOT is_deleted AND closed_at < now() - interval '2555 days'"
    ))
    .await
}

/// When the incident's payload was purged, as text.
async fn stamp(db: &TestDatabase, incident: Uuid) -> Option<String> {
    db.value(&format!(
        "SELECT payload_purged_at::text FROM drift_incidents WHERE id = '{incident}'"
    ))
    .await
}

async fn has_payload(db: &TestDatabase, incident: Uuid) -> bool {
    db.value(&format!(
        "SELECT EXISTS (SELECT FROM incident_payloads WHERE incident_id = '{incident}')
             OR EXISTS (SELECT FROM drift_incidents WHERE id = '{incident}'
                        AND (num_nonnulls(drift_snapshot, summary, resolution_details) > 0 OR affected_workflows <> '[]'))"
    ))
    .await
}

/// How many payloads the tenant's newest run has purged.
async fn payloads_of_newest_run(db: &TestDatabase, tenant: Uuid) -> i64 {
    let run = runs::newest_run(db, tenant).await;
    runs::purged(db, run).await[2]
}

#[tokio::test]
async fn incident_says_whether_its_payload_is_there_wherever_it_is_stored() {
    let db = workflowops::database().await;
    let tenant = workflowops::tenant(&db, "on pro").await;
    let api = serve(&db, "api", &[CASCADES]).await;
    let client = Client::operator(&api).await;
    let stored = [
        (
            "inline",
            json!({"text": "three workflows drifted"}),
            json!([{"id": "wf_1"}]),
        ),
        ("inline, one column", Value::Null, json!([{"id": "wf_1"}])),
        ("table", json!({"text": "an older copy"}), json!([])),
        ("table, empty", Value::Null, json!([])),
        (
            "both",
            json!({"text": "three workflows drifted"}),
            json!([]),
        ),
    ];
    let mut incidents = Vec::new();
    for (stored, summary, workflows) in stored {
        let path = format!(
            "/orgs/{tenant}/incidents/{}",
            expired(&db, tenant, stored).await
        );
        let seen = client.read(&path).await;
        assert_eq!(seen["payload_available"], true, "{stored}");
        assert_eq!(seen["drift_summary"]["summary"], summary, "{stored}");
        assert_eq!(seen["drift_summary"]["workflows"], workflows, "{stored}");
        incidents.push(path);
    }
    let nowhere = format!(
        "/orgs/{tenant}/incidents/{}",
        expired(&db, tenant, "nowhere").await
    );
    let seen = client.read(&nowhere).await;
    assert_eq!(
        (&seen["payload_available"], &seen["payload_state"]),
        (&json!(false), &json!("missing"))
    );
    incidents.push(nowhere);

    workflowops::purge(&db, tenant).await;

    for path in incidents {
        let seen = client.read(&path).await;
        assert_eq!(
            (&seen["payload_available"], &seen["payload_state"]),
            (&json!(false), &json!("purged"))
        );
        assert!(
            seen["drift_summary"].is_null() && !seen["payload_purged_at"].is_null(),
            "{seen}"
        );
    }
}

#[tokio::test]
async fn payload_written_again_in_either_place_goes_on_the_next_run_and_keeps_the_first_stamp() {
    let db = workflowops::database().await;
    let tenant = workflowops::tenant(&db, "on pro").await;
    let incident = expired(&db, tenant, "both").await;
    workflowops::purge(&db, tenant).await;
    let first = stamp(&db, incident).await;
    assert!(first.is_some());
    for written in [
        format!("UPDATE drift_incidents SET resolution_details = '{{}}' WHERE id = '{incident}'"),
        format!("UPDATE drift_incidents SET affected_workflows = '[1]' WHERE id = '{incident}'"),
        format!("INSERT INTO incident_payloads (incident_id) VALUES ('{incident}')"),
    ] {
        db.execute(&written).await;
        assert!(has_payload(&db, incident).await, "{written}");

        workflowops::purge(&db, tenant).await;

        assert!(!has_payload(&db, incident).await, "{written}");
        assert_eq!(payloads_of_newest_run(&db, tenant).await, 1, "{written}");
        assert_eq!(stamp(&db, incident).await, first, "{written}");
    }
}

#[tokio::test]
async fn incident_that_changes_after_a_purge_without_a_payload_is_not_noted() {
    let db = workflowops::database().await;
    let tenant = workflowops::tenant(&db, "on pro").await;
    let incident = expired(&db, tenant, "both").await;
    workflowops::purge(&db, tenant).await;
    db.execute(&format!(
        "UPDATE drift_incidents SET title = 'looked at again', summary = NULL, affected_workflows = '[]' WHERE id = '{incident}'"
    ))
    .await;
    let notes = format!(
        "SELECT count(*) FROM retention.rewritten_payloads WHERE incident_id = '{incident}'"
    );
    assert_eq!(db.value::<i64>(&notes).await, 0);

    workflowops::purge(&db, tenant).await;

    assert_eq!(payloads_of_newest_run(&db, tenant).await, 0);
}

#[tokio::test]
async fn payloads_written_again_before_the_mapping_was_there_go_on_the_first_run() {
    let db = workflowops::database().await;
    let tenant = workflowops::tenant(&db, "on pro").await;
    let earlier = format!(
        "FROM drift_incidents i WHERE tenant_id = '{tenant}' AND payload_purged_at < now() - interval '99 days'"
    );
    let stamps = format!("SELECT array_agg(payload_purged_at::text ORDER BY id) {earlier}");
    let before: Vec<String> = db.value(&stamps).await;
    assert_eq!(before.len(), 3);

    workflowops::purge(&db, tenant).await;

    assert_eq!(db.value::<Vec<String>>(&stamps).await, before);
    let ids: Vec<Uuid> = db.value(&format!("SELECT array_agg(id) {earlier}")).await;
    for incident in ids {
        assert!(!has_payload(&db, incident).await);
    }
}

/// The plan of a statement, as one text.
async fn plan_of(db: &TestDatabase, sql: &str) -> String {
    let plan: Value = db.value(&format!("EXPLAIN (FORMAT JSON) {sql}")).await;
    plan.to_string()
}

#[tokio::test]
async fn payload_of_an_incident_is_found_by_index_in_both_places() {
    let db = workflowops::database().await;
    db.execute(
        "INSERT INTO drift_incidents (tenant_id, environment_id, affected_workflows)
         SELECT gen_random_uuid(), gen_random_uuid(), '[1]' FROM generate_series(1, 20000);
         INSERT INTO incident_payloads (incident_id) SELECT id FROM drift_incidents ON CONFLICT DO NOTHING;
         ANALYZE",
    )
    .await;
    let one = "SELECT FROM main_app.incident_payloads WHERE incident_id = '7f2f3a54-0000-4000-8000-000000000000'";
    let many =
        "SELECT count(*) FROM unnest('{7f2f3a54-0000-4000-8000-000000000000}'::uuid[]) AS i (id)
                WHERE EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = i.id)";
    for sql in [one, many] {
        let plan = plan_of(&db, sql).await;
        assert!(!plan.contains("Seq Scan"), "{plan}");
        assert!(plan.contains("drift_incidents_pkey"), "{plan}");
        assert!(plan.contains("incident_payloads_incident_id_key"), "{plan}");
    }
}
