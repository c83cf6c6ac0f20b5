//! What goes and what stays of incident payloads.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{TestDatabase, app::App, product, runs};

/// The whole incident but for the stamp.
async fn incident_but_stamp(db: &TestDatabase, incident: Uuid) -> Value {
    db.value(&format!(
        "SELECT to_jsonb(i) - 'payload_purged_at' FROM incidents i WHERE id = '{incident}'"
    ))
    .await
}

/// When the incident's payload was purged, as text.
async fn stamp(db: &TestDatabase, incident: Uuid) -> Option<String> {
    db.value(&format!(
        "SELECT payload_purged_at::text FROM incidents WHERE id = '{incident}'"
    ))
    .await
}

async fn has_payload(db: &TestDatabase, incident: Uuid) -> bool {
    db.value(&format!(
        "SELECT EXISTS (SELECT FROM incident_payloads WHERE incident_id = '{incident}')"
    ))
    .await
}

/// An organization on pro with one incident and its payload.
async fn incident(db: &TestDatabase, status: &str, closed_age: Option<&str>) -> (Uuid, Uuid) {
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let incident = app.incident(org, env, status, closed_age).await;
    app.payload(incident).await;
    (org, incident)
}

#[tokio::test]
async fn the_payload_of_a_long_closed_incident_goes_and_the_incident_stays_as_it_was() {
    let db = TestDatabase::new().await;
    let (org, incident) = incident(&db, "closed", Some("181 days")).await;
    db.execute("UPDATE incidents SET updated_at = '2024-01-02', created_at = '2024-01-01'")
        .await;
    let before = incident_but_stamp(&db, incident).await;

    let run = product::purge(&db.url, org).await;

    assert!(!has_payload(&db, incident).await);
    assert_eq!(incident_but_stamp(&db, incident).await, before);
    assert_eq!(runs::purged(&db, run).await, [0, 0, 1, 0]);
    assert!(
        db.value::<bool>(
            "SELECT i.payload_purged_at BETWEEN r.started_at AND r.finished_at FROM incidents i, retention.purge_runs r"
        )
        .await
    );
}

#[tokio::test]
async fn the_payload_of_a_recently_closed_incident_stays() {
    let db = TestDatabase::new().await;
    let (org, _) = incident(&db, "closed", Some("179 days")).await;
    let before = runs::everything(&db, org).await;

    product::purge(&db.url, org).await;

    assert_eq!(runs::everything(&db, org).await, before);
}

#[tokio::test]
async fn incidents_that_are_not_exactly_closed_are_untouched_even_if_closed_at_is_long_ago() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    for status in [
        "detected",
        "acknowledged",
        "stabilized",
        "reconciled",
        "open",
        "Closed",
        "CLOSED",
        " closed",
        "closed ",
        "",
    ] {
        for closed_age in [None, Some("5000 days")] {
            let incident = app.incident(org, env, status, closed_age).await;
            app.payload(incident).await;
        }
    }
    // One that is: a table without it would be refused, as one where nothing would ever go.
    let other = app.org("free").await;
    let other_env = app.env(other).await;
    app.incident(other, other_env, "closed", None).await;
    let before = runs::everything(&db, org).await;

    let run = product::purge(&db.url, org).await;

    assert_eq!(runs::everything(&db, org).await, before);
    assert_eq!(runs::purged(&db, run).await, [0; 4]);
}

#[tokio::test]
async fn closed_without_a_time_or_in_the_future_is_untouched() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    for closed_age in [None, Some("-1 hour"), Some("-900 days")] {
        let incident = app.incident(org, env, "closed", closed_age).await;
        app.payload(incident).await;
        app.incident(org, env, "closed", closed_age).await;
    }
    let before = runs::everything(&db, org).await;

    product::purge(&db.url, org).await;

    assert_eq!(runs::everything(&db, org).await, before);
}

