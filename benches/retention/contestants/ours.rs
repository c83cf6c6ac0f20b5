//! The product: runs enqueued as its scheduler does it, then its worker with default settings, until no run is live.
#![allow(
    clippy::disallowed_methods,
    reason = "the bench's own SQL on the product's tables"
)]

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{ConnectOptions, PgConnection, PgPool};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::Outcome;
use crate::{machine, measures::float, server::Copy, sql};

/// As many organizations per transaction as the scheduler takes.
const CHUNK: usize = 2_000;
/// How often it is looked whether a purge is done, where its time counts.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// A worker that makes no progress for so long never will.
const PATIENCE: Duration = Duration::from_mins(30);
/// How long the worker may take to stop when it is told to.
const GRACE: Duration = Duration::from_secs(20);
/// What `/proc` counts CPU time in, on every Linux there is.
const TICKS: f64 = 100.0;

const LIVE: &str = "-- bench.is_busy
    SELECT EXISTS (SELECT FROM retention.purge_runs WHERE status IN ('queued', 'running', 'retrying'))";

/// A worker process. It goes with the bench, also when that stops halfway.
pub(crate) struct Worker {
    child: Child,
    pid: u32,
}

impl Worker {
    /// Starts it on this copy, with these settings beside the defaults.
    pub(crate) fn spawn(binary: &Path, url: &str, settings: &[(&str, &str)]) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(binary)
            .args(["serve", "--roles", "worker"])
            .env("DATABASE_URL", url)
            .env("DRIFT_RETENTION_HTTP__LISTEN", address.to_string())
            .env("RUST_LOG", "warn")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let pid = child.id().context("the worker ended at once")?;
        Ok(Self { child, pid })
    }

    /// Waits until no run is live; looks so often.
    pub(crate) async fn finish(&mut self, pool: &PgPool, every: Duration) -> Result<()> {
        let began = Instant::now();
        // By the index of live runs, whatever a planner without statistics thinks: looking must cost next to nothing.
        let by_index = [("enable_seqscan", "off"), ("enable_bitmapscan", "off")];
        let options = pool.connect_options().as_ref().clone().options(by_index);
        let mut watcher = options.connect().await?;
        while self.is_busy(&mut watcher).await? {
            if began.elapsed() > PATIENCE {
                bail!("runs are still live after {PATIENCE:?}");
            }
            sleep(every).await;
        }
        Ok(())
    }

    /// Whether a run is live; an error once the worker is gone.
    async fn is_busy(&mut self, watcher: &mut PgConnection) -> Result<bool> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the worker ended ({status})");
        }
        Ok(sqlx::query_scalar(LIVE).fetch_one(watcher).await?)
    }

    /// The most memory that it has held, and the CPU time that it has taken.
    pub(crate) fn usage(&self) -> Result<(u64, Duration)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let peak = machine::field(&status, "VmHWM").context("no VmHWM")?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let fields = stat.rsplit_once(')').context("no name in stat")?.1;
        let mut ticks = fields.split_whitespace().skip(11);
        let (user, system) = (ticks.next(), ticks.next());
        let ticks = user.context("no utime")?.parse::<u64>()?
            + system.context("no stime")?.parse::<u64>()?;
        Ok((
            peak.trim_end_matches("kB").trim().parse()?,
            Duration::from_secs_f64(float(ticks) / TICKS),
        ))
    }

    /// Lets it stop as an operator would.
    pub(crate) async fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGTERM)?;
        if timeout(GRACE, self.child.wait()).await.is_err() {
            self.child.kill().await?;
            bail!("the worker did not stop within {GRACE:?}");
        }
        Ok(())
    }
}

/// One process that enqueues a run for every organization, purges them and ends.
pub(super) async fn purge_all(copy: &Copy, binary: &Path) -> Result<Outcome> {
    let began = Instant::now();
    let status = Command::new(binary)
        .args(["purge", "--all", "--work"])
        .env("DATABASE_URL", &copy.url)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await?;
    let wall = began.elapsed();
    if !status.success() {
        bail!("purge --all --work ended with {status}");
    }
    all_have_succeeded(copy).await?;
    Ok(Outcome::taking(wall))
}

/// Every organization has a run that succeeded.
async fn all_have_succeeded(copy: &Copy) -> Result<()> {
    let unfinished: i64 = sql::value(
        &copy.pool,
        "SELECT count(*) FROM public.organizations o WHERE NOT EXISTS (
             SELECT FROM retention.purge_runs r WHERE r.org_id = o.id AND r.status = 'succeeded')",
    )
    .await?;
    if unfinished > 0 {
        bail!("{unfinished} organizations have no run that succeeded");
    }
    Ok(())
}

pub(super) async fn purge(copy: &Copy, binary: &Path) -> Result<Outcome> {
    let began = Instant::now();
    let mut worker = Worker::spawn(binary, &copy.url, &[])?;
    worker.finish(&copy.pool, POLL).await?;
    let wall = began.elapsed();
    let (memory, cpu) = worker.usage()?;
    worker.stop().await?;
    all_have_succeeded(copy).await?;
    Ok(Outcome {
        memory_kib: Some(memory),
        cpu: Some(cpu),
        ..Outcome::taking(wall)
    })
}

/// Makes the runs of one slot; `first` stands first in line, and the others follow by id.
pub(crate) async fn enqueue(pool: &PgPool, first: Option<Uuid>) -> Result<()> {
    let orgs: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM public.organizations ORDER BY id")
        .fetch_all(pool)
        .await?;
    let slot: chrono::DateTime<chrono::Utc> = sql::value(pool, "SELECT now()").await?;
    let rest: Vec<Uuid> = orgs.into_iter().filter(|org| Some(*org) != first).collect();
    let first: Vec<Uuid> = first.into_iter().collect();
    let chunks = Some(first.as_slice()).filter(|first| !first.is_empty());
    for chunk in chunks.into_iter().chain(rest.chunks(CHUNK)) {
        sqlx::query("SELECT retention.enqueue_slot($1, $2)")
            .bind(slot)
            .bind(chunk)
            .execute(pool)
            .await?;
    }
    Ok(())
}
