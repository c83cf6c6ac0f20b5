//! Output that nobody takes: a full disk is an error with exit status 1, a reader that is gone ends the command without a
//! word, and neither is a panic.

use std::{
    fs::{File, OpenOptions},
    process::{Output, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    product::{self, Service},
    text::stderr,
};

const SECRET: (&str, &str) = (
    "DRIFT_RETENTION_AUTH__HS256_SECRET",
    "a-secret-of-at-least-thirty-two-bytes",
);

/// A disk without room for another byte.
fn full_disk() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe that nobody reads any more.
fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Every command that prints, by its words. What is enqueued stays queued: no worker is there.
fn commands(org: Uuid, run: Uuid) -> Vec<String> {
    let fixed = [
        "--help",
        "--version",
        "help runs",
        "runs list --help",
        "config check",
        "config show",
        "config reference",
        "completions bash",
        "completions zsh",
        "attach template",
        "attach check",
        "attach check --json",
        "token --sub oda --role operator",
        "token --sub oda --role operator --link",
        "policy --plan pro",
        "policy --plan pro --json",
        "migrate status",
        "migrate up",
        "preview --all",
        "preview --all --json",
        "purge --all",
        "purge --all --json",
        "purge --all --work",
        "purge --all --work --json",
        "runs list",
        "runs list --json",
        "runs list --status failed",
        "runs replay --failed",
        "runs replay --failed --json",
        "runs replay --failed --dry-run",
        "runs replay --failed --dry-run --json",
        "demo --exit --data-dir /tmp/none-is-made",
    ];
    let mut commands: Vec<String> = fixed.map(str::to_owned).into();
    commands.extend([
        format!("policy --org {org}"),
        format!("runs show {run}"),
        format!("runs show {run} --json"),
    ]);
    commands
}

async fn run(url: &str, words: &str, stdout: impl Into<Stdio>) -> Output {
    product::command(url)
        .args(words.split(' '))
        .envs([SECRET])
        .stdout(stdout)
        .stderr(Stdio::piped())
        // `output` would put a pipe of its own in the place of stdout.
        .spawn()
        .unwrap()
        .wait_with_output()
        .await
        .unwrap()
}

/// An organization with something to purge and a run on record.
async fn database() -> (TestDatabase, Vec<String>) {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let run = product::purge(&db.url, org).await;
    (db, commands(org, run))
}

#[tokio::test]
async fn full_disk_is_an_error_for_every_command_that_prints() {
    let (db, mut commands) = database().await;
    let queued = product::enqueue(&db.pool, App::on(&db.pool).org("pro").await).await;
    // Before any of them works it off.
    commands.insert(0, format!("runs cancel {queued}"));
    for words in commands {
        // Not made before it can be told where.
        let data_dir = tempfile::tempdir().unwrap();
        let words = words.replace("/tmp/none-is-made", data_dir.path().to_str().unwrap());
        let output = run(&db.url, &words, full_disk()).await;
        let says = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{words}: {says}");
        let expected =
            "error: cannot write to standard output: No space left on device (os error 28)\n";
        assert!(says.ends_with(expected), "{words}: {says}");
        assert_eq!(says.lines().count(), 1, "{words}: {says}");
    }
}

#[tokio::test]
async fn reader_that_is_gone_ends_every_command_without_a_word() {
    let (db, mut commands) = database().await;
    let queued = product::enqueue(&db.pool, App::on(&db.pool).org("pro").await).await;
    // Before any of them works it off.
    commands.insert(0, format!("runs cancel {queued}"));
    for words in commands {
        let data_dir = tempfile::tempdir().unwrap();
        let words = words.replace("/tmp/none-is-made", data_dir.path().to_str().unwrap());
        let output = run(&db.url, &words, broken_pipe()).await;
        assert_eq!(stderr(&output), "", "{words}");
        // As if SIGPIPE had ended it: what a shell expects of `… | head`.
        assert_eq!(output.status.code(), Some(141), "{words}");
    }
}

#[tokio::test]
async fn command_whose_errors_nobody_takes_fails_by_its_exit_status() {
    let db = TestDatabase::new().await;
    let unknown = Uuid::nil().to_string();
    for (words, code) in [
        (&["runs", "show", &unknown][..], 1),
        (&["runs", "show", "nonsense"], 2),
        (&["health"], 1),
    ] {
        for (stdout, stderr) in [
            (Stdio::null(), full_disk().into()),
            (full_disk().into(), full_disk().into()),
            (broken_pipe(), broken_pipe()),
        ] {
            let status = product::command(&db.url)
                .args(words)
                .env("DRIFT_RETENTION_HTTP__LISTEN", "127.0.0.1:1")
                .stdout(stdout)
                .stderr(stderr)
                .status()
                .await
                .unwrap();
            assert_eq!(status.code(), Some(code), "{words:?}");
        }
    }
}

#[tokio::test]
async fn service_whose_log_is_on_a_full_disk_goes_on_and_stops_in_order() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let mut service = Service::start_logging(&db.url, "api,scheduler,worker", &[], full_disk());
    service.ready().await;
    let run = product::enqueue(&db.pool, org).await;
    product::until_status(&db.pool, run, "succeeded").await;
    service.signal(Signal::SIGTERM);
    assert_eq!(service.ends_within(Duration::from_secs(10)).await, Some(0));
}
