//! The worker's loop: a delivery becomes a claim, a claim an attempt, and every attempt an ending that is
//! recorded, whatever happens to the process, the database or the run in between.

mod endings;
mod hours;
mod idle;
mod isolate;
mod mapping;
mod recording;
mod rewritten;
mod shift;
mod slice;
mod together;

use std::{sync::Arc, time::Duration};

use chrono_tz::Tz;
use tokio::{
    sync::{Mutex, Notify, Semaphore},
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{Instrument, field};

pub use self::recording::Refusals;
use self::{
    hours::Admission,
    isolate::isolate_panics,
    recording::{InHand, Step, Unrecorded},
};
use crate::{
    config::{Config, Hours},
    faults::{self, Point},
    ids::{OrgId, RunId},
    postgres::Database,
    purge::{ClosedStep, OwnedRun, Pace, PurgeError, Purger, Report, Terms, Turn},
    queue::{
        self, Backoff, Claim, ConsumerSettings, Delivery, Lease, Settled, Verdict, WorkerIdentity,
    },
    retention::Plan,
    telemetry::{logs::chain, metrics::Metrics, traces},
};

/// How often stranded runs are looked for.
const RECONCILE_EVERY: Duration = Duration::from_mins(1);
/// How long after its start a worker looks for them first: it has enough to do until then.
const SETTLED: Duration = Duration::from_secs(1);
/// Runs in hand for each that deletes: the others claim, commit, verify or end meanwhile, which is waiting for the disk.
const IN_HAND: usize = 2;

/// A worker process: it works off deliveries until it is stopped.
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
    lap: Arc<Mutex<idle::Lap>>,
    group: Arc<Mutex<together::Group>>,
    hours: Option<(Hours, Tz)>,
    /// Cancelled when the mapping is no longer the one that this process has checked: it purges nothing more.
    pub mapping_changed: CancellationToken,
    /// Notified when a run failed of something that speaks against the mapping.
    pub mapping_doubted: Arc<Notify>,
    /// Which steps of runs the database refuses to record.
    pub refusals: Refusals,
    in_hand: InHand,
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
                pace: Arc::new(Pace::new(purge, metrics.clone())),
                at_once: Arc::new(Semaphore::new(config.concurrency())),
            },
            database,
            metrics,
            identity: WorkerIdentity::unique(),
            consumer: ConsumerSettings {
                concurrency: config.concurrency() * IN_HAND,
                heartbeat: config.heartbeat,
            },
            backoff: Backoff {
                base: config.backoff_base,
                max: config.backoff_max,
            },
            max_attempts: config.max_attempts,
            shutdown_grace: config.shutdown_grace,
            keep_runs: config.keep_runs,
            lap: Arc::default(),
            group: Arc::new(Mutex::new(together::Group::new(purge.batch_size))),
            hours: purge.between.map(|hours| (hours, timezone)),
            mapping_changed: CancellationToken::new(),
            mapping_doubted: Arc::default(),
            refusals: Refusals::default(),
            in_hand: InHand::default(),
        }
    }

    /// How long a silent worker keeps its runs.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.consumer.lease()
    }

    /// Works until `stop`, or until the mapping has changed; then gives running runs back and drains, within the grace.
    pub async fn run(&self, stop: &CancellationToken) {
        let stop = &stop.child_token();
        let _until_changed = {
            let (changed, stop) = (self.mapping_changed.clone(), stop.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                changed.cancelled().await;
                stop.cancel();
            }))
        };
        // Where nobody feels it, they are opened as they are needed, all at once.
        if !self.purger.pace.is_free(&self.database).await {
            stop.run_until_cancelled(self.database.open_gently()).await;
        }
        let _reconciler = AbortOnDropHandle::new(tokio::spawn(self.clone().keep_reconciling()));
        let _rescuer = AbortOnDropHandle::new(tokio::spawn(self.clone().keep_rescuing()));
        let handler = {
            let (worker, stop) = (self.clone(), stop.clone());
            move |delivery| {
                let (worker, stop) = (worker.clone(), stop.clone());
                async move { worker.shift(delivery, &stop).await }
            }
        };
        tokio::select! {
            () = queue::consume(&self.database, &self.consumer, &self.identity, stop, handler) => {}
            () = async { stop.cancelled().await; sleep(self.drain_time()).await } => {
                tracing::warn!("not drained within the grace; what is unfinished is taken over elsewhere");
            }
        }
        if let Err(error) = queue::retire_workers(&self.database, self.identity.prefix()).await {
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

    async fn keep_reconciling(self) {
        let mut ticks = interval_at(Instant::now() + SETTLED, RECONCILE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match queue::reconcile(&self.database, self.lease(), self.keep_runs).await {
                Ok(0) => {}
                Ok(runs) => tracing::info!(runs, "delivered stranded runs again"),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot reconcile; trying again");
                }
            }
            self.search_rewritten().await;
        }
    }

    /// One delivery, from claim to ending.
    async fn handle(&self, delivery: Delivery, stop: &CancellationToken) -> Verdict {
        let _held = self.in_hand.take(delivery.run);
        self.work(delivery, stop).await.unwrap_or(Verdict::Done)
    }

    async fn work(
        &self,
        delivery: Delivery,
        stop: &CancellationToken,
    ) -> Result<Verdict, Unrecorded> {
        if stop.is_cancelled() {
            self.record(Step::Other, |_| {
                queue::redeliver(&self.database, delivery.run)
            })
            .await?;
            return Ok(Verdict::Done);
        }
        let (within, _closing) = match self
            .record(Step::Other, |_| self.admit(&delivery, stop))
            .await?
        {
            Admission::AnyTime => (stop.clone(), None),
            Admission::Within(within, closing) => (within, Some(closing)),
            Admission::Postponed => return Ok(Verdict::Done),
        };
        if self.purge_together(&delivery, &within).await {
            return Ok(Verdict::Done);
        }
        let claim = |again| {
            queue::claim(
                &self.database,
                delivery.run,
                &delivery,
                self.max_attempts,
                self.lease(),
                again,
            )
        };
        match self.record(Step::Claim, claim).await? {
            Claim::Owned(run, terms) => self.attempt(run, Ok(terms), &within).await,
            Claim::Unresolved(run, error) => self.attempt(run, Err(error), &within).await,
            Claim::Exhausted { org, trigger } => {
                tracing::error!(run_id = %delivery.run, org_id = %org, error_kind = "attempts_exhausted",
                    "run failed: every attempt is used up and none reported back");
                self.count("failed", &trigger);
                Ok(Verdict::Killed)
            }
            Claim::Cancelled { trigger } => {
                self.count("cancelled", &trigger);
                Ok(Verdict::Done)
            }
            Claim::Nothing => Ok(Verdict::Done),
        }
    }

    async fn attempt(
        &self,
        run: OwnedRun,
        terms: Result<Terms, PurgeError>,
        stop: &CancellationToken,
    ) -> Result<Verdict, Unrecorded> {
        faults::pass(Point::AfterClaim);
        let span = tracing::info_span!("purge run", otel.kind = "consumer", run_id = %run.id, org_id = %run.org,
            attempt = run.attempt, trigger = run.trigger, replay_of = field::Empty, trace_id = field::Empty);
        if let Some(repeated) = run.replay_of {
            span.record("replay_of", field::display(repeated));
        }
        traces::set_parent(&span, run.traceparent.as_deref());
        traces::link(&span, run.repeated.as_deref());
        self.attempt_in_span(run, terms, stop)
            .instrument(span)
            .await
    }

    async fn attempt_in_span(
        &self,
        run: OwnedRun,
        terms: Result<Terms, PurgeError>,
        stop: &CancellationToken,
    ) -> Result<Verdict, Unrecorded> {
        tracing::debug!(run_id = %run.id, org_id = %run.org, attempt = run.attempt, "attempt begins");
        let started = Instant::now();
        let outcome = match terms {
            Ok(terms) => self.purge(&run, terms, stop).await,
            Err(error) => Err(error),
        };
        let outcome = self.unless_mapping_changed(outcome).await;
        self.metrics
            .run_duration
            .observe(started.elapsed().as_secs_f64());
        match outcome {
            Ok(report) => self.succeed(&run, &report).await,
            Err(error @ (PurgeError::Stopped | PurgeError::MappingChanged)) => {
                let is_changed = matches!(error, PurgeError::MappingChanged);
                if is_changed {
                    tracing::error!(run_id = %run.id, org_id = %run.org, error = %error, "this worker stops");
                    self.mapping_changed.cancel();
                }
                let give_back = || queue::give_back(&self.database, &run);
                let (given, is_repeated) = self.record_again(Step::End, give_back).await?;
                if given == Settled::Superseded {
                    return self.superseded(&run, is_repeated).await;
                }
                let why = if is_changed {
                    "the mapping has changed"
                } else if stop.is_cancelled() {
                    "the worker stops, or its hours are over"
                } else {
                    "it has had its slice, and others wait"
                };
                tracing::info!(run_id = %run.id, org_id = %run.org, "gave the run back: {why}");
                Ok(Verdict::Done)
            }
            Err(PurgeError::Superseded) => self.superseded(&run, false).await,
            Err(error) => self.fail(&run, &error).await,
        }
    }

    /// The purge in a task of its own: heartbeats go on beside it, a panic ends the attempt and nothing else, and
    /// it ends when this future is dropped.
    async fn purge(
        &self,
        run: &OwnedRun,
        terms: Terms,
        stop: &CancellationToken,
    ) -> Result<Report, PurgeError> {
        let turn = Arc::new(Turn {
            over: stop.child_token(),
            ..Turn::default()
        });
        let slicing = slice::end_slice(self.database.clone(), turn.clone());
        let _slicing = AbortOnDropHandle::new(tokio::spawn(slicing));
        let (purger, owned) = (self.purger.clone(), run.clone());
        let attempt = async move { purger.purge(&owned, terms, &turn).await };
        isolate_panics(attempt.in_current_span()).await
    }

    fn count(&self, outcome: &str, trigger: &str) {
        self.metrics
            .runs
            .with_label_values(&[outcome, trigger])
            .inc();
    }
}

/// Tells what a run did to each table.
fn report_steps(run: RunId, org: OrgId, plan: Plan, steps: &[ClosedStep]) {
    for step in steps {
        tracing::info!(run_id = %run, org_id = %org, plan = %plan, table = step.table_name,
            rows_purged = step.rows_purged, rows_kept = step.rows_kept,
            cutoff = step.cutoff.map(|cutoff| cutoff.to_rfc3339()),
            "purged {} rows from {}", step.rows_purged, step.table_name);
    }
}
