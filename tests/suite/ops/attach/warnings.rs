//! What does not forbid a purge and is worth knowing: triggers, indexes that are missing, payloads that would be written again
//! unnoticed. Each is told with what mends it.

use std::fs;

use serde_json::Value;

use crate::support::{
    TestDatabase,
    attach::{Problem, accepted, find, of, replace_view, with_rows},
    product::{self, Service},
};

#[tokio::test]
async fn triggers_that_run_for_purged_rows_are_told_by_name_and_others_are_not() {
    let (db, org) = with_rows().await;
    db.execute(
        "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN coalesce(NEW, OLD); END $$;
         CREATE TRIGGER \"Count them\" BEFORE DELETE ON drift_checks FOR EACH ROW EXECUTE FUNCTION pass();
         CREATE TRIGGER of_flags AFTER DELETE ON workflow_drift_flags FOR EACH ROW EXECUTE FUNCTION pass();
         CREATE TRIGGER of_incidents BEFORE UPDATE ON incidents FOR EACH ROW EXECUTE FUNCTION pass();
         CREATE TRIGGER of_payloads AFTER DELETE OR UPDATE ON incident_payloads FOR EACH STATEMENT EXECUTE FUNCTION pass();
         CREATE TRIGGER of_approvals BEFORE INSERT OR DELETE ON approvals FOR EACH ROW EXECUTE FUNCTION pass();
         -- None of these runs for what a purge does.
         CREATE TRIGGER disabled BEFORE DELETE ON approvals FOR EACH ROW EXECUTE FUNCTION pass();
         ALTER TABLE approvals DISABLE TRIGGER disabled;
         CREATE TRIGGER of_inserts BEFORE INSERT OR UPDATE ON drift_checks FOR EACH ROW EXECUTE FUNCTION pass();
         CREATE TRIGGER of_organizations BEFORE UPDATE ON organizations FOR EACH ROW EXECUTE FUNCTION pass();",
    )
    .await;
    let warnings = accepted(&db.url, &[]).await;
    let told: Vec<_> = warnings
        .iter()
        .map(|warning| (warning.object.as_str(), warning.what.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (
                "main_app.drift_checks",
                "the trigger \"Count them\" on public.drift_checks runs for every row that is purged"
            ),
            (
                "main_app.workflow_drift_flags",
                "the trigger of_flags on public.workflow_drift_flags runs for every row that is purged"
            ),
            (
                "main_app.incidents",
                "the trigger of_incidents on public.incidents runs for every row that is purged"
            ),
            (
                "main_app.incident_payloads",
                "the trigger of_payloads on public.incident_payloads runs for every row that is purged"
            ),
            (
                "main_app.approvals",
                "the trigger of_approvals on public.approvals runs for every row that is purged"
            ),
        ]
    );
    product::purge(&db.url, org).await;
}

const INDEXES: &str = "
    DROP INDEX drift_checks_org_checked_at_idx, drift_checks_env_newest_idx, incidents_payload_due_idx,
        approvals_org_created_at_idx, approvals_incident_idx;
    ALTER TABLE workflow_drift_flags DROP CONSTRAINT workflow_drift_flags_pkey;";

/// The warnings of missing indexes.
fn missing(warnings: &[Problem]) -> Vec<&Problem> {
    let of_indexes = warnings
        .iter()
        .filter(|w| w.what.starts_with("no index on "));
    of_indexes.collect()
}

/// Runs the statement of every missing index; then none is missing any more.
async fn create_missing(db: &TestDatabase, expected: &[&str]) {
    let warnings = accepted(&db.url, &[]).await;
    let told: Vec<_> = missing(&warnings).iter().map(|w| w.what.clone()).collect();
    let told: Vec<_> = told
        .iter()
        .map(|what| {
            what.trim_end_matches(": rows are found by reading the table")
                .trim_start_matches("no index on ")
        })
        .collect();
    assert_eq!(told, expected);
    for index in missing(&warnings) {
        assert!(
            index.remedy.starts_with("CREATE INDEX CONCURRENTLY ON "),
            "{index:?}"
        );
        db.execute(&index.remedy).await;
    }
    let warnings = accepted(&db.url, &[]).await;
    assert!(missing(&warnings).is_empty(), "{warnings:#?}");
}

