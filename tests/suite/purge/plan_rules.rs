//! Plans: every spelling purges by its own windows, Free has no rule for incidents, and unknown plans lose nothing.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{TestDatabase, app::App, product, runs};

/// How an organization's plan may be written, and the windows in days: drift checks, closed incidents.
const TABLE: [(&[&str], &str, u32, Option<u32>); 4] = [
    (&["free", "Free", " FREE "], "free", 7, None),
    (&["pro", "PRO", "\tpRo\n"], "pro", 30, Some(180)),
    (
        &["agency", "Agency+", "agency_plus", "AGENCY_PLUS "],
        "agency",
        90,
        Some(365),
    ),
    (
        &["enterprise", " Enterprise"],
        "enterprise",
        180,
        Some(2555),
    ),
];

/// For each kind one row an hour too old and one not quite; the ids that are to stay.
async fn rows_around(app: &App, org: Uuid, checks: u32, closed: u32) -> (i64, Uuid, Uuid) {
    let old = |days: u32| format!("{days} days 1 hour");
    let young = |days: u32| format!("{} hours", days * 24 - 1);
    let env = app.env(org).await;
    app.check(org, env, &old(checks), &["wf_1"]).await;
    let check = app.check(org, env, &young(checks), &["wf_1"]).await;
    let mut payload = None;
    for age in [old(closed), young(closed)] {
        let incident = app.incident(org, env, "closed", Some(&age)).await;
        app.payload(incident).await;
        payload = Some(incident);
    }
    let incident = app.incident(org, env, "closed", None).await;
    app.approval(org, incident, "approved", &old(closed)).await;
    let approval = app
        .approval(org, incident, "approved", &young(closed))
        .await;
    (check, payload.unwrap(), approval)
}

#[tokio::test]
async fn every_spelling_of_every_plan_purges_by_its_own_windows() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let mut expected = Vec::new();
    for (spellings, plan, checks, closed) in TABLE {
        for spelling in spellings {
            let org = app.org(spelling).await;
            let (check, payload, approval) =
                rows_around(&app, org, checks, closed.unwrap_or(5000)).await;
            expected.push((
                org,
                plan,
                json!({"drift_checks": checks, "incident_payloads": closed, "approvals": closed}),
                (closed.is_some(), check, payload, approval),
            ));
        }
    }

    let done = product::json(&db.url, &["purge", "--all", "--work", "--json"]).await;

    assert_eq!(done["runs"].as_array().unwrap().len(), expected.len());
    for (org, plan, policy, (has_rule, check, payload, approval)) in expected {
        let everything = runs::everything(&db, org).await;
        let ids = |kind: &str, key: &str| -> Vec<Value> {
            let rows = everything[kind].as_array().unwrap();
            rows.iter().map(|row| row[key].clone()).collect()
        };
        assert_eq!(ids("checks", "id"), [json!(check)], "{plan}");
        if has_rule {
            assert_eq!(ids("payloads", "incident_id"), [json!(payload)], "{plan}");
            assert_eq!(ids("approvals", "id"), [json!(approval)], "{plan}");
        } else {
            assert_eq!(ids("payloads", "incident_id").len(), 2, "{plan}");
            assert_eq!(ids("approvals", "id").len(), 2, "{plan}");
        }
        let run = runs::run(&db, runs::newest_run(&db, org).await).await;
        assert_eq!((&run["plan"], &run["policy"]), (&json!(plan), &policy));
    }
}

#[tokio::test]
async fn free_has_no_rule_for_incidents_and_approvals_whatever_their_age() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("free").await;
    let env = app.env(org).await;
    for closed_age in ["8 days", "20000 days"] {
        let incident = app.incident(org, env, "closed", Some(closed_age)).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", closed_age).await;
        // Without a rule, an incident without a payload is not stamped either.
        app.incident(org, env, "closed", Some(closed_age)).await;
    }
    let before = runs::everything(&db, org).await;

    let run = product::purge(&db.url, org).await;

    assert_eq!(runs::everything(&db, org).await, before);
    for table in ["incident_payloads", "approvals"] {
        let step = runs::step(&db, run, table).await;
        assert_eq!(step["status"], "no_rule");
        assert_eq!(step["cutoff"], Value::Null);
        assert_eq!(
            (&step["rows_purged"], &step["rows_kept"]),
            (&json!(0), &json!(0))
        );
    }
    let week: bool = db
        .value(
            "SELECT s.cutoff = r.started_at - interval '168 hours' AND s.status = 'succeeded'
             FROM retention.purge_run_steps s JOIN retention.purge_runs r ON r.id = s.run_id
             WHERE s.table_name = 'drift_checks'",
        )
        .await;
    assert!(week);
}

#[tokio::test]
async fn an_unknown_plan_loses_nothing_fails_once_and_holds_nobody_up() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let mut unresolved = Vec::new();
    for plan in ["", "  ", "legacy-2019", "pro+", "agency plus", "null"] {
        let org = app.org(plan).await;
        rows_around(&app, org, 400, 4000).await;
        unresolved.push((org, runs::everything(&db, org).await));
    }
    let resolved = app.org("pro").await;
    rows_around(&app, resolved, 30, 180).await;

    let output = product::run(&db.url, &["purge", "--all", "--work", "--json"]).await;

    assert_eq!(output.status.code(), Some(1));
    for (org, before) in unresolved {
        assert_eq!(runs::everything(&db, org).await, before);
        let run = runs::run(&db, runs::newest_run(&db, org).await).await;
        assert_eq!(run["status"], "failed");
        assert_eq!(run["error_kind"], "policy_unresolved");
        assert_eq!(run["attempts"], 1);
        assert_eq!((&run["plan"], &run["policy"]), (&Value::Null, &Value::Null));
        let preview =
            product::json(&db.url, &["preview", "--org", &org.to_string(), "--json"]).await;
        let preview = &preview["organizations"][0];
        assert_eq!(preview["error_kind"], "policy_unresolved");
        assert!(
            runs::TABLES
                .iter()
                .all(|table| preview["tables"][table] == 0)
        );
    }
    assert_eq!(runs::counts(&db, resolved).await, [1, 1, 1, 1]);
}
