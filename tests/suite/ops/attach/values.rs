//! Words that decide about rows, plans that nobody knows, moments that are missing: reported before the first purge, each with
//! its count.

use crate::support::{
    app::App,
    attach::{
        Refusal, accepted, find, of, problems, refused_alone, replace_view, report, with_rows,
    },
    product, runs,
};

const INCIDENTS: &str = "i.ctid, i.id, i.org_id, i.env_id, i.title, i.severity, lower(trim(i.status)) AS status, i.owner,
    i.detected_at, i.acknowledged_at, i.stabilized_at, i.reconciled_at, i.closed_at, i.is_deleted, i.deleted_at,
    i.payload_purged_at, i.created_at, i.updated_at";
#[tokio::test]
async fn closed_in_another_spelling_is_refused_and_the_remedy_mends_it() {
    for spelling in ["CLOSED", "Closed", " closed "] {
        let (db, org) = with_rows().await;
        db.execute(&format!("UPDATE incidents SET status = '{spelling}'"))
            .await;
        let spelled = Refusal {
            object: "incidents",
            what: &format!("status is written {spelling:?}, but it must be \"closed\""),
            remedy: "write lower(trim(status)) AS status in the view",
        };
        refused_alone(&db, spelled).await;
        replace_view(
            &db,
            "incidents",
            &format!("SELECT {INCIDENTS} FROM public.incidents i"),
        )
        .await;
        accepted(&db.url, &[]).await;
        let run = product::purge(&db.url, org).await;
        assert_eq!(runs::purged(&db, run).await, [4, 8, 1, 1]);
    }
}

#[tokio::test]
async fn some_incidents_in_another_spelling_are_a_warning_with_their_count() {
    let (db, org) = with_rows().await;
    let app = App::on(&db.pool);
    let env = app.env(org).await;
    for _ in 0..3 {
        app.incident(org, env, "CLOSED", Some("1 year")).await;
    }
    let warnings = accepted(&db.url, &[]).await;
    find(
        &warnings,
        "incidents",
        "3 rows have the status \"CLOSED\", which is unknown",
    );
}

#[tokio::test]
async fn organization_without_a_plan_is_unresolved_and_the_others_are_previewed_and_purged() {
    let (db, org) = with_rows().await;
    let without = App::on(&db.pool).org_with_all_kinds_expired(5).await;
    db.execute(&format!(
        "ALTER TABLE organizations ALTER plan DROP NOT NULL; UPDATE organizations SET plan = NULL WHERE id = '{without}'"
    ))
    .await;
    let warnings = accepted(&db.url, &[]).await;
    find(
        &warnings,
        "organizations",
        "1 organizations have the unknown plan NULL",
    );

    let preview = product::json(&db.url, &["preview", "--all", "--json"]).await;
    let organizations = preview["organizations"].as_array().unwrap();
    assert_eq!(organizations.len(), 2);
    for found in organizations {
        if found["org_id"] == org.to_string() {
            assert_eq!(found["tables"]["drift_checks"], 4);
            assert!(found["error_kind"].is_null());
        } else {
            assert_eq!(found["error_kind"], "policy_unresolved");
        }
    }
    let output = product::run(&db.url, &["purge", "--all", "--work"]).await;
    assert_eq!(output.status.code(), Some(1), "a run has failed");
    let run = runs::newest_run(&db, org).await;
    assert_eq!(runs::purged(&db, run).await, [4, 8, 1, 1]);
    let failed = runs::newest_run(&db, without).await;
    let failed = runs::run(&db, failed).await;
    assert_eq!(
        (&failed["status"], &failed["error_kind"]),
        (&"failed".into(), &"policy_unresolved".into())
    );
    assert_eq!(runs::counts(&db, without).await, [5, 10, 1, 1]);
}

#[tokio::test]
async fn unknown_words_and_missing_moments_are_warnings_with_their_counts() {
    let (db, org) = with_rows().await;
    let app = App::on(&db.pool);
    let env = app.env(org).await;
    assert_eq!(accepted(&db.url, &[]).await, []);
    for plan in ["legacy", "legacy", "", " Pro ", "AGENCY+"] {
        app.org(plan).await;
    }
    for _ in 0..2 {
        app.incident(org, env, "closed", None).await;
        app.incident(org, env, "escalated", None).await;
    }
    db.execute("ALTER TABLE drift_checks DROP CONSTRAINT drift_checks_status_check; UPDATE drift_checks SET status = 'ERROR';
                ALTER TABLE approvals DROP CONSTRAINT approvals_status_check; UPDATE approvals SET status = 'expired'")
        .await;
    let warnings = accepted(&db.url, &[]).await;
    let mut told: Vec<_> = warnings
        .iter()
        .map(|w| format!("{}: {}", w.object, w.what))
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "main_app.approvals: 1 rows have the status \"expired\", which is unknown",
            "main_app.drift_checks: 5 rows have the status \"ERROR\", which is unknown",
            "main_app.incidents: 2 closed incidents have no closed_at: their payloads are never purged",
            "main_app.incidents: 2 rows have the status \"escalated\", which is unknown",
            "main_app.organizations: 1 organizations have the unknown plan \"\": their data is not purged",
            "main_app.organizations: 2 organizations have the unknown plan \"legacy\": their data is not purged",
        ]
    );
}

#[tokio::test]
async fn organization_that_is_listed_twice_is_refused() {
    let (db, org) = with_rows().await;
    db.execute(&format!(
        "CREATE TABLE plans AS SELECT id, plan FROM organizations UNION ALL SELECT '{org}', 'pro'"
    ))
    .await;
    let twice = "SELECT o.id, o.name, p.plan, o.created_at FROM public.organizations o JOIN public.plans p USING (id)";
    replace_view(&db, "organizations", twice).await;
    let (code, report) = report(&db.url, &[]).await;
    assert_eq!(code, Some(1));
    let problems = problems(&report);
    let refused = find(&problems, "organizations", "1 rows repeat an organization");
    assert_eq!(refused.severity, "refuse");
    assert_eq!(of(&problems, "lock_plan").len(), 0, "{problems:#?}");
}
