//! `serve`: runs HTTP, the scheduler and the worker, in one process or in several.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tokio::{net::TcpListener, sync::Mutex, time::sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Settings,
    database::{self, Usage},
    stopping,
};
use crate::{
    attach::{self, AttachError, Depth},
    config::{Config, Hours},
    gauges::Gauges,
    http::{self, ApiState, Health, Limits, Verifier, WorkerHealth},
    postgres::Database,
    purge::metric_labels,
    schedule::Schedule,
    scheduler::Scheduler,
    telemetry::{logs::chain, metrics::Metrics},
    worker::Worker,
};

/// How often the mapping is checked while serving.
const MAPPING_CHECK_INTERVAL: Duration = Duration::from_mins(1);

#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// The roles of this process; every role serves health and metrics
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Role::Api, Role::Scheduler, Role::Worker])]
    roles: Vec<Role>,
    /// When scheduled runs may purge, in `schedule.timezone`; overrides `purge.between`
    #[arg(long, value_name = "HH:MM-HH:MM")]
    between: Option<Hours>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// The HTTP API
    Api,
    /// Enqueues a run per organization and slot
    Scheduler,
    /// Executes runs
    Worker,
}

pub(super) async fn run(args: &ServeArgs, settings: &Settings) -> Result<ExitCode> {
    let purges = args.roles.contains(&Role::Worker);
    let answers = args.roles.contains(&Role::Api);
    let depth = if purges {
        Depth::Trial
    } else {
        Depth::Structure
    };
    let usage = Usage::Serve { answers, purges };
    let (mut config, database) = settings.ready_database_for(usage, depth).await?;
    config.purge.between = args.between.or(config.purge.between);
    let stop = stopping::on_signal()?;
    serve(&config, database, &args.roles, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// The metrics of a process, with every series that they can have.
pub(super) fn new_metrics() -> Result<Arc<Metrics>> {
    Ok(Arc::new(Metrics::new(&metric_labels())?))
}

fn verifier(config: &Config) -> Verifier {
    let verifier = Verifier::new(&config.auth);
    if !verifier.is_configured() {
        tracing::warn!(
            "the API refuses everything but health and metrics: set auth.hs256_secret or auth.jwks"
        );
    }
    verifier
}

/// Serves until `stop` is cancelled. Health and metrics answer until the worker has drained.
pub(super) async fn serve(
    config: &Config,
    database: Database,
    roles: &[Role],
    stop: CancellationToken,
) -> Result<()> {
    let metrics = new_metrics()?;
    let worker = roles
        .contains(&Role::Worker)
        .then(|| Worker::new(database.clone(), metrics.clone(), config));
    let schedule = Schedule::new(&config.schedule)?;
    let scheduler = roles.contains(&Role::Scheduler).then(|| Scheduler {
        database: database.clone(),
        schedule: schedule.clone(),
        metrics: metrics.clone(),
    });
    let listener = TcpListener::bind(config.http.listen)
        .await
        .with_context(|| {
            format!(
                "cannot listen on {}; set http.listen to a free address",
                config.http.listen
            )
        })?;
    tracing::info!(address = %listener.local_addr()?, ?roles, "serving");

    let drained = CancellationToken::new();
    let watched = MappingWatch::of(&database);
    let health = Health {
        unnoticed: watched.unnoticed.clone(),
        last: Arc::default(),
        database: database.clone(),
        metrics: metrics.clone(),
        worker: worker.as_ref().map(|worker| WorkerHealth {
            identity: worker.identity.clone(),
            lease: worker.lease(),
            refusals: worker.refusals.clone(),
        }),
    };
    let reading = database::open_reading(config, &database)?;
    let connections = database.most_connections() + reading.most_connections_to_a_replica();
    let connections = http::max_client_connections(connections);
    let verifier = Arc::new(verifier(config));
    if roles.contains(&Role::Api) {
        let ended = verifier.end_sessions_of_other_secrets(&database).await;
        ended.context("cannot end the sessions of a former secret")?;
    }
    let gauges = Arc::new(Gauges::new(
        database.clone(),
        reading.clone(),
        metrics.clone(),
    ));
    gauges.show_last().await;
    let api = roles.contains(&Role::Api).then(|| ApiState {
        database: database.for_requests(),
        reading,
        counting: database.for_counting(),
        limits: Arc::new(Limits::new(
            &config.http,
            database.at_once(),
            connections,
            metrics.clone(),
        )),
        verifier,
        gauges: gauges.clone(),
        schedule,
        proxies: config.http.trusted_proxies.clone(),
        stop: stop.clone(),
    });
    let watch = watched.watch(&database, &config.attach.cascades, worker.as_ref(), &stop);
    let http = http::serve(
        listener,
        http::router(health, api, config.http.trusted_proxies.clone()),
        connections,
        drained.clone(),
    );
    let _gauges = AbortOnDropHandle::new(tokio::spawn(async move { gauges.keep_fresh().await }));
    let loops = async {
        tokio::join!(
            async {
                if let Some(worker) = &worker {
                    worker.run(&stop).await;
                }
            },
            async {
                if let Some(scheduler) = &scheduler {
                    scheduler.run(&stop).await;
                }
            },
            stop.cancelled(),
        );
        drained.cancel();
    };
    let grace = config.worker.shutdown_grace;
    let (.., mapping) = tokio::join!(
        wait_within_grace(&stop, grace, Box::pin(async { tokio::join!(http, loops) })),
        wait_within_grace(&stop, grace, Box::pin(watch)),
    );
    tracing::info!("stopped");
    Ok(mapping.unwrap_or(Ok(()))?)
}

/// Waits for `work`, but no longer than `grace` after `stop` is cancelled. A client that reads nothing or a
/// database that does not answer must not keep the process alive.
async fn wait_within_grace<T>(
    stop: &CancellationToken,
    grace: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    // Leave some time for the end of the process.
    let until = grace.saturating_sub((grace / 10).min(Duration::from_millis(200)));
    tokio::select! {
        ended = work => Some(ended),
        () = async { stop.cancelled().await; sleep(until).await } => {
            tracing::warn!("worker.shutdown_grace is over; closing everything that is still open");
            None
        }
    }
}

/// The mapping that this process uses, and a loop that checks it while the process serves.
struct MappingWatch {
    fingerprint: String,
    /// Tables whose payloads can be written again without a trigger that notes it.
    unnoticed: Arc<Mutex<Vec<String>>>,
}

impl MappingWatch {
    fn of(database: &Database) -> Self {
        let mapping = database.mapping();
        Self {
            fingerprint: mapping.map_or_else(String::new, |mapping| mapping.fingerprint.clone()),
            unnoticed: Arc::new(Mutex::new(
                mapping.map_or_else(Vec::new, |mapping| mapping.unnoticed.clone()),
            )),
        }
    }

    /// Checks the mapping until `stop` is cancelled. Stops the process if the mapping has changed or can no longer be
    /// used. If a run of the `worker` doubts the mapping, it is checked at once.
    async fn watch(
        &self,
        database: &Database,
        cascades: &[String],
        worker: Option<&Worker>,
        stop: &CancellationToken,
    ) -> Result<(), AttachError> {
        let (changed, doubted) = worker.map_or_else(Default::default, |worker| {
            let (changed, doubted) = (&worker.mapping_changed, &worker.mapping_doubted);
            (changed.clone(), doubted.clone())
        });
        let outcome = loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = changed.cancelled() => break Err(AttachError::Changed),
                () = doubted.notified() => {}
                () = sleep(MAPPING_CHECK_INTERVAL) => {}
            }
            match attach::prove(database, cascades, Depth::Structure).await {
                Ok((mapping, _)) if mapping.fingerprint != self.fingerprint => {
                    break Err(AttachError::Changed);
                }
                Ok((mapping, report)) => {
                    let before = std::mem::replace(
                        &mut *self.unnoticed.lock().await,
                        mapping.unnoticed.clone(),
                    );
                    if before != mapping.unnoticed {
                        super::log_warnings(&report);
                    }
                }
                Err(AttachError::Database(error)) => {
                    tracing::warn!(
                        error = chain(&error),
                        "cannot check the mapping to the main app; trying again"
                    );
                }
                Err(refused) => break Err(refused),
            }
        };
        stop.cancel();
        outcome
    }
}
