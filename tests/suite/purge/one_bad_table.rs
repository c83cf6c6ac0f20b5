//! A table that cannot be purged, or not all of it: the others are, the counts are exact, and the run fails and says why.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    product,
    runs::{self, newest_run},
    text::stderr,
};

/// Works the organization's run off with one attempt, and expects it to fail; returns what was said, the run and its record.
async fn fails(db: &TestDatabase, org: Uuid) -> (String, Uuid, Value) {
    let output = product::command(&db.url)
        .args(["purge", "--org", &org.to_string(), "--work"])
        .env("DRIFT_RETENTION_WORKER__MAX_ATTEMPTS", "1")
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let run = newest_run(db, org).await;
    let record = runs::run(db, run).await;
    assert_eq!(record["status"], "failed", "{record:#}");
    assert!(record["verified_at"].is_null(), "{record:#}");
    (stderr(&output), run, record)
}

async fn with_all_kinds() -> (TestDatabase, Uuid) {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_all_kinds_expired(20).await;
    (db, org)
}

#[tokio::test]
async fn table_whose_trigger_raises_is_named_and_the_others_are_purged() {
    for (table, purged, left) in [
        ("drift_checks", [0, 0, 1, 1], [20, 40, 0, 0]),
        ("incident_payloads", [19, 38, 0, 1], [1, 2, 1, 0]),
        ("approvals", [19, 38, 1, 0], [1, 2, 0, 1]),
    ] {
        let (db, org) = with_all_kinds().await;
        db.execute(&format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'the auditors are here'; END $$;
             CREATE TRIGGER refuse AFTER DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
        ))
        .await;
        let (said, run, record) = fails(&db, org).await;
        let error = record["error"].as_str().unwrap();
        assert!(
            error.contains(table) && error.contains("function refuse()"),
            "{error}"
        );
        assert!(said.contains(table), "{said}");
        assert_eq!(runs::purged(&db, run).await, purged, "{table}");
        assert_eq!(runs::counts(&db, org).await, left, "{table}");
    }
}

#[tokio::test]
async fn trigger_that_raises_at_the_commit_stops_its_own_table_alone() {
    let (db, org) = with_all_kinds().await;
    db.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'the auditors are here'; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER DELETE ON incident_payloads DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let (_, run, record) = fails(&db, org).await;
    let error = record["error"].as_str().unwrap();
    assert!(
        error.contains("incident_payloads cannot be purged"),
        "{error}"
    );
    assert_eq!(runs::purged(&db, run).await, [19, 38, 0, 1]);
    assert_eq!(runs::counts(&db, org).await, [1, 2, 1, 0]);
}

#[tokio::test]
async fn rows_that_a_trigger_keeps_are_told_from_rows_that_somebody_holds() {
    for (table, purged, kept) in [
        ("drift_checks", [18, 36, 1, 1], [2, 4, 0, 0]),
        ("approvals", [19, 38, 1, 1], [1, 2, 0, 1]),
    ] {
        let (db, org) = with_all_kinds().await;
        if table == "approvals" {
            // One that goes, so that the trigger lets the trial's row pass.
            let app = App::on(&db.pool);
            let incident: Uuid = db.value("SELECT id FROM incidents").await;
            app.approval(org, incident, "approved", "182 days").await;
        }
        let clock = if table == "approvals" {
            "created_at"
        } else {
            "checked_at"
        };
        db.execute(&format!(
            "CREATE TABLE precious AS
                 SELECT id FROM {table} WHERE {clock} < now() - interval '30 days' ORDER BY {clock} DESC OFFSET {} LIMIT 1;
             CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF EXISTS (SELECT FROM public.precious p WHERE p.id = OLD.id) THEN RETURN NULL; END IF;
                 RETURN OLD;
             END $$;
             CREATE TRIGGER keep_precious BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION keep()",
            u8::from(table == "drift_checks") // the newest check stays by a rule
        ))
        .await;
        let (said, run, record) = fails(&db, org).await;
        assert_eq!(record["error_kind"], "not_deleted", "{record:#}");
        let error = record["error"].as_str().unwrap();
        assert!(
            error.contains(&format!("1 expired rows of {table}")),
            "{error}"
        );
        assert!(error.contains("although nobody holds them"), "{error}");
        assert!(error.contains("keep_precious"), "{error}");
        assert!(said.contains("not_deleted"), "{said}");
        assert_eq!(runs::purged(&db, run).await, purged, "{table}");
        assert_eq!(runs::counts(&db, org).await, kept, "{table}");
    }
}

#[tokio::test]
async fn payload_that_a_trigger_keeps_is_not_stamped_and_the_trigger_is_named() {
    let (db, org) = with_all_kinds().await;
    db.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER keep_all BEFORE DELETE ON incident_payloads FOR EACH ROW
             WHEN (current_setting('application_name') <> 'x') EXECUTE FUNCTION keep()",
    )
    .await;
    let output = product::run(&db.url, &["purge", "--org", &org.to_string(), "--work"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("keep_all") || said.contains("incident_payloads"),
        "{said}"
    );
    let stamped = "SELECT count(payload_purged_at) FROM incidents";
    assert_eq!(db.value::<i64>(stamped).await, 0);
    assert_eq!(runs::counts(&db, org).await[2], 1);
}
