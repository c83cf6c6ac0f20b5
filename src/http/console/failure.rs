//! Shows a problem as a page, with the same text as in the API.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use maud::html;

use super::page;
use crate::{http::Problem, retention::ResolveError, runs::OperateError};

/// Why a page cannot be shown.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request failed.
    Problem(Problem),
    /// Nobody is signed in. After the sign-in the browser continues to this address.
    SignInFirst(String),
    /// The session ended before a part of a page was requested. The whole page is replaced by the sign-in.
    SignInAgain,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem_page(&problem),
            Self::SignInFirst(wanted) => {
                let query = serde_html_form::to_string([("next", wanted)]).unwrap_or_default();
                Redirect::to(&format!("/signin?{query}")).into_response()
            }
            Self::SignInAgain => {
                (StatusCode::UNAUTHORIZED, [("hx-redirect", "/signin")]).into_response()
            }
        }
    }
}

fn problem_page(problem: &Problem) -> Response {
    let heading = match problem.status() {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::UNAUTHORIZED => "Signed out",
        other => other.canonical_reason().unwrap_or("Error"),
    };
    let body = page::bare(
        heading,
        &html! {
            h1 { (heading) }
            p { (sentence(problem.detail())) }
            p { a href="/console" { "Back to the console" } }
        },
    );
    (problem.status(), problem.headers(), body).into_response()
}

/// A problem's detail as a sentence.
pub(super) fn sentence(detail: &str) -> String {
    let mut letters = detail.chars();
    let first = letters.next().map(char::to_uppercase);
    let end = if detail.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    };
    first
        .into_iter()
        .flatten()
        .chain(letters)
        .chain(end.chars())
        .collect()
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Problem(error.into())
    }
}

impl From<OperateError> for Failure {
    fn from(error: OperateError) -> Self {
        Self::Problem(error.into())
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        Self::Problem(error.into())
    }
}
