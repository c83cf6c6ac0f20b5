//! A replica that stands still: nothing more is deleted until it has caught up. One that ends statements for its own sake, or is
//! gone: whoever reads there notices nothing.

use std::{path::PathBuf, process::Stdio, str::FromStr};

use futures::future::join_all;
use nix::unistd::{Uid, User};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{
    app::App,
    client::{Client, SECRET},
    execute_on, ledger,
    own_server::OwnServer,
    port::Port,
    product::{self, Service, eventually, until_status},
    value,
};

/// A hot standby of a test's own server.
struct Standby {
    server: Child,
    _dir: TempDir,
    _held: Port,
    pool: PgPool,
    url: String,
}

impl Standby {
    async fn of(primary: &OwnServer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let owner = User::from_name("postgres")
            .unwrap()
            .filter(|_| Uid::effective().is_root());
        if let Some(owner) = &owner {
            let (uid, gid) = (owner.uid.as_raw(), owner.gid.as_raw());
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let program = |name: &str| {
            let mut command = Command::new(programs().join(name));
            if let Some(owner) = &owner {
                command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
            }
            command
                .current_dir("/")
                .stdin(Stdio::null())
                .kill_on_drop(true);
            command
        };
        let data = dir.path().join("data");
        let copied = program("pg_basebackup")
            .args([
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--dbname",
                &primary.url,
                "--pgdata",
            ])
            .arg(&data)
            .output()
            .await
            .unwrap();
        assert!(copied.status.success(), "{copied:?}");
        let held = Port::reserve();
        let port = held.number;
        let server = program("postgres")
            .arg("-D")
            .arg(&data)
            .args([
                "-p",
                &port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let options = PgConnectOptions::from_str(&primary.url).unwrap();
        let there = format!(":{}/", options.get_port());
        let url = primary.url.replace(&there, &format!(":{port}/"));
        let options = options.port(port);
        let pool = crate::support::pool(options);
        eventually("the standby answers", async || pool.acquire().await.is_ok()).await;
        Self {
            server,
            _dir: dir,
            _held: held,
            pool,
            url,
        }
    }
}

/// Where the server's programs are: beside the newest one that is installed.
fn programs() -> PathBuf {
    let found = std::process::Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/find-postgres.sh"))
        .output()
        .unwrap();
    String::from_utf8(found.stdout).unwrap().trim().into()
}

#[tokio::test]
async fn nothing_more_goes_until_a_replica_that_stands_still_has_caught_up() {
    let primary = OwnServer::start().await;
    let standby = Standby::of(&primary).await;
    let org = App::on(&primary.pool).org_with_expired(3_000).await;
    let before = ledger::rows(&primary.pool).await;
    eventually("the standby has the rows", async || {
        value::<i64>(&standby.pool, "SELECT count(*) FROM drift_checks").await == 3_000
    })
    .await;
    execute_on(&standby.pool, "SELECT pg_wal_replay_pause()").await;
    let settings = [
        ("DRIFT_RETENTION_PURGE__BATCH_SIZE", "1"),
        ("DRIFT_RETENTION_PURGE__MAX_REPLICA_LAG", "1s"),
    ];
    let (worker, log) = Service::logged(&primary.url, "worker", &settings);
    let run = product::enqueue(&primary.pool, org).await;
    eventually("the log says what the purge waits for", async || {
        std::fs::read_to_string(log.path())
            .unwrap()
            .contains("replica_lag")
    })
    .await;
    let left = "SELECT count(*) FROM drift_checks";
    let left_then: i64 = value(&primary.pool, left).await;
    assert!((1..3_000).contains(&left_then), "{left_then} left");
    assert_eq!(product::status(&primary.pool, run).await, "running");

    // What needs no batch comes to its end meanwhile, its delivery too.
    let unknown = App::on(&primary.pool).org("platinum").await;
    let failed = product::enqueue(&primary.pool, unknown).await;
    until_status(&primary.pool, failed, "failed").await;
    let killed = format!(
        "SELECT count(*) FROM apalis.jobs j JOIN retention.purge_runs r ON r.delivery_id = j.id
         WHERE r.id = '{failed}' AND j.status = 'Killed'"
    );
    eventually("the failed run's delivery is acknowledged", async || {
        value::<i64>(&primary.pool, &killed).await == 1
    })
    .await;
    assert_eq!(product::status(&primary.pool, run).await, "running");
    // One batch, of one check, may have been under way when the wait began.
    let left_now: i64 = value(&primary.pool, left).await;
    assert!(
        left_now >= left_then - 1,
        "{left_then} left, then {left_now}"
    );

    execute_on(&standby.pool, "SELECT pg_wal_replay_resume()").await;
    until_status(&primary.pool, run, "succeeded").await;
    let held = r#"drift_retention_throttled_seconds_total{reason="replica_lag"}"#;
    assert!(worker.metric(held).await.unwrap() > 0.0);
    let step: String = value(
        &primary.pool,
        &format!(
            "SELECT sum(throttled_ms)::text FROM retention.purge_run_steps WHERE run_id = '{run}'"
        ),
    )
    .await;
    assert_ne!(step, "0");
    ledger::assert_exact(&primary.pool, &before).await;
}

#[tokio::test]
async fn who_reads_on_a_replica_notices_nothing_of_its_conflicts_nor_of_its_end() {
    let primary = OwnServer::start().await;
    let mut standby = Standby::of(&primary).await;
    let app = App::on(&primary.pool);
    let mut orgs = Vec::new();
    for _ in 0..3 {
        orgs.push(app.org_with_expired(20_001).await);
    }
    eventually("the standby has the rows", async || {
        value::<i64>(&standby.pool, "SELECT count(*) FROM drift_checks").await == 60_003
    })
    .await;
    let replica = ("DRIFT_RETENTION_REPLICA_URL", standby.url.as_str());
    let service = Service::start(&primary.url, "api", &[replica, SECRET]);
    service.ready().await;
    // From here on, what stands in the way of what the standby replays is ended at once. Before, this test's own reads would be.
    execute_on(
        &standby.pool,
        "ALTER SYSTEM SET max_standby_streaming_delay = 0",
    )
    .await;
    execute_on(&standby.pool, "SELECT pg_reload_conf()").await;
    let client = Client::operator(&service).await;
    let expired = async || {
        let previews = orgs
            .iter()
            .map(async |org| client.get(&format!("/orgs/{org}/retention/preview")).await);
        for (status, preview) in join_all(previews).await {
            assert_eq!(status, 200, "{preview}");
            assert_eq!(preview["tables"]["drift_checks"], 20_000);
        }
    };
    // What the standby replays of this wants the table for itself.
    let locking = tokio::spawn({
        let pool = primary.pool.clone();
        async move {
            loop {
                execute_on(&pool, "BEGIN; LOCK TABLE drift_checks; COMMIT").await;
            }
        }
    });
    eventually("the standby has cancelled a statement", async || {
        expired().await;
        let conflicts = "SELECT sum(confl_lock)::bigint FROM pg_stat_database_conflicts";
        value::<i64>(&standby.pool, conflicts).await > 0
    })
    .await;
    locking.abort();

    standby.server.kill().await.unwrap();
    expired().await;
    let output = product::command(&primary.url)
        .args(["preview", "--all", "--json"])
        .envs([replica])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
