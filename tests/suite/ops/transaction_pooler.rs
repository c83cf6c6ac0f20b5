//! Behind a pooler in transaction mode, and several workers on one Postgres: everything works, each organization is
//! purged once, and what is recorded is what went.

use std::{process::Output, str::FromStr};

use drift_retention::postgres::Database;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::support::{
    self, TestDatabase,
    app::App,
    client::{Client, SECRET, id},
    console::{Console, Who},
    ledger,
    pooler::Pooler,
    product::{self, Service, eventually, until_status},
    scene::Scene,
    text::{stderr, stdout},
    visitor::Visitor,
};

const DIRECT_URL: &str = "DRIFT_RETENTION_DATABASE__DIRECT_URL";

/// A database and a pooler before it.
struct Pooled {
    db: TestDatabase,
    pooler: Pooler,
}

impl Pooled {
    async fn new() -> Self {
        let db = TestDatabase::new().await;
        let pooler = Pooler::before(&db).await;
        Self { db, pooler }
    }

    /// Starts a service that knows both ways.
    fn start(&self, roles: &str, more: &[(&str, &str)]) -> Service {
        let known = [(DIRECT_URL, self.db.url.as_str()), SECRET];
        let env: Vec<_> = known.into_iter().chain(more.iter().copied()).collect();
        Service::start(&self.pooler.url, roles, &env)
    }

    /// Runs a command that knows both ways.
    async fn run(&self, args: &[&str]) -> Output {
        let mut command = product::command(&self.pooler.url);
        command.args(args).env(DIRECT_URL, &self.db.url);
        command.output().await.unwrap()
    }

    /// Runs one that must succeed, and reads its JSON.
    async fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args).await;
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[tokio::test]
#[allow(
    clippy::disallowed_methods,
    reason = "the test asks the product's own sessions"
)]
async fn transactions_have_the_same_settings_on_either_way() {
    let pooled = Pooled::new().await;
    let ways = [
        Database::behind_pooler(&pooled.pooler.url, 1, &pooled.db.url, 1).unwrap(),
        Database::new(&pooled.db.url, 1).unwrap(),
    ];
    for database in ways {
        let mut tx = database.begin().await.unwrap();
        let settings: Vec<String> = sqlx::query_scalar(
            "SELECT current_setting(name) FROM unnest(ARRAY['statement_timeout',
                 'idle_in_transaction_session_timeout', 'jit']) name",
        )
        .fetch_all(&mut tx)
        .await
        .unwrap();
        assert_eq!(settings, ["30s", "5s", "off"]);
        tx.rollback().await.unwrap();
        database.close().await;
    }
}

/// Organizations with so many expired checks each.
async fn organizations(db: &TestDatabase, count: usize, checks: i64) -> Vec<Uuid> {
    let app = App::on(&db.pool);
    let mut orgs = Vec::new();
    for _ in 0..count {
        orgs.push(app.org_with_expired(checks).await);
    }
    orgs
}

async fn all_succeeded(db: &TestDatabase, runs: i64) {
    eventually("every run has succeeded", async || {
        let succeeded = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
        db.value::<i64>(succeeded).await == runs
    })
    .await;
}

/// How many runs each of this database's worker processes has had.
async fn runs_by_process(db: &TestDatabase) -> Vec<i64> {
    db.value(
        "SELECT array_agg(runs) FROM (SELECT count(*) AS runs FROM retention.purge_runs
                                      GROUP BY split_part(worker, ':', 2)) processes",
    )
    .await
}

#[tokio::test]
async fn three_workers_purge_side_by_side_through_the_pooler() {
    let pooled = Pooled::new().await;
    organizations(&pooled.db, 60, 40).await;
    let before = ledger::rows(&pooled.db.pool).await;
    let small_batches = [("DRIFT_RETENTION_PURGE__BATCH_SIZE", "7")];
    let workers: Vec<_> = (0..3)
        .map(|_| pooled.start("worker", &small_batches))
        .collect();
    for worker in &workers {
        worker.ready().await;
    }
    let asked = pooled.json(&["purge", "--all", "--json"]).await;
    assert_eq!(asked["runs"].as_array().unwrap().len(), 60);
    all_succeeded(&pooled.db, 60).await;

    ledger::assert_exact(&pooled.db.pool, &before).await;
    let attempts = "SELECT max(attempts) FROM retention.purge_runs";
    assert_eq!(pooled.db.value::<i32>(attempts).await, 1, "each run once");
    let shares = runs_by_process(&pooled.db).await;
    assert_eq!(shares.len(), 3, "every process had its share: {shares:?}");
    let transactions = pooled.pooler.transactions().await;
    assert!(
        transactions > 60 * 40 / 7,
        "the purge went through the pooler: {transactions}"
    );
}

