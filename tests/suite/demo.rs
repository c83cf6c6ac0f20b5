//! The quick start: from nothing to a real purge in one command, and nothing is left running.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Output,
};

use tempfile::TempDir;

use crate::support::{
    product,
    text::{CHANGING, stderr, stdout},
};

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

        The scheduler's slot came: 40 runs are queued. The worker purges …

        What went:

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
          drift-retention demo            the same, and then it serves
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
    assert!(second.contains("Going on with the data of the last demo; --reset starts over."));
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
        .split("What went:")
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
    assert!(stdout(&went).contains("What went:"));
    assert_eq!(refused.status.code(), Some(1));
    let says = format!("another demo is running in {}", dir.display());
    assert!(stderr(&refused).contains(&says), "{}", stderr(&refused));
}
