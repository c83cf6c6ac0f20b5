//! Least privilege: with `deploy/postgres/roles.sql` the product does all its work. `roles_refused.rs` has what they may not do.

use serde_json::json;

use crate::support::{
    TestDatabase,
    app::App,
    client::{Client, id, serve},
    console::{Console, Who},
    held, ledger,
    product::{self, Service, eventually, until_status},
    roles::{self, as_worker, assert_refused, org_with_all_kinds, pool_of, refusal},
    visitor::Visitor,
};

#[tokio::test]
async fn worker_role_previews_and_purges_every_table() {
    let (owner, worker) = as_worker().await;
    let org = org_with_all_kinds(&owner).await;
    let before = ledger::rows(&owner.pool).await;

    let preview = product::json(&worker.url, &["preview", "--all", "--json"]).await;
    let purged = product::json(&worker.url, &["purge", "--all", "--work", "--json"]).await;

    assert_eq!(
        preview["organizations"][0]["tables"],
        json!({"drift_checks": 10, "workflow_drift_flags": 20, "incident_payloads": 1, "approvals": 1})
    );
    assert_eq!(purged["runs"][0]["status"], "succeeded");
    ledger::assert_exact(&owner.pool, &before).await;
    assert_eq!(ledger::rows(&owner.pool).await, [1, 1, 0, 2]);
    // A payload written again: its note goes with it.
    owner
        .execute(
            "INSERT INTO incident_payloads SELECT id, '{}' FROM incidents WHERE status = 'closed'",
        )
        .await;
    product::purge(&worker.url, org).await;
    let left: i64 = owner
        .value("SELECT (SELECT count(*) FROM incident_payloads) + (SELECT count(*) FROM retention.rewritten_payloads)")
        .await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn worker_role_lists_replays_and_cancels_runs() {
    let (owner, worker) = as_worker().await;
    let org = App::on(&owner.pool).org("legacy").await;
    let failed = product::run(&worker.url, &["purge", "--org", &org.to_string(), "--work"]).await;
    assert_eq!(failed.status.code(), Some(1), "the plan is unknown");

    let listed = product::json(
        &worker.url,
        &["runs", "list", "--status", "failed", "--json"],
    )
    .await;
    assert_eq!(listed["items"][0]["error_kind"], "policy_unresolved");
    let run = listed["items"][0]["id"].as_str().unwrap();
    for args in [
        &["runs", "show", run][..],
        &["runs", "replay", "--failed", "--dry-run"],
        &["runs", "replay", run],
    ] {
        let done = product::run(&worker.url, args).await;
        assert!(done.status.success(), "{args:?}: {done:?}");
    }
    let replay: String = owner
        .value("SELECT id::text FROM retention.purge_runs WHERE trigger = 'replay'")
        .await;
    let done = product::run(&worker.url, &["runs", "cancel", &replay]).await;
    assert!(done.status.success(), "{done:?}");
    let actions: Vec<String> = owner
        .value("SELECT array_agg(action ORDER BY id) FROM retention.operator_actions")
        .await;
    assert_eq!(actions, ["replay", "cancel"]);
}

#[tokio::test]
async fn worker_role_serves_api_schedule_and_purges() {
    let (owner, worker) = as_worker().await;
    let org = org_with_all_kinds(&owner).await;
    let every_second = [("DRIFT_RETENTION_SCHEDULE__CRON", "* * * * * *")];
    let service = serve(&worker, "api,scheduler,worker", &every_second).await;
    let client = Client::operator(&service).await;

    eventually("the schedule made a run that succeeded", async || {
        owner
            .value::<bool>(
                "SELECT EXISTS (SELECT FROM retention.purge_runs WHERE trigger = 'schedule' AND status = 'succeeded')",
            )
            .await
    })
    .await;
    let key = client
        .request(
            reqwest::Method::POST,
            &format!("/orgs/{org}/retention/purge"),
        )
        .header("Idempotency-Key", "once");
    let (status, asked) = crate::support::client::answer(key).await;
    assert_eq!(status, 202, "{asked}");
    until_status(&owner.pool, id(&asked["run_id"]), "succeeded").await;
    for view in [
        "environments",
        "incidents",
        "drift/dashboard",
        "retention/policy",
        "retention/preview",
        "retention/runs",
    ] {
        client.read(&format!("/orgs/{org}/{view}")).await;
    }
    assert!(
        service
            .metric("drift_retention_organizations_overdue")
            .await
            .is_some()
    );
    let mut events = client.follow(id(&asked["run_id"])).await;
    assert_eq!(events.next().await.unwrap()["status"], "succeeded");
}

#[tokio::test]
async fn worker_role_puts_right_what_a_crash_left_and_prunes_old_runs() {
    let (owner, worker) = as_worker().await;
    let org = App::on(&owner.pool).org_with_expired(501).await;
    owner
        .execute(&format!(
            "INSERT INTO retention.purge_runs (org_id, trigger, requested_by, created_at)
             VALUES ('{org}', 'schedule', 'scheduler', now() - interval '500 days');
             INSERT INTO retention.purge_run_steps (run_id, table_name) SELECT id, 'approvals' FROM retention.purge_runs;
             INSERT INTO retention.idempotency_keys (org_id, key, run_id, coalesced)
             SELECT org_id, 'old', id, false FROM retention.purge_runs;
             UPDATE retention.purge_runs SET status = 'succeeded'"
        ))
        .await;
    owner
        .execute(
            "INSERT INTO apalis.workers (id, worker_type, storage_name)
             VALUES ('gone', 'drift-retention.purge', 'PostgresStorage');
             UPDATE apalis.workers SET last_seen = now() - interval '1 day' WHERE id = 'gone'",
        )
        .await;
    held::slow_deletes(&owner, "drift_checks", "0.3").await;
    let small_batches = [("DRIFT_RETENTION_PURGE__BATCH_SIZE", "50")];
    let first = Service::start(&worker.url, "worker", &small_batches);
    let run = product::enqueue(&owner.pool, org).await;
    eventually("a batch is purged", async || {
        ledger::progress(&owner.pool, run).await > 0
    })
    .await;
    first.kill().await;
    owner
        .execute("DROP TRIGGER take_long ON drift_checks")
        .await;

    let _second = Service::start(&worker.url, "worker", &[]);

    until_status(&owner.pool, run, "succeeded").await;
    eventually("the old run is pruned", async || {
        owner
            .value::<i64>("SELECT count(*) FROM retention.purge_runs")
            .await
            == 1
    })
    .await;
    let left: i64 = owner
        .value(
            "SELECT (SELECT count(*) FROM retention.idempotency_keys)
                     + (SELECT count(*) FROM apalis.workers WHERE id = 'gone')",
        )
        .await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn users_of_compose_purge_and_read_and_get_new_passwords() {
    let owner = TestDatabase::new().await;
    roles::apply(&owner).await;
    let org = org_with_all_kinds(&owner).await;
    for passwords in [("first", "second"), ("third", "fourth")] {
        roles::make_users(&owner, passwords).await;
        let [worker, grafana] = [("drift_retention", passwords.0), ("grafana", passwords.1)]
            .map(|(name, password)| roles::url_of(&owner, name, password));
        product::purge(&worker, org).await;
        let grafana = pool_of(&grafana);
        assert_eq!(
            refusal(&grafana, "SELECT FROM retention.purge_runs").await,
            None
        );
        assert_refused(
            &grafana,
            &[
                "SELECT FROM incidents",
                "DELETE FROM retention.purge_runs",
                "SELECT * FROM retention.enqueue_purge(gen_random_uuid(), 'x')",
            ],
        )
        .await;
        assert_refused(&pool_of(&worker), &["DELETE FROM organizations"]).await;
    }
}

#[tokio::test]
async fn worker_role_serves_the_console() {
    let (owner, worker) = as_worker().await;
    let org = org_with_all_kinds(&owner).await;
    let console = Console {
        service: serve(&worker, "api", &[]).await,
        app: App::on(&owner.pool),
        db: owner,
    };
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;

    for page in [
        "overview".to_owned(),
        "runs".into(),
        "runs/replay".into(),
        "actions".into(),
        "orgs".into(),
        format!("orgs/{org}/incidents"),
        format!("orgs/{org}/retention/purge"),
    ] {
        let answer = operator.get(&format!("/console/{page}")).await;
        assert_eq!(answer.status, 200, "{page}");
    }
}
