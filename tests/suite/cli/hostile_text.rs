//! Names, titles, notes, reasons and errors that somebody wrote to harm who reads them: they steer no terminal, and no answer
//! grows with them.

use std::{fs, process::Output};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    api::answer,
    client::{Client, serve},
    console::{Console, Who},
    product::{self, Service},
    scene::Scene,
    terminal::Terminal,
    text::{stderr, stdout},
    visitor::Visitor,
};

/// Clears the screen, renames the window, rings, overwrites its line, looks like a second line, and turns what follows around;
/// and letters that become longer in JSON and in HTML.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{9d}0;x\u{9c}\u{85}\u{7f}\rok\nerror: none\t\u{202e}\u{2066}\u{200f}\u{61c}\"<&'é🦀";
/// A name that Postgres takes for a trigger.
const HOSTILE_NAME: &str = "\u{1b}]0;x\u{7}\u{9b}31m\u{7f}\r\n\u{202e}trigger";
/// What an answer takes at most.
const MEGABYTE: usize = 1_000_000;

/// One of everything, each of its texts three megabytes long, and many of what stands in lists.
struct Hostile {
    db: TestDatabase,
    scene: Scene,
    /// Its plan is hostile too.
    other: Uuid,
}

impl Hostile {
    async fn new() -> Self {
        let db = TestDatabase::new().await;
        let scene = Scene::of(&db, HOSTILE).await;
        let other = db
            .value("SELECT id FROM organizations WHERE plan <> 'pro'")
            .await;
        let times = 3_000_000 / HOSTILE.len() + 1;
        let long = |column: &str| format!("{column} = repeat({column}, {times})");
        let all = |columns: &[&str]| {
            let all: Vec<String> = columns.iter().map(|column| long(column)).collect();
            all.join(", ")
        };
        db.execute(&format!(
            "DROP INDEX environments_org_name_idx; -- another main app has none, and takes such names
             BEGIN; SET LOCAL session_replication_role = replica;
             UPDATE organizations SET {}, plan = CASE plan WHEN 'pro' THEN plan ELSE repeat(plan, {times}) END;
             UPDATE environments SET {};
             UPDATE incidents SET severity = title;
             UPDATE incidents SET {};
             UPDATE approvals SET {};
             UPDATE workflow_drift_flags SET {};
             UPDATE retention.purge_runs SET {};
             UPDATE retention.purge_run_steps SET throttle_reason = (SELECT requested_by FROM retention.purge_runs LIMIT 1),
                 throttled_ms = 1000;
             UPDATE retention.operator_actions SET {};
             COMMIT",
            long("name"),
            long("name"),
            all(&["title", "severity", "owner"]),
            all(&["action", "requested_by", "decided_by", "notes"]),
            long("workflow_name"),
            all(&["requested_by", "reason", "error"]),
            all(&["actor", "reason"]),
        ))
        .await;
        many(&db, &scene).await;
        db.execute(&format!(
            "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER \"{HOSTILE_NAME}\" BEFORE UPDATE ON incidents FOR EACH ROW EXECUTE FUNCTION pass()"
        ))
        .await;
        Self { db, scene, other }
    }
}

/// As many as a list shows at once, and more, each text longer than it is shown.
async fn many(db: &TestDatabase, scene: &Scene) {
    let (org, env, incident) = (scene.org, scene.envs[0], scene.incidents[0]);
    let words = format!("repeat('{}', 60)", HOSTILE.replace('\'', "''"));
    db.execute(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica;
         INSERT INTO organizations (name, plan) SELECT {words}, {words} FROM generate_series(1, 120);
         INSERT INTO environments (org_id, name) SELECT '{org}', {words} || n FROM generate_series(1, 250) n;
         INSERT INTO incidents (org_id, env_id, title, severity, status, owner)
         SELECT '{org}', '{env}', {words}, n || {words}, n || {words}, {words} FROM generate_series(1, 250) n;
         INSERT INTO approvals (org_id, incident_id, action, status, requested_by, decided_by, notes, decided_at)
         SELECT '{org}', '{incident}', {words}, 'approved', {words}, {words}, {words}, now() FROM generate_series(1, 1200);
         INSERT INTO workflow_drift_flags (check_id, workflow_id, workflow_name, flag)
         SELECT c.id, n || left({words}, 300), {words}, 'modified'
         FROM generate_series(1, 1200) n, (SELECT id FROM drift_checks ORDER BY checked_at DESC LIMIT 1) c;
         INSERT INTO retention.purge_runs (org_id, trigger, requested_by, reason, status, error_kind, error, created_at, finished_at)
         SELECT o.id, 'purge_now', {words}, {words}, 'failed', n || left({words}, 300), {words}, now() - interval '2 hours', now()
         FROM generate_series(1, 250) n, (SELECT id FROM organizations WHERE plan <> 'pro' LIMIT 1) o;
         INSERT INTO retention.operator_actions (actor, action, run_id, org_id, reason)
         SELECT {words}, 'replay', '{}', '{org}', {words} FROM generate_series(1, 120);
         COMMIT",
        scene.runs.failed.unwrap()
    ))
    .await;
}

