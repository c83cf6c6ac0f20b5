//! Extractors for path, query and body. A rejection is a [`Problem`] like any other error.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{StatusCode, header},
};
use chrono::{DateTime, Datelike, Utc};
use serde::de::DeserializeOwned;

use super::Problem;
use crate::text::is_control;

/// Path parameters.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(super) struct Path<T>(pub T);

/// Query parameters. Types use `deny_unknown_fields`.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub(super) struct Query<T>(pub T);

/// A JSON body. An empty body or `null` gives the default value.
#[derive(Debug)]
pub(super) struct OptionalJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let media_type = request.headers().get(header::CONTENT_TYPE).cloned();
        let body = Bytes::from_request(request, state).await?;
        if matches!(body.trim_ascii(), b"" | b"null") {
            return Ok(Self(T::default()));
        }
        let is_json = media_type
            .and_then(|value| {
                value
                    .to_str()
                    .map(|text| text.trim().to_ascii_lowercase())
                    .ok()
            })
            .is_some_and(|value| {
                value == "application/json" || value.starts_with("application/json;")
            });
        if !is_json {
            return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        // Serde would read an array as a struct's fields, in their order.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::bad_request("the body must be a JSON object"));
        }
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|error| Problem::bad_request(format!("the body cannot be read: {error}")))
    }
}

/// Checks that a text can be stored and shown anywhere: it has no control characters and at most `max` characters. A
/// blank text becomes `None`.
pub(super) fn bounded_text(
    name: &str,
    text: Option<String>,
    max: usize,
) -> Result<Option<String>, Problem> {
    let Some(text) = text else { return Ok(None) };
    if text.contains(is_control) || text.chars().count() > max {
        return Err(Problem::bad_request(format!(
            "{name} must be at most {max} characters, without control characters"
        )));
    }
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

/// Checks that a time's year has four digits: chrono and Postgres do not read and store the same range beyond that.
pub(super) fn bounded_time(
    name: &str,
    time: Option<DateTime<Utc>>,
) -> Result<Option<DateTime<Utc>>, Problem> {
    match time {
        Some(time) if !(1..=9999).contains(&time.year()) => Err(Problem::bad_request(format!(
            "{name} must be a year from 1 to 9999"
        ))),
        time => Ok(time),
    }
}
