//! Database URLs: what can be meant connects, and what cannot is refused by the setting's name before anything connects.

use std::process::Output;

use drift_retention::postgres::local::{LocalServer, ServerBinaries, StopMode};

use crate::support::{
    product,
    text::{shown, stderr},
};

/// The settings that hold a URL.
const SETTINGS: [(&str, &str); 3] = [
    ("database.url", "DATABASE_URL"),
    (
        "database.direct_url",
        "DRIFT_RETENTION_DATABASE__DIRECT_URL",
    ),
    ("replica_url", "DRIFT_RETENTION_REPLICA_URL"),
];
/// Nothing listens there.
const NOWHERE: &str = "postgres://nobody@127.0.0.1:1/nothing";

async fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = product::command(NOWHERE);
    command.args(args).envs(env.iter().copied());
    command.output().await.unwrap()
}

#[tokio::test]
async fn what_a_service_cannot_use_is_refused_by_every_settings_name() {
    for (url, says) in [
        ("host=db dbname=app user=me", "it is not a URL"),
        (
            "host=db options='-c search_path=http://x'",
            "does not begin with postgres://",
        ),
        ("\"postgres://me@db/app\"", "it is in quotes"),
        ("'postgres://me@db/app'", "it is in quotes"),
        ("postgres://me:zq#ss@db/app", "write %23"),
        ("postgres://me:pass@db/app#", "write %23"),
        ("postgres://me:zq/ss@db/app", "write %2F for /"),
        ("postgres://me:12/ss@db/app", "write %2F for /"),
        ("postgres://db/app/", "write %2F for /"),
        ("postgres://me:12?ss@db/app", "write %3F for ?"),
        ("postgres://me@db1,db2/app", "it names several hosts"),
        (
            "postgres://me@db1:5432,db2:5432/app",
            "it names several hosts",
        ),
        ("postgres://me@/app?host=db1,db2", "it names several hosts"),
        ("jdbc:postgresql://db:5432/app", "it begins with jdbc:"),
        ("jdbc:postgresql:app", "it is not a URL"),
        (
            "postgresql+asyncpg://db/app",
            "does not begin with postgres://",
        ),
        ("mysql://db/app", "does not begin with postgres://"),
        ("db.internal:5432/app", "it is not a URL"),
        ("postgres:db/app", "it is not a URL"),
        ("postgres://me@db:port/app", "its port is not a number"),
        ("postgres://me@db:99999/app", "its port is not a number"),
        ("postgres://me@db:0/app", "its port is not a number"),
        ("postgres://me@db/app\"", "it ends with a quote"),
        ("postgres://me@db/app?port=http", "its port is not a number"),
        ("postgres://me@::1:5432/app", "an IPv6 address in brackets"),
        ("postgres://me@[::1/app", "it cannot be read"),
        (
            "postgres://me@db/app?sslmode=always",
            "its sslmode is none of",
        ),
        (" ", "it is empty"),
    ] {
        for (setting, variable) in SETTINGS {
            let says = format!("error: {setting} cannot be used: ");
            let checked = run(&["config", "check"], &[(variable, url)]).await;
            assert_eq!(checked.status.code(), Some(1), "{url}: {}", shown(&checked));
            assert!(stderr(&checked).starts_with(&says), "{}", stderr(&checked));
        }
        for args in [
            ["config", "check"].as_slice(),
            &["serve"],
            &["migrate", "up"],
            &["runs", "list"],
        ] {
            let output = run(args, &[("DATABASE_URL", url)]).await;
            assert_eq!(output.status.code(), Some(1), "{url}: {}", shown(&output));
            assert!(stderr(&output).contains(says), "{url}: {}", stderr(&output));
            assert!(
                !stderr(&output).contains("zq"),
                "a part of the password: {}",
                stderr(&output)
            );
        }
    }
}

