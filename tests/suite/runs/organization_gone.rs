//! An organization that the main app deletes while its run waits, or is at work: the run is cancelled and says why, and
//! nobody is alerted.

use std::process::Stdio;

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    api::{Api, token},
    app::App,
    held::Held,
    ledger,
    product::{self, Service, eventually, until_status},
    runs,
    text::{assert_reads, shown, stdout},
    trouble,
};

const SMALL_BATCHES: (&str, &str) = ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "20");

/// The main app's way to delete an organization with all that it has.
fn deletion(org: Uuid) -> String {
    format!(
        "DELETE FROM approvals WHERE org_id = '{org}';
         DELETE FROM incidents WHERE org_id = '{org}';
         DELETE FROM drift_checks WHERE org_id = '{org}';
         DELETE FROM environments WHERE org_id = '{org}';
         DELETE FROM organizations WHERE id = '{org}'"
    )
}

async fn assert_cancelled(db: &TestDatabase, org: Uuid, run: Uuid) {
    until_status(&db.pool, run, "cancelled").await;
    let record = runs::run(db, run).await;
    assert_eq!(record["error_kind"], "organization_gone");
    assert_eq!(
        record["error"],
        format!(
            "organization {org} does not exist any more: what was purged before stays purged, and nothing more is to be done"
        )
    );
    assert!(!record["finished_at"].is_null() && record["verified_at"].is_null());
    assert!(record["next_attempt_at"].is_null());
}

#[tokio::test]
async fn waiting_run_of_a_deleted_organization_is_cancelled() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let run = product::enqueue(&db.pool, org).await;
    db.execute(&deletion(org)).await;
    let worker = Service::start(&db.url, "worker", &[]);
    assert_cancelled(&db, org, run).await;
    assert_eq!(ledger::attempts(&db.pool, run).await, 1);
    eventually("it is counted", async || {
        worker.outcomes("cancelled").await == 1.0
    })
    .await;
    assert_eq!(worker.outcomes("failed").await, 0.0);
    let shown = shown(&product::run(&db.url, &["runs", "show", &run.to_string()]).await);
    assert!(shown.contains("status        cancelled"), "{shown}");
    assert!(shown.contains("error kind    organization_gone"), "{shown}");
}

#[tokio::test]
async fn scheduled_runs_of_the_others_succeed_beside_it() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let gone = app.org("pro").await;
    for _ in 0..5 {
        app.org_with_expired(5).await;
        app.org("agency").await;
    }
    runs::enqueue_slot(&db).await;
    db.execute(&deletion(gone)).await;
    let worker = Service::start(&db.url, "worker", &[]);
    runs::all_are_final(&db).await;
    assert_cancelled(&db, gone, runs::newest_run(&db, gone).await).await;
    let succeeded = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
    assert_eq!(db.value::<i64>(succeeded).await, 10);
    eventually("all are counted", async || {
        worker.outcomes("cancelled").await == 1.0 && worker.outcomes("succeeded").await == 10.0
    })
    .await;
    assert_eq!(worker.outcomes("failed").await, 0.0);
}

#[tokio::test]
async fn run_at_work_is_cancelled_and_keeps_its_counts() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(2_001).await;
    trouble::deletes_take(&db.pool, 0.02).await;
    let _worker = Service::start(&db.url, "worker", &[SMALL_BATCHES]);
    let run = product::enqueue(&db.pool, org).await;
    eventually("it is at work", async || {
        ledger::progress(&db.pool, run).await > 0
    })
    .await;
    // The organization first: no batch, and no verification after it, goes on between its rows' end and its own.
    let lock = format!("SELECT FROM organizations WHERE id = '{org}' FOR UPDATE");
    db.execute(&format!("{lock}; {}", deletion(org))).await;
    assert_cancelled(&db, org, run).await;
    let purged = ledger::progress(&db.pool, run).await;
    assert!(purged > 0 && purged < 6_000, "{purged}");
}

#[tokio::test]
async fn run_that_backs_off_is_cancelled_by_its_next_attempt() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    trouble::deletes_fail(&db.pool, org, 1_000).await;
    let _worker = Service::start(&db.url, "worker", &[]);
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "retrying").await;
    // In one transaction: no attempt goes on in between.
    db.execute(&format!(
        "DROP TRIGGER refuse ON drift_checks; {}",
        deletion(org)
    ))
    .await;
    assert_cancelled(&db, org, run).await;
    assert!(ledger::attempts(&db.pool, run).await > 1);
}

