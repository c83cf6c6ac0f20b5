//! What people read of `policy`, `preview`, `purge` and the rest, and what scripts read: exit codes and JSON.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    product,
    text::{assert_reads, shown, stdout},
};

/// Nothing listens there.
const NOWHERE: &str = "postgres://nobody:s3cret-word@127.0.0.1:1/nothing";

/// An organization on `pro` with three expired checks, four flags, a payload and an approval, and some to keep.
async fn expired(db: &TestDatabase) -> Uuid {
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    app.check(org, env, "50 days", &["wf_1", "wf_2"]).await;
    app.check(org, env, "40 days", &["wf_1", "wf_2"]).await;
    app.check(org, env, "31 days", &[]).await;
    app.check(org, env, "1 hour", &["wf_1"]).await;
    let incident = app.incident(org, env, "closed", Some("200 days")).await;
    app.payload(incident).await;
    app.approval(org, incident, "approved", "190 days").await;
    app.approval(org, incident, "pending", "190 days").await;
    org
}

/// Runs a command, and returns exit code and text with ids and times made stable.
async fn read(url: &str, args: &[&str]) -> String {
    shown(&product::run(url, args).await)
}

#[tokio::test]
async fn policy_of_a_plan_needs_no_database() {
    assert_reads!(read(NOWHERE, &["policy", "--plan", "agency"]).await, @r"
    exit 0
    Plan agency
     what                          kept for
    ─────────────────────────────────────────
     Drift check history            90 days
     Closed incident payloads      365 days
     Approval history              365 days
     Open incidents            never purged
    ");
    assert_reads!(read(NOWHERE, &["policy", "--plan", " FREE "]).await, @r"
    exit 0
    Plan free
     what                          kept for
    ─────────────────────────────────────────
     Drift check history             7 days
     Closed incident payloads       no rule
     Approval history               no rule
     Open incidents            never purged
    ");
    assert_eq!(
        product::json(NOWHERE, &["policy", "--plan", "agency+", "--json"]).await,
        json!({"plan": "agency",
               "windows_days": {"drift_checks": 90, "incident_payloads": 365, "approvals": 365}})
    );
    assert_eq!(
        product::json(NOWHERE, &["policy", "--plan", "free", "--json"]).await,
        json!({"plan": "free",
               "windows_days": {"drift_checks": 7, "incident_payloads": null, "approvals": null}})
    );
}

#[tokio::test]
async fn policy_of_no_plan_is_wrong_usage() {
    assert_reads!(read(NOWHERE, &["policy", "--plan", "nonsense"]).await, @r#"
    exit 2
    error: invalid value 'nonsense' for '--plan <NAME>': plan "nonsense" is unknown (known: free, pro, agency, agency+, agency_plus, enterprise)

    For more information, try '--help'.
    "#);
}

#[tokio::test]
async fn policy_of_an_organization_is_its_plans() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let (known, unknown) = (app.org(" Agency_Plus").await, app.org("legacy-2019").await);
    let policy = async |org: Uuid| {
        product::run(&db.url, &["policy", "--org", &org.to_string(), "--json"]).await
    };
    let output = policy(known).await;
    let policy_of_known: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(policy_of_known["plan"], "agency");
    assert_reads!(shown(&policy(unknown).await), @r#"
    exit 1
    error: the plan of organization [id] cannot be resolved: plan "legacy-2019" is unknown (known: free, pro, agency, agency+, agency_plus, enterprise)
    "#);
    assert_reads!(shown(&policy(Uuid::nil()).await), @r"
    exit 1
    error: organization [id] does not exist
    ");
}

#[tokio::test]
async fn preview_shows_what_a_purge_would_remove_and_changes_nothing() {
    let db = TestDatabase::new().await;
    let org = expired(&db).await.to_string();
    assert_reads!(read(&db.url, &["preview", "--org", &org]).await, @r"
    exit 0
     organization                          plan  checks  flags  payloads  approvals
    ─────────────────────────────────────────────────────────────────────────────────
     [id]  pro        3      4         1          1
    ");
    assert_eq!(
        product::json(&db.url, &["preview", "--org", &org, "--json"]).await,
        json!({"organizations": [{"org_id": org, "plan": "pro", "error_kind": null, "tables":
            {"drift_checks": 3, "workflow_drift_flags": 4, "incident_payloads": 1, "approvals": 1}}]})
    );
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM drift_checks").await,
        4
    );
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM retention.purge_runs")
            .await,
        0
    );
}

#[tokio::test]
async fn preview_of_all_shows_an_unresolved_organization_and_goes_on() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let unresolved = app.org("legacy-2019").await;
    let env = app.env(unresolved).await;
    app.check(unresolved, env, "900 days", &[]).await;
    app.check(unresolved, env, "1 day", &[]).await;
    let known = expired(&db).await;

    let previews = product::json(&db.url, &["preview", "--all", "--json"]).await;

    let by_id = |id: Uuid| {
        let organizations = previews["organizations"].as_array().unwrap();
        let found = organizations.iter().find(|o| o["org_id"] == id.to_string());
        found.unwrap().clone()
    };
    assert_eq!(
        by_id(unresolved),
        json!({"org_id": unresolved, "plan": null, "error_kind": "policy_unresolved", "tables":
            {"drift_checks": 0, "workflow_drift_flags": 0, "incident_payloads": 0, "approvals": 0}})
    );
    assert_eq!(by_id(known)["tables"]["drift_checks"], 3);
    let table = read(&db.url, &["preview", "--all"]).await;
    assert!(
        table.lines().any(|line| line.contains("unresolved")),
        "{table}"
    );
}

#[tokio::test]
async fn preview_of_an_unknown_organization_fails() {
    let db = TestDatabase::new().await;
    let nobody = Uuid::nil().to_string();
    assert_reads!(read(&db.url, &["preview", "--org", &nobody]).await, @r"
    exit 1
    error: organization [id] does not exist
    ");
}

#[tokio::test]
async fn purge_tells_whether_it_queued_a_run_or_joined_one() {
    let db = TestDatabase::new().await;
    let org = expired(&db).await.to_string();
    let purge = ["purge", "--org", &org, "--reason", "tidy up"];
    assert_reads!(read(&db.url, &purge).await, @r"
    exit 0
    run [id] is queued
    follow with: drift-retention runs list
    ");
    assert_reads!(read(&db.url, &purge).await, @r"
    exit 0
    run [id] is queued already: this request joins it
    follow with: drift-retention runs list
    ");
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM drift_checks").await,
        4
    );
    let recorded =
        "SELECT requested_by LIKE 'cli:%' AND reason = 'tidy up' FROM retention.purge_runs";
    assert!(db.value::<bool>(recorded).await);
}

#[tokio::test]
async fn purge_answers_in_json_what_became_of_the_request() {
    let db = TestDatabase::new().await;
    let org = expired(&db).await.to_string();
    let first = product::json(&db.url, &["purge", "--org", &org, "--json"]).await;
    let id: Uuid = db.value("SELECT id FROM retention.purge_runs").await;
    assert_eq!(
        first,
        json!({"runs": [{"run_id": id, "org_id": org, "status": "queued", "coalesced": false}]})
    );
    let worked = product::json(&db.url, &["purge", "--all", "--work", "--json"]).await;
    assert_eq!(
        worked,
        json!({"runs": [{"run_id": id, "org_id": org, "status": "succeeded", "coalesced": true}]})
    );
}

#[tokio::test]
async fn purge_that_works_shows_what_went_and_what_rules_kept() {
    let db = TestDatabase::new().await;
    expired(&db).await;
    assert_reads!(read(&db.url, &["purge", "--all", "--work"]).await, @r"
    exit 0
     plan        drift_checks  workflow_drift_flags  incident_payloads    approvals
    ─────────────────────────────────────────────────────────────────────────────────
     free                   –                     –                  –            –
     pro                    3                     4                  1  1 (+1 kept)
     agency                 –                     –                  –            –
     enterprise             –                     –                  –            –
    ");
}

#[tokio::test]
async fn purge_in_which_one_run_fails_exits_with_1_and_purges_the_others() {
    let db = TestDatabase::new().await;
    expired(&db).await;
    App::on(&db.pool).org("legacy-2019").await;
    let output = product::command(&db.url)
        .args(["purge", "--all", "--work"])
        .env("RUST_LOG", "off")
        .output()
        .await
        .unwrap();
    assert_reads!(shown(&output), @r#"
    exit 1
     plan        drift_checks  workflow_drift_flags  incident_payloads    approvals
    ─────────────────────────────────────────────────────────────────────────────────
     free                   –                     –                  –            –
     pro                    3                     4                  1  1 (+1 kept)
     agency                 –                     –                  –            –
     enterprise             –                     –                  –            –
    failed [id] of [id] (policy_unresolved): nothing was purged; correct organizations.plan, then replay the run: the plan of organization [id] cannot be resolved: plan "legacy-2019" is unknown (known: free, pro, agency, agency+, agency_plus, enterprise)
    "#);
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM drift_checks").await,
        1
    );
}

#[tokio::test]
async fn purge_that_waits_says_that_no_worker_is_alive_and_ends_when_interrupted() {
    let db = TestDatabase::new().await;
    let org = expired(&db).await.to_string();
    let mut waiting = product::command(&db.url)
        .args(["purge", "--org", &org, "--wait"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let warning = lines.next_line().await.unwrap().unwrap();
    assert!(
        warning.starts_with("warning: no worker is alive"),
        "{warning}"
    );
    assert!(warning.contains("drift-retention serve"), "{warning}");
    kill(
        Pid::from_raw(i32::try_from(waiting.id().unwrap()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let output = waiting.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("1 of 1 runs are not finished"),
        "{}",
        stdout(&output)
    );
    let status: String = db.value("SELECT status FROM retention.purge_runs").await;
    assert_eq!(status, "queued", "the run goes on waiting");
}

#[tokio::test]
async fn purge_that_waits_ends_with_the_run_that_another_process_works_off() {
    let db = TestDatabase::new().await;
    let org = expired(&db).await;
    let id = org.to_string();
    let wait = ["purge", "--org", &id, "--wait", "--json"];
    let work = async {
        product::eventually("the run is queued", async || {
            db.value::<i64>("SELECT count(*) FROM retention.purge_runs")
                .await
                == 1
        })
        .await;
        product::purge(&db.url, org).await
    };
    let (waited, run) = tokio::join!(product::json(&db.url, &wait), work);
    assert_eq!(waited["runs"][0]["run_id"], run.to_string());
    assert_eq!(waited["runs"][0]["status"], "succeeded");
}
