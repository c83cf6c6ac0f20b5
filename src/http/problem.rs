//! Errors as `application/problem+json` (RFC 9457): a stable `type`, what failed, and what to do.

use axum::{
    Json,
    extract::rejection::{BytesRejection, PathRejection, QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{postgres, retention::ResolveError, runs::EnqueueError, telemetry::logs::chain};

/// The prefix of a problem's `type`. The name after it is stable.
const TYPE_PREFIX: &str = "urn:drift-retention:problem:";

/// An error answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem: stable, for programs.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What failed, why, and what to do.
    detail: String,
    /// Seconds after which the client may repeat the request.
    #[serde(skip)]
    retry_after: Option<u64>,
}

impl Problem {
    fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{kind}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// The HTTP status.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What failed, why, and what to do.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// 400: the request cannot be read.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 401: the request has no valid token.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// 403: the token is valid but lacks the role.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404: the resource does not exist or belongs to another organization. The answer is the same.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no such thing here; check the ids in the path",
        )
    }

    /// 405: the path exists but does not support the method.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path does not support this method; /openapi.json lists the methods it supports",
        )
    }

    /// 409: the resource's state does not allow the request.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// 503: a lock or connection that the request needs is taken for a moment.
    #[must_use]
    pub fn busy(detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
        }
    }

    /// 429: the caller exceeds its limit.
    #[must_use]
    pub fn too_many_requests(detail: impl Into<String>, retry_after: u64) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail)
        }
    }

    /// The headers of this problem, for JSON answers and for pages.
    pub(super) fn headers(&self) -> HeaderMap {
        let retry_after = self.retry_after.map(HeaderValue::from);
        retry_after
            .map(|seconds| (header::RETRY_AFTER, seconds))
            .into_iter()
            .collect()
    }

    /// The problem for a status that a layer answered with.
    #[must_use]
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(
                status,
                "payload_too_large",
                "the body is larger than this API takes",
            ),
            StatusCode::REQUEST_TIMEOUT => {
                Self::new(status, "timeout", "the request took too long; try again")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::new(
                status,
                "unsupported_media_type",
                "send the body as application/json",
            ),
            StatusCode::METHOD_NOT_ALLOWED => Self::method_not_allowed(),
            StatusCode::NOT_FOUND => Self::not_found(),
            status => Self::new(status, "error", "the request could not be answered"),
        }
    }

    /// 500. The error and its causes are logged here and not shown to the caller.
    #[must_use]
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = chain(error), "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the service could not answer; try again, and if it fails again, see the service's log",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, self.headers(), Json(self)).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if postgres::is_read_only_error(&error) {
            tracing::warn!(
                error = chain(&error),
                "a request failed: the database takes no writes"
            );
            return Self::busy(
                "the database takes no writes now; nothing was changed, try again in a moment",
            );
        }
        if is_lock_timeout(&error) {
            return Self::busy(
                "another transaction holds a lock that this request needs; nothing was changed, try again in a moment",
            );
        }
        if matches!(error, sqlx::Error::PoolTimedOut) {
            tracing::warn!("a request failed: no database connection became free");
            return Self::busy("the service is busy; try again in a moment");
        }
        Self::internal(&error)
    }
}

/// `lock_not_available`: the request waited for a lock until its time limit.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|error| error.code().as_deref() == Some("55P03"))
}

impl From<EnqueueError> for Problem {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::NoOrganization(_) => Self::not_found(),
            EnqueueError::Busy(_) => Self::busy(error.to_string()),
            EnqueueError::BadText(_) => Self::bad_request(error.to_string()),
            EnqueueError::Database(error) => error.into(),
        }
    }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::NoOrganization(_) => Self::not_found(),
            ResolveError::UnknownPlan(_, unknown) => Self::conflict(format!(
                "the organization's plan cannot be resolved, so nothing is purged: {unknown}"
            )),
            ResolveError::Database(error) => error.into(),
        }
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        Self::of_status(rejection.status())
    }
}
