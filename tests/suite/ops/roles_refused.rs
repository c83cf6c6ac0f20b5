//! Least privilege: beyond its work, nobody who is in a role of `deploy/postgres/roles.sql` can do anything, nor can one who is in none.

use crate::support::{
    MAIN_APP, TestDatabase, ledger, product,
    roles::{self, as_worker, assert_refused, org_with_all_kinds, pool_of, refusal},
};

#[tokio::test]
async fn worker_role_can_change_nothing_of_the_main_apps_but_what_it_purges() {
    let (owner, worker) = as_worker().await;
    org_with_all_kinds(&owner).await;

    assert_refused(
        &worker.pool,
        &[
            "UPDATE organizations SET plan = 'free'",
            "INSERT INTO organizations (name, plan) VALUES ('x', 'pro')",
            "DELETE FROM organizations",
            "SELECT FROM organizations FOR UPDATE",
            "UPDATE environments SET name = 'x'",
            "INSERT INTO environments (org_id, name) SELECT id, 'x' FROM organizations",
            "DELETE FROM environments",
            "UPDATE incidents SET status = 'closed'",
            "UPDATE incidents SET closed_at = now()",
            "UPDATE incidents SET updated_at = now()",
            "INSERT INTO incidents (org_id, env_id, title, status) SELECT org_id, id, 'x', 'closed' FROM environments",
            "DELETE FROM incidents",
            "UPDATE drift_checks SET checked_at = '-infinity'",
            "UPDATE drift_checks SET status = 'in_sync'",
            "INSERT INTO drift_checks (org_id, env_id, checked_at, status) SELECT org_id, id, now(), 'drift' FROM environments",
            "UPDATE workflow_drift_flags SET flag = 'unknown'",
            "UPDATE incident_payloads SET payload_json = '{}'",
            "INSERT INTO incident_payloads SELECT id, '{}' FROM incidents",
            "UPDATE approvals SET status = 'approved'",
            "UPDATE approvals SET created_at = '-infinity'",
            "TRUNCATE drift_checks CASCADE",
            "TRUNCATE approvals",
        ],
    )
    .await;
}

#[tokio::test]
async fn worker_role_has_no_right_on_the_main_apps_own_tables_and_few_on_the_mapping() {
    let (owner, worker) = as_worker().await;
    org_with_all_kinds(&owner).await;
    for table in MAIN_APP {
        assert_refused(
            &worker.pool,
            &[
                &format!("SELECT FROM public.{table}"),
                &format!("DELETE FROM public.{table}"),
                &format!("SELECT FROM public.{table} FOR KEY SHARE"),
                &format!("TRUNCATE public.{table} CASCADE"),
            ],
        )
        .await;
    }
    assert_refused(
        &worker.pool,
        &[
            "INSERT INTO main_app.organizations (name, plan) VALUES ('x', 'free')",
            "UPDATE main_app.organizations SET plan = 'free'",
            "DELETE FROM main_app.organizations",
            "SELECT FROM main_app.organizations FOR UPDATE",
            "DELETE FROM main_app.environments",
            "UPDATE main_app.drift_checks SET checked_at = '-infinity'",
            "UPDATE main_app.approvals SET status = 'approved'",
            "UPDATE main_app.approvals SET id = gen_random_uuid()",
            "UPDATE main_app.incidents SET status = 'closed'",
            "UPDATE main_app.incidents SET closed_at = '-infinity'",
            "DELETE FROM main_app.incidents",
            "DELETE FROM main_app.incident_payloads",
            "UPDATE main_app.incident_payloads SET payload_json = '{}'",
            "DELETE FROM main_app.workflow_drift_flags",
            "CREATE OR REPLACE VIEW main_app.mine AS SELECT 1 AS one",
            "DROP VIEW main_app.environments",
            "ALTER FUNCTION main_app.lock_plan(uuid) STABLE",
            "ALTER DOMAIN main_app.check_key DROP NOT NULL",
        ],
    )
    .await;
    // The right to lock a row is the right to update this column, which the view then refuses.
    for write in [
        "UPDATE main_app.drift_checks SET ctid = '(0,1)'",
        "UPDATE main_app.approvals SET ctid = '(0,1)'",
        "UPDATE main_app.drift_checks SET id = 1",
    ] {
        assert!(refusal(&worker.pool, write).await.is_some(), "{write}");
    }
}

