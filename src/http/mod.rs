//! The HTTP side of `serve`: health and metrics in every role, the JSON API and the console in the role `api`.

mod api;
mod auth;
mod claims;
mod console;
mod extract;
mod guarded_body;
mod health;
mod identity;
mod jwks;
mod layers;
mod limits;
mod problem;
mod proxies;
mod server;

use std::sync::Arc;

use axum::{Router, middleware, routing::get};
use tokio_util::sync::CancellationToken;

use crate::{
    config::TrustedProxies,
    gauges::Gauges,
    postgres::{Database, Reading},
    schedule::Schedule,
};

pub use self::{
    api::openapi,
    auth::{MintError, Verifier, mint, mint_link},
    claims::LINK_LIFETIME,
    console::sessions,
    health::{Health, Readiness, WorkerHealth},
    identity::{BadIdentity, Identity, Role},
    limits::Limits,
    problem::Problem,
    server::{max_client_connections, serve},
};

/// What the API's handlers share.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// The database, for requests that take little time.
    pub database: Database,
    /// The database or its replica, for expensive counts that change nothing.
    pub reading: Reading,
    /// The database, for expensive counts. [`Limits`] decides who may count.
    pub counting: Database,
    /// The limits of each organization and each address.
    pub limits: Arc<Limits>,
    /// Verifies bearer tokens.
    pub verifier: Arc<Verifier>,
    /// The figures of the whole database.
    pub gauges: Arc<Gauges>,
    /// When the next run is due.
    pub schedule: Schedule,
    /// The proxies whose forwarding headers are trusted.
    pub proxies: TrustedProxies,
    /// Ends streams when the process stops.
    pub stop: CancellationToken,
}

/// Every route of this process. `api` is `None` if the process does not have the role `api`.
pub fn router(health: Health, api: Option<ApiState>, proxies: TrustedProxies) -> Router {
    let health = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .with_state(Arc::new(health));
    let routes = match api {
        Some(state) => {
            let api = api::router(state.clone()).merge(console::router(state));
            let api = api.layer(middleware::from_fn(limits::hold_request_permit));
            health.merge(layers::traced(api))
        }
        None => health,
    };
    layers::with_layers(routes, proxies)
}
