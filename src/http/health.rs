//! `/healthz`: the process answers. `/readyz`: it can do its work. `/metrics`: for Prometheus.
//!
//! They answer anybody, so `/readyz` uses fixed texts. Postgres's own error goes to the log, once per change of state.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::{sync::Mutex, time::timeout};

use super::Problem;
use crate::{
    jobs::{self, WorkerIdentity},
    postgres::{
        self, Database,
        migrations::{self, SchemaError},
    },
    runs::Lease,
    telemetry::{logs::chain, metrics::Metrics},
    worker::Refusals,
};

/// How long a check may take. A load balancer does not wait longer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

const OK: &str = "ok";
const NO_ANSWER: &str = "the database does not answer";
const READ_ONLY: &str = "the database is read-only: database.url leads to a standby, or to the old primary after a failover, or \
    default_transaction_read_only is on";
const RECORDS_REFUSED: &str =
    "the database refuses to record the progress of runs: the log has its error";
const UNTRACKED_PAYLOADS: &str = "warning: each run looks at every purged incident of its organization: the trigger note_rewritten_payload \
    is missing, or is not ENABLE ALWAYS, on a table that the log names";

/// The state from which the health routes answer.
#[derive(Debug, Clone)]
pub struct Health {
    /// The database.
    pub database: Database,
    /// The metrics of this process.
    pub metrics: Arc<Metrics>,
    /// This process's worker. `None` if it does not have the role `worker`.
    pub worker: Option<WorkerHealth>,
    /// Tables whose payloads can be written again without a trigger that notes it.
    pub unnoticed: Arc<Mutex<Vec<String>>>,
    /// The result of the last probe, and when that probe began.
    pub last: Arc<Mutex<Option<(Instant, Readiness)>>>,
}

/// The state from which a worker's health is derived.
#[derive(Debug, Clone)]
pub struct WorkerHealth {
    /// The prefix of its workers' names in the queue.
    pub identity: WorkerIdentity,
    /// How long its workers may go without a heartbeat.
    pub lease: Lease,
    /// The steps of runs that the database refuses to record.
    pub refusals: Refusals,
}

/// The result of a probe. Every part is `ok` or says what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Readiness {
    ready: bool,
    schema: &'static str,
    /// A warning. It does not affect readiness.
    mapping: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'static str>,
}

impl Default for Readiness {
    /// The state before the first probe, so that the first probe logs whatever is wrong.
    fn default() -> Self {
        Self {
            ready: true,
            schema: OK,
            mapping: OK,
            worker: None,
        }
    }
}

/// One part of readiness: its text, and the database's error if there is one.
type Check = (&'static str, Option<String>);

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The process is ready if the database answers and takes writes, its schema is the one that this program knows, the
/// worker's heartbeat is fresh, and the database accepts the worker's records.
pub(super) async fn readyz(State(health): State<Arc<Health>>) -> Response {
    // Anybody may ask, as often as they like. So one probe runs at a time and answers everybody who asked before it began.
    let asked = Instant::now();
    let mut last = health.last.lock().await;
    let found = match *last {
        Some((began, found)) if began > asked => found,
        before => {
            let began = Instant::now();
            let before = before.map_or_else(Readiness::default, |(_, found)| found);
            let found = probe(&health, before).await;
            *last = Some((began, found));
            found
        }
    };
    drop(last);
    let status = if found.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(found)).into_response()
}

/// Checks every part, and logs a change since `before`.
async fn probe(health: &Health, before: Readiness) -> Readiness {
    let (schema, why) = schema(&health.database).await;
    let (worker, workers_why) = match &health.worker {
        Some(worker_health) => {
            let (worker, why) = worker(&health.database, worker_health).await;
            (Some(worker), why)
        }
        None => (None, None),
    };
    let is_noticed = health.unnoticed.lock().await.is_empty();
    let found = Readiness {
        ready: schema == OK && worker.is_none_or(|worker| worker == OK),
        schema,
        mapping: if is_noticed { OK } else { UNTRACKED_PAYLOADS },
        worker,
    };
    match (before.ready, found.ready) {
        (_, false) if (before.schema, before.worker) != (found.schema, found.worker) => {
            let error: Vec<String> = why.into_iter().chain(workers_why).collect();
            let error = (!error.is_empty()).then(|| error.join("; "));
            tracing::warn!(schema, worker, error, "not ready");
        }
        (false, true) => tracing::info!("ready again"),
        _ => {}
    }
    found
}

async fn schema(database: &Database) -> Check {
    match timeout(CHECK_TIMEOUT, migrations::check(database)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return (schema_message(&error), Some(chain(&error))),
        Err(_) => return (NO_ANSWER, None),
    }
    match timeout(CHECK_TIMEOUT, postgres::is_read_only(database)).await {
        Ok(Ok(false)) => (OK, None),
        Ok(Ok(true)) => (READ_ONLY, None),
        Ok(Err(error)) => (NO_ANSWER, Some(chain(&error))),
        Err(_) => (NO_ANSWER, None),
    }
}

fn schema_message(error: &SchemaError) -> &'static str {
    match error {
        SchemaError::Behind { .. } => {
            "the database schema is behind this program; run `drift-retention migrate up`"
        }
        SchemaError::Ahead(_) => {
            "the database schema is newer than this program; upgrade drift-retention"
        }
        SchemaError::OtherBuild(_) => {
            "the database was migrated by another build of drift-retention"
        }
        SchemaError::Unreachable => NO_ANSWER,
        _ => "the database schema cannot be read: the log says why",
    }
}

async fn worker(database: &Database, worker_health: &WorkerHealth) -> Check {
    let WorkerHealth {
        identity,
        lease,
        refusals,
    } = worker_health;
    match timeout(
        CHECK_TIMEOUT,
        jobs::workers_alive(database, identity, *lease),
    )
    .await
    {
        Ok(Ok(_)) if refusals.are_any() => (RECORDS_REFUSED, None),
        Ok(Ok(true)) => (OK, None),
        Ok(Ok(false)) => ("the worker's heartbeat is older than its lease", None),
        Ok(Err(error)) => (
            "the worker's heartbeat cannot be read: the log says why",
            Some(chain(&error)),
        ),
        Err(_) => (NO_ANSWER, None),
    }
}

pub(super) async fn metrics(State(health): State<Arc<Health>>) -> Response {
    let (open, idle) = health.database.connections();
    health.metrics.set_pool_connections(open, idle);
    match health.metrics.render() {
        Ok(page) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}