#[tokio::test]
async fn settings_without_a_database_are_not_right() {
    let mut command = product::command("");
    let output = command.args(["config", "check"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    assert!(
        stderr(&output).contains("`database.url`"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn what_a_service_can_use_is_right() {
    for url in [
        "postgres://me:s3cret@db.internal:5432/app",
        "postgresql://db/app",
        "postgres:///app",
        "postgres://me@/app",
        "postgres://:5433/app",
        "postgres://me:p%2Fs%23%3F%40s@db/app",
        "postgres://me:p@ss@db/app",
        "postgres://[::1]:5432/app",
        "postgres://me@[2001:db8::1]/app?sslmode=disable",
        "postgres://me@/app?host=::1&port=5432",
        "postgres:///app?host=/var/run/postgresql&user=me",
        "postgres://me@%2Fvar%2Frun%2Fpostgresql/app",
        "postgres://db/app?options=-c search_path=a&sslmode=",
        "postgres://db/app?",
        " postgres://db/app\n",
    ] {
        for (_, variable) in SETTINGS {
            let checked = run(&["config", "check"], &[(variable, url)]).await;
            assert!(checked.status.success(), "{url:?}: {}", shown(&checked));
        }
    }
}

#[tokio::test]
async fn parameter_that_nothing_knows_is_named_and_its_value_is_not() {
    let url = "postgres://me@db/app?schema=s3cret&sslmode=require";
    let checked = run(&["config", "check"], &[("DATABASE_URL", url)]).await;
    insta::assert_snapshot!(shown(&checked), @r#"
    exit 0
    note: database.url has an unknown parameter "schema", which is ignored
    the settings are right
    "#);
    let url = format!("{NOWHERE}?schema=s3cret");
    let output = run(&["purge", "--all"], &[("DATABASE_URL", &url)]).await;
    let text = stderr(&output);
    assert!(
        text.contains("schema") && !text.contains("s3cret"),
        "{text}"
    );
}

#[tokio::test]
async fn own_server_at_an_ipv6_address_is_reached_however_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    // Reachable by the user that the server drops to when the tests run as root.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), everybody).unwrap();
    let binaries = ServerBinaries::find(None).unwrap();
    let listen = [("fsync", "off"), ("listen_addresses", "127.0.0.1,::1")];
    let server = LocalServer::start(&binaries, dir.path(), &listen)
        .await
        .unwrap();
    server.create_database("app").await.unwrap();
    let url = server.url("app");
    let (before_host, _) = url.split_once("127.0.0.1").unwrap();
    let port = server.port();
    let in_brackets = format!("{before_host}[::1]:{port}/app");
    let migrated = product::run(&in_brackets, &["migrate", "up", "--main-app"]).await;
    assert!(migrated.status.success(), "{}", shown(&migrated));
    for url in [
        in_brackets,
        format!("{before_host}/app?host=::1&port={port}"),
        format!("{before_host}/app?host=[::1]&port={port}"),
        format!("{before_host}/app?hostaddr=::1&port={port}"),
        format!("{before_host}:{port}/app?host=::1"),
        format!("{before_host}elsewhere.invalid:{port}/app?host=::1"),
    ] {
        // Each of them: the database itself, past a pooler, and a replica.
        let output = run(
            &["preview", "--all"],
            &SETTINGS.map(|(_, variable)| (variable, url.as_str())),
        )
        .await;
        assert!(output.status.success(), "{}", shown(&output));
        let output = run(&["migrate", "status"], &[("DATABASE_URL", url.as_str())]).await;
        assert!(output.status.success(), "{}", shown(&output));
    }
    // Where the URL names no host, the environment may.
    let output = run(
        &["migrate", "status"],
        &[
            ("DATABASE_URL", &format!("{before_host}:{port}/app")),
            ("PGHOST", "::1"),
        ],
    )
    .await;
    assert!(output.status.success(), "{}", shown(&output));
    server.stop(StopMode::Immediate).await.unwrap();
}
