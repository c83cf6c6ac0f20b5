//! `runs`: what operators read and do. Lists fit a terminal and page without gaps; a replay is a new run; what
//! cannot be done says so and changes nothing.

use std::collections::BTreeSet;

use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    product,
    text::{assert_reads, shown, stdout},
};

async fn read(url: &str, args: &[&str]) -> String {
    shown(&product::run(url, args).await)
}

/// Purges everything; a run of an organization without a known plan fails.
async fn purge_all(db: &TestDatabase) {
    product::run(&db.url, &["purge", "--all", "--work"]).await;
}

/// A failed run, for an organization whose plan has been mended since.
async fn failed(db: &TestDatabase) -> (Uuid, Uuid) {
    let org = App::on(&db.pool).org("legacy-2019").await;
    product::run(&db.url, &["purge", "--org", &org.to_string(), "--work"]).await;
    let run =
        format!("SELECT id FROM retention.purge_runs WHERE org_id = '{org}' AND status = 'failed'");
    let run = db.value(&run).await;
    db.execute(&format!(
        "UPDATE organizations SET plan = 'pro' WHERE id = '{org}'"
    ))
    .await;
    (org, run)
}

/// All of a run's record.
async fn record(db: &TestDatabase, run: Uuid) -> Value {
    db.value(&format!(
        "SELECT to_jsonb(r) FROM retention.purge_runs r WHERE id = '{run}'"
    ))
    .await
}

async fn actions(db: &TestDatabase) -> Vec<String> {
    db.value(
        "SELECT coalesce(array_agg(concat_ws(' ', action, run_id, reason) ORDER BY id), '{}')
         FROM retention.operator_actions WHERE actor LIKE 'cli:%'",
    )
    .await
}

#[tokio::test]
async fn list_without_runs_says_what_makes_some() {
    let db = TestDatabase::new().await;
    assert_reads!(read(&db.url, &["runs", "list"]).await, @r"
    exit 0
    no runs; `drift-retention purge --all` enqueues some
    ");
    let empty = product::json(&db.url, &["runs", "list", "--json"]).await;
    assert_eq!(empty, serde_json::json!({"items": [], "next_cursor": null}));
}

#[tokio::test]
async fn list_is_newest_first_and_fits_a_terminal() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("enterprise").await;
    let env = app.env(org).await;
    app.many_checks(org, env, 1500, "181 days", 1).await;
    purge_all(&db).await;
    let (other, _) = failed(&db).await;
    product::run(&db.url, &["purge", "--org", &org.to_string()]).await;

    let list = read(&db.url, &["runs", "list"]).await;

    let named = list
        .replace(&org.to_string()[..8], "[org 1] ")
        .replace(&other.to_string()[..8], "[org 2] ");
    assert_reads!(named, @r"
    exit 0
     run                                   status     org       created   rows
    ────────────────────────────────────────────────────────────────────────────
     [id]  queued     [org 1]  [age]      0
     [id]  failed     [org 2]  [age]      0
     [id]  succeeded  [org 1]  [age]  2 998
    ");
    for line in list.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let only = read(&db.url, &["runs", "list", "--status", "failed"]).await;
    assert_eq!(only.matches("failed").count(), 1);
    assert!(
        !only.contains("succeeded") && !only.contains("queued"),
        "{only}"
    );
    let theirs = product::json(
        &db.url,
        &["runs", "list", "--org", &org.to_string(), "--json"],
    )
    .await;
    assert_eq!(theirs["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn pages_give_every_run_exactly_once() {
    let db = TestDatabase::new().await;
    for _ in 0..5 {
        App::on(&db.pool).org("pro").await;
    }
    // One transaction: all five have the same creation time.
    product::run(&db.url, &["purge", "--all"]).await;

    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut args = vec!["runs", "list", "--limit", "2", "--json"];
        args.extend(
            cursor
                .iter()
                .flat_map(|cursor| ["--cursor", cursor.as_str()]),
        );
        let page = product::json(&db.url, &args).await;
        let items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()));
        seen.extend(
            items
                .iter()
                .map(|run| run["id"].as_str().unwrap().to_owned()),
        );
        // Runs that come meanwhile do not shift the pages.
        if cursor.is_none() {
            let newcomer = App::on(&db.pool).org("pro").await;
            product::run(&db.url, &["purge", "--org", &newcomer.to_string()]).await;
        }
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }

    assert_eq!(seen.len(), 5);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 5);
    let more = read(&db.url, &["runs", "list", "--limit", "2"]).await;
    assert!(
        more.lines().last().unwrap().starts_with("more: --cursor "),
        "{more}"
    );
}