#[tokio::test]
async fn three_workers_purge_side_by_side_without_a_pooler() {
    let db = TestDatabase::new().await;
    organizations(&db, 60, 20).await;
    let before = ledger::rows(&db.pool).await;
    let workers: Vec<_> = (0..3)
        .map(|_| Service::start(&db.url, "worker", &[]))
        .collect();
    for worker in &workers {
        worker.ready().await;
    }
    product::json(&db.url, &["purge", "--all", "--json"]).await;
    all_succeeded(&db, 60).await;
    ledger::assert_exact(&db.pool, &before).await;
    let attempts = "SELECT max(attempts) FROM retention.purge_runs";
    assert_eq!(db.value::<i32>(attempts).await, 1, "each run once");
    assert_eq!(runs_by_process(&db).await.len(), 3);
}

#[tokio::test]
async fn api_and_every_page_of_the_console_work_through_the_pooler() {
    let db = TestDatabase::new().await;
    let pooler = Pooler::before(&db).await;
    let scene = Scene::of(&db, "words").await;
    let (direct, org) = (db.url.clone(), scene.org);
    let env = [("DATABASE_URL", pooler.url.as_str()), (DIRECT_URL, &direct)];
    let console = Console::on(db, "api", &env).await;
    let mut visitor = Visitor::signed_in(&console, Who::Operator).await;
    for page in scene.pages() {
        let answer = visitor.get(&page).await;
        assert_eq!(answer.status, 200, "{page}: {}", answer.text());
    }
    let client = Client::operator(&console.service).await;
    for path in ["policy", "preview", "runs"] {
        client.read(&format!("/orgs/{org}/retention/{path}")).await;
    }
    for path in ["environments", "incidents", "drift/dashboard"] {
        client.read(&format!("/orgs/{org}/{path}")).await;
    }
    let purge = format!("/orgs/{org}/retention/purge");
    let (status, run) = client.post(&purge, &json!({"reason": "pooled"})).await;
    assert!(status.is_success(), "{status}: {run}");
    let cancel = format!("/retention/runs/{}/cancel", run["run_id"].as_str().unwrap());
    let (status, cancelled) = client.post(&cancel, &json!({"reason": "pooled"})).await;
    assert!(status.is_success(), "{status}: {cancelled}");
    assert_eq!(cancelled["status"], "cancelled");
    assert!(pooler.transactions().await > 50);
}

#[tokio::test]
async fn main_app_asks_for_a_purge_by_sql_through_the_pooler() {
    let pooled = Pooled::new().await;
    let org = organizations(&pooled.db, 1, 5).await[0];
    let through = PgConnectOptions::from_str(&pooled.pooler.url).unwrap();
    let app = support::pool(through.extra_float_digits(None));
    let ask = async || -> Uuid {
        let sql = format!("SELECT run_id FROM retention.enqueue_purge('{org}', 'main app')");
        // As one text, which leaves nothing behind in a session.
        let asked = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&app).await;
        asked.unwrap().get(0)
    };
    let before = pooled.pooler.transactions().await;
    let run = ask().await;
    assert_eq!(run, ask().await, "it coalesces");
    assert!(pooled.pooler.transactions().await >= before + 2);
    let worker = pooled.start("worker", &[]);
    until_status(&pooled.db.pool, run, "succeeded").await;
    drop(worker);
}

#[tokio::test]
async fn scheduler_and_commands_work_through_the_pooler() {
    let pooled = Pooled::new().await;
    let org = organizations(&pooled.db, 1, 5).await[0].to_string();
    let every_second = [("DRIFT_RETENTION_SCHEDULE__CRON", "* * * * * *")];
    let service = pooled.start("scheduler,worker", &every_second);
    service.ready().await;
    eventually("a slot has come", async || {
        let slots = "SELECT count(*) FROM retention.purge_runs WHERE trigger = 'schedule' AND status = 'succeeded'";
        pooled.db.value::<i64>(slots).await > 0
    })
    .await;
    service.kill().await;

    let purged = pooled
        .json(&["purge", "--org", &org, "--work", "--json"])
        .await;
    assert_eq!(purged["runs"][0]["status"], "succeeded");
    for command in [
        &["runs", "list", "--json"][..],
        &[
            "runs",
            "show",
            purged["runs"][0]["run_id"].as_str().unwrap(),
            "--json",
        ],
        &["preview", "--all", "--json"],
        &["policy", "--org", &org, "--json"],
    ] {
        pooled.json(command).await;
    }
}

