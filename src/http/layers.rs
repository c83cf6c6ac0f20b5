//! The layers around every route: request ids, limits, timeouts, compression, security headers, and answers for
//! unknown routes. CORS is off: only our own origin may read answers.

use std::time::Duration;

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
    trace::TraceLayer,
};
use tracing::{Span, field};

use super::{Problem, proxies::keep_to_https};
use crate::{config::TrustedProxies, telemetry::traces};

/// The largest request body, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a request may take. A stream only has to begin within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const SECURITY_HEADERS: [(HeaderName, &str); 7] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (header::CACHE_CONTROL, "no-store"),
];

pub(super) fn with_layers(routes: Router, proxies: TrustedProxies) -> Router {
    let mut routes = routes
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(time_limited))
        .layer(CatchPanicLayer::custom(|_| {
            Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }))
        .layer(CompressionLayer::new());
    for (name, value) in SECURITY_HEADERS {
        let value = HeaderValue::from_static(value);
        routes = routes.layer(SetResponseHeaderLayer::if_not_present(name, value));
    }
    routes
        .layer(middleware::from_fn_with_state(proxies, keep_to_https))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
}

/// Gives every request of `routes` a span, which lasts until the answer's body ends. The log gets no line per request.
pub(super) fn traced(routes: Router) -> Router {
    routes.layer(
        TraceLayer::new_for_http()
            .make_span_with(request_span)
            .on_request(())
            .on_response(|response: &Response, _: Duration, span: &Span| {
                span.record("http.response.status_code", response.status().as_u16());
            })
            .on_body_chunk(())
            .on_eos(())
            .on_failure(()),
    )
}

/// The span of a request, in the caller's trace if the request names one.
fn request_span(request: &Request) -> Span {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("unknown", MatchedPath::as_str);
    let span = tracing::info_span!(
        "http.request",
        otel.name = format!("{} {route}", request.method()),
        otel.kind = "server",
        http.route = route,
        http.response.status_code = field::Empty,
        trace_id = field::Empty
    );
    let parent = request.headers().get("traceparent");
    traces::set_parent(&span, parent.and_then(|parent| parent.to_str().ok()));
    span
}

/// Answers a request that takes too long with a [`Problem`].
async fn time_limited(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::of_status(StatusCode::REQUEST_TIMEOUT).into_response(),
    }
}
