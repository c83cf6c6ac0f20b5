//! Rights that are missing, and rows that row-level security would hide, are refused by name before a row goes: a purge that
//! sees no rows would claim success.

use crate::support::{
    TestDatabase,
    attach::{Refusal, accepted, grant_all, owner_of_views, refused, with_rows},
    product,
    roles::{self, as_worker, org_with_all_kinds},
    text::stderr,
};

const TABLES: [&str; 7] = [
    "organizations",
    "environments",
    "drift_checks",
    "workflow_drift_flags",
    "incidents",
    "incident_payloads",
    "approvals",
];

#[tokio::test]
async fn row_level_security_is_refused_where_the_views_belong_to_another_role() {
    let (db, org) = with_rows().await;
    let role = owner_of_views(&db).await;
    grant_all(&db, &role).await;
    accepted(&db.url, &[]).await;
    for table in TABLES {
        // A policy that hides nothing today may hide something tomorrow.
        db.execute(&format!(
            "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; CREATE POLICY everybody ON {table} USING (true)"
        ))
        .await;
        let hidden = Refusal {
            object: table,
            what: "row-level security",
            remedy: &format!("ALTER ROLE {role} BYPASSRLS"),
        };
        refused(&db, &db.url, &[], hidden).await;
        db.execute(&format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))
            .await;
    }
    // With the right to see everything it works, and everything goes.
    db.execute(&format!("ALTER ROLE {role} BYPASSRLS")).await;
    for table in TABLES {
        db.execute(&format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))
            .await;
    }
    accepted(&db.url, &[]).await;
    let run = product::purge(&db.url, org).await;
    assert_eq!(crate::support::runs::purged(&db, run).await, [4, 8, 1, 1]);
}

