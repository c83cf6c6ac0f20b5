//! Settings: flags over the environment over the file; whatever is unknown or cannot be is refused by name.

use std::{io::Write, process::Output};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::support::{
    TestDatabase,
    app::App,
    product,
    text::{shown, stderr},
};

/// Nothing listens there: whoever gets as far as connecting fails with 1, and not with 2.
const NOWHERE: &str = "postgres://nobody@127.0.0.1:1/nothing";

fn file(toml: &str) -> NamedTempFile {
    let mut file = NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(toml.as_bytes()).unwrap();
    file
}

async fn with_env(args: &[&str], env: &[(&str, &str)]) -> Output {
    product::command(NOWHERE)
        .args(args)
        .envs(env.iter().copied())
        .output()
        .await
        .unwrap()
}

async fn with_file(toml: &str) -> Output {
    let file = file(toml);
    let path = file.path().to_str().unwrap();
    product::run(NOWHERE, &["runs", "list", "--config", path]).await
}

#[tokio::test]
async fn unknown_key_is_refused_by_name_wherever_it_stands() {
    let name = ("DRIFT_RETENTION_WORKER__CONCURENCY", "4");
    insta::assert_snapshot!(shown(&with_env(&["runs", "list"], &[name]).await), @r"
    exit 2
    error: the settings cannot be read; docs/configuration.md lists every key: unknown field `concurency`, expected one of `concurrency`, `heartbeat`, `max_attempts`, `backoff_base`, `backoff_max`, `shutdown_grace`, `keep_runs` for key `worker`
    ");
    insta::assert_snapshot!(shown(&with_file("[worker]\nconcurency = 4\n").await), @r"
    exit 2
    error: the settings cannot be read; docs/configuration.md lists every key: unknown field `concurency`, expected one of `concurrency`, `heartbeat`, `max_attempts`, `backoff_base`, `backoff_max`, `shutdown_grace`, `keep_runs` for key `worker`
    ");
    for (toml, named) in [
        ("[wroker]\nconcurrency = 4\n", "wroker"),
        ("concurrency = 4\n", "concurrency"),
        (
            "[schedule]\ncron = \"0 0 2 * * *\"\ntime_zone = \"UTC\"\n",
            "time_zone",
        ),
    ] {
        let output = with_file(toml).await;
        assert_eq!(output.status.code(), Some(2), "{toml}");
        assert!(
            stderr(&output).contains(&format!("`{named}`")),
            "{}",
            stderr(&output)
        );
    }
}

#[tokio::test]
async fn value_that_cannot_be_is_refused_by_name() {
    for (name, value, says) in [
        (
            "WORKER__HEARTBEAT",
            "100ms",
            "worker.heartbeat must be at least 500ms, not 100ms",
        ),
        (
            "WORKER__HEARTBEAT",
            "5000000000000000000s",
            "worker.heartbeat must be at most 36500d, not 5000000000000000000s",
        ),
        (
            "WORKER__KEEP_RUNS",
            "36501d",
            "worker.keep_runs must be at most 36500d, not 36501d",
        ),
        (
            "WORKER__CONCURRENCY",
            "0",
            "worker.concurrency must be from 1 to 256, not 0",
        ),
        (
            "WORKER__CONCURRENCY",
            "257",
            "worker.concurrency must be from 1 to 256, not 257",
        ),
        (
            "WORKER__MAX_ATTEMPTS",
            "0",
            "worker.max_attempts must be from 1 to 1000, not 0",
        ),
        (
            "PURGE__BATCH_SIZE",
            "0",
            "purge.batch_size must be from 1 to 100000, not 0",
        ),
        (
            "PURGE__BATCH_SIZE",
            "100001",
            "purge.batch_size must be from 1 to 100000, not 100001",
        ),
        ("PURGE__BATCH_SIZE", "-1", "batch_size"),
        ("WORKER__MAX_ATTEMPTS", "many", "max_attempts"),
        ("WORKER__HEARTBEAT", "5 parsecs", "heartbeat"),
        ("HTTP__LISTEN", "localhost", "listen"),
        ("SCHEDULE__TIMEZONE", "Mars/Olympus", "timezone"),
    ] {
        let name = format!("DRIFT_RETENTION_{name}");
        let output = with_env(&["runs", "list"], &[(&name, value)]).await;
        assert_eq!(output.status.code(), Some(2), "{name}={value}");
        assert!(
            stderr(&output).contains(says),
            "{name}={value}: {}",
            stderr(&output)
        );
    }
}

#[tokio::test]
async fn bad_cron_expression_is_refused_with_an_example_of_a_good_one() {
    let db = TestDatabase::new().await;
    for cron in ["daily", "0 2 * * *", "99 0 2 * * *"] {
        let output = product::command(&db.url)
            .args(["serve"])
            .env("DRIFT_RETENTION_SCHEDULE__CRON", cron)
            .env("DRIFT_RETENTION_HTTP__LISTEN", "127.0.0.1:0")
            .env("RUST_LOG", "off")
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{cron}: {}", stderr(&output));
        let says = format!("schedule.cron \"{cron}\" is not a cron expression of six fields");
        assert!(stderr(&output).contains(&says), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn schedule_that_never_fires_is_refused_wherever_it_is_read() {
    let db = TestDatabase::new().await;
    for (cron, says) in [
        ("0 0 2 31 2 *", "never fires"),
        ("0 0 2 31 4,6,9,11 *", "never fires"),
        // It fires for a year, and then no more.
        ("0 0 2 * * * 2020", "is not a cron expression of six fields"),
    ] {
        for args in [["config", "check"].as_slice(), &["serve"]] {
            let mut command = product::command(&db.url);
            command
                .args(args)
                .env("DRIFT_RETENTION_SCHEDULE__CRON", cron)
                .env("DRIFT_RETENTION_HTTP__LISTEN", "127.0.0.1:0")
                .env("RUST_LOG", "off");
            let output = command.output().await.unwrap();
            assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
            let says = format!("error: schedule.cron \"{cron}\" {says}");
            assert!(stderr(&output).starts_with(&says), "{}", stderr(&output));
        }
    }
    // Seldom is not never.
    let mut command = product::command(&db.url);
    let leap_day = ("DRIFT_RETENTION_SCHEDULE__CRON", "0 0 2 29 2 *");
    command.args(["config", "check"]).envs([leap_day]);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", shown(&output));
}

#[tokio::test]
async fn durations_are_read_in_their_own_units() {
    // Each bound is told in the value's own words, so that what was understood can be seen.
    for (base, max, understood) in [
        ("2h", "5s", "not 5s"),
        ("1s", "500ms", "not 500ms"),
        ("1day", "2h", "not 2h"),
    ] {
        let env = [
            ("DRIFT_RETENTION_WORKER__BACKOFF_BASE", base),
            ("DRIFT_RETENTION_WORKER__BACKOFF_MAX", max),
        ];
        let output = with_env(&["runs", "list"], &env).await;
        assert_eq!(output.status.code(), Some(2));
        let says = format!("worker.backoff_max must be at least worker.backoff_base, {understood}");
        assert!(stderr(&output).contains(&says), "{}", stderr(&output));
    }
    let fits = "[worker]\nheartbeat = \"500ms\"\nbackoff_base = \"5s\"\nbackoff_max = \"2h\"\n";
    let output = with_file(fits).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

#[tokio::test]
async fn flag_wins_over_environment_and_environment_over_file() {
    let [of_file, of_env, of_flag] = [
        TestDatabase::new().await,
        TestDatabase::new().await,
        TestDatabase::new().await,
    ];
    let mut orgs = Vec::new();
    for db in [&of_file, &of_env, &of_flag] {
        orgs.push(App::on(&db.pool).org("pro").await.to_string());
    }
    let file = file(&format!("[database]\nurl = \"{}\"\n", of_file.url));
    let path = file.path().to_str().unwrap();
    // Whose organization a preview shows tells which database was meant.
    let preview = ["preview", "--all", "--json", "--config", path];

    let mut from_file = product::command("");
    let output = from_file.args(preview).output().await.unwrap();
    assert_eq!(first_org(&output), orgs[0]);
    assert_eq!(
        first_org(&product::run(&of_env.url, &preview).await),
        orgs[1]
    );
    let flag = [&preview[..], &["--database-url", &of_flag.url]].concat();
    assert_eq!(first_org(&product::run(&of_env.url, &flag).await), orgs[2]);
}

fn first_org(preview: &Output) -> String {
    let preview: Value = serde_json::from_slice(&preview.stdout).unwrap();
    preview["organizations"][0]["org_id"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn worker_settings_take_the_same_road() {
    let db = TestDatabase::new().await;
    let org = App::on(&db.pool).org("pro").await.to_string();
    let file = file("[worker]\nmax_attempts = 3\nconcurrency = 1\n");
    let path = file.path().to_str().unwrap();
    let purge = ["purge", "--org", &org, "--work", "--config", path];
    for (env, expected) in [(None, 3), (Some("5"), 5)] {
        let output = product::command(&db.url)
            .args(purge)
            .envs(env.map(|n| ("DRIFT_RETENTION_WORKER__MAX_ATTEMPTS", n)))
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let newest =
            "SELECT max_attempts FROM retention.purge_runs ORDER BY created_at DESC LIMIT 1";
        assert_eq!(db.value::<i32>(newest).await, expected);
    }
}

#[tokio::test]
async fn settings_file_that_is_not_there_is_named() {
    let output = product::run(
        NOWHERE,
        &["runs", "list", "--config", "/nowhere/settings.toml"],
    )
    .await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("/nowhere/settings.toml"),
        "{}",
        stderr(&output)
    );
}