/// Whether it would do more to a terminal than write letters, and move on.
fn steers(letter: char) -> bool {
    letter.is_control() && !matches!(letter, '\t' | '\n')
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[track_caller]
fn assert_harmless(text: &str, what: &str) {
    if let Some(at) = text.find(steers) {
        let around: String = text[at..].chars().take(60).collect();
        panic!("{what}: {around:?}");
    }
    assert!(text.len() <= MEGABYTE, "{what}: {} bytes", text.len());
}

#[track_caller]
fn assert_output_harmless(output: &Output, what: &str) {
    let (out, err) = (stdout(output), stderr(output));
    assert_harmless(&out, what);
    assert_harmless(&err, what);
    assert!(!err.contains("panicked"), "{what}: {err}");
    assert!(!(out + &err).is_empty(), "{what} says nothing");
}

#[tokio::test]
async fn no_command_prints_or_logs_what_steers_a_terminal() {
    let Hostile { db, scene, other } = Hostile::new().await;
    let (org, other) = (scene.org.to_string(), other.to_string());
    let failed = scene.runs.failed.unwrap().to_string();
    let live = scene.runs.live.unwrap().to_string();
    let mut commands = vec![
        vec!["runs", "list", "--limit", "200"],
        vec!["runs", "list", "--limit", "50", "--json"],
        vec!["runs", "replay", "--failed", "--dry-run"],
        vec![
            "runs",
            "replay",
            "--failed",
            "--dry-run",
            "--error-kind",
            HOSTILE,
        ],
        vec!["preview", "--org", &org],
        vec!["preview", "--all", "--json"],
        vec!["policy", "--org", &org],
        vec!["policy", "--org", &other],
        vec!["policy", "--plan", HOSTILE],
        vec!["attach", "check"],
        vec!["attach", "check", "--json"],
        vec!["migrate", "status"],
    ];
    for run in [&failed, &live] {
        commands.push(vec!["runs", "show", run]);
        commands.push(vec!["runs", "show", run, "--json"]);
    }
    // These change something.
    commands.extend([
        vec!["runs", "replay", &failed, "--reason", HOSTILE],
        vec!["runs", "cancel", &live, "--reason", HOSTILE],
        vec!["runs", "cancel", &live],
        vec!["purge", "--org", &other, "--reason", HOSTILE],
        vec!["purge", "--org", &other, "--work"],
        vec!["purge", "--org", &org, "--work", "--json"],
    ]);
    for command in commands {
        let what = format!("{command:.60?}");
        let output = product::run(&db.url, &command).await;
        assert_output_harmless(&output, &what);

        let terminal = Terminal::open();
        let shown = product::command(&db.url)
            .args(&command)
            .stdout(terminal.stream())
            .stderr(terminal.stream())
            .status()
            .await;
        shown.unwrap();
        assert_harmless(&terminal.read(), &format!("{what} on a terminal"));
    }
    let mut command = product::command(&db.url);
    command.env("DRIFT_RETENTION_SCHEDULE__TIMEZONE", HOSTILE);
    let output = command.args(["config", "show"]).output().await.unwrap();
    assert_output_harmless(&output, "config show");
}

#[tokio::test]
async fn what_is_shown_is_escaped_on_its_line_and_json_is_what_was_written() {
    let db = TestDatabase::new().await;
    let scene = Scene::of(&db, HOSTILE).await;
    let failed = scene.runs.failed.unwrap().to_string();

    let shown = stdout(&product::run(&db.url, &["runs", "show", &failed]).await);
    let escaped = "\\u001b]0;owned\\u0007\\u001b[2J\\u009b31m\\u009d0;x\\u009c\\u0085\\u007f\\rok\\nerror: none\\t\
                   \\u202e\\u2066\\u200f\\u061c\"<&'é🦀";
    for fact in ["requested by", "reason", "error kind", "error"] {
        let line = shown.lines().find(|line| line.trim().starts_with(fact));
        assert!(
            line.unwrap().trim_end().ends_with(escaped),
            "{fact}: {shown}"
        );
    }

    let run = product::json(&db.url, &["runs", "show", &failed, "--json"]).await;
    for fact in ["requested_by", "reason", "error_kind", "error"] {
        assert_eq!(run[fact], HOSTILE, "{fact}");
    }
}

#[tokio::test]
async fn no_page_and_no_answer_of_the_api_takes_more_than_a_megabyte() {
    let Hostile { db, scene, other } = Hostile::new().await;
    let console = Console::on(db, "api", &[]).await;
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;
    let mut pages = scene.pages();
    let org = scene.org;
    pages.extend([
        format!("/console/orgs/{org}/retention/preview"),
        format!("/console/orgs/{other}/retention"),
        format!("/console/orgs/{other}/retention/purge"),
        "/console/runs/replay?status=cancelled".to_owned(),
    ]);
    for page in pages {
        let answer = operator.get(&page).await;
        assert_eq!(answer.status, 200, "{page}: {}", answer.text());
        let bytes = answer.body.len();
        assert!(bytes <= MEGABYTE, "{page}: {bytes} bytes");
    }

    let client = Client::operator(&console.service).await;
    let (env, incident) = (scene.envs[0], scene.incidents[0]);
    let failed = scene.runs.failed.unwrap();
    for path in [
        "/retention/runs?limit=200".to_owned(),
        format!("/retention/runs/{failed}"),
        format!("/retention/runs/{failed}/events"),
        format!("/orgs/{org}/retention/runs?limit=200"),
        format!("/orgs/{org}/retention/policy"),
        format!("/orgs/{org}/retention/preview"),
        format!("/orgs/{org}/environments?limit=200"),
        format!("/orgs/{org}/environments/{env}"),
        format!("/orgs/{org}/incidents?limit=200"),
        format!("/orgs/{org}/incidents/{incident}"),
        format!("/orgs/{org}/drift/dashboard"),
        format!("/orgs/{other}/retention/policy"),
        format!("/orgs/{other}/retention/preview"),
        format!("/orgs/{other}/retention/runs?limit=200"),
        "/readyz".to_owned(),
        "/metrics".to_owned(),
    ] {
        let answer = answer(client.request(Method::GET, &path)).await;
        let is_refused = answer.status == 409 && path.ends_with("/policy");
        assert!(
            answer.status == 200 || is_refused,
            "{path}: {}",
            answer.text()
        );
        let bytes = answer.body.len();
        assert!(bytes <= MEGABYTE, "{path}: {bytes} bytes");
    }
}

/// A page that ends early leaves nothing out: the next one goes on where it ended.
#[tokio::test]
async fn list_that_takes_more_pages_than_asked_for_leaves_nothing_out() {
    let Hostile { db, scene, other } = Hostile::new().await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::operator(&service).await;
    let org = scene.org;
    // Runs have the longest texts: two pages have no room for them.
    for (path, all, fewest_pages) in [
        (format!("/orgs/{org}/incidents"), 253, 2),
        (format!("/orgs/{org}/environments"), 251, 2),
        (format!("/orgs/{other}/retention/runs"), 251, 3),
    ] {
        let (mut ids, mut pages) = (std::collections::BTreeSet::new(), 0);
        let mut next = Some(String::new());
        while let Some(cursor) = next {
            let page = client.read(&format!("{path}?limit=200{cursor}")).await;
            let items = page["items"].as_array().unwrap();
            ids.extend(items.iter().map(|item| item["id"].to_string()));
            pages += 1;
            next = page["next_cursor"]
                .as_str()
                .map(|cursor| format!("&cursor={cursor}"));
        }
        assert_eq!(ids.len(), all, "{path}");
        assert!(pages >= fewest_pages, "{path}: {pages} pages");
    }
}

#[tokio::test]
async fn text_that_is_cut_says_so() {
    let Hostile { db, scene, .. } = Hostile::new().await;
    let service = serve(&db, "api", &[]).await;
    let client = Client::operator(&service).await;
    let (org, incident) = (scene.org, scene.incidents[0]);
    let incident = client
        .read(&format!("/orgs/{org}/incidents/{incident}"))
        .await;
    let length = |text: &Value| {
        let text = text.as_str().unwrap();
        assert!(
            text.starts_with(HOSTILE) && text.ends_with("..."),
            "{text:?}"
        );
        text.chars().count()
    };
    for name in [
        &incident["title"],
        &incident["owner"],
        &incident["severity"],
    ] {
        assert_eq!(length(name), 203);
    }
    assert_eq!(length(&incident["approvals"][0]["requested_by"]), 203);
    assert_eq!(length(&incident["approvals"][0]["notes"]), 2003);
}

#[tokio::test]
async fn log_of_a_service_is_whole_lines_that_steer_no_terminal() {
    let Hostile { db, scene, other } = Hostile::new().await;
    let (mut service, log) = Service::logged(&db.url, "api,worker", &[]);
    let terminal = Terminal::open();
    let mut on_terminal = Service::start_logging(&db.url, "api,worker", &[], terminal.stream());
    service.ready().await;
    on_terminal.ready().await;
    for org in [scene.org, other] {
        let run = product::enqueue(&db.pool, org).await;
        product::eventually("the run has ended", async || {
            let status = product::status(&db.pool, run).await;
            status == "succeeded" || status == "failed"
        })
        .await;
    }
    for service in [&mut service, &mut on_terminal] {
        service.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(
            service
                .ends_within(std::time::Duration::from_secs(30))
                .await,
            Some(0)
        );
    }

    let log = fs::read_to_string(log.path()).unwrap();
    assert_harmless(&log, "the log");
    let mut names = 0;
    for line in log.lines() {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        names += usize::from(line["message"].as_str().unwrap().contains(HOSTILE_NAME));
    }
    assert_eq!(
        names, 1,
        "the warning of the trigger, as it is called: {log}"
    );

    let shown = terminal.read();
    assert_harmless(&shown, "the log on a terminal");
    assert!(shown.contains("\\u202etrigger"), "{shown}");
    let is_entry = |line: &str| {
        line.starts_with("20")
            && (line.contains(" INFO ") || line.contains(" WARN ") || line.contains(" ERROR "))
    };
    assert!(shown.lines().all(is_entry), "{shown}");
}

/// What other logins may have written into our own records, as jsonb that no parser reads.
#[tokio::test]
async fn record_whose_json_cannot_be_read_is_shown_without_it() {
    let db = TestDatabase::new().await;
    let scene = Scene::of(&db, "Nordwind").await;
    let deep = format!("{}1{}", "[".repeat(1000), "]".repeat(1000));
    let run = scene.runs.ended[1];
    db.execute(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica;
         UPDATE retention.purge_runs SET policy = '{{\"incident_payloads\": 1e400}}' WHERE id = '{run}';
         UPDATE retention.purge_run_steps SET cascaded = '{{\"public.audit\": {deep}}}' WHERE run_id = '{run}';
         UPDATE retention.purge_run_steps SET started_at = now() - interval '2 days' WHERE run_id = '{run}';
         UPDATE retention.operator_actions SET details = '{{\"run_id\": 1e400, \"more\": {deep}}}';
         COMMIT"
    ))
    .await;
    let id = run.to_string();
    let shown = product::json(&db.url, &["runs", "show", &id, "--json"]).await;
    assert_eq!(shown["policy"], json!(null));
    assert_eq!(shown["steps"][0]["cascaded"], json!(null));
    let console = Console::on(db, "api", &[]).await;
    let mut operator = Visitor::signed_in(&console, Who::Operator).await;
    for page in scene.pages() {
        let answer = operator.get(&page).await;
        assert_eq!(answer.status, 200, "{page}: {}", answer.text());
    }
}
