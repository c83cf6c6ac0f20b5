//! The console: pages for operators and customers' admins. They are rendered on the server and work without scripts.
//!
//! A page is a function that turns the same reads as in the API and the command line into markup. Every page needs a
//! session ([`session`]), every form contains the session's CSRF token ([`visit::Signed`]), and every file comes from
//! this process. A form that a browser sends from another site's page is refused before anything reads it.

mod actions;
mod assets;
mod charts;
mod dashboard;
mod environments;
mod failure;
mod incidents;
mod organizations;
mod overview;
mod page;
mod payload;
mod replay;
mod retention;
mod run;
mod runs;
mod session;
pub mod sessions;
mod signin;
mod visit;

use axum::{
    Router, middleware,
    response::{IntoResponse, Redirect},
    routing::{get, post},
};
use tower_http::csrf::{CsrfLayer, ProtectionError};

pub(super) use self::session::delete_sessions_of_other_secrets;
use self::{failure::Failure, page::org_path, session::Visitor};
use super::{ApiState, Problem, Role};
use crate::{
    drift::organizations::{self as records, Organization},
    ids::OrgId,
};

/// The result of a page's handler.
type Answer<T = maud::Markup> = Result<T, Failure>;

/// The console's routes, and a redirect from `/`.
pub(super) fn router(state: ApiState) -> Router {
    let organization = Router::new()
        .route("/environments", get(environments::list))
        .route("/environments/{env}", get(environments::show))
        .route("/incidents", get(incidents::list))
        .route("/incidents/{incident}", get(incidents::show))
        .route("/dashboard", get(dashboard::show))
        .route("/retention", get(retention::show))
        .route("/retention/preview", get(retention::preview))
        .route(
            "/retention/purge",
            get(retention::confirm).post(retention::purge),
        );
    let console = Router::new()
        .route("/", get(home))
        .route("/overview", get(overview::show))
        .route("/overdue", get(overview::overdue))
        .route("/unresolved", get(overview::unresolved))
        .route("/orgs", get(organizations::list))
        .nest("/orgs/{org}", organization)
        .route("/runs", get(runs::list))
        .route("/runs/replay", get(replay::confirm).post(replay::replay))
        .route("/runs/{run}", get(run::show))
        .route("/runs/{run}/progress", get(run::progress))
        .route(
            "/runs/{run}/cancel",
            get(run::confirm_cancel).post(run::cancel),
        )
        .route("/actions", get(actions::list))
        .route("/assets/{version}/{file}", get(assets::file))
        .fallback(async || Failure::from(Problem::not_found()));
    Router::new()
        .route("/", get(async || Redirect::to("/console")))
        .route("/signin", get(signin::show).post(signin::sign_in))
        .route("/signout", post(signin::sign_out))
        .nest("/console", console)
        .method_not_allowed_fallback(async || Failure::from(Problem::method_not_allowed()))
        .layer(CsrfLayer::new().with_rejection_response(|_: ProtectionError| {
            let why = "the form was sent from another site's page; open the console's own page, then send it again";
            Failure::from(Problem::forbidden(why)).into_response()
        }))
        .layer(middleware::from_fn_with_state(
            state.clone(),
            visit::identify_visitor,
        ))
        .with_state(state)
}

/// Redirects a visitor to their first page.
async fn home(visitor: Visitor) -> Answer<Redirect> {
    let path = match (visitor.identity.role, visitor.identity.org) {
        (Role::Operator, _) => "/console/overview".to_owned(),
        (_, Some(org)) => org_path(org, "environments"),
        (_, None) => return Err(Problem::not_found().into()),
    };
    Ok(Redirect::to(&path))
}

/// The organization of a path, if the visitor may see it.
async fn organization(
    state: &ApiState,
    visitor: &Visitor,
    org: uuid::Uuid,
) -> Answer<Organization> {
    let org = OrgId(org);
    visitor.identity.may_read(org)?;
    let found = records::get(&state.database, org).await?;
    Ok(found.ok_or_else(Problem::not_found)?)
}
