//! `/healthz`: the process answers. `/readyz`: it can do its work. `/metrics`: for Prometheus.
//!
//! They answer anybody, so `/readyz` has fixed words. What Postgres says goes to the log, once when the state changes.

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

/// How long a check may take: a load balancer does not wait either.
const TIMEOUT: Duration = Duration::from_secs(3);

const OK: &str = "ok";
const NO_ANSWER: &str = "the database does not answer";
const READ_ONLY: &str = "the database is read-only: database.url leads to a standby, or to the old primary after a failover, or \
    default_transaction_read_only is on";
const REFUSED: &str = "the database refuses to record what becomes of runs: the log has its words";
const UNNOTICED: &str = "warning: each run looks at every purged incident of its organization: the trigger note_rewritten_payload \
    is missing, or is not ENABLE ALWAYS, on a table that the log names";

/// What health is told from.
#[derive(Debug, Clone)]
pub struct Health {
    /// The database.
    pub database: Database,
    /// The metrics of this process.
    pub metrics: Arc<Metrics>,
    /// Of this process's worker; none where it has no worker role.
    pub worker: Option<WorkerHealth>,
    /// Tables whose payloads can be written again unnoticed.
    pub unnoticed: Arc<Mutex<Vec<String>>>,
    /// What the last probe found, and when it began.
    pub last: Arc<Mutex<Option<(Instant, Readiness)>>>,
}

/// What a worker's health is told from.
#[derive(Debug, Clone)]
pub struct WorkerHealth {
    /// The names of its workers in the queue begin with it.
    pub identity: WorkerIdentity,
    /// How long they may be silent.
    pub lease: Lease,
    /// Which steps of runs the database refuses to record.
    pub refusals: Refusals,
}

/// What `/readyz` found; every part is `ok` or says what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Readiness {
    ready: bool,
    schema: &'static str,
    /// A warning, which keeps nobody from being ready.
    mapping: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'static str>,
}

impl Default for Readiness {
    /// Before the first probe: what is wrong then is news.
    fn default() -> Self {
        Self {
            ready: true,
            schema: OK,
            mapping: OK,
            worker: None,
        }
    }
}

/// A part of readiness: its words, and the database's, if there are any.
type Found = (&'static str, Option<String>);

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Ready: the database answers and takes writes, its schema is the one we know, our worker's heartbeat is fresh, and what it
/// records is taken.
pub(super) async fn readyz(State(health): State<Arc<Health>>) -> Response {
    // Anybody may ask, and as often as they like: one probe at a time, and it is for all who asked before it began.
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

/// Looks at every part, and logs what has changed since `before`.
async fn probe(health: &Health, before: Readiness) -> Readiness {
    let (schema, why) = schema(&health.database).await;
    let (worker, workers_why) = match &health.worker {
        Some(told) => {
            let (worker, why) = worker(&health.database, told).await;
            (Some(worker), why)
        }
        None => (None, None),
    };
    let is_noticed = health.unnoticed.lock().await.is_empty();
    let found = Readiness {
        ready: schema == OK && worker.is_none_or(|worker| worker == OK),
        schema,
        mapping: if is_noticed { OK } else { UNNOTICED },
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

async fn schema(database: &Database) -> Found {
    match timeout(TIMEOUT, migrations::check(database)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return (words(&error), Some(chain(&error))),
        Err(_) => return (NO_ANSWER, None),
    }
    match timeout(TIMEOUT, postgres::is_read_only(database)).await {
        Ok(Ok(false)) => (OK, None),
        Ok(Ok(true)) => (READ_ONLY, None),
        Ok(Err(error)) => (NO_ANSWER, Some(chain(&error))),
        Err(_) => (NO_ANSWER, None),
    }
}

fn words(error: &SchemaError) -> &'static str {
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
        _ => "the database's schema cannot be read: the log says why",
    }
}

async fn worker(database: &Database, told: &WorkerHealth) -> Found {
    let WorkerHealth {
        identity,
        lease,
        refusals,
    } = told;
    match timeout(TIMEOUT, jobs::workers_alive(database, identity, *lease)).await {
        Ok(Ok(_)) if refusals.are_any() => (REFUSED, None),
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
    health.metrics.show_pool(open, idle);
    match health.metrics.render() {
        Ok(page) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}
