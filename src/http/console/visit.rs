//! What every request to the console goes through: the session behind its cookie, the CSRF token of its form, and
//! the headers that keep a page to itself.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, OriginalUri, Request, State},
    http::{HeaderValue, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};
use serde::{Deserialize, de::DeserializeOwned};
use subtle::ConstantTimeEq;

use super::{
    failure::Failure,
    session::{self, COOKIE, Visitor},
};
use crate::http::{ApiState, Problem, auth::KeyStanding, proxies::HttpsOnly};

/// Nothing but our own files, and no script or style inside a page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Finds out who asks, exchanges a cookie that is old, and sets the pages' headers.
pub(super) async fn around(
    State(state): State<ApiState>,
    jar: CookieJar,
    https_only: HttpsOnly,
    mut request: Request,
    next: Next,
) -> Response {
    let cookie = jar.get(COOKIE).map(|cookie| cookie.value().to_owned());
    let mut exchanged = None;
    if let Some(cookie) = &cookie {
        match visitor(&state, cookie).await {
            Ok(Found::Visitor(visitor, next)) => {
                let counted = state
                    .limits
                    .request(&visitor.identity, request.extensions());
                if let Err(problem) = counted.await {
                    return Failure::from(problem).into_response();
                }
                request.extensions_mut().insert(visitor);
                exchanged = next;
            }
            Ok(Found::KeyUnknown) => {
                request.extensions_mut().insert(KeyUnknown);
            }
            Ok(Found::Nobody) => {}
            Err(error) => return Failure::from(error).into_response(),
        }
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    );
    // A handler that sets the cookie itself (sign-in, sign-out) has the last word.
    match exchanged {
        Some(cookie) if !response.headers().contains_key(header::SET_COOKIE) => {
            (CookieJar::new().add(keep(cookie, https_only)), response).into_response()
        }
        _ => response,
    }
}

/// Whom a cookie is of.
enum Found {
    /// Somebody, and the cookie in place of an old one.
    Visitor(Visitor, Option<String>),
    /// Nobody who is signed in.
    Nobody,
    /// Somebody, if their key is one of a set that cannot be read now.
    KeyUnknown,
}

/// Stands with a request in place of its visitor: the session is neither believed nor ended.
#[derive(Clone, Copy)]
struct KeyUnknown;

async fn visitor(state: &ApiState, cookie: &str) -> sqlx::Result<Found> {
    let Some(session) = session::find(&state.database, cookie).await? else {
        return Ok(Found::Nobody);
    };
    match state.verifier.standing(&session.key, session.age).await {
        KeyStanding::Configured => {}
        KeyStanding::Unknown => return Ok(Found::KeyUnknown),
        KeyStanding::Gone => {
            session::end(&state.database, cookie).await?;
            tracing::info!(session = %session.id, "a session ended: its key is configured no longer");
            return Ok(Found::Nobody);
        }
    }
    // A database that takes no writes for a moment keeps nobody from reading.
    if session.was_idle
        && let Err(error) = session::note_use(&state.database, session.id).await
    {
        tracing::debug!(%error, "the use of a session is not noted");
    }
    let exchanged = if session.is_stale {
        session::rotate(&state.database, cookie).await?
    } else {
        None
    };
    Ok(Found::Visitor(session.visitor, exchanged))
}

/// The cookie of a session.
pub(super) fn keep(secret: String, HttpsOnly(https_only): HttpsOnly) -> Cookie<'static> {
    Cookie::build((COOKIE, secret))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(https_only)
        .build()
}

impl FromRequestParts<ApiState> for Visitor {
    type Rejection = Failure;

    /// Whoever is not signed in is led to the sign-in page, and from there to where they wanted to go.
    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Failure> {
        if let Some(visitor) = parts.extensions.get::<Self>() {
            return Ok(visitor.clone());
        }
        if parts.extensions.get::<KeyUnknown>().is_some() {
            let why = "the keys of the sign-in service cannot be read now; try again in a moment";
            return Err(Problem::busy(why).into());
        }
        if parts.headers.contains_key("hx-request") {
            return Err(Failure::SignInAgain);
        }
        if parts.method != Method::GET {
            let why = "your session has ended; sign in, then do it again";
            return Err(Problem::unauthorized(why).into());
        }
        // The routes are nested: what they call their path lacks its beginning.
        let uri = parts.extensions.get::<OriginalUri>();
        let uri = uri.map_or(&parts.uri, |OriginalUri(uri)| uri);
        let wanted = uri.path_and_query().map_or("", |path| path.as_str());
        Err(Failure::SignInFirst(wanted.to_owned()))
    }
}

/// A form sent by a page of this visitor's own: it carries the token that the page was given.
#[derive(Debug)]
pub(super) struct Signed<T>(pub Visitor, pub T);

#[derive(Deserialize)]
struct Csrf {
    #[serde(default)]
    csrf: String,
}

impl<T: DeserializeOwned> FromRequest<ApiState> for Signed<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Failure> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, state).await?;
        let body = Bytes::from_request(Request::from_parts(parts, body), state)
            .await
            .map_err(Problem::from)?;
        let sent: Csrf = parse_form(&body)?;
        if !bool::from(sent.csrf.as_bytes().ct_eq(visitor.csrf.as_bytes())) {
            let problem = Problem::forbidden(
                "the form does not come from a page of your session; reload the page, then send it again",
            );
            return Err(problem.into());
        }
        Ok(Self(visitor, parse_form(&body)?))
    }
}

/// Reads a form's fields.
pub(super) fn parse_form<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_html_form::from_bytes(body)
        .map_err(|error| Problem::bad_request(format!("the form cannot be read: {error}")))
}

/// A page's query; what a form left empty is absent.
#[derive(Debug)]
pub(super) struct PageQuery<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for PageQuery<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Failure> {
        let query = parts.uri.query().unwrap_or_default();
        let filled: Vec<&str> = query
            .split('&')
            .filter(|pair| !pair.ends_with('='))
            .collect();
        Ok(Self(parse_form(filled.join("&").as_bytes())?))
    }
}

/// A path's ids.
#[derive(Debug)]
pub(super) struct PagePath<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<ApiState> for PagePath<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Failure> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(ids)) => Ok(Self(ids)),
            Err(_) => Err(Problem::not_found().into()),
        }
    }
}
