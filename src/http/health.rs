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
    postgres::Database,
    postgres::migrations,
    queue::{self, Lease, WorkerIdentity},
    telemetry::{logs::chain, metrics::Metrics},
};

/// How long a check may take: a load balancer does not wait either.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What health is told from.
#[derive(Debug, Clone)]
pub struct Health {
    /// The database.
    pub database: Database,
    /// The metrics of this process.
    pub metrics: Arc<Metrics>,
    /// This process's workers and their lease; none where it has no worker role.
    pub worker: Option<(WorkerIdentity, Lease)>,
    /// What is worth knowing of the mapping to the main app, in words; empty: nothing.
    pub mapping: Arc<Mutex<String>>,
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

/// Ready: the database answers, its schema is the one we know, and our worker's heartbeat is fresh.
pub(super) async fn readyz(State(health): State<Arc<Health>>) -> Response {
    let schema = match timeout(TIMEOUT, migrations::check(&health.database)).await {
        Ok(Ok(())) => "ok".to_owned(),
        Ok(Err(error)) => chain(&error),
        Err(_) => "the database does not answer".to_owned(),
    };
    let mut worker = None;
    if let Some((identity, lease)) = &health.worker {
        let alive = timeout(
            TIMEOUT,
            queue::workers_alive(&health.database, identity, *lease),
        )
        .await;
        worker = Some(match alive {
            Ok(Ok(true)) => "ok".to_owned(),
            Ok(Ok(false)) => "the worker's heartbeat is older than its lease".to_owned(),
            Ok(Err(error)) => chain(&error),
            Err(_) => "the database does not answer".to_owned(),
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
