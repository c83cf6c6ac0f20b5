//! apalis's workers, held to our rules: unique names per process and restart, one delivery fetched at a time, at
//! most four in hand per worker, restarted after every error, drained on stop.

use std::{future::Future, time::Duration};

use apalis::layers::WorkerBuilderExt;
use apalis_core::{
    backend::ext::poll_strategy::PollWith,
    error::{AbortError, BoxDynError, WorkerError},
    task::task_id::TaskId,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_postgres::{Config, PostgresStorage};
use futures::future::join_all;
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{QUEUE, listen::Notices, prune::kill_unreadable, retire_workers};
use crate::{
    ids::RunId,
    postgres::Database,
    runs::{Delivery, Lease},
    telemetry::logs::chain,
};

/// More deliveries at once fill the channel through which an apalis worker acknowledges, and stopping would hang.
const MAX_DELIVERIES_PER_WORKER: usize = 4;
/// A worker silent for so many heartbeats is taken for dead.
pub(crate) const MISSED_HEARTBEATS: u32 = 4;
/// The pause before a worker that failed starts again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What the consumer needs to know.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// How many runs at once.
    pub concurrency: usize,
    /// How often a worker says that it lives.
    pub heartbeat: Duration,
}

impl ConsumerSettings {
    /// How long a silent worker keeps its runs.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease::of(self.heartbeat)
    }
}

impl Lease {
    /// The lease of workers with this heartbeat: whole seconds, rounded down as apalis does. A longer one would
    /// refuse what apalis takes from a dead worker and hands on, and leave the run to the reconciler.
    #[must_use]
    pub fn of(heartbeat: Duration) -> Self {
        Self(Duration::from_secs(
            (heartbeat * MISSED_HEARTBEATS).as_secs(),
        ))
    }
}

/// This process among all workers: what the names of its apalis workers begin with.
#[derive(Debug, Clone)]
pub struct WorkerIdentity(String);

impl WorkerIdentity {
    /// An identity that no other process has, and that a restart does not have again.
    #[must_use]
    pub fn unique() -> Self {
        let host = nix::unistd::gethostname().map_or_else(
            |_| "host".to_owned(),
            |host| host.to_string_lossy().into_owned(),
        );
        Self(format!(
            "{host}:{}:{}",
            std::process::id(),
            Uuid::new_v4().simple()
        ))
    }

    /// What the names of its workers begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0
    }
}

/// What the job of a delivery shows in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This delivery is done.
    Done,
    /// The run has failed for good: the job shows as killed.
    Killed,
}

impl Verdict {
    /// apalis's name for it.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Done => "Done",
            Self::Killed => "Killed",
        }
    }
}

/// The sessions that consuming with this concurrency needs: one to listen, and for each of apalis's workers one to
/// fetch, one to acknowledge and one for its heartbeat.
#[must_use]
pub fn sessions(concurrency: usize) -> u32 {
    u32::try_from(1 + 3 * concurrency.div_ceil(MAX_DELIVERIES_PER_WORKER)).unwrap_or(u32::MAX)
}

/// Works off deliveries until `stop`, then drains: returns when every delivery in hand is acknowledged.
pub async fn consume<H, F>(
    database: &Database,
    settings: &ConsumerSettings,
    identity: &WorkerIdentity,
    stop: &CancellationToken,
    handler: H,
) where
    H: Fn(Delivery) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    let notices = Notices::start(database.sessions().clone());
    let mut left = settings.concurrency.max(1);
    let mut workers = Vec::new();
    while left > 0 {
        let concurrency = left.min(MAX_DELIVERIES_PER_WORKER);
        left -= concurrency;
        let name = format!("{}:{}", identity.prefix(), workers.len());
        workers.push(keep_working(
            database,
            settings,
            name,
            concurrency,
            &notices,
            stop,
            handler.clone(),
        ));
    }
    join_all(workers).await;
}

/// Runs one apalis worker, and another after it when it fails: each under a name of its own.
async fn keep_working<H, F>(
    database: &Database,
    settings: &ConsumerSettings,
    name: String,
    concurrency: usize,
    notices: &Notices,
    stop: &CancellationToken,
    handler: H,
) where
    H: Fn(Delivery) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    for restart in 0.. {
        let name = format!("{name}.{restart}");
        let handler = handler.clone();
        let backend = PollWith::new(
            PostgresStorage::<Value>::new(database.sessions()).with_config(config(settings)),
            notices.subscribe(),
        );
        let worker = WorkerBuilder::new(name.as_str())
            .backend(backend)
            .concurrency(concurrency)
            .build(move |payload: Value, id: TaskId, worker: WorkerContext| {
                receive(payload, id, worker, handler.clone())
            });
        let stopped = stop.clone().cancelled_owned();
        // A task of its own: a worker that panics is restarted like one that fails.
        let ended = tokio::spawn(worker.run_until(async move {
            stopped.await;
            Ok::<(), WorkerError>(())
        }));
        match ended.await {
            Ok(Ok(())) if stop.is_cancelled() => return,
            Ok(Ok(())) => {
                tracing::warn!(worker = name, "the queue's worker ended; starting it again");
            }
            Ok(Err(error)) => {
                // What it failed of is hidden in the error: it may have been the connections.
                database.renew_connections();
                tracing::warn!(worker = name, %error, "the queue's worker failed; starting it again");
            }
            Err(panic) => {
                tracing::error!(worker = name, %panic, "the queue's worker panicked; starting it again");
            }
        }
        match kill_unreadable(database).await {
            Ok(0) => {}
            Ok(jobs) => tracing::error!(
                jobs,
                "killed jobs in the queue that nobody can read: they were no deliveries of ours"
            ),
            Err(error) => tracing::debug!(error = chain(&error), "cannot look for unreadable jobs"),
        }
        // Its attempts ended with it: others need not wait for its heartbeat to grow old.
        if let Err(error) = retire_workers(database, &name).await {
            tracing::debug!(
                error = chain(&error),
                "the ended worker's heartbeat will have to grow old"
            );
        }
        tokio::select! {
            () = sleep(RESTART_PAUSE) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn config(settings: &ConsumerSettings) -> Config {
    Config::default()
        .queue(QUEUE)
        .batch_size(1)
        .heartbeat_interval(settings.heartbeat)
        .missed_heartbeats(MISSED_HEARTBEATS as usize)
}

/// Decodes here and not in apalis, whose worker would die of a payload that it cannot read.
async fn receive<H, F>(
    payload: Value,
    id: TaskId,
    worker: WorkerContext,
    handler: H,
) -> Result<(), BoxDynError>
where
    H: Fn(Delivery) -> F,
    F: Future<Output = Verdict>,
{
    let Some(run) = run_of(&payload, &id.to_string()) else {
        return Err(AbortError::new("not a delivery of a run").into());
    };
    let delivery = Delivery {
        id: id.to_string(),
        worker: worker.name().to_owned(),
        run,
    };
    match handler(delivery).await {
        Verdict::Done => Ok(()),
        Verdict::Killed => Err(AbortError::new("the run failed for good").into()),
    }
}

/// The run that a job delivers.
pub(super) fn run_of(payload: &Value, job: &str) -> Option<RunId> {
    let run = payload.get("run_id").and_then(Value::as_str);
    let run = run.and_then(|id| id.parse().ok());
    if run.is_none() {
        tracing::error!(
            job,
            "a job in the queue is no delivery of a run; it is dropped"
        );
    }
    run
}
