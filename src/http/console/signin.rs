//! Sign-in with a token, by form or once by link; and sign-out.
//!
//! Opening a link changes nothing, because mail scanners and link previews open it too. Its page has one button, which
//! uses the link.

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};
use maud::{Markup, html};
use serde::{Deserialize, de::IgnoredAny};
use subtle::ConstantTimeEq;

use super::{
    failure::{Failure, sentence},
    page,
    session::{self, COOKIE},
    visit::{PageQuery, Signed, parse_form, session_cookie},
};
use crate::http::{
    ApiState, Identity, Problem,
    auth::Token,
    claims::{LINK_LIFETIME, Purpose},
    proxies::{ClientAddress, HttpsOnly},
};

/// The cookie that binds the sign-in form to its browser, because there is no session yet.
const FORM_COOKIE: &str = "drift_retention_signin";

/// The query of the sign-in page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SignInQuery {
    /// The token of a sign-in link.
    token: Option<String>,
    /// The page to open after the sign-in.
    next: Option<String>,
    signed_out: bool,
}

/// Shows the sign-in form, or the button of a sign-in link.
pub(super) async fn show(
    State(state): State<ApiState>,
    jar: CookieJar,
    https_only: HttpsOnly,
    ClientAddress(address): ClientAddress,
    PageQuery(query): PageQuery<SignInQuery>,
) -> Response {
    let Some(token) = query.token else {
        let notice = query.signed_out.then_some("You are signed out.");
        return form(jar, https_only, query.next.as_deref(), notice);
    };
    if let Err(problem) = state.limits.admit_sign_in(address) {
        return Failure::from(problem).into_response();
    }
    match state.verifier.verify(&token, Purpose::ConsoleLink).await {
        Ok(of_link) => with_form_cookie(jar, https_only, |csrf| {
            link_page(csrf, &token, &of_link.identity)
        }),
        Err(problem) => {
            let why = problem.detail();
            let notice = format!(
                "This sign-in link cannot be used: {why}. Ask for a new one, or paste a token."
            );
            form(jar, https_only, None, Some(&notice))
        }
    }
}

/// The fields of the sign-in form, and of a link's page.
#[derive(Debug, Deserialize)]
pub(super) struct SignInForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    token: String,
    next: Option<String>,
    /// Whether the token belongs to a link and so works only once.
    #[serde(default)]
    link: bool,
}

/// Begins a session for the token's bearer.
pub(super) async fn sign_in(
    State(state): State<ApiState>,
    jar: CookieJar,
    https_only: HttpsOnly,
    ClientAddress(address): ClientAddress,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    state.limits.admit_sign_in(address)?;
    let sent: SignInForm = parse_form(&body.map_err(Problem::from)?)?;
    let expected = jar.get(FORM_COOKIE).map_or("", |cookie| cookie.value());
    if expected.is_empty() || !bool::from(sent.csrf.as_bytes().ct_eq(expected.as_bytes())) {
        let problem = Problem::forbidden(
            "the sign-in form was sent to another browser, or cookies are off; reload the page",
        );
        return Err(problem.into());
    }
    let text = sent.token.trim();
    let purpose = if sent.link {
        Purpose::ConsoleLink
    } else {
        Purpose::Api
    };
    let again = |jar, status, notice: &str| {
        let page = form(jar, https_only, sent.next.as_deref(), Some(notice));
        Ok((status, page).into_response())
    };
    let token = match state.verifier.verify(text, purpose).await {
        Ok(token) => token,
        Err(problem) => return again(jar, problem.status(), &sentence(problem.detail())),
    };
    if sent.link && !session::spend_link(&state.database, text, &token).await? {
        let notice = "This sign-in link was used already. Ask for a new one, or paste a token.";
        return again(jar, StatusCode::CONFLICT, notice);
    }
    let jar = signed_in(&state, jar, https_only, &token).await?;
    let jar = jar.remove(Cookie::build(FORM_COOKIE).path("/signin"));
    Ok((jar, Redirect::to(next(sent.next.as_deref()))).into_response())
}

/// Begins a session and ends the browser's previous one.
async fn signed_in(
    state: &ApiState,
    jar: CookieJar,
    https_only: HttpsOnly,
    token: &Token,
) -> sqlx::Result<CookieJar> {
    if let Some(before) = jar.get(COOKIE) {
        session::end(&state.database, before.value()).await?;
    }
    let cookie = session::begin(&state.database, token).await?;
    Ok(jar.add(session_cookie(cookie, https_only)))
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

/// The page to open after the sign-in: only pages of the console. Browsers send their addresses as visible ASCII.
fn next(asked: Option<&str>) -> &str {
    let is_address = |path: &str| {
        path.bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    asked
        .filter(|path| path.starts_with("/console/") && is_address(path))
        .unwrap_or("/console")
}

fn form(jar: CookieJar, https_only: HttpsOnly, to: Option<&str>, notice: Option<&str>) -> Response {
    with_form_cookie(jar, https_only, |csrf| form_page(csrf, next(to), notice))
}

/// A page with a form that only this browser can send.
fn with_form_cookie(
    jar: CookieJar,
    HttpsOnly(https_only): HttpsOnly,
    page: impl FnOnce(&str) -> Markup,
) -> Response {
    let csrf = session::secret();
    let page = page(&csrf);
    let cookie = Cookie::build((FORM_COOKIE, csrf))
        .path("/signin")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(https_only);
    (jar.add(cookie), page).into_response()
}

fn link_page(csrf: &str, token: &str, identity: &Identity) -> Markup {
    page::bare(
        "Sign in",
        &html! {
            h1 { "Sign in" }
            form.card method="post" action="/signin" {
                input type="hidden" name="csrf" value=(csrf);
                input type="hidden" name="token" value=(token);
                input type="hidden" name="link" value="true";
                p { "This link signs you in as " strong { (identity.subject) } ", " (identity.role.name()) ". It works once, within " (LINK_LIFETIME.as_secs() / 60) " minutes." }
                div.buttons { button.primary type="submit" { "Sign in" } }
            }
        },
    )
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
