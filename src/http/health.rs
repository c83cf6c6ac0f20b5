//! `/healthz`: the process answers. `/readyz`: it can do its work. `/metrics`: for Prometheus.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    postgres::{self, Database, migrations},
    queue::{self, Lease, WorkerIdentity},
    telemetry::{logs::chain, metrics::Metrics},
    worker::Refusals,
};

/// How long a check may take: a load balancer does not wait either.
const TIMEOUT: Duration = Duration::from_secs(3);

const NO_ANSWER: &str = "the database does not answer";

/// What health is told from.
#[derive(Debug, Clone)]
pub struct Health {
    /// The database.
    pub database: Database,
    /// The metrics of this process.
    pub metrics: Arc<Metrics>,
    /// Of this process's worker; none where it has no worker role.
    pub worker: Option<WorkerHealth>,
    /// What is worth knowing of the mapping to the main app, in words; empty: nothing.
    pub mapping: Arc<Mutex<String>>,
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
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    schema: String,
    /// A warning, which keeps nobody from being ready.
    mapping: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Ready: the database answers and takes writes, its schema is the one we know, our worker's heartbeat is fresh, and what it
/// records is taken.
pub(super) async fn readyz(State(health): State<Arc<Health>>) -> Response {
    let database = &health.database;
    let schema = match timeout(TIMEOUT, migrations::check(database)).await {
        Ok(Ok(())) => match timeout(TIMEOUT, postgres::is_read_only(database)).await {
            Ok(Ok(false)) => "ok".to_owned(),
            Ok(Ok(true)) => "the database is read-only: database.url leads to a standby, or to the old primary after a failover, or \
             default_transaction_read_only is on"
                .to_owned(),
            Ok(Err(error)) => chain(&error),
            Err(_) => NO_ANSWER.to_owned(),
        },
        Ok(Err(error)) => chain(&error),
        Err(_) => NO_ANSWER.to_owned(),
    };
    let mut worker = None;
    if let Some(WorkerHealth {
        identity,
        lease,
        refusals,
    }) = &health.worker
    {
        let alive = timeout(TIMEOUT, queue::workers_alive(database, identity, *lease)).await;
        worker = Some(match (alive, refusals.first()) {
            (Ok(Ok(_)), Some(refusal)) => refusal,
            (Ok(Ok(true)), None) => "ok".to_owned(),
            (Ok(Ok(false)), None) => "the worker's heartbeat is older than its lease".to_owned(),
            (Ok(Err(error)), _) => chain(&error),
            (Err(_), _) => NO_ANSWER.to_owned(),
        });
    }
    let ready = schema == "ok" && worker.as_deref().is_none_or(|worker| worker == "ok");
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(Readiness {
            ready,
            schema,
            mapping: match health.mapping.lock().await.as_str() {
                "" => "ok".to_owned(),
                warning => format!("warning: {warning}"),
            },
            worker,
        }),
    )
        .into_response()
}

pub(super) async fn metrics(State(health): State<Arc<Health>>) -> Response {
    let (open, idle) = health.database.connections();
    health.metrics.show_pool(open, idle);
    match health.metrics.render() {
        Ok(page) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
