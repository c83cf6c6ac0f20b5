//! The worker's loop: fetch deliveries, work on their runs, acknowledge. Every attempt ends with a record, whatever happens to
//! the process, the database or the run in between.

mod ending;
mod group;
mod isolate;
mod record;
mod rescue;
mod rewritten;
mod time_slice;
mod window;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use self::record::Refusals;
use self::{record::Transition, rescue::RunsAtWork, window::MaintenanceWindow};
use crate::{
    config::Config,
    jobs::{self, ConsumerSettings, Verdict, WorkerIdentity},
    postgres::Database,
    purge::{Mode, Purger, Throttle, prune_notes},
    runs::{self, Backoff, Delivery, Lease, Outcome, Trigger},
    telemetry::{logs::chain, metrics::Metrics},
};

/// How often stranded runs and old records are looked for.
const PRUNE_EVERY: Duration = Duration::from_mins(1);
/// How long a worker waits after its start before it looks for them: it has enough to do until then.
const STARTUP_DELAY: Duration = Duration::from_secs(1);
/// Groups at work for each transaction that may delete. The others claim, look, verify, finish or wait for the disk.
const GROUPS_PER_DELETE: usize = 2;
/// How long a worker fetches for itself before apalis hands out the next delivery. apalis acknowledges its own only then.
const FETCH_TIME: Duration = Duration::from_secs(5);
/// The most runs of a group: a commit for a hundred runs with nothing due costs each of them next to nothing.
const MAX_GROUP_RUNS: usize = 100;
/// The most runs of a group in low-impact mode: the look at more of them would be felt.
const MAX_LOW_IMPACT_GROUP_RUNS: usize = 4;

/// A worker process: it works on deliveries until it is stopped.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The database.
    pub database: Database,
    /// Purges runs.
    pub purger: Purger,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Its name among all workers.
    pub identity: WorkerIdentity,
    consumer: ConsumerSettings,
    backoff: Backoff,
    max_attempts: i32,
    shutdown_grace: Duration,
    keep_runs: Duration,
    window: Option<MaintenanceWindow>,
    /// Cancelled when the mapping is no longer the one that this process has checked: it purges nothing more.
    pub mapping_changed: CancellationToken,
    /// Notified when a run failed of something that speaks against the mapping.
    pub mapping_doubted: Arc<Notify>,
    /// Which transitions of runs the database refuses to record.
    pub refusals: Refusals,
    at_work: RunsAtWork,
}

impl Worker {
    /// A worker with these settings.
    #[must_use]
    pub fn new(database: Database, metrics: Arc<Metrics>, config: &Config) -> Self {
        let (purge, timezone) = (&config.purge, config.schedule.timezone);
        let config = &config.worker;
        Self {
            purger: Purger {
                database: database.clone(),
                metrics: metrics.clone(),
                batch_size: purge.batch_size,
                throttle: Arc::new(Throttle::new(purge, metrics.clone())),
                deletes: Arc::new(Semaphore::new(config.concurrency())),
            },
            database,
            metrics,
            identity: WorkerIdentity::unique(),
            consumer: ConsumerSettings {
                concurrency: config.concurrency() * GROUPS_PER_DELETE,
                heartbeat: config.heartbeat,
            },
            backoff: Backoff {
                base: config.backoff_base,
                max: config.backoff_max,
            },
            max_attempts: config.max_attempts,
            shutdown_grace: config.shutdown_grace,
            keep_runs: config.keep_runs,
            window: purge
                .between
                .map(|hours| MaintenanceWindow { hours, timezone }),
            mapping_changed: CancellationToken::new(),
            mapping_doubted: Arc::default(),
            refusals: Refusals::default(),
            at_work: RunsAtWork::default(),
        }
    }

