//! Every statement finds its rows by an index, however large the neighbours are: Postgres itself tells, by the
//! plans that it logs while the product works.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use drift_retention::postgres::local::{LocalServer, ServerBinaries, StopMode};
use nix::sys::signal::Signal;
use serde_json::Value;
use sqlx::{PgPool, postgres::PgConnectOptions};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{
    self,
    product::{self, Service},
    value,
};

/// Every plan goes to the log, those inside functions too.
const OPTIONS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("random_page_cost", "1.1"), // as on any disk that databases live on today
    ("session_preload_libraries", "auto_explain"),
    ("auto_explain.log_min_duration", "0"),
    ("auto_explain.log_nested_statements", "on"),
    ("auto_explain.log_format", "json"),
];

/// Tables that grow: no statement may read one from end to end.
const LARGE: [&str; 9] = [
    "drift_checks",
    "workflow_drift_flags",
    "incidents",
    "incident_payloads",
    "approvals",
    "jobs",
    "purge_runs",
    "purge_run_steps",
    "environments",
];

/// Statements that the product's work must have shown.
const EXPECTED: &str = "
    runs.find_claimable runs.claim runs.resume runs.check_fence runs.record runs.lock_owned runs.finish jobs.ack_and_fetch
    purge.drift_checks.count_expired purge.drift_checks.count_flags
    purge.drift_checks.delete_batch purge.drift_checks.remaining purge.drift_checks.overdue
    purge.incident_payloads.count_expired purge.incident_payloads.lock_batch
    purge.incident_payloads.delete_batch purge.incident_payloads.remaining purge.incident_payloads.overdue
    purge.approvals.count_expired purge.approvals.delete_batch
    purge.approvals.remaining purge.approvals.overdue
    jobs.find_stranded jobs.prune_jobs jobs.prune_workers runs.prune
    runs.select_runs runs.unfinished runs.totals runs.unsuccessful runs.count_by_status
    scheduler.open_slot scheduler.newest_slot scheduler.hold_slot scheduler.next_organizations
    scheduler.keep_progress retention.resolve_plan";

