//! `serve`: HTTP, the scheduler and the worker, together or apart.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Settings,
    database::{self, Use},
    stopping,
};
use crate::{
    config::{Config, Hours},
    gauges::Gauges,
    http::{self, ApiState, Health, Verifier},
    postgres::Database,
    purge::datasets::DATASETS,
    retention::Plan,
    schedule::Schedule,
    scheduler::Scheduler,
    telemetry::metrics::Metrics,
    worker::Worker,
};

#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// What this process does; health and metrics are served in every role
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Role::Api, Role::Scheduler, Role::Worker])]
    roles: Vec<Role>,
    /// When scheduled runs may purge, in `schedule.timezone`; in place of `purge.between`
    #[arg(long, value_name = "HH:MM-HH:MM")]
    between: Option<Hours>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// The HTTP API
    Api,
    /// Enqueues a run per organization and slot
    Scheduler,
    /// Works off runs
    Worker,
}

pub(super) async fn run(args: &ServeArgs, settings: &Settings) -> Result<ExitCode> {
    let to = if args.roles.contains(&Role::Worker) {
        Use::Purge
    } else {
        Use::Serve
    };
    let (mut config, database) = settings.ready_database_to(to).await?;
    config.purge.between = args.between.or(config.purge.between);
    let stop = stopping::on_signal()?;
    serve(&config, database, &args.roles, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// The metrics of a process, with every series that the datasets and plans can have.
pub(super) fn new_metrics() -> Result<Arc<Metrics>> {
    let plans = Plan::ALL.iter().map(|plan| plan.name());
    let datasets = DATASETS.iter().map(|dataset| dataset.tables());
    Ok(Arc::new(Metrics::new(datasets, plans)?))
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

/// Serves until `stop`; health and metrics answer until the worker has drained.
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
    let health = Health {
        database: database.clone(),
        metrics: metrics.clone(),
        worker: worker
            .as_ref()
            .map(|worker| (worker.identity.clone(), worker.lease())),
    };
    let reading = database::open_reading(config, &database)?;
    let gauges = Arc::new(Gauges::new(database.clone(), reading.clone(), metrics));
    gauges.show_last().await;
    let api = roles.contains(&Role::Api).then(|| ApiState {
        database: database.clone(),
        reading,
        verifier: Arc::new(verifier(config)),
        gauges: gauges.clone(),
        schedule,
        stop: stop.clone(),
    });
    let http = http::serve(listener, http::router(health, api), drained.clone());
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
    let (http, ()) = tokio::join!(http, loops);
    http.context("the HTTP listener failed")?;
    tracing::info!("stopped");
    Ok(())
}