#[tokio::test]
async fn show_tells_all_of_a_run() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("free").await;
    let env = app.env(org).await;
    app.check(org, env, "8 days", &["wf_1"]).await;
    app.check(org, env, "1 hour", &[]).await;
    let run = product::purge(&db.url, org).await.to_string();
    assert_reads!(read(&db.url, &["runs", "show", &run]).await, @r"
    exit 0
     run           [id]
    ─────────────────────────────────────────────────────
     status        succeeded
     organization  [id]
     plan          free
     trigger       purge_now
     requested by  cli:[user]
     attempts      1 of 8
     created       [time]
     started       [time]
     finished      [time]
     verified      [time]
     table                 status     cutoff                   purged  kept  batches
    ──────────────────────────────────────────────────────────────────────────────────
     drift_checks          succeeded  [time]       1     0        1
     workflow_drift_flags  succeeded  [time]       1     0        1
     incident_payloads     no_rule    no rule                       0     0        0
     approvals             no_rule    no rule                       0     0        0
    ");

    let json = product::json(&db.url, &["runs", "show", &run, "--json"]).await;
    let steps = json["steps"].as_array().unwrap();
    let told: Vec<_> = steps
        .iter()
        .map(|step| {
            (
                step["table_name"].as_str().unwrap(),
                step["rows_purged"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("drift_checks", 1),
            ("workflow_drift_flags", 1),
            ("incident_payloads", 0),
            ("approvals", 0)
        ]
    );
    assert_eq!(json["policy"]["approvals"], Value::Null);
    assert_eq!(json["status"], "succeeded");
}

#[tokio::test]
async fn show_of_a_failed_run_says_what_to_do() {
    let db = TestDatabase::new().await;
    let (_, run) = failed(&db).await;
    assert_reads!(read(&db.url, &["runs", "show", &run.to_string()]).await, @r#"
    exit 0
     run           [id]
    ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     status        failed
     organization  [id]
     trigger       purge_now
     requested by  cli:[user]
     attempts      1 of 8
     created       [time]
     started       [time]
     finished      [time]
     error kind    policy_unresolved
     error         nothing was purged; correct organizations.plan, then replay the run: the plan of organization [id] cannot be resolved: plan "legacy-2019" is unknown (known: free, pro, agency, agency+, agency_plus, enterprise)
     table  status  cutoff  purged  kept  batches
    ───────────────────────────────────────────────
    "#);
}

#[tokio::test]
async fn unknown_run_is_an_error_for_every_command() {
    let db = TestDatabase::new().await;
    let nobody = Uuid::nil().to_string();
    for command in ["show", "replay", "cancel"] {
        let text = read(&db.url, &["runs", command, &nobody]).await;
        assert_eq!(
            text,
            format!(
                "exit 1\nerror: there is no run {nobody}; `drift-retention runs list` shows them\n"
            )
        );
    }
}

#[tokio::test]
async fn replay_makes_a_new_run_and_leaves_the_old_one_as_it_was() {
    let db = TestDatabase::new().await;
    let (org, run) = failed(&db).await;
    let id = run.to_string();
    let before = record(&db, run).await;

    let text = read(&db.url, &["runs", "replay", &id, "--reason", "plan mended"]).await;

    let made = format!(
        "SELECT id FROM retention.purge_runs WHERE trigger = 'replay' AND replay_of = '{run}'"
    );
    let made: Uuid = db.value(&made).await;
    assert_eq!(text, format!("exit 0\n{run} is replayed as {made}\n"));
    assert_eq!(actions(&db).await, [format!("replay {run} plan mended")]);
    assert_eq!(product::purge(&db.url, org).await, made);
    assert_eq!(record(&db, run).await, before);
}

#[tokio::test]
async fn replay_meets_a_live_run_and_says_so() {
    let db = TestDatabase::new().await;
    let (org, run) = failed(&db).await;
    let live = product::json(&db.url, &["purge", "--org", &org.to_string(), "--json"]).await;
    let live = live["runs"][0]["run_id"].as_str().unwrap();
    let text = read(&db.url, &["runs", "replay", &run.to_string()]).await;
    assert_eq!(
        text,
        format!("exit 0\n{run}: its organization has a live run already, {live}\n")
    );
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM retention.purge_runs")
            .await,
        2
    );
}

#[tokio::test]
async fn replay_of_a_run_that_succeeded_or_is_live_is_refused() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let done = product::purge(&db.url, app.org("pro").await)
        .await
        .to_string();
    assert_reads!(read(&db.url, &["runs", "replay", &done]).await, @r"
    exit 1
    error: run [id] is succeeded: only a failed or cancelled run can be replayed; to purge again use `drift-retention purge --org`
    ");
    let org = app.org("pro").await.to_string();
    let live = product::json(&db.url, &["purge", "--org", &org, "--json"]).await;
    let live = live["runs"][0]["run_id"].as_str().unwrap();
    assert_reads!(read(&db.url, &["runs", "replay", live]).await, @r"
    exit 1
    error: run [id] is queued: only a failed or cancelled run can be replayed; to purge again use `drift-retention purge --org`
    ");
    assert!(actions(&db).await.is_empty());
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM retention.purge_runs")
            .await,
        2
    );
}

#[tokio::test]
async fn dry_run_shows_exactly_what_a_replay_of_failed_runs_then_replays() {
    let db = TestDatabase::new().await;
    let (org, superseded) = failed(&db).await;
    // The organization's latest failed run counts, and none of one that has succeeded since.
    db.execute(&format!(
        "UPDATE organizations SET plan = 'legacy' WHERE id = '{org}'"
    ))
    .await;
    product::run(&db.url, &["purge", "--org", &org.to_string(), "--work"]).await;
    db.execute(&format!(
        "UPDATE organizations SET plan = 'pro' WHERE id = '{org}'"
    ))
    .await;
    let (_, other) = failed(&db).await;
    let (mended, mended_run) = failed(&db).await;
    product::purge(&db.url, mended).await;

    let replay = ["runs", "replay", "--failed", "--json"];
    let dry = product::json(&db.url, &[&replay[..], &["--dry-run"]].concat()).await;
    assert!(actions(&db).await.is_empty());
    let runs = "SELECT count(*) FROM retention.purge_runs";
    assert_eq!(db.value::<i64>(runs).await, 5);
    let nothing = [&replay[..], &["--dry-run", "--error-kind", "panic"]].concat();
    assert_eq!(
        product::json(&db.url, &nothing).await["would_replay"],
        serde_json::json!([])
    );
    let done = product::json(&db.url, &replay).await;

    let ids = |list: &Value, key: &str| -> BTreeSet<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|run| run[key].as_str().unwrap().to_owned())
            .collect()
    };
    let promised = ids(&dry["would_replay"], "run_id");
    assert_eq!(promised, ids(&done["replayed"], "replay_of"));
    assert_eq!(promised.len(), 2);
    assert!(promised.contains(&other.to_string()));
    assert!(!promised.contains(&superseded.to_string()));
    assert!(!promised.contains(&mended_run.to_string()));
    let made =
        "SELECT count(*) FROM retention.purge_runs WHERE trigger = 'replay' AND status = 'queued'";
    assert_eq!(db.value::<i64>(made).await, 2);
}

