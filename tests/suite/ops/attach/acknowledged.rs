//! Tables whose rows go along by a foreign key, once the operator has named them: the run's record has the exact number.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    attach::{Refusal, refused, with_rows},
    product::{self, Service},
    runs::{self, all_are_final, enqueue_slot},
    text::stdout,
};

const NAMED: (&str, &str) = (
    "DRIFT_RETENTION_ATTACH__CASCADES",
    "public.approval_audit, public.audit_line, notes.checks, public.payload_notes",
);

/// An audit trail of approvals whose lines hang on it, in partitions; notes of checks and of payloads.
async fn audited() -> TestDatabase {
    let db = TestDatabase::new().await;
    db.execute(
        "CREATE TABLE approval_audit (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                                      approval_id uuid REFERENCES approvals (id) ON DELETE CASCADE);
         CREATE TABLE audit_line (audit_id int REFERENCES approval_audit (id) ON DELETE CASCADE, n int) PARTITION BY HASH (n);
         CREATE TABLE audit_line_0 PARTITION OF audit_line FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE audit_line_1 PARTITION OF audit_line FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE SCHEMA notes;
         CREATE TABLE notes.checks (check_id bigint REFERENCES drift_checks (id) ON DELETE CASCADE);
         CREATE TABLE payload_notes (incident_id uuid REFERENCES incident_payloads ON DELETE CASCADE);",
    )
    .await;
    db
}

/// An organization with so much to purge of every kind, and something that stays.
async fn org(db: &TestDatabase, much: i64) -> Uuid {
    let app = App::on(&db.pool);
    let org = app.org_with_expired(much + 1).await;
    let env = app.env(org).await;
    let open = app.incident(org, env, "detected", None).await;
    app.approval(org, open, "approved", "1 year").await;
    for _ in 0..much {
        let incident = app.incident(org, env, "closed", Some("1 year")).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", "1 year").await;
    }
    db.execute(&format!(
        "WITH audit AS (INSERT INTO approval_audit (approval_id) SELECT id FROM approvals, generate_series(1, 3)
                        WHERE org_id = '{org}' RETURNING id)
         INSERT INTO audit_line SELECT id, n FROM audit, generate_series(1, 2) n;
         INSERT INTO notes.checks SELECT id FROM drift_checks, generate_series(1, 5) WHERE org_id = '{org}';
         INSERT INTO payload_notes SELECT incident_id FROM incident_payloads p JOIN incidents i ON i.id = p.incident_id
         WHERE i.org_id = '{org}';"
    ))
    .await;
    org
}

/// Rows of the tables that hang on the purged ones.
async fn hanging(db: &TestDatabase) -> [i64; 4] {
    let counts: Vec<i64> = db
        .value(
            "SELECT ARRAY[(SELECT count(*) FROM approval_audit), (SELECT count(*) FROM audit_line),
                          (SELECT count(*) FROM notes.checks), (SELECT count(*) FROM payload_notes)]",
        )
        .await;
    counts.try_into().unwrap()
}

/// What the record of a run has to say where `much` of every kind went.
async fn assert_recorded(db: &TestDatabase, run: Uuid, much: i64) {
    assert_eq!(runs::purged(db, run).await, [much, 2 * much, much, much]);
    for (table, cascaded) in [
        ("drift_checks", json!({"notes.checks": 5 * much})),
        ("workflow_drift_flags", Value::Null),
        ("incident_payloads", json!({"public.payload_notes": much})),
        (
            "approvals",
            json!({"public.approval_audit": 3 * much, "public.audit_line": 6 * much}),
        ),
    ] {
        assert_eq!(
            runs::step(db, run, table).await["cascaded"],
            cascaded,
            "{table}"
        );
    }
}

async fn purge(db: &TestDatabase, org: Uuid, batch_size: &str) -> Uuid {
    let output = product::command(&db.url)
        .args(["purge", "--org", &org.to_string(), "--work"])
        .env("DRIFT_RETENTION_PURGE__BATCH_SIZE", batch_size)
        .env(NAMED.0, NAMED.1)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    runs::newest_run(db, org).await
}

