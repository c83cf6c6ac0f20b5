//! Signing in with a token, by form or once by link, and signing out.

use axum::{
    body::Bytes,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Redirect, Response},
};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::{Deserialize, de::IgnoredAny};
use subtle::ConstantTimeEq;

use super::{
    failure::{Failure, sentence},
    page,
    session::{self, COOKIE},
    visit::{PageQuery, Signed, is_loopback, keep, parse_form},
};
use crate::http::{ApiState, Identity, Problem};

/// The cookie that ties the sign-in form to the browser that it was sent to: there is no session yet.
const FORM_COOKIE: &str = "drift_retention_signin";

/// How somebody comes to the sign-in page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SignInQuery {
    /// A token, of a link: taken once.
    token: Option<String>,
    /// Where to go on.
    next: Option<String>,
    signed_out: bool,
}

/// The sign-in form; or the end of a sign-in link.
pub(super) async fn show(
    State(state): State<ApiState>,
    jar: CookieJar,
    headers: HeaderMap,
    PageQuery(query): PageQuery<SignInQuery>,
) -> Result<Response, Failure> {
    let Some(token) = query.token else {
        let notice = query.signed_out.then_some("You are signed out.");
        return Ok(form(jar, &headers, query.next.as_deref(), notice));
    };
    let (identity, expires_at) = match state.verifier.verify(&token).await {
        Ok(verified) => verified,
        Err(problem) => return Ok(form(jar, &headers, None, Some(&sentence(problem.detail())))),
    };
    if !session::spend_link(&state.database, &token, expires_at).await? {
        let notice = "This sign-in link was used already. Ask for a new one, or paste a token.";
        return Ok(form(jar, &headers, None, Some(notice)));
    }
    let jar = signed_in(&state, jar, &headers, &identity, expires_at).await?;
    Ok((jar, Redirect::to("/console")).into_response())
}

/// The fields of the sign-in form.
#[derive(Debug, Deserialize)]
pub(super) struct SignInForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    token: String,
    next: Option<String>,
}

/// Begins a session for the token's bearer.
pub(super) async fn sign_in(
    State(state): State<ApiState>,
    jar: CookieJar,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let sent: SignInForm = parse_form(&body)?;
    let expected = jar.get(FORM_COOKIE).map_or("", |cookie| cookie.value());
    if expected.is_empty() || !bool::from(sent.csrf.as_bytes().ct_eq(expected.as_bytes())) {
        let problem = Problem::forbidden(
            "the sign-in form is not from this browser, or its cookies are off; load /signin again",
        );
        return Err(problem.into());
    }
    let (identity, expires_at) = match state.verifier.verify(sent.token.trim()).await {
        Ok(verified) => verified,
        Err(problem) => {
            let notice = sentence(problem.detail());
            let page = form(jar, &headers, sent.next.as_deref(), Some(&notice));
            return Ok((problem.status(), page).into_response());
        }
    };
    let jar = signed_in(&state, jar, &headers, &identity, expires_at).await?;
    let jar = jar.remove(Cookie::build(FORM_COOKIE).path("/signin"));
    Ok((jar, Redirect::to(next(sent.next.as_deref()))).into_response())
}

/// Begins a session. The one that the browser had before ends with it.
async fn signed_in(
    state: &ApiState,
    jar: CookieJar,
    headers: &HeaderMap,
    identity: &Identity,
    expires_at: DateTime<Utc>,
) -> sqlx::Result<CookieJar> {
    if let Some(before) = jar.get(COOKIE) {
        session::end(&state.database, before.value()).await?;
    }
    let cookie = session::begin(&state.database, identity, expires_at).await?;
    Ok(jar.add(keep(cookie, is_loopback(headers))))
}

/// Ends the session.
pub(super) async fn sign_out(
    State(state): State<ApiState>,
    jar: CookieJar,
    Signed(..): Signed<IgnoredAny>,
) -> Result<Response, Failure> {
    if let Some(cookie) = jar.get(COOKIE) {
        session::end(&state.database, cookie.value()).await?;
    }
    let jar = jar.remove(Cookie::build(COOKIE).path("/"));
    Ok((jar, Redirect::to("/signin?signed_out=true")).into_response())
}

/// Only pages of the console are gone on to.
fn next(asked: Option<&str>) -> &str {
    asked
        .filter(|path| path.starts_with("/console/") && !path.contains(['\\', '\r', '\n']))
        .unwrap_or("/console")
}

fn form(jar: CookieJar, headers: &HeaderMap, to: Option<&str>, notice: Option<&str>) -> Response {
    let csrf = session::secret();
    let cookie = Cookie::build((FORM_COOKIE, csrf.clone()))
        .path("/signin")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(!is_loopback(headers));
    (jar.add(cookie), form_page(&csrf, next(to), notice)).into_response()
}

fn form_page(csrf: &str, next: &str, notice: Option<&str>) -> Markup {
    page::bare(
        "Sign in",
        &html! {
            h1 { "Sign in" }
            @if let Some(notice) = notice { p.notice role="status" { (notice) } }
            form.card method="post" action="/signin" {
                input type="hidden" name="csrf" value=(csrf);
                input type="hidden" name="next" value=(next);
                label for="token" { "Token" }
                input id="token" name="token" type="password" autocomplete="off" spellcheck="false" required
                    aria-describedby="token-hint";
                p.hint id="token-hint" {
                    "The token that WorkflowOps gave you. Developers make one with " code { "drift-retention token" } "."
                }
                div.buttons { button.primary type="submit" { "Sign in" } }
            }
        },
    )
}