#[tokio::test]
async fn worker_role_can_change_neither_the_schema_nor_the_queues_bookkeeping() {
    let (_owner, worker) = as_worker().await;

    assert_refused(
        &worker.pool,
        &[
            "CREATE TABLE public.mine ()",
            "CREATE TABLE retention.mine ()",
            "CREATE TABLE apalis.mine ()",
            "CREATE SCHEMA mine",
            "CREATE FUNCTION retention.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "TRUNCATE retention.operator_actions",
            "UPDATE retention.operator_actions SET actor = 'nobody'",
            "DELETE FROM retention.operator_actions",
            "DELETE FROM retention.purge_run_steps",
            "DELETE FROM apalis._sqlx_migrations",
            "GRANT drift_retention_worker TO postgres",
        ],
    )
    .await;
    for sql in [
        "ALTER TABLE public.incidents ADD COLUMN mine int",
        "ALTER TABLE retention.purge_runs DISABLE TRIGGER append_only",
        "DROP TABLE retention.purge_runs CASCADE",
        "DROP FUNCTION retention.deliver(uuid[], text)",
        "DROP TRIGGER append_only ON retention.operator_actions",
    ] {
        assert_eq!(
            refusal(&worker.pool, sql).await.as_deref(),
            Some("42501"),
            "{sql}"
        );
    }
}

#[tokio::test]
async fn app_role_asks_for_a_purge_follows_it_and_nothing_else() {
    let owner = TestDatabase::new().await;
    roles::apply(&owner).await;
    let org = org_with_all_kinds(&owner).await;
    let app = pool_of(&roles::user_in(&owner, "drift_retention_app").await);

    let run = product::enqueue(&app, org).await;

    assert_eq!(product::status(&app, run).await, "queued");
    assert_eq!(ledger::progress(&app, run).await, 0);
    assert_refused(
        &app,
        &[
            "SELECT retention.deliver('{}')",
            "SELECT retention.enqueue_run(gen_random_uuid(), 'purge_now', 'x', NULL, NULL)",
            "SELECT retention.enqueue_slot(now(), '{}')",
            "SELECT main_app.lock_plan(gen_random_uuid())",
            "SELECT main_app.erase_payloads(ARRAY[gen_random_uuid()])",
            "SELECT retention.erase_payloads(ARRAY[gen_random_uuid()])",
            "SELECT FROM retention.operator_actions",
            "SELECT FROM retention.idempotency_keys",
            "SELECT FROM retention.schedule_slots",
            "SELECT FROM retention.rewritten_payloads",
            "INSERT INTO retention.purge_runs (org_id, trigger, requested_by) VALUES (gen_random_uuid(), 'purge_now', 'x')",
            "UPDATE retention.purge_runs SET status = 'cancelled'",
            "DELETE FROM retention.purge_runs",
            "SELECT FROM retention.purge_runs FOR UPDATE",
            "UPDATE retention.purge_run_steps SET rows_purged = 0",
            "INSERT INTO retention.operator_actions (actor, action) VALUES ('x', 'x')",
            "SELECT FROM apalis.jobs",
            "SELECT FROM incidents",
            "CREATE TABLE retention.mine ()",
        ],
    )
    .await;
}

#[tokio::test]
async fn user_in_neither_role_can_do_nothing() {
    let owner = TestDatabase::new().await;
    roles::apply(&owner).await;
    let anybody = pool_of(&roles::user_in(&owner, "").await);

    assert_refused(
        &anybody,
        &[
            "SELECT * FROM retention.enqueue_purge(gen_random_uuid(), 'x')",
            "SELECT main_app.lock_plan(gen_random_uuid())",
            "SELECT main_app.erase_payloads(ARRAY[gen_random_uuid()])",
            "SELECT retention.erase_payloads(ARRAY[gen_random_uuid()])",
            "SELECT FROM retention.purge_runs",
            "SELECT FROM retention.purge_run_steps",
            "SELECT FROM apalis.jobs",
            "SELECT FROM incidents",
            "CREATE TABLE public.mine ()",
        ],
    )
    .await;
}

#[tokio::test]
async fn applying_the_roles_again_takes_back_what_was_granted_beside_them() {
    let (owner, worker) = as_worker().await;
    owner
        .execute(
            "GRANT UPDATE ON organizations TO drift_retention_worker;
             GRANT UPDATE (name) ON environments TO drift_retention_worker;
             GRANT SELECT ON retention.operator_actions TO drift_retention_app",
        )
        .await;

    roles::apply(&owner).await;

    let app = pool_of(&roles::user_in(&owner, "drift_retention_app").await);
    let changes = [
        "UPDATE organizations SET plan = 'free'",
        "UPDATE environments SET name = 'x'",
    ];
    assert_refused(&worker.pool, &changes).await;
    assert_refused(&app, &["SELECT FROM retention.operator_actions"]).await;
}
