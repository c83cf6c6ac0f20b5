//! The HTTP side of `serve`: health and metrics in every role, the JSON API and the console in the role `api`.

mod api;
mod auth;
mod claims;
mod console;
mod extract;
mod health;
mod identity;
mod jwks;
mod layers;
mod limits;
mod problem;
mod proxies;
mod server;
mod tied;

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
    claims::LINK_LIFE,
    console::sessions,
    health::{Health, Readiness, WorkerHealth},
    identity::{BadIdentity, Identity, Role},
    limits::Limits,
    problem::Problem,
    server::{connections_beside, serve},
};

/// What the API's handlers share.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// The database, for what is soon done.
    pub database: Database,
    /// The database, or a replica of it, for what counts a lot and changes nothing.
    pub reading: Reading,
    /// The database for what counts a lot: [`Limits`] says who may.
    pub counting: Database,
    /// How much each organization and address may ask for.
    pub limits: Arc<Limits>,
    /// Verifies bearer tokens.
    pub verifier: Arc<Verifier>,
    /// How the whole database stands.
    pub gauges: Arc<Gauges>,
    /// When the next run is due.
    pub schedule: Schedule,
    /// Who may say how a request came to us.
    pub proxies: TrustedProxies,
    /// Ends streams when the process stops.
    pub stop: CancellationToken,
}

/// Every route of this process, behind these proxies: `api` is absent where it has no such role.
pub fn router(health: Health, api: Option<ApiState>, proxies: TrustedProxies) -> Router {
    let health = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .with_state(Arc::new(health));
    let routes = match api {
        Some(state) => {
            let api = api::router(state.clone()).merge(console::router(state));
            let api = api.layer(middleware::from_fn(limits::holding));
            health.merge(api.layer(middleware::from_fn(layers::traced)))
        }
        None => health,
    };
    layers::around(routes, proxies)
}