/// One large organization beside two hundred small ones, a year of runs and a day of jobs.
const DATA: &str = "
    INSERT INTO organizations (id, name, plan)
    SELECT md5('org ' || n)::uuid, 'Org ' || n, 'pro' FROM generate_series(0, 200) n;
    INSERT INTO environments (id, org_id, name)
    SELECT md5('env ' || n || ' ' || e)::uuid, md5('org ' || n)::uuid, 'env ' || e
    FROM generate_series(0, 200) n, generate_series(1, CASE n WHEN 0 THEN 50 ELSE 3 END) e;
    INSERT INTO drift_checks (org_id, env_id, checked_at, status)
    SELECT md5('org ' || n)::uuid, md5('env ' || n || ' ' || e)::uuid,
           now() - interval '31.5 days' * c / CASE n WHEN 0 THEN 4000 ELSE 30 END, 'in_sync'
    FROM generate_series(0, 200) n, generate_series(1, CASE n WHEN 0 THEN 50 ELSE 3 END) e,
         generate_series(1, CASE n WHEN 0 THEN 4000 ELSE 30 END) c
    ORDER BY 3;
    INSERT INTO workflow_drift_flags (check_id, workflow_id, flag)
    SELECT id, 'wf_' || f, 'modified' FROM drift_checks, generate_series(1, 2) f WHERE id % 3 = 0;
    -- Two thirds were purged before, a few are due, the rest is retained.
    INSERT INTO incidents (id, org_id, env_id, title, status, closed_at, payload_purged_at)
    SELECT md5('incident ' || n || ' ' || i)::uuid, md5('org ' || n)::uuid, md5('env ' || n || ' 1')::uuid,
           'Drift', CASE WHEN i % 10 = 0 THEN 'detected' ELSE 'closed' END,
           CASE WHEN i % 10 > 0 THEN now() - make_interval(days => CASE WHEN i % 3 > 0 OR i % 50 = 3 THEN 200 ELSE 20 END) END,
           CASE WHEN i % 10 > 0 AND i % 3 > 0 THEN now() - interval '20 days' END
    FROM generate_series(0, 200) n, generate_series(1, CASE n WHEN 0 THEN 20000 ELSE 60 END) i;
    INSERT INTO incident_payloads (incident_id, payload_json)
    SELECT id, jsonb_build_object('diff', (SELECT string_agg(md5(id::text || n), '') FROM generate_series(1, 50) n))
    FROM incidents WHERE payload_purged_at IS NULL;
    INSERT INTO approvals (org_id, incident_id, action, status, requested_by, created_at)
    SELECT i.org_id, i.id, 'accept_drift', CASE WHEN row_number() OVER () % 20 = 0 THEN 'pending' ELSE 'approved' END,
           'sam', now() - make_interval(days => (row_number() OVER () % 185)::int)
    FROM incidents i, generate_series(1, 2);
    INSERT INTO retention.purge_runs (id, org_id, trigger, requested_by, status, created_at, finished_at)
    SELECT md5('run ' || n || ' ' || d)::uuid, md5('org ' || n)::uuid, 'purge_now', 'x',
           CASE WHEN d % 50 = 0 THEN 'failed' ELSE 'succeeded' END, now() - make_interval(days => d), now()
    FROM generate_series(0, 200) n, generate_series(1, 100) d;
    ALTER TABLE retention.purge_run_steps DISABLE TRIGGER no_late_steps;
    INSERT INTO retention.purge_run_steps (run_id, table_name, status)
    SELECT id, t, 'succeeded' FROM retention.purge_runs,
           unnest('{drift_checks,workflow_drift_flags,incident_payloads,approvals}'::text[]) t;
    ALTER TABLE retention.purge_run_steps ENABLE TRIGGER no_late_steps;
    INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, done_at, priority)
    SELECT 'job-' || n, 'drift-retention.purge', '{}', 'Done', 1, 1, now() - interval '1 hour', now() - interval '1 hour', 0
    FROM generate_series(1, 20000) n;
    ANALYZE;";

/// One statement's plan, as Postgres logged it.
struct Logged {
    /// The name that the statement opens with; of one inside a function, its first words.
    name: String,
    plan: Value,
    /// Whether it was compiled to machine code.
    is_compiled: bool,
}

/// The plans in a log, from this byte on.
fn plans(log: &Path, from: usize) -> Vec<Logged> {
    let text = fs::read(log).unwrap();
    let text = String::from_utf8_lossy(&text[from..]);
    let mut found = Vec::new();
    for entry in text.split(" ms  plan:\n").skip(1) {
        // The continuation lines of one entry begin with a tab.
        let lines = entry.lines().take_while(|line| line.starts_with('\t'));
        let plan: Value = serde_json::from_str(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        let text = plan["Query Text"].as_str().unwrap().trim_start();
        // Planned to see where rows come from, and never run.
        if text.starts_with("EXPLAIN ") {
            continue;
        }
        let name = match text.strip_prefix("-- ") {
            Some(named) => named.lines().next().unwrap().trim().to_owned(),
            None => text
                .split_whitespace()
                .take(6)
                .collect::<Vec<_>>()
                .join(" "),
        };
        found.push(Logged {
            name,
            plan: plan["Plan"].clone(),
            is_compiled: plan.get("JIT").is_some(),
        });
    }
    found
}

/// Every node of a plan.
fn nodes(plan: &Value) -> Vec<&Value> {
    let below = plan["Plans"].as_array().into_iter().flatten();
    std::iter::once(plan).chain(below.flat_map(nodes)).collect()
}

/// The statements that read a large table from end to end, with the table.
fn full_reads(logged: &[Logged]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for statement in logged {
        for node in nodes(&statement.plan) {
            let table = node["Relation Name"].as_str().unwrap_or_default();
            if node["Node Type"] == "Seq Scan" && LARGE.contains(&table) {
                found.insert(format!("{}: Seq Scan on {table}", statement.name));
            }
        }
    }
    found
}

/// The statements, of those that the product names, that were compiled: the test's own sessions are as anybody's.
fn compiled(logged: &[Logged]) -> BTreeSet<&str> {
    let ours = logged.iter().filter(|statement| statement.is_compiled);
    ours.map(|statement| statement.name.as_str())
        .filter(|name| !name.contains(' '))
        .collect()
}

fn indexes<'a>(logged: &'a [Logged], name: &str) -> BTreeSet<&'a str> {
    let of_name = logged.iter().filter(|statement| statement.name == name);
    let nodes = of_name.flat_map(|statement| nodes(&statement.plan));
    nodes
        .filter_map(|node| node["Index Name"].as_str())
        .collect()
}