#[tokio::test]
async fn run_is_cancelled_waited_for_replayed_and_followed_through_the_pooler() {
    let pooled = Pooled::new().await;
    let org = organizations(&pooled.db, 1, 5).await[0];
    let org_arg = org.to_string();
    let api = pooled.start("api", &[]);
    api.ready().await;
    eventually("the gauges are shown", async || {
        api.metric("drift_retention_organizations_overdue").await == Some(1.0)
    })
    .await;

    let asked = pooled.json(&["purge", "--org", &org_arg, "--json"]).await;
    let run = asked["runs"][0]["run_id"].as_str().unwrap();
    let cancelled = pooled.run(&["runs", "cancel", run]).await;
    assert!(cancelled.status.success(), "{}", stderr(&cancelled));
    let run = id(&asked["runs"][0]["run_id"]);
    assert_eq!(product::status(&pooled.db.pool, run).await, "cancelled");

    let _worker = pooled.start("worker", &[]);
    pooled
        .db
        .execute("UPDATE organizations SET plan = 'legacy'")
        .await;
    let wait = ["purge", "--org", &org_arg, "--wait", "--json"];
    let failed = pooled.run(&wait).await;
    assert_eq!(failed.status.code(), Some(1), "{}", stdout(&failed));
    let failed: Value = serde_json::from_slice(&failed.stdout).unwrap();
    let failed = failed["runs"][0]["run_id"].as_str().unwrap();
    pooled
        .db
        .execute("UPDATE organizations SET plan = 'pro'")
        .await;

    let replayed = pooled.run(&["runs", "replay", failed]).await;
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    all_succeeded(&pooled.db, 1).await;
    let client = Client::operator(&api).await;
    let replay = format!("/retention/runs/{failed}/replay");
    let (status, replayed) = client.post(&replay, &json!({"reason": "again"})).await;
    assert!(status.is_success(), "{status}: {replayed}");
    let mut events = client.follow(id(&replayed["run_id"])).await;
    let mut last = Value::Null;
    while let Some(event) = events.next().await {
        last = event;
    }
    assert_eq!(last["status"], "succeeded", "{last}");
    let waited = pooled.json(&wait).await;
    assert_eq!(waited["runs"][0]["status"], "succeeded");
}

#[tokio::test]
async fn purge_now_in_the_console_works_through_the_pooler() {
    let db = TestDatabase::new().await;
    let pooler = Pooler::before(&db).await;
    let direct = db.url.clone();
    let env = [("DATABASE_URL", pooler.url.as_str()), (DIRECT_URL, &direct)];
    let console = Console::on(db, "api,worker", &env).await;
    let org = console.app.org_with_expired(5).await;
    let mut admin = Visitor::signed_in(&console, Who::Admin(org)).await;
    let page = format!("/console/orgs/{org}/retention/purge");
    let csrf = admin.csrf(&page).await;
    let form = [("csrf", csrf.as_str()), ("reason", "pooled")];

    let asked = admin.post(&page, &form).await;

    assert_eq!(asked.status, 303, "{}", asked.text());
    let leads_to = asked.header("location").unwrap();
    let run = leads_to.strip_prefix("/console/runs/").unwrap();
    until_status(&console.db.pool, run.parse().unwrap(), "succeeded").await;
    let page = admin.get(&format!("/console/runs/{run}")).await;
    assert!(page.text().contains("succeeded"), "{}", page.text());
}

#[tokio::test]
async fn a_run_is_taken_over_and_resumed_through_the_pooler() {
    let pooled = Pooled::new().await;
    let org = organizations(&pooled.db, 1, 4_000).await[0];
    let before = ledger::rows(&pooled.db.pool).await;
    let small_batches = [("DRIFT_RETENTION_PURGE__BATCH_SIZE", "1")];
    let first = pooled.start("worker", &small_batches);
    first.ready().await;
    let run = product::enqueue(&pooled.db.pool, org).await;
    eventually("the first worker is at it", async || {
        ledger::progress(&pooled.db.pool, run).await > 10
    })
    .await;
    first.signal(Signal::SIGSTOP);
    let second = pooled.start("worker", &[]);
    until_status(&pooled.db.pool, run, "succeeded").await;
    first.signal(Signal::SIGCONT);
    eventually("the first has noticed", async || {
        first.metric("drift_retention_lease_losses_total").await == Some(1.0)
    })
    .await;
    ledger::assert_exact(&pooled.db.pool, &before).await;
    drop(second);
}

#[tokio::test]
async fn pooler_that_was_taken_for_postgres_is_named_and_what_to_do() {
    let db = TestDatabase::new().await;
    let pooler = Pooler::before(&db).await;
    let output = product::run(&pooler.url, &["runs", "list"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with(
            "error: `database.url` leads to a transaction pooler: set `database.direct_url`"
        ),
        "{said}"
    );
}
