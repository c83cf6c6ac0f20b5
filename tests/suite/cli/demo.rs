//! The quick start: from nothing to a real purge in one command, and nothing is left running.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::support::{
    TestDatabase,
    app::App,
    port::Port,
    product,
    text::{CHANGING, stderr, stdout},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_drift-retention");

/// Reachable by the user that the server drops to when the tests run as root.
fn reachable_directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

/// `demo --exit`, without a database of anybody's.
async fn demo(dir: &Path, more: &[&str]) -> Output {
    product::command("")
        .args(["demo", "--exit", "--data-dir"])
        .arg(dir)
        .args(more)
        .output()
        .await
        .unwrap()
}

async fn succeeds(dir: &Path, more: &[&str]) -> String {
    let output = demo(dir, more).await;
    assert!(
        output.status.success(),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    assert!(
        !dir.join("data/postmaster.pid").exists(),
        "the server still runs"
    );
    stdout(&output)
}

#[tokio::test]
async fn own_server_first_demo_shows_a_preview_a_purge_and_the_run_that_failed_closed() {
    let parent = reachable_directory();
    let dir = parent.path().join("demo");
    let shown = succeeds(&dir, &[]).await;
    let mut filters = CHANGING.to_vec();
    let path = dir.to_str().unwrap().to_owned();
    filters.push((&path, "[dir]"));
    insta::with_settings!({filters => filters}, {
        insta::assert_snapshot!(shown, @r#"
        Starting Postgres in [dir] …
        Loading 40 sample organizations …

        What a purge would remove now, by plan:

         plan        organizations  checks   flags  payloads  approvals
        ─────────────────────────────────────────────────────────────────
         free                    8   2 218   2 825         0          0
         pro                    14  16 859  20 026       188        194
         agency                  9  14 775  17 574       134        135
         enterprise              8  26 432  30 486        27         25
         unknown                 1       0       0         0          0

        The scheduler's slot is due: 40 runs are queued. The worker purges …

        Purged rows:

         plan            drift_checks  workflow_drift_flags  incident_payloads       approvals
        ────────────────────────────────────────────────────────────────────────────────────────
         free         2 218 (+1 kept)                 2 825                  0               0
         pro         16 859 (+2 kept)                20 026                188  194 (+71 kept)
         agency                14 775                17 574                134  135 (+49 kept)
         enterprise  26 432 (+1 kept)                30 486                 27    25 (+9 kept)

        One run failed closed (policy_unresolved):
          organization [id]
          nothing was purged; correct organizations.plan, then replay the run: the plan of organization [id] cannot be resolved: plan "legacy-2019" is unknown (known: free, pro, agency, agency+, agency_plus, enterprise)

        Try next:
          drift-retention demo --data-dir [dir]  # the same, and then serve
        "#);
    });
}

#[tokio::test]
async fn own_server_second_demo_goes_on_with_its_data_and_reset_starts_over() {
    let parent = reachable_directory();
    let dir = parent.path().join("demo");
    let loading = "Loading 40 sample organizations";
    let first = succeeds(&dir, &[]).await;
    assert!(first.contains(loading));

    let second = succeeds(&dir, &[]).await;
    assert!(second.contains("Continuing with the data of the last demo; --reset starts over."));
    assert!(!second.contains(loading));
    // What the first purged is gone: the second previews nothing more.
    for plan in ["free", "pro", "agency", "enterprise"] {
        let row = second.lines().find(|line| line.trim().starts_with(plan));
        let numbers: Vec<_> = row.unwrap().split_whitespace().skip(2).collect();
        assert_eq!(numbers, ["0", "0", "0", "0"], "{plan}");
    }

    let third = succeeds(&dir, &["--reset"]).await;
    assert!(third.contains(loading));
    assert_eq!(what_went(&third), what_went(&first));
}

fn what_went(shown: &str) -> &str {
    shown
        .split("Purged rows:")
        .nth(1)
        .unwrap()
        .split("One run failed")
        .next()
        .unwrap()
}

#[tokio::test]
async fn own_server_reset_touches_nothing_that_is_not_a_demos() {
    let parent = reachable_directory();
    let dir = parent.path().join("mine");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("thesis.txt"), "years of work").unwrap();
    succeeds(&dir, &["--reset"]).await;
    succeeds(&dir, &["--reset"]).await;
    assert_eq!(
        fs::read_to_string(dir.join("thesis.txt")).unwrap(),
        "years of work"
    );
}

#[tokio::test]
async fn own_server_second_demo_in_the_same_place_at_once_is_refused_and_disturbs_nothing() {
    let parent = reachable_directory();
    let dir = parent.path().join("demo");
    let (one, other) = tokio::join!(demo(&dir, &[]), demo(&dir, &[]));
    let (went, refused) = if one.status.success() {
        (one, other)
    } else {
        (other, one)
    };
    assert!(went.status.success(), "{}", stderr(&went));
    assert!(stdout(&went).contains("Purged rows:"));
    assert_eq!(refused.status.code(), Some(1));
    let says = format!("another demo is running in {}", dir.display());
    assert!(stderr(&refused).contains(&says), "{}", stderr(&refused));
}

/// The commands under *Try next*, as somebody copies them.
fn try_next(shown: &str) -> Vec<String> {
    let commands = shown.split("Try next:\n").nth(1).unwrap();
    let commands = commands.lines().take_while(|line| line.starts_with("  "));
    commands.map(|line| line.trim().to_owned()).collect()
}

/// Runs a line as a shell does that somebody has open elsewhere: without the program on its PATH, or with it.
async fn paste(lines: &str, path: &str) -> Output {
    Command::new("/bin/sh")
        .args(["-ec", lines])
        .env_clear()
        .env("PATH", path)
        .current_dir("/")
        .output()
        .await
        .unwrap()
}

/// Where `curl` and `grep` are.
const SYSTEM: &str = "/usr/local/bin:/usr/bin:/bin";

#[tokio::test]
async fn own_server_commands_to_try_next_work_when_they_are_pasted() {
    let parent = reachable_directory();
    // A name that a shell would break.
    let dir = parent.path().join("my demo's data");
    let again = try_next(&succeeds(&dir, &[]).await);
    assert_eq!(again.len(), 1, "{again:?}");

    let held = Port::reserve();
    let script = format!("exec {}", again[0]);
    let mut serving = Command::new("/bin/sh")
        .args(["-ec", &script])
        .env_clear()
        .env("PATH", SYSTEM)
        .env(
            "DRIFT_RETENTION_HTTP__LISTEN",
            format!("127.0.0.1:{}", held.number),
        )
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(serving.stdout.take().unwrap()).lines();
    let mut shown = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        shown.push_str(&line);
        shown.push('\n');
        if line.starts_with("Serving on") {
            break;
        }
    }
    let commands = try_next(&shown);
    assert!(commands.len() >= 5, "{shown}");
    let url = format!("http://127.0.0.1:{}/readyz", held.number);
    product::eventually("the demo serves", async || {
        reqwest::get(&url)
            .await
            .is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    let export = commands[0].clone();
    for command in &commands[1..] {
        let pasted = paste(&format!("{export}\n{command}"), SYSTEM).await;
        // One organization's plan is unknown: a purge of all that waits says so, and fails.
        let fails = command.ends_with("purge --all --wait");
        let shown = format!("{}{}", stdout(&pasted), stderr(&pasted));
        assert_eq!(
            pasted.status.code(),
            Some(i32::from(fails)),
            "{command}: {shown}"
        );
        assert!(!fails || shown.contains("(policy_unresolved)"), "{shown}");
        assert!(!pasted.stdout.is_empty(), "{command}");
    }
    let pid = Pid::from_raw(i32::try_from(serving.id().unwrap()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    // Its last words fit into the pipe.
    assert!(serving.wait().await.unwrap().success());
}

#[tokio::test]
async fn program_that_is_on_the_path_is_named_as_people_call_it() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await.to_string();
    let bin = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(PROGRAM, bin.path().join("drift-retention")).unwrap();
    let here = format!("{}:{SYSTEM}", bin.path().display());
    for (path, program) in [(here.as_str(), "drift-retention"), (SYSTEM, PROGRAM)] {
        let enqueue = format!(
            "export DATABASE_URL='{}'\n'{PROGRAM}' purge --org {org}",
            db.url
        );
        let shown = stdout(&paste(&enqueue, path).await);
        let follow = shown
            .lines()
            .find_map(|line| line.strip_prefix("follow with: "));
        assert_eq!(
            follow,
            Some(format!("{program} runs list").as_str()),
            "{shown}"
        );
        let follow = format!("export DATABASE_URL='{}'\n{}", db.url, follow.unwrap());
        assert!(paste(&follow, path).await.status.success());
    }
}
