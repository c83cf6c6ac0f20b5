//! The server of our own: keeps its data over restarts, and is adopted when a program left it running.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its fixtures as well"
)]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use drift_retention::postgres::local::{LocalServer, LocalServerError, ServerBinaries, StopMode};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{Connection, Executor, PgConnection, Row};
use tempfile::TempDir;

const QUICK: [(&str, &str); 1] = [("fsync", "off")];

/// Reachable by the user that the server drops to when the tests run as root.
fn reachable_directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

async fn start(dir: &Path) -> LocalServer {
    let binaries = ServerBinaries::find(None).unwrap();
    LocalServer::start(&binaries, dir, &QUICK).await.unwrap()
}

#[tokio::test]
async fn data_is_still_there_after_a_restart() {
    let dir = reachable_directory();
    let server = start(dir.path()).await;
    assert!(server.create_database("shop \"2\"").await.unwrap());
    assert!(
        !server.create_database("shop \"2\"").await.unwrap(),
        "it was there already"
    );
    assert!(server.create_database("kept").await.unwrap());
    let mut connection = PgConnection::connect(&server.url("kept")).await.unwrap();
    connection
        .execute("CREATE TABLE notes AS SELECT 'still here' AS text")
        .await
        .unwrap();
    connection.close().await.unwrap();
    server.stop(StopMode::Fast).await.unwrap();

    for mode in [StopMode::Immediate, StopMode::Fast] {
        let server = start(dir.path()).await;
        assert!(!server.create_database("kept").await.unwrap());
        let mut connection = PgConnection::connect(&server.url("kept")).await.unwrap();
        let row = connection
            .fetch_one("SELECT text FROM notes")
            .await
            .unwrap();
        assert_eq!(row.get::<String, _>(0), "still here");
        server.stop(mode).await.unwrap();
        assert!(connection.ping().await.is_err(), "the server is gone");
    }
}

#[tokio::test]
async fn server_left_behind_is_adopted_and_can_be_stopped() {
    let dir = reachable_directory();
    let first = start(dir.path()).await;
    let (pid, port) = (first.pid(), first.port());
    drop(first);

    let adopted = start(dir.path()).await;
    assert_eq!((adopted.pid(), adopted.port()), (pid, port));
    adopted.stop(StopMode::Fast).await.unwrap();

    let restarted = start(dir.path()).await;
    assert_ne!(restarted.pid(), pid);
    restarted.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
async fn server_that_was_killed_is_started_again() {
    let dir = reachable_directory();
    let server = start(dir.path()).await;
    server.create_database("kept").await.unwrap();
    let killed = server.pid();
    kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
    server.stop(StopMode::Fast).await.unwrap(); // reaps it; its pid file stays behind
    assert!(dir.path().join("data/postmaster.pid").exists());

    let server = start(dir.path()).await;
    assert_ne!(server.pid(), killed);
    assert!(!server.create_database("kept").await.unwrap(), "recovered");
    server.stop(StopMode::Fast).await.unwrap();
}

#[tokio::test]
async fn two_first_starts_at_once_share_one_server() {
    let dir = reachable_directory();
    let (one, other) = tokio::join!(start(dir.path()), start(dir.path()));
    assert_eq!(one.pid(), other.pid());
    one.stop(StopMode::Immediate).await.unwrap();
    other.stop(StopMode::Immediate).await.unwrap(); // that it is stopped already is no error
}

#[tokio::test]
async fn first_start_that_was_killed_is_begun_again() {
    let dir = reachable_directory();
    fs::create_dir(dir.path().join("data.unfinished")).unwrap();
    fs::write(dir.path().join("data.unfinished/PG_VERSION"), "15\n").unwrap();
    start(dir.path())
        .await
        .stop(StopMode::Immediate)
        .await
        .unwrap();
    assert!(!dir.path().join("data.unfinished").exists());
}

#[tokio::test]
async fn setting_the_server_refuses_is_reported_in_its_own_words() {
    let dir = reachable_directory();
    let binaries = ServerBinaries::find(None).unwrap();
    let options = [("fsync", "off"), ("max_connections", "many")];
    let error = LocalServer::start(&binaries, dir.path(), &options)
        .await
        .unwrap_err();
    assert!(matches!(error, LocalServerError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("max_connections"), "{error}");
}

#[tokio::test]
async fn password_and_log_are_private_and_the_password_is_required() {
    let dir = reachable_directory();
    let server = start(dir.path()).await;
    for name in ["password", "server.log", "lock"] {
        let mode = fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let url = format!(
        "postgres://postgres:guess@127.0.0.1:{}/postgres",
        server.port()
    );
    let refused = PgConnection::connect(&url).await.unwrap_err();
    assert_eq!(
        refused
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .as_deref(),
        Some("28P01")
    );
    server.stop(StopMode::Immediate).await.unwrap();
}
