//! What containers do to a process: it is process 1, or its user is nobody that the system knows and has no home.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{
    TestDatabase,
    app::App,
    port::Port,
    product::{self, eventually, until_status},
    runs,
    text::stderr,
};

/// A user that stands in no list of users.
const NOBODY: u32 = 1_234_567;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_drift-retention"))
}

/// `unshare` with what lets it begin a process namespace here; none: this machine lets nobody.
async fn own_processes() -> Option<Command> {
    for more in [&[][..], &["--user", "--map-root-user"]] {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(more).args(["--pid", "--fork", "--kill-child"]);
            command
        };
        let tried = unshare().arg("true").stderr(Stdio::null()).status().await;
        if tried.is_ok_and(|status| status.success()) {
            return Some(unshare());
        }
    }
    None
}

/// The one child of a process.
fn child_of(parent: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.trim().parse().ok().map(Pid::from_raw)
}

#[tokio::test]
async fn process_one_purges_and_stops_in_order() {
    let Some(mut command) = own_processes().await else {
        eprintln!("NOT CHECKED: nobody may begin a process namespace on this machine");
        return;
    };
    let db = TestDatabase::new().await;
    let held = Port::reserve();
    let mut unshare = command
        .arg(program())
        .arg("serve")
        .env_clear()
        .env("DATABASE_URL", &db.url)
        .env(
            "DRIFT_RETENTION_HTTP__LISTEN",
            format!("127.0.0.1:{}", held.number),
        )
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let org = App::on(&db.pool).org_with_expired(11).await;
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;

    let service = child_of(unshare.id().unwrap()).unwrap();
    let status = fs::read_to_string(format!("/proc/{service}/status")).unwrap();
    let ids = status
        .lines()
        .find(|line| line.starts_with("NSpid:"))
        .unwrap();
    assert!(ids.ends_with("\t1"), "it is process 1: {ids}");
    kill(service, Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(15), unshare.wait()).await;
    assert!(ended.unwrap().unwrap().success());
}

/// The program where everybody may run it, and nobody's working directory.
fn reachable_program() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("drift-retention");
    fs::copy(program(), &path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}

#[tokio::test]
async fn user_without_a_name_and_a_home_purges_and_serves() {
    if !geteuid().is_root() {
        eprintln!("NOT CHECKED: only root may become another user");
        return;
    }
    let db = TestDatabase::new().await;
    let (dir, path) = reachable_program();
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new(&path);
        command
            .args(words)
            .env_clear()
            .env("DATABASE_URL", &db.url)
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    };
    let org = App::on(&db.pool).org_with_expired(11).await;
    let purge = ["purge", "--org", &org.to_string(), "--work"];
    let purged = as_nobody(&purge).output().await.unwrap();
    assert!(purged.status.success(), "{}", stderr(&purged));
    let run = runs::run(&db, runs::newest_run(&db, org).await).await;
    assert_eq!(run["status"], "succeeded");
    assert_eq!(run["requested_by"], "cli:unknown");

    let held = Port::reserve();
    let listen = format!("127.0.0.1:{}", held.number);
    let mut service = as_nobody(&["serve"])
        .env("DRIFT_RETENTION_HTTP__LISTEN", &listen)
        .spawn()
        .unwrap();
    let url = format!("http://{listen}/readyz");
    eventually("the service is ready", async || {
        reqwest::get(&url)
            .await
            .is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    let org = App::on(&db.pool).org_with_expired(11).await;
    let run = product::enqueue(&db.pool, org).await;
    until_status(&db.pool, run, "succeeded").await;
    let pid = i32::try_from(service.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert!(service.wait().await.unwrap().success());
}