#[tokio::test]
async fn rows_that_went_along_are_recorded_exactly_over_many_batches() {
    let db = audited().await;
    for (much, batch_size) in [(20, "3"), (20, "5000"), (7, "1")] {
        let org = org(&db, much).await;
        let before = hanging(&db).await;
        let run = purge(&db, org, batch_size).await;
        assert_recorded(&db, run, much).await;
        let after = hanging(&db).await;
        let gone: Vec<_> = before.iter().zip(after).map(|(b, a)| b - a).collect();
        assert_eq!(gone, [3 * much, 6 * much, 5 * much, much]);
    }
}

#[tokio::test]
async fn rows_that_went_along_are_shown_with_the_run() {
    let db = audited().await;
    let org = org(&db, 4).await;
    let run = purge(&db, org, "3").await;
    let show = |format: &[&str]| {
        [&["runs", "show", &run.to_string()], format]
            .concat()
            .join(" ")
    };
    let text = product::run(&db.url, &show(&[]).split(' ').collect::<Vec<_>>()).await;
    for line in [
        "A foreign key also removed 20 rows of notes.checks with rows of drift_checks.",
        "A foreign key also removed 4 rows of public.payload_notes with rows of incident_payloads.",
        "A foreign key also removed 12 rows of public.approval_audit, 24 rows of public.audit_line with rows of approvals.",
    ] {
        assert!(stdout(&text).contains(line), "{}", stdout(&text));
    }
    let json = product::json(&db.url, &show(&["--json"]).split(' ').collect::<Vec<_>>()).await;
    let steps = json["steps"].as_array().unwrap();
    let of_approvals = steps
        .iter()
        .find(|s| s["table_name"] == "approvals")
        .unwrap();
    assert_eq!(
        of_approvals["cascaded"],
        json!({"public.approval_audit": 12, "public.audit_line": 24})
    );
    let of_flags = steps
        .iter()
        .find(|s| s["table_name"] == "workflow_drift_flags")
        .unwrap();
    assert_eq!(of_flags["cascaded"], Value::Null);
}

#[tokio::test]
async fn rows_that_went_along_with_runs_purged_together_are_recorded_run_by_run() {
    let db = audited().await;
    let mut organizations = Vec::new();
    for much in 1..=15 {
        organizations.push((org(&db, much).await, much));
    }
    let before = hanging(&db).await;
    enqueue_slot(&db).await;
    let env = [("DRIFT_RETENTION_PURGE__THROTTLE", "false"), NAMED];
    let _worker = Service::start(&db.url, "worker", &env);
    all_are_final(&db).await;

    for (org, much) in organizations {
        let run = runs::newest_run(&db, org).await;
        assert_recorded(&db, run, much).await;
    }
    let after = hanging(&db).await;
    let all: i64 = (1..=15).sum();
    let gone: Vec<_> = before.iter().zip(after).map(|(b, a)| b - a).collect();
    assert_eq!(gone, [3 * all, 6 * all, 5 * all, all]);
    let transactions = "SELECT count(DISTINCT xmin::text) FROM retention.purge_runs";
    assert!(
        db.value::<i64>(transactions).await < 15,
        "none were purged together"
    );
}

/// The leave is for the tables that were there: one that comes later is refused at the next start.
#[tokio::test]
async fn leave_for_one_table_is_none_for_another() {
    let (db, _) = with_rows().await;
    db.execute("CREATE TABLE audit (approval_id uuid REFERENCES approvals (id) ON DELETE CASCADE)")
        .await;
    let other = Refusal {
        object: "approvals",
        what: "rows of public.audit would also be deleted",
        remedy: "attach.cascades = [\"public.audit\"]",
    };
    refused(&db, &db.url, &[NAMED], other).await;
}