#[tokio::test]
async fn an_expired_incident_without_a_payload_is_stamped_once_and_counts_as_no_row() {
    let db = TestDatabase::new().await;
    let (org, incident) = incident(&db, "closed", Some("200 days")).await;
    db.execute("DELETE FROM incident_payloads").await;
    let before = incident_but_stamp(&db, incident).await;

    let first = product::purge(&db.url, org).await;
    let stamped = stamp(&db, incident).await;
    let second = product::purge(&db.url, org).await;

    assert!(stamped.is_some());
    assert_eq!(stamp(&db, incident).await, stamped);
    assert_eq!(incident_but_stamp(&db, incident).await, before);
    assert_eq!(runs::purged(&db, first).await, [0; 4]);
    assert_eq!(runs::purged(&db, second).await, [0; 4]);
}

#[tokio::test]
async fn a_payload_written_again_goes_on_the_next_run_and_keeps_the_first_stamp() {
    let db = TestDatabase::new().await;
    let (org, incident) = incident(&db, "closed", Some("200 days")).await;
    product::purge(&db.url, org).await;
    let first = stamp(&db, incident).await;

    for _ in 0..2 {
        App::on(&db.pool).payload(incident).await;
        let run = product::purge(&db.url, org).await;

        assert!(!has_payload(&db, incident).await);
        assert_eq!(runs::purged(&db, run).await, [0, 0, 1, 0]);
        assert_eq!(stamp(&db, incident).await, first);
    }
}

#[tokio::test]
async fn a_payload_written_again_for_a_reopened_incident_stays() {
    let db = TestDatabase::new().await;
    let (org, incident) = incident(&db, "closed", Some("200 days")).await;
    product::purge(&db.url, org).await;
    db.execute("UPDATE incidents SET status = 'acknowledged'")
        .await;
    App::on(&db.pool).payload(incident).await;
    let before = runs::everything(&db, org).await;

    product::purge(&db.url, org).await;
    assert_eq!(runs::everything(&db, org).await, before);

    db.execute("UPDATE incidents SET status = 'closed', closed_at = now() - interval '181 days'")
        .await;
    product::purge(&db.url, org).await;
    assert!(!has_payload(&db, incident).await);
}

#[tokio::test]
async fn soft_deleted_incidents_are_treated_like_others_and_no_incident_is_ever_deleted() {
    let db = TestDatabase::new().await;
    let (org, closed) = incident(&db, "closed", Some("181 days")).await;
    let (other, open) = incident(&db, "detected", None).await;
    db.execute("UPDATE incidents SET is_deleted = true, deleted_at = now() - interval '4000 days'")
        .await;

    product::purge(&db.url, org).await;
    product::purge(&db.url, other).await;

    assert!(!has_payload(&db, closed).await);
    assert!(stamp(&db, closed).await.is_some());
    assert!(has_payload(&db, open).await);
    assert!(stamp(&db, open).await.is_none());
    assert_eq!(db.value::<i64>("SELECT count(*) FROM incidents").await, 2);
}

#[tokio::test]
async fn payload_written_again_past_the_trigger_is_found_by_a_worker_and_goes_on_the_next_run() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let incident = app.incident(org, env, "closed", Some("300 days")).await;
    app.payload(incident).await;
    product::purge(&db.url, org).await;
    let stamp = "SELECT payload_purged_at::text FROM incidents";
    let first: String = db.value(stamp).await;
    // As a restore does.
    db.execute("ALTER TABLE incident_payloads DISABLE TRIGGER note_rewritten_payload")
        .await;
    app.payload(incident).await;
    let noted = "SELECT count(*) FROM retention.rewritten_payloads";
    assert_eq!(db.value::<i64>(noted).await, 0);

    let worker = product::Service::start(&db.url, "worker", &[]);
    product::eventually("the search has found it", async || {
        db.value::<i64>(noted).await == 1
    })
    .await;
    worker.kill().await;
    product::purge(&db.url, org).await;

    let left = "SELECT (SELECT count(*) FROM incident_payloads) + (SELECT count(*) FROM retention.rewritten_payloads)";
    assert_eq!(db.value::<i64>(left).await, 0);
    assert_eq!(db.value::<String>(stamp).await, first);
}