/// Everything the product does with its tables: purge of the small and the large, then a whole slot. Only the small
/// are previewed: what counts as expired of the large is a share of the tables that is rightly read in one go.
async fn work(url: &str, pool: &PgPool) {
    for n in [1, 0] {
        let org: Uuid = value(pool, &format!("SELECT md5('org {n}')::uuid")).await;
        if n > 0 {
            product::run(url, &["preview", "--org", &org.to_string()]).await;
        }
        product::purge(url, org).await;
    }
    let env = [
        ("DRIFT_RETENTION_SCHEDULE__CRON", "*/2 * * * * *"),
        ("DRIFT_RETENTION_WORKER__CONCURRENCY", "2"),
    ];
    let mut service = Service::start(url, "scheduler,worker", &env);
    product::eventually("every organization has had its slot", async || {
        let done = "SELECT count(DISTINCT org_id) FROM retention.purge_runs
                    WHERE trigger = 'schedule' AND status = 'succeeded'";
        value::<i64>(pool, done).await == 201
    })
    .await;
    service.signal(Signal::SIGTERM);
    service.child.wait().await.unwrap();
    let small: Uuid = value(pool, "SELECT md5('org 3')::uuid").await;
    for args in [
        ["runs", "list"].as_slice(),
        &["runs", "replay", "--failed", "--dry-run"],
        &["purge", "--work", "--org", &small.to_string()],
    ] {
        product::run(url, args).await;
    }
}

/// A server that logs every plan, with a database that has the product's schema.
struct Planner {
    server: LocalServer,
    url: String,
    pool: PgPool,
    log: PathBuf,
    /// How much of the log is read.
    read: usize,
    _dir: TempDir,
}

impl Planner {
    async fn start(options: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let binaries = ServerBinaries::find(None).unwrap();
        let options = [OPTIONS, options].concat();
        let server = LocalServer::start(&binaries, dir.path(), &options)
            .await
            .unwrap();
        server.create_database("app").await.unwrap();
        let url = server.url("app");
        let migrated = product::run(&url, &["migrate", "up", "--main-app"]).await;
        assert!(migrated.status.success(), "{migrated:?}");
        Self {
            pool: support::pool(url.parse::<PgConnectOptions>().unwrap()),
            log: dir.path().join("server.log"),
            read: 0,
            server,
            url,
            _dir: dir,
        }
    }

    async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    /// What comes from now on is what is looked at.
    fn skip(&mut self) {
        self.read = usize::try_from(fs::metadata(&self.log).unwrap().len()).unwrap();
    }

    fn plans(&self) -> Vec<Logged> {
        plans(&self.log, self.read)
    }

    async fn stop(self) {
        self.pool.close().await;
        self.server.stop(StopMode::Immediate).await.unwrap();
    }
}

