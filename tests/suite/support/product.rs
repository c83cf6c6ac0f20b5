//! The product as users run it: its binary, its exit codes, its JSON, its signals.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use sqlx::PgPool;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::port::Port;

/// The binary, with nothing of our environment but what is given.
pub fn command(database_url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drift-retention"));
    command
        .env_clear()
        .env("DATABASE_URL", database_url)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub async fn run(database_url: &str, args: &[&str]) -> Output {
    command(database_url).args(args).output().await.unwrap()
}

/// Runs a command that must succeed, and reads its JSON.
pub async fn json(database_url: &str, args: &[&str]) -> Value {
    let output = run(database_url, args).await;
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Purges one organization in a process of its own; returns the run.
pub async fn purge(database_url: &str, org: Uuid) -> Uuid {
    let done = json(
        database_url,
        &["purge", "--org", &org.to_string(), "--work", "--json"],
    )
    .await;
    assert_eq!(done["runs"][0]["status"], "succeeded");
    done["runs"][0]["run_id"].as_str().unwrap().parse().unwrap()
}

/// A `serve` process of this test: quick heartbeats and short waits, so that minutes become seconds.
pub struct Service {
    pub child: Child,
    pub port: u16,
    _held: Port,
}

impl Service {
    /// Starts `serve` with these roles and extra environment.
    pub fn start(database_url: &str, roles: &str, env: &[(&str, &str)]) -> Self {
        Self::start_logging(database_url, roles, env, Stdio::inherit())
    }

    /// The same, with its log there.
    pub fn start_logging(
        database_url: &str,
        roles: &str,
        env: &[(&str, &str)],
        log: impl Into<Stdio>,
    ) -> Self {
        Self::spawn(command(database_url), roles, env, log)
    }

    /// The same, with at most so many file descriptors.
    pub fn with_descriptors(
        database_url: &str,
        roles: &str,
        env: &[(&str, &str)],
        descriptors: u32,
    ) -> Self {
        let product = command(database_url);
        let mut limited = Command::new("/bin/sh");
        limited
            .args([
                "-c",
                &format!("ulimit -n {descriptors} && exec \"$@\""),
                "sh",
            ])
            .arg(product.as_std().get_program())
            .env_clear()
            .env("DATABASE_URL", database_url)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Self::spawn(limited, roles, env, Stdio::inherit())
    }

    fn spawn(
        mut command: Command,
        roles: &str,
        env: &[(&str, &str)],
        log: impl Into<Stdio>,
    ) -> Self {
        let held = Port::reserve();
        let port = held.number;
        command
            .args(["serve", "--roles", roles])
            .env("DRIFT_RETENTION_HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .env("DRIFT_RETENTION_WORKER__HEARTBEAT", "500ms")
            .env("DRIFT_RETENTION_WORKER__BACKOFF_BASE", "200ms")
            .env("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "2s")
            .envs(env.iter().copied())
            .stderr(log);
        Self {
            child: command.spawn().unwrap(),
            port,
            _held: held,
        }
    }

    /// The same, with its log in a file.
    pub fn logged(
        database_url: &str,
        roles: &str,
        env: &[(&str, &str)],
    ) -> (Self, tempfile::NamedTempFile) {
        let log = tempfile::NamedTempFile::new().unwrap();
        let service = Self::start_logging(database_url, roles, env, log.reopen().unwrap());
        (service, log)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child
            .id()
            .expect("the process has not been waited for")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub async fn get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        reqwest::get(format!("http://127.0.0.1:{}{path}", self.port)).await
    }

    /// Whether this process holds the run (a worker's name holds its process id).
    pub async fn holds(&self, pool: &PgPool, run: Uuid) -> bool {
        let pid = self.child.id().unwrap();
        let sql = format!(
            "SELECT coalesce(worker LIKE '%:{pid}:%', false) FROM retention.purge_runs WHERE id = '{run}'"
        );
        super::value(pool, &sql).await
    }

    /// Waits for its end, and fails when that takes longer than `limit`; returns the exit code.
    pub async fn ends_within(&mut self, limit: Duration) -> Option<i32> {
        tokio::time::timeout(limit, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("still running after {limit:?}"))
            .unwrap()
            .code()
    }

    /// One sample of `/metrics`, by its name and labels as they stand there.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let page = self.get("/metrics").await.unwrap().text().await.unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(series))?;
        Some(line.trim().parse().unwrap())
    }

    /// `purge_runs_total` of one outcome, over all triggers.
    pub async fn outcomes(&self, outcome: &str) -> f64 {
        let mut sum = 0.0;
        for trigger in ["purge_now", "replay", "schedule"] {
            let series = format!(
                r#"drift_retention_purge_runs_total{{outcome="{outcome}",trigger="{trigger}"}}"#
            );
            sum += self.metric(&series).await.unwrap();
        }
        sum
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&self) {
        eventually("the service is ready", async || {
            self.get("/readyz")
                .await
                .is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }
}

/// Waits until `holds`, and fails after a generous while. It looks often: nothing is timed by it.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds().await {
        assert!(
            Instant::now() < deadline,
            "waited a minute in vain until {what}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

/// A run's status.
pub async fn status(pool: &PgPool, run: Uuid) -> String {
    super::value(
        pool,
        &format!("SELECT status FROM retention.purge_runs WHERE id = '{run}'"),
    )
    .await
}

/// Waits until a run has this status.
pub async fn until_status(pool: &PgPool, run: Uuid, wanted: &str) {
    eventually(&format!("run {run} is {wanted}"), async || {
        status(pool, run).await == wanted
    })
    .await;
}

/// Asks for a purge as the main app does, and leaves it to whoever works.
pub async fn enqueue(pool: &PgPool, org: Uuid) -> Uuid {
    let sql = format!("SELECT run_id FROM retention.enqueue_purge('{org}', 'main app')");
    super::value(pool, &sql).await
}