#[tokio::test]
async fn missing_indexes_are_told_each_with_its_statement_and_the_statement_mends_it() {
    let (db, org) = with_rows().await;
    assert_eq!(accepted(&db.url, &[]).await, []);
    db.execute(INDEXES).await;
    create_missing(
        &db,
        &[
            "public.drift_checks (org_id, checked_at)",
            "public.drift_checks (env_id, checked_at)",
            "public.workflow_drift_flags (check_id)",
            "public.incidents (org_id, closed_at)",
            "public.approvals (org_id, created_at)",
            "public.approvals (incident_id)",
        ],
    )
    .await;
    product::purge(&db.url, org).await;
}

#[tokio::test]
async fn statement_of_a_missing_index_names_odd_columns_as_postgres_takes_them() {
    let (db, _) = with_rows().await;
    db.execute(INDEXES).await;
    db.execute(
        "ALTER TABLE drift_checks RENAME org_id TO \"orgId\";
         ALTER TABLE drift_checks RENAME checked_at TO \"checked at\";
         ALTER TABLE drift_checks RENAME env_id TO \"order\";
         ALTER TABLE incidents RENAME payload_purged_at TO \"payloadPurgedAt\";
         ALTER TABLE approvals RENAME TO \"Drift approvals\";
         ALTER TABLE workflow_drift_flags RENAME check_id TO \"a \"\"check\"\"\";",
    )
    .await;
    create_missing(
        &db,
        &[
            "public.drift_checks (\"orgId\", \"checked at\")",
            "public.drift_checks (\"order\", \"checked at\")",
            "public.workflow_drift_flags (\"a \"\"check\"\"\")",
            "public.incidents (org_id, closed_at)",
            "public.Drift approvals (org_id, created_at)",
            "public.Drift approvals (incident_id)",
        ],
    )
    .await;
}

#[tokio::test]
async fn index_that_serves_only_some_rows_or_another_order_is_no_index() {
    let (db, _) = with_rows().await;
    db.execute(
        "DROP INDEX drift_checks_org_checked_at_idx;
         CREATE INDEX ON drift_checks (checked_at, org_id);
         CREATE INDEX ON drift_checks (org_id, checked_at) WHERE status = 'drift';
         CREATE INDEX ON drift_checks USING hash (org_id);
         CREATE INDEX ON drift_checks USING brin (org_id, checked_at);",
    )
    .await;
    create_missing(&db, &["public.drift_checks (org_id, checked_at)"]).await;
}

/// What `/readyz` says of the mapping. The table stands in the log, and is named to nobody who asks.
async fn readiness(db: &TestDatabase) -> Value {
    let (service, log) = Service::logged(&db.url, "worker", &[]);
    service.ready().await;
    let answer = service.get("/readyz").await.unwrap();
    assert_eq!(answer.status(), 200);
    let readiness: Value = answer.json().await.unwrap();
    assert_eq!(readiness["ready"], true);
    let log = fs::read_to_string(log.path()).unwrap();
    let is_named = log.contains("public.incident_payloads");
    assert_eq!(is_named, readiness["mapping"] != "ok", "{log}");
    readiness["mapping"].clone()
}

const UNNOTICED: &str = "warning: each run looks at every purged incident of its organization: the trigger note_rewritten_payload \
    is missing, or is not ENABLE ALWAYS, on a table that the log names";