#[tokio::test]
async fn own_server_no_statement_reads_a_large_table_from_end_to_end() {
    let mut planner = Planner::start(&[]).await;
    planner.execute(DATA).await;
    // Any plan is dear enough to be compiled, as those beside a huge organization are.
    planner
        .execute("ALTER DATABASE app SET jit_above_cost = 0")
        .await;

    planner.skip();
    work(&planner.url, &planner.pool).await;
    let logged = planner.plans();

    let seen: BTreeSet<&str> = logged
        .iter()
        .map(|statement| statement.name.as_str())
        .collect();
    let missing: Vec<_> = EXPECTED
        .split_whitespace()
        .filter(|name| !seen.contains(name))
        .collect();
    assert!(
        missing.is_empty(),
        "never seen: {missing:?} among {seen:#?}"
    );
    assert_eq!(full_reads(&logged), BTreeSet::new());
    assert_eq!(compiled(&logged), BTreeSet::new());
    // A stamped incident leaves this index: no later run looks at it again.
    let by_due: BTreeMap<_, _> = ["count_expired", "lock_batch", "remaining", "overdue"]
        .map(|step| {
            (
                step,
                indexes(&logged, &format!("purge.incident_payloads.{step}")),
            )
        })
        .into();
    for (step, used) in by_due {
        assert!(
            used.contains("incidents_payload_due_idx"),
            "{step} uses {used:?}"
        );
    }

    // And the same when Postgres has stopped planning for the values at hand.
    planner
        .execute("ALTER DATABASE app SET plan_cache_mode = force_generic_plan; ANALYZE")
        .await;
    planner.skip();
    let small: Uuid = value(&planner.pool, "SELECT md5('org 2')::uuid").await;
    product::run(&planner.url, &["preview", "--org", &small.to_string()]).await;
    product::purge(&planner.url, small).await;
    // Housekeeping aside: once a minute, bounded, and cheaper planned for its values, so Postgres goes on doing that.
    let mut logged = planner.plans();
    logged.retain(|statement| !statement.name.contains(".prune"));
    assert_eq!(full_reads(&logged), BTreeSet::new());

    planner.stop().await;
}

/// Organizations with something to purge in a database whose statistics know of none, nor of anything in the queue.
const FILLED_AT_ONCE: &str = "
    ANALYZE;
    INSERT INTO organizations (name, plan) SELECT 'org ' || n, 'pro' FROM generate_series(1, 300) n;
    INSERT INTO environments (org_id, name) SELECT id, 'production' FROM organizations;
    INSERT INTO drift_checks (org_id, env_id, checked_at, status)
    SELECT org_id, id, now() - make_interval(days => age), 'in_sync' FROM environments, unnest('{1, 40, 50}'::int[]) age;
    SELECT count(*) FROM retention.enqueue_slot(now(), ARRAY (SELECT id FROM organizations ORDER BY id));";

#[tokio::test]
async fn own_server_queue_that_filled_at_once_is_read_by_key_and_in_order() {
    let mut planner = Planner::start(&[("autovacuum", "off")]).await;
    planner.execute(FILLED_AT_ONCE).await;

    planner.skip();
    // Beside an app at work, which this test would be, runs are purged one by one.
    let unthrottled = [("DRIFT_RETENTION_PURGE__THROTTLE", "false")];
    let mut service = Service::start(&planner.url, "worker", &unthrottled);
    product::eventually("every organization is purged", async || {
        let done = "SELECT count(*) FROM retention.purge_runs WHERE status = 'succeeded'";
        value::<i64>(&planner.pool, done).await == 300
    })
    .await;
    service.signal(Signal::SIGTERM);
    service.child.wait().await.unwrap();
    let logged = planner.plans();

    for name in [
        "jobs.ack_and_fetch",
        "runs.find_claimable",
        "runs.claim",
        "runs.check_fence",
        "runs.lock_owned",
        "runs.finish",
    ] {
        let of_name: Vec<_> = logged.iter().filter(|found| found.name == name).collect();
        assert!(!of_name.is_empty(), "never seen: {name}");
        for node in of_name.iter().flat_map(|found| nodes(&found.plan)) {
            let kind = node["Node Type"].as_str().unwrap();
            let condition = node["Index Cond"].as_str().unwrap_or_default();
            let by_key = match node["Relation Name"].as_str() {
                Some("purge_runs") => condition.contains("(id "),
                Some("jobs") => !condition.is_empty(),
                _ => true,
            };
            let is_scan = kind.ends_with("Scan") && kind != "CTE Scan";
            assert!(
                by_key || !is_scan,
                "{name} reads more than it needs: {node:#}"
            );
        }
    }
    planner.stop().await;
}
