//! Names, titles, notes, reasons and errors that somebody wrote to harm who reads them: no command and no log steers a terminal
//! by them.

use std::{fs, process::Output};

use serde_json::Value;

use crate::support::{
    TestDatabase,
    hostile::{HOSTILE, HOSTILE_NAME, Hostile, MEGABYTE},
    product::{self, Service},
    scene::Scene,
    terminal::Terminal,
    text::{stderr, stdout},
};

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