    /// How long a silent worker keeps its runs.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.consumer.lease()
    }

    /// Works until `stop`, or until the mapping has changed. Then it snoozes the runs at work and drains, within the grace.
    pub async fn run(&self, stop: &CancellationToken) {
        let stop = &stop.child_token();
        let _until_changed = {
            let (changed, stop) = (self.mapping_changed.clone(), stop.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                changed.cancelled().await;
                stop.cancel();
            }))
        };
        // If nobody would feel it, connections are opened as they are needed, all at once.
        if self.purger.throttle.mode(&self.database).await == Mode::LowImpact {
            stop.run_until_cancelled(self.database.open_gently()).await;
        }
        let _pruner = AbortOnDropHandle::new(tokio::spawn(self.clone().keep_pruning()));
        let _rescuer = AbortOnDropHandle::new(tokio::spawn(self.clone().keep_rescuing()));
        let handler = {
            let (worker, stop) = (self.clone(), stop.clone());
            move |delivery| {
                let (worker, stop) = (worker.clone(), stop.clone());
                async move { worker.work_loop(delivery, &stop).await }
            }
        };
        tokio::select! {
            () = jobs::consume(&self.database, &self.consumer, &self.identity, stop, handler) => {}
            () = async { stop.cancelled().await; sleep(self.drain_time()).await } => {
                tracing::warn!("not drained within the grace; other workers take over the unfinished runs");
            }
        }
        if let Err(error) = jobs::retire_workers(&self.database, self.identity.prefix()).await {
            tracing::warn!(
                error = chain(&error),
                "this worker's heartbeat will have to grow old"
            );
        }
    }

    /// The grace is the whole process's: a part of it is kept for letting go.
    fn drain_time(&self) -> Duration {
        self.shutdown_grace
            .saturating_sub((self.shutdown_grace / 4).min(Duration::from_secs(1)))
    }

    /// Works on the delivery that apalis hands out, and on others that are due beside it and after it. Returns the verdict on
    /// the first one, which apalis acknowledges.
    async fn work_loop(&self, first: Delivery, stop: &CancellationToken) -> Verdict {
        let began = Instant::now();
        let (worker, first_job) = (first.worker.clone(), first.id.clone());
        let mut first_verdict = Verdict::Done;
        let mut done = Vec::new();
        let mut group = vec![first];
        loop {
            if !stop.is_cancelled() && (group.len() == 1 || began.elapsed() < FETCH_TIME) {
                let others = self.max_group_runs().await - group.len();
                match jobs::ack_and_fetch(&self.database, &worker, &done, others).await {
                    Ok(fetched) => {
                        done.clear();
                        // Until apalis has marked its own delivery as running, it looks like one that nobody has begun.
                        group.extend(fetched.into_iter().filter(|next| next.id != first_job));
                    }
                    Err(error) => tracing::debug!(
                        error = chain(&error),
                        "cannot fetch deliveries; apalis will"
                    ),
                }
            }
            if group.is_empty() {
                break;
            }
            for (delivery, verdict) in self.work(std::mem::take(&mut group), stop).await {
                if delivery.id == first_job {
                    first_verdict = verdict;
                } else {
                    done.push((delivery, verdict));
                }
            }
            if stop.is_cancelled() || began.elapsed() >= FETCH_TIME {
                break;
            }
        }
        if !done.is_empty() {
            // If the database refuses this for good, they are delivered again, and the claim decides.
            let acknowledge = |_| jobs::acknowledge(&self.database, &worker, &done);
            let _ = self.record(Transition::Other, acknowledge).await;
        }
        first_verdict
    }

    /// How many runs the next group may have.
    async fn max_group_runs(&self) -> usize {
        match self.purger.throttle.mode(&self.database).await {
            Mode::FullSpeed => MAX_GROUP_RUNS,
            Mode::LowImpact => MAX_LOW_IMPACT_GROUP_RUNS,
        }
    }

    /// Rescues stranded runs and deletes old records, once a minute.
    async fn keep_pruning(self) {
        let mut ticks = interval_at(Instant::now() + STARTUP_DELAY, PRUNE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match jobs::rescue_stranded(&self.database, self.lease()).await {
                Ok(0) => {}
                Ok(runs) => tracing::info!(runs, "delivered stranded runs again"),
                Err(error) => tracing::warn!(
                    error = chain(&error),
                    "cannot look for stranded runs; trying again in a minute"
                ),
            }
            if let Err(error) = self.prune().await {
                tracing::warn!(
                    error = chain(&error),
                    "cannot delete old records; trying again in a minute"
                );
            }
            self.search_rewritten().await;
        }
    }

    async fn prune(&self) -> sqlx::Result<()> {
        jobs::prune(&self.database).await?;
        runs::prune(&self.database, self.keep_runs).await?;
        prune_notes(&self.database).await
    }

    fn count(&self, outcome: Outcome, trigger: Trigger) {
        self.metrics
            .runs
            .with_label_values(&[outcome.name(), trigger.name()])
            .inc();
    }
}