#[tokio::test]
async fn trigger_that_notes_rewritten_payloads_is_missed_where_it_is_not_as_it_should_be() {
    let (db, _) = with_rows().await;
    assert_eq!(readiness(&db).await, "ok");
    for (change, what) in [
        (
            "DISABLE TRIGGER note_rewritten_payload",
            "is not ENABLE ALWAYS",
        ),
        (
            "ENABLE TRIGGER note_rewritten_payload",
            "is not ENABLE ALWAYS",
        ),
        (
            "ENABLE REPLICA TRIGGER note_rewritten_payload",
            "is not ENABLE ALWAYS",
        ),
    ] {
        db.execute(&format!("ALTER TABLE incident_payloads {change}"))
            .await;
        assert_eq!(readiness(&db).await, UNNOTICED);
        let warnings = accepted(&db.url, &[]).await;
        let told = find(&warnings, "incident_payloads", what);
        assert_eq!(warnings.len(), 1);
        db.execute(&told.remedy).await;
        assert_eq!(accepted(&db.url, &[]).await, []);
    }

    db.execute("DROP TRIGGER note_rewritten_payload ON incident_payloads")
        .await;
    assert_eq!(readiness(&db).await, UNNOTICED);
    let warnings = accepted(&db.url, &[]).await;
    let told = find(
        &warnings,
        "incident_payloads",
        "no trigger on public.incident_payloads notes payloads",
    );
    let remedy = told
        .remedy
        .replace("the column with the incident''s id", "incident_id");
    db.execute(&remedy).await;
    assert_eq!(accepted(&db.url, &[]).await, []);
    assert_eq!(readiness(&db).await, "ok");
}

#[tokio::test]
async fn trigger_under_another_name_is_as_good_and_its_remedy_names_it() {
    let (db, _) = with_rows().await;
    db.execute("ALTER TRIGGER note_rewritten_payload ON incident_payloads RENAME TO \"Note it\"")
        .await;
    assert_eq!(accepted(&db.url, &[]).await, []);
    db.execute("ALTER TABLE incident_payloads ENABLE TRIGGER \"Note it\"")
        .await;
    let warnings = accepted(&db.url, &[]).await;
    let told = find(&warnings, "incident_payloads", "is not ENABLE ALWAYS");
    db.execute(&told.remedy).await;
    assert_eq!(accepted(&db.url, &[]).await, []);
}

#[tokio::test]
async fn every_place_that_holds_payloads_wants_its_trigger() {
    let (db, _) = with_rows().await;
    db.execute("ALTER TABLE incidents ADD drift_summary jsonb")
        .await;
    replace_view(
        &db,
        "incident_payloads",
        "SELECT i.id AS incident_id, coalesce(p.payload_json, i.drift_summary) AS payload_json, i.created_at
         FROM public.incidents i LEFT JOIN public.incident_payloads p ON p.incident_id = i.id
         WHERE p.incident_id IS NOT NULL OR i.drift_summary IS NOT NULL",
    )
    .await;
    let warnings = accepted(&db.url, &[]).await;
    let told = find(
        &warnings,
        "incident_payloads",
        "no trigger on public.incidents notes payloads",
    );
    db.execute(
        &told
            .remedy
            .replace("the column with the incident''s id", "id"),
    )
    .await;
    assert_eq!(
        of(&accepted(&db.url, &[]).await, "incident_payloads"),
        Vec::<&Problem>::new()
    );
    // It notes what is written into the column again, and not that the column is emptied.
    let noted = "SELECT count(*) FROM retention.rewritten_payloads";
    db.execute("UPDATE incidents SET payload_purged_at = now()")
        .await;
    db.execute("DELETE FROM incident_payloads; DELETE FROM retention.rewritten_payloads")
        .await;
    db.execute("UPDATE incidents SET drift_summary = NULL")
        .await;
    assert_eq!(db.value::<i64>(noted).await, 0);
    db.execute("UPDATE incidents SET drift_summary = '[1]'")
        .await;
    assert_eq!(db.value::<i64>(noted).await, 1);
}