/// The statement that locks the plan waits for the deletion, and still sees the organization by its own snapshot.
#[tokio::test]
async fn organization_that_goes_while_a_batch_waits_for_its_plan_has_no_wrong_plan() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let worker = Service::start(&db.url, "worker", &[]);
    worker.ready().await;
    for _ in 0..4 {
        // Until the deletion commits there is something to purge, so that no verification ends the run before.
        let org = app.org_with_expired(11).await;
        let held = Held::by(&db, &deletion(org)).await;
        let run = product::enqueue(&db.pool, org).await;
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'
                         AND query LIKE '-- runs.check_fence%'";
        eventually("a batch waits for the deletion", async || {
            db.value::<i64>(waiting).await > 0
        })
        .await;
        held.commit().await;
        assert_cancelled(&db, org, run).await;
    }
}

#[tokio::test]
async fn purge_that_waits_says_that_the_organization_is_gone() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await;
    let waiting = product::command(&db.url)
        .args(["purge", "--org", &org.to_string(), "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it waits", async || {
        let runs = "SELECT count(*) FROM retention.purge_runs";
        db.value::<i64>(runs).await == 1
    })
    .await;
    db.execute(&deletion(org)).await;
    let _worker = Service::start(&db.url, "worker", &[]);
    let output = waiting.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let run = runs::newest_run(&db, org).await;
    let says = format!(
        "cancelled {run} of {org} (organization_gone): organization {org} does not exist any more"
    );
    assert!(stdout(&output).contains(&says), "{}", stdout(&output));
}

#[tokio::test]
async fn nothing_is_enqueued_for_an_organization_that_does_not_exist() {
    let db = TestDatabase::new().await;
    let org = Uuid::nil().to_string();
    for more in [&[][..], &["--work"], &["--wait"]] {
        let mut words = vec!["purge", "--org", &org];
        words.extend(more);
        assert_eq!(
            shown(&product::run(&db.url, &words).await),
            format!(
                "exit 1\nerror: organization {org} does not exist: nothing was enqueued; check the id\n"
            )
        );
    }
    let runs = "SELECT count(*) FROM retention.purge_runs";
    assert_eq!(db.value::<i64>(runs).await, 0);
}

#[tokio::test]
async fn replay_of_all_that_failed_passes_over_the_organization_that_is_gone() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let (gone, here) = (app.org("legacy").await, app.org("legacy").await);
    product::run(&db.url, &["purge", "--all", "--work"]).await;
    db.execute(&deletion(gone)).await;

    let failed = runs::newest_run(&db, gone).await.to_string();
    assert_reads!(shown(&product::run(&db.url, &["runs", "replay", &failed]).await), @r"
    exit 1
    error: organization [id] does not exist: nothing was enqueued; check the id
    ");
    let replay = ["runs", "replay", "--failed", "--json"];
    let replayed = product::json(&db.url, &replay).await;
    let replayed = replayed["replayed"].as_array().unwrap();
    assert_eq!(replayed.len(), 1);
    assert_eq!(replayed[0]["org_id"], json!(here));
}

#[tokio::test]
async fn api_refuses_a_replay_and_does_not_find_the_organization() {
    let api = Api::start().await;
    let org = App::on(&api.db.pool).org("pro").await;
    let run = product::enqueue(&api.db.pool, org).await;
    api.db.execute(&deletion(org)).await;
    let _worker = Service::start(&api.db.url, "worker", &[]);
    assert_cancelled(&api.db, org, run).await;
    let operator = token("operator", None);

    let replay = format!("/retention/runs/{run}/replay");
    let refused = api.post(&replay, &operator, "{}").await;
    refused.assert_problem(409, "replay");
    assert!(refused.text().contains("does not exist any more"));
    let all = json!({"status": "cancelled", "dry_run": true}).to_string();
    let would = api.post("/retention/runs/replay", &operator, all).await;
    assert_eq!(would.json()["runs"], json!([]), "{}", would.text());
    let purge = format!("/orgs/{org}/retention/purge");
    api.post(&purge, &operator, "{}")
        .await
        .assert_problem(404, "purge");
}