#[tokio::test]
async fn forced_row_level_security_is_refused_for_the_owner_too_and_without_force_it_is_not() {
    let (db, _) = with_rows().await;
    let role = owner_of_views(&db).await;
    for table in TABLES {
        db.execute(&format!(
            "ALTER TABLE {table} OWNER TO {role};
             ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; CREATE POLICY everybody ON {table} USING (true)"
        ))
        .await;
    }
    accepted(&db.url, &[]).await;
    for table in TABLES {
        db.execute(&format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY"))
            .await;
        let hidden = Refusal {
            object: table,
            what: "row-level security",
            remedy: &format!("ALTER ROLE {role} BYPASSRLS"),
        };
        refused(&db, &db.url, &[], hidden).await;
        db.execute(&format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"))
            .await;
    }
}

#[tokio::test]
async fn missing_right_of_the_views_owner_is_refused_with_its_grant() {
    let (db, org) = with_rows().await;
    let role = owner_of_views(&db).await;
    grant_all(&db, &role).await;
    accepted(&db.url, &[]).await;
    for (right, table, remedy) in [
        ("SELECT", "organizations", "SELECT"),
        ("SELECT", "environments", "SELECT"),
        ("SELECT", "workflow_drift_flags", "SELECT"),
        ("SELECT", "incident_payloads", "SELECT"),
        ("DELETE", "drift_checks", "SELECT, UPDATE, DELETE"),
        ("UPDATE", "drift_checks", "SELECT, UPDATE, DELETE"),
        ("DELETE", "approvals", "SELECT, UPDATE, DELETE"),
        ("UPDATE", "incidents", "SELECT, UPDATE"),
    ] {
        db.execute(&format!("REVOKE {right} ON {table} FROM {role}"))
            .await;
        let lacking = Refusal {
            object: table,
            what: &format!("permission denied for table {table}"),
            remedy: &format!("GRANT {remedy} ON the table TO {role}"),
        };
        refused(&db, &db.url, &[], lacking).await;
        db.execute(&format!("GRANT {right} ON {table} TO {role}"))
            .await;
    }
    accepted(&db.url, &[]).await;
    product::purge(&db.url, org).await;
}

#[tokio::test]
async fn missing_right_of_the_functions_owner_is_refused() {
    let (db, _) = with_rows().await;
    let role = owner_of_views(&db).await;
    grant_all(&db, &role).await;
    for (right, table, function) in [
        ("UPDATE", "organizations", "lock_plan"),
        ("DELETE", "incident_payloads", "erase_payloads"),
    ] {
        db.execute(&format!("REVOKE {right} ON {table} FROM {role}"))
            .await;
        let lacking = Refusal {
            object: function,
            what: &format!("permission denied for table {table}"),
            remedy: "",
        };
        refused(&db, &db.url, &[], lacking).await;
        db.execute(&format!("GRANT {right} ON {table} TO {role}"))
            .await;
    }
}

/// Its comments name the rights of a role that owns the mapping and no table.
#[tokio::test]
async fn rights_that_the_template_names_are_enough_for_a_role_that_owns_the_views() {
    let (db, org) = with_rows().await;
    let role = owner_of_views(&db).await;
    let output = product::run(&db.url, &["attach", "template"]).await;
    let template = String::from_utf8(output.stdout).unwrap();
    let grants: Vec<_> = template
        .lines()
        .filter_map(|line| line.strip_prefix("--   GRANT "))
        .collect();
    assert!(grants.len() >= 3, "{template}");
    for grant in grants {
        let (rights, _) = grant.split_once(" TO views_owner;").unwrap();
        db.execute(&format!("GRANT {rights} TO {role}")).await;
    }
    accepted(&db.url, &[]).await;
    product::purge(&db.url, org).await;
}

#[tokio::test]
async fn missing_right_of_the_worker_is_refused_and_roles_sql_mends_it() {
    let (owner, worker) = as_worker().await;
    org_with_all_kinds(&owner).await;
    accepted(&worker.url, &[]).await;
    let worker_role = "FROM drift_retention_worker";
    for (revoke, object, what) in [
        (
            "SELECT ON main_app.organizations",
            "organizations",
            "permission denied for view organizations",
        ),
        (
            "SELECT ON main_app.environments",
            "environments",
            "permission denied for view environments",
        ),
        (
            "DELETE ON main_app.drift_checks",
            "drift_checks",
            "permission denied for view drift_checks",
        ),
        (
            "UPDATE (ctid) ON main_app.drift_checks",
            "drift_checks",
            "permission denied for view drift_checks",
        ),
        (
            "SELECT ON main_app.workflow_drift_flags",
            "workflow_drift_flags",
            "permission denied for view",
        ),
        (
            "UPDATE (payload_purged_at) ON main_app.incidents",
            "incidents",
            "permission denied for view incidents",
        ),
        (
            "SELECT ON main_app.incident_payloads",
            "incident_payloads",
            "permission denied for view",
        ),
        (
            "DELETE ON main_app.approvals",
            "approvals",
            "permission denied for view approvals",
        ),
        (
            "EXECUTE ON FUNCTION main_app.lock_plan(uuid)",
            "lock_plan",
            "this role may not call it",
        ),
        (
            "EXECUTE ON FUNCTION main_app.erase_payloads(uuid[])",
            "erase_payloads",
            "this role may not call it",
        ),
    ] {
        owner
            .execute(&format!("REVOKE {revoke} {worker_role}"))
            .await;
        let lacking = Refusal {
            object,
            what,
            remedy: "deploy/postgres/roles.sql",
        };
        refused(&owner, &worker.url, &[], lacking).await;
        roles::apply(&owner).await;
    }
    accepted(&worker.url, &[]).await;
}

#[tokio::test]
async fn worker_that_may_not_look_into_the_mapping_is_told_of_roles_sql() {
    let (owner, worker) = as_worker().await;
    org_with_all_kinds(&owner).await;
    owner
        .execute(
            "REVOKE ALL ON ALL TABLES IN SCHEMA main_app FROM drift_retention_worker;
             REVOKE ALL ON ALL FUNCTIONS IN SCHEMA main_app FROM drift_retention_worker;
             REVOKE ALL ON SCHEMA main_app FROM drift_retention_worker",
        )
        .await;
    for args in [
        ["attach", "check"].as_slice(),
        &["purge", "--all", "--work"],
        &["serve", "--roles", "worker"],
        &["preview", "--all"],
    ] {
        let output = product::run(&worker.url, args).await;
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let shown = crate::support::text::shown(&output);
        assert!(shown.contains("main_app"), "{args:?}: {shown}");
        let is_told = shown.contains("deploy/postgres/roles.sql") || shown.contains("attach check");
        assert!(is_told, "{args:?}: {shown}");
    }
}

/// Its mapping was made, and `roles.sql` was not applied after it.
#[tokio::test]
async fn worker_without_its_role_is_refused_with_a_sentence() {
    let db: TestDatabase = with_rows().await.0;
    roles::apply(&db).await;
    let url = roles::user_in(&db, "").await;
    let output = product::run(&url, &["purge", "--all", "--work"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("permission denied"),
        "{}",
        stderr(&output)
    );
}
