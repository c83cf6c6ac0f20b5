//! The JSON API. A route and its description are registered together, so `/openapi.json` always matches the routes.

mod dashboard;
mod environments;
mod events;
mod incidents;
mod organization;
mod runs;

use axum::{
    Router,
    body::Bytes,
    http::{HeaderValue, header},
    routing::get,
};
use serde::Serialize;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, OpenApi as Document, Ref, ResponseBuilder,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::{
    dashboard::figures,
    organization::{count_expired, request_purge},
};
use super::{ApiState, Problem};
use crate::{
    retention::{Cutoff, Window},
    runs::Page,
};

/// The longest reason, in characters.
pub(super) const MAX_REASON_CHARS: usize = 1_000;

#[derive(OpenApi)]
#[openapi(
    info(title = "drift-retention", description = "Retention of WorkflowOps data: policies, purged data, and purges on request."),
    // Only a generic type uses these schemas, so utoipa does not find them.
    components(schemas(Cutoff, Window)),
    modifiers(&BearerToken),
    security(("bearer" = []))
)]
struct Description;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut Document) {
        let mut bearer = Http::new(HttpAuthScheme::Bearer);
        bearer.bearer_format = Some("JWT".into());
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(organization::purge))
        .routes(routes!(organization::policy))
        .routes(routes!(organization::preview))
        .routes(routes!(organization::runs))
        .routes(routes!(environments::list))
        .routes(routes!(environments::show))
        .routes(routes!(incidents::list))
        .routes(routes!(incidents::show))
        .routes(routes!(dashboard::show))
        .routes(routes!(runs::list))
        .routes(routes!(runs::replay_many))
        .routes(routes!(runs::show))
        .routes(routes!(runs::replay))
        .routes(routes!(runs::cancel))
        .routes(routes!(events::follow))
}

/// The API's routes, and their description at `/openapi.json`.
pub(super) fn router(state: ApiState) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = with_unavailable(document);
    // Serialize the document once, because anybody may request it.
    let document = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    let json = HeaderValue::from_static("application/json");
    let document = async move || ([(header::CONTENT_TYPE, json)], document);
    router
        .route("/openapi.json", get(document))
        .with_state(state)
}

/// The API's description.
#[must_use]
pub fn openapi() -> Document {
    with_unavailable(routes().into_openapi())
}

/// Adds the answer 503 to every route: the database may be unavailable or have no free connection.
fn with_unavailable(mut document: Document) -> Document {
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    let unavailable = ResponseBuilder::new()
        .description("The database is unavailable or busy: try again after `Retry-After`")
        .content("application/problem+json", problem)
        .build();
    for path in document.paths.paths.values_mut() {
        for operation in [&mut path.get, &mut path.post].into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("503".to_owned(), unavailable.clone().into());
        }
    }
    document
}

/// Checks a page size.
fn limit(asked: u32) -> Result<i64, Problem> {
    if (1..=200).contains(&asked) {
        return Ok(i64::from(asked));
    }
    Err(Problem::bad_request("limit must be from 1 to 200"))
}

/// The most bytes of a list's items in an answer. An answer has at most a megabyte.
const MAX_LIST_BYTES: usize = 900_000;
/// The most bytes of a list's items in an answer that also contains a payload.
const MAX_LIST_BYTES_BESIDE_PAYLOAD: usize = 400_000;

/// How many of the items fit in `max_bytes`, but at least one.
fn how_many_fit(items: &[impl Serialize], max_bytes: usize) -> usize {
    let mut bytes = 0;
    let fitting = items.iter().take_while(|item| {
        bytes += serde_json::to_vec(item).map_or(0, |json| json.len());
        bytes <= max_bytes
    });
    fitting.count().max(1)
}

/// The items that fit in `max_bytes`.
fn fitting<T: Serialize>(mut items: Vec<T>, max_bytes: usize) -> Vec<T> {
    items.truncate(how_many_fit(&items, max_bytes));
    items
}

/// Makes a page from a list of up to `limit` + 1 items: the items that fit in an answer, and the cursor of the next
/// page.
fn page_of<T: Serialize, C>(
    items: Vec<T>,
    limit: i64,
    id: impl Fn(&T) -> C,
) -> (Vec<T>, Option<C>) {
    let fit = i64::try_from(how_many_fit(&items, MAX_LIST_BYTES)).unwrap_or(i64::MAX);
    cut(items, limit.min(fit), id)
}

/// Shortens a page of runs to the runs that fit in an answer.
fn fitting_page(mut page: Page) -> Page {
    page.end_after(how_many_fit(&page.items, MAX_LIST_BYTES));
    page
}

/// Shortens a list of up to `limit` + 1 items to `limit`, and returns the cursor of the next page.
pub(super) fn cut<T, C>(
    mut items: Vec<T>,
    limit: i64,
    id: impl Fn(&T) -> C,
) -> (Vec<T>, Option<C>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(id);
    (items, next)
}