#[tokio::test]
async fn replay_of_nothing_says_so() {
    let db = TestDatabase::new().await;
    assert_reads!(read(&db.url, &["runs", "replay", "--failed"]).await, @r"
    exit 0
    nothing to replay
    ");
    assert_reads!(read(&db.url, &["runs", "replay", "--failed", "--dry-run"]).await, @r"
    exit 0
    0 runs; nothing was changed
    ");
}

#[tokio::test]
async fn cancelled_run_is_never_worked_off_and_can_be_replayed() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    app.many_checks(org, env, 3, "40 days", 0).await;
    let queued = product::json(&db.url, &["purge", "--org", &org.to_string(), "--json"]).await;
    let run = queued["runs"][0]["run_id"].as_str().unwrap();

    let cancel = ["runs", "cancel", run, "--reason", "not tonight"];
    assert_reads!(read(&db.url, &cancel).await, @r"
    exit 0
    run [id] of organization [id] is cancelled
    ");
    assert_eq!(actions(&db).await, [format!("cancel {run} not tonight")]);

    // Somebody else's purge gives a worker the chance to take the cancelled one.
    product::purge(&db.url, app.org("pro").await).await;
    assert_eq!(
        product::status(&db.pool, run.parse().unwrap()).await,
        "cancelled"
    );
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM drift_checks").await,
        3
    );
    assert_reads!(read(&db.url, &["runs", "cancel", run]).await, @r"
    exit 1
    error: run [id] is cancelled already: only a queued, running or retrying run can be cancelled
    ");
    let replayed = product::run(&db.url, &["runs", "replay", run]).await;
    assert!(stdout(&replayed).contains("is replayed as"));
}
